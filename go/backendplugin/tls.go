package backendplugin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificates are the TLS files. They are read again when they change, so that a rotated certificate is used without a restart.
type certificates struct {
	cert, key, clientCA string
	log                 *slog.Logger

	mu      sync.Mutex
	changed []time.Time
	config  *tls.Config
}

func (c *certificates) files() []string {
	files := []string{c.cert, c.key}
	if c.clientCA != "" {
		files = append(files, c.clientCA)
	}
	return files
}

// load reads the files.
func (c *certificates) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("the service's certificate: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if c.clientCA == "" {
		return config, nil
	}
	raw, err := os.ReadFile(c.clientCA)
	if err != nil {
		return nil, fmt.Errorf("the CA of client certificates: %w", err)
	}
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("the CA of client certificates: %s holds no certificate in PEM", c.clientCA)
	}
	return config, nil
}

// current gives the configuration for a connection. Files that cannot be read now leave the last good ones in use.
func (c *certificates) current() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var changed []time.Time
	for _, f := range c.files() {
		info, err := os.Stat(f)
		if err != nil && c.config == nil {
			return nil, err
		}
		if err != nil {
			return c.config, nil // what is being replaced is there again at the next connection
		}
		changed = append(changed, info.ModTime())
	}
	if c.config != nil && equalTimes(changed, c.changed) {
		return c.config, nil
	}
	config, err := c.load()
	if err != nil && c.config == nil {
		return nil, err
	}
	if err != nil {
		c.log.Warn("the TLS files changed and cannot be used; the ones before stay in use", "error", err)
		return c.config, nil
	}
	c.config, c.changed = config, changed
	return config, nil
}

func equalTimes(a, b []time.Time) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

// serverConfig asks for the current files at every connection.
func (c *certificates) serverConfig() (*tls.Config, error) {
	if c.cert == "" || c.key == "" {
		return nil, errors.New("WithTLS takes the files of a certificate and of its key")
	}
	if _, err := c.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current() },
	}, nil
}

// Package tlsfiles makes TLS configurations from the files that a deployment names, for every transport alike.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// Config reads the files and gives what a client's handshake needs. It reads them anew on every call, so a caller that
// calls it for each handshake uses renewed files without a restart. The client certificate is read once more when a server
// asks for it, for callers that cannot do so.
func Config(t config.TLS) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("caFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("caFile %s: no PEM certificate in it", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("certFile and keyFile go together")
	}
	if t.CertFile != "" {
		if _, err := certificate(t); err != nil {
			return nil, err
		}
		// Not Certificates: crypto/tls would hold one back that no CA named by the service signed, and the service would
		// then say that none came.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(t) }
	}
	return cfg, nil
}

func certificate(t config.TLS) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("certFile %s, keyFile %s: %w", t.CertFile, t.KeyFile, err)
	}
	return &cert, nil
}

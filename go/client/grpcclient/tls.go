package grpcclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"

	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// fileCredentials reads the CA and the client certificate at every handshake, so that renewed ones are used without a
// restart. A file that cannot be read at that moment fails the one handshake; grpc dials again.
type fileCredentials struct {
	// TransportCredentials are those of the files as Dial found them; they answer everything but handshakes.
	credentials.TransportCredentials
	files config.TLS
}

// tlsCredentials reads the files once, so that a wrong one is told at once.
func tlsCredentials(t config.TLS) (credentials.TransportCredentials, error) {
	cfg, err := tlsConfig(t)
	if err != nil {
		return nil, err
	}
	return &fileCredentials{TransportCredentials: credentials.NewTLS(cfg), files: t}, nil
}

func (c *fileCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := tlsConfig(c.files)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
}

func (c *fileCredentials) Clone() credentials.TransportCredentials {
	return &fileCredentials{TransportCredentials: c.TransportCredentials.Clone(), files: c.files}
}

func tlsConfig(t config.TLS) (*tls.Config, error) {
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
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certFile %s, keyFile %s: %w", t.CertFile, t.KeyFile, err)
		}
		// Not Certificates: crypto/tls would hold one back that no CA named by the service signed, and the service would
		// then say that none came.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return cfg, nil
}

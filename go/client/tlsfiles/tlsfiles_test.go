package tlsfiles_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest/pki"
	"github.com/flyte-backend/flyte-backend/go/client/tlsfiles"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

func TestWrongFiles(t *testing.T) {
	t.Parallel()
	ca := pki.New(t)
	a, b := ca.Issue("a", pki.InAnHour(), "a"), ca.Issue("b", pki.InAnHour(), "b")
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	require.NoError(t, os.WriteFile(garbage, []byte("no PEM"), 0o600))
	missing := filepath.Join(t.TempDir(), "missing.pem")
	tests := []struct {
		reason string
		tls    config.TLS
		want   []string
	}{
		{"a CA file that is not there", config.TLS{CAFile: missing}, []string{"caFile", missing, "no such file"}},
		{"a CA file that is a directory", config.TLS{CAFile: t.TempDir()}, []string{"caFile", "is a directory"}},
		{"a CA file without a certificate", config.TLS{CAFile: garbage}, []string{"caFile " + garbage, "no PEM certificate"}},
		{"a certificate without its key", config.TLS{CertFile: a.CertFile}, []string{"certFile and keyFile go together"}},
		{"a key without its certificate", config.TLS{KeyFile: a.KeyFile}, []string{"certFile and keyFile go together"}},
		{"a certificate with another's key", config.TLS{CertFile: a.CertFile, KeyFile: b.KeyFile}, []string{a.CertFile, b.KeyFile, "does not match"}},
		{"a certificate that is not there", config.TLS{CertFile: missing, KeyFile: a.KeyFile}, []string{missing, "no such file"}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			cfg, err := tlsfiles.Config(tt.tls)
			assert.Nil(t, cfg)
			require.Error(t, err)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	ca := pki.New(t)
	own := ca.Issue("own", pki.InAnHour(), "own")
	cfg, err := tlsfiles.Config(config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile, ServerName: "service.example"})
	require.NoError(t, err)
	assert.Equal(t, "service.example", cfg.ServerName)
	assert.True(t, ca.Pool.Equal(cfg.RootCAs), "no other CA is trusted")
	assert.EqualValues(t, tls.VersionTLS12, cfg.MinVersion)
	shown := func() []byte {
		cert, err := cfg.GetClientCertificate(nil)
		require.NoError(t, err)
		return cert.Certificate[0]
	}
	assert.Equal(t, own.Certificate.Certificate[0], shown())
	renewed := ca.Issue("own", pki.InAnHour(), "own")
	assert.Equal(t, renewed.Certificate.Certificate[0], shown(), "it is read when it is asked for")
	require.NoError(t, os.Remove(own.KeyFile))
	_, err = cfg.GetClientCertificate(nil)
	assert.ErrorContains(t, err, own.KeyFile)

	cfg, err = tlsfiles.Config(config.TLS{})
	require.NoError(t, err)
	assert.Nil(t, cfg.RootCAs, "the system's")
	assert.Nil(t, cfg.GetClientCertificate)
}

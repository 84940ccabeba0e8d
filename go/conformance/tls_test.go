package conformance_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/conformance"
)

// certificate makes one that is its own authority, for 127.0.0.1 and for clients, and writes it and its key into files.
func certificate(t *testing.T) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"conformance.example"},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	pair, err = tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	return pair, certFile, keyFile
}

// TestTLS: a service that asks for client certificates is checked all the same, bytes that no library would send included; who
// does not trust it does not reach it.
func TestTLS(t *testing.T) {
	t.Parallel()
	pair, certFile, keyFile := certificate(t)
	raw, err := os.ReadFile(certFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(raw))
	for _, protocol := range protocols {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			f := &faulty{protocol: protocol, store: newStore(), tls: &tls.Config{
				Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2", "http/1.1"},
				MinVersion: tls.VersionTLS12,
			}}
			require.NoError(t, f.start())
			t.Cleanup(func() {
				f.die()
				f.stop()
			})
			o := options(f, f)
			o.Insecure, o.CAFile, o.CertFile, o.KeyFile = false, certFile, certFile, keyFile
			report, err := conformance.Check(t.Context(), o, nil)
			require.NoError(t, err)
			require.Empty(t, failed(&report), "%s", texts(&report))
			require.True(t, report.Conforms())

			o.ServerName = "conformance.example"
			_, err = conformance.Check(t.Context(), o, nil)
			require.NoError(t, err)

			o.CAFile, o.RecoverTimeout = "", time.Second
			_, err = conformance.Check(t.Context(), o, nil)
			require.ErrorIs(t, err, conformance.ErrNoService)
			require.ErrorContains(t, err, "certificate")
		})
	}
}

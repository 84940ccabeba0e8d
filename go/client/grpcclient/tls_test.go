package grpcclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/backendtest/pki"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// serverTLS shows cert and, with clients, demands a certificate that clients signed.
func serverTLS(cert pki.Leaf, clients *x509.CertPool) grpc.ServerOption {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert.Certificate}}
	if clients != nil {
		cfg.ClientCAs, cfg.ClientAuth = clients, tls.RequireAndVerifyClientCert
	}
	return grpc.Creds(credentials.NewTLS(cfg))
}

// lists gives a service whose List succeeds.
func lists() *fake {
	return &fake{list: func(context.Context) (*admin.ListAgentsResponse, error) { return &admin.ListAgentsResponse{}, nil }}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := pki.New(t)
	local := ca.Issue("local", pki.InAnHour(), "127.0.0.1")
	named := ca.Issue("named", pki.InAnHour(), "backend.example")
	own := ca.Issue("propeller", pki.InAnHour(), "propeller")
	tests := []struct {
		reason string
		server grpc.ServerOption
		tls    config.TLS
	}{
		{"a CA of one's own", serverTLS(local, nil), config.TLS{CAFile: ca.File}},
		{"a name other than the address", serverTLS(named, nil), config.TLS{CAFile: ca.File, ServerName: "backend.example"}},
		{"a client certificate", serverTLS(local, ca.Pool), config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile}},
		{"a client certificate that nobody asks for", serverTLS(local, nil), config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, lists(), tt.server)
			_, err := connect(t, &config.Deployment{Endpoint: address, TLS: tt.tls}).List(within(t))
			require.NoError(t, err)
		})
	}
}

func TestDialRefuses(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.pem")
	c, err := Dial("big", &config.Deployment{Endpoint: "127.0.0.1:1", TLS: config.TLS{CAFile: missing}})
	assert.Nil(t, c)
	require.ErrorContains(t, err, "plugins.backend.deployments.big.tls: caFile: open "+missing)
	_, err = Dial("big", &config.Deployment{Endpoint: "127.0.0.1:1", TLS: config.TLS{CAFile: missing}, Insecure: true})
	require.NoError(t, err, "plain text reads no files")
	_, err = Dial("big", &config.Deployment{Endpoint: "dns://%zz", Insecure: true})
	assert.ErrorContains(t, err, `plugins.backend.deployments.big.endpoint "dns://%zz"`)
}

// Certificates live for hours and propeller for months.
func TestRenewedFilesAreUsed(t *testing.T) {
	t.Parallel()
	ca, next := pki.New(t), pki.New(t)
	var mu sync.Mutex
	var shown string // serial number of the client certificate of the latest call
	look := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		p, _ := peer.FromContext(ctx)
		mu.Lock()
		shown = p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].SerialNumber.String()
		mu.Unlock()
		return handler(ctx, req)
	}
	own := ca.Issue("propeller", pki.InAnHour(), "propeller")
	b := backendtest.New()
	b.ServerOptions = []grpc.ServerOption{serverTLS(ca.Issue("server", pki.InAnHour(), "127.0.0.1"), ca.Pool), grpc.UnaryInterceptor(look)}
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	c := connect(t, &config.Deployment{Endpoint: b.Endpoint(), TLS: config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile}})
	list := func() error { _, err := c.List(within(t)); return err }
	wasShown := func(l pki.Leaf) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, l.Leaf.SerialNumber.String(), shown)
	}
	require.NoError(t, list())
	wasShown(own)

	renewed := ca.Issue("propeller", pki.InAnHour(), "propeller")
	require.NoError(t, list())
	wasShown(own) // a connection keeps what it began with
	b.Kill()
	require.NoError(t, b.Start())
	until(t, func() bool { return list() == nil })
	wasShown(renewed)

	// The CA changes on both sides; the old one is not trusted any more.
	b.Kill()
	b.ServerOptions[0] = serverTLS(next.Issue("server", pki.InAnHour(), "127.0.0.1"), ca.Pool)
	require.NoError(t, b.Start())
	until(t, func() bool { return strings.Contains(failure(t, list()).Advice, "tls.caFile") })
	ca.Replace(next)
	until(t, func() bool { return list() == nil })

	// A file that is gone fails new connections and says which one it is.
	require.NoError(t, os.Remove(own.KeyFile))
	b.Kill()
	require.NoError(t, b.Start())
	var e *client.Error
	until(t, func() bool { e = failure(t, list()); return strings.Contains(e.Message, own.KeyFile) })
	assert.False(t, e.FromService)
	assert.Equal(t, client.RetryLater, e.Class)
}

package grpcclient

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/backendtest/pki"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// serveHTTP runs a web server, which is what one mostly finds at a wrong address.
func serveHTTP(t *testing.T, status int, cert *pki.Leaf, protocols *http.Protocols) string {
	t.Helper()
	lis := listen(t)
	s := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }),
		ReadHeaderTimeout: limit, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0),
	}
	t.Cleanup(func() { _ = s.Close() })
	if cert == nil {
		go func() { _ = s.Serve(lis) }()
		return lis.Addr().String()
	}
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert.Certificate}}
	go func() { _ = s.ServeTLS(lis, "", "") }()
	return lis.Addr().String()
}

// nameServer answers every question with a DNS error code; it knows no names.
func nameServer(t *testing.T, rcode byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			buf[2] |= 0x80               // a response
			buf[3] = buf[3]&0xf0 | rcode // to the same question
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}()
	return conn.LocalAddr().String()
}

func TestAdviceForWrongSetUps(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t), pki.New(t)
	local := ca.Issue("local", pki.InAnHour(), "127.0.0.1")
	named := ca.Issue("named", pki.InAnHour(), "backend.example")
	expired := ca.Issue("expired", time.Now().Add(-time.Hour), "127.0.0.1")
	foreign := other.Issue("propeller", pki.InAnHour(), "propeller")
	lapsed := ca.Issue("lapsed", time.Now().Add(-time.Hour), "propeller")
	http2Only, http1Only := new(http.Protocols), new(http.Protocols)
	http2Only.SetUnencryptedHTTP2(true)
	http1Only.SetHTTP1(true)

	grpcAt := func(t *testing.T, opts ...grpc.ServerOption) string {
		_, address := serve(t, lists(), opts...)
		return address
	}
	unused := func(t *testing.T) string {
		lis := listen(t)
		require.NoError(t, lis.Close())
		return lis.Addr().String()
	}
	const plain = "set insecure: true"
	const notGRPC = "is not a gRPC service"
	tests := []struct {
		reason string
		// at gives the endpoint.
		at       func(t *testing.T) string
		insecure bool
		tls      config.TLS
		advice   string
		service  bool
	}{
		{reason: "TLS to a plain-text service", at: func(t *testing.T) string { return grpcAt(t) }, advice: plain},
		{reason: "plain text to a TLS service", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, nil)) }, insecure: true, advice: "set insecure: false"},
		{reason: "an unknown CA", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, nil)) }, tls: config.TLS{CAFile: other.File}, advice: "set tls.caFile"},
		{reason: "the system's CAs only", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, nil)) }, advice: "set tls.caFile"},
		{reason: "a certificate for another name", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, nil)) },
			tls: config.TLS{CAFile: ca.File, ServerName: "wrong.example"}, advice: "set tls.serverName"},
		{reason: "a certificate without the address", at: func(t *testing.T) string { return grpcAt(t, serverTLS(named, nil)) },
			tls: config.TLS{CAFile: ca.File}, advice: "set tls.serverName"},
		{reason: "an expired certificate", at: func(t *testing.T) string { return grpcAt(t, serverTLS(expired, nil)) },
			tls: config.TLS{CAFile: ca.File}, advice: "certificate has to be renewed"},
		{reason: "no client certificate", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, ca.Pool)) },
			tls: config.TLS{CAFile: ca.File}, advice: "set tls.certFile and tls.keyFile"},
		{reason: "a client certificate of another CA", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, ca.Pool)) },
			tls: config.TLS{CAFile: ca.File, CertFile: foreign.CertFile, KeyFile: foreign.KeyFile}, advice: "does not accept the client certificate"},
		{reason: "an expired client certificate", at: func(t *testing.T) string { return grpcAt(t, serverTLS(local, ca.Pool)) },
			tls: config.TLS{CAFile: ca.File, CertFile: lapsed.CertFile, KeyFile: lapsed.KeyFile}, advice: "does not accept the client certificate"},
		{reason: "a web server", at: func(t *testing.T) string { return serveHTTP(t, 404, nil, nil) }, insecure: true, advice: "it is not a gRPC endpoint"},
		{reason: "a web server, asked in TLS", at: func(t *testing.T) string { return serveHTTP(t, 404, nil, nil) }, advice: plain},
		{reason: "a web server of HTTP/2", at: func(t *testing.T) string { return serveHTTP(t, 404, nil, http2Only) }, insecure: true, advice: notGRPC},
		{reason: "one that refuses", at: func(t *testing.T) string { return serveHTTP(t, 403, nil, http2Only) }, insecure: true, advice: notGRPC},
		{reason: "one that takes anything", at: func(t *testing.T) string { return serveHTTP(t, 200, nil, http2Only) }, insecure: true, advice: notGRPC},
		{reason: "a web server with TLS", at: func(t *testing.T) string { return serveHTTP(t, 404, &local, nil) }, tls: config.TLS{CAFile: ca.File}, advice: notGRPC},
		{reason: "a web server with TLS and without HTTP/2", at: func(t *testing.T) string { return serveHTTP(t, 404, &local, http1Only) },
			tls: config.TLS{CAFile: ca.File}, advice: notGRPC},
		{reason: "another gRPC service", at: func(t *testing.T) string { return start(t, grpc.NewServer()) }, insecure: true,
			advice: "is it a backend plugin service?", service: true},
		{reason: "nothing", at: unused, insecure: true, advice: "nothing listens"},
		{reason: "no such socket", at: func(t *testing.T) string { return "unix://" + filepath.Join(t.TempDir(), "none.sock") }, insecure: true, advice: "nothing listens"},
		{reason: "nothing, asked in TLS", at: unused, advice: "nothing listens"},
		{reason: "a host that does not exist", at: func(t *testing.T) string { return "dns://" + nameServer(t, 3) + "/nowhere.invalid:8000" }, insecure: true, advice: "does not resolve"},
		{reason: "a name server that fails", at: func(t *testing.T) string { return "dns://" + nameServer(t, 2) + "/nowhere.invalid:8000" }, insecure: true, advice: "does not resolve"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			endpoint := tt.at(t)
			c := connect(t, &config.Deployment{Endpoint: endpoint, Insecure: tt.insecure, TLS: tt.tls})
			ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
			t.Cleanup(cancel)
			calls := map[string]func(context.Context) error{
				"list":    func(ctx context.Context) error { _, err := c.List(ctx); return err },
				"create":  func(ctx context.Context) error { _, err := c.Create(ctx, request()); return err },
				"execute": func(ctx context.Context) error { _, err := c.Execute(ctx, request()); return err },
			}
			if !tt.service {
				// One that serves lists has nothing wrong with them.
				require.Error(t, calls["list"](ctx))
			}
			for op, call := range calls {
				// A server that turns a connection down may close it before its reason is read; grpc then dials again.
				var e *client.Error
				until(t, func() bool {
					e = failure(t, call(ctx))
					return e.Advice != ""
				}, op)
				assert.Contains(t, e.Advice, tt.advice, e)
				assert.Contains(t, e.Error(), endpoint)
				assert.Equal(t, tt.service, e.FromService, e)
				assert.Equal(t, client.RetryLater, e.Class, "an operator can repair it while the task waits: %v", e)
			}
		})
	}
}

// A wrong network policy does not refuse connections, it swallows them.
func TestAdviceForSilence(t *testing.T) {
	t.Parallel()
	silent := listen(t) // the kernel accepts, and nobody ever answers
	for _, insecure := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := connect(t, &config.Deployment{Endpoint: silent.Addr().String(), Insecure: insecure}).List(ctx)
		cancel()
		e := failure(t, err)
		assert.Equal(t, codes.DeadlineExceeded, e.Code)
		assert.Contains(t, e.Advice, "network policy")
		assert.Equal(t, client.RetryLater, e.Class)
		assert.False(t, e.FromService)
	}
}

// A proxy is a process's own: the environment is read once, so this test runs itself in another one.
func TestAdviceForAProxyThatRefuses(t *testing.T) {
	t.Parallel()
	const endpoint = "backend.invalid:8000"
	if os.Getenv("BEHIND_A_PROXY") == "" {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		again.Env = append(os.Environ(), "HTTPS_PROXY=http://"+serveHTTP(t, 407, nil, nil), "NO_PROXY=", "BEHIND_A_PROXY=1")
		out, err := again.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS: "+t.Name())
		return
	}
	c := connect(t, &config.Deployment{Endpoint: endpoint, Insecure: true})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := c.List(ctx)
	e := failure(t, err)
	assert.Contains(t, e.Advice, "NO_PROXY", e)
	assert.Contains(t, e.Message, "407")
	assert.Equal(t, client.RetryLater, e.Class)
	assert.False(t, e.FromService)
}

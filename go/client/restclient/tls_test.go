package restclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/flyte-backend/flyte-backend/go/backendtest/pki"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

const noPlugins = `{"plugins": []}`

// showing gives a server's TLS with cert; with clients, it demands a certificate that clients signed.
func showing(cert pki.Leaf, clients *x509.CertPool) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert.Certificate}}
	if clients != nil {
		cfg.ClientCAs, cfg.ClientAuth = clients, tls.RequireAndVerifyClientCert
	}
	return cfg
}

func only(set func(*http.Protocols, bool)) *http.Protocols {
	p := new(http.Protocols)
	set(p, true)
	return p
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := pki.New(t)
	local := ca.Issue("local", pki.InAnHour(), "127.0.0.1")
	named := ca.Issue("named", pki.InAnHour(), "backend.example")
	own := ca.Issue("propeller", pki.InAnHour(), "propeller")
	tests := []struct {
		reason    string
		server    *tls.Config
		protocols *http.Protocols
		tls       config.TLS
		proto     string
	}{
		{"a CA of one's own", showing(local, nil), nil, config.TLS{CAFile: ca.File}, "HTTP/2.0"},
		{"a server without HTTP/2", showing(local, nil), only((*http.Protocols).SetHTTP1), config.TLS{CAFile: ca.File}, "HTTP/1.1"},
		{"a name other than the address", showing(named, nil), nil, config.TLS{CAFile: ca.File, ServerName: "backend.example"}, "HTTP/2.0"},
		{"a client certificate", showing(local, ca.Pool), nil, config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile}, "HTTP/2.0"},
		{"a client certificate that nobody asks for", showing(local, nil), nil, config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile}, "HTTP/2.0"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			s, url := serve(t, answering(200, jsonType, noPlugins), tt.server, tt.protocols)
			c := connect(t, &config.Deployment{Endpoint: url, TLS: tt.tls})
			for range 3 {
				_, err := c.List(within(t))
				require.NoError(t, err)
			}
			assert.Equal(t, tt.proto, s.last(t).proto)
			assert.Equal(t, 1, s.conns)
		})
	}
}

func TestDialRefuses(t *testing.T) {
	t.Parallel()
	ca := pki.New(t)
	cert := ca.Issue("a", pki.InAnHour(), "a")
	tests := []struct {
		reason string
		d      config.Deployment
		want   string
	}{
		{"a CA file that is not there", config.Deployment{Endpoint: "https://h", TLS: config.TLS{CAFile: "missing.pem"}}, "plugins.backend.deployments.big.tls: caFile"},
		{"a certificate without its key", config.Deployment{Endpoint: "https://h", TLS: config.TLS{CertFile: cert.CertFile}}, "certFile and keyFile go together"},
		{"no URL", config.Deployment{Endpoint: "h:1", Insecure: true}, "plugins.backend.deployments.big.endpoint: a URL such as https://host:port is due"},
		{"a URL that is none, without what is in it", config.Deployment{Endpoint: "http://me:s3cr3t@%zz", Insecure: true}, "endpoint: a URL"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			c, err := Dial("big", &tt.d)
			assert.Nil(t, c)
			require.ErrorContains(t, err, tt.want)
			assert.NotContains(t, err.Error(), "s3cr3t")
		})
	}
	c, err := Dial("big", &config.Deployment{Endpoint: "http://h", Insecure: true, TLS: config.TLS{CAFile: "missing.pem"}})
	require.NoError(t, err, "plain text reads no files")
	require.NoError(t, c.Close())
}

// Certificates live for hours and propeller for months.
func TestRenewedFilesAreUsed(t *testing.T) {
	t.Parallel()
	ca, next := pki.New(t), pki.New(t)
	own := ca.Issue("propeller", pki.InAnHour(), "propeller")
	var shown string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = r.TLS.PeerCertificates[0].SerialNumber.String()
		answering(200, jsonType, noPlugins).ServeHTTP(w, r)
	})
	lis := listen(t)
	run := func(lis net.Listener, cert pki.Leaf) *http.Server {
		server := &http.Server{Handler: handler, TLSConfig: showing(cert, ca.Pool), ReadHeaderTimeout: limit}
		go func() { _ = server.ServeTLS(lis, "", "") }()
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	server := run(lis, ca.Issue("server", pki.InAnHour(), "127.0.0.1"))
	restart := func(cert pki.Leaf) {
		t.Helper()
		require.NoError(t, server.Close())
		again, err := net.Listen("tcp", lis.Addr().String())
		require.NoError(t, err)
		server = run(again, cert)
	}
	c := connect(t, &config.Deployment{Endpoint: "https://" + lis.Addr().String(), TLS: config.TLS{CAFile: ca.File, CertFile: own.CertFile, KeyFile: own.KeyFile}})
	list := func() error { _, err := c.List(within(t)); return err }
	require.NoError(t, list())
	assert.Equal(t, own.Leaf.SerialNumber.String(), shown)

	renewed := ca.Issue("propeller", pki.InAnHour(), "propeller")
	require.NoError(t, list())
	assert.Equal(t, own.Leaf.SerialNumber.String(), shown, "a connection keeps what it began with")
	restart(ca.Issue("server", pki.InAnHour(), "127.0.0.1"))
	until(t, func() bool { return list() == nil })
	assert.Equal(t, renewed.Leaf.SerialNumber.String(), shown)

	// The CA changes on both sides; the old one is not trusted any more.
	restart(next.Issue("server", pki.InAnHour(), "127.0.0.1"))
	until(t, func() bool { return strings.Contains(failed(t, list()).Advice, "tls.caFile") })
	ca.Replace(next)
	until(t, func() bool { return list() == nil })

	// A file that is gone fails new connections and says which one it is.
	require.NoError(t, os.Remove(own.KeyFile))
	restart(next.Issue("server", pki.InAnHour(), "127.0.0.1"))
	var e *client.Error
	until(t, func() bool { e = failed(t, list()); return strings.Contains(e.Message, own.KeyFile) })
	assert.False(t, e.FromService)
	assert.Equal(t, client.RetryLater, e.Class)
}

func TestAdviceForWrongSetUps(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t), pki.New(t)
	local := ca.Issue("local", pki.InAnHour(), "127.0.0.1")
	named := ca.Issue("named", pki.InAnHour(), "backend.example")
	expired := ca.Issue("expired", time.Now().Add(-time.Hour), "127.0.0.1")
	foreign := other.Issue("propeller", pki.InAnHour(), "propeller")
	lapsed := ca.Issue("lapsed", time.Now().Add(-time.Hour), "propeller")

	rest := func(t *testing.T, cfg *tls.Config) string {
		t.Helper()
		_, url := serve(t, answering(200, jsonType, noPlugins), cfg, nil)
		return strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://")
	}
	grpcAt := func(t *testing.T, opts ...grpc.ServerOption) string {
		t.Helper()
		s, lis := grpc.NewServer(opts...), listen(t)
		go func() { _ = s.Serve(lis) }()
		t.Cleanup(s.Stop)
		return lis.Addr().String()
	}
	unused := func(t *testing.T) string {
		t.Helper()
		lis := listen(t)
		require.NoError(t, lis.Close())
		return lis.Addr().String()
	}
	web := func(t *testing.T) string {
		t.Helper()
		_, url := serve(t, answering(404, "text/html", "<html>"), nil, nil)
		return strings.TrimPrefix(url, "http://")
	}
	silent := func(t *testing.T) string {
		t.Helper()
		return listen(t).Addr().String() // the kernel accepts, and nobody ever answers
	}
	const plain, secure, isGRPC = "insecure: true", "insecure: false", "set protocol: grpc"
	tests := []struct {
		reason   string
		at       func(t *testing.T) string
		insecure bool
		tls      config.TLS
		advice   string
		slow     bool
	}{
		{reason: "TLS to a plain-text service", at: func(t *testing.T) string { return rest(t, nil) }, advice: plain},
		{reason: "plain text to a TLS service", at: func(t *testing.T) string { return rest(t, showing(local, nil)) }, insecure: true, advice: secure},
		{reason: "an unknown CA", at: func(t *testing.T) string { return rest(t, showing(local, nil)) }, tls: config.TLS{CAFile: other.File}, advice: "set tls.caFile"},
		{reason: "the system's CAs only", at: func(t *testing.T) string { return rest(t, showing(local, nil)) }, advice: "set tls.caFile"},
		{reason: "a certificate for another name", at: func(t *testing.T) string { return rest(t, showing(local, nil)) },
			tls: config.TLS{CAFile: ca.File, ServerName: "wrong.example"}, advice: "set tls.serverName"},
		{reason: "a certificate without the address", at: func(t *testing.T) string { return rest(t, showing(named, nil)) },
			tls: config.TLS{CAFile: ca.File}, advice: "set tls.serverName"},
		{reason: "an expired certificate", at: func(t *testing.T) string { return rest(t, showing(expired, nil)) },
			tls: config.TLS{CAFile: ca.File}, advice: "certificate has to be renewed"},
		{reason: "no client certificate", at: func(t *testing.T) string { return rest(t, showing(local, ca.Pool)) },
			tls: config.TLS{CAFile: ca.File}, advice: "set tls.certFile and tls.keyFile"},
		{reason: "a client certificate of another CA", at: func(t *testing.T) string { return rest(t, showing(local, ca.Pool)) },
			tls: config.TLS{CAFile: ca.File, CertFile: foreign.CertFile, KeyFile: foreign.KeyFile}, advice: "does not accept the client certificate"},
		{reason: "an expired client certificate", at: func(t *testing.T) string { return rest(t, showing(local, ca.Pool)) },
			tls: config.TLS{CAFile: ca.File, CertFile: lapsed.CertFile, KeyFile: lapsed.KeyFile}, advice: "does not accept the client certificate"},
		{reason: "a gRPC service", at: func(t *testing.T) string { return grpcAt(t) }, insecure: true, advice: isGRPC},
		{reason: "a gRPC service with TLS", at: func(t *testing.T) string { return grpcAt(t, grpc.Creds(credentials.NewTLS(showing(local, nil)))) },
			tls: config.TLS{CAFile: ca.File}, advice: isGRPC},
		{reason: "a gRPC service with TLS, asked in plain text", at: func(t *testing.T) string { return grpcAt(t, grpc.Creds(credentials.NewTLS(showing(local, nil)))) },
			insecure: true, advice: secure},
		{reason: "a gRPC service, asked in TLS", at: func(t *testing.T) string { return grpcAt(t) }, advice: plain},
		{reason: "a web server", at: web, insecure: true, advice: "is the path of the endpoint right?"},
		{reason: "nothing", at: unused, insecure: true, advice: "nothing listens"},
		{reason: "nothing, asked in TLS", at: unused, advice: "nothing listens"},
		{reason: "a host that does not exist", at: func(*testing.T) string { return "nowhere.invalid:8000" }, insecure: true, advice: "does not resolve"},
		{reason: "silence, asked in TLS", at: silent, slow: true, advice: "network policy"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			endpoint := "https://"
			if tt.insecure {
				endpoint = "http://"
			}
			endpoint += tt.at(t)
			c := connect(t, &config.Deployment{Endpoint: endpoint, Insecure: tt.insecure, TLS: tt.tls})
			for op, call := range every(c) {
				// A server that turns a connection down may close it before its reason is read.
				var e *client.Error
				until(t, func() bool {
					ctx := within(t)
					if tt.slow {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
						defer cancel()
					}
					e = failed(t, call(ctx))
					return e.Advice != ""
				}, op)
				assert.Contains(t, e.Advice, tt.advice, e)
				assert.Contains(t, e.Error(), endpoint)
				assert.False(t, e.FromService, e)
				assert.Equal(t, client.RetryLater, e.Class, "an operator can repair it while the task waits: %v", e)
				if tt.slow {
					assert.Equal(t, codes.DeadlineExceeded, e.Code)
				}
			}
		})
	}
}

// A service's words about what lies behind it are not a diagnosis of the way to it.
func TestServicesOwnWordsAreNotDiagnosed(t *testing.T) {
	t.Parallel()
	for _, row := range diagnoses {
		for _, words := range row.Says {
			_, c := to(t, 400, `{"error_code": "INVALID_ARGUMENT", "message": `+strconv.Quote("cannot reach the warehouse: "+words)+`}`)
			_, err := c.Create(within(t), newRequest())
			e := failed(t, err)
			assert.True(t, e.FromService, words)
			assert.Equal(t, client.UserError, e.Class, words)
			assert.Contains(t, e.Message, words)
			assert.Empty(t, e.Advice, words)
		}
	}
}

// A proxy passes on what it cannot read: the service's certificate is checked, and the service's own, not the proxy's, is the answer.
func TestTLSThroughAProxy(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t), pki.New(t)
	s, target := serve(t, answering(200, jsonType, noPlugins), showing(ca.Issue("named", pki.InAnHour(), "backend.example"), nil), nil)
	proxied, proxy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		there, err := net.Dial("tcp", strings.TrimPrefix(target, "https://"))
		if err != nil {
			return
		}
		w.WriteHeader(http.StatusOK)
		here, ahead, err := http.NewResponseController(w).Hijack() // some may have been read ahead
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(there, ahead); _ = there.Close() }()
		_, _ = io.Copy(here, there)
		_ = here.Close()
	}), nil, nil)
	through := func(ca *pki.Authority) error {
		c := connect(t, &config.Deployment{Endpoint: "https://backend.example:8000", TLS: config.TLS{CAFile: ca.File}})
		u, err := url.Parse(proxy)
		require.NoError(t, err)
		c.http.Proxy = http.ProxyURL(u)
		_, err = c.List(within(t))
		return err
	}
	require.NoError(t, through(ca))
	assert.Equal(t, "HTTP/2.0", s.last(t).proto)
	assert.Equal(t, "CONNECT", proxied.last(t).method)
	e := failed(t, through(other))
	assert.Contains(t, e.Advice, "set tls.caFile", e)
}

// TestServiceThatDrains: a replica that ends says so (GOAWAY), what is under way ends there, and the next call goes to its successor.
func TestServiceThatDrains(t *testing.T) {
	t.Parallel()
	ca := pki.New(t)
	cert := ca.Issue("local", pki.InAnHour(), "127.0.0.1")
	arrived, release := make(chan struct{}), make(chan struct{})
	run := func(lis net.Listener, name string) *http.Server {
		server := &http.Server{ReadHeaderTimeout: limit, TLSConfig: showing(cert, nil), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				arrived <- struct{}{}
				<-release
			}
			answering(200, jsonType, `{"job_id": "`+name+`", "job_state": "SUCCEEDED", "message": "`+name+r.Proto+`"}`).ServeHTTP(w, r)
		})}
		go func() { _ = server.ServeTLS(lis, "", "") }()
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	lis := listen(t)
	address := lis.Addr().String()
	first := run(lis, "first")
	c := connect(t, &config.Deployment{Endpoint: "https://" + address, TLS: config.TLS{CAFile: ca.File}})
	executed := make(chan error, 1)
	var job *client.Job
	go func() {
		var err error
		job, err = c.Execute(within(t), newRequest())
		executed <- err
	}()
	<-arrived
	drained := make(chan error, 1)
	go func() { drained <- first.Shutdown(within(t)) }()
	var again net.Listener
	until(t, func() (free bool) {
		var err error
		again, err = net.Listen("tcp", address)
		return err == nil
	})
	run(again, "second")
	keyless := newRequest()
	keyless.IdempotencyKey = ""
	until(t, func() bool { // until the news is here, the first one may still answer
		id, err := c.Create(within(t), keyless)
		require.NoError(t, err)
		return string(id) == "second"
	})
	close(release)
	require.NoError(t, <-executed)
	assert.Equal(t, "firstHTTP/2.0", job.Message)
	require.NoError(t, <-drained)
}

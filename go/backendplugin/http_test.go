package backendplugin_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// loopback opens a listener for REST.
func loopback(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return lis
}

// page is what a path was answered with.
type page struct {
	status int
	proto  string
	header http.Header
	text   string
}

func fetch(t *testing.T, transport *http.Transport, method, url, body string) page {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: transport}).Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return page{res.StatusCode, res.Proto, res.Header, string(raw)}
}

// speaking is a client of one version of HTTP.
func speaking(t *testing.T, two bool, config *tls.Config) *http.Transport {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP1(!two)
	transport.Protocols.SetHTTP2(two)
	transport.Protocols.SetUnencryptedHTTP2(two)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// TestHTTPVersions: HTTP/1.1 and HTTP/2, in plain text and by ALPN, serve the same, and both transports make the same job.
func TestHTTPVersions(t *testing.T) {
	t.Parallel()
	pki := newAuthority(t)
	leaf := pki.issue("service", inAnHour(), "127.0.0.1")
	const body = `{"template": {"type": "square", "custom": {"lasting": 3600}}, "inputs": {"literals": {"x": {"scalar": {"primitive": {"integer": "7"}}}}}}`
	for _, encrypted := range []bool{false, true} {
		for _, two := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS %t, HTTP/2 %t", encrypted, two), func(t *testing.T) {
				t.Parallel()
				lis := loopback(t)
				base, config := "http://"+lis.Addr().String(), (*tls.Config)(nil)
				opts := []backendplugin.Option{backendplugin.WithRESTListener(lis)}
				var w *world
				if encrypted {
					base, config = "https://"+lis.Addr().String(), &tls.Config{RootCAs: pki.pool, MinVersion: tls.VersionTLS12}
					w = startWith(t, testplugins.All(), append(opts, backendplugin.WithTLS(leaf.certFile, leaf.keyFile))...)
					w.dial(grpc.WithTransportCredentials(credentials.NewTLS(config.Clone())))
				} else {
					w = start(t, testplugins.All(), opts...)
				}
				transport := speaking(t, two, config)
				made := fetch(t, transport, http.MethodPut, base+"/plugins/v1/square/v1", body)
				require.Equal(t, 200, made.status, made.text)
				require.Equal(t, map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[two], made.proto)
				_, id, _ := strings.Cut(made.text, `"job_id":"`)
				id, _, _ = strings.Cut(id, `","`)
				id, err := strconv.Unquote(`"` + id + `"`)
				require.NoError(t, err)
				over, err := w.async.CreateTask(w.within(), createRequest(&core.TaskTemplate{Type: "square", Custom: generic(values{"lasting": 3600}).GetScalar().GetGeneric()}, values{"x": 7}))
				require.NoError(t, err)
				ends := func(id string) string { return strings.Split(id, `"Ends"`)[0] }
				require.Equal(t, ends(string(over.GetResourceMeta())), ends(id), "but for the time when it ends")
				r, err := w.get(w.within(), "square", id)
				require.NoError(t, err)
				require.Equal(t, core.TaskExecution_RUNNING, r.GetPhase())
			})
		}
	}
}

// TestPages: what people and machines ask beside plugins is of its length, kept by no cache, and has no other methods.
func TestPages(t *testing.T) {
	t.Parallel()
	lis := loopback(t)
	start(t, backendplugin.Plugins{backendplugin.New("<b>&", &simple{}, backendplugin.WithName("n"))}, backendplugin.WithRESTListener(lis))
	base, transport := "http://"+lis.Addr().String(), speaking(t, false, nil)
	for path, kind := range map[string]string{
		"/healthz": "application/json; charset=utf-8", "/openapi.json": "application/json; charset=utf-8", "/docs": "text/html; charset=utf-8",
	} {
		get, head := fetch(t, transport, http.MethodGet, base+path, ""), fetch(t, transport, http.MethodHead, base+path, "")
		for _, p := range []page{get, head} {
			require.Equal(t, 200, p.status, path)
			require.Equal(t, kind, p.header.Get("Content-Type"))
			require.Equal(t, "no-store", p.header.Get("Cache-Control"))
			require.Equal(t, strconv.Itoa(len(get.text)), p.header.Get("Content-Length"))
		}
		require.Empty(t, head.text)
		other := fetch(t, transport, http.MethodDelete, base+path, "")
		require.Equal(t, 405, other.status)
		require.Equal(t, "GET, HEAD", other.header.Get("Allow"))
		require.Contains(t, other.text, `"error_code":"UNIMPLEMENTED"`)
	}
	docs := fetch(t, transport, http.MethodGet, base+"/docs", "")
	require.Contains(t, docs.text, "<td>&lt;b&gt;&amp;<td>v1<td>any<td>async")
	require.NotContains(t, docs.text, "://", "it loads nothing from elsewhere")
	require.Contains(t, docs.header.Get("Content-Security-Policy"), "default-src 'none'")
	for _, path := range []string{"/docs/", "/healthz/x", "/favicon.ico", "/"} {
		p := fetch(t, transport, http.MethodGet, base+path, "")
		require.Equal(t, 404, p.status, path)
		require.Contains(t, p.text, `"error_code":"UNIMPLEMENTED"`)
	}
}

// TestCertificatesOfCallers: with WithClientCA, what concerns plugins is for those with a certificate.
func TestCertificatesOfCallers(t *testing.T) {
	t.Parallel()
	pki := newAuthority(t)
	leaf, caller := pki.issue("service", inAnHour(), "127.0.0.1"), pki.issue("caller", inAnHour(), "propeller")
	lis := loopback(t)
	startWith(t, testplugins.All(), backendplugin.WithTLS(leaf.certFile, leaf.keyFile), backendplugin.WithClientCA(pki.file), backendplugin.WithRESTListener(lis))
	base := "https://" + lis.Addr().String()
	nobody := speaking(t, true, &tls.Config{RootCAs: pki.pool, MinVersion: tls.VersionTLS12})
	known := speaking(t, true, &tls.Config{RootCAs: pki.pool, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{caller.Certificate}})
	for _, tt := range []struct {
		reason, method, path string
		without, with        int
	}{
		{"kubelet asks", http.MethodGet, "/healthz", 200, 200},
		{"the list of plugins", http.MethodGet, "/plugins/v1", 401, 200},
		{"a call", http.MethodPost, "/plugins/v1/square_sync/v1/execute", 401, 400},
		{"the page that has the list", http.MethodGet, "/docs", 401, 200},
		{"the contract", http.MethodGet, "/openapi.json", 401, 200},
		{"whether there is such a path", http.MethodGet, "/nowhere", 401, 404},
		{"a way round", http.MethodGet, "/healthz/../plugins/v1", 401, 404},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			p := fetch(t, nobody, tt.method, base+tt.path, "{}")
			require.Equal(t, tt.without, p.status, p.text)
			if p.status == 401 {
				require.JSONEq(t, `{"error_code": "UNAUTHENTICATED", "message": "this service wants a client certificate"}`, p.text)
			}
			require.Equal(t, tt.with, fetch(t, known, tt.method, base+tt.path, "{}").status)
		})
	}
	require.NotEqual(t, 401, fetch(t, nobody, http.MethodGet, base+"/readyz", "").status)
	require.NotEqual(t, 401, fetch(t, nobody, http.MethodGet, base+"/metrics", "").status)
}

// TestReadiness: while a plugin says that it cannot work, both transports say so.
func TestReadiness(t *testing.T) {
	t.Parallel()
	lis := loopback(t)
	p := &sick{}
	set := func(err error) {
		f := func() error { return err }
		p.state.Store(&f)
	}
	set(nil)
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithRESTListener(lis), backendplugin.WithProbeInterval(5*time.Millisecond))
	health, transport := healthpb.NewHealthClient(w.conn), speaking(t, false, nil)
	says := func(status int, text string, serving healthpb.HealthCheckResponse_ServingStatus) {
		require.Eventually(t, func() bool {
			p := fetch(t, transport, http.MethodGet, "http://"+lis.Addr().String()+"/readyz", "")
			r, err := health.Check(w.within(), &healthpb.HealthCheckRequest{})
			return p.status == status && strings.Contains(p.text, text) && err == nil && r.GetStatus() == serving
		}, limit, time.Millisecond)
	}
	says(200, `"status":"ready"`, healthpb.HealthCheckResponse_SERVING)
	set(errors.New("the warehouse is away"))
	says(503, `"status":"not ready"`, healthpb.HealthCheckResponse_NOT_SERVING)
	set(nil)
	says(200, `"status":"ready"`, healthpb.HealthCheckResponse_SERVING)
}

// TestSlowCallers: who does not finish what it began to send is hung up on.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	lis := loopback(t)
	start(t, testplugins.All(), backendplugin.WithRESTListener(lis), backendplugin.WithHeaderTimeout(50*time.Millisecond))
	for reason, sent := range map[string]string{
		"nothing":            "",
		"half a line":        "GET /healthz HT",
		"headers and no end": "GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n",
	} {
		conn, err := net.Dial("tcp", lis.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
		_, err = io.WriteString(conn, sent)
		require.NoError(t, err)
		answer, err := io.ReadAll(conn) // until the service hangs up, which resets the connection if it has not read all
		if !errors.Is(err, syscall.ECONNRESET) {
			require.NoError(t, err, reason)
		}
		require.NotContains(t, string(answer), " 200 ", reason)
		require.NoError(t, conn.Close())
	}
}

func TestLargeHeaders(t *testing.T) {
	t.Parallel()
	lis := loopback(t)
	start(t, testplugins.All(), backendplugin.WithRESTListener(lis))
	conn, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 80<<10)+"\r\n\r\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, " 431 ")
}

// TestMessageLimit: one option limits both transports.
func TestMessageLimit(t *testing.T) {
	t.Parallel()
	lis := loopback(t)
	start(t, testplugins.All(), backendplugin.WithRESTListener(lis), backendplugin.WithMaxMessageSize(1000))
	p := fetch(t, speaking(t, false, nil), http.MethodPut, "http://"+lis.Addr().String()+"/plugins/v1/square/v1", `{"template": {}, "x": "`+strings.Repeat("x", 1000)+`"}`)
	require.Equal(t, 413, p.status)
	require.Contains(t, p.text, "larger than 1000 bytes, the limit of this service (in the Go SDK, WithMaxMessageSize)")
}

// TestCallsAreCutOff: a call that outlasts the drain is cut off over REST too, and Serve says so.
func TestCallsAreCutOff(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	lis := loopback(t)
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{create: func(context.Context, *backendplugin.Request[values]) (string, error) {
		close(entered)
		<-release
		return "j", nil
	}})}, backendplugin.WithRESTListener(lis), backendplugin.WithDrain(0, 50*time.Millisecond))
	conn, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	_, err = io.WriteString(conn, "PUT /plugins/v1/a/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"template\": {}}")
	require.NoError(t, err)
	<-entered
	w.stop()
	require.ErrorContains(t, <-w.ended, "calls were cut off that had not ended 50ms after the server had stopped to take new ones")
	raw, _ := io.ReadAll(conn) // it ends with an error or without
	require.Empty(t, raw)
	_, err = net.Dial("tcp", lis.Addr().String())
	require.Error(t, err)
}

// TestRESTCannotListen: an address that is taken is an error at once, and the gRPC port is free again.
func TestRESTCannotListen(t *testing.T) {
	t.Parallel()
	taken := loopback(t)
	defer taken.Close()
	s, err := backendplugin.NewServer(testplugins.All(), backendplugin.WithPlainText(), backendplugin.WithREST(taken.Addr().String()))
	require.NoError(t, err)
	lis := loopback(t)
	require.ErrorContains(t, s.Serve(within(t), lis), "address already in use")
	_, err = net.Dial("tcp", lis.Addr().String())
	require.Error(t, err)

	closed := loopback(t)
	require.NoError(t, closed.Close())
	s, err = backendplugin.NewServer(testplugins.All(), backendplugin.WithPlainText(), backendplugin.WithRESTListener(closed))
	require.NoError(t, err)
	require.ErrorContains(t, s.Serve(within(t), loopback(t)), "use of closed network connection", "a listener that fails ends the server")
}

// TestOpenAPI: the contract that is served has each path that the handler has.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		rest.Root, rest.Root + "/{task_type}/{version}", rest.Root + "/{task_type}/{version}/poll", rest.Root + "/{task_type}/{version}/delete",
		rest.Root + "/{task_type}/{version}/execute", rest.Root + "/{task_type}/{version}/logs", rest.Root + "/{task_type}/{version}/metrics",
		"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs",
	} {
		require.Contains(t, string(rest.OpenAPI), `"`+path+`": {`)
	}
}

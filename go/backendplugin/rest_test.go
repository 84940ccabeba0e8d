package backendplugin_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
)

// web is a service that is spoken to over REST.
type web struct {
	*world
	base   string
	client *http.Client
}

// startREST serves plugins over gRPC and REST, in plain text, until the test ends.
func startREST(t *testing.T, plugins backendplugin.Plugins, opts ...backendplugin.Option) *web {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := start(t, plugins, append([]backendplugin.Option{backendplugin.WithRESTListener(lis)}, opts...)...)
	return &web{world: w, base: "http://" + lis.Addr().String(), client: &http.Client{}}
}

// answer is what came back, its body as JSON if it is.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// do sends a request; header is pairs of names and values.
func (w *web) do(method, path, body string, header ...string) answer {
	w.t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(w.within(), method, w.base+path, content)
	require.NoError(w.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	r, err := w.client.Do(req)
	require.NoError(w.t, err)
	defer func() { _ = r.Body.Close() }()
	raw, err := io.ReadAll(r.Body)
	require.NoError(w.t, err)
	a := answer{status: r.StatusCode, header: r.Header, text: string(raw)}
	_ = json.Unmarshal(raw, &a.body) // what is no JSON is looked at as text
	return a
}

const sevenSquared = `{"template": {"type": "square"}, "inputs": {"literals": {"x": {"scalar": {"primitive": {"integer": "7"}}}}}}`

// TestRESTLife: a job over REST, and the same job over gRPC.
func TestRESTLife(t *testing.T) {
	w := startREST(t, testplugins.All())
	made := w.do("PUT", "/plugins/v1/square/v1", sevenSquared, "Idempotency-Key", "k")
	require.Equal(t, 200, made.status, made.text)
	require.Equal(t, "application/json; charset=utf-8", made.header.Get("Content-Type"))
	require.Equal(t, "no-store", made.header.Get("Cache-Control"))
	id, ok := made.body["job_id"].(string)
	require.True(t, ok)
	require.Empty(t, made.body["error_code"])
	poll := w.do("GET", "/plugins/v1/square/v1?job_id="+url.QueryEscape(id), "")
	require.Equal(t, 200, poll.status, poll.text)
	require.Equal(t, "SUCCEEDED", poll.body["job_state"])
	require.JSONEq(t, `{"literals": {"o0": {"scalar": {"primitive": {"integer": "49"}}}}}`, jsonOf(t, poll.body["outputs"]))
	require.Equal(t, map[string]any{"task_type": "square", "plugin_version": "v1"}, poll.body["job_spec"])

	r, err := w.get(w.within(), "square", id)
	require.NoError(t, err)
	require.Equal(t, int64(49), r.GetOutputs().GetLiterals()["o0"].GetScalar().GetPrimitive().GetInteger(), "the id is the same over gRPC")

	many := w.do("POST", "/plugins/v1/square/v1/poll", `{"jobs": [`+jsonOf(t, map[string]string{"job_id": id})+`, {"job_id": "no JSON"}]}`)
	require.Equal(t, 200, many.status, many.text)
	results, ok := many.body["results"].([]any)
	require.True(t, ok)
	require.Len(t, results, 2)
	require.Contains(t, jsonOf(t, results[0]), "SUCCEEDED")
	require.JSONEq(t, `{"error": {"status": 404, "error_code": "NOT_FOUND", "message": "no such job: its id is none of this plugin's"}}`, jsonOf(t, results[1]))

	ran := w.do("POST", "/plugins/v1/square_sync/v1/execute", strings.ReplaceAll(sevenSquared, "square", "square_sync"))
	require.Equal(t, 200, ran.status, ran.text)
	require.Equal(t, "SUCCEEDED", ran.body["job_state"])
	for range 2 {
		gone := w.do("DELETE", "/plugins/v1/square/v1?job_id="+url.QueryEscape(id), "")
		require.Equal(t, 200, gone.status, gone.text)
	}
	require.Equal(t, 200, w.do("POST", "/plugins/v1/square/v1/delete", jsonOf(t, map[string]string{"job_id": id})).status)
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

// TestRESTList: what is served, in both ways, with its abilities.
func TestRESTList(t *testing.T) {
	w := startREST(t, backendplugin.Plugins{
		backendplugin.New("a", &able{}, backendplugin.WithVersion("v2"), backendplugin.WithTaskTypeVersions(1, 3)),
		backendplugin.NewSync("s", &fakeSync[values, values]{}, backendplugin.WithName("sums")),
	})
	got := w.do("GET", "/plugins/v1", "")
	require.JSONEq(t, `{"plugins": [
		{"name": "sums", "task_type": "s", "plugin_version": "v1", "task_type_versions": [], "mode": "sync", "capabilities": []},
		{"name": "a", "task_type": "a", "plugin_version": "v2", "task_type_versions": [1, 3], "mode": "async", "capabilities": ["poll", "watch"]}
	]}`, got.text)
	page := w.do("GET", "/docs", "")
	require.Contains(t, page.text, "<td>a<td>v2<td>1 3<td>async<td>poll, watch")
	require.Equal(t, rest.OpenAPI, []byte(w.do("GET", "/openapi.json", "").text))
	require.Equal(t, 404, w.do("GET", "/plugins/v1/a/v1?job_id=x", "").status, "another version")
}

// TestRESTRefusals: what is wrong is told with the status of the contract, in its form, and names what is wrong.
func TestRESTRefusals(t *testing.T) {
	w := startREST(t, testplugins.All(), backendplugin.WithMaxMessageSize(1000))
	const create, job = "/plugins/v1/square/v1", "/plugins/v1/square/v1?job_id=x"
	for _, tt := range []struct {
		reason, method, path, body string
		header                     []string
		status                     int
		code, says                 string
	}{
		{"no such path", "GET", "/nowhere", "", nil, 404, "UNIMPLEMENTED", "there is no path /nowhere"},
		{"no such call", "POST", create + "/stop", "{}", nil, 404, "UNIMPLEMENTED", "there is no path"},
		{"too much path", "GET", create + "/a/b", "", nil, 404, "UNIMPLEMENTED", "there is no path"},
		{"a path that ends in a slash", "GET", create + "/", "", nil, 404, "UNIMPLEMENTED", "there is no path"},
		{"no plugin", "GET", "/plugins/v1/circle/v1?job_id=x", "", nil, 404, "NOT_FOUND", `"circle" in version v1`},
		{"no version", "GET", "/plugins/v1/square/v3?job_id=x", "", nil, 404, "NOT_FOUND", "in version v3"},
		{"what cannot be a version", "GET", "/plugins/v1/square/%20?job_id=x", "", nil, 404, "NOT_FOUND", "version"},
		{"a task type that climbs", "GET", "/plugins/v1/..%2F..%2Fetc/v1?job_id=x", "", nil, 404, "NOT_FOUND", `"../../etc"`},
		{"another method", "PATCH", create, "{}", nil, 405, "UNIMPLEMENTED", "DELETE, GET, HEAD, PUT"},
		{"another method of the health", "POST", "/healthz", "{}", nil, 405, "UNIMPLEMENTED", "GET, HEAD"},
		{"no content type", "PUT", create, "{}", []string{"Content-Type", ""}, 415, "INVALID_ARGUMENT", "application/json is due"},
		{"a form", "PUT", create, "{}", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "INVALID_ARGUMENT", "application/json is due"},
		{"another character set", "PUT", create, "{}", []string{"Content-Type", "application/json; charset=latin-1"}, 415, "INVALID_ARGUMENT", "latin-1"},
		{"a body that is packed", "PUT", create, "{}", []string{"Content-Encoding", "gzip"}, 415, "INVALID_ARGUMENT", "gzip"},
		{"no JSON", "PUT", create, "{nonsense", nil, 400, "INVALID_ARGUMENT", "at byte 2"},
		{"more than one value", "PUT", create, "{} {}", nil, 400, "INVALID_ARGUMENT", "not JSON"},
		{"a list", "PUT", create, "[]", nil, 400, "INVALID_ARGUMENT", "not a JSON object"},
		{"null", "PUT", create, "null", nil, 400, "INVALID_ARGUMENT", "null"},
		{"half a character", "PUT", create, "{\"a\": \"\xc3\"}", nil, 400, "INVALID_ARGUMENT", "UTF-8"},
		{"no template", "PUT", create, `{"inputs": {}}`, nil, 400, "INVALID_ARGUMENT", "template is missing"},
		{"a template that is none", "PUT", create, `{"template": {"type": 7}}`, nil, 400, "INVALID_ARGUMENT", "template: "},
		{"names have their case", "PUT", create, `{"Template": {}}`, nil, 400, "INVALID_ARGUMENT", "template is missing"},
		{"a template of another type", "PUT", create, `{"template": {"type": "circle"}}`, nil, 400, "INVALID_ARGUMENT", `its type is "circle", and the path's is "square"`},
		{"inputs that are none", "PUT", create, `{"template": {}, "inputs": {"literals": []}}`, nil, 400, "INVALID_ARGUMENT", "inputs: "},
		{"a prefix that is null", "PUT", create, `{"template": {}, "output_prefix": null}`, nil, 400, "INVALID_ARGUMENT", "output_prefix is not a string"},
		{"an input that is missing", "PUT", create, `{"template": {}}`, nil, 400, "INVALID_ARGUMENT", "x"},
		{"a key that is none", "PUT", create, sevenSquared, []string{"Idempotency-Key", "a b"}, 400, "INVALID_ARGUMENT", "Idempotency-Key"},
		{"a key that is too long", "PUT", create, sevenSquared, []string{"Idempotency-Key", strings.Repeat("k", 65)}, 400, "INVALID_ARGUMENT", "Idempotency-Key"},
		{"too large", "PUT", create, `{"template": {"type": "` + strings.Repeat("x", 1000) + `"}}`, nil, 413, "RESOURCE_EXHAUSTED", "1000 bytes"},
		{"no job id", "GET", create, "", nil, 400, "INVALID_ARGUMENT", "job_id is missing"},
		{"two job ids", "GET", job + "&job_id=y", "", nil, 400, "INVALID_ARGUMENT", "more than once"},
		{"a job id that is too long for a URL", "GET", create + "?job_id=" + strings.Repeat("x", 4096), "", nil, 400, "INVALID_ARGUMENT", "POST …/poll"},
		{"a job id that is not what it says", "GET", create + "?job_id=base64:%21", "", nil, 400, "INVALID_ARGUMENT", "base64"},
		{"a query that cannot be read", "GET", create + "?job_id=%zz", "", nil, 400, "INVALID_ARGUMENT", "query"},
		{"a version that is no number", "GET", job + "&task_type_version=two", "", nil, 400, "INVALID_ARGUMENT", "task_type_version"},
		{"deleting without a job id", "DELETE", create, "", nil, 400, "INVALID_ARGUMENT", "job_id is missing"},
		{"no jobs", "POST", create + "/poll", "{}", nil, 400, "INVALID_ARGUMENT", "jobs is missing"},
		{"an empty list of jobs", "POST", create + "/poll", `{"jobs": []}`, nil, 400, "INVALID_ARGUMENT", "1 to 1000"},
		{"a job without an id", "POST", create + "/poll", `{"jobs": [{"job_id": "x"}, {}]}`, nil, 400, "INVALID_ARGUMENT", "jobs[1]: job_id is missing"},
		{"a job that is none", "POST", create + "/poll", `{"jobs": ["x"]}`, nil, 400, "INVALID_ARGUMENT", "jobs[0]"},
		{"logs of a plugin without", "POST", create + "/logs", `{"job_id": "x"}`, nil, 501, "UNIMPLEMENTED", "gives no logs"},
		{"metrics of a plugin without", "POST", create + "/metrics", `{"job_id": "x"}`, nil, 501, "UNIMPLEMENTED", "gives no metrics"},
		{"too many lines", "POST", create + "/logs", `{"job_id": "x", "lines": 1.5}`, nil, 400, "INVALID_ARGUMENT", "no integer"},
		{"a time that is none", "POST", create + "/metrics", `{"job_id": "x", "start": "yesterday"}`, nil, 400, "INVALID_ARGUMENT", "RFC 3339"},
		{"executing what is no synchronous plugin", "POST", "/plugins/v1/rich/v1/execute", `{"template": {}}`, nil, 404, "NOT_FOUND", "does not take this call"},
		{"a user's error", "PUT", create, `{"template": {"custom": {"reject": "no"}}, "inputs": {"literals": {"x": {"scalar": {"primitive": {"integer": "7"}}}}}}`, nil, 400, "INVALID_ARGUMENT", "rejected: no"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			a := w.do(tt.method, tt.path, tt.body, tt.header...)
			require.Equal(t, tt.status, a.status, a.text)
			require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
			require.Equal(t, tt.code, a.body["error_code"], a.text)
			require.Contains(t, a.body["message"], tt.says)
			if tt.status == 405 {
				require.NotEmpty(t, a.header.Get("Allow"))
			}
		})
	}
	a := w.do("PUT", create, `{"template": {"type": "square", "nobody": {"knows": null}}, "this": [], "inputs": {"literals": {"x": {"scalar": {"primitive": {"integer": 7}}}}}}`)
	require.Equal(t, 200, a.status, "fields that are not known are passed over: %s", a.text)
	require.Equal(t, 200, w.do("HEAD", "/plugins/v1", "").status)
	require.Equal(t, 200, w.do("GET", "/plugins/v1/", "").status)
}

// TestRESTErrors: each code has its status, its name, and its pause.
func TestRESTErrors(t *testing.T) {
	var fails error
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			return nil, fails
		},
	})})
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		fails = backendplugin.NewError(code, fmt.Errorf("because of %d", code))
		a := w.do("GET", "/plugins/v1/a/v1?job_id=x", "")
		require.Equal(t, rest.Status(code), a.status, code)
		require.Equal(t, map[string]any{"error_code": rest.CodeName(code), "message": fmt.Sprintf("because of %d", code)}, a.body)
		parsed, ok := rest.ParseCode(rest.CodeName(code))
		require.True(t, ok)
		require.Equal(t, code, parsed)
		require.Empty(t, a.header.Get("Retry-After"))
	}
	fails = backendplugin.Retry(1500*time.Millisecond, "later")
	a := w.do("GET", "/plugins/v1/a/v1?job_id=x", "")
	require.Equal(t, "2", a.header.Get("Retry-After"), "whole seconds, never less than asked for")
	require.Contains(t, w.do("POST", "/plugins/v1/a/v1/poll", `{"jobs": [{"job_id": "x"}]}`).text, `"retry_after_seconds":1.5`)
}

// TestRESTJobIDs: ids of any bytes survive, in URLs and in bodies.
func TestRESTJobIDs(t *testing.T) {
	for _, id := range []string{"plain", "eu/job 7&x=1?#%", "日本", "\x00\n\t", "\xff\xfe", "base64:aGVsbG8", "base64:", strings.Repeat("ü", 2000), strings.Repeat("x", 64<<10)} {
		var seen []string
		w := startREST(t, backendplugin.Plugins{backendplugin.New("a", &simple{
			create: func(context.Context, *backendplugin.Request[values]) (string, error) { return id, nil },
			get: func(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
				seen = append(seen, j.ID)
				return backendplugin.Running[values](""), nil
			},
			delete: func(_ context.Context, j *backendplugin.Job[string]) error {
				seen = append(seen, j.ID)
				return nil
			},
		})})
		wire, _ := w.do("PUT", "/plugins/v1/a/v1", `{"template": {}}`).body["job_id"].(string)
		ref := jsonOf(t, map[string]string{"job_id": wire})
		require.Equal(t, 200, w.do("POST", "/plugins/v1/a/v1/poll", `{"jobs":[`+ref+`]}`).status)
		require.Equal(t, 200, w.do("POST", "/plugins/v1/a/v1/delete", ref).status)
		if len(wire) <= rest.MaxJobIDInURL {
			require.Equal(t, 200, w.do("GET", "/plugins/v1/a/v1?job_id="+url.QueryEscape(wire), "").status)
			require.Equal(t, 200, w.do("DELETE", "/plugins/v1/a/v1?job_id="+url.QueryEscape(wire), "").status)
		}
		require.GreaterOrEqual(t, len(seen), 2)
		for _, s := range seen {
			require.Equal(t, id, s)
		}
	}
}

// TestRESTLimits: one call too many, a call that takes too long, a plugin that panics.
func TestRESTLimits(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) {
			close(entered)
			<-release
			return "j", nil
		},
		get: func(ctx context.Context, _ *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		delete: func(context.Context, *backendplugin.Job[string]) error { panic("secret") },
	})}, backendplugin.WithMaxConcurrent(1), backendplugin.WithTimeout(100*time.Millisecond))
	late := w.do("GET", "/plugins/v1/a/v1?job_id=x", "")
	require.Equal(t, 504, late.status)
	require.Equal(t, "DEADLINE_EXCEEDED", late.body["error_code"])
	require.Eventually(t, func() bool { return w.do("DELETE", "/plugins/v1/a/v1?job_id=x", "").status == 500 }, limit, time.Millisecond)
	require.NotContains(t, w.do("DELETE", "/plugins/v1/a/v1?job_id=x", "").text, "secret")
	go func() {
		req, err := http.NewRequest(http.MethodPut, w.base+"/plugins/v1/a/v1", strings.NewReader(`{"template": {}}`))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
			if r, err := w.client.Do(req); err == nil {
				_ = r.Body.Close()
			}
		}
	}()
	<-entered
	full := w.do("DELETE", "/plugins/v1/a/v1?job_id=x", "")
	require.Equal(t, 429, full.status)
	require.Equal(t, "1", full.header.Get("Retry-After"))
	close(release)
}

// TestRESTCallerHangsUp: the plugin's context ends with the connection.
func TestRESTCallerHangsUp(t *testing.T) {
	entered, ended := make(chan struct{}), make(chan struct{})
	w := startREST(t, backendplugin.Plugins{backendplugin.NewSync("s", &fakeSync[values, values]{
		execute: func(ctx context.Context, _ *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
			close(entered)
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		},
	})})
	ctx, cancel := context.WithCancel(w.within())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+"/plugins/v1/s/v1/execute", strings.NewReader(`{"template": {}}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	go func() {
		<-entered
		cancel()
	}()
	r, err := w.client.Do(req)
	if err == nil {
		_ = r.Body.Close()
	}
	require.Error(t, err)
	<-ended
}

// TestRESTDrain: readiness goes first, calls under way are answered, then both ports close.
func TestRESTDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) {
			close(entered)
			<-release
			return "j", nil
		},
	})}, backendplugin.WithDrain(time.Second, limit))
	require.Eventually(t, func() bool { return w.do("GET", "/readyz", "").status == 200 }, limit, time.Millisecond)
	result := make(chan answer, 1)
	go func() { result <- w.do("PUT", "/plugins/v1/a/v1", `{"template": {}}`) }()
	<-entered
	w.stop()
	require.Eventually(t, func() bool {
		a := w.do("GET", "/readyz", "")
		return a.status == 503 && a.body["status"] == "draining"
	}, limit, time.Millisecond)
	require.Equal(t, 200, w.do("GET", "/healthz", "").status, "it lives, and still answers")
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, limit, 10*time.Millisecond)
	close(release)
	require.Equal(t, 200, (<-result).status)
	require.NoError(t, <-w.ended)
}

// TestRESTOverTLS: HTTP/2 by ALPN, and client certificates where plugins are called.
func TestRESTOverTLS(t *testing.T) {
	ca := newAuthority(t)
	server, client := ca.issue("server", inAnHour(), "127.0.0.1"), ca.issue("client", inAnHour(), "propeller")
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &web{base: "https://" + lis.Addr().String()}
	w.world = startWith(t, testplugins.All(), backendplugin.WithTLS(server.certFile, server.keyFile),
		backendplugin.WithClientCA(ca.file), backendplugin.WithRESTListener(lis))
	speak := func(http2 bool, certs ...tls.Certificate) {
		w.client = &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: ca.pool, Certificates: certs}, ForceAttemptHTTP2: http2, DisableKeepAlives: true,
		}}
	}
	for _, http2 := range []bool{true, false} {
		speak(http2)
		require.Equal(t, 200, w.do("GET", "/healthz", "").status, "kubelet has no certificate")
		require.Equal(t, 200, w.do("GET", "/metrics", "").status)
		a := w.do("GET", "/plugins/v1", "")
		require.Equal(t, 401, a.status)
		require.Equal(t, "UNAUTHENTICATED", a.body["error_code"])
		speak(http2, client.Certificate)
		require.Equal(t, 200, w.do("GET", "/plugins/v1", "").status)
	}
	other := newAuthority(t).issue("client", inAnHour(), "propeller")
	speak(true)
	transport, ok := w.client.Transport.(*http.Transport)
	require.True(t, ok)
	transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &other.Certificate, nil }
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, w.base+"/plugins/v1", nil)
	require.NoError(t, err)
	r, err := w.client.Do(req)
	if err == nil {
		_ = r.Body.Close()
	}
	require.Error(t, err, "a certificate of another CA")
}

// TestRESTHostileConnections: what no HTTP client would send ends the connection and nothing else.
func TestRESTHostileConnections(t *testing.T) {
	w := startREST(t, testplugins.All(), backendplugin.WithMaxMessageSize(1000))
	address := strings.TrimPrefix(w.base, "http://")
	for reason, sent := range map[string]string{
		"garbage":                         "\x16\x03\x01\x00 garbage\r\n\r\n",
		"headers that never end":          "GET /plugins/v1 HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 128<<10) + "\r\n\r\n",
		"no host":                         "GET /plugins/v1 HTTP/1.1\r\n\r\n",
		"two lengths":                     "PUT /plugins/v1/square/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"a chunked body that is too long": "PUT /plugins/v1/square/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + strings.Repeat(" ", 0x800) + "\r\n0\r\n\r\n",
		"a bad escape":                    "GET /plugins/v1/%zz/v1 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(reason, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
			_, _ = io.WriteString(conn, sent) // it may hang up before the end
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil {
				require.Regexp(t, `^HTTP/1\.[01] 4\d\d `, line)
			}
		})
	}
	require.Equal(t, 200, w.do("GET", "/plugins/v1", "").status)
}

// TestRESTManyCallsAtOnce is for the race detector.
func TestRESTManyCallsAtOnce(t *testing.T) {
	w := startREST(t, testplugins.All())
	var failed atomic.Int32
	done := make(chan struct{})
	const callers = 16
	for range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 20 {
				if w.do("PUT", "/plugins/v1/square/v1", sevenSquared).status != 200 || w.do("GET", "/metrics", "").status != 200 {
					failed.Add(1)
				}
			}
		}()
	}
	for range callers {
		<-done
	}
	require.Zero(t, failed.Load())
}

package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

// TestLargeBodies: the limit holds however a body comes, and one that says that it is too large is refused before it comes.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	s, _ := listener()
	w := serve(t, rest.Services{Async: s}, rest.Options{MaxBodyBytes: 100})
	exact := `{"template": {}, "x": "` + strings.Repeat("x", 100-len(`{"template": {}, "x": ""}`)) + `"}`
	require.Len(t, exact, 100)
	require.Equal(t, 200, w.do("PUT", "/plugins/v1/t/v1", exact).status, "as much as may be")
	const head = "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for _, tt := range []struct{ reason, sent string }{
		{"a byte too many", head + "Content-Length: 101\r\n\r\n" + exact + " "},
		{"a body that never comes", head + "Content-Length: 9000000000000\r\n\r\n"},
		{"one that waits to be asked for", head + "Content-Length: 101\r\nExpect: 100-continue\r\n\r\n"},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("20\r\n"+strings.Repeat(" ", 0x20)+"\r\n", 4)},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			conn := w.dial()
			_, err := io.WriteString(conn, tt.sent)
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			defer res.Body.Close()
			raw, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, 413, res.StatusCode, string(raw))
			require.JSONEq(t, `{"error_code": "RESOURCE_EXHAUSTED",
				"message": "the request is larger than 100 bytes, the limit of this service (in the Go SDK, WithMaxMessageSize)"}`, string(raw))
		})
	}
}

// TestSlowBodies: a caller that sends slowly is not waited for without end, whether its body is read or not. One that is fast
// may wait for its answer for longer than that.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	s, _ := listener()
	release := make(chan struct{})
	s.create = func(ctx context.Context, _ *admin.CreateTaskRequest) ([]byte, error) {
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return []byte("j"), nil
	}
	const patience = 50 * time.Millisecond
	w := serve(t, rest.Services{Async: s}, rest.Options{BodyTimeout: patience})
	for _, tt := range []struct{ reason, head, status string }{
		{"a body that is wanted", "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "504"},
		{"one in chunks", "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "504"},
		{"a body that nobody wants", "GET /plugins/v1/t/v1?job_id=j HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", "200"},
		{"a body for nobody", "PUT /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", "404"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			conn := w.dial()
			_, err := io.WriteString(conn, tt.head)
			require.NoError(t, err)
			all, err := io.ReadAll(conn) // until the service hangs up; the deadline of dial is far away
			require.NoError(t, err)
			require.Contains(t, string(all), "HTTP/1.1 "+tt.status)
		})
	}
	two := &http.Transport{Protocols: &http.Protocols{}}
	two.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(two.CloseIdleConnections)
	for method, want := range map[string]int{http.MethodPut: 504, http.MethodPatch: 405} {
		body, never := io.Pipe()
		t.Cleanup(func() { _ = never.Close() })
		req, err := http.NewRequestWithContext(within(t), method, "http://"+w.address+"/plugins/v1/t/v1", body)
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		res, err := two.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, want, res.StatusCode, "over HTTP/2")
		require.Equal(t, 2, res.ProtoMajor)
	}
	result := make(chan answer, 1)
	go func() { result <- w.do("PUT", "/plugins/v1/t/v1", `{"template": {}}`) }()
	select {
	case a := <-result:
		t.Fatalf("the call ended with its body's time: %d %s", a.status, a.text)
	case <-time.After(4 * patience):
	}
	close(release)
	require.Equal(t, 200, (<-result).status)
}

// deadlines is a connection's writer that remembers what it is told.
type deadlines struct {
	*httptest.ResponseRecorder
	write time.Time
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.write = at
	return nil
}

// TestSlowReaders: writing an answer has an end, and the time that a call takes is not part of it.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s, _ := listener()
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	before := time.Now()
	rest.NewHandler(rest.Services{Async: s}, rest.Options{}).ServeHTTP(d, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/plugins/v1/t/v1?job_id=j", nil))
	require.Equal(t, 200, d.Code)
	require.WithinRange(t, d.write, before.Add(time.Minute), time.Now().Add(time.Minute))
}

// TestHostileRequests: what no client would send ends with an error or a closed connection, and harms nobody else.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	s, _ := listener()
	w := serve(t, rest.Services{Async: s}, rest.Options{})
	for _, tt := range []struct{ reason, sent, status string }{
		{"no HTTP, but TLS", "\x16\x03\x01\x02\x00\x01\x00" + strings.Repeat("\x01", 500) + "\r\n\r\n", "400"},
		{"no host", "GET /plugins/v1/t/v1?job_id=j HTTP/1.1\r\n\r\n", "400"},
		{"a bad escape in the path", "GET /plugins/v1/%zz/v1 HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"an escape that breaks off", "GET /plugins/v1/t%2/v1 HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a bad escape in the query", "GET /plugins/v1/t/v1?job_id=%2 HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a space in the path", "GET /plugins/v1/a b/v1 HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"two lengths", "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "400"},
		{"a length that is negative", "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}", "400"},
		{"chunks that are none", "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
		{"another coding", "PUT /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "501"},
		{"a header with a null", "GET /plugins/v1/t/v1?job_id=j HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\x00b\r\n\r\n", "400"},
		{"two keys", "GET /plugins/v1/t/v1?job_id=j HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n", "400"},
		{"a method that there is not", "BREW /plugins/v1/t/v1 HTTP/1.1\r\nHost: x\r\n\r\n", "405"},
		{"an old HTTP", "GET /plugins/v1/t/v1?job_id=j HTTP/1.0\r\n\r\n", "200"},
		{"a whole URL", "GET http://elsewhere/plugins/v1/t/v1?job_id=j HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"},
		{"a tunnel", "CONNECT elsewhere:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"},
		{"a whole path of dots", "GET /plugins/v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			conn := w.dial()
			_, err := io.WriteString(conn, tt.sent)
			require.NoError(t, err)
			line, err := bufio.NewReader(conn).ReadString('\n')
			require.NoError(t, err)
			require.Regexp(t, `^HTTP/1\.[01] `+tt.status+` `, line)
		})
	}
	require.Equal(t, 200, w.do("GET", "/plugins/v1/t/v1?job_id=j", "").status)
}

// TestManyAtOnce: calls do not mix.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := serve(t, all(&service{
		create: func(_ context.Context, r *admin.CreateTaskRequest) ([]byte, error) {
			return []byte(r.GetOutputPrefix()), nil
		},
		get: func(_ context.Context, r *admin.GetTaskRequest) (*admin.Resource, error) {
			return running(string(r.GetResourceMeta())), nil
		},
	}), rest.Options{})
	var wg sync.WaitGroup
	wrong := make(chan string, 16)
	for n := range cap(wrong) {
		wg.Go(func() {
			for i := range 20 {
				id := fmt.Sprintf("%d/%d", n, i)
				if a := w.do("PUT", "/plugins/v1/t/v1", `{"template": {}, "output_prefix": "`+id+`"}`); a.member("job_id") != id {
					wrong <- a.text
					return
				}
				if a := w.do("GET", "/plugins/v1/t/v1?job_id="+id, ""); a.member("message") != id {
					wrong <- a.text
					return
				}
				if a := w.do("POST", "/plugins/v1/t/v1/poll", jobs(40)); strings.Count(a.text, `"job":`) != 40 {
					wrong <- a.text
					return
				}
			}
		})
	}
	wg.Wait()
	close(wrong)
	require.Empty(t, wrong)
}

package restclient

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// nameOf gives the code's name over REST.
func nameOf(c codes.Code) string {
	names := []string{"", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
	return names[c]
}

// Every code that a service can send, by every call that has one, is known as the service's, whatever its status.
func TestErrorsFromTheService(t *testing.T) {
	t.Parallel()
	for _, row := range client.Table {
		for _, status := range []int{row.Status, http.StatusTeapot} {
			t.Run(fmt.Sprintf("%s as %d", row.Code, status), func(t *testing.T) {
				t.Parallel()
				_, c := to(t, status, fmt.Sprintf(`{"error_code": %q, "message": "because", "more": []}`, nameOf(row.Code)))
				for op, call := range every(c) {
					err := call(within(t))
					if row.Code == codes.NotFound && op == config.CallDelete {
						require.NoError(t, err, "it is deleted already")
						continue
					}
					e := failed(t, err)
					assert.Equal(t, row.Code, e.Code)
					assert.Equal(t, row.Class, e.Class)
					assert.Equal(t, "because", e.Message)
					assert.Equal(t, op, e.Op)
					assert.True(t, e.FromService)
					assert.False(t, e.TooLarge)
					assert.Contains(t, e.Error(), fmt.Sprintf("%s at backend deployment \"big\" (%s) failed: the service answered %s: because", op, c.d.Endpoint, row.Code))
				}
			})
		}
	}
}

// What is no error of the contract comes from something else than the service.
func TestStatusAlone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		code   codes.Code
		advice string
	}{
		{300, codes.Unavailable, "redirects are not followed"},
		{304, codes.Unavailable, "redirects are not followed"},
		{400, codes.InvalidArgument, "no backend plugin service"},
		{401, codes.Unauthenticated, "no backend plugin service"},
		{402, codes.Unknown, "no backend plugin service"},
		{403, codes.PermissionDenied, "no backend plugin service"},
		{404, codes.NotFound, "is the path of the endpoint right?"},
		{405, codes.Unimplemented, "is the path of the endpoint right?"},
		{407, codes.Unknown, "NO_PROXY"},
		{408, codes.DeadlineExceeded, "no backend plugin service"},
		{409, codes.Aborted, "no backend plugin service"},
		{429, codes.ResourceExhausted, "no backend plugin service"},
		{499, codes.Canceled, "no backend plugin service"},
		{500, codes.Internal, "proxy or load balancer"},
		{501, codes.Unimplemented, "is the path of the endpoint right?"},
		{502, codes.Unavailable, "proxy or load balancer"},
		{503, codes.Unavailable, "proxy or load balancer"},
		{504, codes.DeadlineExceeded, "proxy or load balancer"},
		{599, codes.Internal, "proxy or load balancer"},
	}
	bodies := []struct{ reason, contentType, body, says string }{
		{"a page", "text/html; charset=utf-8", "<html>gateway</html>", ""},
		{"nothing", "", "", ""},
		{"words", "text/plain", " words\n", ": words"},
		{"a framework's JSON", jsonType, `{"detail": "x"}`, `: {"detail": "x"}`},
		{"a code that is none", jsonType, `{"error_code": "WHAT", "message": "x"}`, `"message": "x"`},
		{"OK, which is no error", jsonType, `{"error_code": "OK", "message": "x"}`, `"message": "x"`},
		{"a code by its number", jsonType, `{"error_code": "5", "message": "x"}`, `"message": "x"`},
		{"the contract's JSON as a page", "text/html", `{"error_code": "INVALID_ARGUMENT", "message": "x"}`, ""},
		{"half of it", jsonType, `{"error_code": "INVALID_ARGUMENT"`, `"INVALID_ARGUMENT"`},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			t.Parallel()
			for _, b := range bodies {
				if tt.status == http.StatusNotModified {
					b.body, b.says = "", ""
				}
				s, url := serve(t, answering(tt.status, b.contentType, b.body, "Retry-After", "7"), nil, nil)
				for _, call := range every(connectPlain(t, url)) {
					e := failed(t, call(within(t)))
					assert.Equal(t, tt.code, e.Code, b.reason)
					assert.Equal(t, client.RetryLater, e.Class, b.reason)
					assert.False(t, e.FromService, b.reason)
					assert.Contains(t, e.Advice, tt.advice, b.reason)
					assert.Contains(t, e.Message, fmt.Sprintf("HTTP %d", tt.status))
					assert.Contains(t, e.Message, b.says)
					assert.NotContains(t, e.Message, "<html>")
					assert.Equal(t, 7*time.Second, e.RetryAfter)
				}
				assert.Equal(t, 5, s.count(), "nothing is repeated here")
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere, there := serve(t, answering(200, jsonType, `{}`), nil, nil)
	tests := []struct {
		reason, location, says string
		status                 int
	}{
		{"moved", there + "/x?token=s3cr3t#s3cr3t", there + "/x", 301},
		{"found", "https://me:s3cr3t@login.example/?job_id=s3cr3t", "https://login.example/", 302},
		{"see other", "/login?next=s3cr3t", "/login", 303},
		{"temporary", there, there, 307},
		{"permanent", there, there, 308},
		{"a path that would fill an event", "/" + strings.Repeat("x", 10000), strings.Repeat("x", 1000), 307},
		{"nowhere", "", "HTTP 302 Found", 302},
		{"nonsense", "http://%zz", "HTTP 302 Found", 302},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			var headers []string
			if tt.location != "" {
				headers = []string{"Location", tt.location}
			}
			_, c := to(t, tt.status, "", headers...)
			for _, call := range every(c) {
				e := failed(t, call(within(t)))
				assert.Contains(t, e.Message, tt.says)
				assert.NotContains(t, e.Error(), "s3cr3t")
				assert.Less(t, len(e.Error()), 3000)
				assert.Contains(t, e.Advice, "redirects are not followed")
				assert.Equal(t, client.RetryLater, e.Class)
				assert.False(t, e.FromService)
			}
		})
	}
	t.Cleanup(func() { assert.Zero(t, elsewhere.count()) })
}

func TestErrorsOfTheNetwork(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		answer http.HandlerFunc
	}{
		{"dropped before the answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"dropped in its middle", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", jsonType)
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"job_id": `))
			panic(http.ErrAbortHandler)
		}},
		{"dropped in the middle of its pieces", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", jsonType)
			_, _ = w.Write([]byte(`{"job_id": "x"}`))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t, tt.answer, nil, nil)
			for op, call := range every(connectPlain(t, url)) {
				e := failed(t, call(within(t)))
				assert.Equal(t, codes.Unavailable, e.Code, e)
				assert.Equal(t, client.RetryLater, e.Class, e)
				assert.False(t, e.FromService, e)
				assert.Equal(t, op, e.Op)
				assert.NotContains(t, e.Error(), "job_id", "the job's id stands in the URL")
			}
		})
	}

	hanging := func(arrived chan<- struct{}) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			<-r.Context().Done()
		}
	}
	t.Run("the caller's time is up", func(t *testing.T) {
		t.Parallel()
		_, url := serve(t, hanging(make(chan struct{}, 9)), nil, nil)
		for _, call := range every(connectPlain(t, url)) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // to connect takes a while on a busy machine
			e := failed(t, call(ctx))
			cancel()
			assert.Equal(t, codes.DeadlineExceeded, e.Code)
			assert.Equal(t, client.RetryLater, e.Class)
			assert.False(t, e.FromService)
			assert.Empty(t, e.Advice, "it did connect")
		}
	})
	t.Run("the caller leaves", func(t *testing.T) {
		t.Parallel()
		arrived := make(chan struct{}, 9)
		_, url := serve(t, hanging(arrived), nil, nil)
		for _, call := range every(connectPlain(t, url)) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-arrived
				cancel()
			}()
			e := failed(t, call(ctx))
			cancel()
			assert.Equal(t, codes.Canceled, e.Code)
			assert.Equal(t, client.RetryNow, e.Class)
			assert.False(t, e.FromService)
		}
	})
	t.Run("the connection is closed", func(t *testing.T) {
		t.Parallel()
		arrived := make(chan struct{}, 9)
		_, url := serve(t, hanging(arrived), nil, nil)
		for _, when := range []string{"before", "while it is called"} {
			c, err := Dial("big", &config.Deployment{Endpoint: url, Insecure: true})
			require.NoError(t, err)
			if when == "before" {
				require.NoError(t, c.Close())
			} else {
				go func() {
					<-arrived
					_ = c.Close()
				}()
			}
			_, err = c.Create(within(t), newRequest())
			e := failed(t, err)
			assert.Equal(t, codes.Canceled, e.Code)
			assert.Equal(t, client.RetryNow, e.Class)
			assert.Equal(t, "the connection was closed", e.Message)
		}
	})
	t.Run("bytes that are no HTTP", func(t *testing.T) {
		t.Parallel()
		lis := listen(t)
		go func() {
			for {
				conn, err := lis.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("\x00\xff not HTTP\r\n\r\n"))
				_ = conn.Close()
			}
		}()
		c := connectPlain(t, "http://"+lis.Addr().String())
		for _, call := range every(c) {
			e := failed(t, call(within(t)))
			assert.Equal(t, codes.Unavailable, e.Code, e)
			assert.Equal(t, client.RetryLater, e.Class)
			assert.False(t, e.FromService)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason, header string
		want           time.Duration
	}{
		{"none", "", 0},
		{"seconds", "3", 3 * time.Second},
		{"parts of one", " 1.5 ", 1500 * time.Millisecond},
		{"a pause cannot be negative", "-3", 0},
		{"nonsense", "soon", 0},
		{"no number", "NaN", 0},
		{"a date that has passed", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, c := to(t, 429, `{"error_code": "RESOURCE_EXHAUSTED", "message": "slow down"}`, "Retry-After", tt.header)
			_, err := c.Create(within(t), newRequest())
			e := failed(t, err)
			assert.Equal(t, tt.want, e.RetryAfter)
			assert.Equal(t, client.RetryLater, e.Class)
			assert.False(t, e.TooLarge)
		})
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	assert.Equal(t, 55*time.Second, retryAfter("Fri, 02 Jan 2026 03:05:00 GMT", now))
	assert.Equal(t, 55*time.Second, retryAfter("Friday, 02-Jan-26 03:05:00 GMT", now), "an older form of dates")
	for _, huge := range []string{"1e300", "Inf", "99999999999999999999"} {
		assert.Greater(t, retryAfter(huge, now), 10*365*24*time.Hour, huge)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	const least = 64 << 10
	large := newRequest()
	large.Inputs = literals(map[string]*core.Literal{"s": text(strings.Repeat("x", 2*least))})
	create := func(ctx context.Context, c *Conn) error { _, err := c.Create(ctx, large); return err }
	get := func(ctx context.Context, c *Conn) error { _, err := c.Get(ctx, ref); return err }
	big := `{"job_state": "RUNNING", "message": "` + strings.Repeat("x", 2*least) + `"}`
	inPieces := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		for range 1 << 20 { // it never would end by itself
			if _, err := w.Write([]byte(strings.Repeat(" ", least))); err != nil {
				return
			}
		}
	})
	tests := []struct {
		reason  string
		answer  http.Handler
		call    func(context.Context, *Conn) error
		limit   int
		says    string
		service bool
		sent    bool
	}{
		{reason: "a create over this side's limit is not sent", limit: least, call: create, says: "a request of 131"},
		{reason: "an execute neither", limit: least, says: "a request of 131",
			call: func(ctx context.Context, c *Conn) error { _, err := c.Execute(ctx, large); return err }},
		{reason: "an answer over this side's limit is not taken", limit: least, call: get, answer: answering(200, jsonType, big), says: "larger than max 65536", sent: true},
		{reason: "nor one whose length nobody knows", limit: least, call: get, answer: inPieces, says: "larger than max 65536", sent: true},
		{reason: "a create over the service's limit", limit: 1 << 20, call: create, sent: true, service: true,
			answer: answering(413, jsonType, `{"error_code": "RESOURCE_EXHAUSTED", "message": "over 1000 bytes"}`), says: "over 1000 bytes"},
		{reason: "over the limit of something on the way", limit: 1 << 20, call: create, sent: true,
			answer: answering(413, "text/html", `<html>`), says: "what is on the way"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			s, url := serve(t, tt.answer, nil, nil)
			c := connect(t, &config.Deployment{Endpoint: url, Insecure: true, MaxMessageSizeBytes: tt.limit})
			e := failed(t, tt.call(within(t), c))
			assert.True(t, e.TooLarge)
			assert.Equal(t, codes.ResourceExhausted, e.Code)
			assert.Equal(t, client.UserError, e.Class)
			assert.Equal(t, tt.service, e.FromService)
			assert.Equal(t, tt.sent, s.count() == 1)
			assert.Contains(t, e.Error(), tt.says)
			assert.Contains(t, e.Error(), fmt.Sprintf("%d bytes", tt.limit))
			assert.Contains(t, e.Error(), "plugins.backend.deployments.big.maxMessageSizeBytes")
		})
	}
	t.Run("as large as it may be", func(t *testing.T) {
		t.Parallel()
		exact := `{"job_state": "RUNNING", "message": "` + strings.Repeat("x", least-39) + `"}`
		require.Len(t, exact, least)
		_, url := serve(t, answering(200, jsonType, exact), nil, nil)
		require.NoError(t, get(within(t), connect(t, &config.Deployment{Endpoint: url, Insecure: true, MaxMessageSizeBytes: least})))
	})
}

func TestUnsendable(t *testing.T) {
	t.Parallel()
	s, c := to(t, 200, `{}`)
	for reason, spoil := range map[string]func(r *client.CreateRequest){
		"the output prefix is no text": func(r *client.CreateRequest) { r.OutputPrefix = "\xff" },
		"a label is none":              func(r *client.CreateRequest) { r.Metadata.Labels = map[string]string{"a": "\xff"} },
	} {
		bad := newRequest()
		spoil(bad)
		_, created := c.Create(within(t), bad)
		_, executed := c.Execute(within(t), bad)
		for _, err := range []error{created, executed} {
			e := failed(t, err)
			assert.Equal(t, client.UserError, e.Class, "%s: it never will be sent: %v", reason, e)
			assert.False(t, e.FromService)
		}
	}
	assert.Zero(t, s.count())
}

// A service that is away is found again at once when it is back.
func TestRecovery(t *testing.T) {
	t.Parallel()
	lis := listen(t)
	address := lis.Addr().String()
	c := connectPlain(t, "http://"+address)
	run := func(lis net.Listener) *http.Server {
		server := &http.Server{Handler: answering(200, jsonType, `{"plugins": []}`), ReadHeaderTimeout: limit}
		go func() { _ = server.Serve(lis) }()
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	server := run(lis)
	list := func() error { _, err := c.List(within(t)); return err }
	require.NoError(t, list())
	for range 3 {
		require.NoError(t, server.Close())
		e := failed(t, list())
		assert.Contains(t, e.Advice, "nothing listens")
		assert.Equal(t, client.RetryLater, e.Class)
		again, err := net.Listen("tcp", address)
		require.NoError(t, err)
		server = run(again)
		until(t, func() bool { return list() == nil })
	}
}

// What a proxy of the environment cannot do is not said of the endpoint.
func TestProxies(t *testing.T) {
	t.Parallel()
	unused := listen(t)
	require.NoError(t, unused.Close())
	refusing := func(status int) string {
		_, url := serve(t, answering(status, "text/html", "<html>no</html>"), nil, nil)
		return url
	}
	tests := []struct {
		reason, proxy, says string
		secure              bool
	}{
		{reason: "nothing listens there", proxy: "http://" + unused.Addr().String(), says: "connection refused"},
		{reason: "nothing listens there, for TLS", proxy: "http://me:s3cr3t@" + unused.Addr().String(), secure: true, says: "connection refused"},
		{reason: "its name does not resolve", proxy: "http://nowhere.invalid:3128", secure: true, says: "nowhere.invalid"},
		{reason: "it wants a password", proxy: refusing(407), says: "HTTP 407"},
		{reason: "it wants a password, for TLS", proxy: refusing(407), secure: true, says: "answered HTTP 407 Proxy Authentication Required"},
		{reason: "it makes no such connections", proxy: refusing(403), secure: true, says: "answered HTTP 403 Forbidden"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			d := &config.Deployment{Endpoint: "http://backend.invalid:8000", Insecure: true}
			if tt.secure {
				d = &config.Deployment{Endpoint: "https://backend.invalid:8000"}
			}
			c := connect(t, d)
			proxy, err := url.Parse(tt.proxy)
			require.NoError(t, err)
			c.http.Proxy = http.ProxyURL(proxy) // the environment is read once a process
			for _, call := range every(c) {
				e := failed(t, call(within(t)))
				assert.Equal(t, client.RetryLater, e.Class, e)
				assert.False(t, e.FromService, e)
				assert.Contains(t, e.Message, tt.says)
				assert.Contains(t, e.Advice, "NO_PROXY", e)
				assert.NotContains(t, e.Error(), "s3cr3t")
			}
		})
	}
}

package restclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = 20 * time.Second

// call is a request as it came.
type call struct {
	method, path string
	query        map[string][]string
	rawQuery     string
	header       http.Header
	body         string
	proto        string
}

// service is an HTTP server that remembers what it is asked.
type service struct {
	mu    sync.Mutex
	calls []call
	conns int
}

func (s *service) last(t *testing.T) call {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(t, s.calls)
	return s.calls[len(s.calls)-1]
}

func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = lis.Close() })
	return lis
}

// serve runs a handler until the test ends, and gives its URL. With a TLS configuration it speaks TLS.
func serve(tb testing.TB, h http.Handler, secure *tls.Config, protocols *http.Protocols) (s *service, url string) {
	tb.Helper()
	s = &service{}
	server := &http.Server{
		ReadHeaderTimeout: limit, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: secure,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			s.mu.Lock()
			s.calls = append(s.calls, call{r.Method, r.URL.EscapedPath(), r.URL.Query(), r.URL.RawQuery, r.Header, string(body), r.Proto})
			s.mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(body))
			h.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				s.conns++
				s.mu.Unlock()
			}
		},
	}
	tb.Cleanup(func() { _ = server.Close() })
	lis := listen(tb)
	if secure == nil {
		go func() { _ = server.Serve(lis) }()
		return s, "http://" + lis.Addr().String()
	}
	go func() { _ = server.ServeTLS(lis, "", "") }()
	return s, "https://" + lis.Addr().String()
}

// answering answers everything alike.
func answering(status int, contentType, body string, headers ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// connect dials deployment "big" until the test ends.
func connect(tb testing.TB, d *config.Deployment) *Conn {
	tb.Helper()
	d.Protocol = config.ProtocolREST
	c, err := Dial("big", d)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, c.Close()) })
	return c
}

func connectPlain(tb testing.TB, url string) *Conn {
	tb.Helper()
	return connect(tb, &config.Deployment{Endpoint: url, Insecure: true})
}

// to serves one answer for everything and connects to it.
func to(t *testing.T, status int, body string, headers ...string) (*service, *Conn) {
	t.Helper()
	s, url := serve(t, answering(status, jsonType, body, headers...), nil, nil)
	return s, connectPlain(t, url)
}

func within(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	tb.Cleanup(cancel)
	return ctx
}

// failed gives the *client.Error that every failed call must be.
func failed(t *testing.T, err error) *client.Error {
	t.Helper()
	require.Error(t, err)
	e, is := err.(*client.Error) //nolint:errorlint // nothing stands round it
	require.True(t, is, "%T: %v", err, err)
	require.NotNil(t, e)
	assert.Equal(t, "big", e.Deployment)
	assert.NotEmpty(t, e.Op)
	assert.NotEmpty(t, e.Endpoint)
	assert.NotZero(t, e.Class)
	return e
}

func equal(t *testing.T, want, got proto.Message) {
	t.Helper()
	assert.True(t, proto.Equal(want, got), "want %v\ngot  %v", want, got)
}

func number(n int64) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
	}}}}
}

func text(s string) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_StringValue{StringValue: s}},
	}}}}
}

func literals(kv map[string]*core.Literal) *core.LiteralMap { return &core.LiteralMap{Literals: kv} }

// newRequest is a create request with every field set.
func newRequest() *client.CreateRequest {
	return &client.CreateRequest{
		Target:         target,
		IdempotencyKey: "key-1",
		Template: &core.TaskTemplate{
			Id:   &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "p", Domain: "d", Name: "n", Version: "v"},
			Type: "my_task", TaskTypeVersion: 3, Config: map[string]string{"k": "v"},
		},
		Inputs:       literals(map[string]*core.Literal{"n": number(7)}),
		OutputPrefix: "s3://bucket/out/0",
		Metadata: client.Metadata{
			TaskExecutionID: &core.TaskExecutionIdentifier{
				RetryAttempt:    2,
				NodeExecutionId: &core.NodeExecutionIdentifier{NodeId: "n0", ExecutionId: &core.WorkflowExecutionIdentifier{Project: "p", Domain: "d", Name: "x"}},
			},
			Namespace: "p-d", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"},
			K8sServiceAccount: "sa", EnvironmentVariables: map[string]string{"E": "3"},
			Identity: &core.Identity{IamRole: "role"}, MaxAttempts: 4, Interruptible: true, InterruptibleFailureThreshold: 5,
			Overrides:           &core.TaskNodeOverrides{ContainerImage: "image"},
			MaxDatasetSizeBytes: 6,
		},
	}
}

var (
	target = client.Target{TaskType: "my task/ü", TaskTypeVersion: 3, PluginVersion: "v2"}
	ref    = client.JobRef{Target: target, ID: client.JobID("job/7 &ü"), OutputPrefix: "s3://bucket/out/0"}
)

// every is each call of a Conn.
func every(c *Conn) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		config.CallList:    func(ctx context.Context) error { _, err := c.List(ctx); return err },
		config.CallCreate:  func(ctx context.Context) error { _, err := c.Create(ctx, newRequest()); return err },
		config.CallGet:     func(ctx context.Context) error { _, err := c.Get(ctx, ref); return err },
		config.CallDelete:  func(ctx context.Context) error { return c.Delete(ctx, ref) },
		config.CallExecute: func(ctx context.Context) error { _, err := c.Execute(ctx, newRequest()); return err },
	}
}

// until waits for a condition in the test's own goroutine, where it may fail the test.
func until(t *testing.T, condition func() bool, what ...any) {
	t.Helper()
	for begin := time.Now(); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > limit {
			t.Fatal("never came true", what)
		}
	}
}

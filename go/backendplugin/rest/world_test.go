package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = 20 * time.Second

// service is flyteidl's services, and the extension, of function fields; one that is not set is not served.
type service struct {
	pb.UnimplementedAsyncAgentServiceServer
	pb.UnimplementedSyncAgentServiceServer
	pb.UnimplementedAgentMetadataServiceServer
	flytebackendv1.UnimplementedBackendServiceServer

	create  func(context.Context, *admin.CreateTaskRequest) ([]byte, error)
	get     func(context.Context, *admin.GetTaskRequest) (*admin.Resource, error)
	delete  func(context.Context, *admin.DeleteTaskRequest) error
	logs    func(*admin.GetTaskLogsRequest, pb.AsyncAgentService_GetTaskLogsServer) error
	metrics func(context.Context, *admin.GetTaskMetricsRequest) (*admin.GetTaskMetricsResponse, error)
	execute func(pb.SyncAgentService_ExecuteTaskSyncServer) error
	batch   func(context.Context, *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error)
	agents  []*admin.Agent
}

func (s *service) CreateTask(ctx context.Context, r *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	if s.create == nil {
		return s.UnimplementedAsyncAgentServiceServer.CreateTask(ctx, r)
	}
	id, err := s.create(ctx, r)
	return &admin.CreateTaskResponse{ResourceMeta: id}, err
}

func (s *service) GetTask(ctx context.Context, r *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	if s.get == nil {
		return s.UnimplementedAsyncAgentServiceServer.GetTask(ctx, r)
	}
	resource, err := s.get(ctx, r)
	return &admin.GetTaskResponse{Resource: resource}, err
}

func (s *service) DeleteTask(ctx context.Context, r *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	if s.delete == nil {
		return s.UnimplementedAsyncAgentServiceServer.DeleteTask(ctx, r)
	}
	return &admin.DeleteTaskResponse{}, s.delete(ctx, r)
}

func (s *service) GetTaskLogs(r *admin.GetTaskLogsRequest, stream pb.AsyncAgentService_GetTaskLogsServer) error {
	if s.logs == nil {
		return s.UnimplementedAsyncAgentServiceServer.GetTaskLogs(r, stream)
	}
	return s.logs(r, stream)
}

func (s *service) GetTaskMetrics(ctx context.Context, r *admin.GetTaskMetricsRequest) (*admin.GetTaskMetricsResponse, error) {
	if s.metrics == nil {
		return s.UnimplementedAsyncAgentServiceServer.GetTaskMetrics(ctx, r)
	}
	return s.metrics(ctx, r)
}

func (s *service) ExecuteTaskSync(stream pb.SyncAgentService_ExecuteTaskSyncServer) error {
	if s.execute == nil {
		return s.UnimplementedSyncAgentServiceServer.ExecuteTaskSync(stream)
	}
	return s.execute(stream)
}

func (s *service) GetTasks(ctx context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
	if s.batch == nil {
		return s.UnimplementedBackendServiceServer.GetTasks(ctx, r)
	}
	return s.batch(ctx, r)
}

func (s *service) ListAgents(context.Context, *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	return &admin.ListAgentsResponse{Agents: s.agents}, nil
}

// all are the services of s, polls of many jobs among them.
func all(s *service) rest.Services { return rest.Services{Async: s, Sync: s, Metadata: s, Batch: s} }

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// world is a handler that serves on a loopback port until the test ends.
type world struct {
	t       *testing.T
	address string
	client  *http.Client
	log     *buffer
}

func serve(t *testing.T, svc rest.Services, opts rest.Options) *world {
	t.Helper()
	w := &world{t: t, client: &http.Client{Transport: &http.Transport{}, Timeout: limit}, log: &buffer{}}
	opts.Log = slog.New(slog.NewTextHandler(w.log, nil))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.address = lis.Addr().String()
	server := &http.Server{Handler: rest.NewHandler(svc, opts), ReadHeaderTimeout: limit, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = server.Serve(lis) // Close ends it
	}()
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		_ = server.Close()
		<-gone
	})
	return w
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	text   string
}

// member is a member of the body, nil if there is none or the body is no JSON object.
func (a answer) member(name string) any {
	var body map[string]any
	_ = json.Unmarshal([]byte(a.text), &body)
	return body[name]
}

// do sends a request. A body is JSON, unless header, pairs of names and values, says something else.
func (w *world) do(method, path, body string, header ...string) answer {
	w.t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(within(w.t), method, "http://"+w.address+path, content)
	require.NoError(w.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	res, err := w.client.Do(req)
	require.NoError(w.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(w.t, err)
	return answer{res.StatusCode, res.Header, string(raw)}
}

// dial opens a connection to send bytes by hand.
func (w *world) dial() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.address)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(w.t, conn.SetDeadline(time.Now().Add(limit)))
	return conn
}

// overGRPC serves the same services over gRPC, and gives a connection.
func overGRPC(t *testing.T, s *service) *grpc.ClientConn {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	pb.RegisterAsyncAgentServiceServer(server, s)
	pb.RegisterSyncAgentServiceServer(server, s)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = server.Serve(lis) // Stop ends it
	}()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-gone
	})
	return conn
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func running(message string) *admin.Resource {
	return &admin.Resource{Phase: core.TaskExecution_RUNNING, Message: message}
}

func integer(n int64) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
	}}}}
}

func literals(name string, n int64) *core.LiteralMap {
	return &core.LiteralMap{Literals: map[string]*core.Literal{name: integer(n)}}
}

package grpcclient

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = 20 * time.Second

// fake is a service that answers by function fields; a call without one is Unimplemented, as with a service that lacks it.
type fake struct {
	service.UnimplementedAsyncAgentServiceServer
	service.UnimplementedSyncAgentServiceServer
	service.UnimplementedAgentMetadataServiceServer
	create  func(context.Context, *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error)
	get     func(context.Context, *admin.GetTaskRequest) (*admin.GetTaskResponse, error)
	delete  func(context.Context, *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error)
	list    func(context.Context) (*admin.ListAgentsResponse, error)
	execute func(service.SyncAgentService_ExecuteTaskSyncServer) error
	// many is not even registered while it is nil.
	many func(context.Context, *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error)
}

// manyServer is our own service beside flyteidl's.
type manyServer struct {
	flytebackendv1.UnimplementedBackendServiceServer
	f *fake
}

func (s manyServer) GetTasks(ctx context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
	return s.f.many(ctx, r)
}

func (f *fake) CreateTask(ctx context.Context, r *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	if f.create == nil {
		return f.UnimplementedAsyncAgentServiceServer.CreateTask(ctx, r)
	}
	return f.create(ctx, r)
}

func (f *fake) GetTask(ctx context.Context, r *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	if f.get == nil {
		return f.UnimplementedAsyncAgentServiceServer.GetTask(ctx, r)
	}
	return f.get(ctx, r)
}

func (f *fake) DeleteTask(ctx context.Context, r *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	if f.delete == nil {
		return f.UnimplementedAsyncAgentServiceServer.DeleteTask(ctx, r)
	}
	return f.delete(ctx, r)
}

func (f *fake) ListAgents(ctx context.Context, r *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	if f.list == nil {
		return f.UnimplementedAgentMetadataServiceServer.ListAgents(ctx, r)
	}
	return f.list(ctx)
}

func (f *fake) ExecuteTaskSync(s service.SyncAgentService_ExecuteTaskSyncServer) error {
	if f.execute == nil {
		return f.UnimplementedSyncAgentServiceServer.ExecuteTaskSync(s)
	}
	return f.execute(s)
}

// listen opens a free loopback port until the test ends.
func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

// serve runs the service until the test ends or the server is stopped.
func serve(t *testing.T, f *fake, opts ...grpc.ServerOption) (*grpc.Server, string) {
	t.Helper()
	s := grpc.NewServer(opts...)
	service.RegisterAsyncAgentServiceServer(s, f)
	service.RegisterSyncAgentServiceServer(s, f)
	service.RegisterAgentMetadataServiceServer(s, f)
	if f.many != nil {
		flytebackendv1.RegisterBackendServiceServer(s, manyServer{f: f})
	}
	return s, start(t, s)
}

// start serves s on a loopback port until the test ends.
func start(t *testing.T, s *grpc.Server) string {
	t.Helper()
	lis := listen(t)
	go func() { _ = s.Serve(lis) }()
	t.Cleanup(s.Stop)
	return lis.Addr().String()
}

// connect dials deployment "big" until the test ends.
func connect(t *testing.T, d *config.Deployment) *Conn {
	t.Helper()
	c, err := Dial("big", d)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

func connectPlain(t *testing.T, address string) *Conn {
	t.Helper()
	return connect(t, &config.Deployment{Endpoint: address, Insecure: true})
}

// backend starts a scriptable service and connects to it.
func backend(t *testing.T, plugins ...backendtest.Plugin) (*backendtest.Backend, *Conn) {
	t.Helper()
	b := backendtest.New(plugins...)
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	return b, connectPlain(t, b.Endpoint())
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

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// failure gives the *client.Error that every failed call must be.
func failure(t *testing.T, err error) *client.Error {
	t.Helper()
	var e *client.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "big", e.Deployment)
	assert.NotEmpty(t, e.Op)
	assert.NotEmpty(t, e.Endpoint)
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

// request is a create request with every field set.
func request() *client.CreateRequest {
	return &client.CreateRequest{
		Target:         client.Target{TaskType: "my_task", TaskTypeVersion: 3, PluginVersion: "v2"},
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

// metadataSent is what request's metadata is in flyteidl's words, written out rather than converted.
func metadataSent() *admin.TaskExecutionMetadata {
	m := request().Metadata
	return &admin.TaskExecutionMetadata{
		TaskExecutionId: m.TaskExecutionID, Namespace: "p-d",
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"},
		K8SServiceAccount: "sa", EnvironmentVariables: map[string]string{"E": "3"},
		Identity: &core.Identity{IamRole: "role"}, MaxAttempts: 4, Interruptible: true, InterruptibleFailureThreshold: 5,
		Overrides: &core.TaskNodeOverrides{ContainerImage: "image"},
	}
}

var ref = client.JobRef{
	Target: client.Target{TaskType: "my_task", TaskTypeVersion: 3, PluginVersion: "v2"},
	ID:     client.JobID("job-7"), OutputPrefix: "s3://bucket/out/0",
}

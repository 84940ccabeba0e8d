package backendplugin_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = 20 * time.Second

type values = map[string]any

// fake is a plugin of function fields; one that is not set must not be called.
type fake[In, ID, Out any] struct {
	create func(context.Context, *backendplugin.Request[In]) (ID, error)
	get    func(context.Context, *backendplugin.Job[ID]) (*backendplugin.Status[Out], error)
	delete func(context.Context, *backendplugin.Job[ID]) error
}

func (f *fake[In, ID, Out]) Create(ctx context.Context, r *backendplugin.Request[In]) (ID, error) {
	return f.create(ctx, r)
}

func (f *fake[In, ID, Out]) Get(ctx context.Context, j *backendplugin.Job[ID]) (*backendplugin.Status[Out], error) {
	return f.get(ctx, j)
}

func (f *fake[In, ID, Out]) Delete(ctx context.Context, j *backendplugin.Job[ID]) error {
	return f.delete(ctx, j)
}

// simple is a fake with plain values and a text as job id.
type simple = fake[values, string, values]

type fakeSync[In, Out any] struct {
	execute func(context.Context, *backendplugin.Request[In]) (*backendplugin.Status[Out], error)
}

func (f *fakeSync[In, Out]) Execute(ctx context.Context, r *backendplugin.Request[In]) (*backendplugin.Status[Out], error) {
	return f.execute(ctx, r)
}

// world is a service that runs, and a connection to it.
type world struct {
	t       *testing.T
	conn    *grpc.ClientConn
	address string
	log     *buffer
	async   pb.AsyncAgentServiceClient
	sync    pb.SyncAgentServiceClient
	meta    pb.AgentMetadataServiceClient
	// stop drains the service; ended gives what Serve gave.
	stop  context.CancelFunc
	ended chan error
}

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

// start serves plugins in plain text on a loopback port until the test ends.
func start(t *testing.T, plugins backendplugin.Plugins, opts ...backendplugin.Option) *world {
	t.Helper()
	w := startWith(t, plugins, append([]backendplugin.Option{backendplugin.WithPlainText()}, opts...)...)
	w.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
	return w
}

func startWith(t *testing.T, plugins backendplugin.Plugins, opts ...backendplugin.Option) *world {
	t.Helper()
	w := &world{t: t, log: &buffer{}, ended: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	opts = append([]backendplugin.Option{backendplugin.WithLogger(log), backendplugin.WithDrain(0, limit)}, opts...)
	s, err := backendplugin.NewServer(plugins, opts...)
	require.NoError(t, err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.address = lis.Addr().String()
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background()) //nolint:usetesting // it ends after the test's own clean-up has begun
	gone := make(chan struct{})
	go func() {
		w.ended <- s.Serve(ctx, lis)
		close(gone)
	}()
	t.Cleanup(func() {
		w.stop()
		<-gone
	})
	return w
}

func (w *world) dial(opts ...grpc.DialOption) {
	w.t.Helper()
	opts = append(opts, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	var err error
	w.conn, err = grpc.NewClient(w.address, opts...)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = w.conn.Close() })
	w.async, w.sync, w.meta = pb.NewAsyncAgentServiceClient(w.conn), pb.NewSyncAgentServiceClient(w.conn), pb.NewAgentMetadataServiceClient(w.conn)
}

func (w *world) within() context.Context { return within(w.t) }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// with adds request metadata.
func with(ctx context.Context, kv ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

const (
	keyHeader     = "flyte-backend-idempotency-key"
	versionHeader = "flyte-backend-plugin-version"
)

// create starts a job with the inputs.
func (w *world) create(ctx context.Context, taskType string, inputs *core.LiteralMap) ([]byte, error) {
	r, err := w.async.CreateTask(ctx, &admin.CreateTaskRequest{Template: &core.TaskTemplate{Type: taskType}, Inputs: inputs})
	return r.GetResourceMeta(), err
}

func (w *world) get(ctx context.Context, taskType, job string) (*admin.Resource, error) {
	r, err := w.async.GetTask(ctx, &admin.GetTaskRequest{TaskCategory: &admin.TaskCategory{Name: taskType}, ResourceMeta: []byte(job)})
	return r.GetResource(), err
}

func (w *world) delete(ctx context.Context, taskType, job string) error {
	_, err := w.async.DeleteTask(ctx, &admin.DeleteTaskRequest{TaskCategory: &admin.TaskCategory{Name: taskType}, ResourceMeta: []byte(job)})
	return err
}

// execute sends the parts, says that there are no more, and reads the answer's only message.
func (w *world) execute(ctx context.Context, parts ...*admin.ExecuteTaskSyncRequest) (*admin.Resource, error) {
	w.t.Helper()
	stream, err := w.sync.ExecuteTaskSync(ctx)
	require.NoError(w.t, err)
	for _, p := range parts {
		if stream.Send(p) != nil {
			break // the reason comes with Recv
		}
	}
	_ = stream.CloseSend()
	r, err := stream.Recv()
	return r.GetHeader().GetResource(), err
}

func header(taskType string) *admin.ExecuteTaskSyncRequest {
	return &admin.ExecuteTaskSyncRequest{Part: &admin.ExecuteTaskSyncRequest_Header{Header: &admin.CreateRequestHeader{
		Template: &core.TaskTemplate{Type: taskType}, OutputPrefix: "s3://b/0", MaxDatasetSizeBytes: 7,
	}}}
}

func part(inputs values) *admin.ExecuteTaskSyncRequest {
	return &admin.ExecuteTaskSyncRequest{Part: &admin.ExecuteTaskSyncRequest_Inputs{Inputs: literals(inputs)}}
}

// literals are the values as literals.
func literals(v values) *core.LiteralMap {
	m, err := backendplugin.EncodeOutputs(v)
	if err != nil {
		panic(err)
	}
	return m
}

func integer(n int64) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
	}}}}
}

func createRequest(template *core.TaskTemplate, inputs values) *admin.CreateTaskRequest {
	return &admin.CreateTaskRequest{Template: template, Inputs: literals(inputs)}
}

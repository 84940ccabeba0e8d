// Package grpcclient is the gRPC transport of package client. It speaks flyteidl's AsyncAgentService, SyncAgentService and
// AgentMetadataService as they are, so that every flytekit connector service is a backend plugin service too. Of a service
// that has our own BackendService as well it asks for many jobs at once.
package grpcclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/batch"
	"github.com/flyte-backend/flyte-backend/go/client/internal/diagnose"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Calls spread over the replicas that the endpoint's name resolves to.
const serviceConfig = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// maxRedialDelay bounds gRPC's own pause between dials. Its default of two minutes would keep a task waiting long after
// its service came back.
const maxRedialDelay = 2 * time.Second

// Conn is one connection to a deployment. It implements client.Client.
type Conn struct {
	name  string
	d     *config.Deployment
	cc    *grpc.ClientConn
	async service.AsyncAgentServiceClient
	sync  service.SyncAgentServiceClient
	meta  service.AgentMetadataServiceClient
	many  flytebackendv1.BackendServiceClient
	polls *batch.Poller
}

var _ client.Client = (*Conn)(nil)

// Dial prepares the connection to deployment d, called name in messages. It reads the TLS files and does not wait for the
// service. Close it once; calls under way then fail as Canceled.
func Dial(name string, d *config.Deployment) (*Conn, error) {
	creds := insecure.NewCredentials()
	if !d.Insecure {
		var err error
		if creds, err = tlsCredentials(d.TLS); err != nil {
			return nil, fmt.Errorf("plugins.backend.deployments.%s.tls: %w", name, err)
		}
	}
	cc, err := grpc.NewClient(d.Endpoint,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(),
		grpc.WithStatsHandler(answerWatch{}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(d.MaxMessageSize()),
			grpc.MaxCallSendMsgSize(d.MaxMessageSize())),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRedialDelay},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("plugins.backend.deployments.%s.endpoint %q: %w", name, d.Endpoint, err)
	}
	c := &Conn{
		name: name, d: d, cc: cc,
		async: service.NewAsyncAgentServiceClient(cc),
		sync:  service.NewSyncAgentServiceClient(cc),
		meta:  service.NewAgentMetadataServiceClient(cc),
		many:  flytebackendv1.NewBackendServiceClient(cc),
	}
	c.polls = batch.New(single{c}, name, d.Endpoint)
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.cc.Close() }

// List asks AgentMetadataService.
func (c *Conn) List(ctx context.Context) ([]client.Registration, error) {
	var out []client.Registration
	err := c.unary(ctx, config.CallList, "", "", func(ctx context.Context) error {
		res, err := c.meta.ListAgents(ctx, &admin.ListAgentsRequest{})
		out = registrations(res.GetAgents())
		return err
	})
	return out, err
}

// Create sends CreateTask.
func (c *Conn) Create(ctx context.Context, req *client.CreateRequest) (client.JobID, error) {
	var id client.JobID
	err := c.unary(ctx, config.CallCreate, req.Target.PluginVersion, req.IdempotencyKey,
		func(ctx context.Context) error {
			res, err := c.async.CreateTask(ctx, createRequest(req))
			id = res.GetResourceMeta()
			return err
		})
	return id, err
}

// Get polls a job, together with others that are polled at about the same time if the service has BackendService.
func (c *Conn) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	return c.polls.Get(ctx, ref)
}

// single is a Conn whose polls are calls of their own. It implements batch.Transport.
type single struct{ *Conn }

// Get sends GetTask.
func (c single) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	var job *client.Job
	err := c.unary(ctx, config.CallGet, ref.Target.PluginVersion, "",
		func(ctx context.Context) error {
			res, err := c.async.GetTask(ctx, getRequest(ref))
			if err == nil && res.GetResource() == nil {
				err = c.invalid(config.CallGet, "the answer holds no resource")
			}
			job = jobOf(res.GetResource())
			return err
		})
	if err != nil {
		return nil, err
	}
	return job, nil
}

// GetMany sends GetTasks.
func (c single) GetMany(ctx context.Context, refs []client.JobRef) ([]batch.Result, error) {
	var out []batch.Result
	err := c.unary(ctx, config.CallGet, "", "", func(ctx context.Context) error {
		res, err := c.many.GetTasks(ctx, getTasksRequest(refs))
		for _, r := range res.GetResults() {
			out = append(out, c.result(r))
		}
		return err
	})
	if err == nil {
		return out, nil
	}
	switch client.AsError(err).Code {
	case codes.Unimplemented, codes.NotFound, codes.PermissionDenied:
		// There is no such call, or something on the way lets only those through that it knows: polls of single jobs find out.
		return nil, errors.Join(batch.ErrNotServed, err)
	default:
		return nil, err
	}
}

// result checks and converts what GetTasks tells of one job.
func (c *Conn) result(r *flytebackendv1.TaskResult) batch.Result {
	switch {
	case r.GetTask().GetResource() != nil:
		job := jobOf(r.GetTask().GetResource())
		job.PollAfter = max(r.GetTask().GetPollAfter().AsDuration(), 0)
		return batch.Result{Job: job}
	case r.GetError().GetCode() > 0:
		f := r.GetError()
		code := codes.Code(f.GetCode()) //nolint:gosec // it is positive
		e := &client.Error{
			Op: config.CallGet, Deployment: c.name, Endpoint: c.d.Endpoint, Code: code, Class: client.ClassOf(code), FromService: true,
			Message: diagnose.Bounded(f.GetMessage()), RetryAfter: max(f.GetRetryAfter().AsDuration(), 0),
		}
		advise(e, c.d, f.GetMessage())
		return batch.Result{Err: e}
	default:
		return batch.Result{Err: c.invalid(config.CallGet, "the result of a job holds neither a resource nor an error")}
	}
}

// Delete sends DeleteTask. A job that the service does not know is deleted already.
func (c *Conn) Delete(ctx context.Context, ref client.JobRef) error {
	err := c.unary(ctx, config.CallDelete, ref.Target.PluginVersion, "",
		func(ctx context.Context) error {
			_, err := c.async.DeleteTask(ctx, deleteRequest(ref))
			return err
		})
	if e := (*client.Error)(nil); errors.As(err, &e) && e.Code == codes.NotFound && e.FromService {
		return nil
	}
	return err
}

// Execute sends ExecuteTaskSync: header, then inputs, then it reads the header and any number of outputs and merges them.
func (c *Conn) Execute(ctx context.Context, req *client.CreateRequest) (*client.Job, error) {
	ctx, answered := watchAnswer(outgoing(ctx, req.Target.PluginVersion, req.IdempotencyKey))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when its answer is not read to the end
	stream, err := c.sync.ExecuteTaskSync(ctx)
	if err != nil {
		return nil, c.wrap(ctx, config.CallExecute, err, answered.Load())
	}
	fail := func(err error) (*client.Job, error) {
		return nil, c.wrap(ctx, config.CallExecute, err, answered.Load())
	}
	for _, part := range executeRequests(req) {
		// io.EOF means that the service ended the call early: its reason comes with Recv.
		if err := stream.Send(part); err != nil && !errors.Is(err, io.EOF) {
			return fail(err)
		} else if err != nil {
			break
		}
	}
	if err := stream.CloseSend(); err != nil {
		return fail(err)
	}
	var job *client.Job
	var streamed *core.LiteralMap
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(err)
		}
		switch part := res.GetRes().(type) {
		case *admin.ExecuteTaskSyncResponse_Header:
			if job != nil {
				return nil, c.invalid(config.CallExecute, "the answer holds two headers")
			}
			job = jobOf(part.Header.GetResource())
		case *admin.ExecuteTaskSyncResponse_Outputs:
			if streamed, err = merge(streamed, part.Outputs); err != nil {
				return nil, c.invalid(config.CallExecute, err.Error())
			}
		}
	}
	if job == nil {
		return nil, c.invalid(config.CallExecute, "the answer holds no header with a resource")
	}
	if job.Outputs, err = merge(job.Outputs, streamed); err != nil {
		return nil, c.invalid(config.CallExecute, err.Error())
	}
	return job, nil
}

// unary runs one call with its metadata and turns what it gives into an *client.Error.
func (c *Conn) unary(ctx context.Context, op, pluginVersion, key string, call func(context.Context) error) error {
	ctx, answered := watchAnswer(outgoing(ctx, pluginVersion, key))
	if err := call(ctx); err != nil {
		return c.wrap(ctx, op, err, answered.Load())
	}
	return nil
}

func outgoing(ctx context.Context, pluginVersion, key string) context.Context {
	var kv []string
	if pluginVersion != "" {
		kv = append(kv, client.MetadataPluginVersion, pluginVersion)
	}
	if key != "" {
		kv = append(kv, client.MetadataIdempotencyKey, key)
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// invalid is an answer that breaks the contract.
func (c *Conn) invalid(op, what string) *client.Error {
	return client.ContractBroken(op, c.name, c.d.Endpoint, what)
}

// wrap makes the *client.Error of a failed call; answered says whether the service brought the call to its end.
func (c *Conn) wrap(ctx context.Context, op string, err error, answered bool) error {
	var already *client.Error
	if errors.As(err, &already) {
		return already
	}
	st := status.Convert(err)
	e := &client.Error{
		Op: op, Deployment: c.name, Endpoint: c.d.Endpoint,
		Code: st.Code(), Class: client.ClassOf(st.Code()), Message: diagnose.Bounded(st.Message()),
		FromService: answered, RetryAfter: retryAfter(st),
	}
	switch local := st.Message(); {
	case e.Code == codes.DeadlineExceeded && timeIsUp(ctx):
		// grpc tells the service our deadline, so its answer that time is up, if it wins the race, is our own.
		e.FromService = false
	case receivedTooLarge(local, c.d.MaxMessageSize()):
		e.FromService = false
	case strings.HasPrefix(local, "grpc: failed to unmarshal"):
		// The service answered, with garbage; whether its trailers are here by now is a matter of luck.
		e.FromService = true
	case !answered && strings.HasPrefix(local, "grpc: error while marshaling"):
		// Nothing was sent, and nothing ever can be.
		e.Class = client.UserError
	}
	if !e.FromService && e.Class == client.SystemError {
		// Internal and Unknown are also what grpc calls a broken stream.
		e.Class = client.RetryLater
	}
	advise(e, c.d, st.Message())
	return e
}

// timeIsUp says whether the deadline of ctx has passed, even if ctx itself has not noticed yet.
func timeIsUp(ctx context.Context) bool {
	deadline, has := ctx.Deadline()
	return has && !time.Now().Before(deadline)
}

// answerWatch tells apart who ended a call. A status that the service sent arrives in trailers; one that grpc made up on
// this side comes without, even when the service's headers and first messages had arrived.
type answerWatch struct{}

type answerKey struct{}

// watchAnswer gives the context for one call, and what says whether that call's trailers have arrived.
func watchAnswer(ctx context.Context) (context.Context, *atomic.Bool) {
	answered := new(atomic.Bool)
	return context.WithValue(ctx, answerKey{}, answered), answered
}

func (answerWatch) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); !ok {
		return
	}
	if answered, ok := ctx.Value(answerKey{}).(*atomic.Bool); ok {
		answered.Store(true)
	}
}

func (answerWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (answerWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (answerWatch) HandleConn(context.Context, stats.ConnStats)                       {}

package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// overGRPC is a faulty service over gRPC.
type overGRPC struct {
	service.UnimplementedAsyncAgentServiceServer
	service.UnimplementedSyncAgentServiceServer
	service.UnimplementedAgentMetadataServiceServer
	flytebackendv1.UnimplementedBackendServiceServer
	f *faulty
}

func (f *faulty) serveGRPC(lis net.Listener) func() {
	opts := []grpc.ServerOption{grpc.MaxRecvMsgSize(8 << 20), grpc.ForceServerCodecV2(&spying{encoding.GetCodecV2("proto"), f})}
	if f.is("unknown methods are a fault") {
		opts = append(opts, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.Internal, "no route") }))
	}
	o := &overGRPC{f: f}
	opts = append(opts, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if e := f.full(); e != nil {
			return nil, o.err(e)
		}
		return handle(ctx, req)
	}))
	s := grpc.NewServer(opts...)
	service.RegisterAsyncAgentServiceServer(s, o)
	service.RegisterSyncAgentServiceServer(s, o)
	service.RegisterAgentMetadataServiceServer(s, o)
	if !f.is(bare) {
		flytebackendv1.RegisterBackendServiceServer(s, o)
		h := health.NewServer()
		if f.is("never healthy") {
			h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		}
		healthpb.RegisterHealthServer(s, h)
		switch {
		case f.is("reflection without services"):
			reflection.RegisterV1(empty{s})
		case f.is("reflection v1alpha without services"):
			reflection.Register(empty{onlyAlpha{s}})
		case f.is(reflectionAlpha):
			reflection.Register(onlyAlpha{s})
		default:
			reflection.Register(s)
		}
	}
	go func() { _ = s.Serve(lis) }()
	return s.Stop
}

// empty registers at a server, and says that there is nothing.
type empty struct{ reflection.GRPCServer }

func (empty) GetServiceInfo() map[string]grpc.ServiceInfo { return nil }

// reflectionAlpha is no fault: a service has the older reflection alone, as Python's library does.
const reflectionAlpha = "reflection is v1alpha"

// onlyAlpha registers no newer reflection at a server.
type onlyAlpha struct{ *grpc.Server }

func (o onlyAlpha) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if desc.ServiceName != "grpc.reflection.v1.ServerReflection" {
		o.Server.RegisterService(desc, impl)
	}
}

// spying is gRPC's codec for the faults that are about bytes.
type spying struct {
	encoding.CodecV2
	f *faulty
}

func (c *spying) Unmarshal(data mem.BufferSlice, v any) error {
	raw := data.Materialize()
	err := c.CodecV2.Unmarshal(data, v)
	f := c.f
	switch {
	case err != nil && f.is("dies of garbage") && string(raw) == `{"json": true}`,
		err != nil && f.is("dies of text that is no UTF-8") && strings.Contains(err.Error(), "UTF-8"),
		f.is("dies of deep nesting") && strings.Contains(string(raw), "conformance_nested"):
		f.die()
	case f.is("repeated fields are refused") && strings.HasPrefix(string(raw), "\x1a\x11/tmp/first-prefix"):
		return errors.New("output_prefix twice")
	case err != nil && f.is("incomplete messages are taken") && !strings.Contains(err.Error(), "UTF-8"):
		m, ok := v.(proto.Message)
		if ok {
			_ = proto.Unmarshal(raw, m)
		}
		return nil
	}
	return err
}

func value(ctx context.Context, key string) string {
	if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (o *overGRPC) err(e *ferr) error {
	st := status.New(e.code, e.message)
	if e.pause {
		st, _ = st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})
	}
	if e.retry != "" {
		st, _ = st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(-time.Second)})
	}
	return st.Err()
}

func base(ctx context.Context) frequest {
	return frequest{version: value(ctx, "flyte-backend-plugin-version"), key: value(ctx, "flyte-backend-idempotency-key"), single: true, echo: value(ctx, "authorization")}
}

func (o *overGRPC) ListAgents(context.Context, *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	o.f.beforeList()
	out := &admin.ListAgentsResponse{}
	for _, p := range o.f.plugins() {
		a := &admin.Agent{Name: p.name + "@" + p.version, IsSync: p.sync}
		switch {
		case o.f.is("old task types only") && p.taskType == "work":
			a.SupportedTaskTypes = []string{p.taskType}
		case len(p.versions) == 0:
			a.SupportedTaskCategories = []*admin.TaskCategory{{Name: p.taskType}}
		}
		for _, v := range p.versions {
			a.SupportedTaskCategories = append(a.SupportedTaskCategories, &admin.TaskCategory{Name: p.taskType, Version: v})
		}
		out.Agents = append(out.Agents, a)
	}
	return out, nil
}

func (o *overGRPC) GetAgent(ctx context.Context, r *admin.GetAgentRequest) (*admin.GetAgentResponse, error) {
	all, _ := o.ListAgents(ctx, nil)
	for _, a := range all.GetAgents() {
		if a.GetName() == r.GetName() && !o.f.is("agents cannot be asked for") {
			return &admin.GetAgentResponse{Agent: a}, nil
		}
	}
	if o.f.is("every agent is there") {
		return &admin.GetAgentResponse{Agent: &admin.Agent{Name: r.GetName()}}, nil
	}
	return nil, status.Error(codes.NotFound, "no such agent")
}

func (o *overGRPC) CreateTask(ctx context.Context, r *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	q := base(ctx)
	q.template, q.inputs, q.prefix, q.metadata = r.GetTemplate(), r.GetInputs(), r.GetOutputPrefix(), r.GetTaskExecutionMetadata()
	q.taskType, q.taskTypeVersion, q.unknownFields = q.template.GetType(), q.template.GetTaskTypeVersion(), len(r.ProtoReflect().GetUnknown()) > 0
	id, e := o.f.create(ctx, &q)
	if e != nil {
		return nil, o.err(e)
	}
	return &admin.CreateTaskResponse{ResourceMeta: []byte(id)}, nil
}

func resource(s *fstate) *admin.Resource {
	out := &admin.Resource{Message: s.message, Outputs: s.outputs, LogLinks: s.links}
	switch s.phase {
	case "DONE":
		out.Phase = 99
	default:
		out.Phase = core.TaskExecution_Phase(core.TaskExecution_Phase_value[s.phase])
	}
	if s.errorCode != "" {
		out.AgentError = &admin.AgentError{Code: s.errorCode}
	}
	return out
}

func (o *overGRPC) job(ctx context.Context, c *admin.TaskCategory, id []byte) *frequest {
	q := base(ctx)
	q.taskType, q.taskTypeVersion, q.id = c.GetName(), c.GetVersion(), id
	return &q
}

func (o *overGRPC) GetTask(ctx context.Context, r *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	if o.f.is("binary metadata is a fault") && value(ctx, "x-conformance-bin") != "" {
		return nil, status.Error(codes.Internal, "UnicodeDecodeError")
	}
	s, e := o.f.get(ctx, o.job(ctx, r.GetTaskCategory(), r.GetResourceMeta()))
	if e != nil {
		return nil, o.err(e)
	}
	return &admin.GetTaskResponse{Resource: resource(s)}, nil
}

func (o *overGRPC) DeleteTask(ctx context.Context, r *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	if e := o.f.delete(ctx, o.job(ctx, r.GetTaskCategory(), r.GetResourceMeta())); e != nil {
		return nil, o.err(e)
	}
	return &admin.DeleteTaskResponse{}, nil
}

func (o *overGRPC) GetTaskLogs(r *admin.GetTaskLogsRequest, stream service.AsyncAgentService_GetTaskLogsServer) error {
	next, e := o.f.logs(string(r.GetResourceMeta()))
	if e != nil {
		return o.err(e)
	}
	_ = stream.Send(&admin.GetTaskLogsResponse{Part: &admin.GetTaskLogsResponse_Header{Header: &admin.GetTaskLogsResponseHeader{Token: next}}})
	return stream.Send(&admin.GetTaskLogsResponse{Part: &admin.GetTaskLogsResponse_Body{Body: &admin.GetTaskLogsResponseBody{Results: []string{"a line\n"}}}})
}

// logs gives the token of the next page.
func (f *faulty) logs(id string) (string, *ferr) {
	known := f.store.with(id, func(*fjob) {})
	switch {
	case f.is(bare):
		return "", fail(codes.Unimplemented, "no logs")
	case f.is("logs that are not there are UNKNOWN"):
		return "", fail(codes.Unknown, "AttributeError")
	case !known && !f.is("unknown jobs have logs"):
		return "", fail(codes.NotFound, "there is no such job")
	case f.is("logs never end"):
		return "1", nil
	}
	return "", nil
}

// metrics gives the name of the one there is.
func (f *faulty) metrics(id string) (string, *ferr) {
	known := f.store.with(id, func(*fjob) {})
	switch {
	case f.is(bare):
		return "", fail(codes.Unimplemented, "no metrics")
	case f.is("metrics that are not there are UNKNOWN"):
		return "", fail(codes.Unknown, "AttributeError")
	case !known && !f.is("unknown jobs have metrics"):
		return "", fail(codes.NotFound, "there is no such job")
	case f.is("metrics have no names"):
		return "", nil
	}
	return "EXECUTION_METRIC_USED_CPU_AVG", nil
}

func (o *overGRPC) GetTaskMetrics(_ context.Context, r *admin.GetTaskMetricsRequest) (*admin.GetTaskMetricsResponse, error) {
	name, e := o.f.metrics(string(r.GetResourceMeta()))
	if e != nil {
		return nil, o.err(e)
	}
	return &admin.GetTaskMetricsResponse{Results: []*core.ExecutionMetricResult{{Metric: name}}}, nil
}

func (o *overGRPC) ExecuteTaskSync(stream service.SyncAgentService_ExecuteTaskSyncServer) error {
	q := base(stream.Context())
	q.inputs = &core.LiteralMap{Literals: map[string]*core.Literal{}}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h := part.GetHeader(); h != nil {
			q.template = h.GetTemplate()
		} else if o.f.is("the last inputs win") {
			q.inputs = part.GetInputs()
		} else {
			proto.Merge(q.inputs, part.GetInputs())
		}
	}
	if q.template == nil && !o.f.is("no header is needed") {
		return status.Error(codes.InvalidArgument, "the header is missing")
	}
	if q.template == nil {
		q.template = &core.TaskTemplate{Type: "sum"}
	}
	q.taskType, q.taskTypeVersion = q.template.GetType(), q.template.GetTaskTypeVersion()
	s, e := o.f.execute(stream.Context(), &q)
	if e != nil {
		return o.err(e)
	}
	out := s.outputs
	s.outputs = nil
	header := &admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{Resource: resource(s)}}}
	if err := stream.Send(header); err != nil || out == nil {
		return err
	}
	return stream.Send(&admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Outputs{Outputs: out}})
}

// checkBatch refuses a batch as a whole.
func (f *faulty) checkBatch(n int) *ferr {
	switch {
	case n == 0 && !f.is("polls of no job"), n > 1000 && !f.is("polls of any number"), n > 500 && f.is("at most 500 polls"):
		return fail(codes.InvalidArgument, "1 to 1000 jobs, not %d", n)
	}
	return nil
}

// shapeBatch gives the results of a batch the form that the fault wants.
func shapeBatch[T any](f *faulty, results []T) []T {
	switch {
	case f.is("a result too few") && len(results) > 1:
		return results[1:]
	case f.is("results in another order"):
		for i, j := 0, len(results)-2; i < j; i, j = i+1, j-1 {
			results[i], results[j] = results[j], results[i]
		}
	}
	return results
}

func (o *overGRPC) result(ctx context.Context, r *flytebackendv1.TaskRef) (*flytebackendv1.TaskResult, *ferr) {
	q := base(ctx)
	q.taskType, q.taskTypeVersion, q.version, q.id, q.single = r.GetTaskCategory().GetName(), r.GetTaskCategory().GetVersion(), r.GetPluginVersion(), r.GetResourceMeta(), false
	s, e := o.f.get(ctx, &q)
	if e != nil {
		if o.f.is("errors of a batch without a message") {
			e.message = ""
		}
		return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Error{Error: &flytebackendv1.Error{Code: int32(e.code), Message: e.message}}}, e
	}
	return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Task{Task: &flytebackendv1.Task{Resource: resource(s)}}}, nil
}

func (o *overGRPC) GetTasks(ctx context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
	if e := o.f.checkBatch(len(r.GetTasks())); e != nil {
		return nil, o.err(e)
	}
	out := &flytebackendv1.GetTasksResponse{}
	for _, t := range r.GetTasks() {
		one, e := o.result(ctx, t)
		if e != nil && o.f.is("one wrong job fails all") {
			return nil, o.err(e)
		}
		out.Results = append(out.Results, one)
	}
	out.Results = shapeBatch(o.f, out.GetResults())
	return out, nil
}

func (o *overGRPC) WatchTasks(stream flytebackendv1.BackendService_WatchTasksServer) error {
	requests := make(chan *flytebackendv1.WatchTasksRequest)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				cancel()
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	last := map[uint64]string{}
	follow := map[uint64]*flytebackendv1.TaskRef{}
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-requests:
			for _, w := range r.GetFollow() {
				follow[w.GetWatchId()] = w.GetTask()
				delete(last, w.GetWatchId())
			}
			if len(r.GetUnfollow()) > 0 && o.f.is("unfollowing ends the stream") {
				return status.Error(codes.Internal, "KeyError")
			}
		case <-tick.C:
		}
		for id, ref := range follow {
			one, e := o.result(ctx, ref)
			if e != nil && o.f.is("an unknown job ends the stream") {
				return o.err(e)
			}
			phase := fmt.Sprint(one.GetTask().GetResource().GetPhase(), e != nil)
			before, told := last[id]
			if told && before == phase {
				continue
			}
			last[id] = phase
			final := one.GetTask().GetResource().GetPhase() == core.TaskExecution_SUCCEEDED || one.GetTask().GetResource().GetPhase() == core.TaskExecution_ABORTED || e != nil
			if final {
				delete(follow, id)
			}
			if !told && e == nil && o.f.is("no state at once") || told && o.f.is("no news of the end") {
				continue
			}
			if o.f.is("watch ids of its own") {
				id += 100
			}
			if err := stream.Send(&flytebackendv1.WatchTasksResponse{WatchId: id, Result: one}); err != nil {
				return err
			}
		}
	}
}

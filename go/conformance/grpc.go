package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Keys of request metadata.
const (
	keyMetadata     = "flyte-backend-idempotency-key"
	versionMetadata = "flyte-backend-plugin-version"
)

// Full names of methods that are sent raw.
const (
	methodCreate = "/flyteidl.service.AsyncAgentService/CreateTask"
	methodGet    = "/flyteidl.service.AsyncAgentService/GetTask"
	methodDelete = "/flyteidl.service.AsyncAgentService/DeleteTask"
	methodList   = "/flyteidl.service.AgentMetadataService/ListAgents"
)

// grpcDriver speaks gRPC over one connection.
type grpcDriver struct {
	cc      *grpc.ClientConn
	headers map[string]string
}

func tlsConfig(o Options) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.CAFile != "" {
		raw, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("conformance: CAFile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("conformance: CAFile %s holds no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("conformance: CertFile and KeyFile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func dialGRPC(o Options, endpoint string) (*grpcDriver, error) {
	creds := insecure.NewCredentials()
	if !o.Insecure {
		c, err := tlsConfig(o)
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(c)
	}
	cc, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig(), grpc.WithStatsHandler(answerWatch{}),
		grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, fmt.Errorf("conformance: endpoint %q: %w", endpoint, err)
	}
	return &grpcDriver{cc, o.Headers}, nil
}

func (d *grpcDriver) close() { _ = d.cc.Close() }

// answerWatch tells a status that the service sent, which arrives in trailers, from one that grpc made up on this side.
type answerWatch struct{}

type answerKey struct{}

func (answerWatch) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); ok {
		if answered, ok := ctx.Value(answerKey{}).(*atomic.Bool); ok {
			answered.Store(true)
		}
	}
}
func (answerWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (answerWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (answerWatch) HandleConn(context.Context, stats.ConnStats)                       {}

// do makes a call and writes down what came of it.
func (d *grpcDriver) do(ctx context.Context, sent, version, key string, call func(context.Context, *reply) error) reply {
	r := reply{sent: sent}
	answered := new(atomic.Bool)
	ctx = context.WithValue(ctx, answerKey{}, answered)
	for _, k := range slices.Sorted(maps.Keys(d.headers)) {
		ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(k), d.headers[k])
	}
	if version != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, versionMetadata, version)
	}
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, keyMetadata, key)
	}
	begin := time.Now()
	err := call(ctx, &r)
	r.took = time.Since(begin)
	if err == nil {
		return r
	}
	st := status.Convert(err)
	r.code, r.message = st.Code(), st.Message()
	r.lost = !answered.Load() || ctx.Err() != nil && (r.code == codes.DeadlineExceeded || r.code == codes.Canceled)
	if r.lost && r.code == codes.DeadlineExceeded {
		r.message = nothingCame(begin)
	}
	for _, detail := range st.Proto().GetDetails() {
		r.details += string(detail.GetValue()) + "\n"
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			r.hasRetry, r.retry = true, info.GetRetryDelay().String()
			r.pause = info.GetRetryDelay().AsDuration()
			r.badRetry = info.GetRetryDelay() == nil || info.GetRetryDelay().CheckValid() != nil || info.GetRetryDelay().AsDuration() < 0
		}
	}
	if !answered.Load() && strings.HasPrefix(st.Message(), "grpc: failed to unmarshal") {
		r.lost, r.code, r.broken = false, codes.OK, st.Message()
	}
	return r
}

func (d *grpcDriver) list(ctx context.Context) reply {
	return d.do(ctx, "ListAgents", "", "", func(ctx context.Context, r *reply) error {
		res, err := service.NewAgentMetadataServiceClient(d.cc).ListAgents(ctx, &admin.ListAgentsRequest{})
		for _, a := range res.GetAgents() {
			r.agents = append(r.agents, agent{a.GetName(), len(a.GetSupportedTaskCategories()), len(a.GetSupportedTaskTypes())})
			r.plugins = append(r.plugins, pluginsOf(a)...)
		}
		return err
	})
}

// pluginsOf gives a plugin for each task type, with all of its versions.
func pluginsOf(a *admin.Agent) []plugin {
	name, version := a.GetName(), "v1"
	if i := strings.LastIndex(name, "@"); i >= 0 {
		name, version = name[:i], name[i+1:]
	}
	categories := a.GetSupportedTaskCategories()
	if len(categories) == 0 {
		for _, t := range a.GetSupportedTaskTypes() {
			categories = append(categories, &admin.TaskCategory{Name: t})
		}
	}
	takesAny := map[string]bool{} // whatever else is listed: 0 means any version
	for _, c := range categories {
		takesAny[c.GetName()] = takesAny[c.GetName()] || c.GetVersion() == 0
	}
	var out []plugin
	for _, c := range categories {
		i := slices.IndexFunc(out, func(p plugin) bool { return p.taskType == c.GetName() })
		if i < 0 {
			out = append(out, plugin{name: name, taskType: c.GetName(), version: version, sync: a.GetIsSync()})
			i = len(out) - 1
		}
		if c.GetVersion() != 0 && !takesAny[c.GetName()] {
			out[i].taskTypeVersions = append(out[i].taskTypeVersions, c.GetVersion())
		}
	}
	return out
}

func (d *grpcDriver) getAgent(ctx context.Context, name string) reply {
	return d.do(ctx, fmt.Sprintf("GetAgent(%q)", name), "", "", func(ctx context.Context, r *reply) error {
		res, err := service.NewAgentMetadataServiceClient(d.cc).GetAgent(ctx, &admin.GetAgentRequest{Name: name})
		if err == nil {
			a := res.GetAgent()
			r.agents = []agent{{a.GetName(), len(a.GetSupportedTaskCategories()), len(a.GetSupportedTaskTypes())}}
		}
		return err
	})
}

func createRequest(c call) *admin.CreateTaskRequest {
	return &admin.CreateTaskRequest{Template: c.template, Inputs: c.inputs, OutputPrefix: c.prefix, TaskExecutionMetadata: c.metadata}
}

func (c *call) says(method string) string {
	s := fmt.Sprintf("%s for task type %q", method, c.template.GetType())
	if v := c.template.GetTaskTypeVersion(); v != 0 {
		s += fmt.Sprintf(" in task type version %d", v)
	}
	if c.key != "" {
		s += " with key " + short(c.key)
	} else {
		s += " without a key"
	}
	return s + c.with
}

func (d *grpcDriver) create(ctx context.Context, c call) reply {
	version, names := c.plugin.version, " naming plugin version "+c.plugin.version
	if c.noVersion {
		version, names = "", " naming no plugin version"
	}
	return d.do(ctx, c.says("CreateTask"+names), version, c.key, func(ctx context.Context, r *reply) error {
		res, err := service.NewAsyncAgentServiceClient(d.cc).CreateTask(ctx, createRequest(c))
		r.id = res.GetResourceMeta()
		return err
	})
}

func category(p plugin) *admin.TaskCategory {
	return &admin.TaskCategory{Name: p.taskType, Version: p.taskTypeVersion()}
}

func (d *grpcDriver) get(ctx context.Context, j job) reply {
	return d.do(ctx, "GetTask("+j.show()+") of "+j.plugin.String(), j.plugin.version, "", func(ctx context.Context, r *reply) error {
		res, err := service.NewAsyncAgentServiceClient(d.cc).GetTask(ctx, &admin.GetTaskRequest{
			TaskType: j.plugin.taskType, TaskCategory: category(j.plugin), ResourceMeta: j.id, OutputPrefix: j.prefix,
		})
		if err == nil {
			r.setResource(res.GetResource())
		}
		return err
	})
}

// setResource takes over a job's state.
func (r *reply) setResource(res *admin.Resource) {
	if res == nil {
		r.broken = "the answer holds no resource"
		return
	}
	s := &state{message: res.GetMessage(), outputs: res.GetOutputs(), links: res.GetLogLinks()}
	if p := res.GetPhase(); p != core.TaskExecution_UNDEFINED {
		s.phase = p.String() // a number that has no name stays one
	} else if res.GetState() > 0 { // services of older flytekit versions fill nothing else
		s.phase = map[admin.State]string{
			admin.State_PENDING: "INITIALIZING", admin.State_RUNNING: "RUNNING", admin.State_SUCCEEDED: "SUCCEEDED", admin.State_PERMANENT_FAILURE: "FAILED",
		}[res.GetState()]
	}
	if e := res.GetAgentError(); e != nil {
		s.hasError, s.code = true, e.GetCode()
	}
	r.state = s
}

func (d *grpcDriver) delete(ctx context.Context, j job) reply {
	return d.do(ctx, "DeleteTask("+j.show()+") of "+j.plugin.String(), j.plugin.version, "", func(ctx context.Context, _ *reply) error {
		_, err := service.NewAsyncAgentServiceClient(d.cc).DeleteTask(ctx, &admin.DeleteTaskRequest{
			TaskType: j.plugin.taskType, TaskCategory: category(j.plugin), ResourceMeta: j.id,
		})
		return err
	})
}

func header(c call) *admin.ExecuteTaskSyncRequest {
	return &admin.ExecuteTaskSyncRequest{Part: &admin.ExecuteTaskSyncRequest_Header{Header: &admin.CreateRequestHeader{
		Template: c.template, OutputPrefix: c.prefix, TaskExecutionMetadata: c.metadata,
	}}}
}

func inputsPart(inputs *core.LiteralMap) *admin.ExecuteTaskSyncRequest {
	return &admin.ExecuteTaskSyncRequest{Part: &admin.ExecuteTaskSyncRequest_Inputs{Inputs: inputs}}
}

func (d *grpcDriver) execute(ctx context.Context, c call) reply {
	return d.stream(ctx, c, c.says("ExecuteTaskSync naming plugin version "+c.plugin.version), header(c), inputsPart(c.inputs))
}

// stream makes a synchronous call of the parts.
func (d *grpcDriver) stream(ctx context.Context, c call, sent string, parts ...*admin.ExecuteTaskSyncRequest) reply {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return d.do(ctx, sent, c.plugin.version, c.key, func(ctx context.Context, r *reply) error {
		stream, err := service.NewSyncAgentServiceClient(d.cc).ExecuteTaskSync(ctx)
		if err != nil {
			return err
		}
		for _, part := range parts {
			if err := stream.Send(part); err != nil {
				break // its reason comes with Recv
			}
		}
		_ = stream.CloseSend()
		var outputs *core.LiteralMap
		headers := 0
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if h := res.GetHeader(); h != nil {
				headers++
				r.setResource(h.GetResource())
			} else if outputs == nil {
				outputs = res.GetOutputs()
			} else {
				proto.Merge(outputs, res.GetOutputs())
			}
		}
		switch {
		case headers != 1:
			r.broken = fmt.Sprintf("the answer holds %d headers", headers)
		case r.state != nil && outputs != nil:
			if r.state.outputs == nil {
				r.state.outputs = &core.LiteralMap{}
			}
			proto.Merge(r.state.outputs, outputs)
		}
		return nil
	})
}

func taskRefs(jobs []job) []*flytebackendv1.TaskRef {
	out := make([]*flytebackendv1.TaskRef, len(jobs))
	for i, j := range jobs {
		out[i] = &flytebackendv1.TaskRef{TaskCategory: category(j.plugin), PluginVersion: j.plugin.version, ResourceMeta: j.id, OutputPrefix: j.prefix}
	}
	return out
}

func (d *grpcDriver) batch(ctx context.Context, jobs []job) reply {
	return d.do(ctx, fmt.Sprintf("GetTasks of %d jobs", len(jobs)), "", "", func(ctx context.Context, r *reply) error {
		res, err := flytebackendv1.NewBackendServiceClient(d.cc).GetTasks(ctx, &flytebackendv1.GetTasksRequest{Tasks: taskRefs(jobs)})
		for _, one := range res.GetResults() {
			r.results = append(r.results, resultOf(one))
		}
		return err
	})
}

// resultOf is a result of a batch, as the reply that a call of its own would have had.
func resultOf(res *flytebackendv1.TaskResult) reply {
	var r reply
	switch {
	case res.GetTask() != nil:
		r.setResource(res.GetTask().GetResource())
	case res.GetError() != nil:
		r.code, r.message = codes.Code(res.GetError().GetCode()), res.GetError().GetMessage() //nolint:gosec // a wrong one is shown as it is
		if r.code == codes.OK {
			r.broken = "an error with code OK"
		}
	default:
		r.broken = "a result with neither task nor error"
	}
	return r
}

func (d *grpcDriver) logs(ctx context.Context, j job, lines uint64, token string) reply {
	return d.do(ctx, "GetTaskLogs("+j.show()+") of "+j.plugin.String(), j.plugin.version, "", func(ctx context.Context, r *reply) error {
		stream, err := service.NewAsyncAgentServiceClient(d.cc).GetTaskLogs(ctx, &admin.GetTaskLogsRequest{
			TaskType: j.plugin.taskType, TaskCategory: category(j.plugin), ResourceMeta: j.id, Lines: lines, Token: token,
		})
		if err != nil {
			return err
		}
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if h := res.GetHeader(); h != nil {
				r.next = h.GetToken()
			}
			for _, l := range res.GetBody().GetStructuredLines() {
				r.lines = append(r.lines, l.GetMessage())
			}
			if len(res.GetBody().GetStructuredLines()) == 0 {
				r.lines = append(r.lines, res.GetBody().GetResults()...)
			}
		}
	})
}

func (d *grpcDriver) metrics(ctx context.Context, j job, queries []string) reply {
	return d.do(ctx, "GetTaskMetrics("+j.show()+") of "+j.plugin.String(), j.plugin.version, "", func(ctx context.Context, r *reply) error {
		res, err := service.NewAsyncAgentServiceClient(d.cc).GetTaskMetrics(ctx, &admin.GetTaskMetricsRequest{
			TaskType: j.plugin.taskType, TaskCategory: category(j.plugin), ResourceMeta: j.id, Queries: queries,
			StartTime: timestamppb.New(time.Now().Add(-time.Hour)), EndTime: timestamppb.Now(), Step: durationpb.New(time.Minute),
		})
		for _, m := range res.GetResults() {
			r.series = append(r.series, m.GetMetric())
		}
		return err
	})
}

// raw sends bytes that need be no message.
func (d *grpcDriver) raw(ctx context.Context, what, method, version string, message []byte) reply {
	key := ""
	if method == methodCreate {
		key = newKey()
	}
	return d.do(ctx, method[strings.LastIndex(method, "/")+1:]+" with "+what, version, key, func(ctx context.Context, r *reply) error {
		var out []byte
		if err := d.cc.Invoke(ctx, method, message, &out, grpc.ForceCodec(bytesCodec{})); err != nil {
			return err
		}
		if method == methodCreate {
			var res admin.CreateTaskResponse
			if err := proto.Unmarshal(out, &res); err != nil {
				r.broken = err.Error()
			}
			r.id = res.GetResourceMeta()
		}
		return nil
	})
}

// bytesCodec sends and receives bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	return b, nil
}

func (bytesCodec) Unmarshal(data []byte, v any) error {
	out, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T takes no bytes", v)
	}
	*out = slices.Clone(data)
	return nil
}

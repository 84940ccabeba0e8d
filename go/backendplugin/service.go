package backendplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Keys of gRPC request metadata, as docs/contract.md has them.
const (
	metadataIdempotencyKey = "flyte-backend-idempotency-key"
	metadataPluginVersion  = "flyte-backend-plugin-version"
)

// service is flyteidl's three services, and the extension, on top of plugins.
type service struct {
	pb.UnimplementedAsyncAgentServiceServer
	pb.UnimplementedSyncAgentServiceServer
	pb.UnimplementedAgentMetadataServiceServer
	flytebackendv1.UnimplementedBackendServiceServer

	plugins        Plugins
	slots          chan struct{}
	timeout        time.Duration
	executeTimeout time.Duration
	maxMessageSize int
	maxWatches     int
	secrets        Secrets
	log            *slog.Logger
	metrics        *metrics
	tracing        *tracing
	// looks are the places for calls of Get that watches cause.
	looks chan struct{}
	// ending is done when open streams are to end.
	ending context.Context
}

// open begins a call: it finds the plugin and what every call brings.
func (s *service) open(ctx context.Context, op, taskType string, taskTypeVersion int32, can func(*Plugin) bool) (*Plugin, *call, error) {
	return s.openFor(ctx, op, taskType, taskTypeVersion, first(ctx, metadataPluginVersion), false, can)
}

// openFor is open for a plugin version that stands in the request.
func (s *service) openFor(
	ctx context.Context, op, taskType string, taskTypeVersion int32, version string, aboutJob bool, can func(*Plugin) bool,
) (*Plugin, *call, error) {
	c := &call{taskType: taskType, key: first(ctx, metadataIdempotencyKey), pluginVersion: version, secrets: s.secrets}
	p, err := s.find(taskType, c.pluginVersion, taskTypeVersion, aboutJob, can)
	if err != nil {
		s.metrics.count(ctx, op, s.label(taskType), noPlugin, codes.NotFound)
		s.log.InfoContext(ctx, "a call for a plugin that is not here", "call", op, "task_type", short(taskType), "plugin_version", short(c.pluginVersion))
		return nil, nil, err
	}
	c.servedBy, c.log = p.version, s.log.With("task_type", taskType, "plugin_version", p.version)
	return p, c, nil
}

// cannot is the answer to a call that the plugin does not serve.
func (s *service) cannot(ctx context.Context, op string, c *call, does string) error {
	s.metrics.count(ctx, op, c.taskType, c.servedBy, codes.Unimplemented)
	return status.Errorf(codes.Unimplemented, "the plugin for task type %q %s", c.taskType, does)
}

func first(ctx context.Context, key string) string {
	if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func category(c *admin.TaskCategory, deprecated string) (string, int32) {
	return cmp.Or(c.GetName(), deprecated), c.GetVersion()
}

func async(p *Plugin) bool { return p.create != nil }

// CreateTask implements flyteidl's AsyncAgentService.
func (s *service) CreateTask(ctx context.Context, r *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	p, c, err := s.open(ctx, "Create", r.GetTemplate().GetType(), r.GetTemplate().GetTaskTypeVersion(), async)
	if err != nil {
		return nil, err
	}
	c.template, c.inputs, c.metadata, c.outputPrefix = r.GetTemplate(), r.GetInputs(), r.GetTaskExecutionMetadata(), r.GetOutputPrefix()
	id, err := guarded(ctx, s, "Create", c, s.timeout, p.create)
	if err != nil {
		return nil, err
	}
	return &admin.CreateTaskResponse{ResourceMeta: id}, nil
}

// job begins a call for a job.
func (s *service) job(ctx context.Context, op string, r interface {
	GetTaskCategory() *admin.TaskCategory
	GetTaskType() string
	GetResourceMeta() []byte
}, can func(*Plugin) bool) (*Plugin, *call, error) {
	taskType, version := category(r.GetTaskCategory(), r.GetTaskType())
	p, c, err := s.openFor(ctx, op, taskType, version, first(ctx, metadataPluginVersion), true, can)
	if err != nil {
		return nil, nil, err
	}
	c.id = r.GetResourceMeta()
	return p, c, nil
}

// GetTask implements flyteidl's AsyncAgentService.
func (s *service) GetTask(ctx context.Context, r *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	p, c, err := s.job(ctx, "Get", r, async)
	if err != nil {
		return nil, err
	}
	c.outputPrefix = r.GetOutputPrefix()
	state, err := guarded(ctx, s, "Get", c, s.timeout, s.get(p))
	if err != nil {
		return nil, err
	}
	return &admin.GetTaskResponse{Resource: state.resource}, nil
}

// DeleteTask implements flyteidl's AsyncAgentService.
func (s *service) DeleteTask(ctx context.Context, r *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	p, c, err := s.job(ctx, "Delete", r, async)
	if err != nil {
		return nil, err
	}
	_, err = guarded(ctx, s, "Delete", c, s.timeout, func(ctx context.Context, c *call) (None, error) {
		err := p.delete(ctx, c)
		if errors.Is(err, errForeign) {
			c.log.WarnContext(ctx, "nothing was deleted: the job's id is none of this plugin's; if it was once, another type of id needs another version", "call", "Delete")
		}
		if err != nil && asError(ctx, err).Code == codes.NotFound {
			err = nil // here, where it is counted
		}
		return None{}, err
	})
	if err != nil {
		return nil, err
	}
	return &admin.DeleteTaskResponse{}, nil
}

// GetTaskLogs implements flyteidl's AsyncAgentService.
func (s *service) GetTaskLogs(r *admin.GetTaskLogsRequest, stream pb.AsyncAgentService_GetTaskLogsServer) error {
	ctx := stream.Context()
	p, c, err := s.job(ctx, "Logs", r, async)
	if err != nil {
		return err
	}
	if p.logs == nil {
		return s.cannot(ctx, "Logs", c, "gives no logs")
	}
	page, err := guarded(ctx, s, "Logs", c, s.timeout, func(ctx context.Context, c *call) ([]*admin.GetTaskLogsResponse, error) {
		page, err := p.logs(ctx, c, LogQuery{Lines: r.GetLines(), Token: r.GetToken()})
		if err != nil {
			return nil, err
		}
		if page == nil {
			return nil, SystemError("the plugin gave no page of the log")
		}
		parts := page.parts()
		for _, part := range parts {
			if err := s.sendable(part); err != nil {
				return nil, err
			}
		}
		return parts, nil
	})
	if err != nil {
		return err
	}
	for _, part := range page {
		if err := stream.Send(part); err != nil {
			return err
		}
	}
	return nil
}

// parts are the page in flyteidl's words.
func (page *LogPage) parts() []*admin.GetTaskLogsResponse {
	body := &admin.GetTaskLogsResponseBody{}
	for _, l := range page.Lines {
		line := &admin.LogLine{Message: l.Message, Originator: admin.LogLineOriginator_USER}
		if l.System {
			line.Originator = admin.LogLineOriginator_SYSTEM
		}
		if !l.Time.IsZero() {
			line.Timestamp = timestamppb.New(l.Time)
		}
		body.StructuredLines = append(body.StructuredLines, line)
		body.Results = append(body.Results, l.Message)
	}
	return []*admin.GetTaskLogsResponse{
		{Part: &admin.GetTaskLogsResponse_Header{Header: &admin.GetTaskLogsResponseHeader{Token: page.Next}}},
		{Part: &admin.GetTaskLogsResponse_Body{Body: body}},
	}
}

// GetTaskMetrics implements flyteidl's AsyncAgentService.
func (s *service) GetTaskMetrics(ctx context.Context, r *admin.GetTaskMetricsRequest) (*admin.GetTaskMetricsResponse, error) {
	p, c, err := s.job(ctx, "Metrics", r, async)
	if err != nil {
		return nil, err
	}
	if p.metrics == nil {
		return nil, s.cannot(ctx, "Metrics", c, "gives no metrics")
	}
	q := MetricsQuery{Names: r.GetQueries(), Step: r.GetStep().AsDuration()}
	if r.GetStartTime() != nil {
		q.Start = r.GetStartTime().AsTime()
	}
	if r.GetEndTime() != nil {
		q.End = r.GetEndTime().AsTime()
	}
	return guarded(ctx, s, "Metrics", c, s.timeout, func(ctx context.Context, c *call) (*admin.GetTaskMetricsResponse, error) {
		list, err := p.metrics(ctx, c, q)
		if err != nil {
			return nil, err
		}
		out := &admin.GetTaskMetricsResponse{}
		for _, m := range list {
			data, err := encodeStruct(m.Data)
			if err != nil {
				return nil, SystemError("the plugin's metric %s: %w", m.Name, err)
			}
			out.Results = append(out.Results, &core.ExecutionMetricResult{Metric: m.Name, Data: data})
		}
		return out, s.sendable(out)
	})
}

// ExecuteTaskSync implements flyteidl's SyncAgentService. It reads the header and all inputs until the caller says that it has
// sent everything, and answers with one header that holds the outputs.
func (s *service) ExecuteTaskSync(stream pb.SyncAgentService_ExecuteTaskSyncServer) error {
	ctx := stream.Context()
	header, inputs, err := s.readExecute(stream)
	if err != nil {
		return err
	}
	p, c, err := s.open(ctx, "Execute", header.GetTemplate().GetType(), header.GetTemplate().GetTaskTypeVersion(),
		func(p *Plugin) bool { return p.execute != nil })
	if err != nil {
		return err
	}
	c.template, c.inputs, c.metadata = header.GetTemplate(), inputs, header.GetTaskExecutionMetadata()
	c.outputPrefix, c.maxOutputBytes = header.GetOutputPrefix(), header.GetMaxDatasetSizeBytes()
	resource, err := guarded(ctx, s, "Execute", c, s.executeTimeout, func(ctx context.Context, c *call) (*admin.Resource, error) {
		resource, err := p.execute(ctx, c)
		if err == nil {
			err = s.sendable(resource)
		}
		return resource, err
	})
	if err != nil {
		return err
	}
	return stream.Send(&admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Header{
		Header: &admin.ExecuteTaskSyncResponseHeader{Resource: resource},
	}})
}

// readExecute reads what the caller sends until it says that this is all. Inputs in parts have the limit of those in one message:
// here they are kept.
func (s *service) readExecute(stream pb.SyncAgentService_ExecuteTaskSyncServer) (*admin.CreateRequestHeader, *core.LiteralMap, error) {
	var header *admin.CreateRequestHeader
	inputs, size := &core.LiteralMap{Literals: map[string]*core.Literal{}}, 0
	for {
		part, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && header == nil:
			return nil, nil, UserError("the call ended before its header came")
		case errors.Is(err, io.EOF):
			return header, inputs, nil
		case err != nil:
			return nil, nil, err
		}
		switch part := part.GetPart().(type) {
		case *admin.ExecuteTaskSyncRequest_Header:
			if header != nil {
				return nil, nil, UserError("the call holds two headers")
			}
			header = part.Header
		case *admin.ExecuteTaskSyncRequest_Inputs:
			if size += proto.Size(part.Inputs); size > s.maxMessageSize {
				return nil, nil, NewError(codes.ResourceExhausted, fmt.Errorf(
					"the inputs are larger than max (%d vs. %d), the limit of this service (in the Go SDK, WithMaxMessageSize)", size, s.maxMessageSize))
			}
			for name, l := range part.Inputs.GetLiterals() {
				if have, twice := inputs.GetLiterals()[name]; twice && !proto.Equal(have, l) {
					return nil, nil, UserError("input %q came twice with different values", name)
				}
				inputs.Literals[name] = l
			}
		}
	}
}

// agents lists the plugins in flyteidl's words. Those that can do both are listed in both ways, the asynchronous one last,
// which the connector plugin that ships with Flyte then takes.
func (s *service) agents() []*admin.Agent {
	var out []*admin.Agent
	for _, sync := range []bool{true, false} {
		for _, p := range s.plugins {
			if sync && p.execute == nil || !sync && p.create == nil {
				continue
			}
			a := &admin.Agent{Name: p.name, IsSync: sync, SupportedTaskTypes: []string{p.taskType}}
			if p.version != defaultVersion || strings.Contains(p.name, "@") {
				a.Name += "@" + p.version
			}
			for _, v := range p.taskTypeVersions {
				a.SupportedTaskCategories = append(a.SupportedTaskCategories, &admin.TaskCategory{Name: p.taskType, Version: v})
			}
			if len(p.taskTypeVersions) == 0 {
				a.SupportedTaskCategories = []*admin.TaskCategory{{Name: p.taskType}}
			}
			out = append(out, a)
		}
	}
	return out
}

// ListAgents implements flyteidl's AgentMetadataService.
func (s *service) ListAgents(context.Context, *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	return &admin.ListAgentsResponse{Agents: s.agents()}, nil
}

// GetAgent implements flyteidl's AgentMetadataService.
func (s *service) GetAgent(_ context.Context, r *admin.GetAgentRequest) (*admin.GetAgentResponse, error) {
	for _, a := range s.agents() {
		if a.GetName() == r.GetName() {
			return &admin.GetAgentResponse{Agent: a}, nil
		}
	}
	return nil, NotFound("this service has no plugin called %q", r.GetName())
}

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

const (
	taskType = "sqlite"
	// agentName carries the plugin version after the @, which flyteidl has no field for.
	agentName     = "sqlite example@" + pluginVersion
	pluginVersion = "v1"

	keyHeader     = "flyte-backend-idempotency-key"
	keyMax        = 64
	versionHeader = "flyte-backend-plugin-version"
)

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	service.RegisterAsyncAgentServiceServer(r, &agentServer{s: s})
	service.RegisterAgentMetadataServiceServer(r, metadataServer{})
}

// Handler is the service over REST. It takes calls for as long as the service is open.
func (s *Service) Handler() http.Handler {
	return rest.NewHandler(rest.Services{Async: &agentServer{s: s}, Metadata: metadataServer{}}, rest.Options{Log: s.opts.Log})
}

// agentServer translates between gRPC and the jobs. GetTaskMetrics and GetTaskLogs are Unimplemented, as embedded.
type agentServer struct {
	service.UnimplementedAsyncAgentServiceServer
	s *Service
}

// CreateTask checks the request, so that what can never run is refused at once, and queues a job.
func (a *agentServer) CreateTask(ctx context.Context, req *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	key, err := idempotencyKey(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkType("template.type", req.GetTemplate().GetType()); err != nil {
		return nil, err
	}
	if err := checkVersion(ctx); err != nil {
		return nil, err
	}
	if _, err := parseTask(req); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// What makes the job, and so what a repeated call is compared by. Labels, annotations and the like may differ.
	essence := &admin.CreateTaskRequest{
		Template: req.GetTemplate(), Inputs: req.GetInputs(), OutputPrefix: req.GetOutputPrefix(),
	}
	id, fresh, err := a.s.store.create(ctx, key, essence)
	if errors.Is(err, errKeyReused) {
		return nil, status.Errorf(codes.AlreadyExists,
			"%s %q belongs to job %s, which was created from another request; a new request needs a new key", keyHeader, key, id)
	}
	if err != nil {
		return nil, unavailable(ctx, "create the job", err)
	}
	if fresh {
		a.s.opts.Log.Info("sqlite: job created", "job", id)
		a.s.nudge()
	}
	return &admin.CreateTaskResponse{ResourceMeta: []byte(id)}, nil
}

// GetTask answers from the jobs table alone, so any service on the folder can.
func (a *agentServer) GetTask(ctx context.Context, req *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	if err := checkCategory(ctx, req.GetTaskCategory()); err != nil {
		return nil, err
	}
	id := string(req.GetResourceMeta())
	j, err := a.s.store.get(ctx, id)
	if errors.Is(err, errNoJob) {
		return nil, status.Errorf(codes.NotFound, "no job %s here: it was never created, or it was deleted", show(id))
	}
	if err != nil {
		return nil, unavailable(ctx, "read job "+show(id), err)
	}
	res := &admin.Resource{Message: j.message}
	switch j.phase {
	case phaseQueued:
		res.Phase = core.TaskExecution_QUEUED
	case phaseRunning:
		res.Phase = core.TaskExecution_RUNNING
	case phaseDone:
		if err := proto.Unmarshal(j.resource, res); err != nil {
			return nil, status.Errorf(codes.Internal, "the outcome of job %s cannot be read: %v", id, err)
		}
	default:
		return nil, status.Errorf(codes.Internal, "job %s is in an unknown phase %q", id, j.phase)
	}
	if j.runs > 0 {
		res.LogLinks = []*core.TaskLog{{Name: "job log", Uri: "file://" + a.s.logPath(id), ShowWhilePending: true}}
	}
	return &admin.GetTaskResponse{Resource: res}, nil
}

// DeleteTask cancels the job if it runs and removes what it wrote. It may be repeated.
func (a *agentServer) DeleteTask(ctx context.Context, req *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	if err := checkCategory(ctx, req.GetTaskCategory()); err != nil {
		return nil, err
	}
	id := string(req.GetResourceMeta())
	j, err := a.s.store.markDeleted(ctx, id)
	if errors.Is(err, errNoJob) {
		return &admin.DeleteTaskResponse{}, nil
	}
	if err != nil {
		return nil, unavailable(ctx, "delete job "+show(id), err)
	}
	a.s.opts.Log.Info("sqlite: job deleted", "job", id)
	a.s.mu.Lock()
	here := a.s.runs[id]
	a.s.mu.Unlock()
	if here == nil {
		a.s.purge(ctx, j)
		return &admin.DeleteTaskResponse{}, nil
	}
	// The run cleans up after itself. Waiting for it is a courtesy: the deletion is on disk and will not be lost.
	here.cancel(errDeleted)
	select {
	case <-here.done:
	case <-ctx.Done():
	}
	return &admin.DeleteTaskResponse{}, nil
}

type metadataServer struct {
	service.UnimplementedAgentMetadataServiceServer
}

func agent() *admin.Agent {
	return &admin.Agent{
		Name: agentName,
		// Version 0 stands for any: flytekit writes 0 into every template, and the query means the same in all of them.
		SupportedTaskCategories: []*admin.TaskCategory{{Name: taskType, Version: 0}},
	}
}

// ListAgents names the one agent there is.
func (metadataServer) ListAgents(context.Context, *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	return &admin.ListAgentsResponse{Agents: []*admin.Agent{agent()}}, nil
}

// GetAgent describes the one agent there is.
func (metadataServer) GetAgent(_ context.Context, req *admin.GetAgentRequest) (*admin.GetAgentResponse, error) {
	if req.GetName() != agentName {
		return nil, status.Errorf(codes.NotFound, "no agent %s here; there is %q", show(req.GetName()), agentName)
	}
	return &admin.GetAgentResponse{Agent: agent()}, nil
}

func idempotencyKey(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(keyHeader)
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", status.Errorf(codes.InvalidArgument, "%s is given %d times; give it once", keyHeader, len(values))
	case len(values[0]) > keyMax:
		return "", status.Errorf(codes.InvalidArgument, "%s has %d characters; at most %d are allowed", keyHeader, len(values[0]), keyMax)
	}
	return values[0], nil
}

func checkType(field, name string) error {
	if name == taskType {
		return nil
	}
	return status.Errorf(codes.NotFound, "%s: no plugin for task type %s here; this service runs %q", field, show(name), taskType)
}

// checkCategory lets a call without a category pass, because the job id is enough to answer it.
func checkCategory(ctx context.Context, c *admin.TaskCategory) error {
	if c.GetName() != "" {
		if err := checkType("task_category.name", c.GetName()); err != nil {
			return err
		}
	}
	return checkVersion(ctx)
}

// checkVersion refuses calls for a plugin version that is not here: what began with another version must not go on with this
// one. A call that names none comes from a caller that knows of none.
func checkVersion(ctx context.Context) error {
	for _, v := range metadata.ValueFromIncomingContext(ctx, versionHeader) {
		if v != pluginVersion {
			return status.Errorf(codes.NotFound, "%s: no version %s of %q here; there is %s", versionHeader, show(v), taskType, pluginVersion)
		}
	}
	return nil
}

// unavailable reports trouble with the jobs table, which is the service's own and may pass.
func unavailable(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, fmt.Sprintf("%s: %v", doing, err))
}

// show quotes what a caller sent, cut to a length that an error message bears.
func show(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q...", s[:80])
	}
	return fmt.Sprintf("%q", s)
}

func (s *Service) logPath(id string) string { return filepath.Join(s.opts.Dir, "log", id+".log") }

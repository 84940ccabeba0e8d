package backendtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

type asyncServer struct {
	service.UnimplementedAsyncAgentServiceServer
	b *Backend
}

func (s asyncServer) CreateTask(ctx context.Context, req *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
	if err := s.b.arrive(ctx, Create); err != nil {
		return nil, err
	}
	j, err := s.b.newJob(ctx, req)
	if err != nil {
		return nil, err
	}
	return &admin.CreateTaskResponse{ResourceMeta: []byte(j.ID)}, nil
}

// newJob gives a copy of the job that has the call's idempotency key, or of a new one. Its request is shared.
func (b *Backend) newJob(ctx context.Context, req *admin.CreateTaskRequest) (Job, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := incoming(ctx, client.MetadataIdempotencyKey)
	if id, known := b.byKey[key]; known && key != "" && !b.IgnoreKeys {
		b.jobs[id].Creates++
		return *b.jobs[id], nil
	}
	script := b.script
	if b.plan != nil {
		var err error
		if script, err = b.plan(req); err != nil {
			return Job{}, err
		}
	}
	id := fmt.Sprintf("%s%d", cmp.Or(b.JobPrefix, "job-"), len(b.order)+1)
	b.jobs[id] = &Job{
		ID: id, Key: key, PluginVersion: incoming(ctx, client.MetadataPluginVersion),
		Request: req, Creates: 1, created: time.Now(), script: script,
	}
	b.byKey[key] = id
	b.order = append(b.order, id)
	return *b.jobs[id], nil
}

func (s asyncServer) GetTask(ctx context.Context, req *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
	step, err := s.b.poll(ctx, req.GetResourceMeta())
	if err != nil {
		return nil, err
	}
	return &admin.GetTaskResponse{Resource: step.Resource}, nil
}

// poll gives the step that a job is at.
func (b *Backend) poll(ctx context.Context, id []byte) (Step, error) {
	if err := b.arrive(ctx, Get); err != nil {
		return Step{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	j, ok := b.jobs[string(id)]
	if !ok {
		return Step{}, status.Errorf(codes.NotFound, "no job %q", id)
	}
	j.Polls++
	if j.set != nil {
		return Step{Resource: j.set}, nil
	}
	now := Step{Resource: &admin.Resource{Phase: core.TaskExecution_QUEUED}}
	for _, step := range j.script {
		if time.Since(j.created) >= step.After {
			now = step
		}
	}
	return now, nil
}

type manyServer struct {
	flytebackendv1.UnimplementedBackendServiceServer
	b *Backend
}

// GetTasks polls each job as a call of its own would, all at once. What befalls one befalls the others only if it is dropped.
func (s manyServer) GetTasks(ctx context.Context, req *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
	if len(req.GetTasks()) > 1 { // over REST, a single poll comes here too
		s.b.mu.Lock()
		s.b.batches++
		s.b.mu.Unlock()
	}
	out := &flytebackendv1.GetTasksResponse{Results: make([]*flytebackendv1.TaskResult, len(req.GetTasks()))}
	var wg sync.WaitGroup
	for i, ref := range req.GetTasks() {
		wg.Go(func() {
			step, err := s.b.poll(ctx, ref.GetResourceMeta())
			if err == nil {
				out.Results[i] = &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Task{
					Task: &flytebackendv1.Task{Resource: step.Resource, PollAfter: durationpb.New(step.PollAfter)},
				}}
				return
			}
			st := status.Convert(err)
			failed := &flytebackendv1.Error{Code: int32(st.Code()), Message: st.Message()} //nolint:gosec // codes are small
			for _, d := range st.Details() {
				if info, ok := d.(*errdetails.RetryInfo); ok {
					failed.RetryAfter = info.GetRetryDelay()
				}
			}
			out.Results[i] = &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Error{Error: failed}}
		})
	}
	wg.Wait()
	return out, nil
}

func (s asyncServer) DeleteTask(ctx context.Context, req *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
	if err := s.b.arrive(ctx, Delete); err != nil {
		return nil, err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if j, ok := s.b.jobs[string(req.GetResourceMeta())]; ok {
		j.Deletes++
	}
	return &admin.DeleteTaskResponse{}, nil
}

type syncServer struct {
	service.UnimplementedSyncAgentServiceServer
	b *Backend
}

func (s syncServer) ExecuteTaskSync(stream service.SyncAgentService_ExecuteTaskSyncServer) error {
	if err := s.b.arrive(stream.Context(), Execute); err != nil {
		return err
	}
	var header *admin.CreateRequestHeader
	inputs := &core.LiteralMap{Literals: map[string]*core.Literal{}}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h := req.GetHeader(); h != nil {
			header = h
		}
		for name, l := range req.GetInputs().GetLiterals() {
			inputs.Literals[name] = l
		}
	}
	if s.b.OnExecute == nil {
		return status.Error(codes.Unimplemented, "this test backend has no OnExecute")
	}
	answers, err := s.b.OnExecute(stream.Context(), header, inputs)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if err := stream.Send(a); err != nil {
			return err
		}
	}
	return nil
}

type metadataServer struct {
	service.UnimplementedAgentMetadataServiceServer
	b *Backend
}

func (s metadataServer) ListAgents(ctx context.Context, _ *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	if err := s.b.arrive(ctx, List); err != nil {
		return nil, err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	res := &admin.ListAgentsResponse{}
	for _, p := range s.b.plugins {
		a := &admin.Agent{Name: "test " + p.TaskType, IsSync: p.Sync}
		if p.PluginVersion != "" {
			a.Name += "@" + p.PluginVersion
		}
		versions := p.Versions
		if len(versions) == 0 {
			versions = []int32{0}
		}
		for _, v := range versions {
			a.SupportedTaskCategories = append(a.SupportedTaskCategories, &admin.TaskCategory{Name: p.TaskType, Version: v})
		}
		res.Agents = append(res.Agents, a)
	}
	return res, nil
}

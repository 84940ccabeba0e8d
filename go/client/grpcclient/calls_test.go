package grpcclient

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestList(t *testing.T) {
	t.Parallel()
	_, c := backend(t,
		backendtest.Plugin{TaskType: "a"},
		backendtest.Plugin{TaskType: "b", Versions: []int32{2, 1}, PluginVersion: "v2", Sync: true})
	got, err := c.List(within(t))
	require.NoError(t, err)
	assert.Equal(t, []client.Registration{
		{Name: "test a", TaskType: "a", PluginVersion: "v1"},
		{Name: "test b", TaskType: "b", PluginVersion: "v2", TaskTypeVersions: []int32{1, 2}, Mode: client.Sync},
	}, got)
}

func TestCreateSendsEverything(t *testing.T) {
	t.Parallel()
	b, c := backend(t)
	id, err := c.Create(within(t), request())
	require.NoError(t, err)
	jobs := b.Jobs()
	require.Len(t, jobs, 1)
	assert.Equal(t, jobs[0].ID, string(id))
	assert.Equal(t, "key-1", jobs[0].Key)
	assert.Equal(t, "v2", jobs[0].PluginVersion)
	want := &admin.CreateTaskRequest{
		Inputs: request().Inputs, Template: request().Template, OutputPrefix: "s3://bucket/out/0",
		TaskExecutionMetadata: metadataSent(),
	}
	equal(t, want, jobs[0].Request)
	assertAllSet(t, jobs[0].Request.ProtoReflect())
	assertAllSet(t, jobs[0].Request.GetTaskExecutionMetadata().ProtoReflect())

	again, err := c.Create(within(t), request())
	require.NoError(t, err)
	assert.Equal(t, string(id), string(again), "the same key")
	assert.Equal(t, 2, b.Jobs()[0].Creates)
}

// assertAllSet finds fields that a newer flyteidl adds and that nothing here fills.
func assertAllSet(t *testing.T, m protoreflect.Message) {
	t.Helper()
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		assert.True(t, m.Has(f), f.FullName())
	}
}

// Metadata belongs to the calls that it is for, and never is an empty string.
func TestRequestMetadata(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen metadata.MD
	look := func(ctx context.Context) {
		mu.Lock()
		defer mu.Unlock()
		seen, _ = metadata.FromIncomingContext(ctx)
	}
	_, address := serve(t, &fake{
		create: func(ctx context.Context, _ *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
			look(ctx)
			return &admin.CreateTaskResponse{ResourceMeta: []byte("x")}, nil
		},
		get: func(ctx context.Context, _ *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
			look(ctx)
			return &admin.GetTaskResponse{Resource: &admin.Resource{}}, nil
		},
		delete: func(ctx context.Context, _ *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
			look(ctx)
			return &admin.DeleteTaskResponse{}, nil
		},
		list: func(ctx context.Context) (*admin.ListAgentsResponse, error) {
			look(ctx)
			return &admin.ListAgentsResponse{}, nil
		},
	})
	c := connectPlain(t, address)
	tests := []struct {
		reason       string
		call         func(context.Context) error
		key, version []string
	}{
		{"a create carries both", func(ctx context.Context) error { _, err := c.Create(ctx, request()); return err }, []string{"key-1"}, []string{"v2"}},
		{"a create without them carries none", func(ctx context.Context) error { _, err := c.Create(ctx, &client.CreateRequest{}); return err }, nil, nil},
		{"a poll has no key", func(ctx context.Context) error { _, err := c.Get(ctx, ref); return err }, nil, []string{"v2"}},
		{"nor has a delete", func(ctx context.Context) error { return c.Delete(ctx, ref) }, nil, []string{"v2"}},
		{"a list is for all versions", func(ctx context.Context) error { _, err := c.List(ctx); return err }, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			require.NoError(t, tt.call(within(t)))
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, tt.key, seen.Get(client.MetadataIdempotencyKey))
			assert.Equal(t, tt.version, seen.Get(client.MetadataPluginVersion))
		})
	}
}

// The deprecated task_type is what services of older flytekit versions read.
func TestGetAndDeleteSendEverything(t *testing.T) {
	t.Parallel()
	var got *admin.GetTaskRequest
	var deleted *admin.DeleteTaskRequest
	_, address := serve(t, &fake{
		get: func(_ context.Context, r *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
			got = r
			return &admin.GetTaskResponse{Resource: &admin.Resource{Phase: core.TaskExecution_RUNNING}}, nil
		},
		delete: func(_ context.Context, r *admin.DeleteTaskRequest) (*admin.DeleteTaskResponse, error) {
			deleted = r
			return &admin.DeleteTaskResponse{}, nil
		},
	})
	c := connectPlain(t, address)
	_, err := c.Get(within(t), ref)
	require.NoError(t, err)
	require.NoError(t, c.Delete(within(t), ref))
	category := &admin.TaskCategory{Name: "my_task", Version: 3}
	equal(t, &admin.GetTaskRequest{TaskType: "my_task", TaskCategory: category, ResourceMeta: []byte("job-7"), OutputPrefix: "s3://bucket/out/0"}, got)
	equal(t, &admin.DeleteTaskRequest{TaskType: "my_task", TaskCategory: category, ResourceMeta: []byte("job-7")}, deleted)
	assertAllSet(t, got.ProtoReflect())
	assertAllSet(t, deleted.ProtoReflect())
}

func TestGetGivesEverything(t *testing.T) {
	t.Parallel()
	b, c := backend(t)
	info, err := structpb.NewStruct(map[string]any{"rows": 3})
	require.NoError(t, err)
	links := []*core.TaskLog{{Name: "console", Uri: "https://example.com"}}
	outputs := literals(map[string]*core.Literal{"o0": number(1)})
	b.Script(backendtest.Step{Resource: &admin.Resource{
		Phase: core.TaskExecution_FAILED, State: admin.State_RUNNING, Message: "went wrong", Outputs: outputs, LogLinks: links, CustomInfo: info,
		AgentError: &admin.AgentError{Code: "BadQuery", Kind: admin.AgentError_RECOVERABLE, Origin: core.ExecutionError_USER},
	}})
	id, err := c.Create(within(t), request())
	require.NoError(t, err)
	job, err := c.Get(within(t), client.JobRef{ID: id})
	require.NoError(t, err)
	assert.Equal(t, core.TaskExecution_FAILED, job.Phase, "the phase beats the state")
	assert.Equal(t, "went wrong", job.Message)
	equal(t, outputs, job.Outputs)
	require.Len(t, job.LogLinks, 1)
	equal(t, links[0], job.LogLinks[0])
	equal(t, info, job.CustomInfo)
	assert.Equal(t, &client.Failure{Code: "BadQuery", Recoverable: true, Origin: core.ExecutionError_USER}, job.Failure)
}

func TestJobOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		r      *admin.Resource
		phase  core.TaskExecution_Phase
		fail   *client.Failure
	}{
		{"a phase", &admin.Resource{Phase: core.TaskExecution_ABORTED}, core.TaskExecution_ABORTED, nil},
		{"nothing set stays undefined: the state's zero value would be a retry", &admin.Resource{}, core.TaskExecution_UNDEFINED, nil},
		{"legacy pending", &admin.Resource{State: admin.State_PENDING}, core.TaskExecution_INITIALIZING, nil},
		{"legacy running", &admin.Resource{State: admin.State_RUNNING}, core.TaskExecution_RUNNING, nil},
		{"legacy succeeded", &admin.Resource{State: admin.State_SUCCEEDED}, core.TaskExecution_SUCCEEDED, nil},
		{"legacy permanent failure", &admin.Resource{State: admin.State_PERMANENT_FAILURE}, core.TaskExecution_FAILED, nil},
		{"a state nobody knows", &admin.Resource{State: 99}, core.TaskExecution_UNDEFINED, nil},
		{"an error without details", &admin.Resource{Phase: core.TaskExecution_FAILED, AgentError: &admin.AgentError{}},
			core.TaskExecution_FAILED, &client.Failure{}},
		{"an error of the system's", &admin.Resource{Phase: core.TaskExecution_FAILED, AgentError: &admin.AgentError{Code: "X", Origin: core.ExecutionError_SYSTEM}},
			core.TaskExecution_FAILED, &client.Failure{Code: "X", Origin: core.ExecutionError_SYSTEM}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			job := jobOf(tt.r)
			assert.Equal(t, tt.phase, job.Phase)
			assert.Equal(t, tt.fail, job.Failure)
		})
	}
	assert.Nil(t, jobOf(nil))
}

func TestGetWithoutResource(t *testing.T) {
	t.Parallel()
	_, address := serve(t, &fake{get: func(context.Context, *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
		return &admin.GetTaskResponse{}, nil
	}})
	job, err := connectPlain(t, address).Get(within(t), ref)
	assert.Nil(t, job)
	e := failure(t, err)
	assert.True(t, e.FromService)
	assert.Equal(t, client.SystemError, e.Class)
	assert.Contains(t, e.Message, "breaks the contract")
}

func TestDelete(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		answer error
		fails  bool
	}{
		{"deleted", nil, false},
		{"an unknown job is deleted already", status.Error(codes.NotFound, "no job"), false},
		{"anything else is a failure", status.Error(codes.Internal, "no"), true},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b, c := backend(t)
			if tt.answer != nil {
				b.Fail(backendtest.Delete, 1, tt.answer)
			}
			err := c.Delete(within(t), ref)
			if tt.fails {
				_ = failure(t, err) // it checks by itself
				return
			}
			require.NoError(t, err)
		})
	}
}

func TestOneConnectionForManyCalls(t *testing.T) {
	t.Parallel()
	b, c := backend(t, backendtest.Plugin{TaskType: "a"})
	ctx := within(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 10 {
				_, err := c.List(ctx)
				assert.NoError(t, err)
				_, err = c.Create(ctx, request())
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 200, b.Calls(backendtest.List))
	assert.Equal(t, 1, b.Connections())
}

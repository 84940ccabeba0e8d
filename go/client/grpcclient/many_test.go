package grpcclient

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/batch"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func taskOf(r *admin.Resource, after time.Duration) *flytebackendv1.TaskResult {
	return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Task{Task: &flytebackendv1.Task{Resource: r, PollAfter: durationpb.New(after)}}}
}

func errorOf(code codes.Code, message string, after time.Duration) *flytebackendv1.TaskResult {
	return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Error{
		Error: &flytebackendv1.Error{Code: int32(code), Message: message, RetryAfter: durationpb.New(after)},
	}}
}

func TestGetMany(t *testing.T) {
	t.Parallel()
	var got *flytebackendv1.GetTasksRequest
	_, address := serve(t, &fake{many: func(_ context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
		got = r
		return &flytebackendv1.GetTasksResponse{Results: []*flytebackendv1.TaskResult{
			taskOf(&admin.Resource{Phase: core.TaskExecution_RUNNING, Message: "one"}, time.Minute),
			taskOf(&admin.Resource{Phase: core.TaskExecution_RUNNING}, -time.Minute),
			errorOf(codes.NotFound, "three", 0),
			errorOf(codes.Unavailable, "four", time.Second),
			errorOf(codes.OK, "five", 0),
			taskOf(nil, 0),
			{},
		}}, nil
	}})
	other := client.JobRef{Target: client.Target{TaskType: "my_task", PluginVersion: "v2"}, ID: client.JobID("job-8")}
	results, err := single{connectPlain(t, address)}.GetMany(within(t), []client.JobRef{ref, other})
	require.NoError(t, err)
	equal(t, &flytebackendv1.GetTasksRequest{Tasks: []*flytebackendv1.TaskRef{
		{TaskCategory: &admin.TaskCategory{Name: "my_task", Version: 3}, PluginVersion: "v2", ResourceMeta: []byte("job-7"), OutputPrefix: "s3://bucket/out/0"},
		{TaskCategory: &admin.TaskCategory{Name: "my_task"}, PluginVersion: "v2", ResourceMeta: []byte("job-8")},
	}}, got)
	assertAllSet(t, got.GetTasks()[0].ProtoReflect())

	require.Len(t, results, 7)
	assert.Equal(t, &client.Job{Phase: core.TaskExecution_RUNNING, Message: "one", PollAfter: time.Minute}, results[0].Job)
	assert.Zero(t, results[1].Job.PollAfter, "a pause cannot be negative")
	e := failure(t, results[2].Err)
	assert.Equal(t, codes.NotFound, e.Code)
	assert.Equal(t, "three", e.Message)
	assert.Equal(t, client.SystemError, e.Class)
	assert.True(t, e.FromService)
	e = failure(t, results[3].Err)
	assert.Equal(t, client.RetryLater, e.Class)
	assert.Equal(t, time.Second, e.RetryAfter)
	for _, r := range results[4:] {
		assert.Contains(t, failure(t, r.Err).Message, "the answer breaks the contract: the result of a job holds neither")
	}
}

func TestGetManyFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		code  codes.Code
		alone bool // the jobs are polled one at a time then
	}{
		{codes.Unimplemented, true}, {codes.NotFound, true}, {codes.PermissionDenied, true},
		{codes.Unavailable, false}, {codes.Internal, false}, {codes.Unauthenticated, false},
	}
	for _, tt := range tests {
		t.Run(tt.code.String(), func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, &fake{many: func(context.Context, *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
				return nil, status.Error(tt.code, "no")
			}})
			_, err := single{connectPlain(t, address)}.GetMany(within(t), []client.JobRef{ref})
			assert.Equal(t, tt.code, failure(t, err).Code)
			if tt.alone {
				assert.ErrorIs(t, err, batch.ErrNotServed)
			} else {
				assert.NotErrorIs(t, err, batch.ErrNotServed)
			}
		})
	}
}

// TestPollsGoTogether: what is polled while a poll is under way goes out in one call, if the service has it.
func TestPollsGoTogether(t *testing.T) {
	t.Parallel()
	resource := &admin.Resource{Phase: core.TaskExecution_RUNNING, Message: "m"}
	large := &admin.Resource{Phase: core.TaskExecution_RUNNING, Message: strings.Repeat("x", 50<<10)}
	type many = func(context.Context, *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error)
	answer := func(r *admin.Resource) many {
		return func(_ context.Context, req *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
			out := &flytebackendv1.GetTasksResponse{}
			for range req.GetTasks() {
				out.Results = append(out.Results, taskOf(r, 0))
			}
			return out, nil
		}
	}
	// How many go into a call is a matter of the machine's load.
	tests := []struct {
		reason string
		many   many
		want   func(single, calls int32) bool
	}{
		{"a service that has it", answer(resource), func(single, calls int32) bool { return single == 1 && calls >= 1 && calls <= 4 }},
		{"a service that has flyteidl's calls alone", nil, func(single, calls int32) bool { return single == 5 && calls == 0 }},
		{"answers that are too large together", answer(large), func(_, calls int32) bool { return calls >= 1 }},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			var single, calls atomic.Int32
			arrived, release := make(chan struct{}), make(chan struct{})
			f := &fake{get: func(context.Context, *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
				if single.Add(1) == 1 {
					close(arrived)
					<-release
				}
				return &admin.GetTaskResponse{Resource: resource}, nil
			}}
			if tt.many != nil {
				f.many = func(ctx context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
					calls.Add(1)
					return tt.many(ctx, r)
				}
			}
			_, address := serve(t, f)
			c := connect(t, &config.Deployment{Endpoint: address, Insecure: true, MaxMessageSizeBytes: 64 << 10})
			var wg sync.WaitGroup
			get := func() {
				job, err := c.Get(within(t), ref)
				if assert.NoError(t, err) {
					assert.Equal(t, core.TaskExecution_RUNNING, job.Phase)
				}
			}
			wg.Go(get)
			<-arrived
			var rest sync.WaitGroup
			for range 4 {
				rest.Go(get)
			}
			rest.Wait() // the poll that is under way is slow, and they do not wait for it
			close(release)
			wg.Wait()
			assert.True(t, tt.want(single.Load(), calls.Load()), "%d single polls, %d calls", single.Load(), calls.Load())
		})
	}
}

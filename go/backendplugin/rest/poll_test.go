package rest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

func jobs(n int) string {
	var refs []string
	for i := range n {
		refs = append(refs, fmt.Sprintf(`{"job_id": "%d"}`, i))
	}
	return `{"jobs": [` + strings.Join(refs, ", ") + `]}`
}

// TestPollOneByOne: without a service for many jobs each is asked for, some at once, and each has its own result in its place.
func TestPollOneByOne(t *testing.T) {
	t.Parallel()
	for _, services := range []func(*service) rest.Services{
		func(s *service) rest.Services { return rest.Services{Async: s} },
		all, // which says that it does not serve many
	} {
		const atOnce = 16
		var mu sync.Mutex
		now, most := 0, 0
		full := make(chan struct{})
		s := &service{get: func(ctx context.Context, r *admin.GetTaskRequest) (*admin.Resource, error) {
			mu.Lock()
			if now++; now > most {
				most = now
			}
			if now == atOnce && most == atOnce {
				select {
				case <-full:
				default:
					close(full)
				}
			}
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				now--
			}()
			select {
			case <-full: // the first ones wait for each other
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if string(r.GetResourceMeta()) == "5" {
				return nil, status.Error(codes.NotFound, "no job 5")
			}
			return running("job " + string(r.GetResourceMeta())), nil
		}}
		w := serve(t, services(s), rest.Options{})
		a := w.do("POST", "/plugins/v1/t/v1/poll", jobs(1000))
		require.Equal(t, 200, a.status, a.text)
		results, _ := a.member("results").([]any)
		require.Len(t, results, 1000)
		for i, r := range results {
			result, _ := r.(map[string]any)
			if i == 5 {
				require.Equal(t, map[string]any{"error": map[string]any{"status": 404.0, "error_code": "NOT_FOUND", "message": "no job 5"}}, result)
				continue
			}
			job, _ := result["job"].(map[string]any)
			require.Equal(t, fmt.Sprintf("job %d", i), job["message"])
		}
		require.Equal(t, atOnce, most)
	}
}

// TestPollEndsWithItsCaller: when the caller has gone, no more jobs are asked for.
func TestPollEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := 0
	entered, left := make(chan struct{}), make(chan struct{})
	w := serve(t, rest.Services{Async: &service{get: func(ctx context.Context, _ *admin.GetTaskRequest) (*admin.Resource, error) {
		mu.Lock()
		if asked++; asked == 16 {
			close(entered)
		}
		mu.Unlock()
		<-ctx.Done()
		if mu.Lock(); asked >= 16 {
			select {
			case <-left:
			default:
				close(left)
			}
		}
		mu.Unlock()
		return nil, ctx.Err()
	}}}, rest.Options{})
	conn := w.dial()
	body := jobs(1000)
	_, err := fmt.Fprintf(conn, "POST /plugins/v1/t/v1/poll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	require.NoError(t, err)
	<-entered
	require.NoError(t, conn.Close())
	<-left
	require.Equal(t, 501, w.do("PUT", "/plugins/v1/t/v1", `{"template": {}}`).status, "the service goes on")
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 16, asked)
}

// TestPollAtOnce: a service for many jobs is asked once, and its results become the contract's.
func TestPollAtOnce(t *testing.T) {
	t.Parallel()
	task := func(r *admin.Resource, after time.Duration) *flytebackendv1.TaskResult {
		return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Task{Task: &flytebackendv1.Task{Resource: r, PollAfter: durationpb.New(after)}}}
	}
	fails := func(code int32, message string, after *durationpb.Duration) *flytebackendv1.TaskResult {
		return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Error{Error: &flytebackendv1.Error{Code: code, Message: message, RetryAfter: after}}}
	}
	var got *flytebackendv1.GetTasksRequest
	var results []*flytebackendv1.TaskResult
	var err error
	w := serve(t, all(&service{batch: func(_ context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
		got = r
		return &flytebackendv1.GetTasksResponse{Results: results}, err
	}}), rest.Options{})
	results = []*flytebackendv1.TaskResult{
		task(running("0"), 1500*time.Millisecond), fails(int32(codes.Unavailable), "down", durationpb.New(500*time.Millisecond)),
		fails(0, "odd", nil), fails(-4, "odder", nil), {}, task(nil, 0), task(running("6"), -time.Second), nil,
	}
	a := w.do("POST", "/plugins/v1/t/v2/poll", `{"jobs": [{"job_id": "0", "task_type_version": 3, "output_prefix": "p"}, {"job_id": "1"},
		{"job_id": "2"}, {"job_id": "3"}, {"job_id": "4"}, {"job_id": "5"}, {"job_id": "6"}, {"job_id": "6"}]}`)
	require.Equal(t, 200, a.status, a.text)
	const lost = `{"error": {"status": 500, "error_code": "DATA_LOSS", "message": "the plugin gave a job whose phase is not set or unknown (0)"}}`
	const spec = `"job_spec": {"task_type": "t", "plugin_version": "v2"}, "job_state": "RUNNING", "error_code": ""`
	require.JSONEq(t, `{"results": [
		{"job": {`+spec+`, "message": "0", "poll_after_seconds": 1.5}},
		{"error": {"status": 503, "error_code": "UNAVAILABLE", "message": "down", "retry_after_seconds": 0.5}},
		{"error": {"status": 500, "error_code": "UNKNOWN", "message": "odd"}},
		{"error": {"status": 500, "error_code": "UNKNOWN", "message": "odder"}},
		`+lost+`, `+lost+`, {"job": {`+spec+`, "message": "6"}}, `+lost+`]}`, a.text)
	require.Len(t, got.GetTasks(), 8)
	require.True(t, proto.Equal(&flytebackendv1.TaskRef{
		TaskCategory: &admin.TaskCategory{Name: "t", Version: 3}, PluginVersion: "v2", ResourceMeta: []byte("0"), OutputPrefix: "p",
	}, got.GetTasks()[0]))

	results = results[:1]
	require.Contains(t, w.do("GET", "/plugins/v1/t/v1?job_id=0", "").text, `"poll_after_seconds":1.5`, "a poll of one job tells it too")
	a = w.do("POST", "/plugins/v1/t/v1/poll", jobs(2))
	require.Equal(t, 500, a.status)
	require.Equal(t, "the service gave 1 results for 2 jobs", a.member("message"))
	err = status.Error(codes.Unavailable, "down")
	require.Equal(t, 503, w.do("POST", "/plugins/v1/t/v1/poll", jobs(2)).status)
}

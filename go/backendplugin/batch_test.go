package backendplugin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// able is a plugin that can look at many jobs, and notices changes.
type able struct {
	simple
	getMany func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error)
	watch   func(context.Context, *backendplugin.Job[string], func()) error
}

func (a *able) GetMany(ctx context.Context, jobs []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
	return a.getMany(ctx, jobs)
}

func (a *able) Watch(ctx context.Context, job *backendplugin.Job[string], changed func()) error {
	return a.watch(ctx, job, changed)
}

func taskRef(taskType, version, id string) *flytebackendv1.TaskRef {
	return &flytebackendv1.TaskRef{
		TaskCategory: &admin.TaskCategory{Name: taskType}, PluginVersion: version, ResourceMeta: []byte(id), OutputPrefix: "s3://b/" + id,
	}
}

// told is a result in a few words.
func told(r *flytebackendv1.TaskResult) string {
	if e := r.GetError(); e != nil {
		return fmt.Sprintf("%s: %s (%s)", codes.Code(e.GetCode()), e.GetMessage(), e.GetRetryAfter().AsDuration())
	}
	t := r.GetTask()
	return fmt.Sprintf("%s %s (%s)", t.GetResource().GetPhase(), t.GetResource().GetMessage(), t.GetPollAfter().AsDuration())
}

// TestGetTasks: jobs of several plugins in one call, each with a result of its own, in order.
func TestGetTasks(t *testing.T) {
	var calls atomic.Int32
	batch := &able{getMany: func(_ context.Context, jobs []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
		calls.Add(1)
		out := make([]backendplugin.Result[values], len(jobs))
		for i, j := range jobs {
			switch j.ID {
			case "gone":
				out[i].Err = backendplugin.NotFound("no job %s", j.ID)
			case "busy":
				out[i].Err = backendplugin.Overloaded(3*time.Second, "busy")
			case "nothing":
			case "plain":
				out[i].Err = errors.New("plain")
			default:
				out[i].Status = &backendplugin.Status[values]{Phase: backendplugin.PhaseRunning, Message: j.ID + " at " + j.OutputPrefix, PollAfter: time.Minute}
			}
		}
		return out, nil
	}}
	single := &simple{get: func(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
		if j.ID == "panics" {
			panic("secret")
		}
		return &backendplugin.Status[values]{Phase: backendplugin.PhaseQueued, Message: j.ID}, nil
	}}
	w := start(t, backendplugin.Plugins{
		backendplugin.New("many", batch), backendplugin.New("one", single), backendplugin.New("one", single, backendplugin.WithVersion("v2")),
		backendplugin.New("typed", &fake[values, int, values]{}),
	})
	ext := flytebackendv1.NewBackendServiceClient(w.conn)
	r, err := ext.GetTasks(w.within(), &flytebackendv1.GetTasksRequest{Tasks: []*flytebackendv1.TaskRef{
		taskRef("many", "v1", "a"), taskRef("one", "v1", "b"), taskRef("many", "", "gone"), taskRef("one", "v2", "c"), taskRef("none", "v1", "d"),
		taskRef("many", "v1", "busy"), taskRef("one", "v1", "panics"), taskRef("many", "v1", "nothing"), taskRef("many", "v1", "plain"),
		taskRef("many", "v1", ""), taskRef("one", "v3", "e"), taskRef("many", "v1", "a"), taskRef("typed", "", "no number"),
	}})
	require.NoError(t, err)
	var got []string
	for _, one := range r.GetResults() {
		got = append(got, told(one))
	}
	require.Equal(t, []string{
		"RUNNING a at s3://b/a (1m0s)",
		"QUEUED b (0s)",
		"NotFound: no job gone (0s)",
		"QUEUED c (0s)",
		`NotFound: this service has no plugin for task type "none" in version v1 (0s)`,
		"ResourceExhausted: busy (3s)",
		"Internal: the plugin panicked in Get; its log has the details (0s)",
		"Internal: the plugin gave no status (0s)",
		"Unknown: plain (0s)",
		"InvalidArgument: the call names no job: resource_meta is empty (0s)",
		`NotFound: this service has no plugin for task type "one" in version v3 (0s)`,
		"RUNNING a at s3://b/a (1m0s)",
		"NotFound: no such job: its id is none of this plugin's (0s)",
	}, got)
	require.Equal(t, int32(1), calls.Load(), "one call of the plugin for all of its jobs")
	require.NotContains(t, strings.Join(got, ""), "secret")
}

// TestGetTasksThatFail: an answer of the wrong length, an error, a panic and a call that is too slow are every job's.
func TestGetTasksThatFail(t *testing.T) {
	var fails func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error)
	p := &able{getMany: func(ctx context.Context, jobs []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
		return fails(ctx, jobs)
	}}
	w := start(t, backendplugin.Plugins{backendplugin.New("many", p)}, backendplugin.WithTimeout(100*time.Millisecond))
	ext := flytebackendv1.NewBackendServiceClient(w.conn)
	for want, f := range map[string]func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error){
		"Internal: the plugin gave 1 results for 2 jobs (0s)": func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			return make([]backendplugin.Result[values], 1), nil
		},
		"Unavailable: down (2s)": func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			return nil, backendplugin.Retry(2*time.Second, "down")
		},
		"Internal: the plugin panicked in GetMany; its log has the details (0s)": func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			panic("p")
		},
		"DeadlineExceeded: GetMany did not end within 100ms, the limit of this service (in the Go SDK, WithTimeout): context deadline exceeded (0s)": func(ctx context.Context, _ []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			<-within(t).Done() // it does not look at its context, and ends with the test
			return nil, ctx.Err()
		},
	} {
		fails = f
		r, err := ext.GetTasks(w.within(), &flytebackendv1.GetTasksRequest{Tasks: []*flytebackendv1.TaskRef{taskRef("many", "v1", "a"), taskRef("many", "v1", "b")}})
		require.NoError(t, err)
		require.Len(t, r.GetResults(), 2)
		require.Equal(t, want, told(r.GetResults()[0]))
		require.Equal(t, want, told(r.GetResults()[1]))
	}
	for _, n := range []int{0, 1001} {
		_, err := ext.GetTasks(w.within(), &flytebackendv1.GetTasksRequest{Tasks: make([]*flytebackendv1.TaskRef, n)})
		require.Equal(t, codes.InvalidArgument, status.Code(err))
		require.ErrorContains(t, err, "1 to 1000 are due")
	}
}

// TestJobsOfLimitedPlugins: a poll that does not say the task type version means the one plugin that it can.
func TestJobsOfLimitedPlugins(t *testing.T) {
	w := start(t, backendplugin.Plugins{
		versioned("one", backendplugin.WithTaskTypeVersions(2, 3)),
		versioned("two", backendplugin.WithVersion("v2"), backendplugin.WithTaskTypeVersions(2)),
		versioned("two", backendplugin.WithVersion("v2"), backendplugin.WithTaskTypeVersions(3)),
	})
	_, err := w.get(with(w.within(), versionHeader, "v1"), "a", "j")
	require.NotEqual(t, codes.NotFound, status.Code(err), err)
	_, err = w.get(with(w.within(), versionHeader, "v2"), "a", "j")
	require.Equal(t, codes.NotFound, status.Code(err), "either could be meant")
	_, err = w.create(with(w.within(), versionHeader, "v1"), "a", nil)
	require.Equal(t, codes.NotFound, status.Code(err), "a create says the version of its template")
}

// follow opens a stream that follows jobs of task type "a".
func (w *world) follow(ids map[uint64]string) flytebackendv1.BackendService_WatchTasksClient {
	w.t.Helper()
	stream, err := flytebackendv1.NewBackendServiceClient(w.conn).WatchTasks(w.within())
	require.NoError(w.t, err)
	req := &flytebackendv1.WatchTasksRequest{}
	for n, id := range ids {
		req.Follow = append(req.Follow, &flytebackendv1.WatchedTask{WatchId: n, Task: taskRef("a", "", id)})
	}
	require.NoError(w.t, stream.Send(req))
	return stream
}

func next(t *testing.T, stream flytebackendv1.BackendService_WatchTasksClient) (uint64, string) {
	t.Helper()
	r, err := stream.Recv()
	require.NoError(t, err)
	return r.GetWatchId(), told(r.GetResult())
}

// job is one that a test changes.
type watchedJob struct {
	message atomic.Value
	changed chan struct{}
	ended   chan struct{}
}

// watching is a plugin whose jobs change when the test says so.
func watching(jobs map[string]*watchedJob) *able {
	return &able{
		simple: simple{get: func(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			one, ok := jobs[j.ID]
			if !ok {
				return nil, backendplugin.NotFound("no job %s", j.ID)
			}
			message, _ := one.message.Load().(string)
			if message == "done" {
				return backendplugin.Succeeded(values{}), nil
			}
			return backendplugin.Running[values](message), nil
		}},
		watch: func(ctx context.Context, j *backendplugin.Job[string], changed func()) error {
			one, ok := jobs[j.ID]
			if !ok {
				return backendplugin.NotFound("no job %s", j.ID)
			}
			defer func() {
				select {
				case one.ended <- struct{}{}:
				default:
				}
			}()
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case _, more := <-one.changed:
					if !more {
						return nil
					}
					changed()
				}
			}
		},
	}
}

func newWatched(message string) *watchedJob {
	w := &watchedJob{changed: make(chan struct{}), ended: make(chan struct{}, 10)}
	w.message.Store(message)
	return w
}

func (w *watchedJob) becomes(message string) {
	w.message.Store(message)
	w.changed <- struct{}{}
}

// TestWatchTasks: the state at once, then each change, until the end; and the plugin stops watching.
func TestWatchTasks(t *testing.T) {
	jobs := map[string]*watchedJob{"a": newWatched("one"), "b": newWatched("b")}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", watching(jobs)), backendplugin.New("plain", &simple{})})
	stream := w.follow(map[uint64]string{7: "a"})
	id, what := next(t, stream)
	require.Equal(t, uint64(7), id)
	require.Equal(t, "RUNNING one (0s)", what)
	jobs["a"].becomes("two")
	_, what = next(t, stream)
	require.Equal(t, "RUNNING two (0s)", what)

	for i := range 20 { // changes that come close together are one, and the last is never lost
		jobs["a"].becomes(fmt.Sprint("burst ", i))
	}
	for what != "RUNNING burst 19 (0s)" {
		_, what = next(t, stream)
	}

	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{{WatchId: 8, Task: taskRef("a", "", "nobody")}}}))
	id, what = next(t, stream)
	require.Equal(t, uint64(8), id)
	require.Equal(t, "NotFound: no job nobody (0s)", what)
	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{{WatchId: 9, Task: taskRef("plain", "", "x")}}}))
	id, what = next(t, stream)
	require.Equal(t, uint64(9), id)
	require.Equal(t, `Unimplemented: the plugin for task type "plain" cannot watch (0s)`, what)

	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{{WatchId: 10, Task: taskRef("a", "", "b")}}}))
	id, _ = next(t, stream)
	require.Equal(t, uint64(10), id)
	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Unfollow: []uint64{10, 99}}))
	<-jobs["b"].ended

	jobs["a"].becomes("done")
	_, what = next(t, stream)
	require.Equal(t, "SUCCEEDED  (0s)", what)
	<-jobs["a"].ended

	require.NoError(t, stream.CloseSend())
	_, err := stream.Recv()
	require.ErrorIs(t, err, io.EOF, "there is nothing left to say")
}

// TestWatchEnds: a plugin that notices nothing more is asked once more, and the caller goes back to polling.
func TestWatchEnds(t *testing.T) {
	jobs := map[string]*watchedJob{"a": newWatched("one"), "b": newWatched("one")}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", watching(jobs))}, backendplugin.WithMaxWatches(2))
	stream := w.follow(map[uint64]string{1: "a"})
	_, what := next(t, stream)
	require.Equal(t, "RUNNING one (0s)", what)
	jobs["a"].message.Store("last")
	close(jobs["a"].changed)
	_, what = next(t, stream)
	require.Equal(t, "RUNNING last (0s)", what)
	_, what = next(t, stream)
	require.Equal(t, "Unavailable: the plugin cannot tell of this job's changes any more (0s)", what)

	more := w.follow(map[uint64]string{1: "b", 2: "b", 3: "b"})
	var refused int
	for range 3 {
		if _, what := next(t, more); strings.HasPrefix(what, "ResourceExhausted: the stream follows 2 jobs") {
			refused++
		}
	}
	require.Equal(t, 1, refused)
}

// TestWatchCallerLeaves: plugins stop watching when the caller is gone.
func TestWatchCallerLeaves(t *testing.T) {
	jobs := map[string]*watchedJob{"a": newWatched("one")}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", watching(jobs))})
	ctx, cancel := context.WithCancel(w.within())
	stream, err := flytebackendv1.NewBackendServiceClient(w.conn).WatchTasks(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{{WatchId: 1, Task: taskRef("a", "", "a")}}}))
	next(t, stream)
	cancel()
	<-jobs["a"].ended
}

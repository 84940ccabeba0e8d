package backendplugin_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
)

// getting is a plugin of a Get.
func getting(get func(ctx context.Context, id string) (*backendplugin.Status[values], error)) *simple {
	return &simple{get: func(ctx context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
		return get(ctx, j.ID)
	}}
}

// tasks polls jobs of task type "a" in one call, and tells each result.
func (w *world) tasks(ctx context.Context, ids ...string) []string {
	w.t.Helper()
	req := &flytebackendv1.GetTasksRequest{}
	for _, id := range ids {
		req.Tasks = append(req.Tasks, taskRef("a", "", id))
	}
	r, err := flytebackendv1.NewBackendServiceClient(w.conn).GetTasks(ctx, req)
	require.NoError(w.t, err)
	var out []string
	for _, one := range r.GetResults() {
		out = append(out, told(one))
	}
	return out
}

func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("j%d", i)
	}
	return out
}

// TestGetTasksInTime: jobs that take too long cost the others nothing, whoever's limit it is.
func TestGetTasksInTime(t *testing.T) {
	t.Parallel()
	const callers = 8 * time.Second // of which the service leaves a tenth for the answer to arrive: enough for a machine that is busy
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, tt := range []struct {
		reason string
		hangs  func(context.Context)
		caller time.Duration
		opts   []backendplugin.Option
	}{
		{"the caller's deadline, heeded", func(ctx context.Context) { <-ctx.Done() }, callers, nil},
		{"the caller's deadline, ignored", func(context.Context) { <-release }, callers, nil},
		{"no limit but the caller's", func(context.Context) { <-release }, callers, []backendplugin.Option{backendplugin.WithTimeout(0)}},
		{"the service's limit", func(ctx context.Context) { <-ctx.Done() }, limit, []backendplugin.Option{backendplugin.WithTimeout(200 * time.Millisecond)}},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			w := start(t, backendplugin.Plugins{backendplugin.New("a", getting(func(ctx context.Context, id string) (*backendplugin.Status[values], error) {
				if id == "hangs" {
					tt.hangs(ctx)
				}
				return backendplugin.Running[values](id), ctx.Err()
			}))}, tt.opts...)
			ctx, cancel := context.WithTimeout(t.Context(), tt.caller)
			defer cancel()
			got := w.tasks(ctx, append([]string{"hangs"}, numbered(99)...)...)
			require.Contains(t, got[0], "DeadlineExceeded: ")
			for i, one := range got[1:] {
				require.Equal(t, fmt.Sprintf("RUNNING j%d (0s)", i), one)
			}
		})
	}
}

// TestGetTasksThatHaveNoTurn: a batch has the time of one call, and jobs that it was not enough for are told so.
func TestGetTasksThatHaveNoTurn(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	w := start(t, backendplugin.Plugins{backendplugin.New("a", getting(func(ctx context.Context, _ string) (*backendplugin.Status[values], error) {
		asked.Add(1)
		<-ctx.Done()
		return nil, ctx.Err()
	}))}, backendplugin.WithTimeout(100*time.Millisecond))
	left := 0
	for _, one := range w.tasks(w.within(), numbered(100)...) {
		require.Contains(t, one, "DeadlineExceeded: ")
		if strings.Contains(one, "the poll's time was over before this job's turn") {
			left++
		}
	}
	require.Equal(t, 100, left+int(asked.Load()))
	require.LessOrEqual(t, asked.Load(), int32(32), "as many as are asked for at once")
}

// TestGetTasksAtOnce: jobs of one call do not turn each other away.
func TestGetTasksAtOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		reason string
		most   int32
		opts   []backendplugin.Option
	}{
		{"as the service has places", 3, []backendplugin.Option{backendplugin.WithMaxConcurrent(3)}},
		{"a few, however many there are", 32, nil},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			var now, most atomic.Int32
			full := make(chan struct{})
			w := start(t, backendplugin.Plugins{backendplugin.New("a", getting(func(ctx context.Context, id string) (*backendplugin.Status[values], error) {
				n := now.Add(1)
				defer now.Add(-1)
				for seen := most.Load(); seen < n; seen = most.Load() {
					most.CompareAndSwap(seen, n)
				}
				if n == tt.most {
					select {
					case <-full:
					default:
						close(full)
					}
				}
				select { // nobody leaves until as many as can are here
				case <-full:
				case <-ctx.Done():
				}
				time.Sleep(time.Millisecond) // so that one too many would come while they are here
				return backendplugin.Running[values](id), nil
			}))}, tt.opts...)
			for i, one := range w.tasks(w.within(), numbered(200)...) {
				require.Equal(t, fmt.Sprintf("RUNNING j%d (0s)", i), one)
			}
			require.Equal(t, tt.most, most.Load())
		})
	}
}

// TestGetTasksFit: what cannot be sent, or does not fit into a message, is the failure of its job alone.
func TestGetTasksFit(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	text := map[string]string{"small": "s", "third": strings.Repeat("x", size/3), "large": strings.Repeat("x", size)}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", getting(func(_ context.Context, id string) (*backendplugin.Status[values], error) {
		if id == "broken" {
			return &backendplugin.Status[values]{Phase: backendplugin.PhaseRunning, LogLinks: []backendplugin.LogLink{{Name: "\xff"}}}, nil
		}
		return backendplugin.Succeeded(values{"o0": text[id]}), nil
	}))}, backendplugin.WithMaxMessageSize(size))
	for _, tt := range []struct {
		reason    string
		ids, want []string
	}{
		{"one that no message takes", []string{"large", "small"}, []string{"ResourceExhausted: the plugin's answer is larger than max (", "SUCCEEDED"}},
		{"one that cannot be sent", []string{"broken", "small"}, []string{"Internal: the plugin's answer cannot be sent: ", "SUCCEEDED"}},
		{"two that fit", []string{"third", "third"}, []string{"SUCCEEDED", "SUCCEEDED"}},
		{
			"more than fit together", []string{"third", "third", "third", "small"},
			[]string{"SUCCEEDED", "SUCCEEDED", "ResourceExhausted: there was no room for this job's ", "SUCCEEDED"},
		},
	} {
		got := w.tasks(w.within(), tt.ids...)
		require.Len(t, got, len(tt.want), tt.reason)
		for i, want := range tt.want {
			require.True(t, strings.HasPrefix(got[i], want), "%s: %.200s", tt.reason, got[i])
		}
	}
}

// TestGetTasksOnce: a job that is named twice is asked for once, and one alone is asked for by Get.
func TestGetTasksOnce(t *testing.T) {
	t.Parallel()
	var asked [][]string
	p := &able{
		simple: *getting(func(_ context.Context, id string) (*backendplugin.Status[values], error) {
			return backendplugin.Running[values]("Get " + id), nil
		}),
		getMany: func(_ context.Context, jobs []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			var ids []string
			var out []backendplugin.Result[values]
			for _, j := range jobs {
				ids = append(ids, j.ID)
				out = append(out, backendplugin.Result[values]{Status: backendplugin.Running[values]("GetMany " + j.ID)})
			}
			asked = append(asked, ids)
			return out, nil
		},
	}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)})
	require.Equal(t, []string{"RUNNING GetMany x (0s)", "RUNNING GetMany y (0s)", "RUNNING GetMany x (0s)"}, w.tasks(w.within(), "x", "y", "x"))
	require.Equal(t, [][]string{{"x", "y"}}, asked)
	require.Equal(t, []string{"RUNNING Get x (0s)"}, w.tasks(w.within(), "x"))
}

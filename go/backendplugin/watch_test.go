package backendplugin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
)

// watchable is a plugin whose jobs are numbers that a test sets; at "done" a job has ended.
type watchable struct {
	able
	mu       sync.Mutex
	state    map[string]string
	watchers map[string][]func()
	watching atomic.Int32
	looks    atomic.Int32
}

func newWatchable() *watchable {
	p := &watchable{state: map[string]string{}, watchers: map[string][]func(){}}
	p.get = func(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
		p.looks.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.state[j.ID] == "done" {
			return backendplugin.Succeeded(values{}), nil
		}
		return backendplugin.Running[values](p.state[j.ID]), nil
	}
	p.watch = func(ctx context.Context, j *backendplugin.Job[string], changed func()) error {
		p.mu.Lock()
		p.watchers[j.ID] = append(p.watchers[j.ID], changed)
		p.mu.Unlock()
		p.watching.Add(1)
		defer p.watching.Add(-1)
		<-ctx.Done()
		return ctx.Err()
	}
	return p
}

// becomes sets a job's state, and says so.
func (p *watchable) becomes(id, state string) {
	p.mu.Lock()
	p.state[id] = state
	watchers := p.watchers[id]
	p.mu.Unlock()
	for _, changed := range watchers {
		changed()
	}
}

// watched waits until Watch runs for so many jobs.
func (p *watchable) watched(t *testing.T, jobs int32) {
	t.Helper()
	require.Eventually(t, func() bool { return p.watching.Load() == jobs }, limit, time.Millisecond)
}

// listens waits until Watch runs for a job: what changes before it does is for the first look.
func (p *watchable) listens(t *testing.T, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.watchers[id]) > 0
	}, limit, time.Millisecond)
}

func followed(watchID uint64, id string) *flytebackendv1.WatchedTask {
	return &flytebackendv1.WatchedTask{WatchId: watchID, Task: taskRef("a", "", id)}
}

// TestWatchManyJobs: all that a caller follows is told, by few looks at once, and leaves places to other calls.
func TestWatchManyJobs(t *testing.T) {
	t.Parallel()
	const jobs = 300
	p := newWatchable()
	look := p.get
	var now atomic.Int32
	entered, release := make(chan struct{}, jobs), make(chan struct{})
	p.get = func(ctx context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
		if now.Add(1) > 2 {
			return nil, errors.New("more looks than a quarter of the places")
		}
		defer now.Add(-1)
		entered <- struct{}{}
		<-release
		return look(ctx, j)
	}
	p.create = func(context.Context, *backendplugin.Request[values]) (string, error) { return "new", nil }
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMaxConcurrent(8))
	ids := map[uint64]string{}
	for i := range uint64(jobs) {
		ids[i] = fmt.Sprint("j", i)
	}
	stream := w.follow(ids)
	p.watched(t, jobs)
	<-entered
	<-entered
	_, err := w.create(w.within(), "a", nil)
	require.NoError(t, err)
	close(release)
	told := map[uint64]bool{}
	for range jobs {
		id, what := next(t, stream)
		require.Equal(t, "RUNNING  (0s)", what)
		told[id] = true
	}
	require.Len(t, told, jobs)
}

// TestWatchWaitsForAPlace: a service that is busy does not fail the jobs that are followed.
func TestWatchWaitsForAPlace(t *testing.T) {
	t.Parallel()
	p := newWatchable()
	entered, release := make(chan struct{}), make(chan struct{})
	p.create = func(context.Context, *backendplugin.Request[values]) (string, error) {
		close(entered)
		<-release
		return "new", nil
	}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMaxConcurrent(1))
	go func() { _, _ = w.create(w.within(), "a", nil) }()
	<-entered
	stream := w.follow(map[uint64]string{1: "j"})
	p.watched(t, 1)
	_, err := w.get(w.within(), "a", "j")
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "there is no place for others")
	close(release)
	_, what := next(t, stream)
	require.Equal(t, "RUNNING  (0s)", what)
}

// TestWatchSlowReader: a caller that does not read makes the service hold a few states, not all, and misses no last change.
func TestWatchSlowReader(t *testing.T) {
	t.Parallel()
	const jobs, rounds = 200, 50
	large := strings.Repeat("x", 32<<10)
	p := newWatchable()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)})
	// A window of this size does not grow by itself.
	w.dial(grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	ids := map[uint64]string{}
	for i := range uint64(jobs) {
		ids[i] = fmt.Sprint("j", i)
		p.state[ids[i]] = large
	}
	stream := w.follow(ids)
	p.watched(t, jobs)
	for round := range rounds {
		for _, id := range ids {
			p.becomes(id, large+strconv.Itoa(round))
		}
	}
	require.Eventually(t, func() bool { return p.looks.Load() >= 16 }, limit, time.Millisecond)
	require.Less(t, p.looks.Load(), int32(40), "as many as the connection and the service hold")
	for _, id := range ids {
		p.becomes(id, "last")
	}
	last := map[uint64]bool{}
	for len(last) < jobs {
		if id, what := next(t, stream); what == "RUNNING last (0s)" {
			last[id] = true
		}
	}
	require.LessOrEqual(t, p.looks.Load(), int32(jobs+40), "changes that were not told of in between are none")
}

// TestWatchUnreadRefusals: a caller that is refused over and over and does not read is not listened to any more until it does.
func TestWatchUnreadRefusals(t *testing.T) {
	t.Parallel()
	const follows = 5000
	p := newWatchable()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMaxWatches(10))
	w.dial(grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	stream := w.follow(nil)
	var sent atomic.Int32
	done := make(chan error, 1)
	go func() {
		for i := range uint64(follows) {
			task := taskRef("none", "", strings.Repeat("x", 1<<10))
			if err := stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{{WatchId: i, Task: task}}}); err != nil {
				done <- err
				return
			}
			sent.Add(1)
		}
		done <- stream.CloseSend()
	}()
	require.Eventually(t, func() bool { // it stands still
		before := sent.Load()
		time.Sleep(50 * time.Millisecond)
		return before > 0 && sent.Load() == before
	}, limit, time.Millisecond)
	require.Less(t, sent.Load(), int32(follows))
	for range follows {
		_, what := next(t, stream)
		require.Contains(t, what, `NotFound: this service has no plugin for task type "none"`)
	}
	require.NoError(t, <-done)
	_, err := stream.Recv()
	require.ErrorIs(t, err, io.EOF)
}

// TestWatchReplaces: a number can be given to another job, and a job that is let go makes room.
func TestWatchReplaces(t *testing.T) {
	t.Parallel()
	p := newWatchable()
	p.state = map[string]string{"a": "is a", "b": "is b", "c": "is c"}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMaxWatches(1))
	stream := w.follow(map[uint64]string{1: "a"})
	_, what := next(t, stream)
	require.Equal(t, "RUNNING is a (0s)", what)
	for _, tt := range []struct {
		reason     string
		req        *flytebackendv1.WatchTasksRequest
		id         uint64
		want, left string
	}{
		{
			"one more than the limit", &flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{followed(2, "b")}},
			2, "ResourceExhausted: the stream follows 1 jobs already, which is the limit (in the Go SDK, WithMaxWatches) (0s)", "",
		},
		{"the same number", &flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{followed(1, "b")}}, 1, "RUNNING is b (0s)", "a"},
		{
			"another one instead", &flytebackendv1.WatchTasksRequest{Unfollow: []uint64{1, 99}, Follow: []*flytebackendv1.WatchedTask{followed(3, "c")}},
			3, "RUNNING is c (0s)", "b",
		},
	} {
		require.NoError(t, stream.Send(tt.req), tt.reason)
		id, what := next(t, stream)
		require.Equal(t, tt.id, id, tt.reason)
		require.Equal(t, tt.want, what, tt.reason)
		p.watched(t, 1)
		p.becomes(tt.left, "nobody is told")
	}
	p.listens(t, "c")
	p.becomes("c", "done")
	id, what := next(t, stream)
	require.Equal(t, uint64(3), id)
	require.Equal(t, "SUCCEEDED  (0s)", what)
	p.watched(t, 0)
}

// TestWatchLetGo: a look that was under way when its job was let go says nothing, least of all by a number that is another job's.
func TestWatchLetGo(t *testing.T) {
	t.Parallel()
	p := newWatchable()
	look := p.get
	entered := make(chan struct{})
	p.get = func(ctx context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
		if j.ID == "slow" {
			close(entered)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return look(ctx, j)
	}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)})
	stream := w.follow(map[uint64]string{1: "slow"})
	<-entered
	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{followed(1, "quick")}}))
	_, what := next(t, stream)
	require.Equal(t, "RUNNING  (0s)", what)
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), "call=Get code=Canceled") }, limit, time.Millisecond)
	p.listens(t, "quick")
	p.becomes("quick", "done")
	_, what = next(t, stream)
	require.Equal(t, "SUCCEEDED  (0s)", what)
}

// TestWatchSaysNothingTwice: changed may be called for nothing, and as often as a plugin likes.
func TestWatchSaysNothingTwice(t *testing.T) {
	t.Parallel()
	p := newWatchable()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)})
	stream := w.follow(map[uint64]string{1: "j"})
	_, what := next(t, stream)
	require.Equal(t, "RUNNING  (0s)", what)
	p.listens(t, "j")
	for range 10_000 {
		p.becomes("j", "")
	}
	looked := p.looks.Load()
	require.Less(t, looked, int32(1000), "ten in a second at most")
	require.Eventually(t, func() bool { return p.looks.Load() > 1 }, limit, time.Millisecond)
	p.becomes("j", "new")
	_, what = next(t, stream)
	require.Equal(t, "RUNNING new (0s)", what)
}

// TestWatchOfEachEnd: a job is looked at once more when its Watch ends; then the caller hears why, and no more.
func TestWatchOfEachEnd(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	running := func() (*backendplugin.Status[values], error) { return backendplugin.Running[values]("r"), nil }
	listens := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, tt := range []struct {
		reason string
		get    func() (*backendplugin.Status[values], error)
		watch  func(context.Context) error
		want   []string
	}{
		{
			"it notices nothing more", running, func(context.Context) error { return nil },
			[]string{"RUNNING r (0s)", "Unavailable: the plugin cannot tell of this job's changes any more (0s)"},
		},
		{
			"it fails", running, func(context.Context) error { return backendplugin.Overloaded(time.Minute, "too many listen") },
			[]string{"RUNNING r (0s)", "ResourceExhausted: too many listen (1m0s)"},
		},
		{"it panics", running, func(context.Context) error { panic("secret") }, []string{"RUNNING r (0s)", "Internal: the plugin panicked in Watch; its log has the details (0s)"}},
		{
			"the job cannot be looked at", func() (*backendplugin.Status[values], error) { return nil, backendplugin.Retry(0, "away") }, listens,
			[]string{"Unavailable: away (0s)"},
		},
		{
			"looking panics", func() (*backendplugin.Status[values], error) { panic("secret") }, listens,
			[]string{"Internal: the plugin panicked in Get; its log has the details (0s)"},
		},
		{
			"it has ended already", func() (*backendplugin.Status[values], error) {
				return backendplugin.Failed[values](backendplugin.UserError("no")), nil
			}, listens, []string{"FAILED no (0s)"},
		},
		{
			"its state is larger than a message", func() (*backendplugin.Status[values], error) {
				return backendplugin.Succeeded(values{"o0": strings.Repeat("x", size)}), nil
			}, listens, []string{"ResourceExhausted: the plugin's answer is larger than max (65"},
		},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			var ended sync.WaitGroup
			ended.Add(1)
			p := &able{
				simple: *getting(func(context.Context, string) (*backendplugin.Status[values], error) { return tt.get() }),
				watch: func(ctx context.Context, _ *backendplugin.Job[string], _ func()) error {
					defer ended.Done()
					return tt.watch(ctx)
				},
			}
			w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMaxMessageSize(size))
			stream := w.follow(map[uint64]string{5: "j"})
			for _, want := range tt.want {
				id, what := next(t, stream)
				require.Equal(t, uint64(5), id)
				require.True(t, strings.HasPrefix(what, want), what)
			}
			ended.Wait()
			require.NoError(t, stream.CloseSend())
			_, err := stream.Recv()
			require.ErrorIs(t, err, io.EOF, "nothing is followed any more")
		})
	}
}

// TestWatchDrain: news comes until the service takes no more calls; then streams end so that another replica is asked.
func TestWatchDrain(t *testing.T) {
	t.Parallel()
	p := newWatchable()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithDrain(time.Second, limit))
	streams := []flytebackendv1.BackendService_WatchTasksClient{w.follow(map[uint64]string{1: "j"}), w.follow(map[uint64]string{2: "j"})}
	for _, s := range streams {
		next(t, s)
	}
	p.watched(t, 2)
	w.stop()
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), "msg=draining") }, limit, time.Millisecond)
	p.becomes("j", "while it drains")
	for _, s := range streams {
		_, what := next(t, s)
		require.Equal(t, "RUNNING while it drains (0s)", what)
		_, err := s.Recv()
		require.Equal(t, codes.Unavailable, status.Code(err), err)
		require.ErrorContains(t, err, "the service is shutting down")
	}
	require.NoError(t, <-w.ended)
	p.watched(t, 0)
}

// TestWatchChurn is for the race detector: callers follow, let go and leave while jobs change.
func TestWatchChurn(t *testing.T) {
	t.Parallel()
	const callers, rounds = 4, 20
	p := newWatchable()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMaxWatches(5))
	changing, stop := context.WithCancel(w.within())
	var changes sync.WaitGroup
	changes.Go(func() {
		for i := 0; changing.Err() == nil; i++ {
			p.becomes(fmt.Sprint("j", i%7), strconv.Itoa(i))
			time.Sleep(100 * time.Microsecond)
		}
	})
	results := make(chan error, callers)
	for range callers {
		ctx := w.within()
		go func() {
			results <- func() error {
				for range rounds {
					ctx, leave := context.WithCancel(ctx)
					stream, err := flytebackendv1.NewBackendServiceClient(w.conn).WatchTasks(ctx)
					for i := uint64(0); i < 10 && err == nil; i++ {
						err = stream.Send(&flytebackendv1.WatchTasksRequest{
							Follow: []*flytebackendv1.WatchedTask{followed(i%4, fmt.Sprint("j", i%7)), followed(i, "j0")}, Unfollow: []uint64{i / 2},
						})
					}
					for i := 0; i < 5 && err == nil; i++ {
						_, err = stream.Recv()
					}
					leave()
					if err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		require.NoError(t, <-results)
	}
	stop()
	changes.Wait()
	p.watched(t, 0)
}

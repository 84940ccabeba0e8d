package backendplugin

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
)

// Watcher is an optional ability of an [Async] plugin: it notices when a job changes, by whatever its vendor has for that, so
// that callers hear of it sooner than by their next poll.
type Watcher[ID any] interface {
	// Watch calls changed whenever the job may have changed; the SDK then asks Get and tells the callers. It blocks until ctx
	// ends or it can notice nothing more, and runs for each job that a caller follows. Calls of changed that come close
	// together count as one. An error ends the watch, and callers go back to polling.
	Watch(ctx context.Context, job *Job[ID], changed func()) error
}

// DefaultMaxWatches is how many jobs a caller may follow on one stream.
const DefaultMaxWatches = 10_000

// WithMaxWatches limits how many jobs a caller may follow on one stream; [DefaultMaxWatches] unless said otherwise. One more is
// RESOURCE_EXHAUSTED, for that job.
func WithMaxWatches(jobs int) Option { return func(o *options) { o.maxWatches = jobs } }

// watchPause is the least time between two looks at a job: however often a plugin calls changed, its Get has peace for as long.
const watchPause = 50 * time.Millisecond

// watches are the jobs that one stream follows.
type watches struct {
	s      *service
	stream flytebackendv1.BackendService_WatchTasksServer

	// sending orders messages: a stream takes one at a time.
	sending sync.Mutex

	mu sync.Mutex
	m  map[uint64]*watch
	wg sync.WaitGroup
}

// watch is a job that is followed.
type watch struct {
	cancel context.CancelFunc
}

// WatchTasks implements flytebackend.v1.BackendService.
func (s *service) WatchTasks(stream flytebackendv1.BackendService_WatchTasksServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	w := &watches{s: s, stream: stream, m: map[uint64]*watch{}}
	defer w.wg.Wait()
	defer cancel()
	// The caller may say nothing more while it listens, so the stream's end is noticed beside the reading of it.
	requests, failed := make(chan *flytebackendv1.WatchTasksRequest), make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case r := <-requests:
			for _, id := range r.GetUnfollow() {
				w.unfollow(id)
			}
			for _, t := range r.GetFollow() {
				w.follow(ctx, t)
			}
		case err := <-failed:
			if !errors.Is(err, io.EOF) {
				return err
			}
			failed = nil // the caller follows no others, and listens on
		case <-ctx.Done():
			// The stream's own end is nobody's error; else the server is ending, and another replica goes on.
			return status.Error(codes.Unavailable, "the service is ending: follow the jobs anew, at another replica")
		}
	}
}

func (w *watches) unfollow(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have, ok := w.m[id]; ok {
		have.cancel()
		delete(w.m, id)
	}
}

func (w *watches) follow(ctx context.Context, t *flytebackendv1.WatchedTask) {
	id := t.GetWatchId()
	w.unfollow(id)
	p, c, err := w.s.taskRef(ctx, "Watch", t.GetTask())
	if err == nil && p.watch == nil {
		err = status.Errorf(codes.Unimplemented, "the plugin for task type %q cannot watch", c.taskType)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && len(w.m) >= w.s.maxWatches {
		err = Overloaded(0, "the stream follows %d jobs already, which is the limit", w.s.maxWatches)
	}
	if err != nil {
		w.wg.Go(func() { w.send(ctx, id, nil, looked{err: err}) })
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	mine := &watch{cancel: cancel}
	w.m[id] = mine
	w.s.metrics.watched.Inc()
	w.wg.Go(func() {
		defer w.s.metrics.watched.Dec()
		defer cancel()
		last := w.s.watch(ctx, p, c, func(l looked) { w.send(ctx, id, mine, l) })
		w.send(ctx, id, mine, last)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.m[id] == mine {
			delete(w.m, id)
		}
	})
}

// send tells the caller, unless it does not follow the job any more. It blocks while the caller does not read: that watch then
// looks again only when it can tell.
func (w *watches) send(ctx context.Context, id uint64, of *watch, l looked) {
	w.sending.Lock()
	defer w.sending.Unlock()
	w.mu.Lock()
	gone := ctx.Err() != nil || of != nil && w.m[id] != of
	w.mu.Unlock()
	if !gone {
		_ = w.stream.Send(&flytebackendv1.WatchTasksResponse{WatchId: id, Result: l.result(ctx)}) // a broken stream ends ctx
	}
}

// watch looks at a job now and whenever it has changed, and tells what it sees. It gives the last of it: a final phase, or why
// the job cannot be watched any more.
func (s *service) watch(ctx context.Context, p *Plugin, c *call, tell func(looked)) looked {
	changes := make(chan struct{}, 1)
	ended := make(chan error, 1)
	within, cancel := context.WithCancel(ctx)
	go func() {
		ended <- s.watchOne(within, p, c, func() {
			select {
			case changes <- struct{}{}:
			default: // one is waiting already, and the look that it leads to sees this change too
			}
		})
	}()
	defer cancel()
	var over error
	for {
		copied := *c
		state, err := guarded(ctx, s, "Get", &copied, s.timeout, p.get)
		switch {
		case err != nil:
			return looked{err: err}
		case final(state.resource.GetPhase()):
			return looked{state: state}
		}
		tell(looked{state: state})
		if over != nil {
			return looked{err: over}
		}
		pause := time.NewTimer(watchPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return looked{err: ctx.Err()}
		}
		select {
		case <-changes:
		case over = <-ended: // one more look: it may have ended because the job did
			if over == nil {
				over = Retry(0, "the plugin cannot tell of this job's changes any more")
			}
			ended = nil
		case <-ctx.Done():
			return looked{err: ctx.Err()}
		}
	}
}

// watchOne runs the plugin's code, which may panic.
func (s *service) watchOne(ctx context.Context, p *Plugin, c *call, changed func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.panicked(ctx, "Watch", c, r)
		}
	}()
	if err := p.watch(ctx, c, changed); err != nil {
		return spoken(ctx, err)
	}
	return nil
}

package backendplugin

import (
	"container/list"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
)

// Watcher is an optional ability of an [Async] plugin: it notices when a job changes, by whatever its vendor has for that, so
// that callers hear of it sooner than by their next poll.
type Watcher[ID any] interface {
	// Watch calls changed whenever the job may have changed; the SDK then asks Get and tells the caller. It blocks until ctx
	// ends, which is when the job's final phase has been sent or the caller follows it no more, or until it can notice nothing
	// more. It runs for each job that a caller follows, and counts among no limit but [WithMaxWatches].
	//
	// changed does not block, and may be called by any goroutine and too often: calls that come close together count as one, and
	// a state that has not changed is not sent. The job is also looked at when Watch begins. A plugin that takes a while until it
	// notices changes calls changed once it does.
	//
	// When Watch ends before the job does, with an error or without, the caller is told, and goes back to polling.
	Watch(ctx context.Context, job *Job[ID], changed func()) error
}

// DefaultMaxWatches is how many jobs a caller may follow on one stream.
const DefaultMaxWatches = 10_000

// WithMaxWatches limits how many jobs a caller may follow on one stream; [DefaultMaxWatches] unless said otherwise. One more is
// RESOURCE_EXHAUSTED, for that job.
func WithMaxWatches(jobs int) Option { return func(o *options) { o.maxWatches = jobs } }

const (
	// watchLanes bounds how many jobs of a stream are looked at, or wait to be sent, at once. It bounds what a reader that is
	// slow makes the service hold.
	watchLanes = 16
	// watchPause is the least time between two looks at a job: changes that come sooner become one.
	watchPause = 100 * time.Millisecond
)

// watchLooks leaves most places to callers that wait.
func watchLooks(maxConcurrent int) int { return max(1, min(64, maxConcurrent/4)) }

type (
	watchStream = flytebackendv1.BackendService_WatchTasksServer

	// watches are what one stream follows. Jobs that are to be looked at stand in a queue, each at most once; a few goroutines
	// look at them and hand what they see to the only one that sends. So a job's states do not pile up: while one waits to be
	// sent, changes are no more than a mark.
	watches struct {
		s    *service
		ctx  context.Context
		seed maphash.Seed
		news chan news
		// done says that the caller has said that it follows no more jobs, and that no job is left.
		done chan struct{}

		mu       sync.Mutex
		room     *sync.Cond // for refusals
		followed map[uint64]*watch
		queue    list.List
		lanes    int
		jobs     int // those of followed that are not refused
		refused  int // the others
		closed   bool
	}

	// watch is a job that is followed, or why it cannot be.
	watch struct {
		id      uint64
		plugin  *Plugin
		call    *call
		ctx     context.Context
		cancel  context.CancelFunc
		refused *flytebackendv1.TaskResult

		// Of all these, watches.mu is the guard.
		place *list.Element // in the queue
		busy  bool          // it is being looked at, or was a moment ago
		again bool          // it has changed since
		gone  bool          // nothing more is to be said of it
		over  *flytebackendv1.TaskResult
		sent  uint64 // a hash of what was sent last; 0 for nothing
	}

	// news is what a look at a job gave.
	news struct {
		watch  *watch
		result *flytebackendv1.TaskResult
		// over is why the plugin had ended its Watch before the look; nil while it has not.
		over *flytebackendv1.TaskResult
	}
)

// WatchTasks implements BackendService.
func (s *service) WatchTasks(stream watchStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	w := &watches{
		s: s, ctx: ctx, seed: maphash.MakeSeed(), news: make(chan news), done: make(chan struct{}), followed: map[uint64]*watch{},
	}
	w.room = sync.NewCond(&w.mu)
	defer w.end()
	defer context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.room.Broadcast()
	})()
	failed := make(chan error, 1)
	go w.read(stream, failed)
	for {
		select {
		case n := <-w.news:
			for _, r := range w.settle(n) {
				if err := stream.Send(&flytebackendv1.WatchTasksResponse{WatchId: n.watch.id, Result: r}); err != nil {
					return err
				}
			}
		case <-w.done:
			return nil
		case err := <-failed:
			return w.ended(err)
		case <-ctx.Done():
			return w.ended(status.FromContextError(ctx.Err()).Err())
		case <-s.ending.Done():
			return w.ended(nil)
		}
	}
}

// ended is the error of a stream that has ended with err.
func (w *watches) ended(err error) error {
	if w.s.ending.Err() != nil {
		return status.Error(codes.Unavailable, "the service is shutting down; its other replicas answer")
	}
	return err
}

// end lets go of everything; the reading goroutine may still be there, and adds nothing.
func (w *watches) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, x := range w.followed {
		w.remove(x)
	}
}

// read takes what the caller says until it ends.
func (w *watches) read(stream watchStream, failed chan<- error) {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			w.mu.Lock()
			w.closed = true
			w.finish()
			w.mu.Unlock()
			return
		}
		if err != nil {
			failed <- err
			return
		}
		w.mu.Lock()
		for _, id := range r.GetUnfollow() {
			if x := w.followed[id]; x != nil {
				w.remove(x)
			}
		}
		w.mu.Unlock()
		for _, t := range r.GetFollow() {
			w.follow(t)
		}
	}
}

// follow begins to follow a job.
func (w *watches) follow(t *flytebackendv1.WatchedTask) {
	x := &watch{id: t.GetWatchId()}
	x.ctx, x.cancel = context.WithCancel(w.ctx)
	p, c, err := w.s.taskRef(x.ctx, "Watch", t.GetTask())
	if err == nil && p.watch == nil {
		err = w.s.cannot(x.ctx, "Watch", c, "cannot watch")
	}
	x.plugin, x.call = p, c
	if !w.add(x, err) {
		x.cancel()
		return
	}
	if x.refused == nil {
		go w.watch(x)
	}
}

// add takes a job in, or why it cannot be followed. It waits while the caller has too many answers of that kind unread. It is
// false when the stream has ended.
func (w *watches) add(x *watch, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.closed || w.ctx.Err() != nil {
			return false
		}
		if old := w.followed[x.id]; old != nil {
			w.remove(old)
		}
		if err == nil && w.jobs >= w.s.maxWatches {
			w.s.metrics.count(w.ctx, "Watch", x.call.taskType, x.call.servedBy, codes.ResourceExhausted)
			err = Overloaded(0, "the stream follows %d jobs already, which is the limit (in the Go SDK, WithMaxWatches)", w.jobs)
		}
		if err == nil || w.refused < w.s.maxWatches {
			break
		}
		w.room.Wait()
	}
	if err != nil {
		x.refused = looked{err: err}.result(w.ctx)
		w.refused++
	} else {
		w.jobs++
		w.s.metrics.watched.Inc()
	}
	w.followed[x.id] = x
	w.push(x)
	return true
}

// remove follows x no more. The caller holds mu, as for the methods below.
func (w *watches) remove(x *watch) {
	if x.gone {
		return
	}
	x.gone = true
	x.cancel()
	delete(w.followed, x.id)
	if x.place != nil {
		w.queue.Remove(x.place)
		x.place = nil
	}
	if x.refused != nil {
		w.refused--
		w.room.Signal()
	} else {
		w.jobs--
		w.s.metrics.watched.Dec()
	}
	w.finish()
}

// finish ends the stream when there is nothing left to say.
func (w *watches) finish() {
	if !w.closed || len(w.followed) > 0 {
		return
	}
	select {
	case <-w.done:
	default:
		close(w.done)
	}
}

// push puts x into the queue, and sees that somebody comes.
func (w *watches) push(x *watch) {
	x.place = w.queue.PushBack(x)
	if w.lanes < watchLanes {
		w.lanes++
		go w.work()
	}
}

// mark says that x may have changed.
func (w *watches) mark(x *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case x.gone || x.place != nil:
	case x.busy:
		x.again = true
	default:
		w.push(x)
	}
}

// work looks at jobs until there is none to be looked at.
func (w *watches) work() {
	for {
		w.mu.Lock()
		first := w.queue.Front()
		if first == nil {
			w.lanes--
			w.mu.Unlock()
			return
		}
		x, _ := w.queue.Remove(first).(*watch)
		x.place, x.busy = nil, true
		n := news{watch: x, result: x.refused, over: x.over}
		w.mu.Unlock()
		if n.result == nil {
			n.result = w.look(x)
		}
		select {
		case w.news <- n:
		case <-w.ctx.Done():
			return
		}
	}
}

// look asks the plugin for the job's state.
func (w *watches) look(x *watch) *flytebackendv1.TaskResult {
	select {
	case w.s.looks <- struct{}{}:
		defer func() { <-w.s.looks }()
	case <-x.ctx.Done():
		return looked{err: x.ctx.Err()}.result(x.ctx)
	}
	c := *x.call
	c.background = true
	limit := w.s.timeout
	if limit == 0 {
		limit = DefaultTimeout // nobody else would end it
	}
	state, err := guarded(x.ctx, w.s, "Get", &c, limit, w.s.get(x.plugin))
	return looked{state, err}.result(x.ctx)
}

// settle takes news in, and gives what is to be sent of it.
func (w *watches) settle(n news) []*flytebackendv1.TaskResult {
	hash := w.hash(n.result)
	w.mu.Lock()
	defer w.mu.Unlock()
	x := n.watch
	if x.gone {
		return nil
	}
	var out []*flytebackendv1.TaskResult
	if hash != x.sent {
		out, x.sent = append(out, n.result), hash
	}
	switch {
	case n.result.GetError() != nil || final(n.result.GetTask().GetResource().GetPhase()):
		w.remove(x)
	case n.over != nil:
		out = append(out, n.over)
		w.remove(x)
	default:
		time.AfterFunc(watchPause, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			x.busy = false
			if x.again && !x.gone {
				x.again = false
				w.push(x)
			}
		})
	}
	return out
}

// hash tells states apart without keeping them.
func (w *watches) hash(r *flytebackendv1.TaskResult) uint64 {
	raw, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r) // it can be: see sendable
	return max(1, maphash.Bytes(w.seed, raw))
}

// watch runs the plugin's Watch to its end.
func (w *watches) watch(x *watch) {
	err := w.watched(x)
	code := codes.OK
	ended := x.ctx.Err() != nil // as it should
	if !ended {
		if err == nil {
			err = Retry(0, "the plugin cannot tell of this job's changes any more")
		} else {
			code = status.Code(err)
			x.call.log.WarnContext(x.ctx, "call", "call", "Watch", "code", code.String(), "error", err)
		}
	}
	w.s.metrics.count(w.ctx, "Watch", x.call.taskType, x.call.servedBy, code)
	if ended {
		return
	}
	w.mu.Lock()
	x.over = looked{err: err}.result(w.ctx)
	w.mu.Unlock()
	w.mark(x) // for what changed last
}

func (w *watches) watched(x *watch) (err error) {
	defer func() {
		if thrown := recover(); thrown != nil {
			err = w.s.panicked(x.ctx, "Watch", x.call, thrown)
		}
	}()
	c := *x.call
	if err := x.plugin.watch(x.ctx, &c, func() { w.mark(x) }); err != nil {
		return spoken(x.ctx, aboutJob(err))
	}
	return nil
}

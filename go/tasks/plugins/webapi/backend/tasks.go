package backend

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// forgetAfter is how long a task stays in memory without propeller looking at it: its workflow is gone. Propeller looks
// at a running workflow at least every few minutes, whatever its settings.
const forgetAfter = time.Hour

// tasks is what this process remembers of the tasks that it handles. Everything in it can be lost: a restarted propeller
// finds the essential in the plugin state.
type tasks struct {
	mu      sync.Mutex
	m       map[string]*task
	sweepAt time.Time
	// resized hears of every change of their number, under mu.
	resized func(int)
}

func newTasks(resized func(int)) *tasks {
	return &tasks{m: map[string]*task{}, sweepAt: time.Now().Add(forgetAfter), resized: resized}
}

// touch finds or makes the task and marks it as looked at.
func (ts *tasks) touch(key string, id identity, meta core.TaskExecutionMetadata, now time.Time) *task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if now.After(ts.sweepAt) {
		ts.sweepAt = now.Add(forgetAfter)
		for k, t := range ts.m {
			if now.Sub(t.lastTouched()) > forgetAfter {
				t.abandon()
				delete(ts.m, k)
			}
		}
	}
	t, ok := ts.m[key]
	if !ok {
		t = &task{key: key, id: id, owner: meta.GetOwnerID()}
		ts.m[key] = t
	}
	t.touched.Store(now.UnixNano())
	ts.resized(len(ts.m))
	return t
}

// count gives how many tasks are remembered.
func (ts *tasks) count() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.m)
}

// lookup gives the task or nil.
func (ts *tasks) lookup(key string) *task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.m[key]
}

// forget drops the task.
func (ts *tasks) forget(key string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t, ok := ts.m[key]; ok {
		t.abandon()
		delete(ts.m, key)
	}
	ts.resized(len(ts.m))
}

// task is the memory of one task attempt. Propeller handles a task in one goroutine at a time; the poll loop and calls
// that go on in the background are others, hence mu.
type task struct {
	key     string
	id      identity
	owner   types.NamespacedName
	touched atomic.Int64

	mu sync.Mutex
	// outputPrefix is what polls tell the service; it is set in every round.
	outputPrefix string
	// builtIn remembers that a built-in plugin was chosen, until propeller has recorded a first round.
	builtIn bool
	// pin remembers the backend that was decided on, for as long.
	pin *envelope
	// wakeAt is when propeller is to look again.
	wakeAt time.Time
	// memory is the envelope of a task whose state propeller does not keep, file what is left of it when this process ends.
	memory *envelope
	file   *stateFile
	// recalled: the job was found in the file.
	recalled bool
	// call is the create or execute that is under way or done.
	call *call
	// failures counts failures to create in a row; no new try is made before nextTry.
	failures int
	nextTry  time.Time
	waiting  string
	// job is the latest state that was polled, outage the polls that failed since.
	job    *client.Job
	outage outage
	fatal  *client.Error
	// asked is when the poll was sent whose answer is the latest, askAfter when the next is to be sent at the earliest.
	asked, askAfter time.Time
	// changes counts what propeller should hear of, heard what it has.
	changes, heard uint64
	waking         bool
}

// outage is an unbroken run of failed polls.
type outage struct {
	since  time.Time
	count  int
	latest *client.Error
}

// prefix gives where the task's outputs belong.
func (t *task) prefix() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outputPrefix
}

func (t *task) lastTouched() time.Time { return time.Unix(0, t.touched.Load()) }

// abandon cancels a synchronous call that nobody waits for any more. A create is not cancelled: the service may have begun
// with the job, and its answer is what the job can be deleted by.
func (t *task) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.call != nil && t.call.sync {
		t.call.cancel()
	}
}

// call is a create or execute beside propeller's worker.
type call struct {
	cancel context.CancelFunc
	target client.Target
	sync   bool
	done   chan struct{}
	// Set before done is closed.
	id  client.JobID
	job *client.Job
	err error
}

// finished says whether the call's results may be read.
func (c *call) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// begin starts run beside the caller. A call keeps the values of ctx but neither its deadline nor its cancellation, since a
// round of propeller is shorter than a call; run sets the time limit.
func (t *task) begin(ctx context.Context, target client.Target, sync bool, run func(context.Context, *call), after func()) *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &call{cancel: cancel, target: target, sync: sync, done: make(chan struct{})}
	t.call = c
	go func() {
		defer cancel()
		run(ctx, c)
		t.mu.Lock()
		t.changes++
		t.mu.Unlock()
		close(c.done)
		after()
	}()
	return c
}

// currentCall gives the call that is under way or done, or nil.
func (t *task) currentCall() *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.call
}

// polled takes in the result of a poll that was sent at that time, and says whether propeller should hear of it. Polls may
// overtake each other: an answer to an older question tells nothing, and a job that has ended stays ended.
func (t *task) polled(job *client.Job, err *client.Error, fatal bool, asked time.Time) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if asked.Before(t.asked) || t.job != nil && t.job.Terminal() {
		return false
	}
	t.asked = asked
	switch {
	case err == nil:
		changed = t.job == nil || t.outage.count > 0 || fingerprintJob(t.job) != fingerprintJob(job)
		t.job, t.outage = job, outage{}
		t.askAfter = asked.Add(min(job.PollAfter, maxPollAfter))
	case fatal:
		changed = t.fatal == nil
		t.fatal = err
	default:
		if t.outage.count == 0 {
			t.outage.since = asked
			changed = true
		}
		t.outage.count++
		t.outage.latest = err
	}
	if changed {
		t.changes++
	}
	return changed
}

// maxPollAfter bounds how long a service may have a job not polled.
const maxPollAfter = 10 * time.Minute

// resting gives the job's latest state while its service expects nothing new.
func (t *task) resting(now time.Time) (*client.Job, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.job, t.job != nil && now.Before(t.askAfter)
}

// view is what Status reads, all at one moment.
type view struct {
	job    *client.Job
	outage outage
	fatal  *client.Error
}

func (t *task) view() view {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = t.changes
	return view{t.job, t.outage, t.fatal}
}

// settled ends the waking when propeller has heard of everything. The two are one step, or a change in between would find
// that somebody is waking already, and nobody would.
func (t *task) settled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heard != t.changes {
		return false
	}
	t.waking = false
	return true
}

// decided remembers the decision, so that a round whose state propeller lost does not lead to another one.
func (t *task) decided(choice envelope) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pin = &choice
}

// onto gives env, or an empty envelope, with e's decision in it.
func (e envelope) onto(env *envelope) *envelope {
	if env == nil {
		env = &envelope{}
	}
	env.Deployment, env.PluginVersion, env.Mode, env.Since = e.Deployment, e.PluginVersion, e.Mode, 0
	return env
}

// remember keeps the envelope of a task whose state propeller does not keep. Nor does it keep phase versions: every round
// begins with 0.
func (t *task) remember(env envelope) {
	env.Version = 0
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memory = &env
}

// wasRecalled says whether the job was found in the file.
func (t *task) wasRecalled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recalled
}

// jobEnded says whether the job is known to have ended by itself.
func (t *task) jobEnded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.job != nil && t.job.Terminal()
}

// waitsFor says whether the task shows already that it waits because of e.
func (t *task) waitsFor(e *client.Error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting != "" && t.waiting == waitingFor(e)
}

// created ends a run of failures to create.
func (t *task) created() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures, t.nextTry, t.waiting = 0, time.Time{}, ""
}

// maxRetryAfter bounds the pause that a service may ask for.
const maxRetryAfter = 10 * time.Minute

// backOff counts a failure and gives the pause before the next try.
func (t *task) backOff(e *client.Error, initial, limit time.Duration, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures++
	pause := max(client.NextBackoff(t.failures, initial, limit), min(e.RetryAfter, maxRetryAfter))
	t.nextTry, t.waiting = now.Add(pause), waitingFor(e)
	return pause
}

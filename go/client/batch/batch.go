// Package batch makes few calls of many polls. Callers poll one job each, as the machinery of web API plugins does; what
// they ask at about the same time goes to the service together. It knows nothing of how a service is called.
package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

const (
	// maxJobs bounds the jobs of a call; the contract lets a service refuse more than 1000.
	maxJobs = 500
	// maxCalls bounds the calls that are under way for one plugin at once.
	maxCalls = 8
	// patience is how long a poll waits for the call before it to end, until it goes out in a call of its own: one slow call
	// must not stop the rest.
	patience = 50 * time.Millisecond
	// linger is how long the callers whose call has ended are waited for to come again with their next job, or else the first
	// of them would go alone and the others wait for it.
	linger = time.Millisecond
	// minJobs is the least to which calls are cut that are too large or too slow; below it, jobs are polled alone. That many in
	// each of maxCalls are more than the machinery has workers.
	minJobs = 16
	// memory is how long it is remembered that a service does not serve such calls, cutMemory that they had to be cut.
	memory, cutMemory = time.Minute, 10 * time.Minute
)

// ErrNotServed is, or is wrapped by, the error of GetMany when the service does not have that call.
var ErrNotServed = errors.New("the service does not poll many jobs at once")

// Result is what a call tells of one job: one of the two is set.
type Result struct {
	Job *client.Job
	Err *client.Error
}

// Transport calls a deployment. Both calls block until the service has answered or ctx ends, may be repeated at will, and
// are made by many goroutines at once.
type Transport interface {
	// Get polls one job, as client.Client's does.
	Get(ctx context.Context, ref client.JobRef) (*client.Job, error)
	// GetMany polls jobs of one task type and plugin version, and gives a result for each in their order. It fails when
	// none can be looked at: with ErrNotServed, or a *client.Error.
	GetMany(ctx context.Context, refs []client.JobRef) ([]Result, error)
}

// Poller is a Get whose calls are put together. Make it with New.
type Poller struct {
	t                    Transport
	deployment, endpoint string
	// As the constants above; tests have others.
	patience, linger, memory, cutMemory time.Duration

	mu sync.Mutex
	// groups are as many as there are plugins.
	groups map[group]*queue
}

// group is what can go into one call.
type group struct{ taskType, pluginVersion string }

// queue are the polls of a group that wait for a call.
type queue struct {
	waiting []*poll
	// calls counts those that are under way.
	calls int
	// late tells that the first of waiting has a timer.
	late bool
	// gather is how many polls are waited for, for as long as linger; 0 means that nothing is.
	gather int
	// limit is the most jobs of a call until then; 0 means maxJobs, and 1 that jobs are polled alone.
	limit int
	until time.Time
	// unserved tells that the service does not have such calls.
	unserved bool
}

// poll is one caller.
type poll struct {
	//nolint:containedctx // it is the caller's, who waits
	ctx  context.Context
	ref  client.JobRef
	done chan struct{}
	// Set before done is closed. alone sends the caller to the service by itself.
	result Result
	alone  bool
}

// New makes a Poller for a deployment, whose name and endpoint stand in errors.
func New(t Transport, deployment, endpoint string) *Poller {
	return &Poller{
		t: t, deployment: deployment, endpoint: endpoint, patience: patience, linger: linger, memory: memory, cutMemory: cutMemory,
		groups: map[group]*queue{},
	}
}

// Get polls a job. A poll that comes alone goes out at once; those that come while one is under way go together when it has
// ended, or when it is slow. A caller whose ctx ends leaves, and the others stay.
func (p *Poller) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	key := group{ref.Target.TaskType, ref.Target.PluginVersion}
	p.mu.Lock()
	q, ok := p.groups[key]
	if !ok {
		q = &queue{}
		p.groups[key] = q
	}
	if p.most(q) == 1 {
		p.mu.Unlock()
		return p.t.Get(ctx, ref)
	}
	if q.calls == 0 && q.gather == 0 {
		q.calls++
		p.mu.Unlock()
		defer p.ended(q, 1)
		return p.t.Get(ctx, ref)
	}
	own := &poll{ctx: ctx, ref: ref, done: make(chan struct{})}
	q.waiting = append(q.waiting, own)
	if len(q.waiting) >= p.most(q) || q.gather > 0 && len(q.waiting) >= q.gather {
		p.send(q)
	} else if !q.late {
		q.late = true
		time.AfterFunc(p.patience, func() { p.overdue(q) })
	}
	p.mu.Unlock()

	select {
	case <-own.done:
	case <-ctx.Done():
		return nil, p.gaveUp(ctx)
	}
	switch {
	case own.alone:
		return p.t.Get(ctx, ref)
	case own.result.Err != nil:
		return nil, own.result.Err
	}
	return own.result.Job, nil
}

// gaveUp is the error of a caller whose ctx has ended.
func (p *Poller) gaveUp(ctx context.Context) *client.Error {
	code, message := codes.Canceled, "the poll was cancelled"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code, message = codes.DeadlineExceeded, "no answer within the time limit"
	}
	return &client.Error{
		Op: config.CallGet, Deployment: p.deployment, Endpoint: p.endpoint, Code: code, Class: client.ClassOf(code), Message: message,
	}
}

// most gives the most jobs of a call now. mu is held.
func (p *Poller) most(q *queue) int {
	if now := time.Now(); q.limit > 0 && now.After(q.until) {
		// What was too much once is come near again step by step.
		q.limit, q.until = max(2*q.limit, minJobs), now.Add(p.cutMemory)
		if q.unserved || q.limit >= maxJobs {
			q.limit, q.unserved = 0, false
		}
	}
	if q.limit == 0 {
		return maxJobs
	}
	return q.limit
}

// ended makes room for what waits, when a call for n jobs has ended.
func (p *Poller) ended(q *queue, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.calls--
	if n == 1 || len(q.waiting) >= n {
		p.send(q)
		return
	}
	q.gather = n
	time.AfterFunc(p.linger, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if q.gather > 0 {
			p.send(q)
		}
	})
}

// overdue sends what has waited for long enough.
func (p *Poller) overdue(q *queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.late = false
	p.send(q) // if there may be no more calls, the end of one sends it
}

// send makes calls of what waits, as far as there may be more of them. mu is held.
func (p *Poller) send(q *queue) {
	q.gather = 0
	if p.most(q) == 1 {
		alone(q.waiting)
		q.waiting = nil
		return
	}
	for q.calls < maxCalls && len(q.waiting) > 0 {
		n := min(len(q.waiting), p.most(q))
		polls := make([]*poll, 0, n)
		for _, one := range q.waiting[:n] {
			if one.ctx.Err() == nil { // nobody waits for the others
				polls = append(polls, one)
			}
		}
		clear(q.waiting[:n])
		q.waiting = q.waiting[n:]
		if len(polls) > 0 {
			q.calls++
			go func() {
				defer p.ended(q, len(polls))
				p.call(q, polls)
			}()
		}
	}
}

// call polls jobs together and gives each caller its result.
func (p *Poller) call(q *queue, polls []*poll) {
	refs := make([]client.JobRef, 0, len(polls))
	for _, one := range polls {
		refs = append(refs, one.ref)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(polls[0].ctx))
	defer cancel()
	defer leftBy(polls, cancel)()
	results, err := p.t.GetMany(ctx, refs)
	if len(polls) > 1 && slices.ContainsFunc(polls, tooLate) {
		// A service that looks at one job after the other may be quick enough for fewer of them.
		p.cut(q, len(polls))
	}

	var failed *client.Error
	switch {
	case err == nil && len(results) != len(refs):
		failed = client.ContractBroken(config.CallGet, p.deployment, p.endpoint,
			fmt.Sprintf("%d jobs were polled and %d results came", len(refs), len(results)))
	case errors.Is(err, ErrNotServed):
		p.unserved(q)
		alone(polls)
		return
	case err != nil:
		failed = client.AsError(err)
		if failed.TooLarge && len(polls) > 1 {
			p.cut(q, len(polls))
			p.call(q, polls[:len(polls)/2])
			p.call(q, polls[len(polls)/2:])
			return
		}
	}
	for i, one := range polls {
		switch {
		case failed != nil:
			own := *failed
			one.result.Err = &own
		case results[i].Job == nil && results[i].Err == nil:
			one.result.Err = client.ContractBroken(config.CallGet, p.deployment, p.endpoint, "the result of a job is empty")
		default:
			one.result = results[i]
		}
		close(one.done)
	}
}

// tooLate says whether the caller's time was up before there was an answer.
func tooLate(one *poll) bool { return errors.Is(one.ctx.Err(), context.DeadlineExceeded) }

// alone has the callers poll their jobs by themselves.
func alone(polls []*poll) {
	for _, one := range polls {
		one.alone = true
		close(one.done)
	}
}

// unserved has jobs polled alone for a while.
func (p *Poller) unserved(q *queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.limit, q.until, q.unserved = 1, time.Now().Add(p.memory), true
}

// cut halves the jobs of a call for a while, after one with n.
func (p *Poller) cut(q *queue, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.limit > 0 && q.limit <= n/2 {
		return // another call found out before
	}
	q.limit, q.until = n/2, time.Now().Add(p.cutMemory)
	if q.limit < minJobs {
		q.limit = 1
	}
}

// leftBy calls cancel when all callers have left, until the function that it gives is called.
func leftBy(polls []*poll, cancel func()) (stop func()) {
	var mu sync.Mutex
	left := len(polls)
	stops := make([]func() bool, 0, len(polls))
	for _, one := range polls {
		stops = append(stops, context.AfterFunc(one.ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				cancel()
			}
		}))
	}
	return func() {
		for _, s := range stops {
			s()
		}
	}
}

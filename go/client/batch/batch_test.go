package batch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/batch"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = 20 * time.Second

// service is a Transport whose calls wait until the test answers them.
type service struct {
	t     *testing.T
	calls chan *call
}

// call is one that has arrived.
type call struct {
	ctx    context.Context //nolint:containedctx // the test looks at it
	refs   []client.JobRef
	alone  bool
	answer chan answer
}

type answer struct {
	results []batch.Result
	err     error
}

func (s *service) arrive(ctx context.Context, alone bool, refs ...client.JobRef) ([]batch.Result, error) {
	c := &call{ctx: ctx, refs: refs, alone: alone, answer: make(chan answer, 1)}
	s.calls <- c
	select {
	case a := <-c.answer:
		return a.results, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *service) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	r, err := s.arrive(ctx, true, ref)
	if err != nil {
		return nil, err
	}
	if r[0].Err != nil {
		return nil, r[0].Err
	}
	return r[0].Job, nil
}

func (s *service) GetMany(ctx context.Context, refs []client.JobRef) ([]batch.Result, error) {
	return s.arrive(ctx, false, refs...)
}

// next gives the next call that arrives.
func (s *service) next() *call {
	s.t.Helper()
	select {
	case c := <-s.calls:
		return c
	case <-time.After(limit):
		s.t.Fatal("no call came")
		return nil
	}
}

// none says that no call comes.
func (s *service) none() {
	s.t.Helper()
	select {
	case c := <-s.calls:
		s.t.Fatalf("a call for %d jobs came", len(c.refs))
	case <-time.After(20 * time.Millisecond): // nothing marks a call that is not made
	}
}

// echo answers with jobs whose messages are their ids.
func (c *call) echo() {
	results := make([]batch.Result, 0, len(c.refs))
	for _, ref := range c.refs {
		results = append(results, batch.Result{Job: &client.Job{Message: string(ref.ID)}})
	}
	c.answer <- answer{results: results}
}

func (c *call) fail(err error) { c.answer <- answer{err: err} }

// ids are those of the call's jobs.
func (c *call) ids() []string {
	out := make([]string, 0, len(c.refs))
	for _, ref := range c.refs {
		out = append(out, string(ref.ID))
	}
	return out
}

// bench is a poller with the service that it calls. Nothing is slow or forgotten unless the test says so.
type bench struct {
	*service
	p *batch.Poller
}

func newBench(t *testing.T, patience, memory time.Duration) bench {
	t.Helper()
	s := &service{t: t, calls: make(chan *call, 10_000)}
	p := batch.New(s, "big", "http://big")
	p.SetTimes(patience, memory)
	return bench{s, p}
}

// outcome is what a caller gets.
type outcome struct {
	id  string
	job *client.Job
	err error
}

// ask polls jobs, each in a goroutine of its own, and gives where their outcomes will be. All have arrived at the poller, or
// at the service, when it returns.
func (b bench) ask(ctx context.Context, ids ...string) <-chan outcome {
	b.t.Helper()
	out := make(chan outcome, len(ids))
	for _, id := range ids {
		waiting, calls := b.p.Waiting(), len(b.calls)
		go func() {
			job, err := b.p.Get(ctx, ref(id))
			out <- outcome{id, job, err}
		}()
		require.Eventually(b.t, func() bool { return b.p.Waiting() > waiting || len(b.calls) > calls }, limit, 50*time.Microsecond)
	}
	return out
}

func ref(id string) client.JobRef {
	return client.JobRef{Target: client.Target{TaskType: "t", PluginVersion: "v1"}, ID: client.JobID(id)}
}

func (b bench) take(out <-chan outcome) outcome {
	b.t.Helper()
	select {
	case o := <-out:
		return o
	case <-time.After(limit):
		b.t.Fatal("a caller got nothing")
		return outcome{}
	}
}

// echoed says that n callers got their own jobs.
func (b bench) echoed(out <-chan outcome, n int) {
	b.t.Helper()
	for range n {
		o := b.take(out)
		require.NoError(b.t, o.err)
		assert.Equal(b.t, o.id, o.job.Message)
	}
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("job-%d", i)
	}
	return out
}

func TestPollsGatherWhileOneIsUnderWay(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	first := b.ask(t.Context(), "a")
	alone := b.next()
	assert.True(t, alone.alone, "the first goes out at once")
	rest := b.ask(t.Context(), "b", "c", "d")
	b.none()
	alone.echo()
	b.echoed(first, 1)
	many := b.next()
	assert.False(t, many.alone)
	assert.Equal(t, []string{"b", "c", "d"}, many.ids())
	last := b.ask(t.Context(), "e")
	many.echo()
	b.echoed(rest, 3)
	c := b.next()
	assert.Equal(t, []string{"e"}, c.ids())
	c.echo()
	b.echoed(last, 1)
	require.Eventually(t, b.p.Idle, limit, time.Millisecond)
	again := b.ask(t.Context(), "f")
	c = b.next()
	assert.True(t, c.alone, "nothing is under way any more")
	c.echo()
	b.echoed(again, 1)
}

// The workers whose polls have ended together come again with their next jobs.
func TestCallersThatComeAgainAreWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	b.p.SetLinger(time.Hour)
	c, out := b.batchOf("a", "b", "c")
	c.echo()
	b.echoed(out, 3)
	require.Eventually(t, b.p.Idle, limit, time.Millisecond)
	out = b.ask(t.Context(), "d", "e")
	b.none()
	last := b.ask(t.Context(), "f")
	c = b.next()
	assert.Equal(t, []string{"d", "e", "f"}, c.ids())
	c.echo()
	b.echoed(out, 2)
	b.echoed(last, 1)

	b = newBench(t, time.Hour, time.Hour)
	b.p.SetLinger(time.Millisecond)
	c, out = b.batchOf("a", "b", "c")
	c.echo()
	b.echoed(out, 3)
	out = b.ask(t.Context(), "d")
	c = b.next()
	assert.Equal(t, []string{"d"}, c.ids(), "but not for long")
	c.echo()
	b.echoed(out, 1)
}

func TestASlowCallStopsNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Millisecond, time.Hour)
	slow := b.ask(t.Context(), "slow")
	first := b.next()
	for i := range 5 {
		out := b.ask(t.Context(), fmt.Sprint(i))
		b.next().echo()
		b.echoed(out, 1)
	}
	first.echo()
	b.echoed(slow, 1)
}

// A service that answers nothing is not asked more and more.
func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Millisecond, time.Hour)
	var calls []*call
	var outs []<-chan outcome
	for i := range batch.MaxCalls {
		outs = append(outs, b.ask(t.Context(), fmt.Sprint(i)))
		calls = append(calls, b.next())
	}
	waiting := b.ask(t.Context(), "x", "y")
	b.none()
	calls[3].echo()
	b.echoed(outs[3], 1)
	c := b.next()
	assert.Equal(t, []string{"x", "y"}, c.ids(), "what waited goes together")
	c.echo()
	b.echoed(waiting, 2)
	for i, c := range calls {
		if i != 3 {
			c.echo()
			b.echoed(outs[i], 1)
		}
	}
}

func TestALargeBatchIsTwo(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	first := b.ask(t.Context(), "first")
	one := b.next()
	rest := b.ask(t.Context(), names(batch.MaxJobs-1)...)
	b.none()
	full := b.ask(t.Context(), "full")
	c := b.next()
	assert.Len(t, c.refs, batch.MaxJobs, "it waits for nothing else")
	c.echo()
	b.echoed(rest, batch.MaxJobs-1)
	b.echoed(full, 1)
	one.echo()
	b.echoed(first, 1)
}

func TestPluginsAreApart(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	targets := []client.Target{{TaskType: "t", PluginVersion: "v1"}, {TaskType: "t", PluginVersion: "v2"}, {TaskType: "u", PluginVersion: "v1"}}
	for _, target := range targets {
		go func() { _, _ = b.p.Get(t.Context(), client.JobRef{Target: target}) }()
	}
	for range targets {
		assert.True(t, b.next().alone, "none waits for another plugin's")
	}
	// Task type versions of one plugin go together.
	for v := range int32(3) {
		go func() {
			_, _ = b.p.Get(t.Context(), client.JobRef{Target: client.Target{TaskType: "w", PluginVersion: "v1", TaskTypeVersion: v}})
		}()
	}
	first := b.next()
	require.Eventually(t, func() bool { return b.p.Waiting() == 2 }, limit, time.Millisecond)
	first.echo()
	assert.Len(t, b.next().refs, 2)
}

func TestCallersThatLeave(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		code   codes.Code
		class  client.Class
	}{
		{"cancelled", context.WithCancel, codes.Canceled, client.RetryNow},
		{"out of time", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		}, codes.DeadlineExceeded, client.RetryLater},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			left := func(b bench, out <-chan outcome) {
				t.Helper()
				e := client.AsError(b.take(out).err)
				assert.Equal(t, tt.code, e.Code)
				assert.Equal(t, tt.class, e.Class)
				assert.False(t, e.FromService)
				assert.Contains(t, e.Error(), `get at backend deployment "big" (http://big) failed`)
			}
			b := newBench(t, time.Hour, time.Hour)
			first := b.ask(t.Context(), "first")
			one := b.next()

			ctx, cancel := tt.ctx(t.Context())
			waiting := b.ask(ctx, "waits")
			stays := b.ask(t.Context(), "stays")
			if tt.code == codes.Canceled {
				cancel()
			}
			left(b, waiting)
			cancel()
			one.echo()
			b.echoed(first, 1)
			c := b.next()
			assert.Equal(t, []string{"stays"}, c.ids(), "nobody waits for the other")

			ctx, cancel = tt.ctx(t.Context())
			defer cancel()
			leaves, next := b.ask(ctx, "leaves"), b.ask(t.Context(), "next")
			c.echo()
			b.echoed(stays, 1)
			c = b.next()
			if tt.code == codes.Canceled {
				assert.Len(t, c.refs, 2)
				cancel()
			}
			left(b, leaves)
			assert.NoError(t, c.ctx.Err(), "somebody still waits")
			c.echo()
			b.echoed(next, 1)
		})
	}
}

func TestACallEndsWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	first := b.ask(t.Context(), "first")
	one := b.next()
	ctx, cancel := context.WithCancel(t.Context())
	out := b.ask(ctx, "a", "b")
	one.echo()
	b.echoed(first, 1)
	c := b.next()
	cancel()
	assert.Error(t, b.take(out).err)
	assert.Error(t, b.take(out).err)
	select {
	case <-c.ctx.Done():
	case <-time.After(limit):
		t.Fatal("the call goes on for nobody")
	}
	again := b.ask(t.Context(), "again")
	c = b.next()
	c.echo()
	b.echoed(again, 1)
}

// batchOf brings jobs into one call.
func (b bench) batchOf(ids ...string) (*call, <-chan outcome) {
	b.t.Helper()
	first := b.ask(b.t.Context(), "first")
	one := b.next()
	out := b.ask(b.t.Context(), ids...)
	one.echo()
	b.echoed(first, 1)
	return b.next(), out
}

func TestResults(t *testing.T) {
	t.Parallel()
	job := batch.Result{Job: &client.Job{Message: "fine"}}
	notFound := batch.Result{Err: &client.Error{Op: "get", Code: codes.NotFound, FromService: true}}
	away := &client.Error{Op: "get", Code: codes.Unavailable, Class: client.RetryLater, Message: "away"}
	tests := []struct {
		reason string
		answer answer
		// want is what the callers a and b get, as errors.
		want [2]string
		code codes.Code
	}{
		{reason: "each its own", answer: answer{results: []batch.Result{job, notFound}}, want: [2]string{"", "NotFound"}, code: codes.NotFound},
		{reason: "too few are a broken contract for all", answer: answer{results: []batch.Result{job}},
			want: [2]string{"2 jobs were polled and 1 results came", "2 jobs were polled and 1 results came"}, code: codes.Internal},
		{reason: "too many too", answer: answer{results: []batch.Result{job, job, job}},
			want: [2]string{"3 results came", "3 results came"}, code: codes.Internal},
		{reason: "none too", answer: answer{}, want: [2]string{"0 results came", "0 results came"}, code: codes.Internal},
		{reason: "an empty one is a broken contract for its job", answer: answer{results: []batch.Result{{}, job}},
			want: [2]string{"the result of a job is empty", ""}, code: codes.Internal},
		{reason: "a call that fails fails for all", answer: answer{err: away}, want: [2]string{"away", "away"}, code: codes.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, time.Hour, time.Hour)
			c, out := b.batchOf("a", "b")
			c.answer <- tt.answer
			seen := map[*client.Error]bool{}
			for range 2 {
				o := b.take(out)
				want := tt.want[0]
				if o.id == "b" {
					want = tt.want[1]
				}
				if want == "" {
					require.NoError(t, o.err)
					assert.Equal(t, "fine", o.job.Message)
					continue
				}
				require.ErrorContains(t, o.err, want)
				e := client.AsError(o.err)
				assert.Equal(t, tt.code, e.Code)
				assert.False(t, seen[e], "each caller has an error of its own")
				seen[e] = true
			}
		})
	}
}

func TestNotServed(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, 200*time.Millisecond)
	c, out := b.batchOf("a", "b")
	c.fail(errors.Join(batch.ErrNotServed, &client.Error{Code: codes.Unimplemented}))
	for range 2 {
		c := b.next()
		assert.True(t, c.alone, "the callers ask by themselves")
		c.echo()
	}
	b.echoed(out, 2)

	out = b.ask(t.Context(), "c", "d", "e")
	for range 3 {
		c := b.next()
		assert.True(t, c.alone, "it is remembered, and nothing waits")
		c.echo()
	}
	b.echoed(out, 3)
	require.Eventually(t, func() bool { return b.p.Most("t", "v1") == batch.MaxJobs }, limit, 5*time.Millisecond)
	c, out = b.batchOf("f", "g")
	assert.False(t, c.alone, "it is tried again after a while")
	c.echo()
	b.echoed(out, 2)
}

// What waits when the service turns out not to serve many polls is not tried again together.
func TestNotServedWhileOthersWait(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	c, out := b.batchOf("a")
	rest := b.ask(t.Context(), "b", "c", "d")
	c.fail(batch.ErrNotServed)
	for range 4 {
		c := b.next()
		assert.True(t, c.alone)
		c.echo()
	}
	b.echoed(out, 1)
	b.echoed(rest, 3)
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	b := newBench(t, time.Hour, time.Hour)
	tooLarge := &client.Error{Op: "get", Code: codes.ResourceExhausted, Class: client.UserError, TooLarge: true, Message: "too large"}
	c, out := b.batchOf("a", "b", "c", "d", "e")
	c.fail(tooLarge)
	c = b.next()
	assert.Equal(t, []string{"a", "b"}, c.ids(), "half of them")
	c.echo()
	b.echoed(out, 2)
	c = b.next()
	assert.Equal(t, []string{"c", "d", "e"}, c.ids())
	c.fail(tooLarge)
	c = b.next()
	assert.Equal(t, []string{"c"}, c.ids())
	c.fail(tooLarge)
	o := b.take(out)
	assert.Equal(t, "c", o.id)
	require.ErrorContains(t, o.err, "too large", "it is so by itself")
	c = b.next()
	assert.Equal(t, []string{"d", "e"}, c.ids())
	c.echo()
	b.echoed(out, 2)
}

// TestCutsAreRemembered: calls that were too large, or too slow for their callers, are made smaller for a while.
func TestCutsAreRemembered(t *testing.T) {
	t.Parallel()
	const n = 4 * batch.MinJobs
	most := func(b bench) int { return b.p.Most("t", "v1") }
	tooLarge := &client.Error{Code: codes.ResourceExhausted, TooLarge: true}

	t.Run("too large", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, time.Hour, time.Hour)
		c, out := b.batchOf(names(n)...)
		c.fail(tooLarge)
		for range 2 {
			b.next().echo()
		}
		b.echoed(out, n)
		require.Equal(t, n/2, most(b))
		require.Eventually(t, b.p.Idle, limit, time.Millisecond)
		first := b.ask(t.Context(), "first")
		one := b.next()
		out = b.ask(t.Context(), names(n/2)...)
		c = b.next()
		assert.Len(t, c.refs, n/2, "they are a whole call now")
		c.echo()
		one.echo()
		b.echoed(out, n/2)
		b.echoed(first, 1)
	})
	t.Run("too slow", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, time.Hour, time.Hour)
		first := b.ask(t.Context(), "first")
		one := b.next()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		out := b.ask(ctx, names(n)...)
		one.echo()
		b.echoed(first, 1)
		c := b.next()
		require.Len(t, c.refs, n)
		for range n {
			assert.Equal(t, codes.DeadlineExceeded, client.AsError(b.take(out).err).Code)
		}
		require.Eventually(t, func() bool { return most(b) == n/2 }, limit, time.Millisecond)
	})
	t.Run("callers that leave of themselves tell nothing", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, time.Hour, time.Hour)
		first := b.ask(t.Context(), "first")
		one := b.next()
		ctx, cancel := context.WithCancel(t.Context())
		out := b.ask(ctx, names(n)...)
		one.echo()
		b.echoed(first, 1)
		_ = b.next()
		cancel()
		for range n {
			assert.Error(t, b.take(out).err)
		}
		require.Eventually(t, b.p.Idle, limit, time.Millisecond)
		require.Equal(t, batch.MaxJobs, most(b))
	})
	t.Run("so few that they go alone", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, time.Hour, time.Hour)
		c, out := b.batchOf("a", "b", "c", "d")
		c.fail(tooLarge)
		for range 2 {
			b.next().echo()
		}
		b.echoed(out, 4)
		require.Equal(t, 1, most(b))
	})
	t.Run("grows again", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, time.Hour, 20*time.Millisecond)
		c, out := b.batchOf("a", "b", "c", "d")
		c.fail(tooLarge)
		for range 2 {
			b.next().echo()
		}
		b.echoed(out, 4)
		seen := []int{}
		require.Eventually(t, func() bool {
			if m := most(b); len(seen) == 0 || seen[len(seen)-1] != m {
				seen = append(seen, m)
			}
			return seen[len(seen)-1] == batch.MaxJobs
		}, limit, time.Millisecond)
		assert.IsIncreasing(t, seen)
		assert.Greater(t, len(seen), 3, "step by step")
	})
}

// TestManyCallers: whatever comes in between, every caller gets what is its own.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	s := &restless{}
	p := batch.New(s, "big", "http://big")
	p.SetTimes(time.Millisecond, 5*time.Millisecond)
	var wg sync.WaitGroup
	for w := range 100 {
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				if rand.IntN(10) == 0 {
					cancel()
				}
				id := fmt.Sprintf("%d-%d", w, i)
				job, err := p.Get(ctx, ref(id))
				if err == nil {
					assert.Equal(t, id, job.Message)
				} else if client.AsError(err).Code != codes.NotFound {
					assert.ErrorIs(t, ctx.Err(), context.Canceled, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	assert.Eventually(t, func() bool { return p.Waiting() == 0 }, limit, time.Millisecond, "nothing is left behind")
}

// restless answers now so, now otherwise.
type restless struct{}

func (restless) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &client.Job{Message: string(ref.ID)}, nil
}

func (restless) GetMany(ctx context.Context, refs []client.JobRef) ([]batch.Result, error) {
	select {
	case <-time.After(time.Duration(rand.IntN(3)) * time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch rand.IntN(10) {
	case 0:
		return nil, batch.ErrNotServed
	case 1:
		if len(refs) > 1 {
			return nil, &client.Error{Code: codes.ResourceExhausted, TooLarge: true}
		}
	}
	out := make([]batch.Result, 0, len(refs))
	for _, ref := range refs {
		if rand.IntN(10) == 0 {
			out = append(out, batch.Result{Err: &client.Error{Code: codes.NotFound}})
			continue
		}
		out = append(out, batch.Result{Job: &client.Job{Message: string(ref.ID)}})
	}
	return out, nil
}

package batch_test

import (
	"context"
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

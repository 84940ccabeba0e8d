package batch_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

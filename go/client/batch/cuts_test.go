package batch_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/batch"
)

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

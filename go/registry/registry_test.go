package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

func TestNewAsksNobody(t *testing.T) {
	t.Parallel()
	s := newServices()
	r := New(configOf([]config.Route{{TaskType: "t", Deployment: "a"}}, "a", "B"), s.list)
	assert.Zero(t, s.count("a"))
	assert.Equal(t, []string{"a", "b"}, r.Snapshot().Unanswered(), "names have no case")
	d, ok := r.Snapshot().Resolve(Query{TaskType: "t"})
	assert.True(t, ok, "routes work before any answer")
	assert.Equal(t, "a", d.Deployment)
}

func TestFailingListKeepsTheLastKnown(t *testing.T) {
	t.Parallel()
	s := newServices()
	s.answer("a", nil, reg("t", "v1"))
	r := New(configOf(nil, "a"), s.list)
	r.Refresh(within(t))
	first := r.Snapshot()
	seen := first.Health()["a"].LastSeen
	require.False(t, seen.IsZero())
	assert.Empty(t, first.Unanswered())

	down := errors.New("down")
	s.answer("a", down)
	for range 3 {
		r.Refresh(within(t))
		_, ok := r.Snapshot().Resolve(Query{TaskType: "t"})
		assert.True(t, ok)
		assert.Equal(t, Health{LastSeen: seen, Err: down}, r.Snapshot().Health()["a"])
		assert.Empty(t, r.Snapshot().Unanswered(), "it has answered once")
	}

	s.answer("a", nil)
	r.Refresh(within(t))
	_, ok := r.Snapshot().Resolve(Query{TaskType: "t"})
	assert.False(t, ok, "an answer without types is an answer")
	assert.NoError(t, r.Snapshot().Health()["a"].Err)

	_, ok = first.Resolve(Query{TaskType: "t"})
	assert.True(t, ok, "a snapshot never changes")
}

func TestIdenticalRefreshIsNoDifference(t *testing.T) {
	t.Parallel()
	s := newServices()
	s.answer("a", nil, reg("t", "v1"), reg("u", "v1", 1, 2))
	s.answer("b", errors.New("down"))
	r := New(configOf([]config.Route{{TaskType: "t", Deployment: "a"}}, "a", "b"), s.list)
	r.Refresh(within(t))
	before := r.Snapshot()
	s.answer("a", nil, reg("u", "v1", 1, 2), reg("t", "v1"))
	r.Refresh(within(t))
	assert.NotSame(t, before, r.Snapshot())
	assert.Empty(t, difference(before, r.Snapshot()))
}

func TestForget(t *testing.T) {
	t.Parallel()
	s := newServices()
	s.answer("a", nil, reg("t", "v1"))
	s.answer("b", nil, reg("u", "v1"))
	r := New(configOf(nil, "a", "b"), s.list)
	r.Refresh(within(t))
	r.Forget(t.Context(), "a")
	r.Forget(t.Context(), "unknown")
	_, ok := r.Snapshot().Resolve(Query{TaskType: "t"})
	assert.False(t, ok)
	assert.Equal(t, []string{"a"}, r.Snapshot().Unanswered())
	assert.Equal(t, []string{"u"}, r.Snapshot().TaskTypes())
	assert.Len(t, r.Snapshot().Health(), 2, "an unknown name does not become a deployment")
}

// A question goes to one address; its answer says nothing of the address that took its place meanwhile.
func TestAnswersFromBeforeAreDropped(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		change func(r *Registry)
		known  bool
	}{
		{"nothing changed", func(*Registry) {}, true},
		{"another address", func(r *Registry) { r.Forget(t.Context(), "a") }, false},
		{"removed", func(r *Registry) { r.Apply(t.Context(), configOf(nil, "b")) }, false},
		{"removed and put back", func(r *Registry) {
			r.Apply(t.Context(), configOf(nil, "b"))
			r.Apply(t.Context(), configOf(nil, "a", "b"))
		}, false},
		{"another deployment's change", func(r *Registry) { r.Forget(t.Context(), "b") }, true},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			s := newServices()
			s.answer("a", nil, reg("t", "v1"))
			release := s.hang("a")
			r := New(configOf(nil, "a", "b"), s.list)
			done := make(chan struct{})
			go func() {
				defer close(done)
				r.Refresh(within(t))
			}()
			require.Eventually(t, func() bool { return s.count("a") == 1 }, limit, time.Millisecond)
			tt.change(r)
			release()
			<-done
			_, ok := r.Snapshot().Resolve(Query{TaskType: "t"})
			assert.Equal(t, tt.known, ok)
		})
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	s := newServices()
	s.answer("a", nil, reg("t", "v1"))
	s.answer("b", nil, reg("u", "v1"))
	s.answer("c", nil, reg("w", "v1"))
	r := New(configOf(nil, "a", "b"), s.list)
	r.Refresh(within(t))
	require.Equal(t, []string{"t", "u"}, r.Snapshot().TaskTypes())

	r.Apply(t.Context(), configOf([]config.Route{{TaskType: "x", Deployment: "c"}}, "a", "c"))
	assert.Equal(t, []string{"t", "x"}, r.Snapshot().TaskTypes(), "a stays known, b is gone, the route is there")
	assert.Equal(t, []string{"c"}, r.Snapshot().Unanswered())

	r.Refresh(within(t))
	assert.Equal(t, []string{"t", "w", "x"}, r.Snapshot().TaskTypes())
	assert.Equal(t, 1, s.count("b"), "one that was removed is not asked")
}

func TestHangingDeploymentDelaysNobody(t *testing.T) {
	t.Parallel()
	s := newServices()
	s.answer("a", nil, reg("t", "v1"))
	s.answer("b", nil, reg("u", "v1"))
	s.hang("a")
	r := New(configOf(nil, "a", "b"), s.list)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, func() time.Duration { return 10 * time.Millisecond }, func() {})
	}()
	require.Eventually(t, func() bool {
		_, ok := r.Snapshot().Resolve(Query{TaskType: "u"})
		return ok
	}, time.Second, time.Millisecond, "published while a hangs")
	require.Eventually(t, func() bool { return s.count("b") >= 2 }, limit, time.Millisecond, "asked again although a hangs")
	require.Eventually(t, func() bool { return r.Snapshot().Health()["a"].Err != nil }, limit, time.Millisecond, "and a is known to be silent")
	cancel()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatal("Run does not end with its context")
	}
}

func TestRunEndsWithoutBlame(t *testing.T) {
	t.Parallel()
	s := newServices()
	s.answer("a", nil, reg("t", "v1"))
	r := New(configOf(nil, "a"), s.list)
	ctx, cancel := context.WithCancel(t.Context())
	var rounds atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, func() time.Duration { return time.Millisecond }, func() { rounds.Add(1) })
	}()
	require.Eventually(t, func() bool { return rounds.Load() >= 3 }, limit, time.Millisecond)
	s.hang("a")
	before := s.count("a")
	require.Eventually(t, func() bool { return s.count("a") > before }, limit, time.Millisecond)
	cancel()
	<-done
	assert.NoError(t, r.Snapshot().Health()["a"].Err, "a question that propeller gave up is not the service's failure")
}

func TestRunAsksForTheIntervalAgain(t *testing.T) {
	t.Parallel()
	s := newServices()
	r := New(configOf(nil, "a"), s.list)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked, rounds atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, func() time.Duration {
			if asked.Add(1) == 1 {
				return time.Millisecond
			}
			return time.Hour
		}, func() { rounds.Add(1) })
	}()
	require.Eventually(t, func() bool { return rounds.Load() == 1 }, limit, time.Millisecond)
	assert.EqualValues(t, 2, asked.Load())
	cancel()
	<-done
	assert.Equal(t, 1, s.count("a"))
}

// For the race detector, and for what every reader may rely on: a snapshot is whole.
func TestReadersAndWritersAtOnce(t *testing.T) {
	t.Parallel()
	s := newServices()
	r := New(configOf(nil, "a", "b"), s.list)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 50 {
				// Both types come and go together.
				s.answer("a", nil, reg("t", fmt.Sprintf("v%d", n)), reg("u", fmt.Sprintf("v%d", n)))
				switch (i + n) % 4 {
				case 0:
					r.Apply(t.Context(), configOf([]config.Route{{TaskType: "r", Deployment: "b"}}, "a", "b"))
				case 1:
					r.Forget(t.Context(), "a")
				default:
					r.Refresh(t.Context())
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				snap := r.Snapshot()
				first, foundFirst := snap.Resolve(Query{TaskType: "t"})
				second, foundSecond := snap.Resolve(Query{TaskType: "u"})
				assert.Equal(t, foundFirst, foundSecond)
				assert.Equal(t, first, second)
				snap.TaskTypes()
				snap.Unanswered()
				snap.Conflicts()
				snap.Health()["mine"] = Health{}
			}
		})
	}
	wg.Wait()
	s.answer("a", nil, client.Registration{TaskType: "last", PluginVersion: "v1"})
	r.Refresh(within(t))
	assert.Contains(t, r.Snapshot().TaskTypes(), "last")
}

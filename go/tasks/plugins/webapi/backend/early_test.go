package backend_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// early polls new jobs early, and has the machinery poll so seldom that these tests would not see it.
func early(first time.Duration) func(*config.Config) {
	return func(c *config.Config) {
		c.Poll.InitialInterval = duration(first)
		c.WebAPI.Caching.ResyncInterval = duration(time.Hour)
	}
}

// TestShortJobsEndSoon: the end of a short job does not wait for the machinery's interval.
func TestShortJobsEndSoon(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testShortJobsEndSoon)
	t.Run(overREST, testShortJobsEndSoon)
}

func testShortJobsEndSoon(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("working")}, backendtest.Step{After: 300 * time.Millisecond, Resource: succeeded(1)})
	w := newWorld(t, early(100*time.Millisecond), b)
	out := w.finish(w.start(taskrunner.Task{Template: template(myTask)}))
	require.True(t, out.Succeeded)
	polls := b.Calls(backendtest.Get)
	require.LessOrEqual(t, polls, 5, "ever less often")
}

// TestEarlyPollsThatFail: they cost nothing, and a later one finds the end.
func TestEarlyPollsThatFail(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testEarlyPollsThatFail)
	t.Run(overREST, testEarlyPollsThatFail)
}

func testEarlyPollsThatFail(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("working")})
	w := newWorld(t, early(100*time.Millisecond), b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	eventually(t, "the machinery has polled once", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return containsAny(reasons(run.Events()), "working")
	})
	b.Fail(backendtest.Get, 2, status.Error(codes.Unavailable, "restarting"))
	b.SetJob("", succeeded(1))
	out := w.finish(run)
	require.True(t, out.Succeeded)
	require.Equal(t, 1, out.Attempts)
	require.False(t, containsAny(reasons(run.Events()), "cannot be polled"), "the machinery's polls tell of outages")
}

// TestEarlyPollsEnd: with the task, and with propeller.
func TestEarlyPollsEnd(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testEarlyPollsEnd)
	t.Run(overREST, testEarlyPollsEnd)
}

func testEarlyPollsEnd(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("working")})
	w := newWorld(t, early(100*time.Millisecond), b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	eventually(t, "polled early", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return b.Calls(backendtest.Get) >= 3
	})
	require.NoError(t, run.Abort(w.ctx, "enough"))
	polls := b.Calls(backendtest.Get)
	require.Never(t, func() bool { return b.Calls(backendtest.Get) > polls+1 }, time.Second, 50*time.Millisecond)
}

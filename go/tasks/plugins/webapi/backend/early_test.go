package backend_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
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

// TestPollsWaitForTheService: a job is not polled before its service expects something new. (Over gRPC an answer to a single
// poll cannot say so.)
func TestPollsWaitForTheService(t *testing.T) {
	t.Parallel()
	t.Run(overREST, func(t *testing.T) {
		t.Parallel()
		const pause = 3 * time.Second
		b := startBackend(t, backendtest.Plugin{TaskType: myTask})
		b.Script(backendtest.Step{Resource: running("working"), PollAfter: pause})
		w := newWorld(t, early(500*time.Millisecond), b)
		begin := time.Now()
		run := w.start(taskrunner.Task{Template: template(myTask)})
		eventually(t, "polled twice", func() bool {
			_, err := run.Round(w.ctx)
			require.NoError(t, err)
			return b.Calls(backendtest.Get) == 2
		})
		require.GreaterOrEqual(t, time.Since(begin), pause, "two early polls would have come before")
		require.True(t, containsAny(reasons(run.Events()), "working"))
		b.SetJob("", succeeded(1))
		require.True(t, w.finish(run).Succeeded)
	})
}

// TestManyJobsGoTogether: what the machinery's workers poll at once goes to the service in few calls, and each task gets what
// is its own; a service that takes one job at a time is polled so.
func TestManyJobsGoTogether(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testManyJobsGoTogether)
	t.Run(overREST, testManyJobsGoTogether)
}

func testManyJobsGoTogether(t *testing.T) {
	t.Parallel()
	const tasks = 30
	for _, oneByOne := range []bool{false, true} {
		b := newBackend(t, backendtest.Plugin{TaskType: myTask})
		b.OneByOne = oneByOne
		require.NoError(t, b.Start())
		t.Cleanup(b.Kill)
		b.Script(backendtest.Step{Resource: running("working")})
		b.Delay(backendtest.Get, 20*time.Millisecond)
		w := newWorld(t, nil, b)
		runs := make([]*taskrunner.Run, tasks)
		for i := range runs {
			runs[i] = w.start(taskrunner.Task{Template: template(myTask), Execution: fmt.Sprintf("e%d", i)})
			_, err := runs[i].Until(w.ctx, pluginscore.PhaseRunning)
			require.NoError(t, err)
		}
		if !oneByOne {
			eventually(t, "polls go together", func() bool { return b.Batches() > 1 })
		}
		for _, j := range b.Jobs() {
			n, err := strconv.Atoi(strings.TrimPrefix(j.Request.GetTaskExecutionMetadata().GetTaskExecutionId().GetNodeExecutionId().GetExecutionId().GetName(), "e"))
			require.NoError(t, err)
			b.SetJob(j.ID, succeeded(int64(n)))
		}
		for i, run := range runs {
			out := w.finish(run)
			require.True(t, out.Succeeded)
			require.EqualValues(t, i, out.Outputs.GetLiterals()["n"].GetScalar().GetPrimitive().GetInteger())
		}
		require.Equal(t, oneByOne, b.Batches() == 0)
	}
}

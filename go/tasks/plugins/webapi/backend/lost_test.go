package backend_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// TestReloadOfTimeouts: a setting that says nothing of the address costs no call its answer, and no type its service.
func TestReloadOfTimeouts(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testReloadOfTimeouts)
	t.Run(overREST, testReloadOfTimeouts)
}

func testReloadOfTimeouts(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.IgnoreKeys = true
	b.Script(backendtest.Step{Resource: succeeded(1)})
	release := b.Hold(backendtest.Create)
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	w.until(run, pluginscore.PhaseQueued)
	eventually(t, "the create is under way", func() bool { return b.Calls(backendtest.Create) == 1 })

	b.Fail(backendtest.List, -1, status.Error(codes.Unavailable, "busy"))
	changed := *w.cfg
	d := *w.cfg.Deployments["default"]
	d.DefaultTimeout = duration(time.Minute)
	changed.Deployments = map[string]*config.Deployment{"default": &d}
	w.system.Apply(w.ctx, &changed)
	require.Equal(t, []string{myTask}, w.system.Snapshot().TaskTypes(), "what the service registered is known still")
	release()
	require.True(t, w.finish(run).Succeeded)
	require.Equal(t, 1, b.Calls(backendtest.Create))
	require.Len(t, b.Jobs(), 1)
}

// TestReloadOfAddressLetsCallsEnd: a call at the old address gives its answer, or a service without keys makes a second job.
func TestReloadOfAddressLetsCallsEnd(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testReloadOfAddressLetsCallsEnd)
	t.Run(overREST, testReloadOfAddressLetsCallsEnd)
}

func testReloadOfAddressLetsCallsEnd(t *testing.T) {
	t.Parallel()
	old := startBackend(t, backendtest.Plugin{TaskType: myTask})
	next := startBackend(t, backendtest.Plugin{TaskType: myTask})
	release := old.Hold(backendtest.Create)
	w := newWorld(t, nil, old)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	w.until(run, pluginscore.PhaseQueued)
	eventually(t, "the create is under way", func() bool { return old.Calls(backendtest.Create) == 1 })

	moved := *w.cfg
	moved.Deployments = map[string]*config.Deployment{"default": next.Deployment()}
	w.system.Apply(w.ctx, &moved)
	release()
	eventually(t, "the job is known", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return next.Calls(backendtest.Get) > 0
	})
	require.Len(t, old.Jobs(), 1)
	require.Empty(t, next.Jobs(), "nothing is created twice")
}

// TestSyncCallThatIsAlwaysCutOff: what something on the way cuts off after a while is not run again and again without end.
func TestSyncCallThatIsAlwaysCutOff(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testSyncCallThatIsAlwaysCutOff)
	t.Run(overREST, testSyncCallThatIsAlwaysCutOff)
}

func testSyncCallThatIsAlwaysCutOff(t *testing.T) {
	t.Parallel()
	b := newBackend(t, backendtest.Plugin{TaskType: myTask, Sync: true})
	b.OnExecute = func(ctx context.Context, _ *admin.CreateRequestHeader, _ *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil, status.Error(codes.Unavailable, "cut off")
	}
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	w := newWorld(t, func(c *config.Config) {
		c.Sync.InlineWait, c.Create.Deadline = duration(50*time.Millisecond), duration(10*time.Second)
	}, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	eventually(t, "the attempt fails", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return run.Attempt() > 0
	})
	e := firstError(run.Events())
	require.Equal(t, backend.CodeUnreachable, e.GetCode())
	require.Contains(t, e.GetMessage(), "cut off")
	require.Equal(t, core.ExecutionError_SYSTEM, e.GetKind())
}

// TestRestartDuringAnOutage: what propeller knows of a job it has not polled yet is the phase of before.
func TestRestartDuringAnOutage(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testRestartDuringAnOutage)
	t.Run(overREST, testRestartDuringAnOutage)
}

func testRestartDuringAnOutage(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	b.Fail(backendtest.Get, -1, status.Error(codes.Unavailable, "away"))
	w.restart()
	run.MoveTo(w.runner)
	eventually(t, "the outage is shown", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return containsAny(reasons(run.Events()), "away")
	})
	require.Equal(t, []string{"QUEUED", "RUNNING"}, phases(run.Events()), "a task that runs is not queued again")
	b.Heal(backendtest.Get)
	b.SetJob("", succeeded(1))
	require.True(t, w.finish(run).Succeeded)
}

// TestAbortDuringCreateOutlastsAnOutage: nobody else will delete the job.
func TestAbortDuringCreateOutlastsAnOutage(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testAbortDuringCreateOutlastsAnOutage)
	t.Run(overREST, testAbortDuringCreateOutlastsAnOutage)
}

func testAbortDuringCreateOutlastsAnOutage(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	release := b.Hold(backendtest.Create)
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	w.until(run, pluginscore.PhaseQueued)
	require.NoError(t, run.Abort(w.ctx, "enough"))
	b.Fail(backendtest.Delete, 3, status.Error(codes.Unavailable, "restarting"))
	release()
	eventually(t, "the job is deleted", func() bool { j := b.Jobs(); return len(j) == 1 && j[0].Deletes == 1 })
}

// TestHangingServiceHoldsUpNobodyElse: polls that get no answer must not take every worker of the machinery.
func TestHangingServiceHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testHangingServiceHoldsUpNobodyElse)
	t.Run(overREST, testHangingServiceHoldsUpNobodyElse)
}

func testHangingServiceHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	const other = "other_task"
	hanging := startBackend(t, backendtest.Plugin{TaskType: myTask})
	fine := startBackend(t, backendtest.Plugin{TaskType: other})
	for _, b := range []*backendtest.Backend{hanging, fine} {
		b.Script(backendtest.Step{Resource: running("working")})
	}
	w := newWorld(t, func(c *config.Config) { c.Deployments["default"].DefaultTimeout = duration(3 * time.Second) }, hanging, fine)
	runs := make([]*taskrunner.Run, 60) // six for each worker
	for i := range runs {
		runs[i] = w.start(taskrunner.Task{Template: template(myTask), Execution: fmt.Sprint("hangs", i)})
		w.until(runs[i], pluginscore.PhaseRunning)
	}
	run := w.start(taskrunner.Task{Template: template(other)})
	w.until(run, pluginscore.PhaseRunning)
	hanging.Hold(backendtest.Get)
	before := hanging.Calls(backendtest.Get)
	eventually(t, "its workers hang", func() bool { return hanging.Calls(backendtest.Get) > before })

	polls, from := fine.Calls(backendtest.Get), time.Now()
	eventually(t, "the other's task is polled", func() bool { return fine.Calls(backendtest.Get) >= polls+3 })
	require.Less(t, time.Since(from), 30*time.Second, "three polls at an interval of 5s, and once a time limit of 3s")
	eventually(t, "every task shows the outage", func() bool {
		for _, r := range runs {
			_, err := r.Round(w.ctx)
			require.NoError(t, err)
			if !containsAny(reasons(r.Events()), "cannot be polled since") {
				return false
			}
		}
		return true
	})
}

// TestQuotasHoldUntilTheNextStart: propeller takes quotas at its start only, and a token goes back under the name it came from.
func TestQuotasHoldUntilTheNextStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *config.Config) { c.WebAPI.ResourceQuotas = map[string]int{"default": 3} })
	changed := *w.cfg
	changed.WebAPI.ResourceQuotas = nil
	w.system.Apply(w.ctx, &changed)
	require.Len(t, w.system.Machinery().ResourceQuotas, 1)
}

// TestNewsOfATypeAfterARestart: the first rounds after a restart tell nothing, and the first two that do must not go out at
// once: propeller would make the type's metrics twice.
func TestNewsOfATypeAfterARestart(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testNewsOfATypeAfterARestart)
	t.Run(overREST, testNewsOfATypeAfterARestart)
}

func testNewsOfATypeAfterARestart(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("working")})
	w := newWorld(t, nil, b)
	runs := make([]*taskrunner.Run, 30)
	for i := range runs {
		runs[i] = w.start(taskrunner.Task{Template: template(myTask), Execution: fmt.Sprint("r", i)})
		w.until(runs[i], pluginscore.PhaseRunning)
	}
	w.restart()
	for _, run := range runs {
		events := len(run.Events())
		run.MoveTo(w.runner)
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		require.Len(t, run.Events(), events)
	}
	time.Sleep(2 * backend.GateHold) // the rounds above are over by more than the gate holds
	polls := map[string]int{}
	for _, j := range b.Jobs() {
		polls[j.ID] = j.Polls
	}
	b.SetJob("", succeeded(1))
	eventually(t, "every job's end is known", func() bool {
		return !slices.ContainsFunc(b.Jobs(), func(j backendtest.Job) bool { return j.Polls == polls[j.ID] })
	})
	begin, errs := make(chan struct{}), make(chan error, len(runs))
	for _, run := range runs {
		go func() {
			<-begin
			_, err := run.Wait(w.ctx)
			errs <- err
		}()
	}
	close(begin)
	for range runs {
		require.NoError(t, <-errs)
	}
}

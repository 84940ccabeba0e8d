package backend_test

// The faults that were measured in the connector plugin of flyteplugins v1.16.8, one test each.

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

func containsAny(list []string, part string) bool {
	for _, s := range list {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

func firstError(events []*event.TaskExecutionEvent) *core.ExecutionError {
	for _, e := range events {
		if e.GetError() != nil {
			return e.GetError()
		}
	}
	return nil
}

// TestFaultPollFailuresCountForEver: the machinery stops polling after maxSystemFailures failures in a task's life. Here it
// would stop after the first.
func TestFaultPollFailuresCountForEver(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultPollFailuresCountForEver)
	t.Run(overREST, testFaultPollFailuresCountForEver)
}

func testFaultPollFailuresCountForEver(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, func(c *config.Config) { c.WebAPI.Caching.MaxSystemFailures = 0 })
	polls := b.Calls(backendtest.Get)
	b.Fail(backendtest.Get, -1, status.Error(codes.Unavailable, "rolling restart"))
	require.Eventually(t, func() bool {
		_, err := run.Round(w.ctx)
		return assert.NoError(t, err) && b.Calls(backendtest.Get) >= polls+2 && containsAny(reasons(run.Events()), "cannot be polled since")
	}, limit, 20*time.Millisecond, "it is polled again, and the outage is shown")
	b.Heal(backendtest.Get)
	b.SetJob("", succeeded(1))
	out := w.finish(run)
	require.True(t, out.Succeeded)
	require.Equal(t, 1, out.Attempts)
}

// TestFaultOutagePastTheLimitHangs: past the limit the attempt fails as the system's failure, and the job is deleted.
func TestFaultOutagePastTheLimitHangs(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultOutagePastTheLimitHangs)
	t.Run(overREST, testFaultOutagePastTheLimitHangs)
}

func testFaultOutagePastTheLimitHangs(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, func(c *config.Config) { c.Poll.MaxOutage = duration(10 * time.Second) })
	b.Fail(backendtest.Get, -1, status.Error(codes.Internal, "the database is away"))
	for run.Attempt() == 0 {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond)
	}
	require.Equal(t, 1, b.Jobs()[0].Deletes, "the job that nobody follows any more is deleted")
	b.Heal(backendtest.Get)
	b.Script(backendtest.Step{Resource: succeeded(1)})
	out := w.finish(run)
	require.True(t, out.Succeeded)
	require.Equal(t, 1, out.SystemFailures, "the task had no retries of its own")
	failure := firstError(run.Events())
	require.Equal(t, backend.CodeUnreachable, failure.GetCode())
	require.Contains(t, failure.GetMessage(), "the database is away")
	require.Contains(t, failure.GetMessage(), "plugins.backend.poll.maxOutage")
}

// TestFaultUnavailableOnCreateFailsTheTask: transient failures keep a task without retries queued.
func TestFaultUnavailableOnCreateFailsTheTask(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultUnavailableOnCreateFailsTheTask)
	t.Run(overREST, testFaultUnavailableOnCreateFailsTheTask)
}

func testFaultUnavailableOnCreateFailsTheTask(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		err    error
		shown  string
	}{
		{"a rolling restart", status.Error(codes.Unavailable, "shutting down"), "shutting down"},
		{"a service at its limit", status.Error(codes.ResourceExhausted, "too many jobs"), "too many jobs"},
		{"an expired token that an operator renews", status.Error(codes.Unauthenticated, "token expired"), "token expired"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: succeeded(1)})
			b.Fail(backendtest.Create, 3, tc.err)
			w := newWorld(t, nil, b)
			run := w.start(taskrunner.Task{Template: template(myTask)})
			out := w.finish(run)
			require.True(t, out.Succeeded, "%v", out.Error)
			require.Equal(t, 1, out.Attempts)
			require.Equal(t, 4, b.Calls(backendtest.Create))
			require.Len(t, b.Jobs(), 1)
			require.True(t, containsAny(reasons(run.Events()), tc.shown), "people see why it waits: %v", reasons(run.Events()))
			require.Less(t, len(run.Events()), 8, "an unchanged reason is not told again")
		})
	}
}

// TestFaultCreateWaitsWithoutEnd: at the deadline the attempt fails as the system's.
func TestFaultCreateWaitsWithoutEnd(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultCreateWaitsWithoutEnd)
	t.Run(overREST, testFaultCreateWaitsWithoutEnd)
}

func testFaultCreateWaitsWithoutEnd(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	w := newWorld(t, func(c *config.Config) { c.Create.Deadline = duration(10 * time.Second) }, b)
	b.Kill()
	run := w.start(taskrunner.Task{Template: template(myTask)})
	for run.Attempt() == 0 {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond)
	}
	failure := firstError(run.Events())
	require.Equal(t, backend.CodeUnreachable, failure.GetCode())
	require.Equal(t, core.ExecutionError_SYSTEM, failure.GetKind())
	require.Contains(t, failure.GetMessage(), b.Endpoint())
}

// TestFaultServiceRestartCostsALot: the service comes back at its address, and the task goes on within seconds.
func TestFaultServiceRestartCostsALot(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultServiceRestartCostsALot)
	t.Run(overREST, testFaultServiceRestartCostsALot)
}

func testFaultServiceRestartCostsALot(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	b.Kill()
	run := w.start(taskrunner.Task{Template: template(myTask)})
	for range 3 {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
	}
	require.NoError(t, b.Start())
	out := w.finish(run)
	require.True(t, out.Succeeded)
	require.Equal(t, 1, out.Attempts)
}

// TestFaultSameNameInTwoDomains: production must not get development's outputs.
func TestFaultSameNameInTwoDomains(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultSameNameInTwoDomains)
	t.Run(overREST, testFaultSameNameInTwoDomains)
}

func testFaultSameNameInTwoDomains(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("")})
	w := newWorld(t, nil, b)
	dev := w.start(taskrunner.Task{Template: template(myTask), Domain: "development", Execution: "same"})
	prod := w.start(taskrunner.Task{Template: template(myTask), Domain: "production", Execution: "same"})
	for _, run := range []*taskrunner.Run{dev, prod} {
		_, err := run.Until(w.ctx, pluginscore.PhaseRunning)
		require.NoError(t, err)
	}
	jobs := b.Jobs()
	require.Len(t, jobs, 2)
	require.NotEqual(t, jobs[0].Key, jobs[1].Key)
	b.SetJob(jobs[0].ID, succeeded(1))
	b.SetJob(jobs[1].ID, succeeded(2))
	require.EqualValues(t, 1, w.finish(dev).Outputs.GetLiterals()["n"].GetScalar().GetPrimitive().GetInteger())
	require.EqualValues(t, 2, w.finish(prod).Outputs.GetLiterals()["n"].GetScalar().GetPrimitive().GetInteger())
}

// TestFaultRepeatedCreateIsASecondJob: propeller forgets a round whose event could not be sent, and then creates again.
func TestFaultRepeatedCreateIsASecondJob(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultRepeatedCreateIsASecondJob)
	t.Run(overREST, testFaultRepeatedCreateIsASecondJob)
}

func testFaultRepeatedCreateIsASecondJob(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	task := taskrunner.Task{Template: template(myTask)}
	lost := w.start(task)
	_, err := lost.Round(w.ctx)
	require.NoError(t, err)

	again := w.start(task) // the same task, with nothing recorded
	_, err = again.Round(w.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, b.Calls(backendtest.Create), "this process remembers the job")

	w.restart()
	afterCrash := w.start(task)
	require.True(t, w.finish(afterCrash).Succeeded)
	require.Equal(t, 2, b.Calls(backendtest.Create))
	require.Len(t, b.Jobs(), 1, "the service recognises the key")
}

// TestFaultCompletionWaits: a change is told to propeller at once, not at its next re-evaluation.
func TestFaultCompletionWaits(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultCompletionWaits)
	t.Run(overREST, testFaultCompletionWaits)
}

func testFaultCompletionWaits(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	w.reevaluate = time.Hour
	w.restart()
	run := w.start(taskrunner.Task{Template: template(myTask)})
	require.True(t, w.finish(run).Succeeded, "no re-evaluation has come to help")
}

// TestFaultUpdatesWhileRunningAreLost: message, links and custom info reach the UI as they change.
func TestFaultUpdatesWhileRunningAreLost(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultUpdatesWhileRunningAreLost)
	t.Run(overREST, testFaultUpdatesWhileRunningAreLost)
}

func testFaultUpdatesWhileRunningAreLost(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	update := func(i int) *admin.Resource {
		r := running(fmt.Sprintf("step %d", i))
		r.LogLinks = []*core.TaskLog{{Name: "log", Uri: fmt.Sprintf("http://log/%d", i)}}
		r.CustomInfo, _ = structpb.NewStruct(map[string]any{"step": float64(i)})
		return r
	}
	b.Script(backendtest.Step{Resource: update(1)})
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	for i := 2; i <= 3; i++ {
		_, err := run.Until(w.ctx, pluginscore.PhaseRunning)
		require.NoError(t, err)
		b.SetJob("", update(i))
		require.Eventually(t, func() bool {
			_, err := run.Round(w.ctx)
			require.NoError(t, err)
			return containsAny(reasons(run.Events()), fmt.Sprintf("step %d", i))
		}, limit, 50*time.Millisecond)
	}
	b.SetJob("", succeeded(1))
	require.True(t, w.finish(run).Succeeded)
	var versions []uint32
	for _, e := range run.Events() {
		if e.GetPhase() == core.TaskExecution_RUNNING {
			versions = append(versions, e.GetPhaseVersion())
			require.Len(t, e.GetLogs(), 1)
			require.NotEmpty(t, e.GetCustomInfo().GetFields())
			require.Equal(t, "job-1", e.GetMetadata().GetExternalResources()[0].GetExternalId())
		}
	}
	require.Equal(t, []uint32{0, 1, 2}, versions)
}

// TestFaultUpdatesAreNotLimited: a service that changes its message at every poll does not flood flyteadmin.
func TestFaultUpdatesAreNotLimited(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultUpdatesAreNotLimited)
	t.Run(overREST, testFaultUpdatesAreNotLimited)
}

func testFaultUpdatesAreNotLimited(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("step 1")})
	w := newWorld(t, func(c *config.Config) { c.Poll.UpdateInterval = duration(time.Hour) }, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	_, err := run.Until(w.ctx, pluginscore.PhaseRunning)
	require.NoError(t, err)
	b.SetJob("", running("step 2"))
	polls := b.Calls(backendtest.Get)
	eventually(t, "the change is polled", func() bool { return b.Calls(backendtest.Get) > polls })
	for range 20 {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
	}
	require.False(t, containsAny(reasons(run.Events()), "step 2"))
	b.SetJob("", succeeded(1))
	require.True(t, w.finish(run).Succeeded, "what ends a task is never held back")
}

// TestFaultVersionsOfATypeAreLost: every version of a type has its route, and an unknown one has none.
func TestFaultVersionsOfATypeAreLost(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultVersionsOfATypeAreLost)
	t.Run(overREST, testFaultVersionsOfATypeAreLost)
}

func testFaultVersionsOfATypeAreLost(t *testing.T) {
	t.Parallel()
	one := startBackend(t, backendtest.Plugin{TaskType: myTask, Versions: []int32{1}})
	two := startBackend(t, backendtest.Plugin{TaskType: myTask, Versions: []int32{2, 3}})
	for _, b := range []*backendtest.Backend{one, two} {
		b.Script(backendtest.Step{Resource: succeeded(1)})
	}
	w := newWorld(t, nil, one, two)
	for version, want := range map[int32]*backendtest.Backend{1: one, 2: two, 3: two} {
		tmpl := template(myTask)
		tmpl.TaskTypeVersion = version
		before := len(want.Jobs())
		require.True(t, w.finish(w.start(taskrunner.Task{Template: tmpl, Execution: fmt.Sprintf("v%d", version)})).Succeeded)
		require.Len(t, want.Jobs(), before+1)
	}
}

// TestFaultFailedListDropsTypes: a deployment that does not answer keeps its types.
func TestFaultFailedListDropsTypes(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultFailedListDropsTypes)
	t.Run(overREST, testFaultFailedListDropsTypes)
}

func testFaultFailedListDropsTypes(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	b.Fail(backendtest.List, -1, status.Error(codes.Unavailable, "busy"))
	lists := b.Calls(backendtest.List)
	eventually(t, "it is asked again", func() bool { return b.Calls(backendtest.List) > lists+1 })
	require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask)})).Succeeded)
}

// TestFaultRedials: one connection a deployment, however long it lives.
func TestFaultRedials(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultRedials)
	t.Run(overREST, testFaultRedials)
}

func testFaultRedials(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	for i := range 5 {
		require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask), Execution: fmt.Sprintf("e%d", i)})).Succeeded)
	}
	lists := b.Calls(backendtest.List)
	eventually(t, "discovery goes on", func() bool { return b.Calls(backendtest.List) > lists+2 })
	if b.REST { // HTTP/1.1 takes a connection for each call under way, and keeps it
		require.LessOrEqual(t, b.Connections(), 4)
		return
	}
	require.Equal(t, 1, b.Connections())
}

// TestFaultSecretsInLogsAndEvents: a job id that holds a token is shown nowhere. (The task's state has to hold the id.)
func TestFaultSecretsInLogsAndEvents(t *testing.T) {
	t.Parallel()
	require.NotContains(t, backend.ShowID([]byte(`{"run_id": "1", "token": "dapi-secret"}`)), "secret")
	require.Contains(t, backend.ShowID([]byte(`{"run_id": "1", "token": "dapi-secret"}`)), "sha256:")
	require.Contains(t, backend.ShowID([]byte{0, 1, 2}), "sha256:")
	require.Equal(t, "run-1", backend.ShowID([]byte("run-1")))
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", backend.MetaWithID("dapi-secret"), backend.MetaWithID("dapi-secret"),
		backend.MetaWithID("dapi-secret"), backend.MetaWithID("dapi-secret")), "secret")
}

// TestFaultConcurrentFirstUse: propeller's own metrics race must not cost a task anything.
func TestFaultConcurrentFirstUse(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultConcurrentFirstUse)
	t.Run(overREST, testFaultConcurrentFirstUse)
}

func testFaultConcurrentFirstUse(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	const n = 30
	errs := make(chan error, n)
	for i := range n {
		run := w.start(taskrunner.Task{Template: template(myTask), Execution: fmt.Sprintf("c%d", i)})
		go func() {
			out, err := run.Wait(w.ctx)
			if err == nil && !out.Succeeded {
				err = fmt.Errorf("failed: %v", out.Error)
			}
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	require.Len(t, b.Jobs(), n)
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

	polls := fine.Calls(backendtest.Get)
	eventually(t, "the other's task is polled", func() bool { return fine.Calls(backendtest.Get) >= polls+3 })
	require.Less(t, hanging.Calls(backendtest.Get)-before, len(runs), "every worker would wait for each of the others between two polls")
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

// TestNewsOfATypeAfterARestart: the first rounds after a restart tell nothing, and the first two that do must not go out at
// once: propeller would make the type's metrics twice, by a panic that ends all tests.
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
	polls := map[string]int{}
	for _, j := range b.Jobs() {
		polls[j.ID] = j.Polls
	}
	b.SetJob("", succeeded(1))
	eventually(t, "every job's end is known", func() bool {
		return !slices.ContainsFunc(b.Jobs(), func(j backendtest.Job) bool { return j.Polls == polls[j.ID] })
	})
	require.False(t, backend.MetricsMade(w.runner.Scope(), myTask), "rounds that told nothing made them")
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
	require.True(t, backend.MetricsMade(w.runner.Scope(), myTask))
}

package engine_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Every workflow here was serialised by flytekit: testdata/workflows has the Python beside the packages.

// TestOutputs: what flows through the nodes of each kind comes out.
func TestOutputs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason, module, name string
		values               map[string]any
		want                 map[string]any
	}{
		{"one job", "chains", "one", map[string]any{"x": 4}, map[string]any{"o0": 5}},
		{"inputs that are not given have the launch plan's defaults", "chains", "chain", nil, map[string]any{"o0": 112}},
		{"jobs of three task types, one of them synchronous", "chains", "types", map[string]any{"x": 1}, map[string]any{"o0": 11002}},
		{"a sub-workflow", "subworkflows", "parent", map[string]any{"x": 1}, map[string]any{"o0": 13, "o1": 23}},
		{"a sub-workflow of a sub-workflow", "subworkflows", "grandparent", map[string]any{"x": 1}, map[string]any{"o0": 24}},
		{"a branch is taken", "conditionals", "branch", map[string]any{"x": 11}, map[string]any{"o0": 1011}},
		{"the other branch is taken", "conditionals", "branch", map[string]any{"x": 1}, map[string]any{"o0": 11}},
		{"a branch in the middle", "conditionals", "three", map[string]any{"x": 6}, map[string]any{"o0": 108}},
		{"a job's output decides", "conditionals", "truth", map[string]any{"x": 1}, map[string]any{"o0": 1001}},
		{"a branch is a sub-workflow", "conditionals", "of_workflows", map[string]any{"x": 20}, map[string]any{"o0": 22}},
		{"a branch in a branch", "conditionals", "nested", map[string]any{"x": 50}, map[string]any{"o0": 150}},
		{"a child execution between jobs", "launchplans", "parent", map[string]any{"x": 1}, map[string]any{"o0": 4}},
		{"launch plans with default and fixed inputs", "launchplans", "defaults", nil, map[string]any{"o0": 6, "o1": 102}},
		{"a child of a child", "launchplans", "grandparent", map[string]any{"x": 1}, map[string]any{"o0": 5}},
		{"a sleep gate", "gates", "nap", map[string]any{"x": 1}, map[string]any{"o0": 12}},
		{"a workflow that was put together without a decorator", "imperatives", "built", map[string]any{"x": 1, "y": 5}, map[string]any{"sum": 7}},
		{"a type that propeller's own echo plugin has", "unserved", "echoed", map[string]any{"x": 1}, map[string]any{"o0": 3}},
		{"every simple kind of input, by default", "inputs", "default_simple", nil, map[string]any{"o0": 42}},
		{"every nested kind of input, by default", "inputs", "default_nested", nil, map[string]any{"o0": 13}},
		{"a failure node that is not needed", "failures", "unneeded", map[string]any{"x": 1}, map[string]any{"o0": 2}},
		{"a retry that the node gives", "retries", "overridden", map[string]any{"x": 1}, map[string]any{"o0": 3}},
		{"user's failures, retried", "retries", "recovers", map[string]any{"x": 1}, map[string]any{"o0": 3}},
		{"the system's failures, which cost no retries", "retries", "system", map[string]any{"x": 1}, map[string]any{"o0": 3}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			out := run(t, tc.module, tc.name, tc.values)
			want := inputs(t, tc.want)
			require.Len(t, out, len(want))
			for name, l := range want {
				require.Equal(t, l.String(), out[name].String(), name)
			}
		})
	}
}

func TestNothingInNothingOut(t *testing.T) {
	t.Parallel()
	require.Empty(t, run(t, "inputs", "none", nil))
}

// TestFailures: how workflows fail, and what is done before they do.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason, module, name string
		values               map[string]any
		kind                 core.ExecutionError_ErrorKind
		code, message        string
		jobs                 int // made in all, for the execution
	}{
		{"a task that fails for good", "retries", "permanent", nil, core.ExecutionError_USER, "Broken", "a user's mistake", 1},
		{"retries are used up", "retries", "exhausted", nil, core.ExecutionError_USER, "Hopeless", "never", 2},
		{"a sub-workflow's task fails", "subworkflows", "failing_parent", nil, core.ExecutionError_USER, "Broken", "broken inside", 2},
		{"a branch that fails", "conditionals", "or_fail", map[string]any{"x": 1}, core.ExecutionError_USER, "UserProvidedError", "x must be above 10", 0},
		{"a child execution fails", "launchplans", "failing_parent", nil, core.ExecutionError_USER, "Broken", "broken in a child", 0},
		{"a failure node runs", "failures", "with_task", nil, core.ExecutionError_USER, "Broken", "broken on purpose", 2},
		{"a failure node is told the error", "failures", "with_error", nil, core.ExecutionError_USER, "Broken", "broken on purpose", 2},
		{"a failure node that is a workflow", "failures", "with_workflow", nil, core.ExecutionError_USER, "Broken", "broken on purpose", 3},
		{"a sub-workflow has a failure node", "failures", "outer", nil, core.ExecutionError_USER, "Broken", "broken on purpose", 2},
		{"other nodes are let finish", "failures", "finish_others", nil, core.ExecutionError_USER, "Broken", "broken on purpose", 5},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			x := start(t, tc.module, tc.name, tc.values)
			out := wait(t, x)
			require.Equal(t, core.WorkflowExecution_FAILED, out.Phase)
			require.Equal(t, tc.kind, out.Error.GetKind(), "%v", out.Error)
			require.Contains(t, out.Error.GetCode(), tc.code, "%v", out.Error)
			require.Contains(t, out.Error.GetMessage(), tc.message)
			requireJobs(t, tc.jobs, service.JobsOf(x.ID().GetName()))
		})
	}
}

// TestFailureEndsOthers: a workflow that fails aborts what runs, and its job is deleted.
func TestFailureEndsOthers(t *testing.T) {
	t.Parallel()
	x := start(t, "failures", "fail_at_once", nil)
	require.Equal(t, core.WorkflowExecution_FAILED, wait(t, x).Phase)
	for _, job := range service.JobsOf(x.ID().GetName()) {
		if job.Request.GetTemplate().GetId().GetName() == "failures.slow" {
			require.Positive(t, job.Deletes)
		}
	}
}

// TestTimeoutOfATask: it fails, and its job is deleted.
func TestTimeoutOfATask(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		most int // jobs
	}{
		{"timed_out", 1},
		{"timed_out_twice", 2}, // propeller retries a time-out unless twice its length is over, whichever it sees first
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			// The task's time is short, and over before there is a job if the machine is busy; then the workflow runs again.
			var jobs []backendtest.Job
			for deadline := time.Now().Add(limit); len(jobs) == 0; {
				require.True(t, time.Now().Before(deadline), "there was never a job in time")
				x := start(t, "retries", tc.name, nil)
				out := wait(t, x)
				require.Equal(t, core.WorkflowExecution_FAILED, out.Phase)
				require.Equal(t, core.ExecutionError_USER, out.Error.GetKind(), "%v", out.Error)
				require.Contains(t, out.Error.GetCode(), "Timeout", "%v", out.Error)
				jobs = service.JobsOf(x.ID().GetName())
			}
			require.LessOrEqual(t, len(jobs), tc.most)
			for _, job := range jobs {
				// Propeller does not wait for ever for a create that is under way, whose job is deleted a little later then.
				eventually(t, "the job is deleted", func() bool {
					j, ok := service.JobWithKey(job.Key)
					return ok && j.Deletes > 0
				})
			}
		})
	}
}

func TestTimeoutOfAWorkflow(t *testing.T) {
	t.Parallel()
	for timeout := 5 * time.Second; timeout < limit; timeout *= 2 { // until it is long enough for a job to be there
		x, err := shared.Submit(t.Context(), load(t, "retries"), "retries.long_running", engine.Submission{Timeout: timeout})
		require.NoError(t, err)
		out := wait(t, x)
		require.Equal(t, core.WorkflowExecution_ABORTED, out.Phase)
		require.Equal(t, fmt.Sprintf("it had %s and has not ended", timeout), out.AbortCause)
		if jobs := service.JobsOf(x.ID().GetName()); polled(jobs) == 1 {
			require.Positive(t, jobs[0].Deletes)
			return
		}
	}
	require.Fail(t, "there was never a job in time")
}

// polled counts the jobs that propeller knows: it polls none before it has the answer to its create.
func polled(jobs []backendtest.Job) (n int) {
	for _, job := range jobs {
		if job.Polls > 0 {
			n++
		}
	}
	return n
}

// running waits until the execution has n jobs, of which propeller knows.
func running(t *testing.T, x *engine.Execution, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d jobs run", n), func() bool { return polled(service.JobsOf(x.ID().GetName())) == n })
}

func TestAbort(t *testing.T) {
	t.Parallel()
	x := start(t, "retries", "two_long_running", nil)
	running(t, x, 2)
	require.NoError(t, x.Abort("enough"))
	require.NoError(t, x.Abort("a second cause"), "it may be repeated")
	out := wait(t, x)
	require.Equal(t, core.WorkflowExecution_ABORTED, out.Phase)
	require.Equal(t, "enough", out.AbortCause)
	for _, job := range service.JobsOf(x.ID().GetName()) {
		require.Positive(t, job.Deletes, "its job is deleted before the execution has ended")
	}
	require.NoError(t, x.Abort("too late"))
	require.Equal(t, "enough", wait(t, x).AbortCause)
}

// TestAbortReachesChildren: a child execution is aborted with its parent.
func TestAbortReachesChildren(t *testing.T) {
	t.Parallel()
	x := start(t, "launchplans", "endless_parent", nil)
	var child *core.WorkflowExecutionIdentifier
	eventually(t, "the child is launched", func() bool {
		for _, e := range eventsOf(x) {
			if id := e.Node.GetWorkflowNodeMetadata().GetExecutionId(); id != nil {
				child = id
			}
		}
		return child != nil
	})
	c, ok := shared.Execution(child)
	require.True(t, ok)
	running(t, c, 1)
	require.NoError(t, x.Abort("enough"))
	require.Equal(t, core.WorkflowExecution_ABORTED, wait(t, x).Phase)
	out := wait(t, c)
	require.Equal(t, core.WorkflowExecution_ABORTED, out.Phase)
	require.Contains(t, out.AbortCause, "cascading abort")
	require.Positive(t, service.JobsOf(child.GetName())[0].Deletes)
}

// waiting gives the names of the signals that gates wait for.
func waiting(t *testing.T, x *engine.Execution) []string {
	t.Helper()
	signals, err := x.Signals(t.Context())
	require.NoError(t, err)
	var out []string
	for _, s := range signals {
		if s.GetValue() == nil {
			out = append(out, s.GetId().GetSignalId())
		}
	}
	return out
}

func TestGates(t *testing.T) {
	t.Parallel()
	truth := inputs(t, map[string]any{"v": true, "no": false, "n": 41, "text": "no number"})
	t.Run("approval", func(t *testing.T) {
		t.Parallel()
		x := start(t, "gates", "approval", map[string]any{"x": 1})
		eventually(t, "the gate asks", func() bool { return slices.Equal(waiting(t, x), []string{"go"}) })
		require.ErrorContains(t, x.Signal(t.Context(), "gone", truth["v"]), `no gate has asked for signal "gone" yet`)
		require.ErrorContains(t, x.Signal(t.Context(), "go", truth["n"]), `signal "go" takes true or false`)
		require.NoError(t, x.Signal(t.Context(), "go", truth["v"]))
		require.NoError(t, x.Signal(t.Context(), "go", truth["v"]), "the same again")
		require.ErrorContains(t, x.Signal(t.Context(), "go", truth["no"]), "has a value already")
		require.Equal(t, int64(12), integer(wait(t, x).Outputs.GetLiterals()["o0"]))
		require.Empty(t, waiting(t, x))
	})
	t.Run("rejection", func(t *testing.T) {
		t.Parallel()
		x := start(t, "gates", "approval", map[string]any{"x": 1})
		eventually(t, "the gate asks", func() bool { return len(waiting(t, x)) == 1 })
		require.NoError(t, x.Signal(t.Context(), "go", truth["no"]))
		out := wait(t, x)
		require.Equal(t, core.WorkflowExecution_FAILED, out.Phase)
		require.Contains(t, out.Error.GetMessage(), "reject")
	})
	t.Run("nobody answers in time", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, core.WorkflowExecution_FAILED, wait(t, start(t, "gates", "approval_soon", nil)).Phase)
	})
	t.Run("a value", func(t *testing.T) {
		t.Parallel()
		x := start(t, "gates", "number", nil)
		eventually(t, "the gate asks", func() bool { return len(waiting(t, x)) == 1 })
		require.ErrorContains(t, x.Signal(t.Context(), "n", truth["text"]), `signal "n" takes an integer`)
		require.NoError(t, x.Signal(t.Context(), "n", truth["n"]))
		require.Equal(t, int64(42), integer(wait(t, x).Outputs.GetLiterals()["o0"]))
	})
}

// cacheStatus lists the cache status of each task node that ended.
func cacheStatus(x *engine.Execution) []core.CatalogCacheStatus {
	var out []core.CatalogCacheStatus
	for _, e := range eventsOf(x) {
		if m := e.Node.GetTaskNodeMetadata(); m != nil && e.Node.GetPhase() == core.NodeExecution_SUCCEEDED {
			out = append(out, m.GetCacheStatus())
		}
	}
	return out
}

func TestCache(t *testing.T) {
	t.Parallel()
	// The cache is one for the engine: inputs that no other test has, and no other run of this one, keep them apart.
	t.Run("over executions", func(t *testing.T) {
		t.Parallel()
		n := unique()
		first := start(t, "caching", "once", map[string]any{"x": n})
		require.Equal(t, n+11, integer(wait(t, first).Outputs.GetLiterals()["o0"]))
		second := start(t, "caching", "once", map[string]any{"x": n})
		require.Equal(t, n+11, integer(wait(t, second).Outputs.GetLiterals()["o0"]))
		requireJobs(t, 2, service.JobsOf(first.ID().GetName()))
		requireJobs(t, 1, service.JobsOf(second.ID().GetName()), "the cached job was not made again")
		require.Contains(t, cacheStatus(second), core.CatalogCacheStatus_CACHE_HIT)
		again, err := shared.Submit(t.Context(), load(t, "caching"), "caching.once", engine.Submission{
			Inputs: inputs(t, map[string]any{"x": n}), OverwriteCache: true,
		})
		require.NoError(t, err)
		wait(t, again)
		requireJobs(t, 2, service.JobsOf(again.ID().GetName()), "it was to be made again")
	})
	t.Run("within an execution", func(t *testing.T) {
		t.Parallel()
		n := unique()
		x := start(t, "caching", "twice", map[string]any{"x": n})
		require.Equal(t, n+10, integer(wait(t, x).Outputs.GetLiterals()["o1"]))
		requireJobs(t, 1, service.JobsOf(x.ID().GetName()))
	})
	t.Run("one fills it while the other waits", func(t *testing.T) {
		t.Parallel()
		n := unique()
		x := start(t, "caching", "serialized", map[string]any{"x": n})
		require.Equal(t, n+100, integer(wait(t, x).Outputs.GetLiterals()["o1"]))
		requireJobs(t, 1, service.JobsOf(x.ID().GetName()))
	})
	t.Run("an input that does not count", func(t *testing.T) {
		t.Parallel()
		n := unique()
		run(t, "caching", "ignored_input", map[string]any{"x": n, "note": "a"})
		x := start(t, "caching", "ignored_input", map[string]any{"x": n, "note": "b"})
		require.Equal(t, n+1000, integer(wait(t, x).Outputs.GetLiterals()["o0"]))
		requireJobs(t, 0, service.JobsOf(x.ID().GetName()))
	})
	t.Run("failures are not cached", func(t *testing.T) {
		t.Parallel()
		n := unique()
		for range 2 {
			x := start(t, "caching", "failing", map[string]any{"x": n})
			require.Equal(t, core.WorkflowExecution_FAILED, wait(t, x).Phase)
			requireJobs(t, 1, service.JobsOf(x.ID().GetName()))
		}
	})
}

// TestRefused: what does not work is refused before anything runs, in words.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason, module, name string
		values               map[string]any
		says                 string
	}{
		{"a type that nobody serves", "unserved", "nobody", nil, `task "unserved.unknown" has type "nobody_knows_this", which no backend plugin service has registered and no built-in plugin runs`},
		{"a task in a container", "pythons", "plain", nil, "task pythons.double (type python-task) cannot run: it is a container, there is no Kubernetes here, and running it as a local process has not been allowed"},
		{"a dynamic workflow, which is one too", "dynamics", "jobs", nil, "task dynamics.jobs_of (type python-task) cannot run: it is a container"},
		{"an eager workflow", "eagers", "twice", map[string]any{"x": 1}, `task "eagers.twice" is an eager workflow, which starts its tasks through flyteadmin`},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			_, err := shared.Submit(t.Context(), load(t, tc.module), tc.module+"."+tc.name, engine.Submission{Inputs: inputs(t, tc.values)})
			var refused *engine.RefusedError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, tc.says)
		})
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	long := "a" + fmt.Sprintf("%063d", 0)
	for _, tc := range []struct {
		reason, module, name string
		s                    engine.Submission
		says                 string
	}{
		{"an unknown workflow", "chains", "chains.nope", engine.Submission{}, `workflow "chains.nope": not found; the package holds chains.`},
		{"an input that is not there", "chains", "chain", engine.Submission{Inputs: inputs(t, map[string]any{"y": 1})}, `chains.chain has no input "y"; it takes x (an integer)`},
		{"an input of another type", "chains", "chain", engine.Submission{Inputs: inputs(t, map[string]any{"x": "one"})}, `input "x" of chains.chain takes an integer`},
		{"a missing input", "launchplans", "launchplans.child", engine.Submission{}, `input "x" of launchplans.child is missing; it takes an integer`},
		{"a fixed input", "launchplans", "launchplans.with_fixed", engine.Submission{Inputs: inputs(t, map[string]any{"x": 1, "y": 2})}, `input "y" of launchplans.with_fixed is fixed by the launch plan`},
		{"a name that will not do", "chains", "one", engine.Submission{Name: "Upper"}, `execution name "Upper" will not do`},
		{"a name that is too long", "chains", "one", engine.Submission{Name: long}, "will not do: at most 63"},
		{"a launch plan from elsewhere", "launchplans", "of_missing", engine.Submission{}, `needs launch plan "elsewhere.child", version "v9", of project "elsewhere" and domain "production", which is not in the package`},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			_, err := shared.Submit(t.Context(), load(t, tc.module), tc.name, tc.s)
			var bad *engine.BadInputError
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, tc.says)
		})
	}
}

func TestNameIsTaken(t *testing.T) {
	t.Parallel()
	name := fmt.Sprint("taken", unique())
	_, err := shared.Submit(t.Context(), load(t, "chains"), "one", engine.Submission{Name: name})
	require.NoError(t, err)
	_, err = shared.Submit(t.Context(), load(t, "chains"), "one", engine.Submission{Name: name})
	require.ErrorContains(t, err, fmt.Sprintf("there is an execution %q of project \"flytesnacks\" and domain \"development\" already", name))
	other, err := bundle.Read("chains", workflows.Archive("chains"), bundle.Options{Domain: "production"})
	require.NoError(t, err)
	x, err := shared.Submit(t.Context(), other, "one", engine.Submission{Name: name})
	require.NoError(t, err, "another domain has names of its own")
	require.Equal(t, core.WorkflowExecution_SUCCEEDED, wait(t, x).Phase)
}

// TestSubscribe: who subscribes hears of all that happens from then on, in order, until they have heard enough.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	heard := map[string][]core.WorkflowExecution_Phase{}
	stop := shared.Subscribe(func(e engine.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Workflow != nil {
			name := e.Workflow.GetExecutionId().GetName()
			heard[name] = append(heard[name], e.Workflow.GetPhase())
		}
	})
	first := start(t, "chains", "one", nil)
	wait(t, first)
	stop()
	second := start(t, "chains", "one", nil)
	wait(t, second)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []core.WorkflowExecution_Phase{
		core.WorkflowExecution_RUNNING, core.WorkflowExecution_SUCCEEDING, core.WorkflowExecution_SUCCEEDED,
	}, heard[first.ID().GetName()])
	require.Empty(t, heard[second.ID().GetName()])
}

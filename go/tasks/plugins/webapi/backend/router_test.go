package backend_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// echoTask is a template for propeller's built-in echo plugin, which copies inputs to outputs.
func echoTask() *core.TaskTemplate {
	tmpl := template("echo")
	tmpl.Interface.Inputs = tmpl.GetInterface().GetOutputs()
	return tmpl
}

func TestFallbackToABuiltInPlugin(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFallbackToABuiltInPlugin)
	t.Run(overREST, testFallbackToABuiltInPlugin)
}

func testFallbackToABuiltInPlugin(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: echoTask(), Inputs: outputs(5)})
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.True(t, proto.Equal(outputs(5), out.Outputs))
	require.Zero(t, b.Calls(backendtest.Create))
}

// containerTask is a task that only the Kubernetes plugin, propeller's default one, can run.
func containerTask(taskType string) *core.TaskTemplate {
	tmpl := template(taskType)
	tmpl.Target = &core.TaskTemplate_Container{Container: &core.Container{
		Image: "img", Command: []string{"true"}, Resources: &core.Resources{},
	}}
	return tmpl
}

func TestFallbackToTheDefaultPluginMakesAPod(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFallbackToTheDefaultPluginMakesAPod)
	t.Run(overREST, testFallbackToTheDefaultPluginMakesAPod)
}

func testFallbackToTheDefaultPluginMakesAPod(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: containerTask("nobody_knows")})
	ended, err := run.Until(w.ctx, pluginscore.PhaseQueued)
	require.NoError(t, err)
	require.Nil(t, ended, "%v", ended)
	var pods v1.PodList
	require.NoError(t, w.runner.Kube().List(w.ctx, &pods))
	require.Len(t, pods.Items, 1)
	require.Equal(t, "run-n0-0", pods.Items[0].Name, "the name that propeller gives without us")
	require.NotEqual(t, backend.StateVersion, run.State().PluginStateVersion, "its state is the built-in plugin's own")

	// A service that registers the type meanwhile does not take the task over.
	b.SetPlugins(backendtest.Plugin{TaskType: "nobody_knows"})
	eventually(t, "the type is known", func() bool {
		return len(w.system.Snapshot().TaskTypes()) == 1 && w.system.Snapshot().TaskTypes()[0] == "nobody_knows"
	})
	for range 3 {
		_, err = run.Round(w.ctx)
		require.NoError(t, err)
	}
	require.Zero(t, b.Calls(backendtest.Create))
	require.Zero(t, w.system.Remembered(), "nothing is kept for tasks that are not ours")
	require.NoError(t, run.Abort(w.ctx, "end"))

	// The next task of the type goes to the service, without a restart.
	b.Script(backendtest.Step{Resource: succeeded(1)})
	require.True(t, w.finish(w.start(taskrunner.Task{Template: containerTask("nobody_knows"), Execution: "next"})).Succeeded)
	require.Equal(t, 1, b.Calls(backendtest.Create))
}

func TestDrain(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testDrain)
	t.Run(overREST, testDrain)
}

func testDrain(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: "echo"})
	b.Script(backendtest.Step{Resource: running("")})
	w := newWorld(t, nil, b)
	old := w.start(taskrunner.Task{Template: echoTask(), Inputs: outputs(1), Execution: "old"})
	_, err := old.Until(w.ctx, pluginscore.PhaseRunning)
	require.NoError(t, err)
	draining := *w.cfg
	draining.AcceptNewTasks = false
	w.system.Apply(w.ctx, &draining)
	require.True(t, w.finish(w.start(taskrunner.Task{Template: echoTask(), Inputs: outputs(2), Execution: "new"})).Succeeded)
	require.Len(t, b.Jobs(), 1, "the new task went to the built-in plugin")
	b.SetJob("", succeeded(3))
	out := w.finish(old)
	require.True(t, proto.Equal(outputs(3), out.Outputs), "the running one finished where it was")
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testRoutes)
	t.Run(overREST, testRoutes)
}

func testRoutes(t *testing.T) {
	t.Parallel()
	everyone := startBackend(t, backendtest.Plugin{TaskType: myTask})
	special := startBackend(t)
	for _, b := range []*backendtest.Backend{everyone, special} {
		b.Script(backendtest.Step{Resource: succeeded(1)})
	}
	w := newWorld(t, func(c *config.Config) {
		c.Routes = []config.Route{{TaskType: myTask, Deployment: "B1", Project: "vip", PluginVersion: "v9"}}
	}, everyone, special)
	for project, want := range map[string]*backendtest.Backend{"vip": special, "other": everyone} {
		require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask), Project: project})).Succeeded)
		require.Len(t, want.Jobs(), 1, project)
	}
	require.Equal(t, "v9", special.Jobs()[0].PluginVersion)
}

// TestClaimedTypeWaitsForItsService: a type that the operator names is not run by the default plugin only because its
// service starts later than propeller.
func TestClaimedTypeWaitsForItsService(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testClaimedTypeWaitsForItsService)
	t.Run(overREST, testClaimedTypeWaitsForItsService)
}

func testClaimedTypeWaitsForItsService(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: "late_task"})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	b.Kill()
	w := newWorld(t, func(c *config.Config) { c.TaskTypes = []string{"late_task"} }, b)
	run := w.start(taskrunner.Task{Template: template("late_task")})
	for range 5 {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
	}
	require.True(t, containsAny(reasons(run.Events()), "not answering yet: default"), "%v", reasons(run.Events()))
	require.NoError(t, b.Start())
	require.True(t, w.finish(run).Succeeded)
}

// TestClaimedTypeFallsBackAtLast: the service that answers does not have the type, so the default plugin gets the task, and
// must not trip over the state that we kept for it.
func TestClaimedTypeFallsBackAtLast(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testClaimedTypeFallsBackAtLast)
	t.Run(overREST, testClaimedTypeFallsBackAtLast)
}

func testClaimedTypeFallsBackAtLast(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Kill()
	w := newWorld(t, func(c *config.Config) { c.TaskTypes = []string{"late_task"} }, b)
	run := w.start(taskrunner.Task{Template: containerTask("late_task")})
	_, err := run.Until(w.ctx, pluginscore.PhaseQueued)
	require.NoError(t, err)
	require.NoError(t, b.Start())
	var pods v1.PodList
	require.Eventually(t, func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		require.NoError(t, w.runner.Kube().List(w.ctx, &pods))
		return len(pods.Items) == 1
	}, limit, 20*time.Millisecond)
	_, err = run.Round(w.ctx)
	require.NoError(t, err)
}

func TestPermanentFailuresOfCreate(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testPermanentFailuresOfCreate)
	t.Run(overREST, testPermanentFailuresOfCreate)
}

func testPermanentFailuresOfCreate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason   string
		err      error
		code     string
		kind     core.ExecutionError_ErrorKind
		attempts int
	}{
		{"the request is wrong, however often it is made", status.Error(codes.InvalidArgument, "no such column"),
			"Backend/InvalidArgument", core.ExecutionError_USER, 1},
		{"the service is at fault: another attempt, not one of the user's", status.Error(codes.Internal, "panic"),
			"Backend/Internal", core.ExecutionError_SYSTEM, 4},
		{"the key was used for another request", status.Error(codes.AlreadyExists, "conflict"),
			"Backend/AlreadyExists", core.ExecutionError_SYSTEM, 4},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Fail(backendtest.Create, -1, tc.err)
			w := newWorld(t, nil, b)
			out := w.finish(w.start(taskrunner.Task{Template: template(myTask)}))
			require.Equal(t, tc.code, out.Error.GetCode())
			require.Equal(t, tc.kind, out.Error.GetKind())
			require.Equal(t, tc.attempts, out.Attempts)
			require.Contains(t, out.Error.GetMessage(), b.Endpoint())
			require.Contains(t, out.Error.GetMessage(), `deployment "default"`)
		})
	}
}

func TestSlowCreateHoldsNoWorker(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testSlowCreateHoldsNoWorker)
	t.Run(overREST, testSlowCreateHoldsNoWorker)
}

func testSlowCreateHoldsNoWorker(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	release := b.Hold(backendtest.Create)
	w := newWorld(t, func(c *config.Config) { c.Sync.InlineWait = duration(50 * time.Millisecond) }, b)
	w.reevaluate = time.Hour
	w.restart()
	run := w.start(taskrunner.Task{Template: template(myTask)})
	_, err := run.Round(w.ctx)
	require.NoError(t, err)
	require.Empty(t, b.Jobs(), "the round ended before the call did")
	require.Equal(t, pluginscore.PhaseQueued, run.State().PluginPhase)
	release()
	require.True(t, w.finish(run).Succeeded)
	require.Equal(t, 1, b.Calls(backendtest.Create))
}

func TestTemplateWithoutAType(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testTemplateWithoutAType)
	t.Run(overREST, testTemplateWithoutAType)
}

func testTemplateWithoutAType(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	w := newWorld(t, nil, b)
	out := w.finish(w.start(taskrunner.Task{Template: template("")}))
	require.False(t, out.Succeeded)
	require.Equal(t, backend.CodeBadTemplate, out.Error.GetCode())
	require.Contains(t, out.Error.GetMessage(), "has no type")
}

func TestTemplateThatCannotBeRendered(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testTemplateThatCannotBeRendered)
	t.Run(overREST, testTemplateThatCannotBeRendered)
}

func testTemplateThatCannotBeRendered(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	w := newWorld(t, nil, b)
	tmpl := template(myTask)
	tmpl.Target = &core.TaskTemplate_Container{Container: &core.Container{Args: []string{"{{.inputs.missing}}"}}}
	tmpl.Interface.Inputs = &core.VariableMap{Variables: map[string]*core.Variable{"missing": {}}}
	out := w.finish(w.start(taskrunner.Task{Template: tmpl, Inputs: outputs(1)}))
	require.Equal(t, "Backend/InvalidArgument", out.Error.GetCode())
	require.Contains(t, out.Error.GetMessage(), "missing")
	require.Zero(t, b.Calls(backendtest.Create))
}

func TestDamagedState(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testDamagedState)
	t.Run(overREST, testDamagedState)
}

func testDamagedState(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	whole := run.State()
	broken := whole
	broken.PluginState = whole.PluginState[:len(whole.PluginState)-3]
	run.SetState(broken)
	_, err := run.Round(w.ctx)
	require.ErrorContains(t, err, "the task's plugin state is damaged")
	require.NoError(t, run.Abort(w.ctx, "x"), "a workflow must come to its end")
	run.SetState(whole)
	b.SetJob("", succeeded(1))
	require.True(t, w.finish(run).Succeeded, "nothing was lost by it")
}

package backend_test

import (
	"bytes"
	"encoding/gob"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

const myTask = "my_task"

func TestTaskRunsAtABackend(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testTaskRunsAtABackend)
	t.Run(overREST, testTaskRunsAtABackend)
}

func testTaskRunsAtABackend(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(7)})
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.EqualValues(t, 7, out.Outputs.GetLiterals()["n"].GetScalar().GetPrimitive().GetInteger())
	require.Equal(t, []string{"QUEUED", "SUCCEEDED"}, phases(run.Events()))
	require.Equal(t, 1, b.Calls(backendtest.Create))
	require.EqualValues(t, backend.StateVersion, run.State().PluginStateVersion)
	require.Equal(t, "backend", run.Events()[0].GetMetadata().GetPluginIdentifier())
	eventually(t, "the finished task is forgotten", func() bool { return w.system.Remembered() == 0 })
}

func TestCreateRequestCarriesEverything(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testCreateRequestCarriesEverything)
	t.Run(overREST, testCreateRequestCarriesEverything)
}

func testCreateRequestCarriesEverything(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask, PluginVersion: "v3"})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	tmpl := template(myTask)
	tmpl.TaskTypeVersion = 4
	tmpl.Metadata.Retries.Retries = 2
	tmpl.Custom, _ = structpb.NewStruct(map[string]any{"a": "b"})
	tmpl.Target = &core.TaskTemplate_Container{Container: &core.Container{
		Image: "img", Args: []string{"--inputs", "{{.input}}", "--out", "{{.outputPrefix}}"},
	}}
	before, _ := proto.Clone(tmpl).(*core.TaskTemplate)
	run := w.start(taskrunner.Task{
		Template: tmpl, Inputs: outputs(42), Project: "p", Domain: "d", Execution: "exec",
		Environment: map[string]string{"E": "1"}, Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"},
		Identity: &core.Identity{K8SServiceAccount: "sa", IamRole: "role"},
	})
	require.True(t, w.finish(run).Succeeded)
	jobs := b.Jobs()
	require.Len(t, jobs, 1)
	req := jobs[0].Request
	require.Regexp(t, "^[0-9a-f]{64}$", jobs[0].Key)
	require.Equal(t, "v3", jobs[0].PluginVersion)
	require.Equal(t, myTask, req.GetTemplate().GetType())
	require.EqualValues(t, 4, req.GetTemplate().GetTaskTypeVersion())
	require.Equal(t, "t.my_task", req.GetTemplate().GetId().GetName())
	require.Equal(t, "b", req.GetTemplate().GetCustom().GetFields()["a"].GetStringValue())
	require.Contains(t, req.GetTemplate().GetContainer().GetArgs()[1], "inputs.pb", "placeholders are filled in")
	require.True(t, proto.Equal(before, tmpl), "propeller's own template stays unrendered")
	require.True(t, proto.Equal(outputs(42), req.GetInputs()))
	require.Equal(t, "s3://taskrunner/metadata/p/d/exec/n0/data/0", req.GetOutputPrefix())
	m := req.GetTaskExecutionMetadata()
	require.Equal(t, "exec", m.GetTaskExecutionId().GetNodeExecutionId().GetExecutionId().GetName())
	require.Equal(t, "p-d", m.GetNamespace())
	require.Equal(t, map[string]string{"l": "1"}, m.GetLabels())
	require.Equal(t, map[string]string{"a": "1"}, m.GetAnnotations())
	require.Equal(t, "sa", m.GetK8SServiceAccount())
	require.Equal(t, "role", m.GetIdentity().GetIamRole())
	require.Equal(t, map[string]string{"E": "1"}, m.GetEnvironmentVariables())
	require.EqualValues(t, 3, m.GetMaxAttempts())
}

func TestOutputsWrittenAtThePrefix(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testOutputsWrittenAtThePrefix)
	t.Run(overREST, testOutputsWrittenAtThePrefix)
}

func testOutputsWrittenAtThePrefix(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	prefix := b.Jobs()[0].Request.GetOutputPrefix()
	require.NoError(t, w.runner.Store().WriteProtobuf(w.ctx, storage.DataReference(prefix+"/outputs.pb"), storage.Options{}, outputs(9)))
	b.SetJob("", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED})
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.True(t, proto.Equal(outputs(9), out.Outputs))
}

// TestEndsOfJobs covers how a job can end, and what of it Flyte shows.
func TestEndsOfJobs(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testEndsOfJobs)
	t.Run(overREST, testEndsOfJobs)
}

func testEndsOfJobs(t *testing.T) {
	t.Parallel()
	failed := func(phase core.TaskExecution_Phase, e *admin.AgentError) *admin.Resource {
		return &admin.Resource{Phase: phase, Message: "the table is gone", AgentError: e}
	}
	for _, tc := range []struct {
		reason   string
		resource *admin.Resource
		retries  uint32
		code     string
		message  string
		kind     core.ExecutionError_ErrorKind
		attempts int
	}{
		{"a failed job is the user's, and final", failed(core.TaskExecution_FAILED, nil), 1,
			backend.CodeFailed, "the table is gone", core.ExecutionError_USER, 1},
		{"a retryable failure uses the task's retries", failed(core.TaskExecution_RETRYABLE_FAILED, nil), 1,
			backend.CodeFailed, "the table is gone", core.ExecutionError_USER, 2},
		{"code, kind and origin of the service's error are kept", failed(core.TaskExecution_FAILED, &admin.AgentError{
			Code: "QuotaExceeded", Kind: admin.AgentError_RECOVERABLE, Origin: core.ExecutionError_USER}), 1,
			"QuotaExceeded", "the table is gone", core.ExecutionError_USER, 2},
		{"a failure of the system does not use the task's retries", failed(core.TaskExecution_RETRYABLE_FAILED, &admin.AgentError{
			Code: "Evicted", Origin: core.ExecutionError_SYSTEM}), 0,
			"Evicted", "the table is gone", core.ExecutionError_SYSTEM, 4},
		{"an aborted job is told as aborted", failed(core.TaskExecution_ABORTED, nil), 1,
			backend.CodeAborted, "aborted outside Flyte: the table is gone", core.ExecutionError_USER, 1},
		{"a failure without a message says where it came from", &admin.Resource{Phase: core.TaskExecution_FAILED}, 0,
			backend.CodeFailed, `backend deployment "default"`, core.ExecutionError_USER, 1},
		{"outputs that are declared must come", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}, 0,
			backend.CodeOutputsMissing, "the interface declares: n", core.ExecutionError_USER, 1},
		{"outputs must fit", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: &core.LiteralMap{Literals: map[string]*core.Literal{
			"m": intLiteral(1)}}}, 0,
			backend.CodeOutputsMismatch, "n is missing; m is not declared", core.ExecutionError_USER, 1},
		{"a phase that is not set is an error, never a silent retry", &admin.Resource{Message: "hm"}, 0,
			"Backend/DataLoss", "phase is not set", core.ExecutionError_SYSTEM, 4},
		{"a phase that nobody knows is an error", &admin.Resource{Phase: 77}, 0,
			"Backend/DataLoss", "unknown (77)", core.ExecutionError_SYSTEM, 4},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: tc.resource})
			w := newWorld(t, nil, b)
			tmpl := template(myTask)
			tmpl.Metadata.Retries.Retries = tc.retries
			out := w.finish(w.start(taskrunner.Task{Template: tmpl}))
			require.False(t, out.Succeeded)
			require.Equal(t, tc.code, out.Error.GetCode())
			require.Contains(t, out.Error.GetMessage(), tc.message)
			require.Equal(t, tc.kind, out.Error.GetKind())
			require.Equal(t, tc.attempts, out.Attempts)
		})
	}
}

// TestErrorFileIsKept: what the job wrote of its failure has a time and a worker that flyteidl's answer lacks.
func TestErrorFileIsKept(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testErrorFileIsKept)
	t.Run(overREST, testErrorFileIsKept)
}

func testErrorFileIsKept(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	doc := &core.ErrorDocument{Error: &core.ContainerError{
		Code: "USER:ValueError", Message: "no such column", Kind: core.ContainerError_NON_RECOVERABLE, Origin: core.ExecutionError_USER, Worker: "w7",
	}}
	prefix := b.Jobs()[0].Request.GetOutputPrefix()
	require.NoError(t, w.runner.Store().WriteProtobuf(w.ctx, storage.DataReference(prefix+"/error.pb"), storage.Options{}, doc))
	b.SetJob("", &admin.Resource{Phase: core.TaskExecution_FAILED})
	out := w.finish(run)
	require.Equal(t, "USER:ValueError", out.Error.GetCode())
	require.Contains(t, out.Error.GetMessage(), "no such column")
	require.Equal(t, "w7", out.Error.GetWorker())
	require.NotNil(t, out.Error.GetTimestamp())
}

// TestErrorFileOfJobThatSucceeded: flytekit's entry point writes an error and exits with 0, which a service takes for a success.
func TestErrorFileOfJobThatSucceeded(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testErrorFileOfJobThatSucceeded)
	t.Run(overREST, testErrorFileOfJobThatSucceeded)
}

func testErrorFileOfJobThatSucceeded(t *testing.T) {
	t.Parallel()
	file := func(kind core.ContainerError_Kind) *core.ErrorDocument {
		return &core.ErrorDocument{Error: &core.ContainerError{
			Code: "USER:ValueError", Message: "no such column", Kind: kind, Origin: core.ExecutionError_USER,
		}}
	}
	final, again := file(core.ContainerError_NON_RECOVERABLE), file(core.ContainerError_RECOVERABLE)
	undeclared := &core.TypedInterface{Outputs: &core.VariableMap{}}
	for _, tc := range []struct {
		reason   string
		iface    *core.TypedInterface
		inMap    bool
		written  *core.ErrorDocument
		outputs  *core.LiteralMap // those of the answer
		fails    bool
		attempts int
	}{
		{"a task that declares no outputs", undeclared, false, final, nil, true, 1},
		{"a task without an interface", nil, false, final, nil, true, 1},
		{"an empty answer is none", undeclared, false, final, &core.LiteralMap{}, true, 1},
		{"each item of a map has a prefix of its own", undeclared, true, final, nil, true, 1},
		{"another attempt may not meet the error", undeclared, false, again, nil, false, 2},
		{"a task that declares outputs", template(myTask).GetInterface(), false, final, nil, true, 1},
		{"outputs in the answer are the service's word", template(myTask).GetInterface(), false, final, outputs(1), false, 1},
		{"no file is no error", undeclared, false, nil, nil, false, 1},
		{"no file is no error of an item", undeclared, true, nil, nil, false, 1},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: running("working")})
			w := newMap(t, func(c *config.Config) { c.Poll.InitialInterval = duration(100 * time.Millisecond) }, b)
			task := taskrunner.Task{Template: template(myTask)}
			if tc.inMap {
				task = item(1, task.Template)
			}
			task.Template.Interface = tc.iface
			task.Template.Metadata.Retries.Retries = 1
			run := w.start(task)
			w.until(run, pluginscore.PhaseRunning)
			if tc.written != nil {
				file := storage.DataReference(b.Jobs()[0].Request.GetOutputPrefix() + "/error.pb")
				require.NoError(t, w.runner.Store().WriteProtobuf(w.ctx, file, storage.Options{}, tc.written))
			}
			ended := &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: tc.outputs}
			b.Script(backendtest.Step{Resource: ended}) // of the next attempt
			b.SetJob(b.Jobs()[0].ID, ended)
			out := w.finish(run)
			require.Equal(t, tc.fails, !out.Succeeded, "%v", out.Error)
			require.Equal(t, tc.attempts, out.Attempts)
			if tc.fails {
				require.Equal(t, "USER:ValueError", out.Error.GetCode())
				require.Contains(t, out.Error.GetMessage(), "no such column")
				require.Equal(t, core.ExecutionError_USER, out.Error.GetKind())
			}
		})
	}
}

// TestRestartOfPropeller: what is in etcd is enough to go on with the same job.
func TestRestartOfPropeller(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testRestartOfPropeller)
	t.Run(overREST, testRestartOfPropeller)
}

func testRestartOfPropeller(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	events := len(run.Events())
	b.IgnoreKeys = true // a second create would be a second job
	w.restart()
	run.MoveTo(w.runner)
	_, err := run.Round(w.ctx)
	require.NoError(t, err)
	eventually(t, "the job is polled again", func() bool { return b.Calls(backendtest.Get) >= 2 })
	_, err = run.Round(w.ctx)
	require.NoError(t, err)
	require.Len(t, run.Events(), events, "a restart alone shows nothing new")
	b.SetJob("", succeeded(3))
	require.True(t, w.finish(run).Succeeded)
	require.Len(t, b.Jobs(), 1)
	require.Equal(t, 1, b.Calls(backendtest.Create))
}

func TestTaskStaysWithItsDeploymentAndVersion(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testTaskStaysWithItsDeploymentAndVersion)
	t.Run(overREST, testTaskStaysWithItsDeploymentAndVersion)
}

func testTaskStaysWithItsDeploymentAndVersion(t *testing.T) {
	t.Parallel()
	old := startBackend(t, backendtest.Plugin{TaskType: myTask, PluginVersion: "v1"})
	old.Script(backendtest.Step{Resource: running("")})
	other := startBackend(t)
	other.Script(backendtest.Step{Resource: succeeded(2)})
	w := newWorld(t, nil, old, other)
	run := w.start(taskrunner.Task{Template: template(myTask), Execution: "old"})
	_, err := run.Until(w.ctx, pluginscore.PhaseRunning)
	require.NoError(t, err)

	old.SetPlugins()
	other.SetPlugins(backendtest.Plugin{TaskType: myTask, PluginVersion: "v2"})
	w.restart()
	run.MoveTo(w.runner)
	require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask), Execution: "new"})).Succeeded)
	require.Equal(t, "v2", other.Jobs()[0].PluginVersion)

	old.SetJob("", succeeded(1))
	out := w.finish(run)
	require.True(t, out.Succeeded)
	require.True(t, proto.Equal(outputs(1), out.Outputs))
	deployment, version := recorded(t, run)
	require.Equal(t, "default", deployment)
	require.Equal(t, "v1", version)
}

// TestLostRoundKeepsItsDecision: when propeller loses the first round, what the services register meanwhile changes nothing.
func TestLostRoundKeepsItsDecision(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testLostRoundKeepsItsDecision)
	t.Run(overREST, testLostRoundKeepsItsDecision)
}

func testLostRoundKeepsItsDecision(t *testing.T) {
	t.Parallel()
	first := startBackend(t, backendtest.Plugin{TaskType: myTask, PluginVersion: "v1"})
	second := startBackend(t)
	first.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, first, second)
	task := taskrunner.Task{Template: template(myTask)}
	_, err := w.start(task).Round(w.ctx) // what it recorded is dropped
	require.NoError(t, err)
	second.SetPlugins(backendtest.Plugin{TaskType: myTask, PluginVersion: "v2"})
	eventually(t, "the better version is known", func() bool {
		d, ok := w.system.Snapshot().Resolve(registry.Query{TaskType: myTask})
		return ok && d.PluginVersion == "v2"
	})
	require.True(t, w.finish(w.start(task)).Succeeded)
	require.Len(t, first.Jobs(), 1)
	require.Empty(t, second.Jobs())
}

func recorded(t *testing.T, run *taskrunner.Run) (deployment, version string) {
	t.Helper()
	var raw []byte
	require.NoError(t, gob.NewDecoder(bytes.NewReader(run.State().PluginState)).Decode(&raw))
	deployment, version, _, err := backend.DecodeEnvelope(raw)
	require.NoError(t, err)
	return deployment, version
}

// TestMetricsAreEmitted: each of them gets a value by what it is for.
func TestMetricsAreEmitted(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testMetricsAreEmitted)
	t.Run(overREST, testMetricsAreEmitted)
}

func testMetricsAreEmitted(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	b.Fail(backendtest.Create, 1, status.Error(codes.Unavailable, "x"))
	b.Fail(backendtest.Get, 1, status.Error(codes.Unavailable, "x"))
	w := newWorld(t, nil, b)
	require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask)})).Succeeded)
	require.True(t, w.finish(w.start(taskrunner.Task{Template: echoTask(), Inputs: outputs(1)})).Succeeded)
	bad := *w.cfg
	bad.DiscoveryInterval = duration(0)
	w.system.Apply(w.ctx, &bad)
	values := map[string]float64{}
	families, err := prometheus.DefaultGatherer.Gather()
	require.NoError(t, err)
	prefix := w.runner.Scope() + "backend:"
	for _, f := range families {
		name, ours := strings.CutPrefix(f.GetName(), prefix)
		if !ours {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			name, _ = strings.CutPrefix(f.GetName(), prefix)
		}
	}
	for name, want := range map[string]float64{ // labels in alphabetical order
		"calls_total/OK/default/create": 1, "calls_total/Unavailable/default/create": 1,
		"calls_total/OK/default/get": 1, "calls_total/Unavailable/default/get": 1,
		"call_duration_seconds/default/create": 2,
		"decisions_total/backend/registered":   1, "decisions_total/builtin/unregistered": 1,
		"poll_failures_total/default": 1, "poll_failures_in_row/default": 0,
		"create_failures_total/retry later/default": 1, "registry_conflicts": 0,
		"config_reload_errors": 1, "config_valid": 0, "tasks_in_flight": 0,
	} {
		got, emitted := values[name]
		require.True(t, emitted, "%s is missing among %v", name, values)
		require.InDelta(t, want, got, 0, name)
	}
	require.GreaterOrEqual(t, values["registry_age_seconds/default"], 0.0)
}

// TestStateIsSmall: etcd keeps it for every task.
func TestStateIsSmall(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testStateIsSmall)
	t.Run(overREST, testStateIsSmall)
}

func testStateIsSmall(t *testing.T) {
	t.Parallel()
	_, _, run := runningTask(t, nil)
	require.Less(t, len(run.State().PluginState), 700, "the machinery's own state takes most of it")
}

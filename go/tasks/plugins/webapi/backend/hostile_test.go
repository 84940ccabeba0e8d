package backend_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// Services that say too much. What a task shows goes to flyteadmin in one message, and what it fails with into etcd: one
// that is too large, or that is no UTF-8 any more after propeller has cut it, fails every round of the workflow.

func TestAnswersThatSayTooMuch(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testAnswersThatSayTooMuch)
	t.Run(overREST, testAnswersThatSayTooMuch)
}

func testAnswersThatSayTooMuch(t *testing.T) {
	t.Parallel()
	links := func(n, size int) []*core.TaskLog {
		out := make([]*core.TaskLog, n)
		for i := range out {
			out[i] = &core.TaskLog{Name: fmt.Sprint("link ", i), Uri: "https://logs.invalid/" + strings.Repeat("u", size)}
		}
		return out
	}
	big, err := structpb.NewStruct(map[string]any{"blob": strings.Repeat("c", 5<<20)})
	require.NoError(t, err)
	small, err := structpb.NewStruct(map[string]any{"step": "1"})
	require.NoError(t, err)
	for _, tc := range []struct {
		reason string
		answer *admin.Resource
		check  func(t *testing.T, logs []*core.TaskLog, info *structpb.Struct, shown string)
	}{
		{"10,000 links: the first are shown", &admin.Resource{LogLinks: links(10000, 200), CustomInfo: small},
			func(t *testing.T, logs []*core.TaskLog, info *structpb.Struct, _ string) {
				t.Helper()
				require.Len(t, logs, 100)
				require.Equal(t, "link 0", logs[0].GetName())
				require.True(t, proto.Equal(small, info))
			}},
		{"a link of megabytes is left out, the others are shown", &admin.Resource{LogLinks: append(links(1, 3<<20), links(2, 10)...)},
			func(t *testing.T, logs []*core.TaskLog, _ *structpb.Struct, _ string) {
				t.Helper()
				require.Len(t, logs, 2)
			}},
		{"custom info of megabytes is left out, and says so", &admin.Resource{CustomInfo: big, LogLinks: links(1, 10)},
			func(t *testing.T, logs []*core.TaskLog, info *structpb.Struct, _ string) {
				t.Helper()
				require.Len(t, logs, 1)
				require.Contains(t, info.GetFields()["omitted"].GetStringValue(), "bytes")
			}},
		{"a message of megabytes is cut", &admin.Resource{Message: strings.Repeat("語", 2<<20)},
			func(t *testing.T, _ []*core.TaskLog, _ *structpb.Struct, shown string) {
				t.Helper()
				require.True(t, strings.HasPrefix(shown, "語語"))
			}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			tc.answer.Phase = core.TaskExecution_RUNNING
			b.Script(backendtest.Step{Resource: tc.answer})
			w := newWorld(t, early(100*time.Millisecond), b)
			run := w.start(taskrunner.Task{Template: template(myTask)})
			w.until(run, pluginscore.PhaseRunning)
			e := run.Events()[len(run.Events())-1]
			var shown string
			if r := e.GetReasons(); len(r) > 0 {
				shown = r[0].GetReason()
			}
			tc.check(t, e.GetLogs(), e.GetCustomInfo(), shown)
			require.Less(t, proto.Size(e), 512<<10)
			b.SetJob("", succeeded(1))
			require.True(t, w.finish(run).Succeeded)
		})
	}
}

func TestFailuresThatSayTooMuch(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFailuresThatSayTooMuch)
	t.Run(overREST, testFailuresThatSayTooMuch)
}

func testFailuresThatSayTooMuch(t *testing.T) {
	t.Parallel()
	traceback := "a beginning " + strings.Repeat("語", 1<<19) + " the end"
	failed := &admin.Resource{Phase: core.TaskExecution_FAILED, Message: "x", AgentError: &admin.AgentError{Code: "Short"}}
	with := func(change func(r *admin.Resource)) *admin.Resource {
		r, _ := proto.Clone(failed).(*admin.Resource)
		change(r)
		return r
	}
	undeclared := &core.LiteralMap{Literals: map[string]*core.Literal{}}
	for i := range 20000 {
		undeclared.Literals[fmt.Sprintf("語語語語語-%d", i)] = intLiteral(1)
	}
	for _, tc := range []struct {
		reason string
		answer *admin.Resource
		file   *core.ErrorDocument
		code   string
		says   []string
	}{
		{"a message of megabytes keeps its beginning and its end", with(func(r *admin.Resource) { r.Message = traceback }), nil,
			"Short", []string{"a beginning 語", "語 the end"}},
		{"a code of megabytes is cut", with(func(r *admin.Resource) { r.AgentError.Code = "Code" + strings.Repeat("é", 1<<20) }), nil,
			"Code", nil},
		{"an error file that is just not too large", &admin.Resource{Phase: core.TaskExecution_FAILED}, &core.ErrorDocument{Error: &core.ContainerError{
			Code: "USER:" + strings.Repeat("é", 1<<17), Message: traceback, Origin: core.ExecutionError_USER,
		}}, "USER:", []string{"a beginning 語", "語 the end"}},
		{"an error file that is too large to be read does not keep the task from failing",
			&admin.Resource{Phase: core.TaskExecution_FAILED, Message: "the job has said this"},
			&core.ErrorDocument{Error: &core.ContainerError{Message: traceback + traceback}},
			backend.CodeFailed, []string{"the job has said this; the error that the job wrote is not shown", "/error.pb] is too large"}},
		{"outputs with 20,000 names that nobody declared", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: undeclared}, nil,
			backend.CodeOutputsMismatch, []string{"n is missing"}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: running("working")})
			w := newWorld(t, early(100*time.Millisecond), b)
			run := w.start(taskrunner.Task{Template: template(myTask)})
			w.until(run, pluginscore.PhaseRunning)
			if tc.file != nil {
				file := storage.DataReference(b.Jobs()[0].Request.GetOutputPrefix() + "/error.pb")
				require.NoError(t, w.runner.Store().WriteProtobuf(w.ctx, file, storage.Options{}, tc.file))
			}
			b.SetJob("", tc.answer)
			out := w.finish(run)
			require.True(t, strings.HasPrefix(out.Error.GetCode(), tc.code), out.Error.GetCode())
			for _, says := range tc.says {
				require.Contains(t, out.Error.GetMessage(), says)
			}
			require.True(t, utf8.ValidString(out.Error.GetMessage()))
			require.Less(t, proto.Size(out.Error), 128<<10, "etcd keeps it")
		})
	}
}

// TestErrorsThatAreNoText: a status message is any bytes on the wire.
func TestErrorsThatAreNoText(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testErrorsThatAreNoText)
	t.Run(overREST, testErrorsThatAreNoText)
}

func testErrorsThatAreNoText(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	b.Fail(backendtest.Create, 1, status.Error(codes.Unavailable, "later \xff\xfe"))
	b.Fail(backendtest.Get, 1, status.Error(codes.Unavailable, "later \xff\xfe"+strings.Repeat("語", 5000)))
	w := newWorld(t, nil, b)
	require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask)})).Succeeded)
}

// TestOutputFilesThatAreTooLarge: propeller fails such a task, for any plugin.
func TestOutputFilesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testOutputFilesThatAreTooLarge)
	t.Run(overREST, testOutputFilesThatAreTooLarge)
}

func testOutputFilesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, early(100*time.Millisecond))
	big := outputs(1)
	big.Literals["more"] = textLiteral(strings.Repeat("x", int(storage.GetConfig().Limits.GetLimitMegabytes<<20)))
	file := storage.DataReference(b.Jobs()[0].Request.GetOutputPrefix() + "/outputs.pb")
	require.NoError(t, w.runner.Store().WriteProtobuf(w.ctx, file, storage.Options{}, big))
	b.SetJob("", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED})
	out := w.finish(run)
	require.Equal(t, backend.CodeOutputsTooLarge, out.Error.GetCode())
	require.Equal(t, 1, out.Attempts)
}

// TestOutputsInAnswerThatAreTooLarge: propeller writes what it is given, and what it wrote nobody could read.
func TestOutputsInAnswerThatAreTooLarge(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testOutputsInAnswerThatAreTooLarge)
	t.Run(overREST, testOutputsInAnswerThatAreTooLarge)
}

func testOutputsInAnswerThatAreTooLarge(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	big := outputs(1)
	big.Literals["more"] = textLiteral(strings.Repeat("x", int(storage.GetConfig().Limits.GetLimitMegabytes<<20)))
	b.Script(backendtest.Step{Resource: &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: big}})
	w := newWorld(t, func(c *config.Config) { c.Deployments["default"].MaxMessageSizeBytes = 256 << 20 }, b)
	tmpl := template(myTask)
	tmpl.Interface.Outputs.Variables["more"] = &core.Variable{Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_STRING}}}
	out := w.finish(w.start(taskrunner.Task{Template: tmpl}))
	require.False(t, out.Succeeded)
	require.Equal(t, backend.CodeOutputsTooLarge, out.Error.GetCode())
	require.Equal(t, core.ExecutionError_USER, out.Error.GetKind())
	require.Contains(t, out.Error.GetMessage(), "storage.limits.maxDownloadMBs")
	require.Equal(t, 1, out.Attempts)
}

func textLiteral(s string) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_StringValue{StringValue: s}},
	}}}}
}

// TestFaultUnknownJob: a job that its service does not know is an explicit failure, and the next attempt makes a new one.
func TestFaultUnknownJob(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultUnknownJob)
	t.Run(overREST, testFaultUnknownJob)
}

func testFaultUnknownJob(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	b.Fail(backendtest.Get, 1, status.Error(codes.NotFound, "no such run"))
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	out := w.finish(run)
	require.True(t, out.Succeeded)
	require.Equal(t, 1, out.SystemFailures)
	require.Len(t, b.Jobs(), 2)
}

// TestFaultOversizedJobID: etcd must not be filled by a service.
func TestFaultOversizedJobID(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultOversizedJobID)
	t.Run(overREST, testFaultOversizedJobID)
}

func testFaultOversizedJobID(t *testing.T) {
	t.Parallel()
	b := newBackend(t, backendtest.Plugin{TaskType: myTask})
	b.JobPrefix = strings.Repeat("x", 64<<10)
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	w := newWorld(t, nil, b)
	out := w.finish(w.start(taskrunner.Task{Template: template(myTask)}))
	require.Equal(t, "Backend/Internal", out.Error.GetCode())
	require.Regexp(t, "job id (has|of) 65537 bytes[,;] 1 to 65536 are due", out.Error.GetMessage(), "the plugin, or the SDK's own service, says so")
}

// TestFaultOversizedAnswer: an answer over the limit fails the task with the size and the key to change.
func TestFaultOversizedAnswer(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultOversizedAnswer)
	t.Run(overREST, testFaultOversizedAnswer)
}

func testFaultOversizedAnswer(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	big := running(strings.Repeat("x", 1<<17))
	b.Script(backendtest.Step{Resource: big})
	w := newWorld(t, func(c *config.Config) {
		c.Deployments["default"].MaxMessageSizeBytes = 64 << 10
	}, b)
	out := w.finish(w.start(taskrunner.Task{Template: template(myTask)}))
	require.False(t, out.Succeeded)
	require.Equal(t, 1, out.Attempts)
	require.Contains(t, out.Error.GetMessage(), "65536")
	require.Contains(t, out.Error.GetMessage(), "plugins.backend.deployments.default.maxMessageSizeBytes")
}

// TestFaultConnectionsThatBreak: calls that end without an answer cost a task nothing, and make no second job.
func TestFaultConnectionsThatBreak(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultConnectionsThatBreak)
	t.Run(overREST, testFaultConnectionsThatBreak)
}

func testFaultConnectionsThatBreak(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("working")})
	w := newWorld(t, nil, b)
	b.Drop(backendtest.Create, 3)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	_, err := run.Until(w.ctx, pluginscore.PhaseRunning)
	require.NoError(t, err)
	b.Drop(backendtest.Get, -1)
	eventually(t, "the outage is shown", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return containsAny(reasons(run.Events()), "cannot be polled since")
	})
	b.Heal(backendtest.Get)
	b.SetJob("", succeeded(1))
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.Equal(t, 1, out.Attempts)
	require.Len(t, b.Jobs(), 1)
}

// TestFaultAnswersThatMeanNothing: one to a create fails the attempt as the system's, since nobody knows the job; one to a
// poll is an outage.
func TestFaultAnswersThatMeanNothing(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFaultAnswersThatMeanNothing)
	t.Run(overREST, testFaultAnswersThatMeanNothing)
}

func testFaultAnswersThatMeanNothing(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, nil, b)
	b.Garble(backendtest.Create, 1)
	b.Garble(backendtest.Get, 1)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.Equal(t, 1, out.SystemFailures)
	require.Equal(t, "Backend/Internal", firstError(run.Events()).GetCode())
	require.Len(t, b.Jobs(), 2)
	require.Equal(t, 2, b.Calls(backendtest.Get))
}

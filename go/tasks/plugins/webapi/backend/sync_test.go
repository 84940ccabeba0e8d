package backend_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

func syncAnswer(phase core.TaskExecution_Phase, header, streamed *core.LiteralMap) []*admin.ExecuteTaskSyncResponse {
	out := []*admin.ExecuteTaskSyncResponse{{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{
		Resource: &admin.Resource{Phase: phase, Outputs: header, Message: "said"},
	}}}}
	if streamed != nil {
		out = append(out, &admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Outputs{Outputs: streamed}})
	}
	return out
}

func TestSyncTasks(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testSyncTasks)
	t.Run(overREST, testSyncTasks)
}

func testSyncTasks(t *testing.T) {
	t.Parallel()
	type answer func(ctx context.Context, header *admin.CreateRequestHeader, inputs *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error)
	for _, tc := range []struct {
		reason string
		answer answer
		ok     bool
		code   string
		says   string
	}{
		{"outputs in the header", func(context.Context, *admin.CreateRequestHeader, *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			return syncAnswer(core.TaskExecution_SUCCEEDED, outputs(4), nil), nil
		}, true, "", ""},
		{"outputs streamed behind the header are merged", func(_ context.Context, h *admin.CreateRequestHeader, in *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			if h.GetTemplate().GetType() != myTask || len(in.GetLiterals()) != 1 {
				return nil, status.Error(codes.InvalidArgument, "the request is not complete")
			}
			return syncAnswer(core.TaskExecution_SUCCEEDED, nil, outputs(4)), nil
		}, true, "", ""},
		{"a call that outlasts the round goes on in the background", func(ctx context.Context, _ *admin.CreateRequestHeader, _ *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return syncAnswer(core.TaskExecution_SUCCEEDED, outputs(4), nil), nil
		}, true, "", ""},
		{"a failed job fails the task", func(context.Context, *admin.CreateRequestHeader, *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			return syncAnswer(core.TaskExecution_FAILED, nil, nil), nil
		}, false, backend.CodeFailed, "said"},
		{"a job that has not ended breaks the contract", func(context.Context, *admin.CreateRequestHeader, *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			return syncAnswer(core.TaskExecution_RUNNING, nil, nil), nil
		}, false, "Backend/Internal", "RUNNING"},
		{"the time limit is a failure, not an outage", func(ctx context.Context, _ *admin.CreateRequestHeader, _ *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, false, "Backend/DeadlineExceeded", "plugins.backend.sync.timeout"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := newBackend(t, backendtest.Plugin{TaskType: myTask, Sync: true})
			b.OnExecute = tc.answer
			require.NoError(t, b.Start())
			t.Cleanup(b.Kill)
			w := newWorld(t, func(c *config.Config) {
				c.Sync.InlineWait, c.Sync.Timeout = duration(100*time.Millisecond), duration(limit)
				if strings.Contains(tc.says, "sync.timeout") {
					c.Sync.Timeout = duration(2 * time.Second)
				}
			}, b)
			w.reevaluate = time.Hour
			w.restart()
			run := w.start(taskrunner.Task{Template: template(myTask), Inputs: outputs(1)})
			out := w.finish(run)
			require.Equal(t, tc.ok, out.Succeeded, "%v", out.Error)
			if tc.ok {
				require.True(t, proto.Equal(outputs(4), out.Outputs))
				require.Equal(t, 1, b.Calls(backendtest.Execute))
				return
			}
			require.Equal(t, tc.code, out.Error.GetCode())
			require.Contains(t, out.Error.GetMessage(), tc.says)
		})
	}
}

func TestAbortCancelsASyncCall(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testAbortCancelsASyncCall)
	t.Run(overREST, testAbortCancelsASyncCall)
}

func testAbortCancelsASyncCall(t *testing.T) {
	t.Parallel()
	started, cancelled := make(chan struct{}), make(chan struct{})
	b := newBackend(t, backendtest.Plugin{TaskType: myTask, Sync: true})
	b.OnExecute = func(ctx context.Context, _ *admin.CreateRequestHeader, _ *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
		close(started)
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	}
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	w := newWorld(t, func(c *config.Config) { c.Sync.InlineWait = duration(10 * time.Millisecond) }, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	_, err := run.Until(w.ctx, pluginscore.PhaseRunning)
	require.NoError(t, err)
	select {
	case <-started:
	case <-w.ctx.Done():
		t.Fatal("the call has not arrived")
	}
	require.NoError(t, run.Abort(w.ctx, "x"))
	select {
	case <-cancelled:
	case <-w.ctx.Done():
		t.Fatal("the call goes on")
	}
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

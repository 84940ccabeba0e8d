package backend_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

func TestAbort(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testAbort)
	t.Run(overREST, testAbort)
}

func testAbort(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		delay  time.Duration
		until  pluginscore.Phase
	}{
		{"a running job is deleted", 0, pluginscore.PhaseRunning},
		{"a job that is being created is waited for and deleted", 1200 * time.Millisecond, pluginscore.PhaseQueued},
		{"a job that takes longer to create than an abort waits is deleted in the background", 3 * time.Second, pluginscore.PhaseQueued},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: running("")})
			b.Delay(backendtest.Create, tc.delay)
			w := newWorld(t, nil, b)
			run := w.start(taskrunner.Task{Template: template(myTask)})
			_, err := run.Until(w.ctx, tc.until)
			require.NoError(t, err)
			require.NoError(t, run.Abort(w.ctx, "enough"))
			require.NoError(t, run.Abort(w.ctx, "enough again"), "an abort may be repeated")
			eventually(t, "the job is deleted", func() bool { j := b.Jobs(); return len(j) == 1 && j[0].Deletes >= 1 })
			last := run.Events()[len(run.Events())-1]
			require.Equal(t, core.TaskExecution_ABORTED, last.GetPhase())
		})
	}
}

func TestAbortWaitsForAServiceThatIsDown(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testAbortWaitsForAServiceThatIsDown)
	t.Run(overREST, testAbortWaitsForAServiceThatIsDown)
}

func testAbortWaitsForAServiceThatIsDown(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	b.Fail(backendtest.Delete, 1, status.Error(codes.Unavailable, "restarting"))
	require.ErrorContains(t, run.Abort(w.ctx, "x"), "restarting", "propeller aborts again, so the job is not leaked")
	require.NoError(t, run.Abort(w.ctx, "x"))
	require.Equal(t, 1, b.Jobs()[0].Deletes)

	b.Fail(backendtest.Delete, -1, status.Error(codes.Unimplemented, "cannot"))
	require.NoError(t, run.Abort(w.ctx, "x"), "a service that can never delete must not hold up the workflow")
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

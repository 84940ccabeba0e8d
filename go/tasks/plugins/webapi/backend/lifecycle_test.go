package backend_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
)

func TestTaskRunsAtABackend(t *testing.T) {
	b := startBackend(t, backendtest.Plugin{TaskType: "my_task"})
	b.Script(backendtest.Step{Resource: succeeded(7)})
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template("my_task")})
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.EqualValues(t, 7, out.Outputs.GetLiterals()["n"].GetScalar().GetPrimitive().GetInteger())
	require.Equal(t, []string{"QUEUED", "SUCCEEDED"}, phases(run.Events()))
	require.Equal(t, 1, b.Calls(backendtest.Create))
}

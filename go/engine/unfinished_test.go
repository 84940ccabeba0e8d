package engine

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
)

func TestUnfinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left, err := Unfinished(dir)
	require.NoError(t, err)
	require.Empty(t, left, "a folder that no engine has had")

	recs, err := openRecords(filepath.Join(dir, "state"))
	require.NoError(t, err)
	e := &Engine{records: recs}
	w := newWorkflows(recs, nil)
	for _, x := range []struct {
		name, parent string
		phase        v1alpha1.WorkflowPhase
	}{
		{"running", "", v1alpha1.WorkflowPhaseRunning},
		{"ended", "", v1alpha1.WorkflowPhaseSuccess},
		{"child", "p-d/running", v1alpha1.WorkflowPhaseRunning},
	} {
		wf := &v1alpha1.FlyteWorkflow{WorkflowSpec: &v1alpha1.WorkflowSpec{}}
		wf.Namespace, wf.Name, wf.Status.Phase = "p-d", x.name, x.phase
		wf.ExecutionID = v1alpha1.ExecutionID{WorkflowExecutionIdentifier: &core.WorkflowExecutionIdentifier{Project: "p", Domain: "d", Name: x.name}}
		require.NoError(t, w.create(wf))
		require.NoError(t, e.keepRecord(keyOf("p-d", x.name), executionRecord{Workflow: "p/d/a.b/v1", Parent: x.parent}))
	}
	left, err = Unfinished(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, "running", left[0].ID.GetName())
	require.Equal(t, "a.b", left[0].Workflow)

	unlock, err := lockFile(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	_, err = Unfinished(dir)
	require.ErrorContains(t, err, "another process has it open")
	require.NoError(t, unlock())
}

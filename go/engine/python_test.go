package engine_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/cluster/flytekittest"
)

// TestPython: tasks in containers run as local processes, with the flytekit that made the packages.
func TestPython(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("flytekit's own processes take their time: make e2e")
	}
	python, err := flytekittest.Virtualenv(t.Context())
	require.NoError(t, err)
	source, err := filepath.Abs("../../testdata/workflows")
	require.NoError(t, err)
	for _, tc := range []struct {
		reason, workflow string
		inputs           map[string]int64
		lists            map[string][]int64
		want             string
	}{
		{"functions", "pythons.plain", map[string]int64{"x": 3}, nil, "x0 SUCCEEDED 12 "},
		{"a function between jobs", "pythons.mixed", map[string]int64{"x": 3}, nil, "x0 SUCCEEDED 9 "},
		{"a function that knows its execution", "pythons.context", nil, nil, "x0 SUCCEEDED x0 "},
		{"a function that fails", "pythons.failing", nil, nil, "ZeroDivisionError"},
		{"a function that succeeds the third time", "pythons.retried", map[string]int64{"x": 5}, nil, "x0 SUCCEEDED 5 "},
		{"a file from one function to the next", "pythons.file", nil, nil, "x0 SUCCEEDED written "},
		{"a map over a function", "pythons.mapped", nil, map[string][]int64{"xs": {1, 2, 3, 4}}, "x0 SUCCEEDED [2 4 6 8] "},
		{"a map over a function that may fail", "pythons.mapped_half", nil, nil, "x0 SUCCEEDED [2 3 none 5] "},
		{"a dynamic workflow of jobs", "dynamics.jobs", map[string]int64{"n": 4}, nil, "x0 SUCCEEDED 11 "},
		{"a dynamic workflow with a map", "dynamics.mapped", nil, nil, "x0 SUCCEEDED [1 2 3] "},
		{"a dynamic workflow of sub-workflows", "dynamics.subworkflows", nil, nil, "x0 SUCCEEDED [2 3 4] "},
		{"a dynamic workflow of child executions", "dynamics.children", nil, nil, "x0 SUCCEEDED [2 3] "},
		{"a dynamic workflow in another", "dynamics.nested", nil, nil, "x0 SUCCEEDED 7 "},
		{"a dynamic workflow whose job fails", "dynamics.failing_job", nil, nil, "broken in a dynamic workflow"},
		{"a dynamic workflow whose function fails", "dynamics.failing_function", nil, nil, "the function itself fails"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			module, _, _ := strings.Cut(tc.workflow, ".")
			lines := startChild(t, order{
				Folder: filepath.Join(t.TempDir(), "a folder"), Config: fmt.Sprintf(config, jobsService(t).Endpoint()), Python: python, Source: source,
				Module: module, Workflow: tc.workflow, Count: 1, Inputs: tc.inputs, Lists: tc.lists,
			}).wait()
			require.Contains(t, strings.Join(lines, "\n"), tc.want)
			require.Equal(t, "closed", lines[len(lines)-1])
		})
	}
}

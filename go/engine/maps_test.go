package engine_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// map_task over backend tasks goes through propeller's ArrayNode, which keeps no plugin state for its sub-tasks.

func upTo(n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func TestMaps(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason, name string
		values       map[string]any
		want         string
		jobs         int
	}{
		{"a list", "plain", map[string]any{"xs": []any{1, 2, 3}}, "[2 3 4]", 3},
		{"an empty list", "plain", map[string]any{"xs": []any{}}, "[]", 0},
		{"one item", "plain", map[string]any{"xs": []any{7}}, "[8]", 1},
		{"a map between jobs", "summed", map[string]any{"xs": []any{1, 2, 3}}, "10", 5},
		{"a bound input", "bound", map[string]any{"xs": []any{1, 2}, "y": 10}, "[11 12]", 2},
		{"two lists", "two_lists", map[string]any{"xs": []any{1, 2}, "ys": []any{10, 20}}, "[11 22]", 2},
		{"no outputs", "nothing", map[string]any{"xs": []any{1, 2}}, "0", 2},
		{"half of it may fail", "half", map[string]any{"xs": []any{1, 2, 3, 4}}, "[2 3 none 5]", 4},
		{"an item is retried by the task's retries", "retried", map[string]any{"xs": []any{1, 2, 3}}, "[2 3 4]", 4},
		{"every item is retried by the map's retries", "retried_by_metadata", map[string]any{"xs": []any{1, 2, 3}}, "[2 3 4]", 6},
		{"two other types, one of them synchronous", "types", map[string]any{"xs": []any{1, 2}}, "[3 4]", 4},
		{"in a sub-workflow", "inside", map[string]any{"xs": []any{1, 2}}, "[2 3]", 3},
		{"a map over a map's results", "twice", map[string]any{"xs": []any{1, 2}}, "[3 4]", 4},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			x := start(t, "maps", tc.name, tc.values)
			out := wait(t, x)
			require.Equal(t, core.WorkflowExecution_SUCCEEDED, out.Phase, "%v", out.Error)
			require.Equal(t, tc.want, show(out.Outputs.GetLiterals()["o0"]))
			requireJobs(t, tc.jobs, service.JobsOf(x.ID().GetName()))
		})
	}
}

func TestMapFails(t *testing.T) {
	t.Parallel()
	x := start(t, "maps", "all_or_nothing", map[string]any{"xs": []any{1, 2, 3, 4}})
	out := wait(t, x)
	require.Equal(t, core.WorkflowExecution_FAILED, out.Phase)
	require.Contains(t, out.Error.GetMessage(), "not 3")
}

func TestMapCache(t *testing.T) {
	t.Parallel()
	n := unique()
	for i, jobs := range []int{3, 0} {
		x := start(t, "maps", "from_cache", map[string]any{"xs": []any{n, n + 1, n + 2}})
		require.Equal(t, fmt.Sprintf("[%d %d %d]", n+1, n+2, n+3), show(wait(t, x).Outputs.GetLiterals()["o0"]))
		requireJobs(t, jobs, service.JobsOf(x.ID().GetName()), "run %d", i)
	}
}

func TestMapConcurrency(t *testing.T) {
	t.Parallel()
	x := start(t, "maps", "two_at_a_time", map[string]any{"xs": upTo(6)})
	require.Equal(t, "[1 2 3 4 5 6]", show(wait(t, x).Outputs.GetLiterals()["o0"]))
	require.LessOrEqual(t, backendtest.MostAtOnce(service.JobsOf(x.ID().GetName())), 2)
}

// TestMapAborted: an abort in the middle deletes every job.
func TestMapAborted(t *testing.T) {
	t.Parallel()
	b := load(t, "maps")
	x, err := shared.Submit(t.Context(), b, "maps.endless", engine.Submission{Inputs: inputs(t, map[string]any{"xs": upTo(20)})})
	require.NoError(t, err)
	running(t, x, 20)
	require.NoError(t, x.Abort("enough"))
	require.Equal(t, core.WorkflowExecution_ABORTED, wait(t, x).Phase)
	jobs := service.JobsOf(x.ID().GetName())
	requireJobs(t, 20, jobs)
	for _, job := range jobs {
		require.Positive(t, job.Deletes, job.ID)
	}
}

// TestMapOf1000: a thousand items, each job once, and nothing is left in memory.
func TestMapOf1000(t *testing.T) {
	t.Parallel()
	const items = 1000
	began := time.Now()
	x := start(t, "maps", "plain", map[string]any{"xs": upTo(items)})
	list := wait(t, x).Outputs.GetLiterals()["o0"].GetCollection().GetLiterals()
	require.Len(t, list, items)
	for i, l := range list {
		require.Equal(t, int64(i+1), integer(l))
	}
	jobs := service.JobsOf(x.ID().GetName())
	requireJobs(t, items, jobs)
	for _, job := range jobs {
		require.Equal(t, 1, job.Creates)
	}
	t.Logf("%d items in %s", items, time.Since(began).Round(time.Millisecond))
}

// TestMapKilledAtRandom: maps in an engine that is killed again and again; every item's job is made once, whatever the
// moment.
func TestMapKilledAtRandom(t *testing.T) {
	t.Parallel()
	b := jobsService(t)
	list := make([]int64, 100)
	for i := range list {
		list[i] = int64(i)
	}
	o := order{
		Folder: filepath.Join(t.TempDir(), "state"), Config: fmt.Sprintf(config, b.Endpoint()),
		Module: "maps", Workflow: "maps.twice", Count: 3, Lists: map[string][]int64{"xs": list},
	}
	kills := killAtRandom(t, o, 6)
	lines := startChild(t, o).wait()
	require.Equal(t, "closed", lines[len(lines)-1], "%s", lines)
	for _, line := range lines {
		if strings.HasPrefix(line, "x") {
			require.Contains(t, line, "SUCCEEDED [2 3 4 5 ")
		}
	}
	jobs := b.Jobs()
	requireJobs(t, 3*2*len(list), jobs, "each job once")
	t.Logf("%d kills; creates that were repeated with the same key: %d", kills, b.Calls(backendtest.Create)-len(jobs))
}

// TestMapRestartWithoutKeys: a service that ignores keys sees no second create either, once propeller has the answer.
func TestMapRestartWithoutKeys(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	b.IgnoreKeys = true
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	o := order{
		Folder: filepath.Join(t.TempDir(), "state"), Config: fmt.Sprintf(config, b.Endpoint()),
		Module: "maps", Workflow: "maps.endless", Count: 1, Lists: map[string][]int64{"xs": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
	}
	c := startChild(t, o)
	eventually(t, "all jobs are made and polled", func() bool { return polled(b.Jobs()) == 10 })
	c.kill()
	polls := b.Calls(backendtest.Get)
	c = startChild(t, o)
	eventually(t, "the new engine polls them all", func() bool { return b.Calls(backendtest.Get) >= polls+20 })
	requireJobs(t, 10, b.Jobs(), "no second create")
	b.Finish("")
	lines := c.wait()
	require.Contains(t, strings.Join(lines, "\n"), "x0 SUCCEEDED [2 3 4 5 6 7 8 9 10 11]")
	requireJobs(t, 10, b.Jobs())
}

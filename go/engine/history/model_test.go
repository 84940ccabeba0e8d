package history_test

import (
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/engine/history/historytest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
)

var start = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)

// outline writes a snapshot in lines, without what depends on the order of arrival.
func outline(s *history.Snapshot) string {
	var b strings.Builder
	s.Walk(func(x *history.Execution, n *history.Node, depth int) bool {
		pad := strings.Repeat("  ", depth)
		if n == nil {
			fmt.Fprintf(&b, "%s%s %s %s %s %v\n", pad, x.Name, x.Title(), x.Phase, x.Elapsed(s.At.Add(-s.At.Sub(start))), x.Edges)
			return true
		}
		fmt.Fprintf(&b, "%s%s [%s] %s (%s) %s", pad, n.SpecID, n.Kind, n.Title(), n.TaskType, n.Phase)
		for _, st := range n.Steps {
			fmt.Fprintf(&b, " %s+%s", st.Phase, st.At.Sub(start))
		}
		if n.Map != nil {
			fmt.Fprintf(&b, " %d %+v", n.Map.Total, n.Map.Counts)
			for _, i := range n.Map.Items {
				fmt.Fprintf(&b, " #%d/%d %s %s %s %v", i.Index, i.Attempt, i.Phase, i.Job, i.Links, i.Started.Sub(start))
			}
		}
		b.WriteByte('\n')
		for _, a := range n.Attempts {
			fmt.Fprintf(&b, "%s  attempt %d %s jobs=%v links=%v error=%v custom=%v\n", pad, a.Number, a.Phase, a.Jobs, a.Links, a.Error, a.Custom.AsMap())
			for _, m := range a.Messages {
				fmt.Fprintf(&b, "%s    %s %s\n", pad, m.Phase, m.Text)
			}
		}
		if n.Error != nil {
			fmt.Fprintf(&b, "%s  error %s\n", pad, n.Error)
		}
		return true
	})
	return b.String()
}

func find(t *testing.T, s *history.Snapshot, path ...string) *history.Node {
	t.Helper()
	require.NotEmpty(t, s.Executions)
	nodes := s.Executions[0].Nodes
	var found *history.Node
	for _, p := range path {
		found = nil
		for _, n := range nodes {
			if n.SpecID == p {
				found = n
			}
		}
		require.NotNil(t, found, "no node %s of %v", p, path)
		nodes = found.Children
		if found.Launched != nil {
			nodes = found.Launched.Nodes
		}
	}
	return found
}

func TestTheSampleIsFoldedIntoATree(t *testing.T) {
	s := historytest.SampleUntil(start, time.Hour).Snapshot()
	require.Len(t, s.Executions, 1, "the child execution belongs to its node")
	x := s.Executions[0]
	assert.Equal(t, "churn.pipeline", x.Title())
	assert.Equal(t, history.Failed, x.Phase)
	assert.Equal(t, historytest.SampleEnd, x.Elapsed(time.Now()))
	require.NotNil(t, x.Error)
	assert.Equal(t, "USER", x.Error.Kind)
	assert.Contains(t, x.Error.String(), "PermissionDenied: SQL access")
	var order []string
	for _, n := range x.Nodes {
		order = append(order, n.SpecID)
	}
	assert.Equal(t, []string{"n0", "n1", "n2", "n3", "n4", "n5", "n8"}, order)
	assert.Contains(t, x.Edges, history.Edge{From: "n0", To: "n2"})

	extract := find(t, s, "n0")
	assert.Equal(t, "churn.extract", extract.Title())
	assert.Equal(t, history.KindTask, extract.Kind)
	assert.Equal(t, "bigquery_query_job_task", extract.TaskType)
	require.Len(t, extract.Attempts, 1)
	a := extract.Attempts[0]
	assert.Len(t, a.Messages, 4)
	assert.Equal(t, "acme:EU.job_9fX2", a.Jobs[0].ID)
	assert.Len(t, a.Links, 1)
	assert.InDelta(t, 48210.0, a.Custom.AsMap()["slotMillis"], 0)
	assert.Len(t, extract.Outputs.GetLiterals(), 1)
	assert.Equal(t, 11400*time.Millisecond, extract.Elapsed(time.Now()))

	mapped := find(t, s, "n1")
	assert.Equal(t, history.KindMap, mapped.Kind)
	assert.Equal(t, "embed all", mapped.Title())
	assert.Equal(t, history.Counts{Succeeded: 18, Failed: 2}, mapped.Map.Counts)
	assert.Equal(t, 20, mapped.Map.Total)
	assert.Equal(t, 1, mapped.Map.Items[9].Attempt)
	assert.Equal(t, history.Succeeded, mapped.Map.Items[9].Phase)
	assert.Equal(t, "job-9-1", mapped.Map.Items[9].Job)

	fit := find(t, s, "n2", "n0")
	require.Len(t, fit.Attempts, 2)
	assert.Equal(t, history.Failed, fit.Attempts[0].Phase)
	assert.Equal(t, "SpotTerminated", fit.Attempts[0].Error.Code)
	assert.Equal(t, history.Succeeded, fit.Phase)
	assert.Equal(t, 2, fit.Retries)
	assert.NotEmpty(t, find(t, s, "n2", "n1").DeckURI)

	assert.Equal(t, history.KindLaunchPlan, find(t, s, "n3").Kind)
	assert.Equal(t, "hit", find(t, s, "n3", "n0").Cache)
	assert.Equal(t, "stored", find(t, s, "n3", "n1").Cache)
	assert.Equal(t, history.KindGate, find(t, s, "n4").Kind)
	assert.Equal(t, history.KindBranch, find(t, s, "n5").Kind)
	assert.Equal(t, history.Failed, find(t, s, "n5", "n6").Phase)
	assert.Equal(t, history.NotRun, find(t, s, "n5", "n7").Phase, "the other case")
	assert.Equal(t, history.NotRun, find(t, s, "n8").Phase, "what comes after a failure")
}

func TestRunningStates(t *testing.T) {
	for _, c := range []struct {
		reason  string
		at      time.Duration
		path    []string
		phase   history.Phase
		message string
	}{
		{"a node that has not begun", time.Second, []string{"n2", "n0"}, history.Pending, ""},
		{"the task's latest message", 9 * time.Second, []string{"n0"}, history.Running, "Stage 4 of 5: 2.9 GiB read"},
		{"the task's phase says more than the node's", 13 * time.Second, []string{"n2", "n0"}, history.Waiting, "Waiting for a cluster"},
		{"between attempts", 29500 * time.Millisecond, []string{"n2", "n0"}, history.Running, "will be tried again after SpotTerminated: the cluster lost its spot instance i-0b77"},
		{"a gate says what it waits for", 65 * time.Second, []string{"n4"}, history.Running, `waits for the approval "release"`},
	} {
		n := find(t, historytest.SampleUntil(start, c.at).Snapshot(), c.path...)
		assert.Equal(t, c.phase, n.Shown(), c.reason)
		assert.Equal(t, c.message, n.Message(), c.reason)
	}
	n := find(t, historytest.SampleUntil(start, 15*time.Second).Snapshot(), "n1")
	assert.Equal(t, 20, n.Map.Total, "known from the inputs, before all items have begun")
	assert.Positive(t, n.Map.Counts.Waiting)
}

func TestOrderAndRepetitionDoNotMatter(t *testing.T) {
	want := outline(historytest.SampleUntil(start, time.Hour).Snapshot())
	descriptions, events := historytest.Sample(start)
	for seed := range int64(30) {
		random := rand.New(rand.NewSource(seed))
		shuffled := append(append([]history.Event{}, events...), events...)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		m := history.New()
		describe := random.Intn(len(shuffled))
		for i, e := range shuffled {
			m.Add(e)
			if i%7 == 0 {
				m.Snapshot() // what it keeps must not go stale
			}
			if i == describe {
				for _, d := range descriptions {
					m.Describe(d)
				}
			}
		}
		require.Equal(t, want, outline(m.Snapshot()), "seed %d", seed)
	}
}

func TestEventsThatAreSentAgainAfterACrash(t *testing.T) {
	r := historytest.NewRun("x", start)
	r.Workflow(0, core.WorkflowExecution_RUNNING)
	r.Node(time.Second, "n0", core.NodeExecution_RUNNING)
	r.Task(2*time.Second, "n0", 0, core.TaskExecution_RUNNING, "works")
	r.Task(3*time.Second, "n0", 0, core.TaskExecution_SUCCEEDED, "")
	r.Node(4*time.Second, "n0", core.NodeExecution_SUCCEEDED)
	// Propeller came back with an older state.
	r.Node(10*time.Second, "n0", core.NodeExecution_QUEUED)
	r.Node(11*time.Second, "n0", core.NodeExecution_RUNNING)
	r.Task(12*time.Second, "n0", 0, core.TaskExecution_RUNNING, "works")
	r.Node(13*time.Second, "n0", core.NodeExecution_ABORTED)
	m := history.New()
	for _, e := range r.Events {
		m.Add(e)
	}
	s := m.Snapshot()
	n := find(t, s, "n0")
	assert.Equal(t, history.Succeeded, n.Phase, "the first final phase stays")
	assert.Equal(t, 4*time.Second, n.Ended.Sub(start))
	assert.Len(t, n.Attempts[0].Messages, 1)
	for _, st := range n.Steps {
		assert.False(t, !st.End.IsZero() && st.End.Before(st.At), "%v", n.Steps)
	}
	assert.Len(t, s.Records, 7, "what was told before is told once")
}

func TestWithoutAClosure(t *testing.T) {
	_, events := historytest.Sample(start)
	m := history.New()
	for _, e := range events {
		m.Add(e)
	}
	s := m.Snapshot()
	require.Len(t, s.Executions, 1)
	assert.Equal(t, history.KindMap, find(t, s, "n1").Kind)
	assert.Equal(t, history.KindWorkflow, find(t, s, "n2").Kind)
	assert.Equal(t, history.KindLaunchPlan, find(t, s, "n3").Kind)
	assert.Equal(t, history.KindTask, find(t, s, "n2", "n0").Kind)
	assert.Equal(t, 20, find(t, s, "n1").Map.Total)
}

func TestDynamicTasksAndParentsThatAreTriedAgain(t *testing.T) {
	r := historytest.NewRun("x", start)
	r.Node(time.Second, "n0", core.NodeExecution_RUNNING, func(e *event.NodeExecutionEvent) { e.IsDynamic = true })
	r.Task(time.Second, "n0", 0, core.TaskExecution_SUCCEEDED, "")
	r.Node(2*time.Second, "n0", core.NodeExecution_DYNAMIC_RUNNING, func(e *event.NodeExecutionEvent) {
		e.IsDynamic = true
		e.TargetMetadata = &event.NodeExecutionEvent_TaskNodeMetadata{TaskNodeMetadata: &event.TaskNodeMetadata{
			DynamicWorkflow: &event.DynamicWorkflowNodeMetadata{CompiledWorkflow: historytest.SampleWorkflow()},
		}}
	})
	r.Node(3*time.Second, "n0/n0", core.NodeExecution_SUCCEEDED)
	r.Node(3*time.Second, "n0/n4", core.NodeExecution_RUNNING)
	r.Node(3*time.Second, "n9", core.NodeExecution_RUNNING)
	r.Node(3*time.Second, "n9/n0", core.NodeExecution_FAILED)
	r.Node(5*time.Second, "n9/n0", core.NodeExecution_RUNNING, func(e *event.NodeExecutionEvent) {
		e.Id.NodeId, e.RetryGroup = "n9-1-n0", "1"
	})
	m := history.New()
	for _, e := range r.Events {
		m.Add(e)
	}
	s := m.Snapshot()
	n := find(t, s, "n0")
	assert.Equal(t, history.KindDynamic, n.Kind)
	assert.Len(t, n.Children, 7, "the nodes that it made, begun or not")
	assert.Equal(t, "churn.extract", find(t, s, "n0", "n0").Title())
	assert.Equal(t, "release", find(t, s, "n0", "n4").Gate.Signal)
	again := find(t, s, "n9")
	require.Len(t, again.Children, 1)
	assert.Equal(t, history.Running, again.Children[0].Phase)
	require.Len(t, again.Earlier, 1)
	assert.Equal(t, history.Failed, again.Earlier[0].Phase)
}

func TestFlytesOwnNodesAreNotRecorded(t *testing.T) {
	m := history.New()
	r := historytest.NewRun("x", start)
	spec := func(id string) func(*event.NodeExecutionEvent) {
		return func(e *event.NodeExecutionEvent) { e.SpecNodeId = id }
	}
	r.Node(0, "start-node", core.NodeExecution_SUCCEEDED)
	r.Node(0, "ffuqhjya", core.NodeExecution_SUCCEEDED, spec("start-node"))
	r.Node(0, "n0", core.NodeExecution_RUNNING)
	r.Node(0, "n0-0-end-node", core.NodeExecution_FAILED, spec("end-node"))
	for _, e := range r.Events {
		m.Add(e)
	}
	var nodes []string
	for _, rec := range m.Snapshot().Records {
		nodes = append(nodes, rec.Node)
	}
	require.Equal(t, []string{"n0", "n0-0-end-node"}, nodes)
}

// TestWholeSeconds: Kubernetes tells only the second of a change, which must not put it before what led to it.
func TestWholeSeconds(t *testing.T) {
	r := historytest.NewRun("x", start)
	r.Task(0, "n0", 0, core.TaskExecution_RUNNING, "")
	r.Task(2*time.Second, "n0", 0, core.TaskExecution_SUCCEEDED, "")
	for _, tc := range []struct {
		reason               string
		began, ended         time.Duration // handed out
		wantBegan, wantEnded time.Duration
	}{
		{"soon", 800 * time.Millisecond, 2500 * time.Millisecond, 800 * time.Millisecond, 2500 * time.Millisecond},
		{"late", 1100 * time.Millisecond, time.Minute, 999 * time.Millisecond, 2999 * time.Millisecond},
	} {
		m := history.New()
		r.Events[0].At, r.Events[1].At = start.Add(tc.began), start.Add(tc.ended)
		m.Add(r.Events[0])
		m.Add(r.Events[1])
		a := find(t, m.Snapshot(), "n0").Last()
		require.Equal(t, start.Add(tc.wantBegan), a.Started, tc.reason)
		require.Equal(t, start.Add(tc.wantEnded), a.Ended, tc.reason)
	}
}

func TestOddEvents(t *testing.T) {
	m := history.New()
	m.Add(history.Event{})
	m.Add(history.Event{Node: &event.NodeExecutionEvent{}})
	m.Add(history.Event{Task: &event.TaskExecutionEvent{}})
	m.Add(history.Event{Workflow: &event.WorkflowExecutionEvent{}})
	r := historytest.NewRun("x", start)
	r.Node(0, "a", core.NodeExecution_RUNNING, historytest.Launched(r.ID), func(e *event.NodeExecutionEvent) {
		e.ParentNodeMetadata = &event.ParentNodeExecutionMetadata{NodeId: "b"}
	})
	r.Node(0, "b", core.NodeExecution_RUNNING, func(e *event.NodeExecutionEvent) {
		e.ParentNodeMetadata = &event.ParentNodeExecutionMetadata{NodeId: "a"}
	})
	r.Node(0, "c", core.NodeExecution_Phase(99))
	other := historytest.NewRun("y", start)
	other.Node(0, "a", core.NodeExecution_RUNNING, historytest.Launched(r.ID))
	r.Node(0, "d", core.NodeExecution_RUNNING, historytest.Launched(other.ID))
	for _, e := range historytest.Sorted(r, other) {
		m.Add(e)
	}
	s := m.Snapshot()
	require.NotNil(t, s.Find("x"), "circles do not make an execution vanish")
	require.NotNil(t, s.Find("y"))
	assert.Len(t, s.Find("x").Nodes, 4)
}

func TestAddWhileSnapshotsAreTaken(t *testing.T) {
	m := history.New()
	descriptions, events := historytest.Sample(start)
	var wait sync.WaitGroup
	wait.Go(func() {
		for _, d := range descriptions {
			m.Describe(d)
		}
		for _, e := range events {
			m.Add(e)
		}
	})
	var last *history.Snapshot
	wait.Go(func() {
		for range 300 {
			last = m.Snapshot()
			_ = outline(last)
		}
	})
	wait.Wait()
	before := outline(last)
	for _, e := range events {
		m.Add(e)
	}
	assert.Equal(t, before, outline(last), "a snapshot does not change")
	assert.Equal(t, outline(historytest.SampleUntil(start, time.Hour).Snapshot()), outline(m.Snapshot()))
}

func TestManyRecordsAreCut(t *testing.T) {
	m := history.New()
	r := historytest.NewRun("x", start)
	for i := range 21000 {
		r.Events = nil
		r.Task(time.Duration(i)*time.Second, "n0", uint32(i/300), core.TaskExecution_RUNNING, fmt.Sprint("message ", i), historytest.Version(uint32(i)))
		m.Add(r.Events[0])
	}
	s := m.Snapshot()
	assert.Equal(t, 21000, s.Dropped+len(s.Records))
	assert.Equal(t, 21000, s.Records[len(s.Records)-1].Seq)
	for i := range 1000 {
		r.Events = nil
		r.Task(time.Duration(i)*time.Second, "n1", 0, core.TaskExecution_RUNNING, fmt.Sprint("message ", i), historytest.Version(uint32(i)))
		m.Add(r.Events[0])
	}
	a := find(t, m.Snapshot(), "n1").Attempts[0]
	assert.LessOrEqual(t, len(a.Messages), 400)
	assert.Equal(t, "message 999", a.Message())
}

func BenchmarkSnapshotOf500NodesAndAMapOf1000(b *testing.B) {
	m := historytest.Large(start, 500, 1000)
	r := historytest.NewRun("large", start)
	for i := 0; b.Loop(); i++ {
		r.Events = nil
		r.Task(time.Duration(i)*time.Millisecond, "n1", 0, core.TaskExecution_RUNNING, "more", historytest.Version(uint32(i%50)))
		m.Add(r.Events[0])
		m.Snapshot()
	}
}

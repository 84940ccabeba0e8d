package report

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/engine/history/historytest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
)

var (
	start = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)
	info  = Info{Versions: []Version{{"flyte-backend", "0.9.0"}, {"FlytePropeller", "1.16.8"}}}
)

func sample(until time.Duration) *history.Snapshot {
	s := historytest.SampleUntil(start, until).Snapshot()
	s.At = start.Add(min(until, historytest.SampleEnd))
	return s
}

func large() *history.Snapshot {
	s := historytest.Large(start, 500, 1000).Snapshot()
	s.At = start.Add(time.Minute)
	return s
}

// hostile is text that would run as a script, close an element or leave an attribute where it is not escaped.
const hostile = `</script></style></title><img src=x onerror="window.pwned=1"><script>window.pwned=1</script>"'` + "`" + `{{.}}${window.pwned=1} -->`

func hostileRun() *history.Snapshot {
	r := historytest.NewRun(hostile, start)
	evil := func(e *event.TaskExecutionEvent) { e.TaskId.Name, e.TaskType = hostile, hostile }
	r.Workflow(0, core.WorkflowExecution_RUNNING)
	r.Node(0, "n0", core.NodeExecution_RUNNING, historytest.Inputs(historytest.Values(hostile, historytest.String(hostile))), func(e *event.NodeExecutionEvent) {
		e.NodeName, e.DeckUri = hostile, "javascript:window.pwned=1"
	})
	r.Task(time.Second, "n0", 0, core.TaskExecution_RUNNING, hostile, evil, historytest.Job(hostile), historytest.Custom(map[string]any{hostile: hostile}),
		historytest.Link(hostile, "javascript:window.pwned=1"), historytest.Link("data", "data:text/html,<script>window.pwned=1</script>"),
		historytest.Link("file", "file:///etc/passwd"), historytest.Link("web", `https://example.com/"onmouseover="window.pwned=1`))
	r.Task(2*time.Second, "n0", 0, core.TaskExecution_FAILED, "", evil, historytest.TaskError(core.ExecutionError_USER, hostile, hostile))
	r.Node(2*time.Second, "n0", core.NodeExecution_FAILED, historytest.NodeError(core.ExecutionError_USER, hostile, hostile))
	r.Task(time.Second, "n1", 0, core.TaskExecution_RUNNING, "", historytest.Array, historytest.Item(0, 0, core.TaskExecution_RUNNING), func(e *event.TaskExecutionEvent) {
		x := e.Metadata.ExternalResources[0]
		x.ExternalId, x.Logs[0].Name, x.Logs[0].Uri = hostile, hostile, "javascript:window.pwned=1"
	})
	r.Workflow(3*time.Second, core.WorkflowExecution_FAILED)
	m := history.New()
	for _, e := range r.Events {
		m.Add(e)
	}
	return m.Snapshot()
}

func write(t *testing.T, s *history.Snapshot, info Info) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Write(&b, s, info))
	return b.String()
}

func TestThePageTellsEverything(t *testing.T) {
	page := write(t, sample(time.Hour), info)
	for _, want := range []string{
		"<h1>churn.pipeline</h1>", "f7qkd2mzr9", "24 November 2026, 09:30:00 UTC", "1 min 32 s", // the run
		"PermissionDenied", "The role LOADER needs INSERT on it.", "user error", "Snowflake Console", // what failed
		"<dt>region</dt><dd>europe</dd>", "<dt>week</dt><dd>47</dd>", // inputs
		"bq://acme:churn.extract_2026_47", "acme:EU.job_9fX2", "Stage 4 of 5: 2.9 GiB read", "slotMillis", // a task
		"Attempt 2", "SpotTerminated", // attempts
		"18 of 20 succeeded, 2 failed", "#13 FAILED", "gs://acme-churn/features/19.parquet", // the map
		"from the cache", "not run", "scoring.predict", "deck.html",
		"flyte-backend 0.9.0", "FlytePropeller 1.16.8",
	} {
		assert.Contains(t, page, want)
	}
	assert.NotContains(t, page, "ZgotmplZ", "html/template met something that it holds to be unsafe")
	assert.NotRegexp(t, `(?i)<(img|iframe|object|embed|base|form)\b|<link rel="?stylesheet|@import|url\(`, page, "what would load something")
	assert.NotRegexp(t, `\sstyle="|\son[a-z]+="`, page, "what the policy forbids")
}

func TestHostileTextIsEscaped(t *testing.T) {
	page := write(t, hostileRun(), Info{Title: hostile, Versions: []Version{{hostile, hostile}}})
	assert.NotContains(t, page, "<img")
	assert.Equal(t, 1, strings.Count(page, "<script>"))
	assert.Equal(t, 1, strings.Count(page, "</script>"))
	assert.Equal(t, 1, strings.Count(page, "</style>"))
	assert.NotRegexp(t, `href="(javascript|data:text|file)`, page)
	assert.Contains(t, page, `href="https://example.com/%22onmouseover=%22window.pwned=1"`)
}

func TestLargeRunsStaySmall(t *testing.T) {
	began := time.Now()
	page := write(t, large(), info)
	assert.Less(t, len(page), 3<<20)
	assert.Less(t, time.Since(began), 10*time.Second)
	assert.Contains(t, page, "1000 items")
}

func TestOtherRuns(t *testing.T) {
	write(t, history.New().Snapshot(), Info{})
	running := write(t, sample(30*time.Second), Info{Title: "My run"})
	assert.Contains(t, running, "<h1>My run</h1>")
	assert.Contains(t, running, "30.0 s so far")
	m := history.New()
	run := func(name string) {
		r := historytest.NewRun(name, start)
		r.Workflow(0, core.WorkflowExecution_RUNNING)
		r.Node(0, "n0", core.NodeExecution_SUCCEEDED)
		r.Workflow(time.Second, core.WorkflowExecution_SUCCEEDED)
		for _, e := range r.Events {
			m.Add(e)
		}
	}
	run("one")
	run("two")
	both := write(t, m.Snapshot(), Info{})
	assert.Contains(t, both, "<h1>2 executions</h1>")
	assert.Equal(t, 2, strings.Count(both, `<details class="one" open>`), "few are open")
	run("three")
	run("four")
	assert.Equal(t, 4, strings.Count(write(t, m.Snapshot(), Info{}), `<details class="one">`), "many are closed")
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

func TestNothingFailedIsNotRed(t *testing.T) {
	var page bytes.Buffer
	require.NoError(t, Write(&page, sample(0), info))
	require.Contains(t, page.String(), `<li class=""><b>0</b> <span>failed</span></li>`)
}

func TestAnErrorInWriting(t *testing.T) {
	require.ErrorContains(t, Write(broken{}, sample(time.Hour), info), "cannot write the report: the disk is full")
}

// overlap says that two boxes share more than an edge.
func overlap(a, b *box) bool {
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func checkDrawing(t *testing.T, d *drawing) {
	t.Helper()
	for i, a := range d.Boxes {
		assert.True(t, a.X >= 0 && a.Y >= 0 && a.X+a.W <= d.W+1 && a.Y+a.H <= d.H+1, "%s lies outside", a.Title)
		for _, b := range d.Boxes[i+1:] {
			assert.False(t, overlap(a, b), "%s and %s overlap", a.Title, b.Title)
		}
		if a.Inner != nil {
			assert.LessOrEqual(t, a.InnerY+a.Inner.H, a.H)
			checkDrawing(t, a.Inner)
		}
	}
}

func TestNothingOverlapsInTheGraph(t *testing.T) {
	for name, s := range map[string]*history.Snapshot{"sample": sample(time.Hour), "begins": sample(0), "large": large()} {
		t.Run(name, func(t *testing.T) {
			p := newPage(s, info)
			checkDrawing(t, p.Runs[0].Graph)
			at := map[string]*box{}
			for i, b := range p.Runs[0].Graph.Boxes {
				at[s.Executions[0].Nodes[i].SpecID] = b
			}
			for _, e := range s.Executions[0].Edges {
				assert.Less(t, at[e.From].Y+at[e.From].H, at[e.To].Y, "%v leads upwards", e)
			}
		})
	}
}

func TestACircleIsDrawnAllTheSame(t *testing.T) {
	nodes := []*history.Node{{SpecID: "a"}, {SpecID: "b"}, {SpecID: "c"}}
	d := drawer{p: &page{anchors: map[*history.Node]string{}}}
	g := d.draw(nodes, []history.Edge{{From: "a", To: "b"}, {From: "b", To: "c"}, {From: "c", To: "a"}, {From: "a", To: "c"}})
	checkDrawing(t, g)
	assert.Len(t, g.Edges, 3)
}

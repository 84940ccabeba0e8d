// Package comparison_test runs workflows on propeller's own engine, once with the connector plugin that ships with Flyte and
// once with this one, against the same services that misbehave in the same way, and writes docs/comparison.md from what it
// finds (`make comparison`).
package comparison_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/comparison.md from this run")

const (
	document    = "../../docs/comparison.md"
	scenarioEnv = "FLYTE_BACKEND_COMPARISON_SCENARIO"
	sideEnv     = "FLYTE_BACKEND_COMPARISON_SIDE"
	dirEnv      = "FLYTE_BACKEND_COMPARISON_DIR"
	findingFile = "finding.json"
	// atOnce bounds the processes: they wait much more than they compute.
	atOnce = 18
	// deadline of one process.
	deadline = 6 * time.Minute
)

func TestMain(m *testing.M) {
	if order := os.Getenv(enginesEnv); order != "" {
		runEngine(order)
		return
	}
	if name := os.Getenv(scenarioEnv); name != "" {
		play(name)
		return
	}
	os.Exit(m.Run())
}

// play is the child process of a scenario and a side.
func play(name string) {
	i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
	w := &world{side: side(os.Getenv(sideEnv)), dir: os.Getenv(dirEnv)}
	data := must1(json.Marshal(scenarios[i].play(w)))
	must(os.WriteFile(filepath.Join(w.dir, findingFile), data, 0o600))
}

// row is a scenario with what both sides did.
type row struct {
	scenario
	theirs, ours finding
}

// TestComparison: the connector plugin does what the document says, and this plugin does better in every row.
func TestComparison(t *testing.T) {
	rows := runAll(t)
	if t.Failed() {
		return
	}
	for _, r := range rows {
		t.Logf("%s: %s\n%s: %s\n%s: %s", r.name, r.what, connectorService, r.theirs.Text, backend, r.ours.Text)
		if r.measured {
			require.Less(t, r.ours.Value, r.theirs.Value, "%s: %s", r.name, r.what)
			continue
		}
		require.True(t, r.ours.Good, "%s: %s: %s", r.name, r.what, r.ours.Text)
		require.False(t, r.theirs.Good, "%s: upstream does well, so the row has to go: %s: %s", r.name, r.what, r.theirs.Text)
	}
	written := render(rows)
	if *update {
		require.NoError(t, os.WriteFile(document, []byte(written), 0o644))
	}
	committed, err := os.ReadFile(document)
	require.NoError(t, err)
	require.Equal(t, skeleton(written), skeleton(string(committed)), "run `make comparison`")
}

// runAll plays every scenario on both sides, each in a process of its own, the long ones first.
func runAll(t *testing.T) []row {
	t.Helper()
	rows := make([]row, len(scenarios))
	var order []*row
	for _, long := range []bool{true, false} {
		for i, s := range scenarios {
			if s.long == long {
				rows[i].scenario = s
				order = append(order, &rows[i])
			}
		}
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, r := range order {
		for _, side := range sides {
			dir, result := t.TempDir(), &r.ours
			if side == connectorService {
				result = &r.theirs
			}
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				var err error
				if *result, err = runOne(t.Context(), r.name, side, dir); err != nil {
					t.Errorf("%s with %s: %v", r.name, side, err)
				}
			})
		}
	}
	running.Wait()
	return rows
}

func runOne(ctx context.Context, name string, side side, dir string) (finding, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), scenarioEnv+"="+name, sideEnv+"="+string(side), dirEnv+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return finding{}, fmt.Errorf("%w\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, findingFile))
	if err != nil {
		return finding{}, err
	}
	var f finding
	err = json.Unmarshal(data, &f)
	return f, err
}

const (
	yes, no = "✓", "✗"

	head = `# Compared with the connector plugin that ships with Flyte

<!-- Written by "make comparison" from what a run found (test/comparison). Do not edit. -->

Both plugins call the same services. Below, each row is a workflow, made by flytekit, that ran on propeller's own engine
([engine.md](engine.md)) once with ` + "`connector-service`" + ` of flyteplugins v1.16.8, as propeller v1.16.8 registers it, and once with
this plugin: the same package, the same service on loopback that misbehaves in the same way, and propeller's own settings
for its queue (batches of 1 s) and for looking at workflows again (10 s). ` + no + ` and ` + yes + ` say whether what a user would want
happened. "Everything as shipped" are the plugins' own defaults; elsewhere jobs are polled every 5 s. The last column names
what shows the same with a single task, or with numbers.

| what happens | connector-service | this plugin | also shown by |
|---|---|---|---|
`

	foot = `
Wall times are the median and the range of nine workflows that begin 3.3 s apart, since much depends on how long it is to the
next poll. The figures are those of the run that wrote this page, on %d CPUs. Every run of the tests checks the marks, and
that the wall times of this plugin are the shorter ones.

## What a workflow does not show

- TLS with a CA of one's own, client certificates and names: connector-service has the system's CAs or plain text. Shown by
  the tests of ` + "`go/client/grpcclient`" + `.
- An outage that outlasts ` + "`poll.maxOutage`" + `, updates that come too fast, job ids and answers that are too large, secrets in
  job ids: ` + "`TestFaultOutagePastTheLimitHangs`, `TestFaultUpdatesAreNotLimited`, `TestFaultOversizedJobID`, `TestFaultOversizedAnswer`" + `
  and ` + "`TestFaultSecretsInLogsAndEvents`" + `.
- connector-service writes its map of connections without a lock when a service's address is new to it; that is a race, which
  shows when it hits.
- Secrets that are resolved into a task's state: Flyte 2's connector plugin does that, v1.16.8's does not.
- A task that a built-in plugin runs while a service registers its type: ` + "`TestTaskStaysWithItsDeploymentAndVersion`" + `.

## Where this plugin is no better

- At services like those here, which have flyteidl's calls alone, a poll is one call for one task, in both. Since this one
  polls all tasks in time, and new jobs more often, it makes more calls; see 500 tasks above.
- Jobs that end as RETRYABLE_FAILED are tried again by both.
- Authentication beside TLS, and services that tell of changes by themselves are not there yet.
`
)

// render writes the document.
func render(rows []row) string {
	var b strings.Builder
	b.WriteString(head)
	for _, r := range rows {
		test := ""
		if r.test != "" {
			test = "`" + r.test + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.what, r.cell(r.theirs), r.cell(r.ours), test)
	}
	fmt.Fprintf(&b, foot, runtime.NumCPU())
	return b.String()
}

func (r row) cell(f finding) string {
	switch {
	case r.measured:
		return f.Text
	case f.Good:
		return yes + " " + f.Text
	default:
		return no + " " + f.Text
	}
}

// skeleton is what the document has to hold whatever a run measures: its words, its rows, and their marks.
func skeleton(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| ") && len(cells) == 4 {
			for _, c := range []int{1, 2} {
				if mark, _, ok := strings.Cut(cells[c], " "); ok && (mark == yes || mark == no) {
					cells[c] = mark
				} else {
					cells[c] = "measured"
				}
			}
			lines[i] = strings.Join(cells, " | ")
		}
		if strings.Contains(line, " CPUs.") {
			lines[i] = "" // another machine
		}
	}
	return strings.Join(lines, "\n")
}

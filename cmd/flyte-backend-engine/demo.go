package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/local"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/examples/sqlite"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing" // the built-in echo plugin, which the demo falls back to
)

// demoLimit bounds the demo; it takes some 20 s.
const demoLimit = 2 * time.Minute

// What the workflow of the demo is due to do: see testdata/workflows/demo/demo.py.
const (
	demoItems = 20
	demoJobs  = demoItems + 3
	demoFirst = "Nh, Nihonium, discovered 2003" // the latest discovery among the elements whose name ends with "ium"
)

func newDemo() *cobra.Command {
	var report string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a real workflow on propeller's engine against a service that is killed and restarted",
		Long: "Starts the example service, and runs a workflow that flytekit made on propeller's own engine in this process: SQL\n" +
			"queries at the service, one feeding the next, a map over 20 items, a task that falls back to a built-in plugin.\n" +
			"While jobs run, the service is killed and started again. It fails if any of it did not come out as expected.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoLimit)
			defer cancel()
			return runDemo(ctx, cmd.OutOrStdout(), report)
		},
	}
	cmd.Flags().StringVar(&report, "report", filepath.Join(os.TempDir(), "flyte-backend-demo.html"), "file for the page that tells of the run")
	return cmd
}

// demo is one run of it.
type demo struct {
	out     io.Writer
	dir     string
	service *serviceProcess
	follow  *local.Follower

	mu      sync.Mutex
	decided []backend.Decided
}

func runDemo(ctx context.Context, out io.Writer, report string) error {
	dir, err := os.MkdirTemp("", "flyte-backend-demo-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for the demo: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program to start the service from: %w", err)
	}
	d := &demo{out: out, dir: dir, service: &serviceProcess{dir: dir, program: program}, follow: local.NewFollower(os.Stdout)}
	defer d.service.kill()
	seen, err := d.play(ctx)
	if err := errors.Join(err, d.follow.Close()); err != nil {
		return fmt.Errorf("the demo did not come to its end; files are kept in %s: %w", dir, err)
	}
	problems := seen.unexpected()
	if err := local.WriteReport(report, d.follow.Snapshot()); err != nil {
		problems = append(problems, err.Error())
	}
	d.printf("\n")
	d.tell(seen)
	d.printf("report     %s\n", report)
	if len(problems) > 0 {
		return fmt.Errorf("the demo did not come out as expected; files are kept in %s: %s", dir, strings.Join(problems, "; "))
	}
	d.printf("\nAll of it came out as expected.\n")
	return os.RemoveAll(dir)
}

func (d *demo) printf(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format, args...) }

// demoConfig is the YAML that propeller would be started with.
const demoConfig = `tasks:
  task-plugins:
    enabled-plugins: [echo]        # "backend" joins by itself
plugins:
  backend:
    enable_backend_flytekit_plugin_system: true
    deployments:
      sqlite: {endpoint: %q, insecure: true}
    webApi: {caching: {resyncInterval: 5s}}
`

// play runs the workflow, and the service's death with it.
func (d *demo) play(ctx context.Context) (*seen, error) {
	closeLog, err := local.RouteLogs("")
	if err != nil {
		return nil, err
	}
	defer closeLog()
	if err := d.service.start(ctx); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(demoConfig, d.service.addr)
	d.printf("service    %s, process %d\npropeller  in this process, with this configuration:\n%s\n", d.service.addr, d.service.cmd.Process.Pid, indent(text))
	backend.Observe(func(dec backend.Decided) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.decided = append(d.decided, dec)
	})
	defer backend.Observe(nil)
	e, err := engine.Open(ctx, engine.Options{Folder: filepath.Join(d.dir, "engine"), Config: text, OnEvent: d.follow.OnEvent})
	if err != nil {
		return nil, err
	}
	defer func() { _ = e.Close() }() // what it would fail with nobody needs
	b, err := bundle.Read("demo", workflows.Archive("demo"), bundle.Options{})
	if err != nil {
		return nil, err
	}
	x, err := e.Submit(ctx, b, "demo.elements", engine.Submission{Name: "demo"})
	if err != nil {
		return nil, err
	}
	if err := d.follow.Start(ctx, e, x); err != nil {
		return nil, err
	}
	failed, err := d.killInTheMiddle(ctx, x)
	if err != nil {
		return nil, err
	}
	out, err := x.Wait(ctx)
	if err != nil {
		return nil, err
	}
	s := &seen{outcome: out, failed: failed, snapshot: d.follow.Snapshot()}
	d.mu.Lock()
	s.decided = slices.Clone(d.decided)
	d.mu.Unlock()
	s.jobs, s.runs, err = sqlite.Count(ctx, d.service.jobs())
	return s, err
}

// killInTheMiddle ends the service with kill -9 while it runs jobs of the map, leaves it away until propeller has noticed, and
// starts it again. It gives the number of polls that failed meanwhile.
func (d *demo) killInTheMiddle(ctx context.Context, x *engine.Execution) (failed int, err error) {
	if err := d.until(ctx, x, "jobs of the map run", func() bool {
		n := mapped(d.follow.Snapshot())
		return n != nil && n.Map.Counts.Running > 0
	}); err != nil {
		return 0, err
	}
	d.follow.Print("---------- the service is killed (kill -9) while its jobs run")
	d.service.kill()
	if err := d.until(ctx, x, "propeller notices that the service is away", func() bool {
		failed = failedPolls()
		return failed >= 3
	}); err != nil {
		return 0, err
	}
	if err := d.service.start(ctx); err != nil {
		return 0, err
	}
	d.follow.Print("---------- the service is started again, process %d", d.service.cmd.Process.Pid)
	return failed, nil
}

// until looks again and again until the condition holds.
func (d *demo) until(ctx context.Context, x *engine.Execution, what string, condition func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-x.Done():
			return fmt.Errorf("the workflow ended before this: %s", what)
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// failedPolls reads the plugin's own metric (docs/metrics.md).
func failedPolls() (n int) {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if strings.HasSuffix(f.GetName(), ":poll_failures_total") {
			for _, m := range f.GetMetric() {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// mapped finds the map.
func mapped(s *history.Snapshot) (found *history.Node) {
	s.Walk(func(_ *history.Execution, n *history.Node, _ int) bool {
		if n != nil && n.Map != nil {
			found = n
		}
		return true
	})
	return found
}

// seen is what came of it.
type seen struct {
	outcome    *engine.Outcome
	snapshot   *history.Snapshot
	decided    []backend.Decided
	failed     int // polls
	jobs, runs int
}

func (s *seen) lines() []string {
	var out []string
	for _, l := range s.outcome.Outputs.GetLiterals()["o0"].GetCollection().GetLiterals() {
		out = append(out, l.GetScalar().GetPrimitive().GetStringValue())
	}
	return out
}

// owners lists who each task type belonged to, as it was decided.
func (s *seen) owners() []string {
	var out []string
	for _, d := range s.decided {
		who := fmt.Sprintf("deployment %q", d.Deployment)
		if d.BuiltIn != "" {
			who = fmt.Sprintf("built-in plugin %q", d.BuiltIn)
		}
		if line := fmt.Sprintf("task type %q to %s: %s", d.TaskType, who, d.Why); !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// attempts counts those that were needed beyond the first.
func (s *seen) attempts() int {
	n := 0
	s.snapshot.Walk(func(_ *history.Execution, at *history.Node, _ int) bool {
		if at != nil {
			n += max(len(at.Attempts)-1, 0)
		}
		return true
	})
	return n
}

// unexpected lists what is not as it is due.
func (s *seen) unexpected() []string {
	var out []string
	due := func(ok bool, format string, args ...any) {
		if !ok {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	due(s.outcome.Phase == core.WorkflowExecution_SUCCEEDED, "the workflow ended as %s: %s", s.outcome.Phase, s.outcome.Error.GetMessage())
	lines := s.lines()
	due(len(lines) == demoItems, "%d lines came, %d were due", len(lines), demoItems)
	due(len(lines) > 0 && lines[0] == demoFirst, "the first line of %q was due to be %q", lines, demoFirst)
	owners := strings.Join(s.owners(), "\n")
	due(strings.Contains(owners, `task type "sqlite" to deployment "sqlite": registered by sqlite`), "type sqlite was due to go to the service: %s", owners)
	due(strings.Contains(owners, `task type "echo" to built-in plugin "echo"`), "type echo was due to fall back to the built-in plugin: %s", owners)
	due(s.failed > 0, "no poll failed, so propeller saw no outage")
	due(s.jobs == demoJobs, "%d jobs were made, %d were due", s.jobs, demoJobs)
	due(s.runs > s.jobs, "of %d jobs none ran again, so none was killed", s.jobs)
	due(s.attempts() == 0, "the kill cost %d attempts", s.attempts())
	return out
}

// tell sums it up for people.
func (d *demo) tell(s *seen) {
	for _, owner := range s.owners() {
		d.printf("decision   %s\n", owner)
	}
	d.printf("outage     the service was killed while jobs ran, and came back after %d polls had failed\n", s.failed)
	d.printf("cost       %d jobs for %d tasks, %d of them run again by the service; attempts beyond the first: %d\n", s.jobs, demoJobs, s.runs-s.jobs, s.attempts())
	lines := s.lines()
	for i, l := range lines[:min(3, len(lines))] {
		d.printf("%-10s %s\n", map[bool]string{true: "outputs"}[i == 0], l)
	}
	if len(lines) > 3 {
		d.printf("%-10s … %d in all\n", "", len(lines))
	}
	uri := s.outcome.Outputs.GetLiterals()["o1"].GetScalar().GetSchema().GetUri()
	columns, rows, err := sqlite.ReadRows(uri, -1)
	if err != nil {
		d.printf("%-10s %s cannot be read: %v\n", "", uri, err)
		return
	}
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "%-10s %s\n", "", strings.Join(columns, "\t"))
	for _, row := range rows[max(0, len(rows)-3):] {
		cells := make([]string, 0, len(row))
		for _, v := range row {
			if v == nil {
				v = "-"
			}
			cells = append(cells, fmt.Sprint(v))
		}
		_, _ = fmt.Fprintf(table, "%-10s %s\n", "", strings.Join(cells, "\t"))
	}
	_ = table.Flush() // as any print
}

func indent(text string) string {
	return "           | " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n           | ") + "\n"
}

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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/local"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// demoLimit bounds the demo; it takes some 20 s.
const demoLimit = 2 * time.Minute

func newDemo() *cobra.Command {
	var report, python string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run real workflows on propeller's engine against services that are killed and restarted",
		Long: "Runs workflows that flytekit made on propeller's own engine in this process, in two acts:\n" +
			"SQL queries at a service in Go, over gRPC: one feeding the next, a map over 20 items, a task that falls back to a\n" +
			"built-in plugin. Then jobs of a plugin in Python, over REST, which needs Python with flyte-backend: --python names its\n" +
			"virtual environment, else flyte-backend-serve on PATH is taken. Without either the second act is left out.\n" +
			"While jobs run, their service is killed and started again. It fails if any of it did not come out as expected.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoLimit)
			defer cancel()
			return runDemo(ctx, cmd.OutOrStdout(), report, python)
		},
	}
	cmd.Flags().StringVar(&report, "report", filepath.Join(os.TempDir(), "flyte-backend-demo.html"), "`FILE` for the page that tells of the run")
	cmd.Flags().StringVar(&python, "python", "", "`FOLDER` of the virtual environment with flyte-backend, for the act in Python")
	return cmd
}

// act is a workflow that is run while the service of its tasks is killed and started again.
type act struct {
	title string
	// module has the workflow, and names the execution.
	module, workflow string
	// deployment is the service's name in propeller's configuration, and config what stands there.
	deployment, config string
	service            *serviceProcess
	// judge says what came of it. The service runs, and the workflow has ended.
	judge func(context.Context, seen) (verdict, error)
}

// verdict is what came of an act.
type verdict interface {
	// unexpected lists what is not as it is due.
	unexpected() []string
	// tell sums it up for people.
	tell(out io.Writer)
}

// demo is one run of it.
type demo struct {
	out    io.Writer
	dir    string
	acts   []*act
	follow *local.Follower

	mu      sync.Mutex
	decided []backend.Decided
}

func runDemo(ctx context.Context, out io.Writer, report, python string) error {
	program, without, err := findPython(ctx, python)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "flyte-backend-demo-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for the demo: %w", err)
	}
	sql, err := sqliteAct(dir)
	if err != nil {
		return err
	}
	d := &demo{out: out, dir: dir, acts: []*act{sql}, follow: local.NewFollower(os.Stdout)}
	if without == "" {
		squares, err := pythonAct(dir, program)
		if err != nil {
			return err
		}
		d.acts = append(d.acts, squares)
	}
	defer func() {
		for _, a := range d.acts {
			a.service.kill()
		}
	}()
	verdicts, err := d.play(ctx, without)
	if err := errors.Join(err, d.follow.Close()); err != nil {
		return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("the demo did not come to its end; files are kept in %s: %w", dir, err)}
	}
	var problems []string
	for i, v := range verdicts {
		d.printf("\n%s\n", d.acts[i].title)
		v.tell(out)
		for _, problem := range v.unexpected() {
			problems = append(problems, d.acts[i].module+": "+problem)
		}
	}
	if err := local.WriteReport(report, d.follow.Snapshot()); err != nil {
		problems = append(problems, err.Error())
	}
	d.printf("\nreport     %s\n", report)
	if len(problems) > 0 {
		return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("the demo did not come out as expected; files are kept in %s: %s", dir, strings.Join(problems, "; "))}
	}
	d.printf("\nAll of it came out as expected.\n")
	return os.RemoveAll(dir)
}

func (d *demo) printf(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format, args...) }

// demoConfig is the YAML that propeller would be started with, without the deployments.
const demoConfig = `tasks:
  task-plugins:
    enabled-plugins: [echo]        # "backend" joins by itself
plugins:
  backend:
    enable_backend_flytekit_plugin_system: true
    webApi: {caching: {resyncInterval: 5s}}
    deployments:
`

// play runs the acts, one after the other, and the death of each service with it.
func (d *demo) play(ctx context.Context, without string) ([]verdict, error) {
	closeLog, err := local.RouteLogs("")
	if err != nil {
		return nil, err
	}
	defer closeLog()
	text := demoConfig
	for _, a := range d.acts {
		if err := a.service.start(ctx); err != nil {
			return nil, err
		}
		d.printf("service    %s, process %d: %s\n", a.service.addr, a.service.cmd.Process.Pid, a.title)
		text += fmt.Sprintf("      %s: %s\n", a.deployment, a.config)
	}
	if without != "" {
		d.printf("left out   the act in Python (%s)\n", without)
	}
	d.printf("propeller  in this process, with this configuration:\n%s\n", indent(text))
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
	var verdicts []verdict
	for i, a := range d.acts {
		d.follow.Print("---------- %s", a.title)
		x, err := submit(ctx, e, a)
		if err != nil {
			return nil, err
		}
		if i == 0 { // which finds the others by their events
			if err := d.follow.Start(ctx, e, x); err != nil {
				return nil, err
			}
		}
		s := seen{}
		if s.killed, s.failed, err = d.killInTheMiddle(ctx, a, x); err != nil {
			return nil, err
		}
		if s.outcome, err = x.Wait(ctx); err != nil {
			return nil, err
		}
		s.execution, s.decided = d.follow.Snapshot().Find(a.module), d.decisions(a)
		v, err := a.judge(ctx, s)
		if err != nil {
			return nil, err
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}

// submit starts an act's workflow.
func submit(ctx context.Context, e *engine.Engine, a *act) (*engine.Execution, error) {
	b, err := bundle.Read(a.module, workflows.Archive(a.module), bundle.Options{})
	if err != nil {
		return nil, err
	}
	return e.Submit(ctx, b, a.module+"."+a.workflow, engine.Submission{Name: a.module})
}

// decisions gives those about the tasks of an act.
func (d *demo) decisions(a *act) []backend.Decided {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []backend.Decided
	for _, dec := range d.decided {
		if parts := strings.Split(dec.Task, "/"); len(parts) > 2 && parts[2] == a.module {
			out = append(out, dec)
		}
	}
	return out
}

// killInTheMiddle ends the service with kill -9 while it runs jobs of the map, leaves it away until propeller has noticed, and
// starts it again. It gives how many jobs of the map ran, and the number of polls that failed meanwhile.
func (d *demo) killInTheMiddle(ctx context.Context, a *act, x *engine.Execution) (killed, failed int, err error) {
	if err := d.until(ctx, x, "jobs of the map run", func() bool {
		n := mapped(d.follow.Snapshot().Find(a.module))
		if n != nil {
			killed = n.Map.Counts.Running
		}
		return killed > 0
	}); err != nil {
		return 0, 0, err
	}
	d.follow.Print("---------- the service is killed (kill -9) while its jobs run")
	a.service.kill()
	if err := d.until(ctx, x, "propeller notices that the service is away", func() bool {
		failed = failedPolls(a.deployment)
		return failed >= 3
	}); err != nil {
		return 0, 0, err
	}
	if err := a.service.start(ctx); err != nil {
		return 0, 0, err
	}
	d.follow.Print("---------- the service is started again, process %d", a.service.cmd.Process.Pid)
	return killed, failed, nil
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
func failedPolls(deployment string) (n int) {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if !strings.HasSuffix(f.GetName(), ":poll_failures_total") {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == deployment {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

// mapped finds the map of an execution, which may be nil.
func mapped(x *history.Execution) (found *history.Node) {
	if x == nil {
		return nil
	}
	x.Walk(0, func(_ *history.Execution, n *history.Node, _ int) bool {
		if n != nil && n.Map != nil {
			found = n
		}
		return true
	})
	return found
}

// seen is what every act sees.
type seen struct {
	outcome   *engine.Outcome
	execution *history.Execution
	decided   []backend.Decided
	killed    int // jobs of the map that ran when the service was killed
	failed    int // polls
}

// output gives one of the workflow's, or nil.
func (s *seen) output(name string) *core.Literal { return s.outcome.Outputs.GetLiterals()[name] }

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
	s.execution.Walk(0, func(_ *history.Execution, at *history.Node, _ int) bool {
		if at == nil {
			return true
		}
		n += max(len(at.Attempts)-1, 0)
		if at.Map != nil {
			for _, item := range at.Map.Items {
				n += item.Attempt
			}
		}
		return true
	})
	return n
}

// wrong collects what is not as it is due.
type wrong []string

func (w *wrong) due(ok bool, format string, args ...any) {
	if !ok {
		*w = append(*w, fmt.Sprintf(format, args...))
	}
}

// unexpected is what no act may see.
func (s *seen) unexpected() wrong {
	var w wrong
	w.due(s.outcome.Phase == core.WorkflowExecution_SUCCEEDED, "the workflow ended as %s: %s", s.outcome.Phase, s.outcome.Error.GetMessage())
	w.due(s.failed > 0, "no poll failed, so propeller saw no outage")
	w.due(s.attempts() == 0, "the kill cost %d attempts", s.attempts())
	return w
}

// tell tells what every act shows.
func (s *seen) tell(out io.Writer) {
	for _, owner := range s.owners() {
		_, _ = fmt.Fprintf(out, "decision   %s\n", owner)
	}
	_, _ = fmt.Fprintf(out, "outage     the service was killed while %d jobs of the map ran, and came back after %d polls had failed\n", s.killed, s.failed)
}

func indent(text string) string {
	return "           | " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n           | ") + "\n"
}

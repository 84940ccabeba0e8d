package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/examples/sqlite"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/templates"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing" // the built-in echo plugin, which the demo falls back to
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

// demoLimit bounds the demo; it takes some 20 s.
const demoLimit = 2 * time.Minute

func newDemo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Run a real task through propeller's plugin machinery and a backend plugin service",
		Long: "Starts the example service on loopback, loads propeller's plugins as a YAML file says, and runs three acts:\n" +
			"a SQLite3Task at the service, a task that falls back to a built-in plugin, and a service that is killed in mid-task.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoLimit)
			defer cancel()
			return runDemo(ctx, cmd.OutOrStdout())
		},
	}
}

// stage is what the acts share.
type stage struct {
	out     io.Writer
	dir     string
	service *serviceProcess
	runner  *taskrunner.Runner

	mu      sync.Mutex
	decided []backend.Decided
}

func runDemo(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "flyte-backend-demo-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for the demo: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program to start the service from: %w", err)
	}
	s := &stage{out: out, dir: dir, service: &serviceProcess{dir: dir, program: program}}
	defer s.service.kill()
	if err := s.setUp(ctx); err != nil {
		return err
	}
	acts := []act{
		{"a SQLite3Task runs at the backend plugin service", s.playQuery},
		{"a task type that no service registered falls back to a built-in plugin", s.playFallback},
		{"the service is killed in mid-task and started again", s.playKill},
	}
	failures := map[int]error{}
	for i, act := range acts {
		s.printf("\nAct %d: %s\n", i+1, act.title)
		if err := act.play(ctx); err != nil {
			s.printf("  NOT as expected: %v\n", err)
			failures[i] = err
			continue
		}
		s.printf("  as expected\n")
	}
	return finish(out, dir, acts, failures)
}

// act is one thing that the demo shows.
type act struct {
	title string
	play  func(context.Context) error
}

// finish sums up: it removes the demo's files if all went well, and keeps them to look at otherwise.
func finish(out io.Writer, dir string, acts []act, failures map[int]error) error {
	var all []error
	for i, a := range acts {
		if err := failures[i]; err != nil {
			all = append(all, fmt.Errorf("act %d (%s): %w", i+1, a.title, err))
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("%d of %d acts did not come out as expected; files are kept in %s: %w", len(all), len(acts), dir, errors.Join(all...))
	}
	if _, err := fmt.Fprintf(out, "\nAll %d acts came out as expected.\n", len(acts)); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (s *stage) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// demoConfig is the YAML that propeller would be started with. The machinery polls every 5 s at the most.
const demoConfig = `tasks:
  task-plugins:
    enabled-plugins: [echo]        # "backend" joins by itself
plugins:
  backend:
    enable_backend_flytekit_plugin_system: true
    deployments:
      sqlite: {endpoint: %q, insecure: true}
    webApi: {caching: {resyncInterval: 5s}}
logger: {level: 2}                 # errors only: the demo tells the story itself
`

func (s *stage) setUp(ctx context.Context) error {
	if err := s.service.start(ctx); err != nil {
		return err
	}
	s.printf("backend plugin service: %s (process %d)\n", s.service.addr, s.service.cmd.Process.Pid)
	text := fmt.Sprintf(demoConfig, s.service.addr)
	file := filepath.Join(s.dir, "propeller.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	s.printf("propeller's configuration, %s:\n%s", file, indent(text))
	backend.Observe(func(d backend.Decided) {
		s.mu.Lock()
		s.decided = append(s.decided, d)
		s.mu.Unlock()
		who := fmt.Sprintf("backend deployment %q, plugin version %s", d.Deployment, d.PluginVersion)
		if d.BuiltIn != "" {
			who = fmt.Sprintf("built-in plugin %q", d.BuiltIn)
		}
		s.printf("  %-12s task type %s goes to %s: %s\n", "decision", d.TaskType, who, d.Why)
	})
	if err := viper.NewAccessor(stdconfig.Options{SearchPaths: []string{file}, StrictMode: true}).UpdateConfig(ctx); err != nil {
		return fmt.Errorf("flytestdlib does not load %s: %w", file, err)
	}
	var err error
	s.runner, err = taskrunner.New(ctx, taskrunner.Options{Prefix: "file://" + s.dir, OnEvent: s.show})
	return err
}

// show prints an event as flyteadmin would get it.
func (s *stage) show(e *event.TaskExecutionEvent) {
	line := e.GetPhase().String()
	for _, r := range e.GetReasons() {
		line += "  " + r.GetReason()
	}
	for _, x := range e.GetMetadata().GetExternalResources() {
		line += "  [job " + x.GetExternalId() + "]"
	}
	if x := e.GetError(); x != nil {
		line += "  " + x.GetCode() + ": " + x.GetMessage()
	}
	s.printf("  %-12s %s\n", time.Now().Format("15:04:05.000"), line)
}

// ownerOf gives the last decision for an execution.
func (s *stage) ownerOf(execution string) backend.Decided {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.decided) - 1; i >= 0; i-- {
		if strings.Contains(s.decided[i].Task, "/"+execution+"/") {
			return s.decided[i]
		}
	}
	return backend.Decided{}
}

func queryTask(execution string, limit int64, ending string) (taskrunner.Task, error) {
	tmpl := &core.TaskTemplate{}
	if err := proto.Unmarshal(templates.SQLiteElements, tmpl); err != nil {
		return taskrunner.Task{}, fmt.Errorf("the embedded task template cannot be read: %w", err)
	}
	return taskrunner.Task{Template: tmpl, Execution: execution, Inputs: &core.LiteralMap{Literals: map[string]*core.Literal{
		"limit":  primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: limit}}),
		"ending": primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: ending}}),
	}}}, nil
}

func primitive(p *core.Primitive) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}}}}
}

func (s *stage) playQuery(ctx context.Context) error {
	task, err := queryTask("act-1", 5, "ium")
	if err != nil {
		return err
	}
	s.printf("  %-12s %s\n", "query", task.Template.GetCustom().GetFields()["query_template"].GetStringValue())
	run, err := s.runner.Start(ctx, task)
	if err != nil {
		return err
	}
	out, err := run.Wait(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.expectOwner("act-1", "sqlite", ""), s.expectRows(out, 5))
}

// expectRows checks the outcome, and shows the outputs with the first rows of the Parquet file.
func (s *stage) expectRows(out *taskrunner.Outcome, want int) error {
	if !out.Succeeded {
		return fmt.Errorf("the task failed: %s", out.Error.GetMessage())
	}
	uri := out.Outputs.GetLiterals()["results"].GetScalar().GetSchema().GetUri()
	if uri == "" {
		return fmt.Errorf("output \"results\" is not a schema: %v", out.Outputs)
	}
	s.printf("  %-12s results: %s\n", "outputs", uri)
	columns, rows, err := sqlite.ReadRows(uri, -1)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "    "+strings.Join(columns, "\t"))
	for _, row := range rows {
		cells := make([]string, 0, len(row))
		for _, v := range row {
			if v == nil {
				v = "-"
			}
			cells = append(cells, fmt.Sprint(v))
		}
		_, _ = fmt.Fprintln(table, "    "+strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(rows) != want {
		return fmt.Errorf("%d rows came, %d were due", len(rows), want)
	}
	return nil
}

func (s *stage) expectOwner(execution, deployment, builtIn string) error {
	if d := s.ownerOf(execution); d.Deployment != deployment || d.BuiltIn != builtIn {
		return fmt.Errorf("the task belonged to deployment %q or built-in plugin %q; due was %q or %q", d.Deployment, d.BuiltIn, deployment, builtIn)
	}
	return nil
}

func (s *stage) playFallback(ctx context.Context) error {
	ints := &core.VariableMap{Variables: map[string]*core.Variable{
		"n": {Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}},
	}}
	inputs := &core.LiteralMap{Literals: map[string]*core.Literal{"n": primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: 42}})}}
	run, err := s.runner.Start(ctx, taskrunner.Task{Execution: "act-2", Inputs: inputs, Template: &core.TaskTemplate{
		Id:   &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "flytesnacks", Domain: "development", Name: "demo.echo", Version: "v1"},
		Type: "echo", Interface: &core.TypedInterface{Inputs: ints, Outputs: ints},
	}})
	if err != nil {
		return err
	}
	out, err := run.Wait(ctx)
	if err != nil {
		return err
	}
	if !out.Succeeded || !proto.Equal(out.Outputs, inputs) {
		return fmt.Errorf("the built-in plugin did not echo its input: %v", out)
	}
	s.printf("  %-12s n: 42\n", "outputs")
	return s.expectOwner("act-2", "", "echo")
}

func (s *stage) playKill(ctx context.Context) error {
	task, err := queryTask("act-3", 4, "gen")
	if err != nil {
		return err
	}
	run, err := s.runner.Start(ctx, task)
	if err != nil {
		return err
	}
	if out, err := run.Until(ctx, pluginscore.PhaseRunning); err != nil || out != nil {
		return errors.Join(err, errors.New("the task ended before the service could be killed"))
	}
	s.service.kill()
	s.printf("  %-12s killed (kill -9)\n", "service")
	// The service stays away until propeller has noticed, so that an outage is really survived.
	for !mentions(run.Events(), "cannot be polled") {
		if out, err := run.Round(ctx); err != nil || out != nil {
			return errors.Join(err, errors.New("the task ended while its service was away"))
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := s.service.start(ctx); err != nil {
		return err
	}
	s.printf("  %-12s started again at %s (process %d)\n", "service", s.service.addr, s.service.cmd.Process.Pid)
	out, err := run.Wait(ctx)
	if err != nil {
		return err
	}
	jobs := map[string]bool{}
	for _, e := range run.Events() {
		for _, x := range e.GetMetadata().GetExternalResources() {
			jobs[x.GetExternalId()] = true
		}
	}
	s.printf("  %-12s attempts %d, jobs %d\n", "cost", out.Attempts-1, len(jobs)-1)
	if out.Attempts != 1 || len(jobs) != 1 {
		return fmt.Errorf("the kill cost %d attempts and %d jobs more", out.Attempts-1, len(jobs)-1)
	}
	return errors.Join(s.expectOwner("act-3", "sqlite", ""), s.expectRows(out, 3))
}

func mentions(events []*event.TaskExecutionEvent, part string) bool {
	for _, e := range events {
		for _, r := range e.GetReasons() {
			if strings.Contains(r.GetReason(), part) {
				return true
			}
		}
	}
	return false
}

func indent(text string) string {
	return "  | " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  | ") + "\n"
}

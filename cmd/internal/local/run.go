package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/inputs"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod" // the plugin of tasks in containers
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing" // the built-in echo plugin
)

// abortLimit bounds how long the end of jobs is waited for.
const abortLimit = 30 * time.Second

// options are the flags of `local run`.
type options struct {
	inputFile                string
	inputs                   []string
	signals, approve, reject []string
	configs                  []string
	state, report, log       string
	resume                   bool
	localTasks, localTasksOn bool // localTasksOn says that the flag was given
	python, source           string
	name, project, domain    string
	timeout                  time.Duration
	output                   string
}

// runner is one `local run`.
type runner struct {
	options
	stdin  io.Reader
	stdout io.Writer
	stderr *os.File

	// root is the folder of state and data: --state, or a temporary one.
	root     string
	settings settings
	signals  map[string]*gateValue
	source   *source
	left     []engine.Left
	engine   *engine.Engine
	follower *Follower
	running  bool
	// closers run in the opposite order.
	closers []func() error
}

// source is the workflow that a new run starts.
type source struct {
	bundle  *bundle.Bundle
	full    string
	inputs  map[string]*core.Literal
	around  surroundings
	module  *module
	unknown []string // names of gates
}

// run does all of it. It returns nil or an *exit.Error.
func (r *runner) run(ctx context.Context, args []string) (err error) {
	ended := false // at once, by a second signal
	defer func() {
		if !ended {
			slices.Reverse(r.closers)
			for _, c := range r.closers {
				err = errors.Join(err, c())
			}
		}
		err = coded(ctx, err, r.running)
	}()
	closeLog, err := RouteLogs(r.log)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { closeLog(); return nil })
	if err := r.check(args); err != nil {
		return err
	}
	if err := r.prepare(ctx, args); err != nil {
		return err
	}
	executions, err := r.start(ctx)
	if err != nil {
		return err
	}
	r.running = true
	outcomes, err := r.wait(ctx, executions)
	ended = errors.Is(err, errEnded)
	return errors.Join(r.finish(executions, outcomes), err)
}

// coded gives every error its exit code.
func coded(ctx context.Context, err error, running bool) error {
	var e *exit.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && !running: // whatever else came of it
		return &exit.Error{Code: exit.Aborted, Err: errors.New("aborted before anything ran")}
	case errors.As(err, &e):
		return &exit.Error{Code: e.Code, Err: err, Hint: e.Hint}
	default:
		return &exit.Error{Code: exit.Internal, Err: err}
	}
}

// prepare reads all that the engine needs, and makes the folder.
func (r *runner) prepare(ctx context.Context, args []string) error {
	if err := r.remember(); err != nil {
		return err
	}
	var err error
	if r.configs, err = endpoint.Files(r.configs); err != nil {
		return err
	}
	if r.settings, err = readSettings(r.configs); err != nil {
		return err
	}
	if r.state != "" {
		r.root, err = filepath.Abs(r.state)
		if err == nil {
			err = os.MkdirAll(r.root, 0o750)
		}
		if err != nil {
			return exit.BadInputf("cannot use %s for the state: %w", r.state, err)
		}
	} else if r.root, err = os.MkdirTemp("", "flyte-local-"); err != nil {
		return fmt.Errorf("cannot make a folder for the run: %w", err)
	}
	if r.state == "" {
		root := r.root
		r.closers = append(r.closers, func() error {
			if r.root == "" { // kept
				return nil
			}
			return os.RemoveAll(root)
		})
	}
	if len(r.left) > 0 {
		return nil
	}
	if r.source, err = r.load(ctx, args[0], args[1]); err != nil {
		return err
	}
	if r.source.inputs, err = r.readInputs(); err != nil {
		return err
	}
	r.source.unknown, err = r.source.around.checkSignals(r.signals)
	return err
}

// remember takes from the state of a run that is to go on what flags do not say.
func (r *runner) remember() error {
	if len(r.left) == 0 {
		return nil
	}
	k, err := readKept(r.state)
	if err != nil {
		return err
	}
	if len(r.configs) == 0 {
		r.configs = k.Configs
	}
	if !r.localTasksOn {
		r.localTasks = k.LocalTasks
	}
	if r.python == "" {
		r.python = k.Python
	}
	if r.options.source == "" {
		r.options.source = k.Source
	}
	return nil
}

// load reads a package, or has flytekit make one of a Python file.
func (r *runner) load(ctx context.Context, path, workflow string) (*source, error) {
	b, m, err := r.open(ctx, path)
	if err != nil {
		return nil, err
	}
	l, err := b.Find(workflow, nil)
	if err != nil {
		return nil, exit.BadInputf("%w", err)
	}
	if m != nil {
		if !r.localTasksOn {
			r.localTasks = true // its code has run already, to be packaged
		}
		if r.options.source == "" {
			r.options.source = m.root
		}
	}
	return &source{bundle: b, full: l.Plan.GetId().GetName(), around: survey(b, l.Closure), module: m}, nil
}

func (r *runner) open(ctx context.Context, path string) (*bundle.Bundle, *module, error) {
	opts := bundle.Options{Project: r.project, Domain: r.domain}
	if !isPython(path) {
		b, err := bundle.Load(path, opts)
		if err != nil {
			return nil, nil, exit.BadInputf("%w", err)
		}
		return b, nil, nil
	}
	m, err := findModule(path)
	if err != nil {
		return nil, nil, err
	}
	python, err := cluster.FindPython(ctx, r.python)
	if err != nil {
		return nil, nil, exit.Hint(exit.BadInputf("%s takes a Python with flytekit: %w", path, err), "name a Python or a virtual environment with --python")
	}
	r.python = python.Path
	dir, err := os.MkdirTemp("", "flyte-package-")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a folder for the package: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is in the temporary folder
	_, _ = fmt.Fprintf(r.stderr, "packaging %s with flytekit %s\n", path, python.Flytekit)
	archive, err := m.pack(ctx, python, dir)
	if err != nil {
		return nil, nil, err
	}
	b, err := bundle.Load(archive, opts)
	switch {
	case errors.Is(err, bundle.ErrEmpty):
		return nil, nil, exit.Hint(exit.BadInputf("%s has tasks, but no workflow", path), "a task runs as part of a function that is decorated with @workflow")
	case err != nil:
		return nil, nil, exit.BadInputf("%s: %w", path, err)
	}
	return b, &m, nil
}

func (r *runner) readInputs() (map[string]*core.Literal, error) {
	l, err := r.source.bundle.Find(r.source.full, nil)
	if err != nil {
		return nil, exit.BadInputf("%w", err)
	}
	return inputs.Target{
		Name: l.Plan.GetId().GetName(), Parameters: l.Plan.GetClosure().GetExpectedInputs().GetParameters(),
		Fixed: l.Plan.GetSpec().GetFixedInputs().GetLiterals(),
	}.Read(r.inputFile, r.inputs, r.stdin)
}

// start opens the engine, and starts the workflow or finds what goes on.
func (r *runner) start(ctx context.Context) ([]*engine.Execution, error) {
	opts := engine.Options{Folder: r.root}
	if r.localTasks {
		p, err := r.processes(ctx)
		if err != nil {
			return nil, err
		}
		opts.Processes = p
	}
	first := filepath.Join(r.root, "defaults.yaml")
	if err := replace(first, []byte(defaults(r.logs(), r.log != ""))); err != nil {
		return nil, fmt.Errorf("cannot write the configuration: %w", err)
	}
	opts.ConfigFiles = append([]string{first}, r.settings.files...)
	if r.settings.wantsExample() {
		e, err := startExample(filepath.Join(r.root, exampleName))
		if err != nil {
			return nil, err
		}
		r.closers = append(r.closers, e.close)
		opts.Config = e.config()
	}
	r.follower = NewFollower(r.stderr)
	r.closers = append(r.closers, r.follower.Close)
	opts.OnEvent = r.follower.OnEvent
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var err error
	if r.engine, err = engine.Open(ctx, opts); err != nil {
		if backend.ConfigError() != nil || strings.Contains(err.Error(), "configuration is invalid") || len(r.left) > 0 {
			return nil, exit.BadInputf("%s", exit.OneLine(err.Error()))
		}
		return nil, err
	}
	r.closers = append(r.closers, r.engine.Close)
	executions, err := r.executions(ctx)
	if err != nil {
		return nil, err
	}
	r.warn()
	r.follower.Gates(r.give)
	return executions, r.follower.Start(ctx, r.engine, executions...)
}

func (r *runner) processes(ctx context.Context) (*cluster.Processes, error) {
	if r.options.source == "" {
		r.options.source = "."
	}
	abs, err := filepath.Abs(r.options.source)
	if err != nil {
		return nil, exit.BadInputf("--source %s: %w", r.options.source, err)
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return nil, exit.BadInputf("--source %s: there is no such folder", r.options.source)
	}
	r.options.source = abs
	python, err := cluster.FindPython(ctx, r.python)
	if err != nil && r.python != "" {
		return nil, exit.BadInputf("--python: %w", err)
	}
	// Without a Python, tasks that run something else still can.
	r.python = python.Path
	env := os.Environ()
	if r.state == "" { // flytekit leaves things behind, which go with the folder
		tmp := filepath.Join(r.root, "tmp")
		if err := os.MkdirAll(tmp, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make a folder for local tasks: %w", err)
		}
		env = append(env, "TMPDIR="+tmp)
	}
	return &cluster.Processes{Python: python, Source: abs, LogDir: r.logs(), Environ: env, OnLine: func(l cluster.Line) {
		if !l.Stderr && strings.TrimSpace(l.Text) != "" {
			r.follower.Print("%s | %s", l.Pod.Node, l.Text)
		}
	}}, nil
}

// logs is the folder with what local tasks write.
func (r *runner) logs() string { return filepath.Join(r.root, "logs") }

// executions starts the workflow, or finds those that go on.
func (r *runner) executions(ctx context.Context) ([]*engine.Execution, error) {
	if r.source == nil {
		var out []*engine.Execution
		for _, l := range r.left {
			x, ok := r.engine.Execution(l.ID)
			if !ok {
				return nil, fmt.Errorf("execution %s is not in the state any more", l.ID.GetName())
			}
			r.follower.Print("execution %s of workflow %s goes on", l.ID.GetName(), l.Workflow)
			out = append(out, x)
		}
		return out, nil
	}
	if err := r.reachable(); err != nil {
		return nil, err
	}
	if r.state != "" {
		k := kept{LocalTasks: r.localTasks, Python: r.python, Source: r.options.source}
		for _, f := range r.configs {
			abs, err := filepath.Abs(f)
			if err != nil {
				return nil, err
			}
			k.Configs = append(k.Configs, abs)
		}
		if err := k.write(r.root); err != nil {
			return nil, fmt.Errorf("cannot keep the state: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x, err := r.engine.Submit(ctx, r.source.bundle, r.source.full, engine.Submission{Name: r.name, Inputs: r.source.inputs, Timeout: r.timeout})
	if err != nil {
		return nil, r.refused(err)
	}
	return []*engine.Execution{x}, nil
}

// give finds the value of a gate among the flags.
func (r *runner) give(name string, kind *core.LiteralType) (*core.Literal, error) {
	s, ok := r.signals[name]
	if !ok || s.given {
		return nil, nil //nolint:nilnil // no value is not an error
	}
	s.given = true
	return s.literal(name, kind)
}

// errEnded says that the user did not want to wait for the end of jobs.
var errEnded = errors.New("ended at once: jobs may still run")

// wait follows the executions to their ends. The first signal aborts them; another one ends the wait.
func (r *runner) wait(ctx context.Context, executions []*engine.Execution) ([]*engine.Outcome, error) {
	patient, stop := exit.Patience(ctx)
	defer stop()
	ended := make(chan error, 1)
	outcomes := make([]*engine.Outcome, len(executions))
	go func() {
		for i, x := range executions {
			out, err := x.Wait(context.WithoutCancel(ctx))
			if err != nil {
				ended <- err
				return
			}
			outcomes[i] = out
		}
		ended <- r.rest(ctx)
	}()
	select {
	case err := <-ended:
		return outcomes, err
	case <-ctx.Done():
	}
	r.follower.Print("aborting: waiting until jobs are deleted (another Ctrl-C ends at once)")
	for _, x := range executions {
		if err := x.Abort("aborted by the user"); err != nil {
			return nil, err
		}
	}
	limit := time.NewTimer(abortLimit)
	defer limit.Stop()
	select {
	case err := <-ended:
		return outcomes, err
	case <-patient.Done():
		return nil, &exit.Error{Code: exit.Aborted, Err: errEnded}
	case <-limit.C:
		return nil, &exit.Error{Code: exit.Aborted, Err: fmt.Errorf("the run has not ended %v after it was aborted: jobs may still run", abortLimit)}
	}
}

// rest waits for the executions that the ones waited for have started: when those are aborted or fail, the others' jobs are
// deleted after they have ended.
func (r *runner) rest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortLimit)
	defer cancel()
	for _, x := range r.engine.Executions() {
		if _, err := x.Wait(ctx); err != nil {
			return fmt.Errorf("jobs may still run: %w", err)
		}
	}
	return nil
}

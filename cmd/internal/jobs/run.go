package jobs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/inputs"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

const (
	// outage is how long calls may fail in a row, in ways that may pass, before the run is given up.
	outage = 2 * time.Minute
	// firstPause and longestPause are those between polls, and between tries.
	firstPause   = 250 * time.Millisecond
	longestPause = 5 * time.Second
	// longestWait bounds what a service may ask for between polls.
	longestWait = time.Minute
	// deleteWait bounds how long Ctrl-C waits for the job's deletion.
	deleteWait = 30 * time.Second
)

type runOptions struct {
	endpoint.Flags
	template      string
	inputFile     string
	inputs        []string
	taskType      string
	pluginVersion string
	mode          string
	key           string
	prefix        string
	output        string
	detach        bool
}

// NewRun makes the command `run`.
func NewRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run --template FILE",
		Short: "Run one task at a service: create, follow, print its outputs",
		Long: "Runs a task template, as flytekit serialises it (a TaskTemplate or TaskSpec in JSON or binary), at a service, as propeller would:\n" +
			"it creates the job, follows it, and prints its outputs. What happens is shown on standard error, outputs go to standard\n" +
			"output. Ctrl-C deletes the job.\n\n" +
			"Exit codes: 0 the job succeeded, 1 it failed, 2 bad input (nothing ran), 3 aborted, 4 another error.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.Register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.template, "template", "", "`FILE` with the task template, JSON or binary")
	f.StringVar(&o.inputFile, "inputs", "", "YAML or JSON `FILE` with inputs; - is standard input")
	f.StringArrayVar(&o.inputs, "input", nil, "an input as `NAME=VALUE`, with a value in YAML; beats the file (repeatable)")
	f.StringVar(&o.taskType, "task-type", "", "run it as this task `TYPE` instead of the template's")
	f.StringVar(&o.pluginVersion, "plugin-version", "", "plugin `VERSION` to use (the one that propeller would take)")
	f.StringVar(&o.mode, "mode", "", "`MODE` async or sync (the one that propeller would take)")
	f.StringVar(&o.key, "idempotency-key", "", "`KEY` of the create, so that a repeated one finds the same job (a random one)")
	f.StringVar(&o.prefix, "output-prefix", "", "`URI` below which the job may write its outputs (a temporary folder of this machine)")
	f.BoolVar(&o.detach, "detach", false, "print the job's id, and do not wait for the job")
	f.StringVarP(&o.output, "output", "o", "yaml", "how outputs, or the id, are printed: `FORMAT` yaml or json")
	endpoint.Completes(cmd, "task-type", o.CompleteTaskType(func(client.Registration) bool { return true }))
	endpoint.Completes(cmd, "mode", cobra.FixedCompletions([]cobra.Completion{config.ModeAsync, config.ModeSync}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// run is one run of the command.
func (o *runOptions) run(cmd *cobra.Command) error {
	if err := oneOf("output", o.output, "yaml", "json"); err != nil {
		return err
	}
	if o.mode != "" {
		if err := oneOf("mode", o.mode, config.ModeAsync, config.ModeSync); err != nil {
			return err
		}
	}
	tmpl, err := inputs.ReadTemplate(o.template)
	if err != nil {
		return err
	}
	if o.taskType != "" {
		tmpl.Type = o.taskType
	}
	if tmpl.GetType() == "" {
		return exit.BadInputf("%s: the template has no task type; --task-type gives one", o.template)
	}
	in, err := inputs.OfTask(inputs.NameOf(tmpl), tmpl.GetInterface()).Read(o.inputFile, o.inputs, cmd.InOrStdin())
	if err != nil {
		return err
	}
	r := &runner{runOptions: o, stdout: cmd.OutOrStdout(), log: cmd.ErrOrStderr(), template: tmpl}
	if r.service, err = o.Dial(cmd.Context()); err != nil {
		return err
	}
	defer func() { _ = r.service.Close() }()
	if err := r.prepare(cmd.Context(), in); err != nil {
		return err
	}
	defer r.tidy()
	if r.sync {
		return r.execute(cmd.Context())
	}
	return r.follow(cmd.Context())
}

// runner is a run under way.
type runner struct {
	*runOptions
	service  *endpoint.Service
	stdout   io.Writer
	log      io.Writer
	template *core.TaskTemplate
	request  *client.CreateRequest
	sync     bool
	// folder is the temporary one for outputs; empty when the user named a prefix.
	folder string
	// lives: there may be a job that goes on after this command.
	lives bool
	shown string
}

// prepare finds the plugin and builds the request.
func (r *runner) prepare(ctx context.Context, in map[string]*core.Literal) error {
	target, mode, err := r.service.Choose(ctx, endpoint.Choice{
		TaskType: r.template.GetType(), TaskTypeVersion: r.template.GetTaskTypeVersion(), PluginVersion: r.pluginVersion, Mode: r.mode,
	})
	if err != nil {
		return err
	}
	r.sync = mode == client.Sync
	if r.sync && r.detach {
		return exit.BadInputf("--detach: task type %s runs in one call, which has no job", target.TaskType)
	}
	if r.key == "" {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // it never fails
		r.key = hex.EncodeToString(raw)
	}
	if len(r.key) > 64 || strings.ContainsFunc(r.key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return exit.BadInputf("--idempotency-key takes 1 to 64 visible ASCII characters")
	}
	if r.prefix == "" {
		if r.folder, err = os.MkdirTemp("", "flyte-backend-run-"); err != nil {
			return fmt.Errorf("cannot make a folder for outputs: %w", err)
		}
		r.prefix = (&url.URL{Scheme: "file", Path: r.folder}).String()
	}
	id := r.template.GetId()
	r.request = &client.CreateRequest{
		Target: target, IdempotencyKey: r.key, Template: r.template, Inputs: &core.LiteralMap{Literals: in}, OutputPrefix: r.prefix,
		Metadata: client.Metadata{
			Namespace: "local", MaxAttempts: 1,
			TaskExecutionID: &core.TaskExecutionIdentifier{TaskId: id, NodeExecutionId: &core.NodeExecutionIdentifier{
				NodeId:      "n0",
				ExecutionId: &core.WorkflowExecutionIdentifier{Project: id.GetProject(), Domain: id.GetDomain(), Name: "run-" + r.key[:min(len(r.key), 16)]},
			}},
		},
	}
	r.say("task type %s, plugin version %s, idempotency key %s", target.TaskType, target.PluginVersion, r.key)
	return nil
}

// tidy removes the temporary folder, unless the job has written into it or may still do so.
func (r *runner) tidy() {
	switch {
	case r.folder == "":
	case r.lives:
		r.say("the job may write into %s, which stays", r.folder)
	case os.Remove(r.folder) != nil:
		r.say("what the job wrote is in %s", r.folder)
	}
}

func (r *runner) say(format string, args ...any) {
	_, _ = fmt.Fprintln(r.log, time.Now().Format("15:04:05"), exit.OneLine(fmt.Sprintf(format, args...)))
}

// again repeats a call that fails in a way that may pass, for as long as an outage may last and ctx does. Each call is made under
// the context that is given first, so that one which is under way may outlive ctx.
func again[T any](callCtx, ctx context.Context, r *runner, call string, f func(context.Context) (T, error)) (T, error) {
	var since time.Time
	for n := 1; ; n++ {
		within, cancel := r.service.Within(callCtx, call)
		out, err := f(within)
		cancel()
		if err == nil || ctx.Err() != nil {
			return out, err
		}
		e := client.AsError(err)
		if since.IsZero() {
			since = time.Now()
		}
		if !e.Transient() || n == 1 && !e.FromService && call == config.CallCreate || time.Since(since) > outage {
			return out, err
		}
		pause := client.NextBackoff(n, firstPause, longestPause)
		if e.RetryAfter > 0 {
			pause = min(e.RetryAfter, outage)
		}
		r.say("%s: %s; once more in %s", call, e.Message, pause.Round(time.Millisecond))
		if !sleep(ctx, pause) {
			return out, err
		}
	}
}

// sleep waits, and says whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errAborted ends a run that a signal ended.
func errAborted(what string) *exit.Error {
	return &exit.Error{Code: exit.Aborted, Err: errors.New("aborted: " + what)}
}

// execute runs a synchronous task.
func (r *runner) execute(ctx context.Context) error {
	job, err := r.service.Execute(ctx, r.request) // however long it takes
	switch {
	case ctx.Err() != nil:
		return errAborted("the call is cancelled")
	case err != nil:
		return endpoint.Explain(r.service.Name, err)
	}
	return r.finish(job)
}

// follow creates the job and polls it to its end.
func (r *runner) follow(ctx context.Context) error {
	patient, stop := exit.Patience(ctx)
	defer stop()
	r.lives = true
	// A create that is under way at Ctrl-C is waited for: its answer is what the job can be deleted by.
	id, err := again(patient, ctx, r, config.CallCreate, func(ctx context.Context) (client.JobID, error) {
		return r.service.Create(ctx, r.request)
	})
	switch {
	case err == nil:
	case client.AsError(err).FromService || client.AsError(err).Class == client.UserError:
		r.lives = false
		if ctx.Err() != nil {
			return errAborted("no job was created")
		}
		return endpoint.Explain(r.service.Name, err)
	default:
		failed := &exit.Error{Code: exit.Internal, Err: fmt.Errorf("the create had no answer, and may have started a job: %w", endpoint.Explain(r.service.Name, err))}
		if ctx.Err() != nil {
			failed = errAborted("the create had no answer, and may have started a job")
		}
		return exit.Hint(failed, "with --idempotency-key %s it is found again, by a service that honours keys", r.key)
	}
	ref := client.JobRef{Target: r.request.Target, ID: id, OutputPrefix: r.prefix}
	if r.detach {
		return r.let(id)
	}
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return r.abort(patient, ref)
		}
		job, err := again(ctx, ctx, r, config.CallGet, func(ctx context.Context) (*client.Job, error) { return r.service.Get(ctx, ref) })
		switch {
		case ctx.Err() != nil:
			return r.abort(patient, ref)
		case err != nil: // whatever the reason, something has run
			failed := &exit.Error{Code: exit.Internal, Err: endpoint.Explain(r.service.Name, err)}
			return exit.Hint(failed, "the job may go on: `get` and `delete` take --job-id %q", rest.EncodeJobID(id))
		case job.Terminal():
			r.lives = false
			return r.finish(job)
		}
		r.show(job)
		sleep(ctx, max(client.NextBackoff(n, firstPause, longestPause), min(job.PollAfter, longestWait)))
	}
}

// let tells how a job is found again that is not waited for.
func (r *runner) let(id client.JobID) error {
	text := rest.EncodeJobID(id)
	var err error
	if r.output == "json" {
		err = writeJSON(r.stdout, struct {
			JobID        string `json:"jobId"`
			OutputPrefix string `json:"outputPrefix"`
		}{text, r.prefix})
	} else {
		_, err = fmt.Fprintln(r.stdout, text)
	}
	if err != nil {
		return exit.Hint(err, "the job goes on: `get` and `delete` take --job-id %q", text)
	}
	return nil
}

// show tells what has changed.
func (r *runner) show(job *client.Job) {
	text := job.Phase.String()
	if message := exit.OneLine(job.Message); message != "" {
		text += ": " + message
	}
	for _, l := range job.LogLinks {
		text += fmt.Sprintf(" [%s %s]", l.GetName(), l.GetUri())
	}
	if text != r.shown {
		r.shown = text
		r.say("%s", text)
	}
}

// abort deletes the job, while patience lasts.
func (r *runner) abort(patient context.Context, ref client.JobRef) error {
	r.say("deleting the job; once more does not wait for it")
	ctx, cancel := context.WithTimeout(patient, deleteWait)
	defer cancel()
	_, err := again(ctx, ctx, r, config.CallDelete, func(ctx context.Context) (struct{}, error) { return struct{}{}, r.service.Delete(ctx, ref) })
	switch {
	case err == nil:
		r.lives = false
		return errAborted("the job is deleted")
	case patient.Err() != nil:
		return exit.Hint(errAborted("the job may go on"), "`delete` takes --job-id %q", rest.EncodeJobID(ref.ID))
	default:
		return exit.Hint(errAborted("the job could not be deleted, and may go on: "+client.AsError(err).Message), "`delete` takes --job-id %q", rest.EncodeJobID(ref.ID))
	}
}

// finish prints what came of the job.
func (r *runner) finish(job *client.Job) error {
	job, err := r.written(job)
	if err != nil {
		return err
	}
	r.show(job)
	outputs, err := r.outputs(job)
	if err != nil {
		return err
	}
	s := stateOf(job, outputs)
	if job.Phase == core.TaskExecution_SUCCEEDED {
		if r.output == "json" {
			return s.write(r.stdout, r.output)
		}
		return printYAML(r.stdout, s.Outputs)
	}
	if r.output == "json" {
		if err := s.write(r.stdout, r.output); err != nil {
			return err
		}
	}
	why := job.Message
	if why == "" {
		why = "the service gave no reason"
	}
	if job.Failure != nil && job.Failure.Code != "" {
		why = job.Failure.Code + ": " + why
	}
	return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("the job ended in phase %s: %s", job.Phase, why)}
}

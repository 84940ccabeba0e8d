// Package conformance is the command `conformance`, which checks a backend plugin service against the contract.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/inputs"
	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// task is the flags that describe a job.
type task struct {
	template, inputs string
}

type options struct {
	endpoint.Flags
	job, long, failing      task
	input                   []string
	taskType, pluginVersion string
	replica                 string
	restart                 string
	headers                 []string
	run                     string
	strict                  bool
	jobTimeout              time.Duration
	output, junit           string
}

// New makes the command.
func New() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "conformance --endpoint ADDRESS",
		Short: "Check a service against the contract: repeat, cut off, restart, send garbage, and say what is wrong",
		Long: "Checks a backend plugin service against the contract (docs/contract.md, docs/conformance.md): it repeats calls, cuts them\n" +
			"off, sends garbage, and says what was sent, what came, what was due, and where that stands. It makes jobs at the service, and\n" +
			"deletes them. Do not point it at a service that others are using.\n\n" +
			"Exit codes: 0 the service conforms, 1 it does not, 2 bad input (nothing ran), 3 interrupted, 4 another error.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return exit.BadInputf("%q: the command takes no arguments; flags name the service", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.check(cmd) },
	}
	o.Register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.job.template, "template", "", "`FILE` with the template of a task that succeeds, JSON or binary (a minimal one)")
	f.StringVar(&o.job.inputs, "inputs", "", "YAML or JSON `FILE` with its inputs; - is standard input")
	f.StringArrayVar(&o.input, "input", nil, "an input as `NAME=VALUE`; beats the file (repeatable)")
	f.StringVar(&o.long.template, "long-template", "", "`FILE` with the template of a task that lasts (--template)")
	f.StringVar(&o.long.inputs, "long-inputs", "", "`FILE` with its inputs; without either flag, no job is deleted in the middle")
	f.StringVar(&o.failing.template, "failing-template", "", "`FILE` with the template of a task that fails (--template)")
	f.StringVar(&o.failing.inputs, "failing-inputs", "", "`FILE` with its inputs; without either flag, no job fails")
	f.StringVar(&o.taskType, "task-type", "", "only this task `TYPE` (the template's, or all that are listed)")
	f.StringVar(&o.pluginVersion, "plugin-version", "", "only this plugin `VERSION`")
	f.StringVar(&o.replica, "replica", "", "`ADDRESS` of another replica of the service")
	f.StringVar(&o.restart, "restart-command", "", "shell `COMMAND` that kills the service and starts it again")
	f.StringArrayVar(&o.headers, "header", nil, "`NAME=VALUE` that goes with every call; @FILE reads the value from a file (repeatable)")
	f.StringVar(&o.run, "run", "", "only cases whose id matches this `REGEXP`")
	f.BoolVar(&o.strict, "strict", false, "what a service only should do counts too")
	f.DurationVar(&o.jobTimeout, "job-timeout", 0, "how long a job is waited for (2m)")
	f.StringVarP(&o.output, "output", "o", "text", "how the report is printed: `FORMAT` text or json")
	f.StringVar(&o.junit, "junit", "", "write the report for a CI server to this `FILE` as well")
	return cmd
}

func (o *options) check(cmd *cobra.Command) error {
	if o.output != "text" && o.output != "json" {
		return exit.BadInputf("--output %s: takes text or json", o.output)
	}
	suite, err := o.options(cmd)
	if err != nil {
		return err
	}
	var junit io.WriteCloser
	if o.junit != "" { // now, since it would be late to find out afterwards that it cannot be written
		if junit, err = os.Create(o.junit); err != nil {
			return exit.BadInputf("--junit: %w", err)
		}
		defer func() { _ = junit.Close() }()
	}
	var show shower = silent{}
	if o.output == "text" {
		show = newText(cmd.OutOrStdout(), cmd.ErrOrStderr(), casesOf(&suite))
	}
	patient, stop := exit.Patience(cmd.Context())
	defer stop()
	defer context.AfterFunc(cmd.Context(), func() {
		if isTerminal(cmd.ErrOrStderr()) {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr())
		}
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "interrupted; the jobs that were made are being deleted, and once more does not wait for that")
	})()
	var report conformance.Report
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		report, err = conformance.Check(cmd.Context(), suite, show.result)
	}()
	select {
	case <-ended:
	case <-patient.Done():
		return &exit.Error{Code: exit.Aborted, Err: errors.New("interrupted once more; jobs that were made may be left")}
	}
	show.end()
	if err != nil && junit != nil {
		err = errors.Join(err, writeJUnit(junit, nothingRan(err))) // a file that is empty is what CI servers stumble over
	}
	var wrong *conformance.OptionsError
	switch {
	case errors.As(err, &wrong):
		return exit.BadInputf("%w", err)
	case err != nil && cmd.Context().Err() != nil:
		return &exit.Error{Code: exit.Aborted, Err: errors.New("interrupted before the service answered")}
	case errors.Is(err, conformance.ErrNoService):
		return exit.Hint(exit.BadInputf("%w", err), "start the service, and look at --endpoint, --protocol and --insecure")
	case err != nil:
		return &exit.Error{Code: exit.Internal, Err: err}
	}
	if junit != nil {
		err := writeJUnit(junit, &report)
		if err = errors.Join(err, junit.Close()); err != nil {
			return &exit.Error{Code: exit.Internal, Err: fmt.Errorf("--junit: %w", err)}
		}
	}
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), &report)
	} else {
		err = writeSummary(cmd.OutOrStdout(), &report)
	}
	switch {
	case err != nil:
		return &exit.Error{Code: exit.Internal, Err: err}
	case report.Interrupted:
		return &exit.Error{Code: exit.Aborted, Err: errors.New("interrupted before the last case")}
	case report.Count(conformance.Passed, "")+report.Count(conformance.Failed, "") == 0:
		return exit.Hint(exit.BadInputf("no case was tried: all %d were skipped", len(report.Results)), "the reasons say what to give")
	case !report.Conforms():
		return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("the service at %s does not conform", report.Endpoint)}
	}
	return nil
}

// nothingRan is the report of a run that never began.
func nothingRan(err error) *conformance.Report {
	return &conformance.Report{Results: []conformance.Result{{
		Case: "service/answers", Area: "service", Level: conformance.Must, Purpose: "The service can be checked.", Outcome: conformance.Failed,
		Problems: []conformance.Problem{{Sent: "a call for the list of plugins", Got: err.Error(), Due: "a service that answers", Contract: "docs/conformance.md"}},
	}}}
}

// options turns flags into the suite's options.
func (o *options) options(cmd *cobra.Command) (conformance.Options, error) {
	_, d, err := o.Resolve(cmd.Context())
	if err != nil {
		return conformance.Options{}, err
	}
	out := conformance.Options{
		Endpoint: d.Endpoint, Protocol: conformance.Protocol(d.Protocol), Insecure: d.Insecure,
		CAFile: d.TLS.CAFile, CertFile: d.TLS.CertFile, KeyFile: d.TLS.KeyFile, ServerName: d.TLS.ServerName,
		Replica: o.replica, TaskType: o.taskType, PluginVersion: o.pluginVersion, Strict: o.strict,
		CallTimeout: d.DefaultTimeout.Duration, JobTimeout: o.jobTimeout,
	}
	if o.run != "" {
		if out.Run, err = regexp.Compile(o.run); err != nil {
			return out, exit.BadInputf("--run: %w", err)
		}
	}
	if out.Headers, err = readHeaders(o.headers); err != nil {
		return out, err
	}
	if o.restart != "" {
		out.Restart = o.restartService
	}
	err = o.readTasks(cmd, &out)
	return out, err
}

// readTasks reads the files that describe jobs.
func (o *options) readTasks(cmd *cobra.Command, out *conformance.Options) error {
	if o.job.template == "" && (o.job.inputs != "" || len(o.input) > 0) {
		return exit.Hint(exit.BadInputf("inputs need a template, whose interface says what they are"), "give it with --template FILE")
	}
	var err error
	if out.Template, out.Inputs, err = o.job.read(cmd, nil, o.input); err != nil {
		return err
	}
	if out.LongTemplate, out.LongInputs, err = o.long.read(cmd, out.Template, nil); err != nil {
		return err
	}
	out.FailingTemplate, out.FailingInputs, err = o.failing.read(cmd, out.Template, nil)
	return err
}

// read reads a template, or takes the one that is given, and its inputs.
func (t *task) read(cmd *cobra.Command, template *core.TaskTemplate, flags []string) (*core.TaskTemplate, *core.LiteralMap, error) {
	if t.template == "" && t.inputs == "" && len(flags) == 0 {
		return nil, nil, nil
	}
	if t.template != "" {
		var err error
		if template, err = inputs.ReadTemplate(t.template); err != nil {
			return nil, nil, err
		}
	}
	if template == nil {
		return nil, nil, exit.Hint(exit.BadInputf("%s: inputs need a template, whose interface says what they are", t.inputs), "give it with --template FILE")
	}
	in, err := inputs.OfTask(inputs.NameOf(template), template.GetInterface()).Read(t.inputs, flags, cmd.InOrStdin())
	return template, &core.LiteralMap{Literals: in}, err
}

func readHeaders(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" {
			return nil, exit.BadInputf("--header %s: takes NAME=VALUE", f)
		}
		if file, ok := strings.CutPrefix(value, "@"); ok {
			raw, err := os.ReadFile(file)
			if err != nil {
				return nil, exit.BadInputf("--header %s: %w", name, err)
			}
			value = strings.TrimSpace(string(raw))
		}
		out[name] = value
	}
	return out, nil
}

// restartService runs the user's command. What it leaves running may hold its output open for ever, so that goes to a file.
func (o *options) restartService(ctx context.Context) error {
	said, err := os.CreateTemp("", "flyte-backend-restart-*")
	if err != nil {
		return err
	}
	defer func() {
		_ = said.Close()
		_ = os.Remove(said.Name())
	}()
	cmd := exec.CommandContext(ctx, "sh", "-c", o.restart) //nolint:gosec // running it is what the flag is for
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(said.Name())
		return fmt.Errorf("--restart-command: %w: %s", err, strings.TrimSpace(string(text)))
	}
	return nil
}

func writeJSON(w io.Writer, report *conformance.Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		Conforms bool `json:"conforms"`
		Passed   int  `json:"passed"`
		Failed   int  `json:"failed"`
		Skipped  int  `json:"skipped"`
		*conformance.Report
	}{
		report.Conforms(), report.Count(conformance.Passed, ""), report.Count(conformance.Failed, ""), report.Count(conformance.Skipped, ""), report,
	})
}

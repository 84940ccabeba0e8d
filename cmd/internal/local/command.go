package local

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// New makes the command `local`.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run workflows on this machine, with propeller's own engine and without Kubernetes",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRun(), newList())
	return cmd
}

func newRun() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "run (PACKAGE|FILE.py) WORKFLOW",
		Short: "Run a workflow or launch plan",
		Long: "Runs a workflow of a package that `pyflyte package` wrote, or of a Python file, to its end.\n\n" +
			"Its tasks run at the backend plugin services that the configuration names. Without any, the example service runs\n" +
			"(task type sqlite). What happens is shown on standard error: as a tree on a terminal, in plain lines elsewhere.\n" +
			"Outputs are printed on standard output. Ctrl-C aborts the run and waits until its jobs are deleted.\n\n" +
			"Exit codes: 0 the workflow succeeded, 1 it failed, 2 bad input (nothing ran), 3 aborted, 4 another error.",
		Args: cobra.ArbitraryArgs, // their number depends on flags
		RunE: func(cmd *cobra.Command, args []string) error {
			o.localTasksOn = cmd.Flags().Changed("local-tasks")
			r := &runner{options: o, stdin: cmd.InOrStdin(), stdout: cmd.OutOrStdout(), stderr: os.Stderr}
			return r.run(cmd.Context(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.inputFile, "inputs", "", "YAML or JSON `FILE` with inputs; - is standard input")
	f.StringArrayVar(&o.inputs, "input", nil, "an input as `NAME=VALUE`, with a value in YAML; beats the file (repeatable)")
	f.StringArrayVar(&o.configs, "config", nil, "propeller's configuration, a YAML `FILE` or a pattern (repeatable)")
	f.StringVar(&o.state, "state", "", "keep state and data in `DIR`, so that a run that was killed can go on")
	f.BoolVar(&o.resume, "resume", false, "go on with the run in --state that has not ended")
	f.StringVar(&o.report, "report", "", "write a page about the run to `FILE`, however it ends")
	f.StringArrayVar(&o.signals, "signal", nil, "the value that a gate waits for, as `GATE=VALUE` (repeatable)")
	f.StringArrayVar(&o.approve, "approve", nil, "approve at a `GATE` (repeatable)")
	f.StringArrayVar(&o.reject, "reject", nil, "reject at a `GATE` (repeatable)")
	f.DurationVar(&o.timeout, "timeout", 0, "abort the run after this time")
	f.StringVarP(&o.output, "output", "o", "yaml", "how outputs are printed: `FORMAT` yaml or json")
	f.BoolVar(&o.localTasks, "local-tasks", false, "run tasks in containers as processes on this machine (on for FILE.py, off for PACKAGE)")
	f.StringVar(&o.python, "python", "", "the Python with flytekit: an interpreter or a virtual environment, `PATH`")
	f.StringVar(&o.source, "source", "", "`DIR` that local tasks import their modules from (FILE.py's own, or the current one)")
	f.StringVar(&o.name, "name", "", "`NAME` of the execution; services may take two executions of one name for the same")
	f.StringVar(&o.project, "project", "", "project of the execution and of everything in the package (flytesnacks)")
	f.StringVar(&o.domain, "domain", "", "domain of the same (development)")
	f.StringVar(&o.log, "log", "", "append what propeller logs to `FILE`")
	return cmd
}

func newList() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "list (PACKAGE|FILE.py)",
		Short: "List the workflows and launch plans of a package with their inputs",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return exit.BadInputf("takes PACKAGE or FILE.py; got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			defer func() { err = coded(cmd.Context(), err, false) }()
			if o.output != "text" && o.output != "json" {
				return exit.BadInputf("--output takes text or json, got %q", o.output)
			}
			r := &runner{options: o, stderr: os.Stderr}
			b, _, err := r.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var all []entry
			plans := b.LaunchPlans()
			for _, name := range b.Workflows() {
				if plans[name] == nil {
					plans[name] = nil
				}
			}
			for _, name := range slices.Sorted(maps.Keys(plans)) {
				l, err := b.Find(name, nil)
				if err != nil {
					continue // it needs what is not in the package, which running it says
				}
				all = append(all, describe(l.Plan))
			}
			if o.output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(all)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, e := range all {
				parts := make([]string, 0, len(e.Inputs))
				for _, in := range e.Inputs {
					parts = append(parts, in.String())
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\n", e.Name, strings.Join(parts, "; "))
			}
			return table.Flush()
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "text", "how to print: `FORMAT` text or json")
	f.StringVar(&o.python, "python", "", "the Python with flytekit: an interpreter or a virtual environment, `PATH`")
	return cmd
}

type entry struct {
	Name     string  `json:"name"`
	Workflow string  `json:"workflow"`
	Inputs   []input `json:"inputs"`
}

type input struct {
	Name    string `json:"name"`
	Takes   string `json:"takes"`
	Default any    `json:"default,omitempty"`
	// Optional says that there is a default, which may be null.
	Optional bool `json:"optional"`
}

func (i input) String() string {
	if !i.Optional {
		return i.Name + ": " + i.Takes
	}
	value, err := json.Marshal(i.Default)
	if err != nil {
		return i.Name + ": " + i.Takes
	}
	return fmt.Sprintf("%s: %s (%s)", i.Name, i.Takes, value)
}

func describe(lp *admin.LaunchPlan) entry {
	e := entry{Name: lp.GetId().GetName(), Workflow: lp.GetSpec().GetWorkflowId().GetName(), Inputs: []input{}}
	params := lp.GetClosure().GetExpectedInputs().GetParameters()
	for _, name := range slices.Sorted(maps.Keys(params)) {
		in := input{Name: name, Takes: literals.Describe(params[name].GetVar().GetType())}
		if d := params[name].GetDefault(); d != nil {
			in.Optional, in.Default = true, literals.Plain(d)
		}
		e.Inputs = append(e.Inputs, in)
	}
	return e
}

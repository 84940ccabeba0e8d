// Package explain is the command that says what would handle each task type, and why. It is part of flytepropeller, since the answer
// depends on the plugins that are compiled into it.
package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/agent"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/connector"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// report is what -o json prints.
type report struct {
	Enabled     bool         `json:"enabled"`
	Deployments []deployment `json:"deployments"`
	TaskTypes   []verdict    `json:"taskTypes"`
	Conflicts   []string     `json:"conflicts"`
	Notes       []string     `json:"notes"`
	// connectorsSilent: propeller's start would hang.
	connectorsSilent bool
}

type deployment struct {
	Name     string   `json:"name"`
	Endpoint string   `json:"endpoint"`
	Protocol string   `json:"protocol"`
	TLS      bool     `json:"tls"`
	Answers  bool     `json:"answers"`
	Millis   float64  `json:"milliseconds"`
	Serves   []string `json:"serves"`
	Error    string   `json:"error,omitempty"`
	Advice   string   `json:"advice,omitempty"`
}

type verdict struct {
	TaskType      string `json:"taskType"`
	Project       string `json:"project,omitempty"`
	Domain        string `json:"domain,omitempty"`
	Version       *int32 `json:"taskTypeVersion,omitempty"`
	Deployment    string `json:"deployment,omitempty"`
	PluginVersion string `json:"pluginVersion,omitempty"`
	Mode          string `json:"mode,omitempty"`
	BuiltIn       string `json:"builtIn,omitempty"`
	Waits         bool   `json:"waits,omitempty"`
	Why           string `json:"why"`
}

type options struct {
	files           []string
	output          string
	project, domain string
	version         int32
}

// New makes the command `explain`.
func New() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "explain --config FILE [TASK_TYPE...]",
		Short: "Say what would handle each task type and why, from propeller's configuration and the live services",
		Long: "Reads propeller's configuration, asks its services what they serve, and says what would handle each task type: a service,\n" +
			"or a built-in plugin. It works before the toggle is turned on, and changes nothing.\n\n" +
			"Without TASK_TYPE it tells of all types that routes, services and enabled built-in plugins name.\n\n" +
			"Exit codes: 0 every deployment answered and nothing is in conflict, 1 something needs to be looked at, 2 bad input.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), args, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.files, "config", nil, "propeller's configuration, a YAML `FILE` or a pattern (repeatable)")
	f.StringVar(&o.project, "project", "", "for tasks of this project, `NAME`")
	f.StringVar(&o.domain, "domain", "", "for tasks of this domain, `NAME`")
	f.Int32Var(&o.version, "task-type-version", 0, "for templates of this task type `VERSION`")
	f.StringVarP(&o.output, "output", "o", "text", "how it is printed: `FORMAT` text or json")
	return cmd
}

func (o *options) run(ctx context.Context, taskTypes []string, w io.Writer) error {
	if o.output != "text" && o.output != "json" {
		return exit.BadInputf("--output takes text or json, got %q", o.output)
	}
	for _, t := range taskTypes {
		if info, err := os.Stat(t); err == nil && info.Mode().IsRegular() {
			return exit.Hint(exit.BadInputf("%s is a file, and no task type", t), "put a pattern in quotes, so that the shell leaves it alone, or give --config for each file")
		}
	}
	backend.OnlyLook()
	files, err := endpoint.Files(o.files)
	if err != nil {
		return err
	}
	cfg, err := load(ctx, files)
	if err != nil {
		return err
	}
	unknown, err := unknownKeys(ctx, files)
	if err != nil {
		return err
	}
	e, err := backend.Explain(ctx, cfg)
	if err != nil {
		return exit.BadInputf("propeller would refuse this configuration:\n%w", err)
	}
	r := report{Enabled: cfg.Enabled, Deployments: []deployment{}, TaskTypes: []verdict{}, Conflicts: []string{}, Notes: append(notes(cfg, e), unknown...), connectorsSilent: e.ConnectorsSilent}
	for _, d := range e.Deployments {
		r.Deployments = append(r.Deployments, deploymentOf(d))
	}
	for _, c := range e.Conflicts {
		r.Conflicts = append(r.Conflicts, c.String())
	}
	if len(taskTypes) == 0 {
		taskTypes = e.TaskTypes()
	}
	for _, t := range taskTypes {
		r.TaskTypes = append(r.TaskTypes, verdictOf(e.Explain(t, o.version, o.project, o.domain), o.project, o.domain, nil))
		if o.project == "" && o.domain == "" {
			r.TaskTypes = append(r.TaskTypes, exceptions(e, cfg, t)...)
		}
	}
	if o.output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = r.write(w)
	}
	if err != nil {
		return err
	}
	return r.problem()
}

// load reads the whole configuration as propeller does.
func load(ctx context.Context, files []string) (*config.Config, error) {
	if len(files) == 0 {
		return nil, exit.BadInputf("--config is missing: name propeller's configuration")
	}
	if err := logger.SetConfig(&logger.Config{Mute: true}); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := config.CheckFile(f); err != nil {
			return nil, exit.BadInputf("%w", err)
		}
	}
	if err := viper.NewAccessor(stdconfig.Options{SearchPaths: files}).UpdateConfig(ctx); err != nil {
		return nil, exit.BadInputf("the configuration cannot be read: %w", err)
	}
	return config.Get(), nil
}

// exceptions are the verdicts that routes make for some projects, domains or versions only.
func exceptions(e *backend.Explanation, cfg *config.Config, taskType string) []verdict {
	var out []verdict
	for _, r := range cfg.Routes {
		if r.TaskType != taskType || r.Project == "" && r.Domain == "" && r.TaskTypeVersion == nil {
			continue
		}
		var version int32
		if r.TaskTypeVersion != nil {
			version = *r.TaskTypeVersion
		}
		out = append(out, verdictOf(e.Explain(taskType, version, r.Project, r.Domain), r.Project, r.Domain, r.TaskTypeVersion))
	}
	return out
}

func verdictOf(v backend.Verdict, project, domain string, version *int32) verdict {
	return verdict{
		TaskType: v.TaskType, Project: project, Domain: domain, Version: version, Deployment: v.Deployment, PluginVersion: v.PluginVersion,
		Mode: v.Mode, BuiltIn: v.BuiltIn, Waits: v.Waits, Why: v.Why,
	}
}

func deploymentOf(d backend.DeploymentReport) deployment {
	out := deployment{
		Name: d.Name, Endpoint: d.Config.Endpoint, Protocol: d.Config.Protocol, TLS: !d.Config.Insecure, Answers: d.Err == nil,
		Millis: float64(d.Took.Microseconds()) / 1000, Serves: []string{},
	}
	if out.Protocol == "" {
		out.Protocol = config.ProtocolGRPC
	}
	for _, r := range d.Registrations {
		out.Serves = append(out.Serves, r.String())
	}
	if d.Err != nil {
		out.Error, out.Advice = fmt.Sprintf("%s: %s", d.Err.Code, d.Err.Message), endpoint.Advice(d.Err)
	}
	return out
}

// notes are about the configuration as a whole.
func notes(cfg *config.Config, e *backend.Explanation) []string {
	out := []string{}
	if !cfg.Enabled {
		out = append(out, "the toggle plugins.backend.enable_backend_flytekit_plugin_system is off: this is what would happen if it were on")
	}
	if !cfg.AcceptNewTasks {
		out = append(out, "acceptNewTasks is false: no new task goes to a service")
	}
	if e.ConnectorsSilent {
		out = append(out, "the services of Flyte's connector plugin do not answer, so that its task types are missing here; propeller's start waits for them")
	}
	known := map[string]bool{backend.ID: true, connector.ID: true, agent.ID: true} // propeller registers the last two by itself
	for _, p := range pluginmachinery.PluginRegistry().GetCorePlugins() {
		known[strings.ToLower(p.ID)] = true
	}
	for _, p := range pluginmachinery.PluginRegistry().GetK8sPlugins() {
		known[strings.ToLower(p.ID)] = true
	}
	for _, id := range taskconfig.GetConfig().TaskPlugins.EnabledPlugins {
		if id = strings.ToLower(strings.TrimSpace(id)); !known[id] {
			out = append(out, fmt.Sprintf("tasks.task-plugins.enabled-plugins names %s, which is not compiled into this program: what it would handle is not seen here", id))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Deployments)) {
		if d := cfg.Deployments[name]; d != nil && d.Insecure {
			out = append(out, fmt.Sprintf("deployment %s speaks plain text: whoever is on the way reads inputs and can answer in its place", name))
		}
	}
	return out
}

// write prints it for people.
func (r report) write(w io.Writer) error {
	for _, n := range r.Notes {
		_, _ = fmt.Fprintln(w, "note:", n)
	}
	if len(r.Notes) > 0 {
		_, _ = fmt.Fprintln(w)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "DEPLOYMENT\tENDPOINT\tPROTOCOL\tANSWERS\tSERVES")
	for _, d := range r.Deployments {
		answers, serves := fmt.Sprintf("in %.1f ms", d.Millis), strings.Join(d.Serves, ", ")
		if !d.Answers {
			answers, serves = "no", ""
		} else if serves == "" {
			serves = "nothing"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", d.Name, d.Endpoint, d.Protocol, answers, serves)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, d := range r.Deployments {
		if d.Answers {
			continue
		}
		_, _ = fmt.Fprintf(w, "\n%s does not answer: %s\n", d.Name, d.Error)
		if d.Advice != "" {
			_, _ = fmt.Fprintf(w, "hint: %s\n", d.Advice)
		}
	}
	_, _ = fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "TASK TYPE\tHANDLED BY\tWHY")
	for _, v := range r.TaskTypes {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", v.subject(), v.handler(), v.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, c := range r.Conflicts {
		if i == 0 {
			_, _ = fmt.Fprintln(w)
		}
		_, _ = fmt.Fprintln(w, "conflict:", c)
	}
	return nil
}

// subject is the type, with what the verdict is limited to.
func (v verdict) subject() string {
	var only []string
	if v.Version != nil {
		only = append(only, fmt.Sprintf("version %d", *v.Version))
	}
	if v.Project != "" {
		only = append(only, "project "+v.Project)
	}
	if v.Domain != "" {
		only = append(only, "domain "+v.Domain)
	}
	if len(only) == 0 {
		return v.TaskType
	}
	return v.TaskType + " (" + strings.Join(only, ", ") + ")"
}

func (v verdict) handler() string {
	switch {
	case v.Deployment != "":
		return fmt.Sprintf("deployment %s, %s, %s", v.Deployment, v.PluginVersion, v.Mode)
	case v.Waits:
		return "nothing yet"
	case v.BuiltIn != "":
		return "built-in " + v.BuiltIn
	default:
		return "nothing: the task fails"
	}
}

// problem is the error for what somebody should look at.
func (r report) problem() error {
	var silent []string
	for _, d := range r.Deployments {
		if !d.Answers {
			silent = append(silent, d.Name)
		}
	}
	switch {
	case len(silent) > 0:
		return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("%d of %d deployments do not answer: %s", len(silent), len(r.Deployments), strings.Join(silent, ", "))}
	case r.connectorsSilent:
		return &exit.Error{Code: exit.Failed, Err: errors.New("the services of Flyte's connector plugin do not answer")}
	case len(r.Conflicts) > 0:
		return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("%d conflicts, which only the deployments' names decide; routes decide them for good", len(r.Conflicts))}
	}
	return nil
}

package jobs

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// base64Prefix begins job ids that are no text.
const base64Prefix = "base64:"

// idOf reads a job id as rest.EncodeJobID writes it, which is how it is printed.
func idOf(text string) (client.JobID, error) {
	rest, ok := strings.CutPrefix(text, base64Prefix)
	if !ok {
		return client.JobID(text), nil
	}
	id, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil {
		return nil, exit.BadInputf("the job id begins with %q, and unpadded URL-safe base64 does not follow", base64Prefix)
	}
	return id, nil
}

// link is a log link.
type link struct {
	Name string `json:"name" yaml:"name"`
	URI  string `json:"uri"  yaml:"uri"`
}

type failure struct {
	Code        string `json:"code"        yaml:"code"`
	Origin      string `json:"origin"      yaml:"origin"`
	Recoverable bool   `json:"recoverable" yaml:"recoverable"`
}

// state is what commands print of a job.
type state struct {
	Phase    string         `json:"phase"              yaml:"phase"`
	Message  string         `json:"message,omitempty"  yaml:"message,omitempty"`
	Failure  *failure       `json:"failure,omitempty"  yaml:"failure,omitempty"`
	LogLinks []link         `json:"logLinks,omitempty" yaml:"logLinks,omitempty"`
	Info     map[string]any `json:"info,omitempty"     yaml:"info,omitempty"`
	Outputs  map[string]any `json:"outputs,omitempty"  yaml:"outputs,omitempty"`
}

func stateOf(job *client.Job, outputs *core.LiteralMap) state {
	s := state{Phase: job.Phase.String(), Message: job.Message, Info: job.CustomInfo.AsMap(), Outputs: literals.PlainMap(outputs)}
	for _, l := range job.LogLinks {
		s.LogLinks = append(s.LogLinks, link{l.GetName(), l.GetUri()})
	}
	if f := job.Failure; f != nil {
		s.Failure = &failure{f.Code, f.Origin.String(), f.Recoverable}
	}
	return s
}

// write prints it.
func (s state) write(w io.Writer, format string) error {
	if format == "json" {
		return writeJSON(w, s)
	}
	return printYAML(w, s)
}

func printYAML(w io.Writer, v any) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return err
	}
	return e.Close()
}

// named are the flags that name a job.
type named struct {
	endpoint.Flags
	pluginVersion string
	typeVersion   int32
	id, file      string
}

func (n *named) register(cmd *cobra.Command) {
	n.Register(cmd)
	f := cmd.Flags()
	f.StringVar(&n.id, "job-id", "", "the job's `ID`, as `run` prints it")
	f.StringVar(&n.file, "job-id-file", "", "`FILE` that holds it; - is standard input")
	f.StringVar(&n.pluginVersion, "plugin-version", "", "plugin `VERSION` that the job was created with (the one that new jobs get)")
	f.Int32Var(&n.typeVersion, "task-type-version", 0, "task type `VERSION` of the job's template")
}

// find connects, and gives the reference of the job.
func (n *named) find(cmd *cobra.Command, taskType string) (*endpoint.Service, client.JobRef, error) {
	id, err := n.read(cmd.InOrStdin())
	if err != nil {
		return nil, client.JobRef{}, err
	}
	s, err := n.Dial(cmd.Context())
	if err != nil {
		return nil, client.JobRef{}, err
	}
	target, _, err := s.Choose(cmd.Context(), endpoint.Choice{
		TaskType: taskType, TaskTypeVersion: n.typeVersion, PluginVersion: n.pluginVersion, Mode: config.ModeAsync,
	})
	if err != nil {
		_ = s.Close()
		return nil, client.JobRef{}, err
	}
	return s, client.JobRef{Target: target, ID: id}, nil
}

func (n *named) read(stdin io.Reader) (client.JobID, error) {
	text := n.id
	switch {
	case (n.id == "") == (n.file == ""):
		return nil, exit.BadInputf("takes one of --job-id and --job-id-file")
	case n.file != "":
		var raw []byte
		var err error
		if n.file == "-" {
			raw, err = io.ReadAll(stdin)
		} else {
			raw, err = os.ReadFile(n.file)
		}
		if err != nil {
			return nil, exit.BadInputf("cannot read the job id: %w", err)
		}
		if text = strings.TrimSuffix(string(raw), "\n"); text == "" {
			return nil, exit.BadInputf("%s: holds no job id", n.file)
		}
	}
	return idOf(text)
}

func taskTypeArgument(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return exit.BadInputf("takes TASK_TYPE; got %d arguments", len(args))
	}
	return nil
}

// NewGet makes the command `get`.
func NewGet() *cobra.Command {
	var n named
	var output string
	cmd := &cobra.Command{
		Use:               "get TASK_TYPE",
		Short:             "Show the state of a job",
		Args:              taskTypeArgument,
		ValidArgsFunction: completeTaskType(&n.Flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "yaml", "json"); err != nil {
				return err
			}
			s, ref, err := n.find(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			ctx, cancel := s.Within(cmd.Context(), config.CallGet)
			defer cancel()
			job, err := s.Get(ctx, ref)
			if err != nil {
				return endpoint.Explain(s.Name, err)
			}
			return stateOf(job, job.Outputs).write(cmd.OutOrStdout(), output)
		},
	}
	n.register(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "yaml", "how it is printed: `FORMAT` yaml or json")
	return cmd
}

// NewDelete makes the command `delete`.
func NewDelete() *cobra.Command {
	var n named
	cmd := &cobra.Command{
		Use:               "delete TASK_TYPE",
		Short:             "Delete a job; one that has ended or is unknown is deleted already",
		Args:              taskTypeArgument,
		ValidArgsFunction: completeTaskType(&n.Flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, ref, err := n.find(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			ctx, cancel := s.Within(cmd.Context(), config.CallDelete)
			defer cancel()
			if err := s.Delete(ctx, ref); err != nil {
				return endpoint.Explain(s.Name, err)
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "deleted")
			return err
		},
	}
	n.register(cmd)
	return cmd
}

// completeTaskType completes the argument of get and delete: only a type that runs as jobs has any.
func completeTaskType(flags *endpoint.Flags) cobra.CompletionFunc {
	ask := flags.CompleteTaskType(func(r client.Registration) bool { return r.Mode == client.Async })
	return func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return ask(cmd, args, text)
	}
}

package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyte-backend/flyte-backend/go/engine/report"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// result is what -o json prints of an execution.
type result struct {
	Execution string         `json:"execution"`
	Workflow  string         `json:"workflow"`
	Phase     string         `json:"phase"`
	Outputs   map[string]any `json:"outputs,omitempty"`
	Error     *failure       `json:"error,omitempty"`
	Aborted   string         `json:"abortCause,omitempty"`
	Started   *time.Time     `json:"started,omitempty"`
	Ended     *time.Time     `json:"ended,omitempty"`
	Report    string         `json:"report,omitempty"`
	Files     string         `json:"files,omitempty"`
}

type failure struct {
	Kind    string `json:"kind"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// finish shows the last of the run, writes the report, prints what came of it, and gives the error that tells the exit code.
func (r *runner) finish(executions []*engine.Execution, outcomes []*engine.Outcome) error {
	if len(executions) == 0 {
		return nil
	}
	all := []error{r.follower.Close(), r.writeReport()}
	for i, x := range executions {
		if i < len(outcomes) && outcomes[i] != nil {
			all = append(all, r.tell(x, outcomes[i]))
		}
	}
	return errors.Join(all...)
}

func (r *runner) tell(x *engine.Execution, out *engine.Outcome) error {
	res := result{Execution: x.ID().GetName(), Phase: out.Phase.String(), Outputs: literals.PlainMap(out.Outputs), Aborted: out.AbortCause, Report: r.report}
	if closure, err := x.Closure(); err == nil {
		res.Workflow = closure.GetPrimary().GetTemplate().GetId().GetName()
	}
	if !out.Started.IsZero() {
		res.Started = &out.Started
	}
	if !out.Ended.IsZero() {
		res.Ended = &out.Ended
	}
	if e := out.Error; e != nil {
		res.Error = &failure{Kind: e.GetKind().String(), Code: e.GetCode(), Message: e.GetMessage()}
	}
	if r.keeps(out) {
		res.Files = r.root
		_, _ = fmt.Fprintf(r.stderr, "files are kept in %s\n", r.root)
		r.root = ""
	} else if r.state != "" {
		res.Files = r.root
	}
	text, err := r.render(res)
	if err != nil {
		return fmt.Errorf("cannot write the outputs: %w", err)
	}
	if _, err := r.stdout.Write(text); err != nil {
		return fmt.Errorf("cannot write the outputs: %w", err)
	}
	switch out.Phase {
	case core.WorkflowExecution_SUCCEEDED:
		return nil
	case core.WorkflowExecution_ABORTED:
		return &exit.Error{Code: exit.Aborted, Err: fmt.Errorf("workflow %s was aborted: %s", res.Workflow, out.AbortCause)}
	default:
		return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("workflow %s failed: %s", res.Workflow, errorText(out.Error))}
	}
}

func errorText(e *core.ExecutionError) string {
	message := strings.TrimSpace(e.GetMessage())
	if e.GetCode() == "" {
		return message
	}
	return e.GetCode() + ": " + message
}

func (r *runner) render(res result) ([]byte, error) {
	if r.output == "json" {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err := e.Encode(res)
		return b.Bytes(), err
	}
	if len(res.Outputs) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := errors.Join(e.Encode(res.Outputs), e.Close())
	return b.Bytes(), err
}

// keeps says that a temporary folder has something that is wanted still: data that outputs refer to, or the logs of tasks
// that failed.
func (r *runner) keeps(out *engine.Outcome) bool {
	if r.state != "" || r.root == "" {
		return false
	}
	if out.Phase == core.WorkflowExecution_FAILED && r.localTasks {
		return true
	}
	return strings.Contains(out.Outputs.String(), r.root)
}

func (r *runner) writeReport() error {
	if r.report == "" {
		return nil
	}
	if err := WriteReport(r.report, r.follower.Snapshot()); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(r.stderr, "report: %s\n", r.report)
	return nil
}

// WriteReport writes the page of a run: the whole of it or nothing.
func WriteReport(file string, s *history.Snapshot) error {
	var page bytes.Buffer
	info := report.Info{Versions: []report.Version{{Name: "propeller", Value: propellerVersion()}}}
	err := report.Write(&page, s, info)
	if err == nil {
		err = replace(file, page.Bytes())
	}
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}

// propellerVersion is that of the module that this program was built with.
func propellerVersion() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, m := range build.Deps {
			if m.Path == "github.com/flyteorg/flyte/flytepropeller" {
				if m.Replace != nil {
					m = m.Replace
				}
				return m.Version
			}
		}
	}
	return "unknown"
}

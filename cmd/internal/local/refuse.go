package local

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
)

// named is what flyteadmin takes for a project or domain: with another name no pod could be made.
var named = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// checkReport refuses a file that could not be written when the run has ended.
func checkReport(file string) error {
	dir := filepath.Dir(file)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return exit.BadInputf("--report %s: there is no folder %s", file, dir)
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return exit.BadInputf("--report %s: is a folder, not a file", file)
	}
	f, err := os.CreateTemp(dir, ".partial-")
	if err != nil {
		return exit.BadInputf("--report %s: the folder %s cannot be written to", file, dir)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// check refuses what can be seen of the flags alone.
func (r *runner) check(args []string) error {
	switch {
	case r.resume && r.state == "":
		return exit.BadInputf("--resume takes --state DIR, the folder of the run that is to go on")
	case r.output != "yaml" && r.output != "json":
		return exit.BadInputf("--output takes yaml or json, got %q", r.output)
	case r.timeout < 0:
		return exit.BadInputf("--timeout takes a duration that is not negative, got %v", r.timeout)
	case r.project != "" && !named.MatchString(r.project):
		return exit.BadInputf("--project %q will not do: at most 63 lower-case letters, digits and dashes, no dash first or last", r.project)
	case r.domain != "" && !named.MatchString(r.domain):
		return exit.BadInputf("--domain %q will not do: at most 63 lower-case letters, digits and dashes, no dash first or last", r.domain)
	case len(args) != 2 && (!r.resume || len(args) > 0):
		return exit.Hint(exit.BadInputf("takes PACKAGE or FILE.py, and WORKFLOW; got %d arguments", len(args)), "flyte-backend local list PACKAGE shows the workflows of a package")
	}
	if r.report != "" {
		if err := checkReport(r.report); err != nil {
			return err
		}
	}
	var err error
	if r.signals, err = readSignals(r.options.signals, r.approve, r.reject); err != nil {
		return err
	}
	if r.left, err = unfinished(r.state); err != nil {
		return err
	}
	switch {
	case len(r.left) > 0 && !r.resume:
		return exit.Hint(exit.BadInputf("%s holds a run that has not ended: execution %s", r.state, describeLeft(r.left)),
			"go on with it with --resume, or name another folder with --state")
	case len(args) == 0 && (r.inputFile != "" || len(r.inputs) > 0 || r.timeout > 0 || r.name != ""):
		return exit.BadInputf("a run that goes on keeps its inputs, its name and its time limit: --inputs, --input, --name and --timeout are for a new one")
	case len(r.left) == 0 && len(args) == 0:
		return exit.BadInputf("%s holds no run that could go on", r.state)
	case len(r.left) > 0 && len(args) == 2 && !slices.ContainsFunc(r.left, func(l engine.Left) bool { return same(args[1], l.Workflow) }):
		return exit.BadInputf("%s holds a run of another workflow than %s: execution %s", r.state, args[1], describeLeft(r.left))
	}
	return nil
}

// warn tells of what is not as it may be thought to be, once it is clear that the workflow runs all the same.
func (r *runner) warn() {
	if r.settings.off() {
		r.follower.Print("the configuration turns the backend plugin system off: tasks run on built-in plugins only")
	}
	if r.source != nil && len(r.source.unknown) > 0 {
		r.follower.Print("%s", r.source.around.unknownGates(r.source.unknown))
	}
	for _, s := range silent() {
		r.follower.Print("%s", s)
	}
}

// silent tells of each deployment that does not answer, by its name.
func silent() map[string]string {
	snap := backend.Lookup()
	if snap == nil {
		return nil
	}
	out := map[string]string{}
	for _, name := range snap.Unanswered() {
		err := snap.Health()[name].Err
		why, at := fmt.Sprint(err), ""
		var e *client.Error
		if errors.As(err, &e) {
			why, at = cmp.Or(e.Advice, fmt.Sprintf("%s: %s", e.Code, e.Message)), " at "+e.Endpoint
		}
		if err == nil {
			why = "nothing came back in time"
		}
		out[name] = fmt.Sprintf("deployment %q%s does not answer: %s", name, at, exit.OneLine(why))
	}
	return out
}

// reachable refuses a workflow with a task whose service, as the configuration routes it, does not answer.
func (r *runner) reachable() error {
	snap, unanswered := backend.Lookup(), silent()
	if snap == nil {
		return nil
	}
	for _, t := range r.source.around.tasks {
		d, ok := snap.Resolve(registry.Query{
			TaskType: t.GetType(), TaskTypeVersion: t.GetTaskTypeVersion(), Project: t.GetId().GetProject(), Domain: t.GetId().GetDomain(),
		})
		if s := unanswered[d.Deployment]; ok && s != "" {
			return exit.BadInputf("task %q has type %q, and %s", t.GetId().GetName(), t.GetType(), s)
		}
	}
	return nil
}

// mostReasons bounds the line of a refusal.
const mostReasons = 3

// refused says what the engine refuses, and what would help.
func (r *runner) refused(err error) error {
	var refused *engine.RefusedError
	var bad *engine.BadInputError
	switch {
	case errors.As(err, &bad):
		return exit.BadInputf("%w", bad)
	case !errors.As(err, &refused):
		return err
	}
	reasons := slices.Clone(refused.Reasons)
	if n := len(reasons); n > mostReasons {
		reasons = append(reasons[:mostReasons], fmt.Sprintf("and %d more tasks", n-mostReasons))
	}
	text := exit.OneLine(fmt.Sprintf("workflow %s cannot be run here: %s", refused.Workflow, strings.Join(reasons, "; ")))
	unanswered := silent()
	switch {
	case len(unanswered) > 0:
		all := slices.Collect(maps.Values(unanswered))
		slices.Sort(all)
		return exit.BadInputf("%s; %s", strings.Join(all, "; "), text)
	case !r.localTasks && strings.Contains(text, "local process"):
		return exit.Hint(exit.BadInputf("%s", text), "--local-tasks lets such tasks run as processes on this machine, with all that you may do")
	case r.localTasks && r.python == "" && strings.Contains(text, "no Python"):
		return exit.Hint(exit.BadInputf("%s", text), "name a Python or a virtual environment with --python")
	case r.settings.wantsExample():
		return exit.Hint(exit.BadInputf("%s", text), "no deployment is configured, so the example service runs, which has the type %q; name yours with --config FILE", exampleName)
	default:
		return exit.BadInputf("%s", text)
	}
}

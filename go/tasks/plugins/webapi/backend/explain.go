package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
)

// Explanation is what the plugin would do with a configuration and with what services say at this moment. It is for people, before
// there is a task.
type Explanation struct {
	Deployments []DeploymentReport
	Conflicts   []registry.Conflict

	router *router
	claims claims
}

// DeploymentReport is how a deployment answered.
type DeploymentReport struct {
	Name string
	// Config is its section.
	Config *config.Deployment
	// Registrations are what it serves, Took how long it took to say so.
	Registrations []client.Registration
	Took          time.Duration
	// Err is why it did not, with advice where there is some; nil when it answered.
	Err *client.Error
}

// Verdict is what would handle a task.
type Verdict struct {
	TaskType string
	// Deployment, PluginVersion and Mode are a service's; empty for a built-in plugin.
	Deployment, PluginVersion, Mode string
	// BuiltIn is the id of a plugin of propeller's; empty for a service. Both are empty when nothing has the type.
	BuiltIn string
	// Waits: the task stays queued, since a deployment that may have its type has not answered.
	Waits bool
	Why   string
}

// Explain asks every deployment of a valid configuration what it serves, as propeller does at its start, for a few seconds at most.
// It takes the plugins that are compiled in and the section tasks.task-plugins as they are at this moment, and registers nothing.
// The configuration counts as turned on.
func Explain(ctx context.Context, cfg *config.Config) (*Explanation, error) {
	on := *cfg
	on.Enabled = true
	if err := on.Validate(); err != nil {
		return nil, err
	}
	s := newSystem(&on)
	defer s.pool.close()
	e := &Explanation{}
	reports := make(chan DeploymentReport, len(on.Deployments))
	s.reg = registry.New(&on, func(ctx context.Context, name string) ([]client.Registration, error) {
		begin := time.Now()
		regs, err := s.list(ctx, name)
		d, _ := on.Deployment(name)
		r := DeploymentReport{Name: name, Config: d, Registrations: regs, Took: time.Since(begin)}
		if err != nil {
			r.Err = client.AsError(err)
		}
		reports <- r
		return regs, err
	})
	s.discover(ctx)
	close(reports)
	for r := range reports {
		e.Deployments = append(e.Deployments, r)
	}
	slices.SortFunc(e.Deployments, func(a, b DeploymentReport) int { return strings.Compare(a.Name, b.Name) })
	snap := s.reg.Snapshot()
	e.Conflicts = snap.Conflicts()
	tp := taskconfig.GetConfig().TaskPlugins
	e.claims = claim(&on, snap.TaskTypes(), pluginmachinery.PluginRegistry(), tp)
	entries, err := enabledEntries(ctx)
	if err != nil {
		return nil, err
	}
	e.router = &router{s: s, builtIns: &builtIns{byType: map[string]*builtIn{}, fallback: &builtIn{noPlugin{}, ""}}}
	for _, p := range preferBuiltIn(entries) {
		for _, t := range p.RegisteredTaskTypes {
			if e.router.builtIns.byType[t] == nil {
				e.router.builtIns.byType[t] = &builtIn{noPlugin{}, p.ID}
			}
		}
	}
	for _, p := range entries {
		if p.IsDefault {
			e.router.builtIns.fallback = &builtIn{noPlugin{}, p.ID}
			break
		}
	}
	return e, nil
}

// TaskTypes are the types that there is something to say of: those that would be claimed, left alone, or that services and
// routes name. Sorted.
func (e *Explanation) TaskTypes() []string {
	out := append(slices.Clone(e.claims.types), names(e.claims.left)...)
	out = append(out, e.router.s.reg.Snapshot().TaskTypes()...)
	slices.Sort(out)
	return slices.Compact(out)
}

// Explain says what would handle a task of a type, in a project and domain if they are given. It asks nobody.
func (e *Explanation) Explain(taskType string, taskTypeVersion int32, project, domain string) Verdict {
	v := Verdict{TaskType: taskType}
	fallback := e.router.builtIns.forType(taskType).id
	if why, left := e.claims.left[taskType]; left {
		v.BuiltIn, v.Why = fallback, "not claimed: "+why
		if chosen := operatorsChoice(taskconfig.GetConfig().TaskPlugins, taskType); chosen != "" {
			v.BuiltIn = chosen
		}
		return v
	}
	why, claimed := e.claims.why[taskType]
	if !claimed && e.router.builtIns.serves(taskType) {
		v.BuiltIn, v.Why = fallback, "not claimed: it is a built-in plugin's, and no route, no taskTypes and no service named it at the start"
		return v
	}
	if !claimed {
		why = "no plugin has it, so it reaches this one as the default"
	}
	d, how := e.router.choose(&core.TaskTemplate{Type: taskType, TaskTypeVersion: taskTypeVersion}, identity{project: project, domain: domain}, &envelope{})
	switch {
	case d != nil:
		v.Deployment, v.PluginVersion, v.Mode = d.Deployment, d.PluginVersion, d.Mode.String()
		v.Why = d.Reason + "; claimed: " + why
	case how == reasonUnanswered:
		v.Waits = true
		v.Why = fmt.Sprintf("taskTypes names it, no built-in plugin has it, and not every deployment has answered: it waits, for %s at most", e.router.s.config().Create.Deadline.Duration)
	default:
		v.BuiltIn, v.Why = fallback, explanations[how]+"; claimed: "+why
	}
	return v
}

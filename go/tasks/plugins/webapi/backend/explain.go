package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/agent"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/connector"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
)

// Explanation is what the plugin would do with a configuration and with what services say at this moment. It is for people, before
// there is a task.
type Explanation struct {
	Deployments []DeploymentReport
	Conflicts   []registry.Conflict
	// ConnectorsSilent: the services of Flyte's connector or agent plugin did not answer in time, so that its types are missing.
	ConnectorsSilent bool

	router *router
	claims claims
	// registered are the task types of each enabled plugin of propeller's.
	registered map[string][]string
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

// connectorsWait bounds how long Explain waits for the connector and agent plugins' services. Propeller itself waits without a limit.
const connectorsWait = 5 * time.Second

// connectors are registered once in a process, as propeller does.
var connectors sync.Once

// Explain asks every deployment of a valid configuration what it serves, as propeller does at its start, for a few seconds at most.
// It takes the plugins that are compiled in and the section tasks.task-plugins as they are at this moment. If Flyte's connector or
// agent plugin is enabled, it is registered as propeller does it, which asks its services too; nothing else is. The configuration
// counts as turned on.
func Explain(ctx context.Context, cfg *config.Config) (*Explanation, error) {
	on := *cfg
	on.Enabled = true
	if err := on.Validate(); err != nil {
		return nil, err
	}
	s := newSystem(&on)
	defer s.pool.close()
	e := &Explanation{}
	e.ask(ctx, s, &on)
	snap := s.reg.Snapshot()
	tp := taskconfig.GetConfig().TaskPlugins
	// Propeller registers its connector plugin after our claim, and loads plugins after both.
	e.claims = claim(&on, snap.TaskTypes(), pluginmachinery.PluginRegistry(), tp)
	if haveConnectors(tp) {
		e.ConnectorsSilent = !registerConnectors()
	}
	entries, err := enabledEntries(ctx, nil)
	if err != nil {
		return nil, err
	}
	e.router = &router{s: s, builtIns: &builtIns{byType: map[string]*builtIn{}, fallback: &builtIn{noPlugin{}, ""}}}
	e.registered = map[string][]string{}
	for _, p := range preferBuiltIn(entries) {
		e.registered[strings.ToLower(p.ID)] = append(e.registered[strings.ToLower(p.ID)], p.RegisteredTaskTypes...)
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
	e.Conflicts = slices.DeleteFunc(snap.Conflicts(), func(c registry.Conflict) bool {
		return e.Explain(c.TaskType, 0, "", "").Deployment == "" // neither of the two is used
	})
	return e, nil
}

// ask does the discovery of propeller's start, and keeps how each deployment answered.
func (e *Explanation) ask(ctx context.Context, s *system, cfg *config.Config) {
	reports := make(chan DeploymentReport, len(cfg.Deployments))
	s.reg = registry.New(cfg, func(ctx context.Context, name string) ([]client.Registration, error) {
		begin := time.Now()
		regs, err := s.list(ctx, name)
		d, _ := cfg.Deployment(name)
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
}

// haveConnectors says whether Flyte's connector or agent plugin is enabled and has a service. Without one it has only types that
// its defaults make up.
func haveConnectors(tp taskconfig.TaskPluginConfig) bool {
	c, a := connector.GetConfig(), agent.GetConfig()
	return isEnabled(tp, connector.ID) && (c.DefaultConnector.Endpoint != "" || len(c.ConnectorDeployments) > 0) ||
		isEnabled(tp, agent.ID) && (a.DefaultAgent.Endpoint != "" || len(a.AgentDeployments) > 0)
}

// registerConnectors says whether it came to an end.
func registerConnectors() bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		connectors.Do(func() {
			agent.RegisterAgentPlugin(&agent.AgentService{})
			connector.RegisterConnectorPlugin(&connector.ConnectorService{})
		})
	}()
	select {
	case <-done:
		return true
	case <-time.After(connectorsWait):
		return false
	}
}

// TaskTypes are the types that there is something to say of: those that services, routes, taskTypes and enabled built-in plugins
// name. Sorted.
func (e *Explanation) TaskTypes() []string {
	out := slices.Concat(e.claims.types, names(e.claims.left), e.router.s.reg.Snapshot().TaskTypes(), names(e.router.builtIns.byType))
	slices.Sort(out)
	return slices.Compact(out)
}

// Explain says what would handle a task of a type, in a project and domain if they are given. It asks nobody.
func (e *Explanation) Explain(taskType string, taskTypeVersion int32, project, domain string) Verdict {
	v := Verdict{TaskType: taskType}
	own := e.router.builtIns.forType(taskType).id
	// Propeller heeds default-for-task-types only where the plugin has the type; else the setting means nothing.
	chosen, unheeded := operatorsChoice(taskconfig.GetConfig().TaskPlugins, taskType), ""
	if chosen != "" && chosen != ID && !slices.Contains(e.registered[chosen], taskType) {
		unheeded = fmt.Sprintf(" (tasks.task-plugins.default-for-task-types gives it to %s, which has no such type: propeller does not heed that)", chosen)
		chosen = ""
	}
	claimed := e.claims.why[taskType] != ""
	if !claimed && (chosen != "" && chosen != ID || e.router.builtIns.serves(taskType)) {
		// Else it reaches us all the same, as the default plugin.
		v.BuiltIn = own
		switch why, left := e.claims.left[taskType]; {
		case chosen != "":
			v.BuiltIn, v.Why = chosen, "not claimed: tasks.task-plugins.default-for-task-types gives it to this plugin"
		case left && unheeded == "":
			v.Why = "not claimed: " + why
		default:
			v.Why = "not claimed: it is this plugin's" + unheeded
			if !left {
				v.Why = "not claimed: it is this plugin's, and no route, no taskTypes and no service names it" + unheeded
			}
		}
		return v
	}
	d, how := e.router.choose(&core.TaskTemplate{Type: taskType, TaskTypeVersion: taskTypeVersion}, identity{project: project, domain: domain}, &envelope{})
	switch {
	case d != nil:
		v.Deployment, v.PluginVersion, v.Mode = d.Deployment, d.PluginVersion, d.Mode.String()
		v.Why = d.Reason + e.doubts(d, taskType, taskTypeVersion) + unheeded
	case how == reasonUnanswered:
		v.Waits = true
		v.Why = fmt.Sprintf("taskTypes names it, no built-in plugin has it, and not every deployment has answered: it waits, for %s at most", e.deadline())
	default:
		v.BuiltIn, v.Why = own, explanations[how]
		if !claimed {
			v.Why += ", and no built-in plugin has it: it goes to the default plugin" + unheeded
		}
	}
	return v
}

func (e *Explanation) deadline() time.Duration { return e.router.s.config().Create.Deadline.Duration }

// doubts are what there is to say of a route that its deployment does not bear out.
func (e *Explanation) doubts(d *registry.Decision, taskType string, taskTypeVersion int32) string {
	i := slices.IndexFunc(e.Deployments, func(r DeploymentReport) bool { return r.Name == d.Deployment })
	if i < 0 {
		return ""
	}
	if e.Deployments[i].Err != nil {
		return fmt.Sprintf(", which does not answer: a task waits, for %s at most", e.deadline())
	}
	if slices.ContainsFunc(e.Deployments[i].Registrations, func(r client.Registration) bool {
		takes, _ := r.Takes(taskTypeVersion)
		return takes && r.TaskType == taskType && r.PluginVersion == d.PluginVersion
	}) {
		return ""
	}
	return fmt.Sprintf(", which lists no such plugin (type %s, %s): the route counts all the same, and the service is called", taskType, d.PluginVersion)
}

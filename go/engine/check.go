package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/agent"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/connector"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler"
	propellertask "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
)

// RefusedError says why this engine cannot run a workflow, one reason for each task that it cannot run.
type RefusedError struct {
	Workflow string
	Reasons  []string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("workflow %s cannot be run here: %s", e.Workflow, strings.Join(e.Reasons, "; "))
}

// check refuses a workflow, and those that it launches, that would fail or hang for want of something that this engine or
// its configuration does not have. What a dynamic task will ask for cannot be known before.
func (e *Engine) check(ctx context.Context, closure *core.CompiledWorkflowClosure) error {
	c := checker{e: e, core: map[string]bool{}, seen: map[string]bool{}}
	if err := c.plugins(ctx); err != nil {
		return err
	}
	if err := c.workflow(closure); err != nil {
		return err
	}
	if len(c.reasons) > 0 {
		return &RefusedError{Workflow: closure.GetPrimary().GetTemplate().GetId().GetName(), Reasons: c.reasons}
	}
	return nil
}

type checker struct {
	e *Engine
	// core has the task types of enabled built-in plugins that make no Kubernetes objects.
	core map[string]bool
	// learns is set if the connector or agent plugin has a service, which may serve any type.
	learns  bool
	seen    map[string]bool
	reasons []string
}

// plugins lists what propeller would call, as its task handler does.
func (c *checker) plugins(ctx context.Context) error {
	entries, _, err := propellertask.WranglePluginsAndGenerateFinalList(ctx, &taskconfig.GetConfig().TaskPlugins, pluginmachinery.PluginRegistry(), nil)
	if err != nil {
		return fmt.Errorf("cannot list propeller's plugins: %w", err)
	}
	inKubernetes := map[string]bool{backend.ID: true}
	for _, entry := range pluginmachinery.PluginRegistry().GetK8sPlugins() {
		inKubernetes[strings.ToLower(entry.ID)] = true
	}
	for _, entry := range entries {
		switch entry.ID {
		case "connector-service":
			cfg := connector.GetConfig()
			c.learns = c.learns || cfg.DefaultConnector.Endpoint != "" || len(cfg.ConnectorDeployments) > 0
		case "agent-service":
			cfg := agent.GetConfig()
			c.learns = c.learns || cfg.DefaultAgent.Endpoint != "" || len(cfg.AgentDeployments) > 0
		}
		for _, t := range entry.RegisteredTaskTypes {
			c.core[t] = c.core[t] || !inKubernetes[strings.ToLower(entry.ID)]
		}
	}
	return nil
}

func (c *checker) workflow(closure *core.CompiledWorkflowClosure) error {
	id := idKey(closure.GetPrimary().GetTemplate().GetId())
	if c.seen[id] {
		return nil
	}
	c.seen[id] = true
	for _, t := range closure.GetTasks() {
		c.task(t.GetTemplate())
	}
	var subs []*core.WorkflowTemplate
	for _, s := range closure.GetSubWorkflows() {
		subs = append(subs, s.GetTemplate())
	}
	needs, err := compiler.GetRequirements(closure.GetPrimary().GetTemplate(), subs)
	if err != nil {
		return fmt.Errorf("cannot list what workflow %s needs: %w", id, err)
	}
	for _, ref := range needs.GetRequiredLaunchPlanIds() {
		plan := c.e.plans.known(ref)
		if plan == nil {
			c.refuse("launch plan %s is in no package that was submitted from", idKey(ref))
			continue
		}
		child, err := c.e.plans.closure(idKey(plan.GetSpec().GetWorkflowId()))
		if err != nil {
			return err
		}
		if err := c.workflow(child); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) refuse(format string, args ...any) {
	if reason := fmt.Sprintf(format, args...); !slices.Contains(c.reasons, reason) {
		c.reasons = append(c.reasons, reason)
	}
}

func (c *checker) task(t *core.TaskTemplate) {
	name, taskType := t.GetId().GetName(), t.GetType()
	var unanswered []string
	if snap := backend.Lookup(); snap != nil {
		if _, ok := snap.Resolve(registry.Query{
			TaskType: taskType, TaskTypeVersion: t.GetTaskTypeVersion(), Project: t.GetId().GetProject(), Domain: t.GetId().GetDomain(),
		}); ok {
			return
		}
		unanswered = snap.Unanswered()
	}
	switch {
	case t.GetMetadata().GetIsEager():
		c.refuse("task %q is an eager workflow, which starts its tasks through flyteadmin, and there is none here", name)
	case c.core[taskType], c.learns:
	case t.GetContainer() == nil && t.GetK8SPod() == nil:
		c.refuse("task %q has type %q, which no backend plugin service has registered and no built-in plugin runs%s", name, taskType, notAnswering(unanswered))
	default:
		if err := cluster.Runnable(t, c.e.opts.Processes); err != nil {
			c.refuse("%v%s", err, notAnswering(unanswered))
		}
	}
}

func notAnswering(deployments []string) string {
	if len(deployments) == 0 {
		return ""
	}
	return " (not answering: deployment " + strings.Join(deployments, ", ") + ")"
}

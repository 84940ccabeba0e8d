package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/client-go/kubernetes"

	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/encoding"
	k8sconfig "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/flytek8s/config"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/agent"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/connector"
	propellerconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/config"
	propellertask "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	propellerutils "github.com/flyteorg/flyte/flytepropeller/pkg/utils"
	"github.com/flyteorg/flyte/flytestdlib/logger"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
)

// builtIns are propeller's other plugins, those that tasks can fall back to, each loaded a second time for us: propeller
// gives no access to the ones that it has loaded.
type builtIns struct {
	byType   map[string]*builtIn
	fallback *builtIn
}

// builtIn is one of propeller's plugins.
type builtIn struct {
	pluginscore.Plugin
	id string
}

// noPlugin is what a task falls back to when propeller has no plugin for it and no default one.
var errNoPlugin = errors.New("no backend plugin service has registered this task type, and propeller has neither a built-in plugin for it nor a default plugin")

type noPlugin struct{}

func (noPlugin) GetID() string                                                    { return "none" }
func (noPlugin) GetProperties() pluginscore.PluginProperties                      { return pluginscore.PluginProperties{} }
func (noPlugin) Abort(context.Context, pluginscore.TaskExecutionContext) error    { return nil }
func (noPlugin) Finalize(context.Context, pluginscore.TaskExecutionContext) error { return nil }
func (noPlugin) Handle(ctx context.Context, tCtx pluginscore.TaskExecutionContext) (pluginscore.Transition, error) {
	tmpl, err := tCtx.TaskReader().Read(ctx)
	if err != nil {
		return pluginscore.UnknownTransition, err
	}
	return pluginscore.UnknownTransition, fmt.Errorf("task type %q: %w", tmpl.GetType(), errNoPlugin)
}

// forType gives the plugin that would have had the type without us.
func (b *builtIns) forType(taskType string) *builtIn {
	if p, ok := b.byType[taskType]; ok {
		return p
	}
	return b.fallback
}

// serves says whether a built-in plugin registered the type, the default plugin apart.
func (b *builtIns) serves(taskType string) bool {
	_, ok := b.byType[taskType]
	return ok
}

// context gives the plugin the task's context as it would have got it from propeller. Propeller shortens generated names
// by the properties of the plugin that it calls, which is us, so a plugin that needs shorter ones (ray) gets its own. A
// task that waited for a service before it fell back has a state of ours, which the plugin must not see (blank).
func (b *builtIn) context(tCtx pluginscore.TaskExecutionContext, blank bool) pluginscore.TaskExecutionContext {
	if blank {
		tCtx = blankContext{tCtx}
	}
	length := b.GetProperties().GeneratedNameMaxLength
	if length == nil {
		return tCtx
	}
	meta := tCtx.TaskExecutionMetadata()
	id := meta.GetTaskExecutionID()
	tid := id.GetID()
	name, err := encoding.FixedLengthUniqueIDForParts(*length, []string{
		meta.GetOwnerID().Name, id.GetUniqueNodeID(), strconv.FormatUint(uint64(tid.GetRetryAttempt()), 10),
	})
	if err != nil {
		return tCtx
	}
	return renamedContext{tCtx, qualifiedMetadata{TaskExecutionMetadata: meta, name: name}}
}

type renamedContext struct {
	pluginscore.TaskExecutionContext
	meta pluginscore.TaskExecutionMetadata
}

func (c renamedContext) TaskExecutionMetadata() pluginscore.TaskExecutionMetadata { return c.meta }

// blankContext shows no plugin state.
type blankContext struct {
	pluginscore.TaskExecutionContext
}

func (blankContext) PluginStateReader() pluginscore.PluginStateReader { return &innerState{} }

// loadBuiltIns loads every enabled plugin that a task could fall back to: those that registered one of the claimed types,
// and the one that would have been the default. It must run while propeller sets up: resource quotas that are registered
// later are ignored.
func loadBuiltIns(ctx context.Context, iCtx pluginscore.SetupContext, claimed []string) (*builtIns, error) {
	clientset, err := eventsClientset(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := enabledEntries(ctx, clientset)
	if err != nil {
		return nil, err
	}
	out := &builtIns{byType: map[string]*builtIn{}, fallback: &builtIn{noPlugin{}, "none"}}
	loaded := map[string]*builtIn{}
	load := func(e pluginscore.PluginEntry) (*builtIn, error) {
		if have, ok := loaded[e.ID]; ok {
			return have, nil
		}
		p, err := pluginscore.LoadPlugin(ctx, fallbackSetup{iCtx, e.ID}, e)
		if err != nil {
			return nil, fmt.Errorf("cannot load plugin %q for tasks that fall back to it: %w", e.ID, err)
		}
		loaded[e.ID] = &builtIn{p, e.ID}
		return loaded[e.ID], nil
	}
	for _, e := range preferBuiltIn(entries) {
		for _, t := range e.RegisteredTaskTypes {
			if !slices.Contains(claimed, t) || out.byType[t] != nil {
				continue
			}
			if out.byType[t], err = load(e); err != nil {
				return nil, err
			}
		}
	}
	for _, e := range entries {
		if e.IsDefault {
			if out.fallback, err = load(e); err != nil {
				return nil, err
			}
			break
		}
	}
	logger.Infof(ctx, "tasks that no backend plugin service has registered fall back to %s, by default to %s", describeFallbacks(out.byType), out.fallback.id)
	return out, nil
}

func describeFallbacks(byType map[string]*builtIn) string {
	out := make([]string, 0, len(byType))
	for _, t := range names(byType) {
		out = append(out, t+" to "+byType[t].id)
	}
	if len(out) == 0 {
		return "no plugin of their own"
	}
	return strings.Join(out, ", ")
}

// learner says whether a plugin is the connector or the agent plugin, which learn their types from services.
func learner(id string) bool { return id == connector.ID || id == agent.ID }

// preferBuiltIn puts the connector and agent plugins, which may claim any type, behind the plugins made for one.
func preferBuiltIn(entries []pluginscore.PluginEntry) []pluginscore.PluginEntry {
	out := slices.Clone(entries)
	slices.SortStableFunc(out, func(a, b pluginscore.PluginEntry) int {
		rank := func(e pluginscore.PluginEntry) int {
			if learner(e.ID) {
				return 1
			}
			return 0
		}
		return rank(a) - rank(b)
	})
	return out
}

// enabledEntries gives propeller's enabled plugins but ours, in propeller's order. The clientset is for loading them.
func enabledEntries(ctx context.Context, clientset kubernetes.Interface) ([]pluginscore.PluginEntry, error) {
	entries, _, err := propellertask.WranglePluginsAndGenerateFinalList(ctx, &taskconfig.GetConfig().TaskPlugins, pluginmachinery.PluginRegistry(), clientset)
	if err != nil {
		return nil, fmt.Errorf("cannot list propeller's plugins: %w", err)
	}
	return slices.DeleteFunc(entries, func(e pluginscore.PluginEntry) bool { return e.ID == ID }), nil
}

// eventsClientset makes the clientset that Kubernetes plugins watch events with. Propeller's set-up context has none to
// give, and they use it only with send-object-events.
func eventsClientset(ctx context.Context) (kubernetes.Interface, error) {
	if !k8sconfig.GetK8sPluginConfig().SendObjectEvents {
		return nil, nil //nolint:nilnil // none is needed
	}
	clientset, _, err := propellerutils.GetKubeConfig(ctx, propellerconfig.GetConfig())
	if err != nil {
		return nil, fmt.Errorf("send-object-events is on, and no Kubernetes client can be made for it: %w", err)
	}
	return clientset, nil
}

// fallbackSetup gives a built-in plugin a metrics scope of its own: in ours its metrics would be there twice.
type fallbackSetup struct {
	pluginscore.SetupContext
	id string
}

func (f fallbackSetup) MetricsScope() promutils.Scope {
	return f.SetupContext.MetricsScope().NewSubScope("fallback_" + strings.ReplaceAll(f.id, "-", "_"))
}

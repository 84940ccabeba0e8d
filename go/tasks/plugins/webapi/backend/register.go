package backend

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/k8s"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/webapi"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// discoveryWait bounds how long propeller's start waits for services to say what they serve.
const discoveryWait = 3 * time.Second

// placeholderType is registered when nothing is claimed: propeller does not take a plugin without a type.
const placeholderType = "flyte-backend"

// registration is the process's one entry in propeller's plugin registry.
type registration struct {
	mu sync.Mutex
	// registered is set with the first configuration that turns the plugin on.
	registered bool
	claimed    []string
	// latest is what the handler was last told. The section itself may hold less: flytestdlib leaves a reload that it
	// cannot decode half done there, without telling anybody.
	latest *config.Config
	// waiting is the system that discovery made at registration, for the first load to take over.
	waiting *system
	// live are the loaded systems, which hear of every change.
	live []*system
}

var global registration

func init() { config.OnUpdate(global.onConfig) }

// OnlyLook has this process register nothing with propeller, and call no service, whatever configuration it loads from now on. It
// is for programs that look at propeller's configuration and run no tasks.
func OnlyLook() {
	global.mu.Lock()
	defer global.mu.Unlock()
	global.registered = true
}

// onConfig runs when configuration is first loaded, before propeller sets up plugins, and on every change.
func (g *registration) onConfig(ctx context.Context, cfg *config.Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.latest = cfg
	for _, s := range g.live {
		s.apply(ctx, cfg)
	}
	if g.registered || !cfg.Enabled {
		return
	}
	g.registered = true
	err := validate(cfg)
	if err != nil { // a handler cannot stop propeller; the loader will, with the same error
		logger.Errorf(ctx, "the configuration of plugin %q is invalid: %v", ID, err)
	}
	var discovered []string
	if err == nil {
		g.waiting = newSystem(cfg)
		g.waiting.discover(ctx)
		discovered = g.waiting.reg.Snapshot().TaskTypes()
	}
	c := claim(cfg, discovered, pluginmachinery.PluginRegistry(), taskconfig.GetConfig().TaskPlugins)
	g.claimed = c.types
	c.stick(&taskconfig.GetConfig().TaskPlugins)
	logger.Infof(ctx, "plugin %q is registered as default plugin and claims %s", ID, c)
	types := c.types
	if len(types) == 0 {
		types = []string{placeholderType}
	}
	pluginmachinery.PluginRegistry().RegisterCorePlugin(pluginscore.PluginEntry{
		ID: ID, RegisteredTaskTypes: types, LoadPlugin: g.load, IsDefault: true,
	})
}

// ConfigError gives what is wrong with the configuration that was loaded last, or nil; also nil while the toggle is off. It
// is for programs that can refuse a configuration, which an update handler cannot.
func ConfigError() error {
	global.mu.Lock()
	defer global.mu.Unlock()
	if global.latest == nil || !global.latest.Enabled {
		return nil
	}
	return validate(global.latest)
}

// validate checks the configuration and, since flytestdlib loses the case of names, the files that it came from.
func validate(cfg *config.Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	for _, file := range config.ConfigFiles(os.Args) {
		if err := config.CheckFile(file); err != nil {
			return err
		}
	}
	return nil
}

// load makes the plugin that propeller calls. Everything lives until ctx, propeller's own, ends.
func (g *registration) load(ctx context.Context, iCtx pluginscore.SetupContext) (pluginscore.Plugin, error) {
	g.mu.Lock()
	cfg, s, claimed := g.latest, g.waiting, g.claimed
	g.waiting = nil
	g.mu.Unlock()
	if err := validate(cfg); err != nil {
		return nil, fmt.Errorf("the configuration of plugin %q is invalid: %w", ID, err)
	}
	if s != nil && s.config() != cfg {
		s.pool.close() // the file changed between registration and set-up
		s = nil
	}
	if s == nil {
		s = newSystem(cfg)
		s.discover(ctx)
	}
	s.enqueue, s.ended = iCtx.EnqueueOwner(), ctx.Done()
	s.mx.Store(newMetrics(iCtx.MetricsScope()))
	fallbacks, err := loadBuiltIns(ctx, iCtx, claimed)
	if err != nil {
		return nil, err
	}
	entry := pluginmachinery.CreateRemotePlugin(webapi.PluginEntry{
		ID: ID, SupportedTaskTypes: claimed,
		PluginLoader: func(context.Context, webapi.PluginSetupContext) (webapi.AsyncPlugin, error) { return plugin{s}, nil },
	})
	machinery, err := entry.LoadPlugin(ctx, iCtx)
	if err != nil {
		return nil, err
	}
	g.follow(ctx, s, cfg)
	go s.run(ctx)
	return &router{s: s, machinery: machinery, builtIns: fallbacks, gate: newGate(metricsMade(iCtx.MetricsScope()))}, nil
}

// follow has the system hear of configuration changes until ctx ends, also of one that came since cfg.
func (g *registration) follow(ctx context.Context, s *system, cfg *config.Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live = append(g.live, s)
	if g.latest != cfg {
		s.apply(ctx, g.latest)
	}
	context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.live = slices.DeleteFunc(g.live, func(other *system) bool { return other == s })
	})
}

// claims are the task types that our entry in the plugin registry names, and why.
type claims struct {
	types []string
	why   map[string]string
	// left are types that we could serve and do not claim, with the reason.
	left map[string]string
}

// pluginLister is the part of propeller's plugin registry that a claim depends on.
type pluginLister interface {
	GetCorePlugins() []pluginscore.PluginEntry
	GetK8sPlugins() []k8s.PluginEntry
}

// claim decides which types to register: those that the configuration names, those that services registered, and those of
// enabled built-in web API plugins, so that they can move to a service later without a restart. Types that nobody
// registered reach us all the same, as the default plugin.
func claim(cfg *config.Config, discovered []string, plugins pluginLister, tp taskconfig.TaskPluginConfig) claims {
	c := claims{why: map[string]string{}, left: map[string]string{}}
	add := func(taskType, why string) {
		if c.why[taskType] != "" || c.left[taskType] != "" {
			return
		}
		chosen := operatorsChoice(tp, taskType)
		switch {
		case !config.Claimable(taskType):
			c.left[taskType] = "its built-in plugin needs properties of its own"
		case chosen != "" && chosen != ID:
			c.left[taskType] = fmt.Sprintf("tasks.task-plugins.default-for-task-types gives it to %s", chosen)
		case taskType != strings.ToLower(taskType) && registeredByOther(plugins, taskType):
			c.left[taskType] = "another plugin has it too, and propeller cannot be told to prefer one for a type with capitals"
		default:
			c.why[taskType] = why
			c.types = append(c.types, taskType)
		}
	}
	for taskType, id := range tp.DefaultForTaskTypes {
		if strings.EqualFold(strings.TrimSpace(id), ID) {
			add(taskType, "default-for-task-types")
		}
	}
	for _, r := range cfg.Routes {
		add(r.TaskType, "routed to "+r.Deployment)
	}
	for _, t := range cfg.TaskTypes {
		add(t, "taskTypes")
	}
	for _, t := range discovered {
		add(t, "registered by a service")
	}
	for _, e := range plugins.GetCorePlugins() {
		if e.ID == ID || !isEnabled(tp, e.ID) || slices.ContainsFunc(e.RegisteredTaskTypes, func(t string) bool { return !config.Claimable(t) }) {
			continue
		}
		for _, t := range e.RegisteredTaskTypes {
			add(t, "built-in plugin "+e.ID+" until a service registers it")
		}
	}
	slices.Sort(c.types)
	return c
}

func operatorsChoice(tp taskconfig.TaskPluginConfig, taskType string) string {
	for t, id := range tp.DefaultForTaskTypes {
		if strings.EqualFold(strings.TrimSpace(t), taskType) {
			return strings.ToLower(strings.TrimSpace(id))
		}
	}
	return ""
}

func isEnabled(tp taskconfig.TaskPluginConfig, id string) bool {
	return len(tp.EnabledPlugins) == 0 ||
		slices.ContainsFunc(tp.EnabledPlugins, func(e string) bool { return strings.EqualFold(strings.TrimSpace(e), id) })
}

func registeredByOther(plugins pluginLister, taskType string) bool {
	return slices.ContainsFunc(plugins.GetCorePlugins(), func(e pluginscore.PluginEntry) bool {
		return e.ID != ID && slices.Contains(e.RegisteredTaskTypes, taskType)
	}) || slices.ContainsFunc(plugins.GetK8sPlugins(), func(e k8s.PluginEntry) bool {
		return slices.Contains(e.RegisteredTaskTypes, taskType)
	})
}

// stick writes the choice where propeller looks for it when it sets plugins up. A list of enabled plugins that is empty
// enables all, and must stay empty.
func (c claims) stick(tp *taskconfig.TaskPluginConfig) {
	if len(tp.EnabledPlugins) > 0 && !isEnabled(*tp, ID) {
		tp.EnabledPlugins = append(slices.Clone(tp.EnabledPlugins), ID)
	}
	defaults := maps.Clone(tp.DefaultForTaskTypes)
	if defaults == nil {
		defaults = map[string]string{}
	}
	for _, t := range c.types {
		if operatorsChoice(*tp, t) == "" {
			defaults[t] = ID
		}
	}
	tp.DefaultForTaskTypes = defaults
}

func (c claims) String() string {
	if len(c.types) == 0 && len(c.left) == 0 {
		return "no task types"
	}
	parts := make([]string, 0, len(c.types)+len(c.left))
	for _, t := range c.types {
		parts = append(parts, t+" ("+c.why[t]+")")
	}
	for _, t := range names(c.left) {
		parts = append(parts, "not "+t+" ("+c.left[t]+")")
	}
	return strings.Join(parts, ", ")
}

package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	k8sconfig "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/flytek8s/config"
	propellerconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/config"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// The engine's own defaults, where they differ from propeller's. Whatever the configuration says, it wins.
const (
	// reevaluate is how often a workflow is looked at that nothing wakes, where propeller takes 10 s: sleep gates, time-outs
	// and plugins that do not wake propeller wait for it.
	reevaluate = time.Second
	// logLevel is panics only: events tell what happens, and propeller logs as errors much that is none.
	logLevel = logger.PanicLevel
)

// loadConfig sets defaults and reads the configuration as propeller does. It is one for the process, and flytestdlib decodes
// over what is there: a key that an earlier engine of this process read keeps its value.
func loadConfig(ctx context.Context, opts Options, dir string) error {
	def := propellerconfig.GetConfig()
	def.WorkflowReEval.Duration, def.DownstreamEval.Duration = reevaluate, reevaluate
	// Upstream's batching queue holds each waking back for up to a second, to spare an API server.
	def.Queue.Type = propellerconfig.CompositeQueueSimple
	// Pods that have ended would stay in memory for ever.
	k8sconfig.GetK8sPluginConfig().DeleteResourceOnFinalize = true
	tasks := taskconfig.GetConfig()
	if len(tasks.TaskPlugins.DefaultForTaskTypes) == 0 {
		tasks.TaskPlugins.DefaultForTaskTypes = maps.Clone(defaultPlugins)
	}
	if err := logger.SetConfig(&logger.Config{Level: logLevel, Formatter: logger.GetConfig().Formatter}); err != nil {
		return fmt.Errorf("cannot set the log level: %w", err)
	}
	files := opts.ConfigFiles
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("cannot read the configuration: %w", err)
		}
	}
	if opts.Config != "" {
		file := filepath.Join(dir, "engine.yaml")
		if err := os.WriteFile(file, []byte(opts.Config), 0o600); err != nil {
			return fmt.Errorf("cannot write the configuration where flytestdlib can read it: %w", err)
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil
	}
	if err := viper.NewAccessor(stdconfig.Options{SearchPaths: files, StrictMode: true}).UpdateConfig(ctx); err != nil {
		return fmt.Errorf("the configuration is invalid: %w", err)
	}
	plugins := &taskconfig.GetConfig().TaskPlugins
	for taskType, id := range defaultPlugins {
		// Propeller does not start with an entry for a plugin that is not enabled.
		if plugins.DefaultForTaskTypes[taskType] == id && len(plugins.EnabledPlugins) > 0 && !slices.Contains(plugins.EnabledPlugins, id) {
			delete(plugins.DefaultForTaskTypes, taskType)
		}
	}
	return nil
}

// defaultPlugins is what any propeller's configuration has to say: two of its own plugins have these types.
var defaultPlugins = map[string]string{
	"container": "container", "python-task": "container", "raw-container": "container", "sidecar": "sidecar",
}

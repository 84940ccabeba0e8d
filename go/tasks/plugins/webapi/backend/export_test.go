package backend

import (
	"context"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/webapi"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
)

// Configure sets what the next load of the plugin takes, and leaves loaded ones alone, so that tests can run side by side.
func Configure(cfg *config.Config) {
	global.mu.Lock()
	defer global.mu.Unlock()
	global.latest = cfg
}

// Live gives the system that was loaded last.
func Live() *System {
	global.mu.Lock()
	defer global.mu.Unlock()
	return &System{global.live[len(global.live)-1]}
}

// System lets tests look at one loaded plugin.
type System struct{ s *system }

// Apply is a reload of the configuration, for this plugin only.
func (s *System) Apply(ctx context.Context, cfg *config.Config) { s.s.apply(ctx, cfg) }

// Snapshot is the registry's.
func (s *System) Snapshot() *registry.Snapshot { return s.s.reg.Snapshot() }

// Remembered counts tasks in memory.
func (s *System) Remembered() int { return s.s.tasks.count() }

// Load makes a router as propeller does.
func Load(ctx context.Context, iCtx pluginscore.SetupContext) (pluginscore.Plugin, error) {
	return global.load(ctx, iCtx)
}

// StateVersion marks our plugin state.
const StateVersion = stateVersion

// DecodeEnvelope reads a task's recorded state.
func DecodeEnvelope(b []byte) (deployment, pluginVersion string, version uint32, err error) {
	e, err := decodeEnvelope(b)
	return e.Deployment, e.PluginVersion, e.Version, err
}

// ShowID is what events show of a job id.
func ShowID(id []byte) string { return showID(id) }

// MetaWithID is the machinery's reference to a job, which it logs.
func MetaWithID(id string) any {
	return resourceMeta{key: "k", deployment: "d", id: client.JobID(id)}
}

// HasJob says whether a sub-task's file tells of a job.
func HasJob(file []byte) bool {
	s, err := decodeSaved(file)
	return err == nil && s.standing == standingCreated
}

// Machinery gives the machinery's settings.
func (s *System) Machinery() webapi.PluginConfig { return plugin{s.s}.GetConfig() }

// MetricsMade says whether propeller has made the metrics of a task type, by which the gate goes.
func MetricsMade(scope, taskType string) bool {
	return metricsMade(promutils.NewScope(scope))(metricsKey(taskType))
}

package backend

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/k8s"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
)

type fakeRegistry struct {
	core []pluginscore.PluginEntry
	k8s  []k8s.PluginEntry
}

func (f fakeRegistry) GetCorePlugins() []pluginscore.PluginEntry { return f.core }
func (f fakeRegistry) GetK8sPlugins() []k8s.PluginEntry          { return f.k8s }

func TestClaims(t *testing.T) {
	t.Parallel()
	plugins := fakeRegistry{
		core: []pluginscore.PluginEntry{
			{ID: "bigquery", RegisteredTaskTypes: []string{"bigquery_query_job_task"}},
			{ID: "k8s-array", RegisteredTaskTypes: []string{"container_array"}},
			{ID: ID, RegisteredTaskTypes: []string{"own"}},
		},
		k8s: []k8s.PluginEntry{{ID: "ray", RegisteredTaskTypes: []string{"ray", "Ray2"}}},
	}
	for _, tc := range []struct {
		reason     string
		cfg        config.Config
		discovered []string
		tp         taskconfig.TaskPluginConfig
		types      []string
		left       []string
		enabled    []string
		defaults   map[string]string
	}{
		{
			reason:   "enabled built-in web API types are claimed, so that they can move later; array types never",
			types:    []string{"bigquery_query_job_task"},
			defaults: map[string]string{"bigquery_query_job_task": ID},
		},
		{
			reason:     "routes, taskTypes and registrations are claimed, against a Kubernetes plugin too",
			cfg:        config.Config{Routes: []config.Route{{TaskType: "a", Deployment: "d"}}, TaskTypes: []string{"b"}},
			discovered: []string{"ray", "a"},
			types:      []string{"a", "b", "bigquery_query_job_task", "ray"},
			defaults:   map[string]string{"a": ID, "b": ID, "bigquery_query_job_task": ID, "ray": ID},
		},
		{
			reason:   "an operator's own entry wins",
			tp:       taskconfig.TaskPluginConfig{DefaultForTaskTypes: map[string]string{"bigquery_query_job_task": "BigQuery"}},
			left:     []string{"bigquery_query_job_task"},
			defaults: map[string]string{"bigquery_query_job_task": "BigQuery"},
		},
		{
			reason:   "an operator's entry for us claims the type",
			tp:       taskconfig.TaskPluginConfig{DefaultForTaskTypes: map[string]string{"x": "backend"}, EnabledPlugins: []string{"backend"}},
			types:    []string{"x"},
			enabled:  []string{"backend"},
			defaults: map[string]string{"x": "backend"},
		},
		{
			reason:  "a list of enabled plugins that is not empty gets us, and disabled plugins' types are not claimed",
			tp:      taskconfig.TaskPluginConfig{EnabledPlugins: []string{"container"}},
			enabled: []string{"container", ID},
		},
		{
			reason:     "a type with capitals that another plugin has cannot be decided in propeller's configuration",
			discovered: []string{"Ray2", "Alone"},
			types:      []string{"Alone", "bigquery_query_job_task"},
			left:       []string{"Ray2"},
			defaults:   map[string]string{"Alone": ID, "bigquery_query_job_task": ID},
		},
		{
			reason:     "array types are left even when a service registers them",
			discovered: []string{"container_array"},
			types:      []string{"bigquery_query_job_task"},
			left:       []string{"container_array"},
			defaults:   map[string]string{"bigquery_query_job_task": ID},
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			before := len(tc.tp.DefaultForTaskTypes)
			original := tc.tp.DefaultForTaskTypes
			c := claim(&tc.cfg, tc.discovered, plugins, tc.tp)
			require.Equal(t, tc.types, c.types)
			require.Len(t, c.left, len(tc.left))
			for _, left := range tc.left {
				require.NotEmpty(t, c.left[left])
				require.Contains(t, c.String(), "not "+left)
			}
			c.stick(&tc.tp)
			require.Equal(t, tc.enabled, tc.tp.EnabledPlugins)
			if tc.defaults == nil {
				tc.defaults = map[string]string{}
			}
			require.Equal(t, tc.defaults, tc.tp.DefaultForTaskTypes)
			require.Len(t, original, before, "the map that propeller may be reading is not written to")
		})
	}
	require.Equal(t, "no task types", claims{}.String())
}

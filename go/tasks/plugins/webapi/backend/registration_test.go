package backend_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

// registrationFile makes this test binary load one configuration file, as propeller does, and tell what came of it: the
// plugin registry and the configuration are one for a process, so each case needs a process.
const registrationFile = "BACKEND_TEST_REGISTRATION_FILE"

// tellRegistration is the child process.
func tellRegistration(file string) error {
	ctx := context.Background()
	if err := viper.NewAccessor(stdconfig.Options{SearchPaths: []string{file}}).UpdateConfig(ctx); err != nil {
		return err
	}
	for _, e := range pluginmachinery.PluginRegistry().GetCorePlugins() {
		if e.ID == "backend" {
			fmt.Println("registered:", strings.Join(e.RegisteredTaskTypes, ","))
		}
	}
	tp := taskconfig.GetConfig().TaskPlugins
	fmt.Println("enabled:", strings.Join(tp.EnabledPlugins, ","))
	fmt.Println("sqlite:", tp.DefaultForTaskTypes["sqlite"])
	r, err := taskrunner.New(ctx, taskrunner.Options{})
	if err != nil {
		fmt.Println("load:", err)
		return nil
	}
	fmt.Println("load: ok")
	run, err := r.Start(ctx, taskrunner.Task{Template: template("sqlite")})
	if err != nil {
		return err
	}
	_, err = run.Until(ctx, pluginscore.PhaseQueued)
	fmt.Println("task:", run.State().PluginPhase, err)
	return nil
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: "sqlite"})
	const propellersOwn = `
    default-for-task-types: {container: container, python-task: container, raw-container: container, sidecar: sidecar%s}
`
	for _, tc := range []struct {
		reason string
		yaml   string
		has    []string
		hasNot []string
	}{
		{
			reason: "off means that nothing is registered",
			yaml:   "tasks:\n  task-plugins:" + fmt.Sprintf(propellersOwn, "") + "plugins: {backend: {deployments: {default: {endpoint: %q, insecure: true}}}}",
			has:    []string{"enabled: \n", "sqlite: \n", "load: ok"},
			hasNot: []string{"registered:"},
		},
		{
			reason: "on, with every plugin enabled: the list stays empty",
			yaml:   "tasks:\n  task-plugins:" + fmt.Sprintf(propellersOwn, "") + "plugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %q, insecure: true}}}}",
			has:    []string{"registered: bigquery_query_job_task,echo,sqlite\n", "enabled: \n", "sqlite: backend\n", "load: ok", "task: PhaseQueued"},
		},
		{
			reason: "on, with a list of enabled plugins: ours joins it",
			yaml:   "tasks:\n  task-plugins:\n    enabled-plugins: [container]\nplugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %q, insecure: true}}}}",
			has:    []string{"registered: sqlite\n", "enabled: container,backend\n", "sqlite: backend\n", "load: ok"},
		},
		{
			reason: "the connector plugin that ships with Flyte claims the same type, and we win without stopping propeller",
			yaml: "tasks:\n  task-plugins:\n    enabled-plugins: [container, connector-service]\n" +
				"plugins:\n  connector-service: {supportedTaskTypes: [sqlite], defaultConnector: {endpoint: %[1]q, insecure: true}}\n" +
				"  backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %[1]q, insecure: true}}}",
			has: []string{"enabled: container,connector-service,backend\n", "sqlite: backend\n", "load: ok", "task: PhaseQueued"},
		},
		{
			reason: "an operator's own choice wins over us",
			yaml: "tasks:\n  task-plugins:\n    enabled-plugins: [container, connector-service]\n    default-for-task-types: {sqlite: connector-service}\n" +
				"plugins:\n  connector-service: {supportedTaskTypes: [sqlite], defaultConnector: {endpoint: %[1]q, insecure: true}}\n" +
				"  backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %[1]q, insecure: true}}}",
			has: []string{"registered: flyte-backend\n", "sqlite: connector-service\n", "load: ok"},
		},
		{
			reason: "a service that is down neither stops nor blocks propeller",
			yaml:   "tasks:\n  task-plugins:\n    enabled-plugins: [container]\nplugins: {backend: {enable_backend_flytekit_plugin_system: true, taskTypes: [sqlite], deployments: {default: {endpoint: '127.0.0.1:1', insecure: true}}}}",
			has:    []string{"registered: sqlite\n", "load: ok", "task: PhaseQueued"},
		},
		{
			reason: "an invalid configuration stops propeller with the key that is wrong",
			yaml:   "tasks:\n  task-plugins:\n    enabled-plugins: [container]\nplugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: 'http://x', insecure: true}}}}",
			has:    []string{"load: propeller's task handler does not start: failed to load plugin - backend", "plugins.backend.deployments.default.endpoint"},
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "propeller.yaml")
			text := tc.yaml
			if strings.Contains(text, "%") {
				text = fmt.Sprintf(text, b.Endpoint())
			}
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
			cmd.Env = append(os.Environ(), registrationFile+"="+file)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			require.NoError(t, err, "%s\n%s", out, stderr.String())
			for _, want := range tc.has {
				require.Contains(t, string(out), want, stderr.String())
			}
			for _, unwanted := range tc.hasNot {
				require.NotContains(t, string(out), unwanted)
			}
		})
	}
}

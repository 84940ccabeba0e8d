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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginmachinery "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

// registrationFile makes this test binary load one configuration file, as propeller does, and tell what came of it: the
// plugin registry and the configuration are one for a process, so each case needs a process.
const registrationFile = "BACKEND_TEST_REGISTRATION_FILE"

// registrationNext names a file whose text the child writes over the first, while a task waits.
const registrationNext = "BACKEND_TEST_REGISTRATION_NEXT"

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
	run, err := r.Start(ctx, taskrunner.Task{Template: template("sqlite"), Execution: "told", Inputs: &core.LiteralMap{
		Literals: map[string]*core.Literal{"in": {Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
			Primitive: &core.Primitive{Value: &core.Primitive_StringValue{StringValue: secretInput}},
		}}}}},
	}})
	if err != nil {
		return err
	}
	_, err = run.Until(ctx, pluginscore.PhaseQueued)
	fmt.Println("task:", run.State().PluginPhase, err)
	next := os.Getenv(registrationNext)
	if next == "" {
		return nil
	}
	text, err := os.ReadFile(next)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	out, err := run.Wait(ctx)
	if err != nil {
		return err
	}
	fmt.Println("after the reload:", out.Succeeded, out.Attempts)
	return nil
}

// What must not get into logs: an input's value, and the credentials that some services put into job ids.
const (
	secretInput = "s3cr3t-input"
	secretJob   = `{"run": 1, "token": "dapi-s3cr3t"}` //nolint:gosec // a made-up one
)

// TestNothingSecretIsLogged: not at the most talkative level, and not when calls fail.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testNothingSecretIsLogged)
	t.Run(overREST, testNothingSecretIsLogged)
}

func testNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	b := newBackend(t, backendtest.Plugin{TaskType: "sqlite"})
	b.JobPrefix = secretJob
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	b.Script(backendtest.Step{Resource: succeeded(1)})
	b.Fail(backendtest.Create, 1, status.Error(codes.Unavailable, "not yet"))
	b.Fail(backendtest.Get, 1, status.Error(codes.Internal, "not yet"))
	const text = "tasks:\n  task-plugins:\n    enabled-plugins: [container]\nlogger: {level: 6}\nplugins:\n  backend:\n" +
		"    enable_backend_flytekit_plugin_system: true\n    webApi: {caching: {resyncInterval: 5s}}\n" +
		"    deployments: {default: {endpoint: %q, protocol: %s, insecure: true}}\n"
	yaml := fmt.Sprintf(text, b.Endpoint(), b.Deployment().Protocol)
	next := filepath.Join(t.TempDir(), "next.yaml")
	require.NoError(t, os.WriteFile(next, []byte(yaml), 0o600)) // no change: the child only runs the task to its end
	out, logs := childWithLogs(t, yaml, registrationNext+"="+next)
	require.Contains(t, out, "after the reload: true 1")
	require.Contains(t, logs, "flytesnacks/development/told/n0/0", "logs carry the execution's identity")
	for _, line := range strings.Split(logs, "\n") {
		require.NotContains(t, line, "s3cr3t")
	}
}

// child runs this test binary as a process that loads a configuration, and gives what it told.
func child(t *testing.T, text string, env ...string) string {
	t.Helper()
	out, _ := childWithLogs(t, text, env...)
	return out
}

func childWithLogs(t *testing.T, text string, env ...string) (out, logs string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), registrationFile+"="+file), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	told, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", told, stderr.String())
	return string(told), stderr.String()
}

// TestFileChangesApplyWithoutARestart: an operator corrects an address in the file, and a task that waited goes on.
func TestFileChangesApplyWithoutARestart(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testFileChangesApplyWithoutARestart)
	t.Run(overREST, testFileChangesApplyWithoutARestart)
}

func testFileChangesApplyWithoutARestart(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: "sqlite"})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	const text = "tasks:\n  task-plugins:\n    enabled-plugins: [container]\nplugins:\n  backend:\n" +
		"    enable_backend_flytekit_plugin_system: true\n    routes: [{taskType: sqlite, deployment: default}]\n" +
		"    deployments: {default: {endpoint: %q, protocol: %s, insecure: true}}\n"
	protocol, nowhere := b.Deployment().Protocol, "127.0.0.1:1"
	if b.REST {
		nowhere = "http://" + nowhere
	}
	next := filepath.Join(t.TempDir(), "next.yaml")
	require.NoError(t, os.WriteFile(next, fmt.Appendf(nil, text, b.Endpoint(), protocol), 0o600))
	out := child(t, fmt.Sprintf(text, nowhere, protocol), registrationNext+"="+next)
	require.Contains(t, out, "task: PhaseQueued")
	require.Contains(t, out, "after the reload: true 1")
	require.Len(t, b.Jobs(), 1)
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
			text := tc.yaml
			if strings.Contains(text, "%") {
				text = fmt.Sprintf(text, b.Endpoint())
			}
			out := child(t, text)
			for _, want := range tc.has {
				require.Contains(t, out, want)
			}
			for _, unwanted := range tc.hasNot {
				require.NotContains(t, out, unwanted)
			}
		})
	}
}

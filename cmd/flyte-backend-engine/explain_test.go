package main

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
)

// TestExplainIsTrue: a task goes where explain says that it goes, by one configuration.
func TestExplainIsTrue(t *testing.T) {
	t.Parallel()
	const both = `plugins: {backend: {deployments: {a: {endpoint: %[1]q, insecure: true}, b: {endpoint: %[2]q, insecure: true}}%[4]s}}`
	for _, tt := range []struct {
		reason, config, routes string
		// says is who it goes to by explain, and at the service that has the job.
		says, at string
	}{
		{"of two services the first by name", both, "", "a", "a"},
		{"a route for the domain", both, ", routes: [{taskType: job, deployment: b, domain: development}]", "b", "b"},
		{"a route for another project", both, ", routes: [{taskType: job, deployment: b, project: nobody}]", "a", "a"},
		{"a plugin that the type is given to and that has it not", "tasks: {task-plugins: {enabled-plugins: [container, echo], default-for-task-types: {job: echo}}}\n" + both, "", "a", "a"},
		{"Flyte's connector plugin has the type", `
tasks: {task-plugins: {enabled-plugins: [container, connector-service]}}
plugins:
  connector-service: {defaultConnector: {endpoint: %[2]q, insecure: true}}
  backend: {deployments: {c: {endpoint: %[3]q, insecure: true}}}
`, "", "connector-service", "b"},
		{"a route beats Flyte's connector plugin", `
tasks: {task-plugins: {enabled-plugins: [container, connector-service]}}
plugins:
  connector-service: {defaultConnector: {endpoint: %[2]q, insecure: true}}
  backend: {deployments: {a: {endpoint: %[1]q, insecure: true}, c: {endpoint: %[3]q, insecure: true}}%[4]s}
`, ", routes: [{taskType: job, deployment: a}]", "a", "a"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			services := map[string]*backendtest.Backend{}
			for _, name := range []string{"a", "b"} {
				b := backendtest.NewJobs()
				require.NoError(t, b.Start())
				t.Cleanup(b.Kill)
				services[name] = b
			}
			other := backendtest.New(backendtest.Plugin{TaskType: "other"})
			require.NoError(t, other.Start())
			t.Cleanup(other.Kill)
			config := file(t, "propeller.yaml", fmt.Sprintf(tt.config+"\n#%[1]s%[2]s%[3]s%[4]s\n",
				services["a"].Endpoint(), services["b"].Endpoint(), other.Endpoint(), tt.routes))

			out, _ := command(t, "explain", "--config", config, "--project", "flytesnacks", "--domain", "development", "-o", "json", "job").Output()
			var said struct {
				TaskTypes []struct{ Deployment, BuiltIn, Why string }
			}
			require.NoError(t, json.Unmarshal(out, &said), "%s", out)
			require.Len(t, said.TaskTypes, 1)
			require.Equal(t, tt.says, said.TaskTypes[0].Deployment+said.TaskTypes[0].BuiltIn, said.TaskTypes[0].Why)

			got := runLocal(t, "run", archive(t, "chains"), "one", "--config", config)
			require.Zero(t, got.code, got.stderr)
			for name, b := range services {
				require.Equal(t, name == tt.at, len(b.Jobs()) == 1, "service %s has %d jobs", name, len(b.Jobs()))
			}
		})
	}
}

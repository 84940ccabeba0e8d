package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
)

// explain runs the command, and gives its standard output and error and its exit code.
func (p propeller) explain(t *testing.T, args ...string) (out, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(p), append([]string{"explain"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func configuration(t *testing.T, format string, args ...any) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o600))
	return file
}

// explains: who gets each type, by the real plugins, the file, and live services.
func (p propeller) explains(t *testing.T) {
	t.Parallel()
	start := func(rest bool, plugins ...backendtest.Plugin) *backendtest.Backend {
		b := backendtest.New(plugins...)
		b.REST = rest
		require.NoError(t, b.Start())
		t.Cleanup(b.Kill)
		return b
	}
	one := start(false, backendtest.Plugin{TaskType: "query"}, backendtest.Plugin{TaskType: "snowflake", PluginVersion: "v3"}, backendtest.Plugin{TaskType: "spark"})
	two := start(true, backendtest.Plugin{TaskType: "query"}, backendtest.Plugin{TaskType: "sums", Sync: true})
	const format = `
tasks:
  task-plugins:
    enabled-plugins: [container, sidecar, bigquery, snowflake, k8s-array, connector-service, spark]
    default-for-task-types: {container: container, container_array: k8s-array, spark: container, python-task: sidecar}
plugins:
  connector-service:
    supportedTaskTypes: [query, old]
    defaultConnector: {endpoint: %q, insecure: true}
  backend:
    enable_backend_flytekit_plugin_system: %t
    deployments:
      one: {endpoint: %q, insecure: true}
      two: {endpoint: %q, protocol: rest, insecure: true}
      %s
    routes:
      - {taskType: bigquery_query_job_task, deployment: two, domain: production}
      - {taskType: sums, deployment: two}
    taskTypes: [mine]
`
	shy := start(false)
	shy.Fail(backendtest.List, 1000, status.Error(codes.Unauthenticated, "who are you?"))
	connector := start(false, backendtest.Plugin{TaskType: "airflow"}, backendtest.Plugin{TaskType: "query"})
	file := configuration(t, format, connector.Endpoint(), false, one.Endpoint(), two.Endpoint(), `gone: {endpoint: "127.0.0.1:1", insecure: true}
      shy: {endpoint: "`+shy.Endpoint()+`", insecure: true}
      tls: {endpoint: "`+one.Endpoint()+`"}`)
	out, said, code := p.explain(t, "--config", file)
	require.Equal(t, 1, code, said)
	require.Equal(t, "flyte-backend: 3 of 5 deployments do not answer: gone, shy, tls\n", said)
	for _, line := range []string{
		`note: the toggle plugins\.backend\.enable_backend_flytekit_plugin_system is off`,
		`note: tasks\.task-plugins\.enabled-plugins names spark, which is not compiled into this program`,
		`note: deployment one speaks plain text`,
		`gone +127\.0\.0\.1:1 +grpc +no`,
		`one +\S+ +grpc +in \S+ ms +query \(v1, any version, async\), snowflake \(v3, any version, async\), spark \(v1, any version, async\)`,
		`two +http://\S+ +rest +in \S+ ms +query \(v1, any version, async\), sums \(v1, any version, sync\)`,
		`gone does not answer: Unavailable: .*`,
		`hint: nothing listens at this address`,
		`shy does not answer: Unauthenticated: who are you\?`,
		`hint: the service wants to know its caller: `,
		`tls does not answer: Unavailable: .*`,
		`hint: .*set insecure: true`,
		`airflow +built-in connector-service +not claimed: it is this plugin's, and no route, no taskTypes and no service names it`,
		`bigquery_query_job_task +built-in bigquery +no backend plugin service has registered this task type$`,
		`bigquery_query_job_task \(domain production\) +deployment two, v1, async +routed to two, which lists no such plugin \(type bigquery_query_job_task, v1\): .*`,
		`container +built-in container +not claimed: .*`,
		`container_array +built-in k8s-array +not claimed: tasks\.task-plugins\.default-for-task-types gives it to this plugin$`,
		`python-task +built-in container +not claimed: .* \(tasks\.task-plugins\.default-for-task-types gives it to sidecar, which has no such type: propeller does not heed that\)$`,
		`raw-container +built-in container +not claimed: it is this plugin's, .*`,
		`old +built-in connector-service +not claimed: .*`,
		`mine +nothing yet +taskTypes names it, .* it waits, for 30m0s at most`,
		`query +deployment one, v1, async +registered by one$`,
		`snowflake +deployment one, v3, async +registered by one$`,
		`spark +deployment one, v1, async +registered by one \(tasks\.task-plugins\.default-for-task-types gives it to container, which has no such type: .*\)$`,
		`sums +deployment two, v1, sync +routed to two$`,
		`conflict: task type query \(v1\) is served by both one and two: one is used; a route decides otherwise`,
	} {
		require.Regexp(t, "(?m)^"+line, out)
	}
	out, _, _ = p.explain(t, "--config", file, "-o", "json", "--domain", "production", "bigquery_query_job_task", "unheard_of")
	var r struct {
		Enabled   bool
		TaskTypes []struct{ TaskType, Deployment, BuiltIn, Why string }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.False(t, r.Enabled)
	require.Len(t, r.TaskTypes, 2)
	require.Equal(t, "two", r.TaskTypes[0].Deployment)
	require.Equal(t, "container", r.TaskTypes[1].BuiltIn)
	require.Contains(t, r.TaskTypes[1].Why, "it goes to the default plugin")
	require.NotContains(t, out, "task_type_1", "nothing is made up")

	two.SetPlugins(backendtest.Plugin{TaskType: "sums", Sync: true})
	off, said, code := p.explain(t, "--config", configuration(t, format, connector.Endpoint(), false, one.Endpoint(), two.Endpoint(), ""))
	require.Zero(t, code, "%s%s", off, said)
	asked := one.Calls(backendtest.List)
	on, said, code := p.explain(t, "--config", configuration(t, format, connector.Endpoint(), true, one.Endpoint(), two.Endpoint(), ""))
	require.Zero(t, code, "%s%s", on, said)
	require.Equal(t, asked+1, one.Calls(backendtest.List), "it only looks: nothing else in the process asks")
	took := regexp.MustCompile(`(in \S+ ms)? +`) // and the width of the columns
	_, off, _ = strings.Cut(off, "\n")           // the note that the toggle is off
	require.Equal(t, took.ReplaceAllString(off, " "), took.ReplaceAllString(on, " "), "the toggle is the only difference")
}

// explainsHangingConnectors: Flyte's connector plugin may wait for ever, this command does not.
func (p propeller) explainsHangingConnectors(t *testing.T) {
	t.Parallel()
	ours := backendtest.New()
	require.NoError(t, ours.Start())
	t.Cleanup(ours.Kill)
	b := backendtest.New(backendtest.Plugin{TaskType: "airflow"})
	release := b.Hold(backendtest.List)
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	t.Cleanup(release)
	out, said, code := p.explain(t, "--config", configuration(t, `
tasks: {task-plugins: {enabled-plugins: [container, connector-service]}}
plugins:
  connector-service: {connectors: {one: {endpoint: %q, insecure: true}}}
  backend: {deployments: {ours: {endpoint: %q, insecure: true}}}
`, b.Endpoint(), ours.Endpoint()))
	require.Equal(t, 1, code, said)
	require.Equal(t, "flyte-backend: the services of Flyte's connector plugin do not answer\n", said)
	require.Contains(t, out, "note: the services of Flyte's connector plugin do not answer")
	require.NotContains(t, out, "airflow")
}

// explainsFiles: configuration is found as propeller finds it, and what has no effect there is told.
func (p propeller) explainsFiles(t *testing.T) {
	t.Parallel()
	one, two := backendtest.New(backendtest.Plugin{TaskType: "container_array"}), backendtest.New(backendtest.Plugin{TaskType: "container_array"})
	for _, b := range []*backendtest.Backend{one, two} {
		require.NoError(t, b.Start())
		t.Cleanup(b.Kill)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"enabled.yaml":  "tasks: {task-plugins: {enabled-plugins: [container, k8s-array], default-for-task-types: {container_array: k8s-array}}}",
		"services.yaml": fmt.Sprintf("plugins: {backend: {deployments: {one: {endpoint: %q, insecure: true, wibble: 1}, two: {endpoint: %q, insecure: true}}, TaskTypez: [a]}}", one.Endpoint(), two.Endpoint()),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	out, said, code := p.explain(t, "--config", filepath.Join(dir, "*.yaml"))
	require.Zero(t, code, "two services for a type that goes to neither of them are no conflict: %s", said)
	require.Regexp(t, `(?m)^container_array +built-in k8s-array +not claimed: `, out)
	require.Contains(t, out, "services.yaml: plugins.backend has keys that mean nothing, and that propeller passes over: tasktypez\n")
	require.Contains(t, out, "services.yaml: plugins.backend.deployments.one has keys that mean nothing, and that propeller passes over: wibble\n")

	help, said, code := p.explain(t, "--help")
	require.Zero(t, code, said)
	require.Contains(t, help, "flyte-backend explain --config FILE [TASK_TYPE...]")
	require.NotContains(t, help, "alsologtostderr", "flags of propeller's are not the command's")
	completed, err := exec.CommandContext(t.Context(), string(p), "__complete", "explain", "--do").Output()
	require.NoError(t, err)
	require.Contains(t, string(completed), "--domain\t")
}

func (p propeller) explainsBadInput(t *testing.T) {
	t.Parallel()
	file := configuration(t, "plugins: {}")
	for _, tt := range []struct {
		reason string
		args   []string
		says   string
	}{
		{"no file", nil, "--config is missing"},
		{"a file that is not there", []string{"--config", "nope.yaml"}, "cannot read the configuration"},
		{"a folder", []string{"--config", filepath.Dir(file)}, "is a folder\nhint: name the files in it: --config '"},
		{"a pattern that the shell has taken", []string{"--config", file, file}, "propeller.yaml is a file, and no task type\nhint: "},
		{"no YAML", []string{"--config", configuration(t, "plugins: [")}, "cannot parse YAML"},
		{"a format that is none", []string{"--config", configuration(t, "plugins: {}"), "-o", "xml"}, "--output takes text or json"},
		{"a flag that is none", []string{"--cnofig", "x"}, "unknown flag: --cnofig"},
		{"a default plugin that is not enabled", []string{"--config", configuration(t, "tasks: {task-plugins: {enabled-plugins: [container], default-for-task-types: {spark: spark}}}")}, "propeller would refuse this configuration: cannot list propeller's plugins: cannot set default plugin [spark]"},
		{"wrong values, all of them", []string{"--config", configuration(t, "plugins: {backend: {deployments: {a: {endpoint: b}, c: {endpoint: \"d:1\", protocol: soap}}}}")},
			"plugins.backend.deployments.c.protocol"},
	} {
		out, said, code := p.explain(t, tt.args...)
		require.Equal(t, 2, code, tt.reason)
		require.Empty(t, out, tt.reason)
		require.Contains(t, said, tt.says, tt.reason)
		require.Contains(t, said, "flyte-backend: ", tt.reason)
	}
}

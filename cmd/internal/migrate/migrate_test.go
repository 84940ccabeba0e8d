package migrate

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// command runs it, and gives its standard output and error.
func command(t *testing.T, args ...string) (out, said string, err error) {
	t.Helper()
	cmd := New()
	var o, e bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

const (
	connectorSection = `plugins:
  backend:
    enable_backend_flytekit_plugin_system: false
    deployments:
      default:
        endpoint: dns:///flyteconnector.flyte.svc.cluster.local:8000
        insecure: true
        timeouts:
          create: 1m
          get: 5s
          list: 2s
      big-query:
        endpoint: dns:///bigquery.flyte:443
        defaultTimeout: 3s
      service-default:
        endpoint: dns:///other.flyte:80
        insecure: true
    routes:
      - taskType: bigquery_query_job_task
        deployment: big-query
    taskTypes:
      - sensor
    discoveryInterval: 20s
    webApi:
      caching:
        resyncInterval: 15s
`
	agentSection = `plugins:
  backend:
    enable_backend_flytekit_plugin_system: false
    deployments:
      default:
        endpoint: flyteagent:8000
        insecure: true
        defaultTimeout: 3s
      custom:
        endpoint: localhost:8001
        insecure: true
        timeouts:
          execute: 10s
    routes:
      - taskType: custom_task
        deployment: custom
    webApi:
      resourceQuotas:
        default: 100
`
)

// TestMigrate: the section calls the same services, and what has no counterpart is told.
func TestMigrate(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]struct {
		section string
		notes   []string
	}{
		"connector.yaml": {connectorSection, []string{
			"connector-service.defaultConnector.timeouts.flytask has no counterpart",
			"defaultServiceConfig has no counterpart",
			`deployment "big_query" is called "big-query"`,
			`deployment "default" is called "service-default"`,
			"connector-service.connectors.default has no defaultTimeout, which meant no limit; here it means 10s",
			`connector-service.connectorForTaskTypes.spark goes to "nowhere"`,
			"supportedTaskTypes became taskTypes", "pollInterval became discoveryInterval", "resourceConstraints has no counterpart",
			"connector-service.colour is no key", "webApi is kept as it was set", "webApi.resourceQuotas was 1000",
			"default-for-task-types gives sensor to connector-service, which wins",
			"agent-service is there too, and is not looked at",
			"leave connector-service in tasks.task-plugins.enabled-plugins until",
		}},
		"agent.yaml": {agentSection, nil},
	} {
		out, said, err := command(t, "--config", filepath.Join("testdata", file))
		require.NoError(t, err)
		require.Equal(t, want.section, out)
		for _, n := range want.notes {
			require.Contains(t, said, n)
		}
		require.Equal(t, len(want.notes), strings.Count(said, "note: "), "%s", said)
		section := filepath.Join(t.TempDir(), "section.yaml")
		require.NoError(t, os.WriteFile(section, []byte(out), 0o600))
		cfg, err := endpoint.Load(t.Context(), []string{section})
		require.NoError(t, err)
		require.NoError(t, cfg.Validate())
		require.False(t, cfg.Enabled)
	}
}

// TestWrite: the section stands in the file, in front of the old one, and not a byte else has changed.
func TestWrite(t *testing.T) {
	t.Parallel()
	before, err := os.ReadFile(filepath.Join("testdata", "connector.yaml"))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, before, 0o640))
	link := filepath.Join(t.TempDir(), "link.yaml")
	require.NoError(t, os.Symlink(file, link))
	out, said, err := command(t, "--config", link, "--write")
	require.NoError(t, err)
	require.Empty(t, out)
	target, err := os.Readlink(link)
	require.NoError(t, err, "a link stays one")
	require.Equal(t, file, target)
	require.Contains(t, said, "plugins.backend is added, turned off. Next: flyte-backend explain --config "+link)
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	section := strings.TrimPrefix(connectorSection, "plugins:\n")
	require.Equal(t, 1, strings.Count(string(after), section))
	require.Equal(t, string(before), strings.Replace(string(after), section, "", 1))
	require.Contains(t, string(after), section+"  # the old section\n")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	cfg, err := endpoint.Load(t.Context(), []string{file})
	require.NoError(t, err)
	_, ok := cfg.Deployment("big-query")
	require.True(t, ok)
	rest, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, rest, 1, "nothing is left beside it")

	_, _, err = command(t, "--config", file)
	require.ErrorContains(t, err, "has plugins.backend already, in line 11")
}

// TestRefusals: what cannot be migrated is said, and no file is changed.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for reason, tt := range map[string]struct{ text, says string }{
		"no YAML":         {"plugins: [", "cannot parse YAML"},
		"an empty file":   {"", "is empty"},
		"no plugins":      {"tasks: {}\n", "has no section plugins"},
		"no old section":  {"plugins: {logs: {}}\n", "has neither plugins.connector-service nor plugins.agent-service"},
		"an old text":     {"plugins:\n  connector-service: text\n", "plugins.connector-service is no section"},
		"a key twice":     {"plugins:\n  connector-service: {}\nplugins: {}\n", "propeller.yaml: plugins (line 1) and plugins (line 3) are the same key"},
		"all in one line": {`plugins: {connector-service: {defaultConnector: {endpoint: "a:1"}}}` + "\n", "by hand"},
	} {
		file := filepath.Join(t.TempDir(), "propeller.yaml")
		require.NoError(t, os.WriteFile(file, []byte(tt.text), 0o600))
		_, _, err := command(t, "--config", file, "--write")
		require.ErrorContains(t, err, tt.says, reason)
		after, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, tt.text, string(after))
	}
	for reason, tt := range map[string]struct{ text, hint string }{
		"a chart's values": {"configuration:\n  inline:\n    plugins:\n      connector-service: {defaultConnector: {endpoint: \"a:1\"}}\n",
			"configuration.inline.plugins.connector-service is in line 4: "},
		"a ConfigMap": {"kind: ConfigMap\ndata:\n  agent.yaml: |\n    plugins:\n      agent-service: {defaultAgent: {endpoint: \"a:1\"}}\n",
			"data.agent.yaml.plugins.agent-service is in line 5: "},
		"a section at the wrong place": {"plugins: {logs: {}}\nconnector-service: {}\n", "connector-service is in line 2: "},
		"the second of two documents":  {"logger: {}\n---\nplugins: {connector-service: {}}\n", "propeller reads only the first"},
	} {
		file := filepath.Join(t.TempDir(), "propeller.yaml")
		require.NoError(t, os.WriteFile(file, []byte(tt.text), 0o600))
		_, _, err := command(t, "--config", file)
		var e *exit.Error
		require.ErrorAs(t, err, &e, reason)
		require.Equal(t, exit.BadInput, e.Code, reason)
		require.Contains(t, e.Hint, tt.hint, reason)
	}
	_, _, err := command(t, "--config", filepath.Join(t.TempDir(), "nope.yaml"))
	require.ErrorContains(t, err, "cannot read the configuration")
}

// TestWrongValues: a section that propeller would refuse is told of.
func TestWrongValues(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, []byte("plugins:\n  connector-service:\n    defaultConnector: {endpoint: \"localhost\"}\n    pollInterval: 1ms\n"), 0o600))
	out, said, err := command(t, "--config", file)
	require.NoError(t, err)
	require.Contains(t, out, "endpoint: localhost\n")
	require.Contains(t, said, "the section is to be set right before the toggle is turned on: ")
	require.Contains(t, said, "plugins."+config.SectionKey+".discoveryInterval")
}

// TestForms: the section means the same in every form that propeller takes, and what it would not take is told.
func TestForms(t *testing.T) {
	t.Parallel()
	const plain = `plugins:
  backend:
    enable_backend_flytekit_plugin_system: false
    deployments:
      default:
        endpoint: a:1
        insecure: true
      custom:
        endpoint: b:1
    routes:
      - taskType: custom_task
        deployment: custom
`
	for reason, tt := range map[string]struct {
		text  string
		notes []string
	}{
		"lists of mappings, as in Flyte's documents": {`
tasks: {task-plugins: {default-for-task-types: [{container: container}, {sensor: connector-service}]}}
plugins:
  connector-service:
    defaultConnector: {endpoint: "a:1"}
    connectors: [{custom: {endpoint: "b:1", defaultTimeout: 10s}}]
    connectorForTaskTypes:
      - custom_task: custom
`, []string{"default-for-task-types gives sensor to connector-service"}},
		"anchors and merged mappings": {`
x: &custom {endpoint: "b:1", defaultTimeout: 10s}
plugins:
  connector-service:
    defaultConnector: {endpoint: "a:1"}
    connectors: {custom: {<<: *custom}}
    connectorForTaskTypes: {custom_task: custom}
`, nil},
		"wrong kinds": {`
plugins:
  connector-service:
    defaultConnector: {endpoint: "a:1", timeouts: {GetTask: soon}, defaultTimeout: 10}
    connectors: {custom: {endpoint: "b:1", defaultTimeout: 10s}, text: "c:1", none: null}
    connectorForTaskTypes: {custom_task: custom}
    pollInterval: often
    webApi: 7
`, []string{
			"defaultConnector.defaultTimeout: 10 is no duration such as 10s", "defaultConnector.timeouts.gettask: soon is no duration",
			"connectors.text is no mapping, and is left out: c:1", "connectors.text has no endpoint", "connectors.none has no endpoint",
			"pollInterval: often is no duration", "webApi is no mapping, and is left out: 7",
		}},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "propeller.yaml")
			require.NoError(t, os.WriteFile(file, []byte(tt.text), 0o600))
			out, said, err := command(t, "--config", file)
			require.NoError(t, err)
			require.Equal(t, plain, out)
			for _, n := range tt.notes {
				require.Contains(t, said, n)
			}
		})
	}
}

// TestWriteKeepsLineEnds: a file from Windows is one afterwards.
func TestWriteKeepsLineEnds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, []byte("plugins:\r\n  connector-service: {defaultConnector: {endpoint: \"a:1\"}}\r\n"), 0o600))
	_, _, err := command(t, "--config", file, "--write")
	require.NoError(t, err)
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(after), "  backend:\r\n")
	require.Equal(t, bytes.Count(after, []byte("\n")), bytes.Count(after, []byte("\r\n")))
	_, err = endpoint.Load(t.Context(), []string{file})
	require.NoError(t, err)
}

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const repositoryRoot = "../.."

// TestBinary builds propeller as it is shipped, once (compiling it for the first time takes minutes), and runs that.
func TestBinary(t *testing.T) {
	p := propeller(filepath.Join(t.TempDir(), "flytepropeller"))
	output, err := exec.CommandContext(t.Context(), "go", "build", "-o", string(p), ".").CombinedOutput()
	require.NoError(t, err, "go build: %s", output)

	t.Run("good files", p.acceptsGoodFiles)
	t.Run("mistakes", p.refusesMistakes)
	t.Run("invalid section", p.refusesInvalidSection)
	t.Run("bad files", p.refusesBadFiles)
	t.Run("explain", p.explains)
	t.Run("explain hanging connectors", p.explainsHangingConnectors)
	t.Run("explain files", p.explainsFiles)
	t.Run("explain bad input", p.explainsBadInput)
}

// propeller is the path of a built binary.
type propeller string

// validate runs propeller's own configuration check. Paths in the files are relative to the repository's root.
func (p propeller) validate(t *testing.T, file string) (output string, err error) {
	t.Helper()
	absolute, err := filepath.Abs(file)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(p), "config", "validate", "--strict", "--file", absolute)
	cmd.Dir = repositoryRoot
	combined, err := cmd.CombinedOutput()
	return string(combined), err
}

func (p propeller) acceptsGoodFiles(t *testing.T) {
	good, err := filepath.Glob(filepath.Join(repositoryRoot, "testdata", "config", "good", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, good)
	for _, file := range good {
		t.Run(filepath.Base(file), func(t *testing.T) {
			output, err := p.validate(t, file)
			require.NoError(t, err, output)
			assert.Contains(t, output, "Validated config file successfully")
			assert.NotContains(t, output, `"level":"error"`)
		})
	}
}

func (p propeller) refusesMistakes(t *testing.T) {
	for _, tt := range []struct {
		reason, yaml, want string
	}{
		{
			reason: "a misspelt key of ours would silently leave a default in force",
			yaml:   "plugins: {backend: {discoveryIntervall: 10s}}",
			want:   "has invalid keys: discoveryintervall",
		},
		{
			reason: "so would one of a deployment",
			yaml:   "plugins: {backend: {deployments: {bigquery: {endpointt: 'bigquery:443'}}}}",
			want:   "invalid keys: endpointt",
		},
		{
			reason: "built-in plugins are compiled in beside ours, with their sections",
			yaml:   "plugins: {athena: {defaultWorkGroupp: primary}}",
			want:   "has invalid keys: defaultworkgroupp",
		},
		{
			reason: "a section that no compiled-in plugin has is refused",
			yaml:   "plugins: {backendd: {enable_backend_flytekit_plugin_system: true}}",
			want:   "backendd",
		},
	} {
		t.Run(tt.want, func(t *testing.T) {
			output, err := p.validate(t, write(t, tt.yaml))
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s: %s", tt.reason, output)
			assert.Contains(t, output, tt.want, tt.reason)
			assert.Contains(t, output, "Failed to validate config file", tt.reason)
		})
	}
}

// Every bad file would stop propeller's start, or was refused by flytestdlib itself, or says nothing because it is off.
func (p propeller) refusesBadFiles(t *testing.T) {
	bad, err := filepath.Glob(filepath.Join(repositoryRoot, "testdata", "config", "bad", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, bad)
	for _, file := range bad {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if !strings.Contains(string(text), "enable_backend_flytekit_plugin_system: true") {
			text = []byte(strings.Replace(string(text), "  backend:\n", "  backend:\n    enable_backend_flytekit_plugin_system: true\n", 1))
		}
		output, err := p.validate(t, write(t, string(text)))
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s: %s", file, output)
	}
}

// What would stop propeller's start fails the check too, although flytestdlib itself finds nothing wrong.
func (p propeller) refusesInvalidSection(t *testing.T) {
	const invalid = `
plugins:
  backend:
    enable_backend_flytekit_plugin_system: %t
    deployments:
      bigquery: {endpoint: 'bigquery.example.com:443', protocol: gprc}
`
	const want = `plugins.backend.deployments.bigquery.protocol`
	for _, tt := range []struct {
		reason  string
		enabled string
		logged  bool
	}{
		{reason: "an operator who turns the system on must hear of it at once", enabled: "true", logged: true},
		{reason: "a section that is not in use is nobody's error", enabled: "false", logged: false},
	} {
		t.Run("enabled "+tt.enabled, func(t *testing.T) {
			output, err := p.validate(t, write(t, strings.Replace(invalid, "%t", tt.enabled, 1)))
			if tt.logged {
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, tt.reason)
				assert.Contains(t, output, `"level":"error"`, tt.reason)
				assert.Contains(t, output, want, tt.reason)
				assert.Contains(t, output, "must be grpc", tt.reason)
			} else {
				require.NoError(t, err, tt.reason)
				assert.NotContains(t, output, want, tt.reason)
			}
		})
	}
}

func write(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(yaml), 0o600))
	return path
}

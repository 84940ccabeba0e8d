// Package vendors_test runs one workflow over BigQuery, Snowflake, Databricks and plain Python, on propeller's engine and by
// `pyflyte run`. The vendors are servers on loopback that run what they get.
package vendors_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// vendors are the loopback servers of the Python tests, and a service with the plugins for them.
type vendors struct {
	python   string // the virtual environment
	env      []string
	rest     string
	grpc     string
	bigQuery string
}

func startVendors(t *testing.T) *vendors {
	t.Helper()
	folder := t.TempDir()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	tool := exec.CommandContext(t.Context(), filepath.Join(root, "tools", "python.sh"))
	tool.Stderr = os.Stderr
	out, err := tool.Output()
	require.NoError(t, err)
	v := &vendors{python: strings.TrimSpace(string(out))}
	source := filepath.Join(root, "testdata", "vendors")
	env := map[string]string{"PYTHONPATH": source + ":" + filepath.Join(root, "python"), "PYTHONDONTWRITEBYTECODE": "1"}
	var authorities bytes.Buffer
	for _, module := range []string{"tests.bigquery_server", "tests.databricks_server", "tests.snowflake_server"} {
		about := v.start(t, env, "-m", module)
		maps.Copy(env, about.Env)
		if module == "tests.bigquery_server" {
			v.bigQuery = about.URL
		}
		if about.CA != "" {
			pem, err := os.ReadFile(about.CA)
			require.NoError(t, err)
			authorities.Write(pem)
		}
		if about.Config != nil {
			env["VENDORS_SNOWFLAKE"] = string(about.Config)
		}
	}
	env["SSL_CERT_FILE"] = filepath.Join(folder, "ca.crt")
	require.NoError(t, os.WriteFile(env["SSL_CERT_FILE"], authorities.Bytes(), 0o600))
	serving := v.start(t, env, "-m", "flyte_backend._serve", "--insecure", "--port", "0", "--grpc-port", "0", "--log-format", "json",
		"--plugins", "flyte_backend.plugins.bigquery", "--plugins", "flyte_backend.plugins.databricks", "--plugins", "flyte_backend.plugins.snowflake")
	v.rest, v.grpc = fmt.Sprintf("http://127.0.0.1:%d", serving.Port), fmt.Sprintf("127.0.0.1:%d", serving.GRPCPort)
	v.env = environ(env)
	return v
}

// dataset makes a dataset of BigQuery for one run, and gives the environment that names it.
func (v *vendors) dataset(t *testing.T, name string) []string {
	t.Helper()
	body := fmt.Sprintf(`{"datasetReference": {"projectId": "vendors", "datasetId": %q}}`, name)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.bigQuery+"/bigquery/v2/projects/vendors/datasets", strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s", text)
	return append(slices.Clone(v.env), "VENDORS_DATASET="+name, "TMPDIR="+t.TempDir())
}

func environ(env map[string]string) []string {
	out := os.Environ()
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	return out
}

// about is the line in which a server or service tells where it is.
type about struct {
	URL      string            `json:"url"`
	CA       string            `json:"ca"`
	Env      map[string]string `json:"env"`
	Config   json.RawMessage   `json:"config"`
	Message  string            `json:"message"`
	Port     int               `json:"port"`
	GRPCPort int               `json:"grpc_port"`
}

// start runs Python until the test ends, and gives what it says when it is ready: on standard output, or in its log.
func (v *vendors) start(t *testing.T, env map[string]string, args ...string) about {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(v.python, "bin", "python"), args...)
	cmd.Dir = filepath.Join("..", "..", "python")
	cmd.Env = environ(env)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	stdin, err := cmd.StdinPipe() // the servers end with it, whatever becomes of the test
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		_ = in.Close()
		close(done)
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Signal(os.Interrupt)
		<-done
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	var said strings.Builder
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		var a about
		if json.Unmarshal(lines.Bytes(), &a) == nil && (a.Env != nil || a.Message == "serving") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return a
		}
	}
	require.Fail(t, "it ended before it was ready", "%v\n%s", args, said.String())
	return about{}
}

// TestVendors: one workflow over BigQuery, Snowflake, Databricks and plain Python gives the same on propeller's engine, over
// either transport, and by `pyflyte run`.
func TestVendors(t *testing.T) {
	t.Parallel()
	engine := filepath.Join(t.TempDir(), "flyte-backend-engine")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", engine, "../../cmd/flyte-backend-engine").CombinedOutput()
	require.NoError(t, err, "%s", out)
	v := startVendors(t)
	flow := filepath.Join("..", "..", "testdata", "vendors", "report.py")
	want := map[string]any{"o0": 30, "o1": []any{"15 sum"}, "o2": "30: 15 sum, told in Databricks"}
	for protocol, endpoint := range map[string]string{"rest": v.rest, "grpc": v.grpc} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			config := filepath.Join(t.TempDir(), "plugins.yaml")
			text := fmt.Sprintf("plugins: {backend: {deployments: {default: {endpoint: %q, protocol: %s, insecure: true}}}}\n", endpoint, protocol)
			require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
			cmd := exec.CommandContext(t.Context(), engine, "local", "run", flow, "report", "--input", "limit=4", "--config", config, "--python", v.python)
			cmd.Env = v.dataset(t, protocol)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Run(), "%s", &stderr)
			got := map[string]any{}
			require.NoError(t, yaml.Unmarshal(stdout.Bytes(), &got))
			require.Equal(t, want, got)
		})
	}
	t.Run("pyflyte run", func(t *testing.T) {
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), filepath.Join(v.python, "bin", "pyflyte"), "run", flow, "report", "--limit", "4")
		cmd.Env = append(v.dataset(t, "local"), "FLYTE_BACKEND_ENDPOINT="+v.rest, "COLUMNS=200")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.NoError(t, cmd.Run(), "%s%s", &stdout, &stderr)
		require.Contains(t, stdout.String(), "(o0=30, o1=['15 sum'], o2='30: 15 sum, told in Databricks')\n")
	})
}

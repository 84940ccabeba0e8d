// Package conformance_test runs the conformance suite against services of this repository and of others: the SQLite example, and
// flytekit's own connector service.
package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod" // propeller's default plugin
)

// inside says that the test runs in a network of its own: flytekit's service listens at every address there is.
const inside = "FLYTE_BACKEND_CONFORMANCE_INSIDE"

// tool runs a script of tools and gives what it prints.
func tool(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", "tools", name))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "%s", said.String())
	return strings.TrimSpace(string(out))
}

// TestFlytekitConnector: flytekit's connector service fails exactly the cases that docs/conformance.md lists, and propeller's plugin
// works with it all the same.
func TestFlytekitConnector(t *testing.T) { //nolint:paralleltest // its processes are many, and it has an engine
	venv := tool(t, "connector.sh")
	isolated := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--net", "sh", "-c", `ip link set lo up && exec "$0" "$@"`,
		os.Args[0], "-test.run=^TestFlytekitConnector$", "-test.v", "-test.timeout=10m")
	isolated.Env = append(os.Environ(), inside+"=1")
	probe := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--net", "sh", "-c", "ip link set lo up")
	if os.Getenv(inside) == "" && probe.Run() == nil {
		out, err := isolated.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestFlytekitConnector/propeller")
		return
	}
	one, other := newConnector(t, venv), newConnector(t, venv)
	other.folder = one.folder
	for _, c := range []*connector{one, other} {
		require.NoError(t, c.start(t.Context()))
		t.Cleanup(c.kill)
	}
	t.Run("suite", func(t *testing.T) { checkConnector(t, one, other) })
	t.Run("propeller", func(t *testing.T) { runWorkflow(t, one.endpoint()) })
}

// checkConnector runs the suite with the connectors that are there, and compares what fails with the document.
func checkConnector(t *testing.T, one, other *connector) {
	t.Helper()
	base := conformance.Options{
		Endpoint: one.endpoint(), Replica: other.endpoint(), Insecure: true, PollInterval: 20 * time.Millisecond, JobTimeout: 5 * time.Second,
		Restart: func(ctx context.Context) error {
			one.kill()
			return one.start(ctx)
		},
	}
	integer := &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}
	square := func(taskType string, custom map[string]any) *core.TaskTemplate {
		s, err := structpb.NewStruct(custom)
		require.NoError(t, err)
		return &core.TaskTemplate{
			Id:   &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "p", Domain: "d", Name: "square", Version: "v"},
			Type: taskType, Custom: s,
			Interface: &core.TypedInterface{
				Inputs:  &core.VariableMap{Variables: map[string]*core.Variable{"x": {Type: integer}}},
				Outputs: &core.VariableMap{Variables: map[string]*core.Variable{"o0": {Type: integer}}},
			},
		}
	}
	seven := must(coreutils.MakeLiteralMap(map[string]any{"x": 7}))
	squares := base
	squares.Template, squares.Inputs = square("conformance_square", nil), seven
	squares.LongTemplate, squares.LongInputs = square("conformance_square", map[string]any{"lasting": 600}), seven
	squares.FailingTemplate, squares.FailingInputs = square("conformance_square", map[string]any{"fail": true}), seven
	now := base
	now.Template, now.Inputs, now.Run = square("conformance_square_now", nil), seven, regexp.MustCompile(`^(metadata|execute)/`)
	sensor := base
	sensor.Template = square("sensor", map[string]any{"sensor_module": "squares", "sensor_name": "AlwaysSensor", "sensor_config": nil, "inputs": map[string]any{}})
	sensor.Template.Interface = &core.TypedInterface{}
	sensor.Run = regexp.MustCompile(`^(metadata|create|poll|delete)/`)

	fails := map[string]bool{}
	for name, o := range map[string]conformance.Options{"a connector": squares, "a synchronous connector": now, "flytekit's sensor": sensor} {
		report, err := conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		require.Greater(t, report.Count(conformance.Passed, ""), 5, name)
		for _, r := range report.Results {
			if r.Outcome == conformance.Failed {
				fails[r.Case] = true
				t.Logf("%s: %s\n%s", name, r.Case, r.Text())
			}
		}
	}
	var got []string
	for id := range fails {
		got = append(got, id)
	}
	slices.Sort(got)
	require.Equal(t, documented(t), got)
}

// documented are the cases that the document says flytekit's service fails.
func documented(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/conformance.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(raw), "\n## flytekit's connector service\n")
	require.True(t, ok)
	var out []string
	for _, m := range regexp.MustCompile("(?m)^\\| ((?:`[a-z0-9/-]+`(?:, )?)+) \\|").FindAllStringSubmatch(section, -1) {
		for _, id := range strings.Split(m[1], ", ") {
			out = append(out, strings.Trim(id, "`"))
		}
	}
	slices.Sort(out)
	return out
}

// runWorkflow runs a workflow on propeller's engine whose task the connector service serves, by this repository's plugin.
func runWorkflow(t *testing.T, endpoint string) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Options{Config: fmt.Sprintf(`
tasks: {task-plugins: {enabled-plugins: [container, sidecar]}}
plugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %q, insecure: true}}}}
`, endpoint)})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return backend.Lookup() != nil && len(backend.Lookup().Unanswered()) == 0 }, 20*time.Second, 5*time.Millisecond)
	for _, row := range []struct {
		reason, taskType string
		custom           map[string]any
		phase, says      string
		o0               any
	}{
		{"a job", "conformance_square", nil, "SUCCEEDED", "", int64(49)},
		{"a job that lasts", "conformance_square", map[string]any{"lasting": 2}, "SUCCEEDED", "", int64(49)},
		{"a job that fails", "conformance_square", map[string]any{"fail": true}, "FAILED", "the template says so", nil},
		{"a synchronous task", "conformance_square_now", nil, "SUCCEEDED", "", int64(49)},
	} {
		b, err := bundle.Read("chains", workflows.Archive("chains"), bundle.Options{})
		require.NoError(t, err)
		closure, err := b.Compile("chains.one", nil)
		require.NoError(t, err)
		for _, task := range closure.GetTasks() {
			task.Template.Type = row.taskType
			task.Template.Custom, err = structpb.NewStruct(row.custom)
			require.NoError(t, err)
		}
		in := must(coreutils.MakeLiteralMap(map[string]any{"x": 7})).GetLiterals()
		x, err := e.Submit(t.Context(), bundle.FromClosure(closure, bundle.Options{}), "chains.one", engine.Submission{Inputs: in})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := x.Wait(ctx)
		cancel()
		require.NoError(t, err, row.reason)
		require.Equal(t, row.phase, out.Phase.String(), "%s: %s", row.reason, out.Error.GetMessage())
		require.Contains(t, out.Error.GetMessage(), row.says)
		if row.o0 != nil {
			require.EqualValues(t, row.o0, literals.Plain(out.Outputs.GetLiterals()["o0"]))
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// connector is flytekit's service as a process.
type connector struct {
	venv, folder     string
	port, prometheus int

	mu   sync.Mutex
	cmd  *exec.Cmd
	said *bytes.Buffer
}

func newConnector(t *testing.T, venv string) *connector {
	t.Helper()
	return &connector{venv: venv, folder: t.TempDir(), port: freePort(t), prometheus: freePort(t)}
}

// freePort gives a port that is free now, and that the system gives to nobody who asks for any while the service is away.
func freePort(t *testing.T) int {
	t.Helper()
	usedMu.Lock()
	defer usedMu.Unlock()
	for port := 16000 + os.Getpid()%8000; ; port++ {
		if used[port] {
			continue
		}
		lis, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		require.NoError(t, lis.Close())
		used[port] = true
		return port
	}
}

var (
	usedMu sync.Mutex
	used   = map[int]bool{}
)

func (c *connector) endpoint() string { return fmt.Sprintf("127.0.0.1:%d", c.port) }

func (c *connector) start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(c.venv, "bin", "pyflyte"), "serve", "connector",
		"--port", fmt.Sprint(c.port), "--prometheus_port", fmt.Sprint(c.prometheus), "--modules", "squares")
	modules, err := filepath.Abs(filepath.Join("..", "..", "testdata", "connectors"))
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "PYTHONPATH="+modules, "PYTHONDONTWRITEBYTECODE=1", "SQUARES_FOLDER="+c.folder, "FLYTE_SDK_LOGGING_LEVEL=50")
	said := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return err
	}
	c.mu.Lock()
	c.cmd, c.said = cmd, said
	c.mu.Unlock()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.endpoint())
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			c.kill()
			return errors.New("flytekit's service does not listen: " + said.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *connector) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

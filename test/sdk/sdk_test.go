// Package sdk_test runs workflows on propeller's own engine whose tasks a service made with go/backendplugin serves: the same
// service, unchanged, once with the connector plugin that ships with Flyte and once with this repository's plugin, which calls
// it over gRPC and over REST.
//
// The service is built by its own module and started as a program, as those of other people are.
package sdk_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod" // propeller's default plugin
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/connector"
)

// sides are propeller's configurations, for a service whose gRPC address is %[1]q and whose URL is %[2]q. Each side is a process of its own: a process has one engine.
var sides = map[string]string{
	"connector plugin": `
tasks: {task-plugins: {enabled-plugins: [container, sidecar, connector-service]}}
plugins: {connector-service: {defaultConnector: {endpoint: %[1]q}, webApi: {caching: {resyncInterval: 5s}}}}
`,
	"this plugin": `
tasks: {task-plugins: {enabled-plugins: [container, sidecar]}}
plugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %[1]q, insecure: true}}}}
`,
	"this plugin, over REST": `
tasks: {task-plugins: {enabled-plugins: [container, sidecar]}}
plugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {protocol: rest, endpoint: %[2]q, insecure: true}}}}
`,
}

const (
	configEnv = "FLYTE_BACKEND_SDK_CONFIG"
	folderEnv = "FLYTE_BACKEND_SDK_FOLDER"
	limit     = 2 * time.Minute
)

// outcome is how a workflow ended.
type outcome struct {
	Phase, Error string
	Outputs      map[string]any
}

// runs are the workflows, with how their tasks are changed to be the service's.
var runs = map[string]struct {
	workflow string
	taskType string
	custom   map[string]any
	inputs   map[string]any
	want     outcome
}{
	"a job":             {"chains.one", "square", nil, map[string]any{"x": 7}, succeeded("49")},
	"a job that lasts":  {"chains.one", "square", map[string]any{"lasting": 3}, map[string]any{"x": 8}, succeeded("64")},
	"jobs in a row":     {"chains.chain", "square", nil, map[string]any{"x": 3}, succeeded("6561")},
	"a synchronous one": {"chains.one", "square_sync", nil, map[string]any{"x": 9}, succeeded("81")},
	"a user's error":    {"chains.one", "square", map[string]any{"reject": "no"}, map[string]any{"x": 1}, outcome{Phase: "FAILED", Error: "rejected: no"}},
	"outputs of every kind": {"inputs.rich_outputs", "rich", nil, map[string]any{}, outcome{Phase: "SUCCEEDED", Outputs: map[string]any{
		"o0": 1.0, "o1": 0.5, "o2": "s", "o3": true, "o4": "2001-09-09T01:46:40Z", "o5": "1m0s", "o6": []any{1.0, 2.0}, "o7": map[string]any{"a": 1.0}, "o8": 7.0,
	}}},
}

func succeeded(o0 string) outcome {
	var n float64
	if err := json.Unmarshal([]byte(o0), &n); err != nil {
		panic(err)
	}
	return outcome{Phase: "SUCCEEDED", Outputs: map[string]any{"o0": n}}
}

func TestMain(m *testing.M) {
	if config := os.Getenv(configEnv); config != "" {
		play(config, os.Getenv(folderEnv))
		return
	}
	os.Exit(m.Run())
}

// TestServiceRunsUnderBothPlugins: every workflow ends the same way with either plugin, over either transport.
func TestServiceRunsUnderBothPlugins(t *testing.T) {
	address, url := serve(t)
	for name, config := range sides {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), configEnv+"="+fmt.Sprintf(config, address, url), folderEnv+"="+folder)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			raw, err := os.ReadFile(filepath.Join(folder, "outcomes.json"))
			require.NoError(t, err)
			var got map[string]outcome
			require.NoError(t, json.Unmarshal(raw, &got))
			for name, run := range runs {
				require.Contains(t, got[name].Error, run.want.Error, name)
				run.want.Error = got[name].Error
				require.Equal(t, run.want, got[name], name)
			}
		})
	}
}

// serve builds the service, starts it, and ends it with the test by SIGTERM, at which it must drain.
func serve(t *testing.T) (address, url string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "testservice")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./internal/testservice")
	build.Dir = filepath.Join("..", "..", "go", "backendplugin")
	build.Env = append(os.Environ(), "GOWORK=off")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program)
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	read := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		<-read
		require.NoError(t, cmd.Wait(), "it drains")
	})
	addresses := make(chan [2]string, 1)
	go func() {
		defer close(read)
		lines := bufio.NewScanner(log)
		for lines.Scan() { // all that it logs, so that it never waits for a reader
			said := map[string]string{}
			for _, word := range strings.Fields(lines.Text()) {
				key, value, _ := strings.Cut(word, "=")
				said[key] = value
			}
			if said["address"] != "" && said["rest"] != "" {
				addresses <- [2]string{said["address"], "http://" + said["rest"]}
			}
		}
	}()
	select {
	case a := <-addresses:
		return a[0], a[1]
	case <-read:
		t.Fatal("the service ended before it said where it listens")
		return "", ""
	}
}

// play runs all workflows at once on an engine with the configuration, and writes down how they ended.
func play(config, folder string) {
	e := must(engine.Open(context.Background(), engine.Options{Config: config}))
	// The engine itself does not wait for long until services have said what they serve.
	for backend.Lookup() != nil && len(backend.Lookup().Unanswered()) > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	executions := map[string]*engine.Execution{}
	for name, run := range runs {
		module, _, _ := strings.Cut(run.workflow, ".")
		b := must(bundle.Read(module, workflows.Archive(module), bundle.Options{}))
		closure := must(b.Compile(run.workflow, nil))
		for _, t := range closure.GetTasks() {
			t.Template.Type = run.taskType
			if run.custom != nil {
				t.Template.Custom = must(structpb.NewStruct(run.custom))
			}
		}
		in := must(coreutils.MakeLiteralMap(run.inputs)).GetLiterals()
		executions[name] = must(e.Submit(context.Background(), bundle.FromClosure(closure, bundle.Options{}), run.workflow, engine.Submission{Inputs: in}))
	}
	outcomes := map[string]outcome{}
	for name, x := range executions {
		out := must(x.Wait(context.Background()))
		o := outcome{Phase: out.Phase.String(), Error: out.Error.GetMessage()}
		for name, l := range out.Outputs.GetLiterals() {
			if o.Outputs == nil {
				o.Outputs = map[string]any{}
			}
			o.Outputs[name] = literals.Plain(l)
		}
		outcomes[name] = o
	}
	if err := os.WriteFile(filepath.Join(folder, "outcomes.json"), must(json.Marshal(outcomes)), 0o600); err != nil {
		panic(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

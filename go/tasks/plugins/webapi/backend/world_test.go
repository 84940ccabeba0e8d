package backend_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod"         // a built-in Kubernetes plugin, and the default one
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing"         // the built-in echo plugin
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/bigquery" // a built-in web API plugin
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// limit bounds every wait of these tests.
const limit = 3 * time.Minute

// TestMain turns the plugin on as propeller does, before any plugin is loaded: what is claimed is fixed then.
func TestMain(m *testing.M) {
	if file := os.Getenv(registrationFile); file != "" {
		if err := tellRegistration(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Any propeller needs these: two of its own plugins have the type.
	taskconfig.GetConfig().TaskPlugins.DefaultForTaskTypes = map[string]string{
		"container": "container", "python-task": "container", "raw-container": "container", "sidecar": "sidecar",
	}
	cfg := baseConfig()
	if err := config.Set(context.Background(), cfg); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func duration(d time.Duration) stdconfig.Duration { return stdconfig.Duration{Duration: d} }

// Names of subtests, which say what the services of a test speak.
const (
	overGRPC = "gRPC"
	overREST = "REST"
)

// newBackend makes a backend for the transport that the test's name says.
func newBackend(tb testing.TB, plugins ...backendtest.Plugin) *backendtest.Backend {
	tb.Helper()
	b := backendtest.New(plugins...)
	b.REST = slices.Contains(strings.Split(tb.Name(), "/"), overREST)
	return b
}

// baseConfig names a deployment for each backend: "default", then "b1", "b2", …
func baseConfig(backends ...*backendtest.Backend) *config.Config {
	cfg := config.Default()
	cfg.Enabled = true
	cfg.Deployments = map[string]*config.Deployment{}
	for i, b := range backends {
		cfg.Deployments[deploymentName(i)] = b.Deployment()
	}
	cfg.DiscoveryInterval = duration(time.Second)
	cfg.Create.InitialBackoff = duration(50 * time.Millisecond)
	cfg.Create.MaxBackoff = duration(200 * time.Millisecond)
	cfg.Poll.UpdateInterval = duration(0)
	cfg.Poll.InitialInterval = duration(0) // polls are counted
	cfg.WebAPI.Caching.ResyncInterval = duration(5 * time.Second)
	cfg.WebAPI.Caching.Workers = 10
	return cfg
}

func deploymentName(i int) string {
	if i == 0 {
		return "default"
	}
	return "b" + string(rune('0'+i))
}

// world is one propeller with backend services.
type world struct {
	t   testing.TB
	ctx context.Context
	cfg *config.Config
	// backends have the deployments "default", "b1", …
	backends []*backendtest.Backend
	runner   *taskrunner.Runner
	system   *backend.System
	stop     context.CancelFunc
	// reevaluate is how often a task is looked at unasked.
	reevaluate time.Duration
	// store replaces the runner's own from the next restart on.
	store *storage.DataStore
}

// startBackend runs a test backend until the test ends.
func startBackend(tb testing.TB, plugins ...backendtest.Plugin) *backendtest.Backend {
	tb.Helper()
	b := newBackend(tb, plugins...)
	require.NoError(tb, b.Start())
	tb.Cleanup(b.Kill)
	return b
}

// newWorld loads the plugin with the changes that the test makes to the base configuration.
func newWorld(tb testing.TB, change func(*config.Config), backends ...*backendtest.Backend) *world {
	tb.Helper()
	cfg := baseConfig(backends...)
	if change != nil {
		change(cfg)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	tb.Cleanup(cancel)
	w := &world{t: tb, ctx: ctx, cfg: cfg, backends: backends, reevaluate: 100 * time.Millisecond}
	w.restart()
	return w
}

// restart ends what propeller runs and loads the plugin again, as a new process does. The store and the cluster stay.
func (w *world) restart() {
	w.t.Helper()
	old := w.runner
	if w.stop != nil {
		w.stop()
	}
	ctx, cancel := context.WithCancel(w.ctx)
	w.stop = cancel
	w.t.Cleanup(cancel)
	opts := taskrunner.Options{Reevaluate: w.reevaluate}
	if old != nil {
		opts.Store, opts.Cluster = old.Store(), old.Cluster()
	}
	if w.store != nil {
		opts.Store = w.store
	}
	w.load(ctx, opts)
	// Propeller starts without a service that is slow to say what it serves, and on a busy machine all of them are: tasks
	// would go to built-in plugins.
	for i, b := range w.backends {
		require.Eventually(w.t, func() bool {
			h, there := w.system.Snapshot().Health()[deploymentName(i)]
			return !there || !h.LastSeen.IsZero() || !b.Running()
		}, limit, 5*time.Millisecond, "deployment %s says what it serves", deploymentName(i))
	}
}

func (w *world) load(ctx context.Context, opts taskrunner.Options) {
	w.t.Helper()
	loading.Lock()
	defer loading.Unlock()
	backend.Configure(w.cfg)
	runner, err := taskrunner.New(ctx, opts)
	require.NoError(w.t, err)
	w.runner, w.system = runner, backend.Live()
}

// loading guards what is one for the process: the configuration that the next load takes.
var loading sync.Mutex

func (w *world) start(task taskrunner.Task) *taskrunner.Run {
	w.t.Helper()
	run, err := w.runner.Start(w.ctx, task)
	require.NoError(w.t, err)
	return run
}

// runningTask is a world with one backend, and a task that runs there for as long as the test wants.
func runningTask(t *testing.T, change func(*config.Config)) (*backendtest.Backend, *world, *taskrunner.Run) {
	t.Helper()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("working")})
	w := newWorld(t, change, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	ended, err := run.Until(w.ctx, pluginscore.PhaseRunning)
	require.NoError(t, err)
	require.Nil(t, ended)
	return b, w, run
}

func (w *world) finish(run *taskrunner.Run) *taskrunner.Outcome {
	w.t.Helper()
	out, err := run.Wait(w.ctx)
	require.NoError(w.t, err)
	return out
}

// eventually waits for a condition with a deadline.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, limit, 5*time.Millisecond, what)
}

// template is a small task with one integer output.
func template(taskType string) *core.TaskTemplate {
	return &core.TaskTemplate{
		Id:   &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "flytesnacks", Domain: "development", Name: "t." + taskType, Version: "v1"},
		Type: taskType,
		Interface: &core.TypedInterface{
			Outputs: &core.VariableMap{Variables: map[string]*core.Variable{
				"n": {Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}},
			}},
		},
		Metadata: &core.TaskMetadata{Retries: &core.RetryStrategy{}},
	}
}

func intLiteral(n int64) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
	}}}}
}

func outputs(n int64) *core.LiteralMap {
	return &core.LiteralMap{Literals: map[string]*core.Literal{"n": intLiteral(n)}}
}

func succeeded(n int64) *admin.Resource {
	return &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: outputs(n)}
}

func running(message string) *admin.Resource {
	return &admin.Resource{Phase: core.TaskExecution_RUNNING, Message: message}
}

// phases lists the phases of events, without repetition.
func phases(events []*event.TaskExecutionEvent) []string {
	var out []string
	for _, e := range events {
		if p := e.GetPhase().String(); len(out) == 0 || out[len(out)-1] != p {
			out = append(out, p)
		}
	}
	return out
}

func reasons(events []*event.TaskExecutionEvent) []string {
	var out []string
	for _, e := range events {
		for _, r := range e.GetReasons() {
			out = append(out, r.GetReason())
		}
	}
	return out
}

package engine_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod" // the default plugin, for tasks in containers
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing" // the built-in echo plugin
)

// limit bounds every wait of these tests.
const limit = 3 * time.Minute

// The tests share one engine, since a process has one, and one service; they tell their executions apart by name.
var (
	shared  *engine.Engine
	service *backendtest.Backend

	eventsMu sync.Mutex
	events   = map[string][]engine.Event{}
)

// config is what propeller is told in these tests: poll quickly, and nothing else that differs from the defaults.
const config = `plugins:
  backend:
    enable_backend_flytekit_plugin_system: true
    deployments:
      default: {endpoint: %q, insecure: true}
    webApi: {caching: {resyncInterval: 5s}}
`

func TestMain(m *testing.M) {
	if run, ok := children[os.Getenv(childEnv)]; ok {
		run()
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	service = backendtest.NewJobs()
	if err := service.Start(); err != nil {
		panic(err)
	}
	defer service.Kill()
	var err error
	shared, err = open(engine.Options{Config: fmt.Sprintf(config, service.Endpoint()), OnEvent: record})
	if err != nil {
		panic(err)
	}
	defer func() { _ = shared.Close() }()
	if err := warmUp(); err != nil {
		panic(err)
	}
	return m.Run()
}

// warmUp uses each plugin and task type once. Propeller v1.16.8 writes the map of its metrics by plugin and type under a copy
// of the lock (task.Handler.fetchPluginTaskMetrics), which the race detector finds when the first uses come at once.
func warmUp() error {
	for _, w := range []struct{ module, name string }{{"chains", "types"}, {"unserved", "echoed"}} {
		b, err := bundle.Read(w.module, workflows.Archive(w.module), bundle.Options{})
		if err != nil {
			return err
		}
		x, err := shared.Submit(context.Background(), b, w.name, engine.Submission{})
		if err != nil {
			return err
		}
		if _, err := x.Wait(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// record keeps events by execution.
func record(e engine.Event) {
	eventsMu.Lock()
	defer eventsMu.Unlock()
	name := e.Workflow.GetExecutionId().GetName() + e.Node.GetId().GetExecutionId().GetName() + e.Task.GetParentNodeExecutionId().GetExecutionId().GetName()
	events[name] = append(events[name], e)
}

func eventsOf(x *engine.Execution) []engine.Event {
	eventsMu.Lock()
	defer eventsMu.Unlock()
	return append([]engine.Event{}, events[x.ID().GetName()]...)
}

func load(t *testing.T, module string) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Read(module, workflows.Archive(module), bundle.Options{})
	require.NoError(t, err)
	return b
}

// inputs makes literals of Go values.
func inputs(t *testing.T, values map[string]any) map[string]*core.Literal {
	t.Helper()
	m, err := coreutils.MakeLiteralMap(values)
	require.NoError(t, err)
	return m.GetLiterals()
}

// start submits workflow "module.name" to the shared engine.
func start(t *testing.T, module, name string, values map[string]any) *engine.Execution {
	t.Helper()
	x, err := shared.Submit(t.Context(), load(t, module), module+"."+name, engine.Submission{Inputs: inputs(t, values)})
	require.NoError(t, err)
	return x
}

func wait(t *testing.T, x *engine.Execution) *engine.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := x.Wait(ctx)
	require.NoError(t, err)
	return out
}

// run gives the outputs of a workflow that is to succeed.
func run(t *testing.T, module, name string, values map[string]any) map[string]*core.Literal {
	t.Helper()
	out := wait(t, start(t, module, name, values))
	require.Equal(t, core.WorkflowExecution_SUCCEEDED, out.Phase, "%v", out.Error)
	return out.Outputs.GetLiterals()
}

var numbers atomic.Int64

// unique gives a number that nothing else in the shared engine has; it begins a range of a thousand such.
func unique() int64 { return 1000 * numbers.Add(1) }

func integer(l *core.Literal) int64 { return l.GetScalar().GetPrimitive().GetInteger() }

// eventually waits for a condition with a deadline.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, limit, 5*time.Millisecond, what)
}

// requireJobs compares their number only: a job prints as a page.
func requireJobs(t *testing.T, want int, jobs []backendtest.Job, reason ...any) {
	t.Helper()
	require.Equal(t, want, len(jobs), reason...) //nolint:testifylint // Len would print them
}

package cluster_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster/flytekittest"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// python finds the flytekit that tests share.
func python(t *testing.T) cluster.Python {
	t.Helper()
	if testing.Short() {
		t.Skip("flytekit's own processes take their time: make e2e")
	}
	venv, err := flytekittest.Virtualenv(t.Context())
	require.NoError(t, err)
	p, err := cluster.FindPython(t.Context(), venv)
	require.NoError(t, err)
	return p
}

// TestFlytekit runs real workflows of Python functions through propeller's engine, container plugin and ArrayNode.
func TestFlytekit(t *testing.T) {
	p := python(t)
	service := backendtest.NewJobs()
	require.NoError(t, service.Start())
	t.Cleanup(service.Kill)
	var mu sync.Mutex
	var lines []cluster.Line
	e, err := engine.Open(t.Context(), engine.Options{
		// Not the plugin that TestRunnable registers.
		Config: fmt.Sprintf(`tasks: {task-plugins: {enabled-plugins: [container, sidecar, backend]}}
plugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: %q, insecure: true}}}}
`, service.Endpoint()),
		Processes: &cluster.Processes{
			Python: p, Source: sources, Environ: environ(),
			OnLine: func(l cluster.Line) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, l)
			},
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	require.Eventually(t, func() bool { return len(backend.Lookup().Unanswered()) == 0 }, wait, tick, "the service says what it serves")
	// Propeller v1.16.8 writes the map of its metrics by plugin and type under a copy of the lock, which the race detector finds
	// when the first uses come at once: here, a job and a function are used once before.
	warm, err := bundle.Read("pythons", workflows.Archive("pythons"), bundle.Options{})
	require.NoError(t, err)
	x, err := e.Submit(t.Context(), warm, "pythons.mixed", engine.Submission{})
	require.NoError(t, err)
	_, err = x.Wait(t.Context())
	require.NoError(t, err)
	for _, c := range []struct {
		why, module, workflow string
		values, wants         map[string]any
		phase                 core.WorkflowExecution_Phase
		message               string
		task                  string // that a line of output is to name
		again                 bool   // its time may be over before its process has written a line, on a busy machine
	}{
		{
			why: "functions in a row and beside each other", module: "pythons", workflow: "plain",
			values: map[string]any{"x": 5, "name": "you"}, wants: map[string]any{"o0": 20, "o1": "hello, you"}, task: "pythons.double",
		},
		{
			why: "an exception", module: "pythons", workflow: "failing",
			phase: core.WorkflowExecution_FAILED, message: "ZeroDivisionError: division by zero", task: "pythons.divide",
		},
		{why: "attempts are counted", module: "pythons", workflow: "retried", wants: map[string]any{"o0": 1}, task: "pythons.third_time_lucky"},
		{why: "what runs too long is killed", module: "pythons", workflow: "too_slow", phase: core.WorkflowExecution_FAILED, message: "timeout", task: "pythons.sleepy", again: true},
		{why: "a map", module: "pythons", workflow: "mapped", wants: map[string]any{"o0": []any{2, 4, 6}}},
		{why: "between jobs of a service", module: "pythons", workflow: "mixed", wants: map[string]any{"o0": 5}, task: "pythons.double"},
		{why: "a dynamic workflow", module: "dynamics", workflow: "jobs", wants: map[string]any{"o0": 7}, task: "dynamics.jobs_of"},
		{why: "a dynamic workflow that raises", module: "dynamics", workflow: "failing_function", phase: core.WorkflowExecution_FAILED, message: "the function itself fails"},
	} {
		t.Run(c.why, func(t *testing.T) {
			t.Parallel()
			b, err := bundle.Read(c.module, workflows.Archive(c.module), bundle.Options{})
			require.NoError(t, err)
			in, err := coreutils.MakeLiteralMap(c.values)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			var out *engine.Outcome
			named := c.task == ""
			for again := true; again; again = c.again && !named {
				x, err := e.Submit(t.Context(), b, c.module+"."+c.workflow, engine.Submission{Inputs: in.GetLiterals()})
				require.NoError(t, err)
				out, err = x.Wait(ctx)
				require.NoError(t, err)
				mu.Lock()
				named = named || slices.ContainsFunc(lines, func(l cluster.Line) bool {
					return l.Pod.Execution == x.ID().GetName() && l.Pod.Task == c.task
				})
				mu.Unlock()
			}
			assert.True(t, named, "no line of output is of task %s", c.task)
			if c.phase == core.WorkflowExecution_UNDEFINED {
				c.phase = core.WorkflowExecution_SUCCEEDED
			}
			require.Equal(t, c.phase, out.Phase, "%v", out.Error)
			assert.Contains(t, strings.ToLower(out.Error.GetMessage()), strings.ToLower(c.message))
			if c.wants != nil {
				want, err := coreutils.MakeLiteralMap(c.wants)
				require.NoError(t, err)
				assert.True(t, proto.Equal(want, out.Outputs), "%v", out.Outputs)
			}
		})
	}
}

// TestFastRegistered runs a task whose code is a distribution, which flytekit unpacks.
func TestFastRegistered(t *testing.T) {
	p := python(t)
	distribution := filepath.Join(t.TempDir(), "code.tar.gz")
	require.NoError(t, exec.Command("tar", "-czf", distribution, "-C", sources, "pythons.py", "jobs.py").Run())
	for _, c := range []struct {
		why          string
		distribution string
		source       string
	}{
		{why: "uploaded", distribution: "file://" + distribution},
		{why: "not uploaded: the sources are what would have been", distribution: "{{ .remote_package_path }}", source: sources},
	} {
		t.Run(c.why, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "a folder") // flytekit takes the text behind file:// as it is
			require.NoError(t, os.Mkdir(dir, 0o750))
			in, err := coreutils.MakeLiteralMap(map[string]any{"x": 21})
			require.NoError(t, err)
			b, err := proto.Marshal(in)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(dir+"/inputs.pb", b, 0o600))
			w := newWorld(t, &cluster.Processes{Python: p, Source: c.source, Environ: environ()})
			task := shell("a", "")
			task.Spec.Containers[0].Command = nil
			task.Spec.Containers[0].Args = []string{
				"pyflyte-fast-execute", "--additional-distribution", c.distribution, "--dest-dir", "/not/to/be/written", "--",
				"pyflyte-execute", "--inputs", "file://" + dir + "/inputs.pb", "--output-prefix", "file://" + dir + "/out",
				"--raw-output-data-prefix", "file://" + dir + "/raw", "--checkpoint-path", "file://" + dir + "/check", "--prev-checkpoint", `""`,
				"--resolver", "flytekit.core.python_auto_container.default_task_resolver", "--", "task-module", "pythons", "task-name", "double",
			}
			w.create(t, task)
			w.until(t, "a", v1.PodSucceeded, v1.PodFailed)
			b, err = os.ReadFile(dir + "/out/outputs.pb")
			require.NoError(t, err, "%v", w.text())
			out := &core.LiteralMap{}
			require.NoError(t, proto.Unmarshal(b, out))
			assert.Equal(t, int64(42), out.GetLiterals()["o0"].GetScalar().GetPrimitive().GetInteger())
		})
	}
}

const sources = "../../../testdata/workflows"

// environ keeps Python from writing beside the sources.
func environ() []string { return append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1") }

func TestFindPython(t *testing.T) {
	p := python(t)
	bare, unlinked, dir := filepath.Join(t.TempDir(), "bare"), filepath.Join(t.TempDir(), "unlinked"), t.TempDir()
	for _, venv := range []string{bare, unlinked} {
		require.NoError(t, exec.Command(p.Path, "-m", "venv", "--without-pip", venv).Run())
	}
	// flytekit can be imported there, and its commands were not installed.
	packages, err := filepath.Glob(filepath.Join(filepath.Dir(p.Path), "..", "lib", "python*", "site-packages"))
	require.NoError(t, err)
	own, err := filepath.Glob(unlinked + "/lib/python*/site-packages")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(own[0]+"/others.pth", []byte(packages[0]+"\n"), 0o600))
	broken := filepath.Join(dir, "python3")
	require.NoError(t, os.WriteFile(broken, []byte("#!/bin/sh\necho 'not a Python' >&2\nexit 1\n"), 0o700))
	empty := t.TempDir()
	for _, c := range []struct {
		why, hint, path string
		err             string // the beginning of the error
	}{
		{why: "a virtual environment", hint: filepath.Dir(filepath.Dir(p.Path))},
		{why: "a Python", hint: p.Path},
		{why: "on PATH", path: filepath.Dir(p.Path)},
		{why: "a name on PATH", hint: "python", path: filepath.Dir(p.Path)},
		{why: "the first on PATH that has flytekit", path: dir + ":" + filepath.Dir(p.Path)},
		{why: "no Python", path: empty, err: "no Python: neither python3 nor python is on PATH; install Python 3.10 to 3.12 with flytekit (pip install flytekit==1.16.31), or name one"},
		{why: "no flytekit", hint: bare, err: bare + "/bin/python (Python " + p.Version + ") has no flytekit; add it with: " + bare + "/bin/python -m pip install flytekit==1.16.31"},
		{
			why: "no entry point", hint: unlinked,
			err: unlinked + "/bin/python (Python " + p.Version + ") has flytekit 1.16.31, but no command pyflyte-execute in " + unlinked + "/bin; install it anew with: " +
				unlinked + "/bin/python -m pip install --force-reinstall --no-deps flytekit==1.16.31",
		},
		{why: "no such file", hint: dir + "/none", err: "no Python at " + dir + "/none: stat " + dir + "/none: no such file or directory; name a virtual environment or a Python"},
		{why: "no such name", hint: "python-none", err: "no Python at python-none: executable file not found in $PATH; name a virtual environment or a Python"},
		{why: "some folder", hint: empty, err: "folder " + empty + " is no virtual environment: it has no bin/python; name a virtual environment or a Python"},
		{why: "no Python at all", hint: broken, err: broken + " does not run as a Python 3.8 or newer: exit status 1: not a Python"},
	} {
		t.Run(c.why, func(t *testing.T) {
			if c.path != "" {
				t.Setenv("PATH", c.path)
			}
			found, err := cluster.FindPython(t.Context(), c.hint)
			if c.err != "" {
				require.EqualError(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, p.Flytekit, found.Flytekit)
			assert.Equal(t, p.Version, found.Version)
			assert.Equal(t, p.Scripts, found.Scripts)
		})
	}
}

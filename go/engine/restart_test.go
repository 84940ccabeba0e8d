package engine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// An engine that is to be killed, or that is to have a folder or a configuration of its own, runs in a child process: this
// test binary again, told by the environment what to do.
const childEnv = "FLYTE_BACKEND_ENGINE_TEST_CHILD"

// childLimit bounds the life of a child, some of which are given much to do.
const childLimit = 5 * time.Minute

// order is what a child is told to run.
type order struct {
	Folder, Config, Module, Workflow string
	// Count is how many executions there are to be in all, named x0, x1, ...; the child makes those that are not there.
	Count int
	// Inputs are integers.
	Inputs map[string]int64
	// Lists are lists of integers.
	Lists map[string][]int64
	// Python is a virtual environment, and Source where the packages' code is; tasks in containers are local processes if they
	// are set.
	Python, Source string
}

var children = map[string]func(){"run": runOrder}

// runOrder opens an engine, runs what it is told, and prints a line for each execution that has ended.
func runOrder() {
	var o order
	check(json.Unmarshal([]byte(os.Getenv("FLYTE_BACKEND_ENGINE_TEST_ORDER")), &o))
	opts := engine.Options{Folder: o.Folder, Config: o.Config}
	if o.Python != "" {
		python, err := cluster.FindPython(context.Background(), o.Python)
		check(err)
		opts.Processes = &cluster.Processes{Python: python, Source: o.Source}
	}
	e, err := open(opts)
	check(err)
	b, err := bundle.Read(o.Module, workflows.Archive(o.Module), bundle.Options{})
	check(err)
	in := map[string]*core.Literal{}
	for name, n := range o.Inputs {
		in[name] = intLiteral(n)
	}
	for name, list := range o.Lists {
		c := &core.LiteralCollection{}
		for _, n := range list {
			c.Literals = append(c.Literals, intLiteral(n))
		}
		in[name] = &core.Literal{Value: &core.Literal_Collection{Collection: c}}
	}
	xs := e.Executions()
	fmt.Println("opened with", len(xs), "executions")
	for i := range o.Count {
		id := &core.WorkflowExecutionIdentifier{Project: b.Project(), Domain: b.Domain(), Name: fmt.Sprint("x", i)}
		if _, there := e.Execution(id); !there {
			x, err := e.Submit(context.Background(), b, o.Workflow, engine.Submission{Name: id.GetName(), Inputs: in})
			check(err)
			xs = append(xs, x)
		}
	}
	for _, x := range xs {
		out, err := x.Wait(context.Background())
		check(err)
		fmt.Println(x.ID().GetName(), out.Phase, show(out.Outputs.GetLiterals()["o0"]), out.Error.GetMessage())
	}
	check(e.Close())
	fmt.Println("closed")
}

// open opens an engine, and waits until services have said what they serve: the engine itself does not wait for long, and
// refuses their tasks then.
func open(opts engine.Options) (*engine.Engine, error) {
	e, err := engine.Open(context.Background(), opts)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(limit); len(backend.Lookup().Unanswered()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("deployments do not answer: %v", backend.Lookup().Unanswered())
		}
	}
	return e, nil
}

// show is a literal in short.
func show(l *core.Literal) string {
	switch {
	case l.GetCollection() != nil:
		var parts []string
		for _, item := range l.GetCollection().GetLiterals() {
			parts = append(parts, show(item))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case l.GetScalar().GetUnion() != nil:
		return show(l.GetScalar().GetUnion().GetValue())
	case l.GetScalar().GetNoneType() != nil:
		return "none"
	case l.GetScalar().GetPrimitive().GetStringValue() != "":
		return l.GetScalar().GetPrimitive().GetStringValue()
	}
	return strconv.FormatInt(integer(l), 10)
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func intLiteral(n int64) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
	}}}}
}

// child is a running child process.
type child struct {
	cmd   *exec.Cmd
	lines chan string
}

func startChild(t *testing.T, o order) *child {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), childLimit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	races := filepath.Join(t.TempDir(), "race")
	t.Cleanup(func() { noRacesOfOurs(t, races) })
	cmd.Env = append(os.Environ(), childEnv+"=run", "FLYTE_BACKEND_ENGINE_TEST_ORDER="+string(text), "GORACE=log_path="+races)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd: cmd, lines: make(chan string, 10000)}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	return c
}

// noRacesOfOurs looks at what the race detector said in a child (it is silent in a binary without it). Propeller's own race in
// the metrics of its task handler, see warmUp, shows in a child that goes on with many tasks at once.
func noRacesOfOurs(t *testing.T, prefix string) {
	t.Helper()
	files, err := filepath.Glob(prefix + ".*")
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
		}
		for _, report := range strings.Split(string(text), "==================") {
			theirs := strings.Contains(report, "nodes/task.Handler.invokePlugin") && !strings.Contains(report, "flyte-backend/go/tasks/")
			if strings.Contains(report, "DATA RACE") && !theirs {
				t.Errorf("a child has a data race:\n%s", report)
			}
		}
	}
}

// kill is kill -9; it gives what the child printed.
func (c *child) kill() []string {
	_ = c.cmd.Process.Kill()
	return c.wait()
}

func (c *child) wait() []string {
	var out []string
	for line := range c.lines {
		out = append(out, line)
	}
	_ = c.cmd.Wait()
	return out
}

// jobsService is a service of the test's own.
func jobsService(t *testing.T) *backendtest.Backend {
	t.Helper()
	b := backendtest.NewJobs()
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	return b
}

// killAtRandom runs the order and kills it, again and again until it comes to its end or was killed often enough.
func killAtRandom(t *testing.T, o order, most int) (kills int) {
	t.Helper()
	for range most {
		c := startChild(t, o)
		time.Sleep(time.Duration(300+rand.IntN(1200)) * time.Millisecond) // the moment is to be any
		if lines := c.kill(); len(lines) > 0 && lines[len(lines)-1] == "closed" {
			break
		}
		kills++
	}
	require.Positive(t, kills, "it was to be killed")
	return kills
}

// TestKilledAtRandom: 200 executions of three jobs each, in an engine that is killed again and again, all succeed, and every
// job was made once.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	const executions = 200
	b := jobsService(t)
	o := order{
		Folder: filepath.Join(t.TempDir(), "state"), Config: fmt.Sprintf(config, b.Endpoint()),
		Module: "chains", Workflow: "chains.chain", Count: executions, Inputs: map[string]int64{"x": 1},
	}
	kills := killAtRandom(t, o, 6)
	lines := startChild(t, o).wait()
	require.Equal(t, "closed", lines[len(lines)-1], "%s", lines)
	done := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "x") {
			require.Contains(t, line, " SUCCEEDED 112 ")
			done++
		}
	}
	require.Equal(t, executions, done)
	jobs := b.Jobs()
	requireJobs(t, 3*executions, jobs, "each job once")
	t.Logf("%d kills; creates that were repeated with the same key: %d", kills, b.Calls(backendtest.Create)-len(jobs))
}

// TestFolder: what an engine kept another one finds, with events, outputs and cached results.
func TestFolder(t *testing.T) {
	t.Parallel()
	b := jobsService(t)
	folder := t.TempDir()
	o := order{Folder: folder, Config: fmt.Sprintf(config, b.Endpoint()), Module: "caching", Workflow: "caching.once", Count: 1, Inputs: map[string]int64{"x": 1}}
	first := startChild(t, o).wait()
	require.Equal(t, []string{"opened with 0 executions", "x0 SUCCEEDED 12 ", "closed"}, first)
	o.Count = 2
	second := startChild(t, o).wait()
	require.Equal(t, []string{"opened with 1 executions", "x0 SUCCEEDED 12 ", "x1 SUCCEEDED 12 ", "closed"}, second)
	requireJobs(t, 1, b.JobsOf("x1"), "the other job's result was in the cache")
	names, err := filepath.Glob(filepath.Join(folder, "events", "*"))
	require.NoError(t, err)
	require.Len(t, names, 2)
}

// TestFolderIsOneEngines: two processes never share a folder.
func TestFolderIsOneEngines(t *testing.T) {
	t.Parallel()
	b := jobsService(t)
	o := order{Folder: t.TempDir(), Config: fmt.Sprintf(config, b.Endpoint()), Module: "retries", Workflow: "retries.long_running", Count: 1}
	c := startChild(t, o)
	require.Equal(t, "opened with 0 executions", <-c.lines)
	other := startChild(t, o).wait()
	require.Len(t, other, 1)
	require.Contains(t, other[0], "another process has it open")
	c.kill()
}

// TestDamagedFolder: what cannot be read is named.
func TestDamagedFolder(t *testing.T) {
	t.Parallel()
	b := jobsService(t)
	folder := t.TempDir()
	o := order{Folder: folder, Config: fmt.Sprintf(config, b.Endpoint()), Module: "chains", Workflow: "chains.one", Count: 1}
	startChild(t, o).wait()
	files, err := filepath.Glob(filepath.Join(folder, "state", "workflows", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.WriteFile(files[0], []byte("{"), 0o600))
	lines := startChild(t, o).wait()
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "error: workflow flytesnacks-development/x0 cannot be read from the engine's state")
}

// TestBadConfiguration: the engine does not start, and says what is wrong.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reason, config, says string }{
		{"a key that is not there", "plugins: {backend: {enabel: true}}", "enabel"},
		{"a value that will not do", "plugins: {backend: {enable_backend_flytekit_plugin_system: true, deployments: {default: {endpoint: nope, insecure: true}}}}", "endpoint"},
		{"broken YAML", "plugins: [", "the configuration is invalid"},
	} {
		lines := startChild(t, order{Config: tc.config, Module: "chains", Workflow: "chains.one"}).wait()
		require.NotEmpty(t, lines, tc.reason)
		require.Contains(t, strings.Join(lines, "\n"), "error: ", tc.reason)
		require.Contains(t, strings.Join(lines, "\n"), tc.says, tc.reason)
	}
}

func TestOneEngineAProcess(t *testing.T) {
	t.Parallel()
	_, err := engine.Open(t.Context(), engine.Options{})
	require.ErrorIs(t, err, engine.ErrOpen)
}

// Test500AtOnce: five hundred workflows of three jobs each, at once.
func Test500AtOnce(t *testing.T) {
	t.Parallel()
	const executions = 500
	b := load(t, "chains")
	began := time.Now()
	xs := make([]*engine.Execution, 0, executions)
	for i := range executions {
		x, err := shared.Submit(t.Context(), b, "chains.chain", engine.Submission{Inputs: inputs(t, map[string]any{"x": i})})
		require.NoError(t, err)
		xs = append(xs, x)
	}
	for i, x := range xs {
		require.Equal(t, int64(i+111), integer(wait(t, x).Outputs.GetLiterals()["o0"]))
	}
	t.Logf("%d workflows in %s", executions, time.Since(began).Round(time.Millisecond))
}

// TestLeaks: an engine that is closed leaves nothing behind but what upstream never ends.
func TestLeaks(t *testing.T) {
	t.Parallel()
	b := jobsService(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=leaks", "FLYTE_BACKEND_ENGINE_TEST_ORDER="+fmt.Sprintf(config, b.Endpoint()))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func init() { children["leaks"] = leaks }

// leaks opens and closes engines, and looks at what goroutines they leave.
func leaks() {
	stacks := func() string {
		buf := make([]byte, 16<<20)
		return string(buf[:runtime.Stack(buf, true)])
	}
	for range 3 {
		e, err := open(engine.Options{Config: os.Getenv("FLYTE_BACKEND_ENGINE_TEST_ORDER")})
		check(err)
		b, err := bundle.Read("chains", workflows.Archive("chains"), bundle.Options{})
		check(err)
		x, err := e.Submit(context.Background(), b, "chains.chain", engine.Submission{})
		check(err)
		_, err = x.Wait(context.Background())
		check(err)
		check(e.Close())
		check(e.Close())
		_, err = x.Wait(context.Background())
		check(err)
		check(x.Abort("it has ended"))
		if _, err = e.Submit(context.Background(), b, "chains.chain", engine.Submission{}); !errors.Is(err, engine.ErrClosed) {
			check(fmt.Errorf("a closed engine takes a submission: %w", err))
		}
	}
	var left []string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		left = nil
		for _, g := range strings.Split(stacks(), "\n\n") {
			if strings.Contains(g, "flyte-backend/go/") && !strings.Contains(g, "engine_test.leaks") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	fmt.Println(strconv.Itoa(len(left)) + " goroutines of ours are left:\n" + strings.Join(left, "\n\n"))
	os.Exit(1)
}

package main

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/explain"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// asCommand makes this test binary the command itself, which the demo starts as its service.
const asCommand = "FLYTE_BACKEND_TEST_AS_COMMAND"

// Every wait of these tests is bounded by limit, and every process by commandLimit.
const (
	limit        = 2 * time.Minute
	commandLimit = 5 * time.Minute
)

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		if os.Args[1] == "explain" { // by the same plugins, and the same program, as runs tasks
			cmd := explain.New()
			cmd.SetArgs(os.Args[2:])
			if err := cmd.Execute(); err != nil {
				os.Exit(exit.Report(os.Stderr, err))
			}
			os.Exit(0)
		}
		main()
		os.Exit(0)
	}
	if signal.Ignored(syscall.SIGHUP) { // as under nohup, and what is started here would inherit it
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// demoPython gives the virtual environment that `make demo` gives the demo.
func demoPython(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", "tools", "demo-python.sh"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	require.NotEmpty(t, out, "there is no Python for the demo: %s", stderr.String())
	return strings.TrimSpace(string(out))
}

// TestDemo runs the whole demo, services and all, with Python and without it.
func TestDemo(t *testing.T) {
	t.Parallel()
	act1 := []string{
		"sqlite: {endpoint: ",
		`task type "sqlite" to deployment "sqlite": registered by sqlite`,
		`task type "echo" to built-in plugin "echo": no backend plugin service has registered this task type`,
		"the service is killed (kill -9) while its jobs run", "the service is started again",
		"23 jobs for 23 tasks", "attempts beyond the first: 0", demoFirst,
	}
	act2 := []string{
		`python: {endpoint: "http://127.0.0.1:`,
		`task type "square" to deployment "python": registered by python`,
		"81 and [1 4 9 16 25 36]",
	}
	none := []string{"left out   the act in Python (no flyte-backend-serve on PATH; pip install flyte-backend has it; "}
	for name, tc := range map[string]struct {
		args       []string
		path       string
		has, lacks []string
		kills      int
	}{
		"with Python":    {args: []string{"--python", demoPython(t)}, has: slices.Concat(act1, act2), lacks: []string{"left out"}, kills: 2},
		"without Python": {path: t.TempDir(), has: slices.Concat(act1, none), lacks: []string{"python: {", "squares"}, kills: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, tmp := filepath.Join(t.TempDir(), "demo.html"), t.TempDir()
			cmd := command(t, append([]string{"demo", "--report", report}, tc.args...)...)
			cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
			if tc.path != "" {
				cmd.Env = append(cmd.Env, "PATH="+tc.path)
			}
			raw, err := cmd.CombinedOutput()
			out := string(raw)
			require.NoError(t, err, "%s", out)
			for _, want := range append(tc.has, "All of it came out as expected.") {
				require.Contains(t, out, want)
			}
			for _, no := range tc.lacks {
				require.NotContains(t, out, no)
			}
			require.Equal(t, tc.kills, strings.Count(out, "---------- the service is killed (kill -9)"), "%s", out)
			require.Len(t, regexp.MustCompile(`killed while [1-9]\d* jobs of the map ran, and came back after [1-9]\d* polls had failed`).FindAllString(out, -1), tc.kills, "%s", out)
			inFile(t, report, "demo.elements")
			if tc.kills == 2 {
				require.Regexp(t, `[1-7] of 8 jobs were begun by one process and ended by the next, .* attempts beyond the first: 0\n`, out)
				inFile(t, report, "squares.squares")
				first, second := strings.Index(out, "demo.elements SUCCEEDED"), strings.Index(out, "squares.squares RUNNING")
				require.True(t, 0 < first && first < second, "one act after the other: %s", out)
			}
			left, err := os.ReadDir(tmp)
			require.NoError(t, err)
			require.Empty(t, left, "files of the demo are left")
		})
	}
}

// TestDemoPythonIsOptional: without a Python to make it of there is no environment, a reason, and no failure.
func TestDemoPythonIsOptional(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // which has no environment yet
	require.NoError(t, os.CopyFS(filepath.Join(dir, "tools"), os.DirFS(filepath.Join("..", "..", "tools"))))
	require.NoError(t, os.CopyFS(filepath.Join(dir, "python"), os.DirFS(filepath.Join("..", "..", "python"))))
	// A Python that makes an environment whose pip fails.
	brokenPip := filepath.Join(script(t, `case "$1$2" in -mvenv) mkdir -p "$3/bin"; printf '#!/bin/sh\necho no wheel for you >&2; exit 1\n' >"$3/bin/python"; chmod +x "$3/bin/python";; esac`), "bin", pythonServe)
	for _, tc := range []struct{ reason, python, says string }{
		{"no such program", "/nowhere/python", "FLYTE_BACKEND_PYTHON can name one"},
		{"pip fails", brokenPip, "no wheel for you"},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "tools", "demo-python.sh"))
		cmd.Env = append(os.Environ(), "FLYTE_BACKEND_PYTHON="+tc.python)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s: %s", tc.reason, stderr.String())
		require.Empty(t, out, tc.reason)
		require.Contains(t, stderr.String(), tc.says, tc.reason)
		require.Contains(t, stderr.String(), "No Python for the demo, which goes on without it.", tc.reason)
	}
}

// script writes a program that stands for flyte-backend-serve, and gives its virtual environment.
func script(t *testing.T, text string) string {
	t.Helper()
	venv := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(venv, "bin"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(venv, "bin", pythonServe), []byte("#!/bin/sh\n"+text+"\n"), 0o700))
	return venv
}

// TestDemoWrongPython: what was wrong with --python is said before anything runs.
func TestDemoWrongPython(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for _, tc := range []struct{ reason, venv, says string }{
		{"no folder", filepath.Join(empty, "nope"), "there is no such folder; a virtual environment is due"},
		{"the interpreter instead of its environment", filepath.Join(demoPython(t), "bin", "python"), "is no folder; a virtual environment is due"},
		{"no flyte-backend in it", empty, "flyte-backend is not installed there: it has no bin/flyte-backend-serve\nhint: " + empty + "/bin/python -m pip install flyte-backend"},
		{"it breaks off", script(t, "echo Traceback >&2; echo 'ModuleNotFoundError: no fastapi' >&2; exit 3"), "--version fails: ModuleNotFoundError: no fastapi (exit status 3)"},
		{"it says nothing", script(t, "exit 3"), "--version fails: exit status 3"},
		{"its interpreter is gone", script(t, "exec /nowhere/python"), "/nowhere/python"},
		{"another program", script(t, "echo hello"), `is another program: --version was due to say flyte-backend, and says "hello"`},
	} {
		cmd := command(t, "demo", "--python", tc.venv)
		out, err := cmd.CombinedOutput()
		require.Error(t, err, tc.reason)
		require.Equal(t, 2, cmd.ProcessState.ExitCode(), tc.reason)
		require.Contains(t, string(out), tc.says, tc.reason)
		require.True(t, strings.HasPrefix(string(out), "flyte-backend: --python "+tc.venv+": "), "%s", out)
		require.NotContains(t, string(out), "service    ", "nothing runs")
	}
}

// TestPythonOnPath: what is on PATH and does not work is no reason to fail.
func TestPythonOnPath(t *testing.T) {
	for _, tc := range []struct{ reason, text, without string }{
		{"it works", "echo flyte-backend 0.1.0", ""},
		{"left over from a Python that is gone", "echo 'the command is in Python 3.10' >&2; exit 127", "--version fails: the command is in Python 3.10 (exit status 127); pip install"},
	} {
		venv := script(t, tc.text)
		t.Setenv("PATH", filepath.Join(venv, "bin"))
		program, without, err := findPython(t.Context(), "")
		require.NoError(t, err, tc.reason)
		require.Contains(t, without, tc.without, tc.reason)
		if tc.without == "" {
			require.Equal(t, filepath.Join(venv, "bin", pythonServe), program)
			require.Empty(t, without, tc.reason)
		}
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		args   []string
		says   string
	}{
		{"a flag that is not there", []string{"demo", "--nope"}, "unknown flag: --nope"},
		{"a command that is not there", []string{"dmeo"}, `unknown command "dmeo"`},
		{"plain text has to be said aloud", []string{"serve", "--dir", "x"}, "say so with --insecure"},
		{"jobs need a folder", []string{"serve", "--insecure"}, "--dir is missing"},
		{"an address that cannot be listened at", []string{"serve", "--insecure", "--dir", "x", "--listen", "127.0.0.1:http-nope"}, "cannot listen at 127.0.0.1:http-nope"},
	} {
		out, err := command(t, tc.args...).CombinedOutput()
		require.Error(t, err, tc.reason)
		require.Contains(t, string(out), tc.says, tc.reason)
		require.True(t, strings.HasPrefix(string(out), "flyte-backend: "), "%s", out)
		require.NotContains(t, string(out), "Usage:", "the error is not to be searched for")
	}
}

// TestDemoFailsLoudly: whatever is not as expected is named.
func TestDemoFailsLoudly(t *testing.T) {
	t.Parallel()
	text := func(s string) *core.Literal { return coreutils.MustMakeLiteral(s) }
	lines := make([]*core.Literal, demoItems)
	for i := range lines {
		lines[i] = text(demoFirst)
	}
	list := func(items []*core.Literal) *core.Literal {
		return &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: items}}}
	}
	// good is what a demo sees that comes out as expected.
	good := func() *sqliteSeen {
		return &sqliteSeen{
			seen: seen{
				outcome: &engine.Outcome{Phase: core.WorkflowExecution_SUCCEEDED, Outputs: &core.LiteralMap{Literals: map[string]*core.Literal{
					"o0": list(lines),
				}}},
				execution: &history.Execution{Nodes: []*history.Node{
					{Attempts: []*history.Attempt{{}}}, {Map: &history.Map{Items: []*history.Item{{}, {}}}},
				}},
				decided: []backend.Decided{
					{TaskType: "sqlite", Deployment: "sqlite", Why: "registered by sqlite"}, {TaskType: "echo", BuiltIn: "echo", Why: "nobody else"},
				},
				killed: 2, failed: 3,
			},
			jobs: demoJobs, runs: demoJobs + 1,
		}
	}
	require.Empty(t, good().unexpected())
	for _, tc := range []struct {
		reason string
		spoil  func(*sqliteSeen)
		says   string
	}{
		{"the workflow fails", func(s *sqliteSeen) {
			s.outcome = &engine.Outcome{Phase: core.WorkflowExecution_FAILED, Error: &core.ExecutionError{Message: "no such table"}}
		}, "ended as FAILED: no such table"},
		{"a line is missing", func(s *sqliteSeen) { s.outcome.Outputs.Literals["o0"] = list(lines[1:]) }, "19 lines came, 20 were due"},
		{"another first line", func(s *sqliteSeen) {
			s.outcome.Outputs.Literals["o0"] = list(append([]*core.Literal{text("x")}, lines[1:]...))
		}, "the first line of"},
		{"the queries went elsewhere", func(s *sqliteSeen) { s.decided[0].Deployment = "other" }, "type sqlite was due to go to the service"},
		{"the echo did not fall back", func(s *sqliteSeen) { s.decided[1] = s.decided[0] }, "type echo was due to fall back"},
		{"there was no outage", func(s *sqliteSeen) { s.failed = 0 }, "no poll failed"},
		{"an attempt was lost", func(s *sqliteSeen) { s.execution.Nodes[0].Attempts = []*history.Attempt{{}, {}} }, "the kill cost 1 attempts"},
		{"an attempt of an item was lost", func(s *sqliteSeen) { s.execution.Nodes[1].Map.Items[1].Attempt = 1 }, "the kill cost 1 attempts"},
		{"a job was made twice", func(s *sqliteSeen) { s.jobs++ }, "24 jobs were made, 23 were due"},
		{"no job was killed", func(s *sqliteSeen) { s.runs = s.jobs }, "none ran again"},
	} {
		s := good()
		tc.spoil(s)
		require.Contains(t, strings.Join(s.unexpected(), "; "), tc.says, tc.reason)
	}
}

// TestDemoPythonFailsLoudly: so is what is wrong with the act in Python.
func TestDemoPythonFailsLoudly(t *testing.T) {
	t.Parallel()
	good := func() *pythonSeen {
		s := &pythonSeen{
			seen: seen{
				outcome: &engine.Outcome{Phase: core.WorkflowExecution_SUCCEEDED, Outputs: coreutils.MustMakeLiteral(map[string]any{
					"o0": 81, "o1": []any{1, 4, 9, 16, 25, 36},
				}).GetMap()},
				execution: &history.Execution{}, killed: 6, failed: 7,
			},
			created: 1,
		}
		for range pythonJobs {
			s.decided = append(s.decided, backend.Decided{TaskType: "square", Deployment: "python", Why: "registered by python"})
		}
		return s
	}
	require.Empty(t, good().unexpected())
	for _, tc := range []struct {
		reason string
		spoil  func(*pythonSeen)
		says   string
	}{
		{"the workflow fails", func(s *pythonSeen) {
			s.outcome = &engine.Outcome{Phase: core.WorkflowExecution_FAILED, Error: &core.ExecutionError{Message: "x is missing"}}
		}, "ended as FAILED: x is missing"},
		{"the chain broke", func(s *pythonSeen) { s.outcome.Outputs.Literals["o0"] = coreutils.MustMakeLiteral(9) }, "the chain came to 9, 81 was due"},
		{"an item is missing", func(s *pythonSeen) { s.outcome.Outputs.Literals["o1"] = coreutils.MustMakeLiteral([]any{1, 4}) }, "the squares [1 4] came"},
		{"a job went elsewhere", func(s *pythonSeen) { s.decided[3].Deployment = "sqlite" }, "type square was due to go to the service in Python"},
		{"a task too many", func(s *pythonSeen) { s.decided = append(s.decided, s.decided[0]) }, "9 tasks ran, 8 were due"},
		{"there was no outage", func(s *pythonSeen) { s.failed = 0 }, "no poll failed"},
		{"nothing was left to do after the kill", func(s *pythonSeen) { s.created = 0 }, "no job was created after the kill"},
		{"a job was created again", func(s *pythonSeen) { s.created = 3 }, "3 jobs were created after the kill, so some of the 6 that ran then were created again"},
	} {
		s := good()
		tc.spoil(s)
		require.Contains(t, strings.Join(s.unexpected(), "; "), tc.says, tc.reason)
	}
}

func TestServiceThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jobs"), []byte("a file where a folder is due"), 0o600))
	sql, err := sqliteAct(dir)
	require.NoError(t, err)
	sql.service.env = []string{asCommand + "=1"}
	squares, err := pythonAct(dir, filepath.Join(demoPython(t), "bin", pythonServe))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "python", "square.py"), []byte("import nothing_there\n"), 0o600))
	for _, tc := range []struct {
		reason  string
		service *serviceProcess
		says    string
	}{
		{"no folder for its jobs", sql.service, "service sqlite did not start: flyte-backend: "},
		{"its plugin cannot be imported", squares.service, "service python did not start: flyte-backend-serve: "},
		{"no such program", &serviceProcess{name: "none", dir: dir, program: filepath.Join(dir, "none")}, "cannot start service none: "},
		{"it ends without a word", &serviceProcess{name: "mute", dir: dir, program: "/bin/sh", args: []string{"-c", "exit 1"}}, "service mute did not start: it said nothing (its log is "},
		{"no folder for its log", &serviceProcess{name: "log", dir: filepath.Join(dir, "none")}, "cannot write the log of service log: "},
	} {
		err := tc.service.start(t.Context())
		require.ErrorContains(t, err, tc.says, tc.reason)
		tc.service.kill()
	}
}

// TestOutput: the line that is waited for may come in pieces, and among others.
func TestOutput(t *testing.T) {
	t.Parallel()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	out := &output{log: log, serves: pythonServes, serving: make(chan struct{})}
	require.Equal(t, "it said nothing", out.lastLine())
	text := "no JSON\n{\"message\": \"starting\"}\n{\"message\": \"ser" + "ving\"}\n{\"message\": \"serving\"}\n\nthe end"
	for i := range text {
		select {
		case <-out.serving:
			require.Contains(t, text[:i], `"serving"}`+"\n")
		default:
			require.NotContains(t, text[:i], `"serving"}`+"\n")
		}
		_, err := out.Write([]byte(text[i : i+1]))
		require.NoError(t, err)
	}
	require.Equal(t, "the end", out.lastLine())
	_, err = out.Write([]byte("\n  \n"))
	require.NoError(t, err)
	require.Equal(t, "the end", out.lastLine())
	require.NoError(t, log.Close())
	kept, err := os.ReadFile(log.Name())
	require.NoError(t, err)
	require.Equal(t, text+"\n  \n", string(kept))
}

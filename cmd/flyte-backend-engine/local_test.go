package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster/flytekittest"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
)

// jobs starts a service of jobs, and gives it with the configuration that names it.
func jobs(t *testing.T) (*backendtest.Backend, string) {
	t.Helper()
	b := backendtest.NewJobs()
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	return b, configFor(t, b.Endpoint())
}

func configFor(t *testing.T, endpoint string) string {
	t.Helper()
	return file(t, "plugins.yaml", fmt.Sprintf("plugins: {backend: {deployments: {default: {endpoint: %q, insecure: true}}}}\n", endpoint))
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// inFile looks for a text in a page, which a failure does not print.
func inFile(t *testing.T, path, text string) {
	t.Helper()
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	if !strings.Contains(string(page), text) {
		require.Fail(t, "missing", "%s is not in %s", text, filepath.Base(path))
	}
}

func archive(t *testing.T, module string) string {
	t.Helper()
	return file(t, module+".tgz", string(workflows.Archive(module)))
}

type ran struct {
	stdout, stderr string
	code           int
}

// runLocal runs `flyte-backend local` in a process of its own, whose temporary folder must be empty at the end.
func runLocal(t *testing.T, args ...string) ran {
	t.Helper()
	tmp := t.TempDir()
	cmd := command(t, append([]string{"local"}, args...)...)
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the exit code tells
	if !strings.Contains(stderr.String(), "files are kept in") {
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left, "temporary files are left")
	}
	return ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// started is a run that goes on.
type started struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer

	mu     sync.Mutex
	stderr strings.Builder
}

func (s *started) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.Write(p)
}

func (s *started) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

func start(t *testing.T, args ...string) *started {
	t.Helper()
	s := &started{cmd: command(t, append([]string{"local"}, args...)...)}
	s.cmd.Env = append(s.cmd.Env, "TMPDIR="+t.TempDir())
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, s
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

func (s *started) wait(t *testing.T) int {
	t.Helper()
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return s.cmd.ProcessState.ExitCode()
}

func (s *started) until(t *testing.T, what string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.said(), what) }, limit, 10*time.Millisecond, "%s", what)
}

// TestLocalRefuses: each is one clear line (and perhaps a hint) and exit code 2, before anything runs.
func TestLocalRefuses(t *testing.T) {
	t.Parallel()
	service, config := jobs(t)
	inputs, unserved, gates, pythons := archive(t, "inputs"), archive(t, "unserved"), archive(t, "gates"), archive(t, "pythons")
	values := file(t, "in.yaml", "number: abc\nratio: 1\nname: 5\n")
	dead := configFor(t, "127.0.0.1:1")
	routed := file(t, "routed.yaml", "plugins: {backend: {deployments: {a: {endpoint: '127.0.0.1:1', insecure: true}}, routes: [{taskType: job, deployment: a}]}}")
	bad := file(t, "bad.yaml", "plugins: {backend: {discoveryInterval: 1ms}}")
	noYAML := file(t, "no.yaml", "a: [")
	for _, tc := range []struct {
		reason string
		args   []string
		says   []string
	}{
		{"no package", []string{"run", "nowhere.tgz", "w"}, []string{"cannot read the workflow package", "nowhere.tgz"}},
		{"no package at all", []string{"run", values, "w"}, []string{"is no workflow package"}},
		{"an unknown workflow", []string{"run", inputs, "nope"}, []string{`workflow "nope": not found; the package holds inputs.constants, `}},
		{"no workflow", []string{"run", inputs}, []string{"takes PACKAGE or FILE.py, and WORKFLOW", "hint: flyte-backend local list"}},
		{"missing inputs", []string{"run", inputs, "some_defaults"}, []string{"inputs.some_defaults needs input number, an integer", "hint: give it with --input"}},
		{"mistyped inputs", []string{"run", inputs, "required_simple", "--inputs", values}, []string{
			values + `: name: takes a string, got 5: put it in quotes; ` + values + `: number: takes an integer, got "abc"`,
		}},
		{"a mistyped flag", []string{"run", inputs, "some_defaults", "--input", "number=1.5"}, []string{"--input number: takes an integer, got 1.5"}},
		{"deep in a dataclass", []string{"run", inputs, "default_nested", "--input", "point={x: abc}"}, []string{`--input point.x: takes an integer, got "abc"`}},
		{"an unknown input", []string{"run", inputs, "some_defaults", "--input", "numbr=1"}, []string{"--input numbr: is no input of inputs.some_defaults; it takes name, number, on"}},
		{"no value", []string{"run", inputs, "some_defaults", "--input", "number"}, []string{"--input number: takes NAME=VALUE"}},
		{"no inputs file", []string{"run", inputs, "some_defaults", "--inputs", "nowhere.yaml"}, []string{"cannot read the inputs"}},
		{"inputs that are no YAML", []string{"run", inputs, "some_defaults", "--inputs", noYAML}, []string{"cannot be read as YAML"}},
		{"inputs that are no mapping", []string{"run", inputs, "some_defaults", "--inputs", file(t, "list.yaml", "[1]")}, []string{"takes a mapping of inputs' names to values"}},
		{"a service that is not there", []string{"run", inputs, "default_simple", "--config", dead}, []string{
			`deployment "default" at 127.0.0.1:1 does not answer: nothing listens at this address`, "inputs.default_simple",
		}},
		{"a service that a route names", []string{"run", inputs, "default_simple", "--config", routed}, []string{
			`task "inputs.simple" has type "job", and deployment "a" at 127.0.0.1:1 does not answer: nothing listens at this address`,
		}},
		{"a type that nobody has", []string{"run", unserved, "nobody", "--config", config}, []string{
			`task "unserved.unknown" has type "nobody_knows_this", which no backend plugin service has registered and no built-in plugin runs`,
		}},
		{"no deployment, and a type that the example does not have", []string{"run", inputs, "default_simple"}, []string{
			`type "job"`, "hint: no deployment is configured, so the example service runs",
		}},
		{"a Python task that may not run", []string{"run", pythons, "plain", "--config", config}, []string{"pythons.double", "hint: --local-tasks"}},
		{"a configuration that is not there", []string{"run", inputs, "default_simple", "--config", "nowhere.yaml"}, []string{"cannot read the configuration"}},
		{"a configuration that is no YAML", []string{"run", inputs, "default_simple", "--config", noYAML}, []string{"is no YAML"}},
		{"a configuration that is not valid", []string{"run", inputs, "default_simple", "--config", bad}, []string{"plugins.backend.discoveryInterval: 1ms: must be from 1s to 1h"}},
		{"a mistyped signal", []string{"run", gates, "number", "--config", config, "--signal", "n=x"}, []string{`--signal n: takes an integer, got "x"`}},
		{"two values for a gate", []string{"run", gates, "approval", "--config", config, "--approve", "go", "--reject", "go"}, []string{"gate go is given two values"}},
		{"resuming nothing", []string{"run", "--resume"}, []string{"--resume takes --state DIR"}},
		{"resuming in an empty folder", []string{"run", "--resume", "--state", t.TempDir()}, []string{"holds no run that could go on"}},
		{"a report in no folder", []string{"run", inputs, "none", "--report", "no/where.html"}, []string{"there is no folder no"}},
		{"a report that is a folder", []string{"run", inputs, "none", "--report", t.TempDir()}, []string{"is a folder, not a file"}},
		{"a report that cannot be written", []string{"run", inputs, "none", "--report", "/proc/report.html"}, []string{"--report /proc/report.html: the folder /proc cannot be written to"}},
		{"a project that will not do", []string{"run", inputs, "none", "--project", "a/b"}, []string{`--project "a/b" will not do`}},
		{"a domain that will not do", []string{"run", inputs, "none", "--domain", "Prod"}, []string{`--domain "Prod" will not do`}},
		{"an output that is not there", []string{"run", inputs, "none", "-o", "xml"}, []string{`--output takes yaml or json, got "xml"`}},
		{"a flag that is not there", []string{"run", "--nope"}, []string{"unknown flag: --nope"}},
		{"a command that is not there", []string{"rnu"}, []string{`unknown command "rnu" for "flyte-backend local"`}},
		{"a name that will not do", []string{"run", inputs, "none", "--config", config, "--name", "No"}, []string{`execution name "No" will not do`}},
		{"Python that is not there", []string{"run", file(t, "flow.py", ""), "w", "--python", "/nowhere"}, []string{"takes a Python with flytekit", "hint: name a Python"}},
		{"a file that is no module", []string{"run", file(t, "my-flow.py", ""), "w"}, []string{`"my-flow" is no name in Python`}},
		{"listing nothing", []string{"list"}, []string{"takes PACKAGE or FILE.py; got 0 arguments"}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			got := runLocal(t, tc.args...)
			require.Equal(t, 2, got.code, "%s", got.stderr)
			require.Empty(t, got.stdout)
			lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
			require.True(t, strings.HasPrefix(lines[0], "flyte-backend: "), "%s", got.stderr)
			require.LessOrEqual(t, len(lines), 2, "%s", got.stderr)
			if len(lines) == 2 {
				require.True(t, strings.HasPrefix(lines[1], "hint: "), "%s", got.stderr)
			}
			for _, says := range tc.says {
				require.Contains(t, got.stderr, says)
			}
		})
	}
	t.Cleanup(func() { require.Empty(t, service.Jobs(), "something ran") })
}

// TestLocalPlain: one line for each change on standard error, and the outputs alone on standard output.
func TestLocalPlain(t *testing.T) {
	t.Parallel()
	_, config := jobs(t)
	got := runLocal(t, "run", archive(t, "chains"), "chain", "--input", "x=5", "--config", config)
	require.Equal(t, 0, got.code, "%s", got.stderr)
	require.Equal(t, "o0: 116\n", got.stdout)
	lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
	for _, line := range lines {
		require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3} (chains\.chain|n[012] chains\.(first|second|third)) [A-Z]+`, line)
	}
	require.Contains(t, lines[0], "chains.chain RUNNING")
	require.Contains(t, lines[len(lines)-1], "chains.chain SUCCEEDED")
	require.Contains(t, got.stderr, "n0 chains.first SUCCEEDED the job is done")
}

func TestLocalJSON(t *testing.T) {
	t.Parallel()
	_, config := jobs(t)
	for i, tc := range []struct {
		module, workflow, phase, outputs, err string
		code                                  int
	}{
		{"inputs", "rich_outputs", "SUCCEEDED", `{"o0": 0, "o1": 0.0, "o2": "", "o3": true, "o4": "1970-01-01T00:00:00Z", "o5": "0s", "o6": [], "o7": {}, "o8": 0}`, "", 0},
		{"inputs", "none", "SUCCEEDED", "", "", 0},
		{"failures", "with_task", "FAILED", "", `{"kind": "USER", "code": "Broken", "message": "broken on purpose"}`, 1},
	} {
		got := runLocal(t, "run", archive(t, tc.module), tc.workflow, "--config", config, "-o", "json", "--name", fmt.Sprint("x", i))
		require.Equal(t, tc.code, got.code, "%s", got.stderr)
		var res map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(got.stdout), &res), "%s", got.stdout)
		require.JSONEq(t, fmt.Sprintf(`"x%d"`, i), string(res["execution"]))
		require.JSONEq(t, `"`+tc.module+`.`+tc.workflow+`"`, string(res["workflow"]))
		require.JSONEq(t, `"`+tc.phase+`"`, string(res["phase"]))
		for key, want := range map[string]string{"outputs": tc.outputs, "error": tc.err} {
			if want == "" {
				require.NotContains(t, res, key)
			} else {
				require.JSONEq(t, want, string(res[key]))
			}
		}
	}
}

// TestLocalFailure: the error stands at the end, and the report is there all the same.
func TestLocalFailure(t *testing.T) {
	t.Parallel()
	_, config := jobs(t)
	report := filepath.Join(t.TempDir(), "run.html")
	got := runLocal(t, "run", archive(t, "failures"), "with_task", "--config", config, "--report", report)
	require.Equal(t, 1, got.code)
	require.Empty(t, got.stdout)
	require.True(t, strings.HasSuffix(got.stderr, "report: "+report+"\nflyte-backend: workflow failures.with_task failed: Broken: broken on purpose\n"), "%s", got.stderr)
	inFile(t, report, "broken on purpose")
	inFile(t, report, "failures.tidy")
}

// TestLocalExample: without a deployment the example service runs, and what outputs refer to stays.
func TestLocalExample(t *testing.T) {
	t.Parallel()
	got := runLocal(t, "run", archive(t, "sql"), "chain")
	require.Equal(t, 0, got.code, "%s", got.stderr)
	m := regexp.MustCompile(`(?m)^o0: 3\no1: file://(.*)$`).FindStringSubmatch(got.stdout)
	require.Len(t, m, 2, "%s", got.stdout)
	require.DirExists(t, m[1])
	require.Contains(t, got.stderr, "files are kept in")
}

func TestLocalGates(t *testing.T) {
	t.Parallel()
	_, config := jobs(t)
	gates := archive(t, "gates")
	got := runLocal(t, "run", gates, "both", "--config", config, "--signal", "n=4", "--approve", "ok")
	require.Equal(t, 0, got.code, "%s", got.stderr)
	require.Equal(t, "o0: 14\n", got.stdout)
	got = runLocal(t, "run", gates, "approval", "--config", config, "--reject", "go")
	require.Equal(t, 1, got.code, "%s", got.stderr)
	timeout := 2 * time.Second
	for ; timeout < limit; timeout *= 2 { // until it is long enough for both gates to ask
		got = runLocal(t, "run", gates, "both", "--config", config, "--timeout", timeout.String(), "--signal", "m=1")
		require.Equal(t, 3, got.code, "%s", got.stderr)
		if strings.Contains(got.stderr, "gate n waits") && strings.Contains(got.stderr, "gate ok waits") {
			break
		}
	}
	require.Contains(t, got.stderr, "gate n waits for an integer: run it with --signal n=VALUE")
	require.Contains(t, got.stderr, "gate ok waits: run it with --approve ok, --reject ok or --signal ok=true")
	require.Contains(t, got.stderr, "the workflow has no gate m so far; it has n, ok")
	require.Contains(t, got.stderr, fmt.Sprintf("flyte-backend: workflow gates.both was aborted: it had %s and has not ended", timeout))
}

func TestLocalInputsFromStandardInput(t *testing.T) {
	t.Parallel()
	_, config := jobs(t)
	cmd := command(t, "local", "run", archive(t, "chains"), "chain", "--inputs", "-", "--config", config)
	cmd.Stdin = strings.NewReader(`{"x": 7}`)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "o0: 118\n", string(out))
}

// TestLocalInterrupt: the first signal deletes the jobs, those of child executions too, before the command ends.
func TestLocalInterrupt(t *testing.T) {
	t.Parallel()
	for _, signals := range [][]os.Signal{
		{os.Interrupt},
		{syscall.SIGTERM, syscall.SIGTERM}, // timeout(1) sends it to the process and to its group
		{syscall.SIGHUP},                   // the terminal is closed
	} {
		service, config := jobs(t)
		report := filepath.Join(t.TempDir(), "run.html")
		s := start(t, "run", archive(t, "launchplans"), "endless_parent", "--config", config, "--report", report)
		s.until(t, "the job runs")
		for _, signal := range signals {
			require.NoError(t, s.cmd.Process.Signal(signal))
		}
		require.Equal(t, 3, s.wait(t), "%s", s.said())
		require.Contains(t, s.said(), "aborting: waiting until jobs are deleted")
		require.Contains(t, s.said(), "flyte-backend: workflow launchplans.endless_parent was aborted: aborted by the user")
		require.Len(t, service.Jobs(), 1)
		require.GreaterOrEqual(t, service.Jobs()[0].Deletes, 1, "the job was left")
		require.FileExists(t, report)
	}
}

// TestLocalOutlivesItsReader: jobs are not left behind because nobody reads what the run says of them.
func TestLocalOutlivesItsReader(t *testing.T) {
	t.Parallel()
	service, config := jobs(t)
	cmd := command(t, "local", "run", archive(t, "launchplans"), "endless_child", "--config", config)
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(service.Jobs()) == 1 }, limit, 10*time.Millisecond)
	require.NoError(t, said.Close())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM)) // to this it says that it waits
	_ = cmd.Wait()
	require.Equal(t, 3, cmd.ProcessState.ExitCode())
	require.GreaterOrEqual(t, service.Jobs()[0].Deletes, 1)
}

// TestLocalInterruptTwice: the second signal does not wait for a service that does not answer.
func TestLocalInterruptTwice(t *testing.T) {
	t.Parallel()
	service, config := jobs(t)
	s := start(t, "run", archive(t, "launchplans"), "endless_child", "--config", config)
	s.until(t, "the job runs")
	service.Delay(backendtest.Delete, time.Minute)
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	s.until(t, "aborting")
	begin := time.Now()
	insisting := time.NewTicker(100 * time.Millisecond) // one that follows at once counts as the same
	defer insisting.Stop()
	go func() {
		for range insisting.C {
			if s.cmd.Process.Signal(os.Interrupt) != nil {
				return
			}
		}
	}()
	require.Equal(t, 3, s.wait(t), "%s", s.said())
	require.Less(t, time.Since(begin), 20*time.Second, "without the second signal it waits for half a minute")
	require.Contains(t, s.said(), "ended at once: jobs may still run")
}

// TestLocalResume: a run that was killed goes on, with the job that it had and all that was shown before.
func TestLocalResume(t *testing.T) {
	t.Parallel()
	service, config := jobs(t)
	state, report := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "run.html")
	retries := archive(t, "retries")
	s := start(t, "run", retries, "long_running", "--config", config, "--state", state) // its job ends when it is told to
	s.until(t, "the job runs")
	got := runLocal(t, "run", "--resume", "--state", state)
	require.Equal(t, 2, got.code)
	require.Contains(t, got.stderr, "another process has it open")
	require.NoError(t, s.cmd.Process.Kill())
	s.wait(t)

	got = runLocal(t, "run", retries, "long_running", "--config", config, "--state", state)
	require.Equal(t, 2, got.code)
	require.Regexp(t, `^flyte-backend: \S+ holds a run that has not ended: execution \w+ \(workflow retries\.long_running\)\nhint: go on with it with --resume, `, got.stderr)
	got = runLocal(t, "run", retries, "recovers", "--resume", "--state", state)
	require.Equal(t, 2, got.code)
	require.Contains(t, got.stderr, "holds a run of another workflow than recovers")

	got = runLocal(t, "run", "--resume", "--state", state, "--input", "x=2")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.stderr, "a run that goes on keeps its inputs")

	service.Finish("")
	got = runLocal(t, "run", "--resume", "--state", state, "--report", report)
	require.Equal(t, 0, got.code, "%s", got.stderr)
	require.Equal(t, "o0: 2\n", got.stdout)
	require.Contains(t, got.stderr, "of workflow retries.long_running goes on\n")
	require.Contains(t, got.stderr, "n0 retries.endless QUEUED", "what happened before is shown too")
	require.Len(t, service.Jobs(), 2, "the first job was not created anew")
	inFile(t, report, "retries.long_running")

	got = runLocal(t, "run", retries, "recovers", "--config", config, "--state", state)
	require.Equal(t, 0, got.code, "a folder takes one run after another: %s", got.stderr)
}

// TestLocalTree: on a terminal there is a tree, which is drawn in place.
func TestLocalTree(t *testing.T) {
	t.Parallel()
	_, config := jobs(t)
	cmd := command(t, "local", "run", archive(t, "chains"), "slow_chain", "--config", config)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color", "NO_COLOR=")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	require.NoError(t, err)
	defer terminal.Close()
	var screen bytes.Buffer
	_, _ = io.Copy(&screen, terminal) // it ends with an error when the other end is closed
	require.NoError(t, cmd.Wait(), "%s", screen.String())
	text := screen.String()
	require.Contains(t, text, "\x1b[?25l", "the cursor is hidden while frames are drawn")
	require.Regexp(t, `\x1b\[\d+A`, text, "frames are drawn over each other")
	require.Contains(t, text, "RUNNING")
	plain := regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`).ReplaceAllString(text, "")
	require.Contains(t, plain, "the job runs", "messages are shown")
	require.Contains(t, plain, "chains.slow_chain")
	require.True(t, strings.HasSuffix(text, "o0: 3\r\n"), "%q", text)
}

// TestLocalPython: a Python file is packaged, and its tasks run as local processes.
func TestLocalPython(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("flytekit's own processes take their time: make e2e")
	}
	venv, err := flytekittest.Virtualenv(t.Context())
	require.NoError(t, err)
	_, config := jobs(t)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "pkg"), 0o750))
	for name, from := range map[string]string{"jobs.py": "jobs.py", "pkg/flows.py": "pythons.py"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "workflows", from))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pkg", "__init__.py"), nil, 0o600))
	flows := filepath.Join(dir, "pkg", "flows.py")

	got := runLocal(t, "run", flows, "mixed", "--input", "x=4", "--config", config, "--python", venv)
	require.Equal(t, 0, got.code, "%s", got.stderr)
	require.Equal(t, "o0: 11\n", got.stdout)
	require.Contains(t, got.stderr, "pkg.flows.double SUCCEEDED")

	got = runLocal(t, "run", flows, "failing", "--config", config, "--python", venv)
	require.Equal(t, 1, got.code, "%s", got.stderr)
	require.Contains(t, got.stderr, "ZeroDivisionError")
	require.Contains(t, got.stderr, "files are kept in", "the logs of what failed")

	got = runLocal(t, "run", flows, "mixed", "--config", config, "--python", venv, "--local-tasks=false")
	require.Equal(t, 2, got.code, "%s", got.stderr)

	got = runLocal(t, "run", archive(t, "pythons"), "plain", "--config", config, "--python", venv, "--local-tasks", "--source", filepath.Join("..", "..", "testdata", "workflows"))
	require.Equal(t, 0, got.code, "%s", got.stderr)
	require.Equal(t, "o0: 4\no1: hello, flyte\n", got.stdout)

	got = runLocal(t, "list", flows, "--python", venv)
	require.Equal(t, 0, got.code, "%s", got.stderr)
	require.Regexp(t, `(?m)^pkg\.flows\.plain +name: a string \("flyte"\); x: an integer \(1\)$`, got.stdout)

	for name, tc := range map[string]struct{ text, says string }{
		"broken": {"import nothing_there\n", "broken.py cannot be packaged: ModuleNotFoundError: No module named 'nothing_there' (broken.py:1)\nhint: "},
		"syntax": {"\ndef f(:\n", "syntax.py cannot be packaged: SyntaxError: invalid syntax (syntax.py:2)\nhint: "},
		"lines":  {"raise ValueError('one\\ntwo')\n", "lines.py cannot be packaged: ValueError: one (lines.py:1)\nhint: "},
		"framed": {"from flytekit import task\n@task\ndef t() -> int:\n    pass\n", "FlyteMissingReturnValueException: t function must return a value. Please add a return statement at the end of the function. (framed.py:2)\nhint: "},
		"exits":  {"raise SystemExit(3)\n", "exits.py cannot be packaged: its code ended Python: exit status 3\nhint: "},
		"tasks":  {"from flytekit import task\n@task\ndef t() -> int:\n    return 1\n", "tasks.py has tasks, but no workflow\nhint: "},
	} {
		broken := filepath.Join(dir, name+".py")
		require.NoError(t, os.WriteFile(broken, []byte(tc.text), 0o600))
		got = runLocal(t, "run", broken, "w", "--python", venv)
		require.Equal(t, 2, got.code)
		require.Contains(t, got.stderr, tc.says)
	}
	empty := filepath.Join(dir, "empty.py")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	got = runLocal(t, "run", empty, "w", "--python", venv)
	require.Equal(t, 2, got.code, "%s", got.stderr)
	require.Contains(t, got.stderr, "flytekit found no tasks or workflows in it")
}

// TestLocalStartsQuickly: the aim is 0.3 s until the first event. A loaded machine gets more, and as many tries as it takes to
// find a moment in which it is less loaded.
func TestLocalStartsQuickly(t *testing.T) {
	_, config := jobs(t)
	chains := archive(t, "chains")
	const most = 1500 * time.Millisecond
	best := time.Hour
	for deadline := time.Now().Add(limit); best >= most && time.Now().Before(deadline); {
		begin := time.Now()
		s := start(t, "run", chains, "chain", "--config", config)
		for !strings.Contains(s.said(), "RUNNING") && time.Since(begin) < limit {
			time.Sleep(time.Millisecond)
		}
		best = min(best, time.Since(begin))
		require.Equal(t, 0, s.wait(t), "%s", s.said())
	}
	t.Logf("first event after %v", best)
	require.Less(t, best, most)
}

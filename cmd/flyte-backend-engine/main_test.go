package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
		main()
		os.Exit(0)
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

// TestDemo runs the whole demo, services and all.
func TestDemo(t *testing.T) {
	t.Parallel()
	report := filepath.Join(t.TempDir(), "demo.html")
	cmd := command(t, "demo", "--report", report)
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{
		`task type "sqlite" to deployment "sqlite": registered by sqlite`,
		`task type "echo" to built-in plugin "echo": no backend plugin service has registered this task type`,
		"the service is killed (kill -9) while its jobs run", "the service is started again",
		"23 jobs for 23 tasks", "attempts beyond the first: 0",
		demoFirst, "All of it came out as expected.",
	} {
		require.Contains(t, string(out), want)
	}
	inFile(t, report, "demo.elements")
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
	// good is what a demo sees that comes out as expected.
	good := func() *seen {
		return &seen{
			outcome: &engine.Outcome{Phase: core.WorkflowExecution_SUCCEEDED, Outputs: &core.LiteralMap{Literals: map[string]*core.Literal{
				"o0": {Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: lines}}},
			}}},
			snapshot: history.New().Snapshot(),
			decided: []backend.Decided{
				{TaskType: "sqlite", Deployment: "sqlite", Why: "registered by sqlite"}, {TaskType: "echo", BuiltIn: "echo", Why: "nobody else"},
			},
			failed: 3, jobs: demoJobs, runs: demoJobs + 1,
		}
	}
	require.Empty(t, good().unexpected())
	for _, tc := range []struct {
		reason string
		spoil  func(*seen)
		says   string
	}{
		{"the workflow fails", func(s *seen) {
			s.outcome = &engine.Outcome{Phase: core.WorkflowExecution_FAILED, Error: &core.ExecutionError{Message: "no such table"}}
		}, "ended as FAILED: no such table"},
		{"a line is missing", func(s *seen) { s.outcome.Outputs.GetLiterals()["o0"].GetCollection().Literals = lines[1:] }, "19 lines came, 20 were due"},
		{"another first line", func(s *seen) {
			s.outcome.Outputs.GetLiterals()["o0"].GetCollection().Literals = append([]*core.Literal{text("x")}, lines[1:]...)
		}, "the first line of"},
		{"the queries went elsewhere", func(s *seen) { s.decided[0].Deployment = "other" }, "type sqlite was due to go to the service"},
		{"the echo did not fall back", func(s *seen) { s.decided[1] = s.decided[0] }, "type echo was due to fall back"},
		{"there was no outage", func(s *seen) { s.failed = 0 }, "no poll failed"},
		{"a job was made twice", func(s *seen) { s.jobs++ }, "24 jobs were made, 23 were due"},
		{"no job was killed", func(s *seen) { s.runs = s.jobs }, "none ran again"},
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
	s := &serviceProcess{dir: dir, program: os.Args[0], env: []string{asCommand + "=1"}}
	require.ErrorContains(t, s.start(t.Context()), "the service did not start; its log is")
	s.kill()
}

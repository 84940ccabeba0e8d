package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// asCommand makes this test binary the command itself, which the demo starts as its service.
const asCommand = "FLYTE_BACKEND_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// TestDemo runs the whole demo, services and all.
func TestDemo(t *testing.T) {
	t.Parallel()
	cmd := command(t, "demo")
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{
		"Act 1:", "Act 2:", "Act 3:",
		`task type sqlite goes to backend deployment "sqlite", plugin version v1: registered by sqlite`,
		`task type echo goes to built-in plugin "echo": no backend plugin service has registered this task type`,
		"killed (kill -9)", "cannot be polled since", "attempts 0, jobs 0",
		"Helium", "Hydrogen", "All 3 acts came out as expected.",
	} {
		require.Contains(t, string(out), want)
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

// TestDemoFailsLoudly: what is not as expected is named and makes the demo fail.
func TestDemoFailsLoudly(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &stage{out: &out, decided: []backend.Decided{{Task: "p/d/act-1/n0/0", BuiltIn: "container"}}}
	require.ErrorContains(t, s.expectOwner("act-1", "sqlite", ""), `built-in plugin "container"`)
	require.ErrorContains(t, s.expectOwner("act-9", "sqlite", ""), `due was "sqlite"`)
	require.ErrorContains(t, s.expectRows(&taskrunner.Outcome{Error: &core.ExecutionError{Message: "no such table"}}, 1), "no such table")
	require.ErrorContains(t, s.expectRows(&taskrunner.Outcome{Succeeded: true, Outputs: &core.LiteralMap{}}, 1), "is not a schema")
	require.NoError(t, finish(&out, t.TempDir(), []act{{title: "fine"}}, nil))
	dir := t.TempDir()
	err := finish(&out, dir, []act{{title: "one"}, {title: "two"}}, map[int]error{1: context.DeadlineExceeded})
	require.ErrorContains(t, err, "1 of 2 acts did not come out as expected")
	require.ErrorContains(t, err, "act 2 (two)")
	require.DirExists(t, dir, "the files are kept to look at")
}

func TestServiceThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jobs"), []byte("a file where a folder is due"), 0o600))
	s := &serviceProcess{dir: dir, program: os.Args[0], env: []string{asCommand + "=1"}}
	require.ErrorContains(t, s.start(t.Context()), "the service did not start; its log is")
	s.kill()
}

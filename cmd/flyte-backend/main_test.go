package main

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// asCommand makes this test binary the command itself.
const asCommand = "FLYTE_BACKEND_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		os.Exit(0)
	}
	if signal.Ignored(syscall.SIGHUP) { // as under nohup, and what is started here would inherit it
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	os.Exit(m.Run())
}

// TestEngine: `local` and `demo` become the program with the engine, wherever it is; all else is done here.
//
// It runs alone: what another test starts at the wrong moment holds the programs that are written here open for writing, and
// they are "text file busy" then.
func TestEngine(t *testing.T) { //nolint:paralleltest // see above
	const engine = "#!/bin/sh\necho \"engine: $*\"\nexit 7\n"
	prefix, other := t.TempDir(), t.TempDir()
	bin, libexec := filepath.Join(prefix, "bin"), filepath.Join(prefix, "libexec", "flyte-backend")
	for _, dir := range []string{bin, libexec} {
		require.NoError(t, os.MkdirAll(dir, 0o750))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	program := filepath.Join(bin, "flyte-backend")
	raw, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, raw, 0o700))
	run := func(args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = []string{asCommand + "=1", "PATH=" + other + ":/bin:/usr/bin"}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			require.NoError(t, err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}

	out, code := run("local", "run", "--help")
	require.Equal(t, 4, code)
	require.Contains(t, out, "flyte-backend: this command needs the program flyte-backend-engine, which is not installed")
	require.Contains(t, out, "hint: ")
	for _, dir := range []string{other, libexec, bin} { // each one comes before those before it
		path := filepath.Join(dir, engineName)
		require.NoError(t, os.WriteFile(path, []byte(engine+"#"+dir), 0o700))
		out, code = run("local", "run", "--help", "x y")
		require.Equal(t, "engine: local run --help x y\n", out)
		require.Equal(t, 7, code)
		require.NoError(t, os.Remove(path))
	}
	require.NoError(t, os.WriteFile(filepath.Join(bin, engineName), []byte(engine), 0o700))
	out, code = run("__complete", "local", "run", "--st")
	require.Equal(t, "engine: __complete local run --st\n", out, "its flags are the program's to complete")
	require.Equal(t, 7, code)
	require.NoError(t, os.Remove(filepath.Join(bin, engineName)))
	out, code = run("__complete", "local", "run", "--st")
	require.NotContains(t, out, "engine")
	require.Equal(t, 0, code, "without the program there is nothing to complete, and no error")
	out, code = run("--help")
	require.Equal(t, 0, code)
	require.Contains(t, out, "local ")
	out, code = run("dmeo")
	require.Equal(t, 2, code)
	require.Contains(t, out, "flyte-backend: unknown command \"dmeo\" for \"flyte-backend\"\n")
}

// TestSmall: what makes a program large has not got in: propeller's engine, Kubernetes and the clouds' SDKs.
func TestSmall(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	for dep := range strings.Lines(string(out)) {
		for _, large := range []string{"flytepropeller", "flyteplugins/go/tasks/pluginmachinery", "k8s.io/client-go", "k8s.io/api/", "aws-sdk-go", "azure-sdk-for-go", "cloud.google.com/"} {
			require.NotContains(t, dep, large)
		}
	}
}

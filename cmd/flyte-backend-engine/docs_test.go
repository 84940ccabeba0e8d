package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/cmd/internal/example"
	"github.com/flyte-backend/flyte-backend/cmd/internal/explain"
	jobcmd "github.com/flyte-backend/flyte-backend/cmd/internal/jobs"
	"github.com/flyte-backend/flyte-backend/cmd/internal/local"
	"github.com/flyte-backend/flyte-backend/cmd/internal/migrate"
	"github.com/flyte-backend/flyte-backend/cmd/internal/version"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster/flytekittest"
)

func cliDoc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	require.NoError(t, err)
	return string(text)
}

// programs makes the folder that `make build` makes: flyte-backend, flytepropeller, and this test binary as the engine.
func programs(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"flyte-backend", "flytepropeller"} {
		out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, name), "../"+name).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	engine := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asCommand, os.Args[0])
	require.NoError(t, os.WriteFile(filepath.Join(bin, "flyte-backend-engine"), []byte(engine), 0o700))
	return bin
}

// TestCLIDocRuns runs every block of docs/cli.md, one after another in one shell: yaml and python are files, named in their
// first line; text is what the commands before it print.
func TestCLIDocRuns(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("flytekit's own processes take their time: make e2e")
	}
	venv, err := flytekittest.Virtualenv(t.Context())
	require.NoError(t, err)
	testdata, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(testdata, filepath.Join(dir, "testdata")))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := lis.Addr().String()
	require.NoError(t, lis.Close())
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)

	bin := programs(t)
	var script strings.Builder
	// A job is a shell with the program below it, and both are to end: each job has a process group of its own.
	fmt.Fprintf(&script, "set -euo pipefail\nset -m\ntrap 'for job in $(jobs -p); do kill -- -$job || true; done; wait' EXIT\nexport PATH=%q:%q:$PATH\n",
		bin, filepath.Join(venv, "bin"))
	var want []string
	n := 0
	for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(cliDoc(t), -1) {
		language, text := m[1], strings.ReplaceAll(m[2], "127.0.0.1:8000", addr)
		switch language {
		case "yaml", "python":
			name := strings.TrimPrefix(strings.SplitN(text, "\n", 2)[0], "# ")
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		case "sh":
			n++
			text = regexp.MustCompile(`(?m)&$`).ReplaceAllString(text, fmt.Sprintf(
				">/dev/null 2>&1 &\nfor i in {1..1200}; do (exec 3<>/dev/tcp/%s/%s) 2>/dev/null && break; sleep 0.1; done", host, port))
			fmt.Fprintf(&script, "{\n%s} > out%d\n", text, n)
			want = append(want, "")
		case "text":
			want[n-1] = text
		default:
			t.Fatalf("a block of language %q is not run", language)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script.String(), out)
	for i, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("out%d", i+1)))
		require.NoError(t, err)
		if text != "" {
			require.Equal(t, text, string(got), "block %d", i+1)
		}
	}
	require.FileExists(t, filepath.Join(dir, "run.html"))
}

// TestCLIDocHasAllFlags: each flag has its place in the table, and no flag is told of that is not there.
func TestCLIDocHasAllFlags(t *testing.T) {
	t.Parallel()
	doc := cliDoc(t)
	_, table, ok := strings.Cut(doc, "## Flags")
	require.True(t, ok)
	flags := map[string]bool{}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			flags[f.Name] = true
			require.Contains(t, table, "`--"+f.Name, "%s", cmd.CommandPath())
		})
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	for _, cmd := range []*cobra.Command{
		local.New(), jobcmd.NewList(), jobcmd.NewRun(), jobcmd.NewGet(), jobcmd.NewDelete(), explain.New(), migrate.New(), version.New(), example.New(), newDemo(),
	} {
		visit(cmd)
	}
	for _, m := range regexp.MustCompile(`--([a-z][a-z-]*)`).FindAllStringSubmatch(table, -1) {
		require.True(t, flags[m[1]], "flag --%s is told of, and is not there", m[1])
	}
}

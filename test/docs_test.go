// Package test checks what belongs to no package: that the documents are true.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	require.NoError(t, err)
	return string(b)
}

// blocks gives the fenced blocks of a language.
func blocks(text, language string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestReadmeCommandsExist(t *testing.T) {
	commands := blocks(read(t, "README.md"), "sh")
	require.Len(t, commands, 1)
	for _, line := range strings.Split(strings.TrimSpace(commands[0]), "\n") {
		args := strings.Fields(strings.Split(line, "#")[0])
		require.Equal(t, "make", args[0])
		cmd := exec.CommandContext(t.Context(), "make", append([]string{"-n"}, args[1:]...)...)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// TestReadmeGoCompiles: the lines that compile the plugin in do so.
func TestReadmeGoCompiles(t *testing.T) {
	programs := blocks(read(t, "README.md"), "go")
	require.Len(t, programs, 2)
	dir, err := os.MkdirTemp(".", "readme-") //nolint:usetesting // inside the module, for its go.mod
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(programs[0]), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "vet", "./"+dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// TestReadmePluginRuns: the README's plugin is the example that the SDK's TestOutsideTheRepository builds and calls.
func TestReadmePluginRuns(t *testing.T) {
	programs := blocks(read(t, "README.md"), "go")
	require.Len(t, programs, 2)
	require.Equal(t, read(t, "go/backendplugin/examples/square/main.go"), programs[1])
	require.LessOrEqual(t, strings.Count(programs[1], "\n"), 40)
}

// TestPluginGuideIsCode: every piece of Go in the guide stands in a file that is compiled and tested.
func TestPluginGuideIsCode(t *testing.T) {
	code := read(t, "go/backendplugin/examples/query/query.go") + read(t, "go/backendplugin/example_test.go")
	pieces := blocks(read(t, "docs/write-a-plugin.md"), "go")
	require.Greater(t, len(pieces), 4)
	for _, piece := range pieces {
		require.Contains(t, code, piece)
	}
}

func TestReadmeConfigurationIsValid(t *testing.T) {
	files := blocks(read(t, "README.md"), "yaml")
	require.Len(t, files, 1)
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, []byte(files[0]), 0o600))
	root := stdconfig.NewRootSection()
	section := root.MustRegisterSection("plugins", &struct{}{}).MustRegisterSection(config.SectionKey, config.Default())
	accessor := viper.NewAccessor(stdconfig.Options{SearchPaths: []string{file}, StrictMode: true, RootSection: root})
	require.NoError(t, accessor.UpdateConfig(t.Context()))
	cfg, ok := section.GetConfig().(*config.Config)
	require.True(t, ok)
	require.True(t, cfg.Enabled)
	require.Len(t, cfg.Deployments, 3)
	require.NoError(t, cfg.Validate())
}

// TestEngineExampleRuns: the program of the document runs a workflow at a service.
func TestEngineExampleRuns(t *testing.T) {
	programs := blocks(read(t, "docs/engine.md"), "go")
	require.Len(t, programs, 1)
	service := backendtest.NewJobs()
	require.NoError(t, service.Start())
	t.Cleanup(service.Kill)
	dir, err := os.MkdirTemp(".", "engine-") //nolint:usetesting // inside the module, for its go.mod
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(programs[0]), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "run", "./"+dir, "../testdata/workflows/chains.tgz", service.Endpoint()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "n2 SUCCEEDED\n")
	require.Contains(t, string(out), "SUCCEEDED 112\n")
}

// TestDocumentsNameRealTests: what is said to be shown by a test is shown by one that exists.
func TestDocumentsNameRealTests(t *testing.T) {
	for document, packages := range map[string]string{
		"docs/comparison.md": "../go/tasks/plugins/webapi/backend/*_test.go",
		"docs/engine.md":     "../go/engine/*_test.go",
	} {
		namesRealTests(t, document, packages)
	}
}

func namesRealTests(t *testing.T, document, packages string) {
	t.Helper()
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(read(t, document), -1)
	require.Greater(t, len(named), 10)
	files, err := filepath.Glob(packages)
	require.NoError(t, err)
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		all.Write(b)
	}
	for _, n := range named {
		if !strings.Contains(all.String(), "func "+n[1]+"(") { // all of it would be printed otherwise
			t.Errorf("%s names %s, which is not there", document, n[1])
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	doc := read(t, "docs/metrics.md")
	for _, m := range backend.Metrics {
		labels := m.Labels + " "
		if m.Labels == "" {
			labels = ""
		}
		require.Contains(t, doc, "| `"+m.Name+"` | "+labels+"| "+m.Help+" |")
	}
	ours, _, _ := strings.Cut(doc, "\n## ") // those of services are the SDK's
	require.Equal(t, len(backend.Metrics), strings.Count(ours, "\n| `"), "no row for a metric that is gone")
}

func TestErrorTableIsDocumented(t *testing.T) {
	doc := read(t, "docs/contract.md")
	rows := regexp.MustCompile(`(?m)^\| [A-Za-z]+ \| [0-9]{3} \|.*$`).FindAllString(doc, -1)
	require.Len(t, rows, len(client.Table), "no row for a code that is gone")
	for i, r := range client.Table {
		require.Equal(t, fmt.Sprintf("| %s | %d | %s | %s |", r.Code, r.Status, r.Class, r.Meaning), rows[i])
	}
}

func TestErrorCodesAreDocumented(t *testing.T) {
	doc := read(t, "docs/operations.md")
	for _, code := range []string{
		backend.CodeUnreachable, backend.CodeFailed, backend.CodeAborted,
		backend.CodeOutputsMissing, backend.CodeOutputsMismatch, backend.CodeBadTemplate,
	} {
		require.Contains(t, doc, "| `"+code+"` |")
	}
}

package conformance_test

import (
	"archive/zip"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/conformance"
)

const modules = "github.com/flyte-backend/flyte-backend/go/"

// publish puts a module, as it is in a folder, into one that Go takes for a module proxy.
func publish(t *testing.T, proxy, folder, name, version string) {
	t.Helper()
	at := filepath.Join(proxy, filepath.FromSlash(modules+name), "@v")
	require.NoError(t, os.MkdirAll(at, 0o700))
	archive, err := os.Create(filepath.Join(at, version+".zip"))
	require.NoError(t, err)
	z := zip.NewWriter(archive)
	here := os.DirFS(folder)
	require.NoError(t, fs.WalkDir(here, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") && path != "go.mod" && path != "go.sum" {
			return err
		}
		raw, err := fs.ReadFile(here, path)
		if err != nil {
			return err
		}
		if path == "go.mod" {
			require.NoError(t, os.WriteFile(filepath.Join(at, version+".mod"), raw, 0o600))
		}
		f, err := z.Create(modules + name + "@" + version + "/" + path)
		if err == nil {
			_, err = f.Write(raw)
		}
		return err
	}))
	require.NoError(t, z.Close())
	require.NoError(t, archive.Close())
	require.NoError(t, os.WriteFile(filepath.Join(at, version+".info"), []byte(`{"Version":"`+version+`","Time":"2024-01-01T00:00:00Z"}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(at, "list"), nil, 0o600))
}

// author is the test of a plugin author.
const author = `package plugin_test

import (
	"os"
	"testing"

	"github.com/flyte-backend/flyte-backend/go/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Options{Endpoint: os.Getenv("ENDPOINT"), Insecure: true, Strict: true})
}
`

// TestOutsideTheRepository: the suite is used in a module of an author's own, which has no replace line and nothing of
// propeller; its test passes with a service that conforms, and fails with one that does not.
func TestOutsideTheRepository(t *testing.T) {
	t.Parallel()
	sum := sha256.New()
	for _, folder := range []string{".", "../backendplugin"} {
		require.NoError(t, fs.WalkDir(os.DirFS(folder), ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				raw, _ := fs.ReadFile(os.DirFS(folder), path)
				sum.Write(raw)
			}
			return err
		}))
	}
	version := fmt.Sprintf("v0.0.0-20240101000000-%x", sum.Sum(nil)[:6])
	proxy, dir, cache := t.TempDir(), t.TempDir(), t.TempDir()
	publish(t, proxy, ".", "conformance", version)
	publish(t, proxy, "../backendplugin", "backendplugin", version)
	goEnv := func(name string) string {
		out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	env := append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod -modcacherw -trimpath", "GOMODCACHE="+cache, "GONOSUMDB="+modules+"*",
		"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(goEnv("GOMODCACHE"))+"/cache/download,"+goEnv("GOPROXY"))
	run := func(endpoint string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(slices.Clone(env), "ENDPOINT="+endpoint)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	doc, err := os.ReadFile("../../docs/conformance.md")
	require.NoError(t, err)
	require.Contains(t, string(doc), "```go\n"+author+"```\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugin_test.go"), []byte(author), 0o600))
	for _, args := range [][]string{
		{"mod", "init", "example.com/plugin"}, {"get", modules + "conformance@" + version, modules + "backendplugin@" + version}, {"mod", "tidy"},
	} {
		out, err := run("", args...)
		require.NoError(t, err, "%s", out)
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	require.NotContains(t, string(mod), "replace")
	for _, heavy := range []string{"flytestdlib", "flytepropeller", "flyteplugins", "k8s.io", "prometheus"} {
		require.NotContains(t, string(mod), heavy)
	}
	good, _ := serve(t, conformance.GRPC, "")
	out, err := run(good.endpoint(), "test", "./...")
	require.NoError(t, err, "%s", out)
	bad, _ := serve(t, conformance.GRPC, "deletions of unknown jobs fail")
	out, err = run(bad.endpoint(), "test", "./...")
	require.Error(t, err)
	require.Contains(t, out, "--- FAIL: TestConformance/delete/unknown/work@v1")
	require.Contains(t, out, "OK: what is not there is deleted")
}

package backendplugin_test

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
)

const module = "github.com/flyte-backend/flyte-backend/go/backendplugin"

// publish puts the module as it is here into a folder that Go takes for a module proxy, and gives its version.
func publish(t *testing.T, dir string) string {
	t.Helper()
	files := map[string][]byte{}
	sum := sha256.New()
	here := os.DirFS(".")
	require.NoError(t, fs.WalkDir(here, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(here, path)
		files[path] = raw
		sum.Write([]byte(path + "\x00"))
		sum.Write(raw)
		return err
	}))
	version := fmt.Sprintf("v0.0.0-20240101000000-%x", sum.Sum(nil)[:6])
	at := filepath.Join(dir, filepath.FromSlash(module), "@v")
	require.NoError(t, os.MkdirAll(at, 0o700))
	archive, err := os.Create(filepath.Join(at, version+".zip"))
	require.NoError(t, err)
	z := zip.NewWriter(archive)
	for path, raw := range files {
		f, err := z.Create(module + "@" + version + "/" + path)
		require.NoError(t, err)
		_, err = f.Write(raw)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, archive.Close())
	require.NoError(t, os.WriteFile(filepath.Join(at, version+".mod"), files["go.mod"], 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(at, version+".info"), []byte(`{"Version":"`+version+`","Time":"2024-01-01T00:00:00Z"}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(at, "list"), nil, 0o600))
	return version
}

// TestOutsideTheRepository: the README's program is built in a module of its own, which requires the SDK, has no replace line,
// and whose go.mod has nothing of propeller; then it runs, serves, and drains on SIGTERM.
func TestOutsideTheRepository(t *testing.T) {
	program, err := os.ReadFile("examples/square/main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(program), "\n"), 40)

	proxy, dir, cache := t.TempDir(), t.TempDir(), t.TempDir()
	version := publish(t, proxy)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod -modcacherw -trimpath", "GOMODCACHE="+cache, "GONOSUMDB="+module,
			"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(goEnv(t, "GOMODCACHE"))+"/cache/download,"+goEnv(t, "GOPROXY"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
		return string(out)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), program, 0o600))
	run("mod", "init", "example.com/square")
	run("get", module+"@"+version)
	run("mod", "tidy")
	run("build", "-o", "square", ".")
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	require.NotContains(t, string(mod), "replace")
	for _, heavy := range []string{"flytestdlib", "flytepropeller", "flyteplugins", "k8s.io"} {
		require.NotContains(t, string(mod), heavy)
	}
	require.Less(t, strings.Count(string(mod), "// indirect"), 25, "light")

	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "square"), "-listen", "127.0.0.1:0")
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(log)
	w := &world{t: t}
	for w.address == "" && lines.Scan() {
		for _, word := range strings.Fields(lines.Text()) {
			if a, ok := strings.CutPrefix(word, "address="); ok {
				w.address = a
			}
		}
	}
	w.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
	id, err := w.create(w.within(), "square", literals(values{"x": 7}))
	require.NoError(t, err)
	r, err := w.get(w.within(), "square", string(id))
	require.NoError(t, err)
	require.Equal(t, int64(49), r.GetOutputs().GetLiterals()["o0"].GetScalar().GetPrimitive().GetInteger())
	require.NoError(t, w.delete(w.within(), "square", string(id)))
	_, err = w.create(w.within(), "square", literals(values{"x": 1 << 40}))
	require.ErrorContains(t, err, "InvalidArgument desc = x is 1099511627776, whose square is too large")

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	var drained strings.Builder
	for lines.Scan() {
		drained.WriteString(lines.Text() + "\n")
	}
	require.NoError(t, cmd.Wait(), "a graceful end is no failure")
	require.Contains(t, drained.String(), "draining")
	require.Contains(t, drained.String(), "drained")
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// TestServeEndsWithItsContext is Serve as a library calls it.
func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- backendplugin.Serve(ctx, backendplugin.Plugins{versioned("")}, backendplugin.WithPlainText(),
			backendplugin.WithAddress("127.0.0.1:0"), backendplugin.WithDrain(0, time.Second))
	}()
	cancel()
	require.NoError(t, <-ended)
}

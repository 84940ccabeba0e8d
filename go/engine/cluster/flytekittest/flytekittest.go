// Package flytekittest gives tests a real flytekit.
package flytekittest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Virtualenv gives the folder of a virtual environment with flytekit, which tools/flytekit.sh makes when it is not there; that
// takes a minute and a package index. It may be called at once, from many processes. Without it the test fails; with -short it is
// left out, since flytekit's processes take their time.
func Virtualenv(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("a test with flytekit's own processes, which -short leaves out: make e2e")
	}
	root, err := os.Getwd() // tests run in their package's folder
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		parent := filepath.Dir(root)
		if parent == root {
			t.Fatal("not in a folder of the module")
		}
		root = parent
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "tools", "flytekit.sh")) //nolint:gosec // the module's own script
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("no flytekit for tests: tools/flytekit.sh: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

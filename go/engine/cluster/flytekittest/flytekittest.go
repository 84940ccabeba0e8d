// Package flytekittest gives tests a real flytekit.
package flytekittest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Virtualenv gives the folder of a virtual environment with flytekit, which tools/flytekit.sh makes when it is not there; that
// takes a minute and a package index. It may be called at once, from many processes. A test must not go on without it.
func Virtualenv(ctx context.Context) (string, error) {
	root, err := os.Getwd() // tests run in their package's folder
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		parent := filepath.Dir(root)
		if parent == root {
			return "", errors.New("flytekittest: not in a folder of the module")
		}
		root = parent
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tools", "flytekit.sh")) //nolint:gosec // the module's own script
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("no flytekit for tests: tools/flytekit.sh: %w\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// FlytekitVersion is the release of flytekit that goes with this release of propeller. Others near it work.
const FlytekitVersion = "1.16.31"

// Python is a Python that can run tasks.
type Python struct {
	// Path is the interpreter; of a virtual environment, the one in its bin folder.
	Path string
	// Version is Python's own, such as 3.11.2; Flytekit is flytekit's.
	Version, Flytekit string
	// Scripts is the folder that pyflyte-execute is in.
	Scripts string
}

const probe = `
import json, os, sys, sysconfig
from importlib import metadata, util
try:
    flytekit = metadata.version("flytekit") if util.find_spec("flytekit") else None
except metadata.PackageNotFoundError:
    flytekit = None
folders = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]
if "posix_user" in sysconfig.get_scheme_names():
    folders.append(sysconfig.get_path("scripts", "posix_user"))
scripts = next((f for f in folders if f and os.access(os.path.join(f, "pyflyte-execute"), os.X_OK)), None)
print(json.dumps({"version": ".".join(map(str, sys.version_info[:3])), "flytekit": flytekit, "scripts": scripts, "folders": folders}))
`

// FindPython finds a Python with flytekit: the interpreter or virtual environment that hint names, or else the first of
// python3 and python on PATH that has it. It does not import flytekit, which takes seconds. The error is one line that says
// what is missing, and what would help.
func FindPython(ctx context.Context, hint string) (Python, error) {
	paths, err := candidates(hint)
	if err != nil {
		return Python{}, err
	}
	var first error
	for _, path := range paths {
		p, err := look(ctx, path)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
	}
	return Python{}, first
}

func candidates(hint string) ([]string, error) {
	if hint == "" {
		var paths []string
		for _, name := range []string{"python3", "python"} {
			if path, err := exec.LookPath(name); err == nil {
				paths = append(paths, path)
			}
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("no Python: neither python3 nor python is on PATH; install Python 3.10 to 3.12 with flytekit (pip install flytekit==%s), or name one", FlytekitVersion)
		}
		return paths, nil
	}
	if info, err := os.Stat(hint); err == nil && info.IsDir() {
		for _, name := range []string{"python", "python3"} {
			if path := filepath.Join(hint, "bin", name); executable(path) {
				return absolute(path)
			}
		}
		return nil, fmt.Errorf("folder %s is no virtual environment: it has no bin/python; name a virtual environment or a Python", hint)
	}
	path, err := exec.LookPath(hint)
	if err != nil {
		return nil, fmt.Errorf("no Python at %s: %w; name a virtual environment or a Python", hint, unwrapped(err))
	}
	return absolute(path)
}

// absolute does not follow symbolic links: a virtual environment's Python is one.
func absolute(path string) ([]string, error) {
	abs, err := filepath.Abs(path)
	return []string{abs}, err
}

func unwrapped(err error) error {
	var e *exec.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func look(ctx context.Context, path string) (Python, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-c", probe)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var found struct {
		Version, Flytekit, Scripts string
		Folders                    []string
	}
	if err == nil {
		err = json.Unmarshal(out, &found)
	}
	if err != nil {
		said := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return Python{}, fmt.Errorf("%s does not run as a Python 3.8 or newer: %w: %s", path, err, said[len(said)-1])
	}
	switch {
	case found.Flytekit == "":
		return Python{}, fmt.Errorf("%s (Python %s) has no flytekit; add it with: %s -m pip install flytekit==%s", path, found.Version, path, FlytekitVersion)
	case found.Scripts == "":
		return Python{}, fmt.Errorf("%s (Python %s) has flytekit %s, but no command pyflyte-execute in %s; install it anew with: %s -m pip install --force-reinstall --no-deps flytekit==%s",
			path, found.Version, found.Flytekit, found.Folders[0], path, found.Flytekit)
	}
	return Python{Path: path, Version: found.Version, Flytekit: found.Flytekit, Scripts: found.Scripts}, nil
}

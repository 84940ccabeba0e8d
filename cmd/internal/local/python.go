package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
)

// packagingLimit bounds how long a module may take to be imported.
const packagingLimit = 5 * time.Minute

// module is a Python file with workflows.
type module struct {
	file string
	// root is the folder that it is imported from, and name how.
	root, name string
}

func isPython(path string) bool { return strings.EqualFold(filepath.Ext(path), ".py") }

// findModule finds the folder that a file is imported from: its own, or that above the packages that it is in.
func findModule(path string) (module, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return module{}, exit.BadInputf("cannot find %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return module{}, exit.BadInputf("cannot read the workflows: %w", err)
	}
	if info.IsDir() {
		return module{}, exit.BadInputf("%s is a folder, not a Python file", path)
	}
	m := module{file: path, root: filepath.Dir(abs), name: strings.TrimSuffix(filepath.Base(abs), filepath.Ext(abs))}
	for {
		if _, err := os.Stat(filepath.Join(m.root, "__init__.py")); err != nil {
			break
		}
		m.name = filepath.Base(m.root) + "." + m.name
		m.root = filepath.Dir(m.root)
	}
	for part := range strings.SplitSeq(m.name, ".") {
		if !identifier(part) {
			return module{}, exit.BadInputf("%s cannot be imported as a Python module: %q is no name in Python", path, part)
		}
	}
	return m, nil
}

func identifier(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r < 0x80 && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// pack has flytekit write the module's package into dir.
func (m module) pack(ctx context.Context, python cluster.Python, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, packagingLimit)
	defer cancel()
	archive := filepath.Join(dir, m.name+".tgz")
	//nolint:gosec // the user's own Python and module
	cmd := exec.CommandContext(ctx, python.Path, "-m", "flytekit.clis.sdk_in_container.pyflyte", "--pkgs", m.name, "package",
		"--source", m.root, "--output", archive, "--force", "--image", "localhost/none:1", "--python-interpreter", "python3")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PYTHONPATH="+strings.Trim(m.root+string(os.PathListSeparator)+os.Getenv("PYTHONPATH"), string(os.PathListSeparator)), "NO_COLOR=1", "COLUMNS=2000",
		"TMPDIR="+dir) // flytekit leaves things behind
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// What Python itself has started may hold the output.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil {
		if _, err = os.Stat(archive); err == nil {
			return archive, nil
		}
		err = errors.New("flytekit found no tasks or workflows in it")
		return "", exit.BadInputf("%s: %w", m.file, err)
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return "", exit.Hint(exit.BadInputf("%s cannot be packaged: %s", m.file, m.lastWords(said.String(), err)),
		"see all of it with: %s -m flytekit.clis.sdk_in_container.pyflyte --pkgs %s package --force --source %s --output package.tgz", python.Path, m.name, m.root)
}

// exception is the line after a traceback, of Python or as flytekit frames it.
var exception = regexp.MustCompile(`(?m)^(?:╰|Traceback|  ).*\n([A-Za-z_][\w.]*(?:: .*)?)$`)

// lastWords is what a Python program ended with: the exception, with the last place in the user's files that it went through.
func (m module) lastWords(said string, err error) string {
	if all := exception.FindAllStringSubmatch(said, -1); all != nil {
		text := all[len(all)-1][1]
		place := regexp.MustCompile(`(?m)^[│ ]*(?:File ")?` + regexp.QuoteMeta(m.root+string(filepath.Separator)) + `([^:"\n]+\.py)(?:", line |:)(\d+)`)
		if at := place.FindAllStringSubmatch(said, -1); at != nil {
			text += fmt.Sprintf(" (%s:%s)", at[len(at)-1][1], at[len(at)-1][2])
		}
		return text
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.Trim(lines[i], " \t│╭╮╰╯─"); line != "" && !strings.HasPrefix(line, "Loading packages ") {
			return line
		}
	}
	return "its code ended Python: " + err.Error()
}

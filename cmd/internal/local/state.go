package local

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine"
)

// kept is what a resumed run needs beside the engine's own state. It is a file in the state folder.
type kept struct {
	Configs    []string `json:"configs,omitempty"`
	LocalTasks bool     `json:"localTasks,omitempty"`
	// Python is an interpreter, and Source the folder with the modules.
	Python string `json:"python,omitempty"`
	Source string `json:"source,omitempty"`
}

const keptFile = "local.json"

func (k kept) write(state string) error {
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return replace(filepath.Join(state, keptFile), append(data, '\n'))
}

func readKept(state string) (kept, error) {
	var k kept
	data, err := os.ReadFile(filepath.Join(state, keptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil {
		return k, exit.BadInputf("cannot read the state of the run in %s: %w", state, err)
	}
	return k, nil
}

// replace writes beside the file and renames, so that a reader or a kill finds the old content or the new. There is no fsync: what
// else is in the folder does not outlive a power cut for certain either.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".partial-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644)) // as any file that a command writes for its user
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// unfinished lists what a state folder holds that has not ended.
func unfinished(state string) ([]engine.Left, error) {
	if state == "" {
		return nil, nil
	}
	left, err := engine.Unfinished(state)
	if err != nil {
		return nil, exit.BadInputf("%w", err)
	}
	return left, nil
}

func describeLeft(left []engine.Left) string {
	parts := make([]string, 0, len(left))
	for _, l := range left {
		parts = append(parts, l.ID.GetName()+" (workflow "+l.Workflow+")")
	}
	return strings.Join(parts, ", ")
}

// same says that a workflow's name, as it was given, means this one.
func same(given, full string) bool { return given == full || strings.HasSuffix(full, "."+given) }

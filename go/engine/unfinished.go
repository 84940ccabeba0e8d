package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Left is an execution that a folder holds and that has not ended.
type Left struct {
	ID *core.WorkflowExecutionIdentifier
	// Workflow is its name.
	Workflow string
}

// Unfinished lists the executions in an engine's folder that have not ended, without those that another one has started.
// Nothing goes on: it is for programs that ask before they open an engine there. It fails while an engine has the folder.
func Unfinished(folder string) ([]Left, error) {
	state := filepath.Join(folder, "state")
	if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	unlock, err := lockFile(filepath.Join(folder, "lock"))
	if err != nil {
		return nil, fmt.Errorf("cannot use %s as the engine's folder: %w", folder, err)
	}
	defer func() { _ = unlock() }() // nothing was written
	recs, err := openRecords(state)
	if err != nil {
		return nil, fmt.Errorf("cannot read the engine's state in %s: %w", state, err)
	}
	var out []Left
	workflows := newWorkflows(recs, nil) // nothing changes
	for _, key := range workflows.all() {
		wf, err := workflows.read(key)
		if err != nil {
			return nil, err
		}
		var rec executionRecord
		if data, ok := recs.get(kindExecution, key); ok {
			if err := json.Unmarshal(data, &rec); err != nil {
				return nil, fmt.Errorf("execution %s cannot be read from the engine's state: %w", key, err)
			}
		}
		if wf.Status.IsTerminated() || rec.Parent != "" {
			continue
		}
		name := rec.Workflow // project/domain/name/version
		if parts := strings.Split(rec.Workflow, "/"); len(parts) > 3 {
			name = strings.Join(parts[2:len(parts)-1], "/")
		}
		out = append(out, Left{ID: wf.ExecutionID.WorkflowExecutionIdentifier, Workflow: name})
	}
	slices.SortFunc(out, func(a, b Left) int { return strings.Compare(a.ID.GetName(), b.ID.GetName()) })
	return out, nil
}

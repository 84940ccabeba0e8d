package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	packages "github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
)

// TestRecordKeys: whatever a workflow is called, its record has a file of its own that is found again.
func TestRecordKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := openRecords(dir)
	require.NoError(t, err)
	keys := []string{
		"p/d/a.b/v1", "p/d/a.B/v1", "..", ".", "%2F", "p d", "p/d/übung/v1",
		strings.Repeat("x", longestName), strings.Repeat("y", longestName+1), strings.Repeat("/", 500), "p/d/" + strings.Repeat("module.", 200),
		strings.Repeat(".", 3*longestName), strings.Repeat("X", longestName+1), strings.Repeat("x", longestName) + recordSuffix,
	}
	for i, key := range keys {
		require.NoError(t, r.put("kind", key, []byte{byte(i)}), key)
	}
	folded := map[string]bool{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, f os.DirEntry, err error) error {
		require.LessOrEqual(t, len(f.Name()), 255)
		if !f.IsDir() {
			require.Equal(t, recordSuffix, filepath.Ext(path))
			folded[strings.ToLower(path)] = true
		}
		return err
	}))
	require.Len(t, folded, len(keys), "some file systems fold case")
	r, err = openRecords(dir)
	require.NoError(t, err)
	require.Len(t, r.keys("kind"), len(keys))
	for i, key := range keys {
		data, ok := r.get("kind", key)
		require.True(t, ok, key)
		require.Equal(t, []byte{byte(i)}, data, key)
	}
}

// TestClosedRecords: an engine that is closed leaves the folder alone, which another one may have by then.
func TestClosedRecords(t *testing.T) {
	t.Parallel()
	r, err := openRecords(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, r.put("kind", "key", []byte("old")))
	r.close()
	require.ErrorIs(t, r.put("kind", "key", []byte("new")), ErrClosed)
	data, _ := r.get("kind", "key")
	require.Equal(t, "old", string(data))
}

// TestUnkept: of an execution that cannot be kept nothing is left that a later engine would stumble over.
func TestUnkept(t *testing.T) {
	t.Parallel()
	b, err := bundle.Read("chains", packages.Archive("chains"), bundle.Options{})
	require.NoError(t, err)
	for _, kind := range []string{kindExecution, kindSpec, kindWorkflow} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r, err := openRecords(filepath.Join(dir, "state"))
			require.NoError(t, err)
			e := &Engine{records: r, workflows: newWorkflows(r, nil), ctx: t.Context()}
			start := func() error {
				l, err := b.Find("chains.one", nil)
				require.NoError(t, err)
				inputs, err := resolveInputs(l.Plan, nil)
				require.NoError(t, err)
				_, _, err = e.start(l.Plan, l.Closure, inputs, Submission{Name: "x"}, nil)
				return err
			}
			inTheWay := filepath.Join(dir, "state", kind)
			require.NoError(t, os.WriteFile(inTheWay, nil, 0o600))
			require.ErrorContains(t, start(), "cannot keep the engine's state")
			require.NoError(t, os.Remove(inTheWay))
			r, err = openRecords(filepath.Join(dir, "state"))
			require.NoError(t, err)
			require.NoError(t, (&Engine{records: r, workflows: newWorkflows(r, nil)}).resume())
			require.Empty(t, r.keys(kindWorkflow))
		})
	}
}

// TestInputsAreKeptOnce: they can be large, and a workflow is written in every round.
func TestInputsAreKeptOnce(t *testing.T) {
	t.Parallel()
	r, err := openRecords("")
	require.NoError(t, err)
	w := newWorkflows(r, func(string, head, *v1alpha1.FlyteWorkflow) {})
	wf := &v1alpha1.FlyteWorkflow{WorkflowSpec: &v1alpha1.WorkflowSpec{}}
	wf.Namespace, wf.Name = "p-d", "x"
	wf.Inputs = &v1alpha1.Inputs{LiteralMap: &core.LiteralMap{Literals: map[string]*core.Literal{"x": coreutils.MustMakeLiteral(strings.Repeat("much", 1000))}}}
	require.NoError(t, w.create(wf))
	wf, err = w.read("p-d/x")
	require.NoError(t, err)
	wf, err = w.Update(t.Context(), wf.DeepCopy())
	require.NoError(t, err)
	require.Len(t, wf.Inputs.GetLiterals()["x"].GetScalar().GetPrimitive().GetStringValue(), 4000)
	data, _ := r.get(kindWorkflow, "p-d/x")
	require.NotContains(t, string(data), "much")
}

// TestSignalsAtOnce: a gate has one value, and whoever gave another is told.
func TestSignalsAtOnce(t *testing.T) {
	t.Parallel()
	r, err := openRecords("")
	require.NoError(t, err)
	s := signals{records: r, wake: func(string) {}, setting: &sync.Mutex{}}
	for round := range 500 {
		id := &core.SignalIdentifier{
			SignalId: fmt.Sprint(round), ExecutionId: &core.WorkflowExecutionIdentifier{Project: "p", Domain: "d", Name: "x"},
		}
		_, err = s.GetOrCreateSignal(t.Context(), &admin.SignalGetOrCreateRequest{
			Id: id, Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}},
		})
		require.NoError(t, err)
		var taken atomic.Int32
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if _, err := s.SetSignal(t.Context(), &admin.SignalSetRequest{Id: id, Value: coreutils.MustMakeLiteral(i)}); err == nil {
					taken.Add(1)
				}
			})
		}
		all.Wait()
		require.Equal(t, int32(1), taken.Load())
	}
}

func sink(t *testing.T, l *eventLog, node string) {
	t.Helper()
	require.NoError(t, l.Sink(t.Context(), &event.NodeExecutionEvent{Id: &core.NodeExecutionIdentifier{
		NodeId: node, ExecutionId: &core.WorkflowExecutionIdentifier{Project: "p", Domain: "d", Name: "x"},
	}}))
}

// TestCutEvents: what comes behind an event that was cut off can be read, by whatever it was cut.
func TestCutEvents(t *testing.T) {
	t.Parallel()
	for cut := range 12 {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			open := func() *eventLog {
				return &eventLog{dir: dir, listeners: map[int]func(Event){}, ends: map[string]int64{}}
			}
			l := open()
			sink(t, l, "first")
			sink(t, l, "second")
			info, err := os.Stat(l.file("p-d/x"))
			require.NoError(t, err)
			require.NoError(t, os.Truncate(l.file("p-d/x"), info.Size()-1-int64(cut)))
			l = open()
			sink(t, l, "third")
			sink(t, l, "fourth")
			got, err := l.load("p-d/x")
			require.NoError(t, err)
			var nodes []string
			for _, e := range got {
				nodes = append(nodes, e.Node.GetId().GetNodeId())
			}
			require.Equal(t, []string{"first", "third", "fourth"}, nodes)
		})
	}
}

// TestListenerPanics: the workflow does not suffer, nor do other listeners.
func TestListenerPanics(t *testing.T) {
	t.Parallel()
	l := &eventLog{listeners: map[int]func(Event){}}
	heard := 0
	l.listen(func(Event) { panic("a listener's own fault") })
	l.listen(func(Event) { heard++ })
	sink(t, l, "n")
	require.Equal(t, 1, heard)
}

package backend_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/runtime/protoiface"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// Items of map_task as ArrayNode handles them, one by one. Whole maps run in go/engine.

// item is a sub-task of a map.
func item(index int, tmpl *core.TaskTemplate) taskrunner.Task {
	return taskrunner.Task{Template: tmpl, Item: &index}
}

// itemPrefix is where item 0 of the map, in its first attempt, has its outputs.
const itemPrefix = "s3://taskrunner/metadata/flytesnacks/development/run/n0/data/0/0/0"

// fileOf is an item's state, in its first attempt.
func fileOf(index int) storage.DataReference {
	return storage.DataReference(fmt.Sprintf("s3://taskrunner/metadata/flytesnacks/development/run/n0/data/0/%d/0/%s", index, backend.StateFile))
}

// spy counts what goes through a data store, and fails writes at will.
type spy struct {
	storage.ComposedProtobufStore
	mu     sync.Mutex
	reads  map[string]int
	writes map[string]int
	// onWrite may wait or fail; nil does neither.
	onWrite func(file string) error
}

// spyOnStore restarts w on a store that is watched.
func (w *world) spyOnStore() *spy {
	w.t.Helper()
	inner := w.runner.Store()
	s := &spy{ComposedProtobufStore: inner.ComposedProtobufStore, reads: map[string]int{}, writes: map[string]int{}}
	w.store = &storage.DataStore{ComposedProtobufStore: s, ReferenceConstructor: inner.ReferenceConstructor}
	w.restart()
	return s
}

func (s *spy) ReadRaw(ctx context.Context, ref storage.DataReference) (io.ReadCloser, error) {
	s.mu.Lock()
	s.reads[path.Base(ref.String())]++
	s.mu.Unlock()
	return s.ComposedProtobufStore.ReadRaw(ctx, ref)
}

func (s *spy) WriteRaw(ctx context.Context, ref storage.DataReference, size int64, opts storage.Options, r io.Reader) error {
	if err := s.write(ref); err != nil {
		return err
	}
	return s.ComposedProtobufStore.WriteRaw(ctx, ref, size, opts, r)
}

func (s *spy) WriteProtobuf(ctx context.Context, ref storage.DataReference, opts storage.Options, m protoiface.MessageV1) error {
	if err := s.write(ref); err != nil {
		return err
	}
	return s.ComposedProtobufStore.WriteProtobuf(ctx, ref, opts, m)
}

// write counts a write and says whether it is to fail.
func (s *spy) write(ref storage.DataReference) error {
	s.mu.Lock()
	s.writes[path.Base(ref.String())]++
	hook := s.onWrite
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(path.Base(ref.String()))
}

func (s *spy) written() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for k, v := range s.writes {
		out[k] = v
	}
	return out
}

func (s *spy) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onWrite = func(file string) error {
		if file == backend.StateFile {
			return err
		}
		return nil
	}
}

// newMap is a world in which my_task belongs to the first backend, without waiting for the services to say so: how soon they
// do is not what these tests are about.
func newMap(tb testing.TB, change func(*config.Config), backends ...*backendtest.Backend) *world {
	tb.Helper()
	return newWorld(tb, func(c *config.Config) {
		c.Routes = []config.Route{{TaskType: myTask, Deployment: "default"}}
		if change != nil {
			change(c)
		}
	}, backends...)
}

// file reads an item's state, in its first attempt; nil when there is none.
func (w *world) file(index int) []byte {
	w.t.Helper()
	r, err := w.runner.Store().ReadRaw(w.ctx, fileOf(index))
	if storage.IsNotFound(err) {
		return nil
	}
	require.NoError(w.t, err)
	raw, err := io.ReadAll(r)
	require.NoError(w.t, err)
	return bytes.Clone(raw)
}

// registered waits until new tasks get the plugin version.
func (w *world) registered(version string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		d, ok := w.system.Snapshot().Resolve(registry.Query{TaskType: myTask})
		return ok && d.PluginVersion == version
	}, limit, 5*time.Millisecond, "plugin version %s is registered", version)
}

// onFile waits until the item's job is on file.
func (w *world) onFile(index int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return backend.HasJob(w.file(index)) }, limit, 5*time.Millisecond, "the job is on file")
}

func (w *world) rounds(run *taskrunner.Run, n int) {
	w.t.Helper()
	for range n {
		out, err := run.Round(w.ctx)
		require.NoError(w.t, err)
		require.Nil(w.t, out)
	}
}

func (w *world) until(run *taskrunner.Run, phase pluginscore.Phase) {
	w.t.Helper()
	out, err := run.Until(w.ctx, phase)
	require.NoError(w.t, err)
	require.Nil(w.t, out, "%v", out)
}

func (w *world) moveTo(runs ...*taskrunner.Run) {
	w.t.Helper()
	w.restart()
	for _, run := range runs {
		run.MoveTo(w.runner)
	}
}

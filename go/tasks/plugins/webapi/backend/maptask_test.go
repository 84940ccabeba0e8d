package backend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/runtime/protoiface"
	v1 "k8s.io/api/core/v1"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/handler"
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

// TestItemsOverRestarts: a job is created once, at a service that makes a new one of every create, wherever propeller stops.
func TestItemsOverRestarts(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemsOverRestarts)
	t.Run(overREST, testItemsOverRestarts)
}

func testItemsOverRestarts(t *testing.T) {
	t.Parallel()
	fresh := handler.TaskNodeState{}
	for _, tc := range []struct {
		reason string
		phase  pluginscore.Phase
		lost   *handler.TaskNodeState
	}{
		{"the round of the create was recorded", pluginscore.PhaseQueued, nil},
		{"ArrayNode has lost the round of the create", pluginscore.PhaseQueued, &fresh},
		{"the job runs", pluginscore.PhaseRunning, nil},
		{"the job waits for resources, which ArrayNode takes for not started", pluginscore.PhaseWaitingForResources, nil},
		{"ArrayNode has lost every round", pluginscore.PhaseRunning, &fresh},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.IgnoreKeys = true
			switch tc.phase {
			case pluginscore.PhaseRunning:
				b.Script(backendtest.Step{Resource: running("working")})
			case pluginscore.PhaseWaitingForResources:
				b.Script(backendtest.Step{Resource: &admin.Resource{Phase: core.TaskExecution_WAITING_FOR_RESOURCES}})
			default:
				b.Script(backendtest.Step{Resource: &admin.Resource{Phase: core.TaskExecution_QUEUED}})
			}
			w := newMap(t, nil, b)
			run := w.start(item(0, template(myTask)))
			w.until(run, tc.phase)
			w.onFile(0)
			for range 2 {
				events := len(run.Events())
				w.moveTo(run)
				if tc.lost != nil {
					run.SetState(*tc.lost)
				}
				w.rounds(run, 1)
				polls := b.Calls(backendtest.Get)
				eventually(t, "the job is polled again", func() bool { return b.Calls(backendtest.Get) > polls })
				w.rounds(run, 3)
				if tc.lost == nil {
					require.Equal(t, events, len(run.Events()), "a restart alone shows nothing new") //nolint:testifylint // Len would print them
					require.Equal(t, tc.phase, run.State().PluginPhase)
				}
			}
			b.SetJob("", succeeded(3))
			out := w.finish(run)
			require.True(t, out.Succeeded, "%v", out.Error)
			require.True(t, proto.Equal(outputs(3), out.Outputs))
			require.Len(t, b.Jobs(), 1)
			require.Zero(t, b.Jobs()[0].Deletes)
			require.Zero(t, w.system.Remembered())
		})
	}
}

// TestItemKilledBetweenReplyAndWrite is the one moment in which a second create happens.
func TestItemKilledBetweenReplyAndWrite(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemKilledBetweenReplyAndWrite)
	t.Run(overREST, testItemKilledBetweenReplyAndWrite)
}

func testItemKilledBetweenReplyAndWrite(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		ignore bool
		jobs   int
	}{
		{"a service that honours the key gives the first job again", false, 1},
		{"a service that ignores it makes another", true, 2},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.IgnoreKeys = tc.ignore
			b.Script(backendtest.Step{Resource: succeeded(1)})
			w := newMap(t, nil, b)
			whole := w.runner.Store()
			w.spyOnStore().refuse(errors.New("the process is gone"))
			run := w.start(item(0, template(myTask)))
			_, err := run.Round(w.ctx)
			require.ErrorContains(t, err, "the process is gone")
			eventually(t, "the service has answered", func() bool { return len(b.Jobs()) == 1 })
			require.Equal(t, pluginscore.PhaseUndefined, run.State().PluginPhase, "nothing is recorded before the file is written")

			w.store = whole
			w.moveTo(run)
			require.True(t, w.finish(run).Succeeded)
			require.Equal(t, 2, b.Calls(backendtest.Create))
			jobs := b.Jobs()
			require.Len(t, jobs, tc.jobs)
			require.Equal(t, jobs[0].Key, jobs[len(jobs)-1].Key)
		})
	}
}

// TestItemAnsweredBetweenRounds: the reply is on file without another round of propeller.
func TestItemAnsweredBetweenRounds(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemAnsweredBetweenRounds)
	t.Run(overREST, testItemAnsweredBetweenRounds)
}

func testItemAnsweredBetweenRounds(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.IgnoreKeys = true
	b.Script(backendtest.Step{Resource: succeeded(1)})
	release := b.Hold(backendtest.Create)
	w := newMap(t, func(c *config.Config) { c.Sync.InlineWait = duration(10 * time.Millisecond) }, b)
	run := w.start(item(0, template(myTask)))
	w.rounds(run, 1)
	require.False(t, backend.HasJob(w.file(0)), "the round ended before the call did")
	release()
	w.onFile(0)
	w.moveTo(run)
	require.True(t, w.finish(run).Succeeded)
	require.Len(t, b.Jobs(), 1)
}

// TestItemWhoseFileCannotBeWritten: the job is not forgotten, and nothing goes on before it is on file.
func TestItemWhoseFileCannotBeWritten(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemWhoseFileCannotBeWritten)
	t.Run(overREST, testItemWhoseFileCannotBeWritten)
}

func testItemWhoseFileCannotBeWritten(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.IgnoreKeys = true
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newMap(t, nil, b)
	s := w.spyOnStore()
	s.refuse(errors.New("slow down"))
	run := w.start(item(0, template(myTask)))
	for range 3 {
		_, err := run.Round(w.ctx)
		require.ErrorContains(t, err, "slow down")
	}
	s.refuse(nil)
	require.True(t, w.finish(run).Succeeded)
	require.Len(t, b.Jobs(), 1)
}

// TestItemAbandonedWithoutAFile: the job of an item that was never recorded is deleted too.
func TestItemAbandonedWithoutAFile(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemAbandonedWithoutAFile)
	t.Run(overREST, testItemAbandonedWithoutAFile)
}

func testItemAbandonedWithoutAFile(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	w := newMap(t, nil, b)
	s := w.spyOnStore()
	s.refuse(errors.New("slow down"))
	run := w.start(item(0, template(myTask)))
	_, err := run.Round(w.ctx)
	require.Error(t, err)
	eventually(t, "the service has answered", func() bool { return len(b.Jobs()) == 1 })
	require.NoError(t, run.Abort(w.ctx, "enough"))
	eventually(t, "the job is deleted", func() bool { return b.Jobs()[0].Deletes == 1 })
	require.Zero(t, w.system.Remembered())
}

// TestItemWithADamagedFile: the attempt fails, says why, and the next one has a job and a place of its own.
func TestItemWithADamagedFile(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemWithADamagedFile)
	t.Run(overREST, testItemWithADamagedFile)
}

func testItemWithADamagedFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		damage func(whole, other []byte) []byte
		says   string
	}{
		{"cut", func(b, _ []byte) []byte { return b[:len(b)-5] }, "its checksum is wrong"},
		{"cut to almost nothing", func(b, _ []byte) []byte { return b[:6] }, "it is cut"},
		{"empty", func([]byte, []byte) []byte { return nil }, "it is cut"},
		{"one bit", func(b, _ []byte) []byte { b[len(b)-2] ^= 4; return b }, "its checksum is wrong"},
		{"something else", func([]byte, []byte) []byte { return []byte("<?xml version=1.0?><Error/>") }, "was not written by the backend plugin"},
		{"of a later version", func(b, _ []byte) []byte { b[1] = 9; return b }, "format 9 was written by another version"},
		{"of another item", func(_, other []byte) []byte { return other }, "another task's"},
		{"far too long", func(b, _ []byte) []byte { return append(b, make([]byte, 1<<20)...) }, "its checksum is wrong"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: running("")})
			w := newMap(t, nil, b)
			run, other := w.start(item(0, template(myTask))), w.start(item(1, template(myTask)))
			w.until(run, pluginscore.PhaseRunning)
			w.until(other, pluginscore.PhaseQueued)
			w.onFile(0)
			w.onFile(1)
			bad := tc.damage(w.file(0), w.file(1))
			require.NoError(t, w.runner.Store().WriteRaw(w.ctx, fileOf(0), int64(len(bad)), storage.Options{}, bytes.NewReader(bad)))
			b.Script(backendtest.Step{Resource: succeeded(2)})
			w.moveTo(run)
			out := w.finish(run)
			require.True(t, out.Succeeded, "%v", out.Error)
			require.Equal(t, 2, out.Attempts)
			require.Equal(t, 1, out.SystemFailures)
			var told *core.ExecutionError
			for _, e := range run.Events() {
				if e.GetError().GetCode() == backend.CodeStateDamaged {
					told = e.GetError()
				}
			}
			require.NotNil(t, told)
			require.Contains(t, told.GetMessage(), tc.says)
			require.Contains(t, told.GetMessage(), fileOf(0).String())
			require.Contains(t, told.GetMessage(), "the job, if there is one, may go on")
			jobs := b.Jobs()
			require.Len(t, jobs, 3)
			require.NotEqual(t, jobs[0].Key, jobs[2].Key)
		})
	}
}

func TestItemsAreAbortedAfterARestart(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemsAreAbortedAfterARestart)
	t.Run(overREST, testItemsAreAbortedAfterARestart)
}

func testItemsAreAbortedAfterARestart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		phase  pluginscore.Phase
	}{
		{"created", pluginscore.PhaseQueued},
		{"running", pluginscore.PhaseRunning},
		{"created in a round that ArrayNode has lost", pluginscore.PhaseUndefined},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: running("")})
			w := newMap(t, nil, b)
			run := w.start(item(0, template(myTask)))
			if tc.phase == pluginscore.PhaseUndefined {
				w.rounds(run, 1)
				run.SetState(handler.TaskNodeState{})
			} else {
				w.until(run, tc.phase)
			}
			w.onFile(0)
			b.Fail(backendtest.Delete, 1, status.Error(codes.Unavailable, "restarting"))
			w.moveTo(run)
			require.Error(t, run.Abort(w.ctx, "enough"), "propeller repeats an abort until the job is deleted")
			require.NoError(t, run.Abort(w.ctx, "enough"))
			require.Equal(t, 1, b.Jobs()[0].Deletes)
			require.NoError(t, run.Abort(w.ctx, "enough"), "ArrayNode ends its items twice")
			require.Zero(t, w.system.Remembered())
			require.Equal(t, 1, b.Calls(backendtest.Create))
		})
	}
}

// TestItemIsRetried: every attempt has a job of its own, also when propeller stops before the failed one is cleaned up.
func TestItemIsRetried(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemIsRetried)
	t.Run(overREST, testItemIsRetried)
}

func testItemIsRetried(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			t.Parallel()
			b := startBackend(t, backendtest.Plugin{TaskType: myTask})
			b.Script(backendtest.Step{Resource: running("")})
			w := newMap(t, nil, b)
			tmpl := template(myTask)
			tmpl.Metadata.Retries.Retries = 1
			run := w.start(item(0, tmpl))
			w.until(run, pluginscore.PhaseRunning)
			if restart {
				w.moveTo(run)
			}
			b.Script(backendtest.Step{Resource: succeeded(2)})
			b.SetJob("job-1", &admin.Resource{Phase: core.TaskExecution_RETRYABLE_FAILED, Message: "evicted"})
			out := w.finish(run)
			require.True(t, out.Succeeded, "%v", out.Error)
			require.Equal(t, 2, out.Attempts)
			jobs := b.Jobs()
			require.Len(t, jobs, 2)
			require.NotEqual(t, jobs[0].Key, jobs[1].Key)
			require.Equal(t, itemPrefix, jobs[0].Request.GetOutputPrefix())
			require.NotEqual(t, jobs[0].Request.GetOutputPrefix(), jobs[1].Request.GetOutputPrefix())
			require.Equal(t, []int{1, 0}, []int{jobs[0].Deletes, jobs[1].Deletes}, "propeller aborts an attempt that is retried")
			require.Zero(t, w.system.Remembered())
		})
	}
}

// TestWritesOfTasks counts what the plugin writes: nothing for a task outside of a map, one small file for an item.
func TestWritesOfTasks(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testWritesOfTasks)
	t.Run(overREST, testWritesOfTasks)
}

func testWritesOfTasks(t *testing.T) {
	t.Parallel()
	index := 0
	for _, tc := range []struct {
		reason string
		item   *int
		sync   bool
		slow   bool
		writes int
	}{
		{"a task outside of a map", nil, false, false, 0},
		{"an item", &index, false, false, 1},
		{"an item whose create outlasts a round", &index, false, true, 2},
		{"a synchronous item", &index, true, false, 1},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			const most = time.Second // that a round waits for a create
			var s *spy
			for deadline := time.Now().Add(limit); ; {
				b := newBackend(t, backendtest.Plugin{TaskType: myTask, Sync: tc.sync})
				b.Script(backendtest.Step{Resource: running("")}, backendtest.Step{After: time.Second, Resource: succeeded(1)})
				b.OnExecute = func(context.Context, *admin.CreateRequestHeader, *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
					return syncAnswer(core.TaskExecution_SUCCEEDED, outputs(1), nil), nil
				}
				require.NoError(t, b.Start())
				t.Cleanup(b.Kill)
				release := func() {}
				if tc.slow {
					release = b.Hold(backendtest.Create)
				}
				w := newMap(t, func(c *config.Config) {
					if tc.sync {
						c.Routes[0].Mode = config.ModeSync
					}
					c.Sync.InlineWait = duration(most)
					if tc.slow {
						c.Sync.InlineWait = duration(10 * time.Millisecond)
					}
				}, b)
				s = w.spyOnStore()
				run := w.start(taskrunner.Task{Template: template(myTask), Item: tc.item})
				began := time.Now()
				out, err := run.Round(w.ctx)
				took := time.Since(began)
				require.NoError(t, err)
				release()
				if out == nil {
					out = w.finish(run)
				}
				require.True(t, out.Succeeded, "%v", out.Error)
				if tc.slow || took < most {
					break
				}
				require.True(t, time.Now().Before(deadline), "no create was ever answered within its round")
			}
			written := s.written()
			require.Equal(t, tc.writes, written[backend.StateFile])
			delete(written, backend.StateFile)
			require.Equal(t, map[string]int{"inputs.pb": 1, "outputs.pb": 1}, written)
			reads := 0
			if tc.item != nil {
				reads = 1
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			require.Equal(t, reads, s.reads[backend.StateFile])
		})
	}
}

// TestManyItemsLeaveNothingBehind: memory holds what runs, and no more.
func TestManyItemsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testManyItemsLeaveNothingBehind)
	t.Run(overREST, testManyItemsLeaveNothingBehind)
}

func testManyItemsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	const items, workers = 1000, 8
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newMap(t, func(c *config.Config) { c.WebAPI.ReadRateLimiter.QPS, c.WebAPI.ReadRateLimiter.Burst = 10000, 10000 }, b)
	w.reevaluate = 20 * time.Millisecond
	w.restart()
	queue, failures := make(chan *taskrunner.Run, items), make(chan error, items)
	for i := range items {
		queue <- w.start(item(i, template(myTask)))
	}
	close(queue)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			var mine []*taskrunner.Run
			for run := range queue {
				mine = append(mine, run)
			}
			for len(mine) > 0 {
				var left []*taskrunner.Run
				for _, run := range mine {
					switch out, err := run.Round(w.ctx); {
					case err != nil:
						failures <- err
					case out == nil:
						left = append(left, run)
					case !out.Succeeded:
						failures <- errors.New(out.Error.GetMessage())
					}
				}
				mine = left
			}
		})
	}
	all.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
	require.Len(t, b.Jobs(), items)
	keys := map[string]bool{}
	for _, j := range b.Jobs() {
		keys[j.Key] = true
	}
	require.Len(t, keys, items)
	require.Zero(t, w.system.Remembered())
}

// TestItemsOfBuiltInPlugins: what ArrayNode makes up is a Kubernetes plugin's state, and such a plugin works with it. The
// item stays with its pod, whatever services register meanwhile and whenever propeller restarts.
func TestItemsOfBuiltInPlugins(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemsOfBuiltInPlugins)
	t.Run(overREST, testItemsOfBuiltInPlugins)
}

func testItemsOfBuiltInPlugins(t *testing.T) {
	t.Parallel()
	const podTask = "pod_task"
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	w := newWorld(t, nil, b)
	s := w.spyOnStore()
	run := w.start(item(0, containerTask(podTask)))
	w.until(run, pluginscore.PhaseQueued)
	pods := func() []v1.Pod {
		var list v1.PodList
		require.NoError(t, w.runner.Kube().List(w.ctx, &list))
		return list.Items
	}
	require.Len(t, pods(), 1)
	require.Equal(t, "run-n0-0-n0-0", pods()[0].Name, "the name that propeller gives without us")
	b.SetPlugins(backendtest.Plugin{TaskType: podTask})
	known := func() bool {
		_, ok := w.system.Snapshot().Resolve(registry.Query{TaskType: podTask})
		return ok
	}
	eventually(t, "the type is known", known)
	w.rounds(run, 3)
	w.moveTo(run)
	eventually(t, "the type is known here too", known)
	w.rounds(run, 3)
	require.Len(t, pods(), 1)
	require.Zero(t, b.Calls(backendtest.Create))
	require.Zero(t, s.written()[backend.StateFile])

	w.moveTo(run)
	require.NoError(t, run.Abort(w.ctx, "enough"))
	require.Empty(t, pods())
	require.Zero(t, w.system.Remembered())

	eventually(t, "the type is known once more", known)
	b.Script(backendtest.Step{Resource: succeeded(1)})
	require.True(t, w.finish(w.start(item(1, containerTask(podTask)))).Succeeded, "the next item goes to the service")
	require.Len(t, b.Jobs(), 1)
}

// TestItemKeepsItsDecision: an item whose create is not answered yet stays with its deployment over a restart.
func TestItemKeepsItsDecision(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemKeepsItsDecision)
	t.Run(overREST, testItemKeepsItsDecision)
}

func testItemKeepsItsDecision(t *testing.T) {
	t.Parallel()
	first := startBackend(t, backendtest.Plugin{TaskType: myTask, PluginVersion: "v1"})
	second := startBackend(t)
	for _, b := range []*backendtest.Backend{first, second} {
		b.Script(backendtest.Step{Resource: succeeded(1)})
	}
	first.Fail(backendtest.Create, -1, status.Error(codes.Unavailable, "busy"))
	w := newWorld(t, nil, first, second)
	w.registered("v1")
	run := w.start(item(0, template(myTask)))
	w.until(run, pluginscore.PhaseQueued)
	first.SetPlugins()
	second.SetPlugins(backendtest.Plugin{TaskType: myTask, PluginVersion: "v2"})
	w.moveTo(run)
	w.registered("v2")
	w.rounds(run, 2)
	first.Heal(backendtest.Create)
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.Len(t, first.Jobs(), 1)
	require.Equal(t, "v1", first.Jobs()[0].PluginVersion)
	require.Empty(t, second.Jobs())
}

// TestItemThatWaitsForItsService: it goes on waiting after a restart, and is not taken for a built-in plugin's.
func TestItemThatWaitsForItsService(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemThatWaitsForItsService)
	t.Run(overREST, testItemThatWaitsForItsService)
}

func testItemThatWaitsForItsService(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: "late_task"})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	b.Kill()
	w := newWorld(t, func(c *config.Config) { c.TaskTypes = []string{"late_task"} }, b)
	run, aborted := w.start(item(0, template("late_task"))), w.start(item(1, template("late_task")))
	w.rounds(run, 2)
	w.rounds(aborted, 2)
	w.moveTo(run, aborted)
	w.rounds(run, 2)
	require.NoError(t, aborted.Abort(w.ctx, "enough"))
	require.NoError(t, b.Start())
	require.True(t, w.finish(run).Succeeded)
	require.Len(t, b.Jobs(), 1)
	require.Zero(t, w.system.Remembered())
}

// TestItemThatFallsBackAtLast: an item that waited in vain gets one pod, and the plugin goes on to look after it.
func TestItemThatFallsBackAtLast(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemThatFallsBackAtLast)
	t.Run(overREST, testItemThatFallsBackAtLast)
}

func testItemThatFallsBackAtLast(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Kill()
	w := newWorld(t, func(c *config.Config) { c.TaskTypes = []string{"late_task"} }, b)
	run := w.start(item(0, containerTask("late_task")))
	w.until(run, pluginscore.PhaseQueued)
	require.NoError(t, b.Start())
	var pods v1.PodList
	require.Eventually(t, func() bool {
		w.rounds(run, 1)
		require.NoError(t, w.runner.Kube().List(w.ctx, &pods))
		return len(pods.Items) == 1
	}, limit, 20*time.Millisecond)
	b.SetPlugins(backendtest.Plugin{TaskType: "late_task"})
	for range 2 {
		pods.Items[0].Status = v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}
		require.NoError(t, w.runner.Kube().Status().Update(w.ctx, &pods.Items[0]))
		w.until(run, pluginscore.PhaseRunning)
		w.moveTo(run)
		w.rounds(run, 2)
		require.NoError(t, w.runner.Kube().List(w.ctx, &pods))
		require.Len(t, pods.Items, 1)
	}
	require.Empty(t, b.Jobs())
}

// TestItemWhoseLastRoundIsLost: one item's error has ArrayNode drop what all others came to in that round.
func TestItemWhoseLastRoundIsLost(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemWhoseLastRoundIsLost)
	t.Run(overREST, testItemWhoseLastRoundIsLost)
}

func testItemWhoseLastRoundIsLost(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		for phase, ended := range map[core.TaskExecution_Phase]*admin.Resource{
			core.TaskExecution_SUCCEEDED: succeeded(1), core.TaskExecution_FAILED: {Phase: core.TaskExecution_FAILED, Message: "no"},
		} {
			t.Run(fmt.Sprintf("%s, restart %v", phase, restart), func(t *testing.T) {
				t.Parallel()
				b := startBackend(t, backendtest.Plugin{TaskType: myTask})
				b.Script(backendtest.Step{Resource: running("")})
				w := newMap(t, nil, b)
				run := w.start(item(0, template(myTask)))
				w.until(run, pluginscore.PhaseRunning)
				b.SetJob("", ended)
				require.Eventually(t, func() bool {
					ended, err := run.LoseRound(w.ctx)
					require.NoError(t, err)
					return ended
				}, limit, 20*time.Millisecond)
				if restart {
					w.moveTo(run)
				}
				out := w.finish(run)
				require.Equal(t, phase == core.TaskExecution_SUCCEEDED, out.Succeeded, "%v", out.Error)
				require.Equal(t, 1, b.Calls(backendtest.Create))
				require.Zero(t, w.system.Remembered())
			})
		}
	}
}

// TestItemThatFailsWithItsJobRunning: ArrayNode does not keep that a failure wants its job deleted.
func TestItemThatFailsWithItsJobRunning(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemThatFailsWithItsJobRunning)
	t.Run(overREST, testItemThatFailsWithItsJobRunning)
}

func testItemThatFailsWithItsJobRunning(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("")})
	w := newMap(t, func(c *config.Config) { c.Deployments["default"].MaxMessageSizeBytes = 64 << 10 }, b)
	run := w.start(item(0, template(myTask)))
	w.until(run, pluginscore.PhaseRunning)
	b.SetJob("", running(string(make([]byte, 1<<17))))
	out := w.finish(run)
	require.Contains(t, out.Error.GetMessage(), "maxMessageSizeBytes")
	require.Equal(t, 1, out.Attempts)
	require.Equal(t, 1, b.Jobs()[0].Deletes)
	require.Zero(t, w.system.Remembered())
}

// TestSyncItems: there is no job to find again, so a call that a restart cuts off is made again, by the same deployment and
// under the same key.
func TestSyncItems(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testSyncItems)
	t.Run(overREST, testSyncItems)
}

func testSyncItems(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	first := newBackend(t, backendtest.Plugin{TaskType: myTask, Sync: true})
	first.OnExecute = func(ctx context.Context, _ *admin.CreateRequestHeader, _ *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return syncAnswer(core.TaskExecution_SUCCEEDED, outputs(4), nil), nil
	}
	require.NoError(t, first.Start())
	t.Cleanup(first.Kill)
	second := startBackend(t)
	w := newWorld(t, func(c *config.Config) { c.Sync.InlineWait = duration(50 * time.Millisecond) }, first, second)
	w.registered("v1")
	run := w.start(item(0, template(myTask)))
	w.until(run, pluginscore.PhaseRunning)
	eventually(t, "the call has arrived", func() bool { return first.Calls(backendtest.Execute) == 1 })
	second.SetPlugins(backendtest.Plugin{TaskType: myTask, PluginVersion: "v9"})
	w.moveTo(run)
	w.registered("v9")
	w.rounds(run, 2)
	require.Equal(t, pluginscore.PhaseRunning, run.State().PluginPhase)
	close(release)
	out := w.finish(run)
	require.True(t, out.Succeeded, "%v", out.Error)
	require.True(t, proto.Equal(outputs(4), out.Outputs))
	require.Equal(t, 2, first.Calls(backendtest.Execute))
	require.Empty(t, second.Jobs())
	require.Zero(t, w.system.Remembered())
}

// TestItemsTellWhatChanged: ArrayNode takes any version but 0 for news, every round.
func TestItemsTellWhatChanged(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testItemsTellWhatChanged)
	t.Run(overREST, testItemsTellWhatChanged)
}

func testItemsTellWhatChanged(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("step 1")})
	w := newMap(t, nil, b)
	run := w.start(item(0, template(myTask)))
	w.until(run, pluginscore.PhaseRunning)
	for i := 2; i <= 3; i++ {
		before := len(run.Events())
		b.SetJob("", running(fmt.Sprintf("step %d", i)))
		require.Eventually(t, func() bool {
			w.rounds(run, 1)
			return containsAny(reasons(run.Events()), fmt.Sprintf("step %d", i))
		}, limit, 20*time.Millisecond)
		w.rounds(run, 20)
		require.Equal(t, before+1, len(run.Events())) //nolint:testifylint // Len would print them
	}
}

package backend_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/handler"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

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

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
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
)

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

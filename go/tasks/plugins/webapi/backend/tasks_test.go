package backend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core/mocks"
)

// TestKeysAreUnique: parts that join to the same text are different tasks.
func TestKeysAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]identity{}
	for _, id := range []identity{
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g"},
		{project: "pd", domain: "", execution: "e", node: "n", generated: "g"},
		{project: "p", domain: "de", execution: "", node: "n", generated: "g"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g", attempt: 1},
		{project: "p", domain: "d", execution: "e", node: "n1", generated: "g"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g-1"},
		{project: "p", domain: "d2", execution: "e", node: "n", generated: "g"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g", index: "0"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g", index: "1"},
	} {
		k := id.key()
		require.Len(t, k, 64)
		other, dup := seen[k]
		require.False(t, dup, "%v and %v", id, other)
		seen[k] = id
	}
}

// TestForgottenWorkflows: tasks of workflows that are gone do not pile up.
func TestForgottenWorkflows(t *testing.T) {
	t.Parallel()
	var size int
	ts := newTasks(func(n int) { size = n })
	meta := &mocks.TaskExecutionMetadata{}
	meta.EXPECT().GetOwnerID().Return(types.NamespacedName{Namespace: "ns", Name: "n"})
	now := time.Now()
	old := ts.touch("old", identity{}, meta, now)
	cancelled := false
	old.call = &call{cancel: func() { cancelled = true }, sync: true, done: make(chan struct{})}
	ts.touch("new", identity{}, meta, now.Add(2*forgetAfter))
	require.Nil(t, ts.lookup("old"))
	require.True(t, cancelled)
	require.Equal(t, 1, size)
	require.Equal(t, 1, ts.count())
	require.NotNil(t, ts.lookup("new"))
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	tk := &task{}
	now := time.Now()
	e := &client.Error{Message: "m"}
	require.Equal(t, time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
	require.Equal(t, 2*time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
	require.Equal(t, 3*time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
	require.Equal(t, time.Minute, tk.backOff(&client.Error{RetryAfter: time.Minute}, time.Second, 3*time.Second, now), "the service asked for it")
	require.Equal(t, maxRetryAfter, tk.backOff(&client.Error{RetryAfter: 24 * time.Hour}, time.Second, 3*time.Second, now))
	tk.created()
	require.Equal(t, time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
}

// TestPolling: failures in a row are one outage, and its end is a change.
func TestPolling(t *testing.T) {
	t.Parallel()
	tk := &task{}
	now := time.Now()
	job := &client.Job{Phase: core.TaskExecution_RUNNING}
	bad := &client.Error{Message: "away"}
	require.True(t, tk.polled(job, nil, false, now), "the first answer")
	require.False(t, tk.polled(&client.Job{Phase: core.TaskExecution_RUNNING}, nil, false, now), "the same again")
	tk.waking = true
	require.False(t, tk.settled())
	require.True(t, tk.waking, "there is something to hear of, so the waking goes on")
	require.True(t, tk.polled(nil, bad, false, now))
	require.False(t, tk.polled(nil, bad, false, now.Add(time.Minute)))
	v := tk.view()
	require.Equal(t, 2, v.outage.count)
	require.Equal(t, now, v.outage.since)
	require.Equal(t, job, v.job, "the last known state stays")
	require.True(t, tk.settled())
	require.False(t, tk.waking, "the next change begins a waking of its own")
	require.True(t, tk.polled(job, nil, false, now.Add(2*time.Minute)), "the outage has ended")
	require.False(t, tk.polled(nil, bad, false, now.Add(time.Minute)), "an answer to an older question")
	require.Zero(t, tk.view().outage.count)
	require.True(t, tk.polled(nil, bad, true, now.Add(3*time.Minute)))
	require.False(t, tk.polled(nil, bad, true, now.Add(3*time.Minute)), "it is known already")
}

// TestResting: a job is not polled before its service expects something new, and its state stays known.
func TestResting(t *testing.T) {
	t.Parallel()
	now := time.Now()
	job := &client.Job{Phase: core.TaskExecution_RUNNING, PollAfter: time.Minute}
	tk := &task{}
	rests := func(after time.Duration) bool {
		_, resting := tk.resting(now.Add(after))
		return resting
	}
	require.False(t, rests(0), "nothing is known of it")
	tk.polled(nil, &client.Error{Message: "away"}, false, now)
	require.False(t, rests(0), "nor is anything after an outage")
	tk.polled(job, nil, false, now)
	require.True(t, rests(0))
	got, _ := tk.resting(now)
	require.Same(t, job, got)
	require.True(t, rests(59*time.Second))
	require.False(t, rests(time.Minute))
	tk.polled(&client.Job{Phase: core.TaskExecution_RUNNING}, nil, false, now.Add(time.Minute))
	require.False(t, rests(time.Minute), "the latest answer counts")
	tk.polled(&client.Job{Phase: core.TaskExecution_RUNNING, PollAfter: 24 * time.Hour}, nil, false, now.Add(2*time.Minute))
	require.True(t, rests(2*time.Minute+maxPollAfter-1))
	require.False(t, rests(2*time.Minute+maxPollAfter), "no longer than propeller lets it")
}

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

func TestGateLetsOneFirst(t *testing.T) {
	t.Parallel()
	var made atomic.Bool
	g := newGate(func(key string) bool { return made.Load() && key == "ab_backend" })
	g.pass(t.Context(), "a-b")
	var wg sync.WaitGroup
	in := make(chan bool, 10)
	for i := range 10 {
		wg.Go(func() {
			g.pass(t.Context(), []string{"a-b", "ab"}[i%2]) // whose metrics have one name
			in <- made.Load()
		})
	}
	g.pass(t.Context(), "another type")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.pass(ctx, "a-b") // propeller ends
	made.Store(true)
	wg.Wait()
	for range 10 {
		require.True(t, <-in, "it went out before the metrics were there")
	}
	g.openings["x_backend"] = &opening{since: time.Now().Add(-gateLimit), open: make(chan struct{})}
	g.pass(t.Context(), "x") // whose first round has ended without metrics
}

func TestHopelessPolls(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		e      client.Error
		want   bool
	}{
		{"the service knows no such job", client.Error{Code: codes.NotFound, Class: client.SystemError, FromService: true}, true},
		{"a proxy on the way says not found", client.Error{Code: codes.NotFound, Class: client.SystemError}, false},
		{"the service does not understand the job's id", client.Error{Code: codes.InvalidArgument, Class: client.UserError, FromService: true}, true},
		{"the answer is too large and will stay so", client.Error{Code: codes.ResourceExhausted, TooLarge: true}, true},
		{"the service is in trouble", client.Error{Code: codes.Internal, Class: client.SystemError, FromService: true}, false},
		{"the service is away", client.Error{Code: codes.Unavailable, Class: client.RetryLater}, false},
	} {
		require.Equal(t, tc.want, hopeless(&tc.e), tc.reason)
	}
}

func TestErrorsThatAreNoCalls(t *testing.T) {
	t.Parallel()
	e := asCallError(errors.New("the data store is away"))
	require.True(t, e.Transient())
	require.Contains(t, e.Error(), "the data store is away")
	wrapped := fmt.Errorf("x: %w", &client.Error{Class: client.UserError})
	require.Equal(t, client.UserError, asCallError(wrapped).Class)
}

// TestMachineryConfig: the section's copy of the machinery's settings has the same keys, and each value arrives.
func TestMachineryConfig(t *testing.T) {
	t.Parallel()
	const text = `{
		"resourceQuotas": {"a": 1, "b": 2},
		"readRateLimiter": {"qps": 3, "burst": 4}, "writeRateLimiter": {"qps": 5, "burst": 6},
		"caching": {"size": 7, "resyncInterval": "8s", "workers": 9, "maxSystemFailures": 10},
		"resourceMeta": "11"
	}`
	var ours config.WebAPIConfig
	require.NoError(t, json.Unmarshal([]byte(text), &ours))
	raw, err := json.Marshal(machineryConfig(ours))
	require.NoError(t, err)
	require.JSONEq(t, text, string(raw), "every key of the machinery's")
	raw, err = json.Marshal(ours)
	require.NoError(t, err)
	require.JSONEq(t, text, string(raw), "and no other")
}

// TestTaskInfoIsPropellers: propeller writes into the links of a map's items, and the job is in the cache for the next look.
func TestTaskInfoIsPropellers(t *testing.T) {
	t.Parallel()
	job := &client.Job{LogLinks: []*core.TaskLog{{Name: "log", Uri: "http://log/1"}}}
	info := taskInfo(job, resourceMeta{id: client.JobID("1")}, pluginscore.PhaseRunning)
	info.Logs[0].Name += "-0"
	info.ExternalResources[0].Logs[0].Name += "-0"
	require.Equal(t, "log-0", info.Logs[0].GetName())
	require.Equal(t, "log-0", info.ExternalResources[0].Logs[0].GetName())
	require.Equal(t, "log", job.LogLinks[0].GetName())
}

// TestReloadWhileThePluginLoads: the file may change between the beginning of the load and its end.
func TestReloadWhileThePluginLoads(t *testing.T) {
	t.Parallel()
	before, after := config.Default(), config.Default()
	after.AcceptNewTasks = false
	s := newSystem(before)
	t.Cleanup(s.pool.close)
	g := &registration{latest: after}
	g.follow(t.Context(), s, before)
	require.False(t, s.config().AcceptNewTasks)
}

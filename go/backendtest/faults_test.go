package backendtest_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// overBoth runs a test with a backend that executes, over each transport.
func overBoth(t *testing.T, change func(*backendtest.Backend), test func(t *testing.T, b *backendtest.Backend, c client.Client)) {
	t.Helper()
	t.Parallel()
	for _, rest := range []bool{false, true} {
		b := backendtest.New(backendtest.Plugin{TaskType: "t"})
		b.REST = rest
		b.OnExecute = func(context.Context, *admin.CreateRequestHeader, *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
			return []*admin.ExecuteTaskSyncResponse{{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{
				Resource: &admin.Resource{Phase: core.TaskExecution_SUCCEEDED},
			}}}}, nil
		}
		if change != nil {
			change(b)
		}
		c := run(t, b)
		t.Run(b.Deployment().Protocol, func(t *testing.T) {
			t.Parallel()
			test(t, b, c)
		})
	}
}

var target = client.Target{TaskType: "t", PluginVersion: "v1"}

// request is a create with a key of its own.
func request(key string) *client.CreateRequest {
	return &client.CreateRequest{Target: target, IdempotencyKey: key, Template: &core.TaskTemplate{Type: "t"}}
}

// every is each call, by its method.
func every(c client.Client, ref client.JobRef) map[backendtest.Method]func(context.Context) error {
	return map[backendtest.Method]func(context.Context) error{
		backendtest.List:    func(ctx context.Context) error { _, err := c.List(ctx); return err },
		backendtest.Create:  func(ctx context.Context) error { _, err := c.Create(ctx, request("k")); return err },
		backendtest.Get:     func(ctx context.Context) error { _, err := c.Get(ctx, ref); return err },
		backendtest.Delete:  func(ctx context.Context) error { return c.Delete(ctx, ref) },
		backendtest.Execute: func(ctx context.Context) error { _, err := c.Execute(ctx, request("k")); return err },
	}
}

func job(t *testing.T, c client.Client, key string) client.JobRef {
	t.Helper()
	id, err := c.Create(within(t), request(key))
	require.NoError(t, err)
	return client.JobRef{Target: target, ID: id}
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	overBothDeployments := map[bool]string{false: config.ProtocolGRPC, true: config.ProtocolREST}
	for rest, protocol := range overBothDeployments {
		b := backendtest.New()
		b.REST = rest
		require.NoError(t, b.Start())
		t.Cleanup(b.Kill)
		cfg := config.Default()
		cfg.Deployments = map[string]*config.Deployment{"x": b.Deployment()}
		require.NoError(t, cfg.Validate())
		assert.Equal(t, protocol, b.Deployment().Protocol)
		assert.Equal(t, rest, strings.HasPrefix(b.Endpoint(), "http://127.0.0.1:"))
	}
}

func TestEveryCall(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, b *backendtest.Backend, c client.Client) {
		got, err := c.List(within(t))
		require.NoError(t, err)
		assert.Equal(t, []client.Registration{{Name: "test t", TaskType: "t", PluginVersion: "v1"}}, got)
		ref := job(t, c, "a")
		assert.Equal(t, string(ref.ID), string(job(t, c, "a").ID))
		assert.Equal(t, "v1", b.Jobs()[0].PluginVersion)
		assert.Equal(t, "a", b.Jobs()[0].Key)
		assert.Equal(t, core.TaskExecution_SUCCEEDED, phase(t, c, ref))
		require.NoError(t, c.Delete(within(t), ref))
		assert.Equal(t, 1, b.Jobs()[0].Deletes)
		_, err = c.Get(within(t), client.JobRef{Target: target, ID: client.JobID("unknown")})
		assert.Equal(t, codes.NotFound, client.AsError(err).Code)
		for m, call := range every(c, ref) {
			calls := b.Calls(m)
			b.Fail(m, 1, status.Error(codes.Aborted, "because"))
			e := client.AsError(call(within(t)))
			assert.Equal(t, codes.Aborted, e.Code, m)
			assert.Equal(t, "because", e.Message, m)
			assert.True(t, e.FromService, m)
			require.NoError(t, call(within(t)), m)
			assert.Equal(t, calls+2, b.Calls(m), m)
		}
	})
}

func TestDrop(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, b *backendtest.Backend, c client.Client) {
		ref := job(t, c, "a")
		for m, call := range every(c, ref) {
			connections := b.Connections()
			b.Drop(m, -1)
			e := client.AsError(call(within(t)))
			assert.Equal(t, codes.Unavailable, e.Code, "%s: %v", m, e)
			assert.Equal(t, client.RetryLater, e.Class, m)
			assert.False(t, e.FromService, m)
			b.Heal(m)
			require.Eventually(t, func() bool { return call(within(t)) == nil }, limit, 5*time.Millisecond, m)
			assert.Greater(t, b.Connections(), connections, "%s: the old ones are gone", m)
			b.Drop(m, 1)
			require.Eventually(t, func() bool { return call(within(t)) == nil }, limit, 5*time.Millisecond, "%s: once", m)
		}
	})
}

func TestGarble(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, b *backendtest.Backend, c client.Client) {
		ref := job(t, c, "a")
		for m, call := range every(c, ref) {
			for _, n := range []int{2, -1} {
				b.Garble(m, n)
				for range 2 {
					e := client.AsError(call(within(t)))
					assert.Equal(t, codes.Internal, e.Code, "%s: %v", m, e)
					assert.True(t, e.FromService, m)
				}
				b.Heal(m)
				require.NoError(t, call(within(t)), m)
			}
		}
		b.Garble(backendtest.Create, 1)
		_, err := c.Create(within(t), request("new"))
		require.Error(t, err)
		assert.Equal(t, b.Jobs()[len(b.Jobs())-1].ID, string(job(t, c, "new").ID), "the job was made")
	})
}

func TestKillAndStart(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, b *backendtest.Backend, c client.Client) {
		endpoint, ref := b.Endpoint(), job(t, c, "a")
		b.Kill()
		for m, call := range every(c, ref) {
			e := client.AsError(call(within(t)))
			assert.Equal(t, codes.Unavailable, e.Code, m)
			assert.False(t, e.FromService, m)
		}
		require.NoError(t, b.Start())
		assert.Equal(t, endpoint, b.Endpoint())
		require.Eventually(t, func() bool { _, err := c.Get(within(t), ref); return err == nil }, limit, 10*time.Millisecond)

		arrived := b.Calls(backendtest.Get)
		release := b.Hold(backendtest.Get)
		defer release()
		failed := make(chan error, 1)
		go func() { _, err := c.Get(within(t), ref); failed <- err }()
		require.Eventually(t, func() bool { return b.Calls(backendtest.Get) > arrived }, limit, time.Millisecond)
		b.Kill()
		e := client.AsError(<-failed)
		assert.Equal(t, codes.Unavailable, e.Code, e)
		assert.False(t, e.FromService)
	})
}

func TestBatches(t *testing.T) {
	for _, oneByOne := range []bool{false, true} {
		t.Run(map[bool]string{false: "together", true: "one by one"}[oneByOne], func(t *testing.T) {
			overBoth(t, func(b *backendtest.Backend) { b.OneByOne = oneByOne }, func(t *testing.T, b *backendtest.Backend, c client.Client) {
				b.Script(backendtest.Step{Resource: &admin.Resource{Phase: core.TaskExecution_RUNNING}, PollAfter: time.Minute})
				ref := job(t, c, "a")
				calls := b.Calls(backendtest.Get)
				release := b.Hold(backendtest.Get)
				defer release()
				var wg sync.WaitGroup
				wg.Go(func() { assert.Equal(t, core.TaskExecution_RUNNING, phase(t, c, ref)) })
				require.Eventually(t, func() bool { return b.Calls(backendtest.Get) > calls }, limit, time.Millisecond)
				for range 5 {
					wg.Go(func() {
						job, err := c.Get(within(t), ref)
						if assert.NoError(t, err) {
							assert.Equal(t, core.TaskExecution_RUNNING, job.Phase)
							assert.Equal(t, b.REST || !oneByOne, job.PollAfter == time.Minute)
						}
					})
				}
				// They go together, or by themselves, because the poll under way is slow.
				require.Eventually(t, func() bool { return b.Calls(backendtest.Get) == calls+6 }, limit, time.Millisecond)
				release()
				wg.Wait()
				assert.Equal(t, oneByOne, b.Batches() == 0)
			})
		})
	}
}

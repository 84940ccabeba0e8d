package backendtest_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/dial"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = time.Minute

// run starts the backend and connects to it until the test ends.
func run(t *testing.T, b *backendtest.Backend) client.Client {
	t.Helper()
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	c, err := dial.Dial("test", b.Deployment())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func create(t *testing.T, c client.Client, key string) client.JobRef {
	t.Helper()
	id, err := c.Create(within(t), &client.CreateRequest{IdempotencyKey: key, Template: &core.TaskTemplate{Type: "t"}})
	require.NoError(t, err)
	return client.JobRef{ID: id}
}

func phase(t *testing.T, c client.Client, ref client.JobRef) core.TaskExecution_Phase {
	t.Helper()
	job, err := c.Get(within(t), ref)
	require.NoError(t, err)
	return job.Phase
}

func step(after time.Duration, p core.TaskExecution_Phase) backendtest.Step {
	return backendtest.Step{After: after, Resource: &admin.Resource{Phase: p}}
}

func TestJobsWithoutScriptSucceed(t *testing.T) {
	t.Parallel()
	c := run(t, backendtest.New())
	assert.Equal(t, core.TaskExecution_SUCCEEDED, phase(t, c, create(t, c, "")))
}

func TestScriptOverTime(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	c := run(t, b)
	b.Script(step(0, core.TaskExecution_INITIALIZING), step(50*time.Millisecond, core.TaskExecution_RUNNING), step(150*time.Millisecond, core.TaskExecution_SUCCEEDED))
	begin := time.Now()
	ref := create(t, c, "")
	var seen []core.TaskExecution_Phase
	require.Eventually(t, func() bool {
		p := phase(t, c, ref)
		// Nothing is told before its time; which steps are seen is a matter of the machine's load.
		assert.False(t, p == core.TaskExecution_SUCCEEDED && time.Since(begin) < 150*time.Millisecond)
		if len(seen) == 0 || seen[len(seen)-1] != p {
			seen = append(seen, p)
		}
		return p == core.TaskExecution_SUCCEEDED
	}, limit, 5*time.Millisecond)
	assert.IsIncreasing(t, order(seen))

	b.Script(step(time.Hour, core.TaskExecution_SUCCEEDED))
	assert.Equal(t, core.TaskExecution_QUEUED, phase(t, c, create(t, c, "")), "before its first step")
	assert.Equal(t, core.TaskExecution_SUCCEEDED, phase(t, c, ref), "a script is for jobs from now on")
}

// order gives each phase's place in the life of a job.
func order(phases []core.TaskExecution_Phase) []int {
	place := map[core.TaskExecution_Phase]int{
		core.TaskExecution_INITIALIZING: 1, core.TaskExecution_RUNNING: 2, core.TaskExecution_SUCCEEDED: 3,
	}
	out := make([]int, 0, len(phases))
	for _, p := range phases {
		out = append(out, place[p])
	}
	return out
}

func TestSetJob(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	c := run(t, b)
	one, two := create(t, c, ""), create(t, c, "")
	b.SetJob(b.Jobs()[1].ID, &admin.Resource{Phase: core.TaskExecution_FAILED})
	assert.Equal(t, core.TaskExecution_SUCCEEDED, phase(t, c, one))
	assert.Equal(t, core.TaskExecution_FAILED, phase(t, c, two))
	b.SetJob("", &admin.Resource{Phase: core.TaskExecution_ABORTED})
	assert.Equal(t, core.TaskExecution_ABORTED, phase(t, c, one))
	assert.Equal(t, core.TaskExecution_ABORTED, phase(t, c, two))
}

func TestFailuresAndHealing(t *testing.T) {
	t.Parallel()
	first, always := status.Error(codes.Aborted, "first"), status.Error(codes.Internal, "always")
	tests := []struct {
		reason string
		order  func(b *backendtest.Backend)
		want   []codes.Code // of calls in a row
	}{
		{"none", func(*backendtest.Backend) {}, []codes.Code{codes.OK}},
		{"the next two", func(b *backendtest.Backend) { b.Fail(backendtest.Create, 2, first) }, []codes.Code{codes.Aborted, codes.Aborted, codes.OK}},
		{"no more", func(b *backendtest.Backend) { b.Fail(backendtest.Create, 0, first) }, []codes.Code{codes.OK}},
		{"all", func(b *backendtest.Backend) { b.Fail(backendtest.Create, -1, always) }, []codes.Code{codes.Internal, codes.Internal, codes.Internal}},
		{"some first, then all", func(b *backendtest.Backend) {
			b.Fail(backendtest.Create, -1, always)
			b.Fail(backendtest.Create, 1, first)
		}, []codes.Code{codes.Aborted, codes.Internal}},
		{"one after the other", func(b *backendtest.Backend) {
			b.Fail(backendtest.Create, 1, first)
			b.Fail(backendtest.Create, 1, always)
		}, []codes.Code{codes.Aborted, codes.Internal, codes.OK}},
		{"of another call", func(b *backendtest.Backend) { b.Fail(backendtest.Get, -1, always) }, []codes.Code{codes.OK}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b := backendtest.New()
			c := run(t, b)
			tt.order(b)
			for i, want := range tt.want {
				_, err := c.Create(within(t), &client.CreateRequest{})
				got := codes.OK
				if err != nil {
					got = client.AsError(err).Code
				}
				assert.Equal(t, want, got, i)
			}
			assert.Equal(t, len(tt.want), b.Calls(backendtest.Create), "failed calls count")
			b.Heal(backendtest.Create)
			_, err := c.Create(within(t), &client.CreateRequest{})
			assert.NoError(t, err)
		})
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	c := run(t, b)
	b.Delay(backendtest.List, 100*time.Millisecond)
	begin := time.Now()
	_, err := c.List(within(t))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 100*time.Millisecond)

	b.Heal(backendtest.List)
	release := b.Hold(backendtest.List)
	answered := make(chan error, 1)
	go func() {
		_, err := c.List(within(t))
		answered <- err
	}()
	require.Eventually(t, func() bool { return b.Calls(backendtest.List) == 2 }, limit, 5*time.Millisecond)
	assert.Empty(t, answered)
	release()
	release()
	require.NoError(t, <-answered)

	b.Delay(backendtest.List, time.Hour)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	go func() {
		_, err := c.List(ctx)
		answered <- err
	}()
	require.Eventually(t, func() bool { return b.Calls(backendtest.List) == 3 }, limit, 5*time.Millisecond)
	cancel()
	assert.Equal(t, codes.Canceled, client.AsError(<-answered).Code)

	b.Heal(backendtest.List)
	_, err = c.List(within(t))
	assert.NoError(t, err)
	assert.Equal(t, 4, b.Calls(backendtest.List))
}

func TestRestartKeepsPortAndJobs(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	c := run(t, b)
	endpoint, ref := b.Endpoint(), create(t, c, "key")
	require.Error(t, b.Start(), "it runs already")
	b.Kill()
	b.Kill() // as often as one likes
	_, err := c.Get(within(t), ref)
	require.Error(t, err)
	assert.False(t, client.AsError(err).FromService)

	require.NoError(t, b.Start())
	assert.Equal(t, endpoint, b.Endpoint())
	require.Eventually(t, func() bool { _, err := c.Get(within(t), ref); return err == nil }, limit, 10*time.Millisecond)
	assert.Equal(t, string(ref.ID), string(create(t, c, "key").ID), "the key is remembered too")
	assert.Equal(t, 2, b.Connections())
}

// Kill must not wait until a server that was only just started serves.
func TestQuickRestarts(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	for range 200 {
		require.NoError(t, b.Start())
		b.Kill()
	}
}

func TestStartFailsWhereThePortIsTaken(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	require.NoError(t, b.Start())
	b.Kill()
	squatter, err := net.Listen("tcp", b.Endpoint())
	require.NoError(t, err)
	t.Cleanup(func() { _ = squatter.Close() })
	assert.ErrorContains(t, b.Start(), "cannot listen for the test backend")
}

func TestCounts(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	c := run(t, b)
	one := create(t, c, "a")
	create(t, c, "a")
	two := create(t, c, "b")
	require.NoError(t, c.Delete(within(t), one))
	require.NoError(t, c.Delete(within(t), one))
	require.NoError(t, c.Delete(within(t), client.JobRef{ID: client.JobID("unknown")}))
	_, err := c.Get(within(t), client.JobRef{ID: client.JobID("unknown")})
	assert.Equal(t, codes.NotFound, client.AsError(err).Code)

	jobs := b.Jobs()
	require.Len(t, jobs, 2)
	assert.Equal(t, []string{string(one.ID), string(two.ID)}, []string{jobs[0].ID, jobs[1].ID}, "in order")
	assert.Equal(t, []int{2, 1}, []int{jobs[0].Creates, jobs[1].Creates})
	assert.Equal(t, []int{2, 0}, []int{jobs[0].Deletes, jobs[1].Deletes})
	assert.Equal(t, 3, b.Calls(backendtest.Create))
	assert.Equal(t, 3, b.Calls(backendtest.Delete))
	assert.Equal(t, 1, b.Calls(backendtest.Get))
	assert.Equal(t, 0, b.Calls(backendtest.List))

	jobs[0].Request.Template.Type = "changed"
	assert.Equal(t, "t", b.Jobs()[0].Request.GetTemplate().GetType(), "what Jobs gives is a copy")
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		ignore bool
		keys   []string
		want   int
	}{
		{"the same key is the same job", false, []string{"a", "a", "b"}, 2},
		{"no key is another job each time", false, []string{"", ""}, 2},
		{"a service that ignores keys", true, []string{"a", "a"}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b := backendtest.New()
			b.IgnoreKeys = tt.ignore
			c := run(t, b)
			for _, k := range tt.keys {
				create(t, c, k)
			}
			assert.Len(t, b.Jobs(), tt.want)
		})
	}
}

func TestSetPlugins(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "a"})
	c := run(t, b)
	b.SetPlugins(backendtest.Plugin{TaskType: "b", Versions: []int32{1}, PluginVersion: "v2", Sync: true})
	got, err := c.List(within(t))
	require.NoError(t, err)
	assert.Equal(t, []client.Registration{{Name: "test b", TaskType: "b", PluginVersion: "v2", TaskTypeVersions: []int32{1}, Mode: client.Sync}}, got)
}

func TestExecute(t *testing.T) {
	t.Parallel()
	seven := &core.LiteralMap{Literals: map[string]*core.Literal{"n": {Hash: "7"}}}
	b := backendtest.New()
	b.ServerOptions = []grpc.ServerOption{grpc.MaxConcurrentStreams(10)}
	b.OnExecute = func(_ context.Context, h *admin.CreateRequestHeader, inputs *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
		if h.GetOutputPrefix() == "" {
			return nil, status.Error(codes.InvalidArgument, "no output prefix")
		}
		return []*admin.ExecuteTaskSyncResponse{{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{
			Resource: &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: inputs},
		}}}}, nil
	}
	c := run(t, b)
	job, err := c.Execute(within(t), &client.CreateRequest{Inputs: seven, OutputPrefix: "s3://b"})
	require.NoError(t, err)
	assert.Equal(t, "7", job.Outputs.GetLiterals()["n"].GetHash())
	_, err = c.Execute(within(t), &client.CreateRequest{})
	assert.Equal(t, codes.InvalidArgument, client.AsError(err).Code)
	b.Fail(backendtest.Execute, 1, status.Error(codes.Unavailable, "later"))
	_, err = c.Execute(within(t), &client.CreateRequest{OutputPrefix: "s3://b"})
	assert.Equal(t, codes.Unavailable, client.AsError(err).Code)
	assert.Equal(t, 3, b.Calls(backendtest.Execute))

	_, err = run(t, backendtest.New()).Execute(within(t), &client.CreateRequest{})
	assert.Equal(t, codes.Unimplemented, client.AsError(err).Code)
}

// For the race detector: tests change a backend while propeller calls it.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "a"})
	c := run(t, b)
	ctx := within(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				id, err := c.Create(ctx, &client.CreateRequest{IdempotencyKey: fmt.Sprintf("%d-%d", i, n%5)})
				if err != nil {
					continue
				}
				_, _ = c.Get(ctx, client.JobRef{ID: id})
				_ = c.Delete(ctx, client.JobRef{ID: id})
				_, _ = c.List(ctx)
			}
		})
		wg.Go(func() {
			for range 20 {
				b.Fail(backendtest.Create, 1, status.Error(codes.Aborted, "x"))
				b.Delay(backendtest.Get, time.Microsecond)
				b.Script(step(0, core.TaskExecution_RUNNING))
				b.SetJob("", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED})
				b.SetPlugins(backendtest.Plugin{TaskType: "b"})
				b.Jobs()
				b.Heal(backendtest.Get)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 80, b.Calls(backendtest.Create))
}

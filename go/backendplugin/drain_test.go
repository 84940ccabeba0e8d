package backendplugin_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
)

func health(w *world) healthpb.HealthCheckResponse_ServingStatus {
	r, err := healthpb.NewHealthClient(w.conn).Check(w.within(), &healthpb.HealthCheckRequest{})
	if err != nil {
		return healthpb.HealthCheckResponse_UNKNOWN
	}
	return r.GetStatus()
}

// TestDrain: readiness goes first while calls are still answered, then calls under way end, then Serve returns.
func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	p := &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) {
			close(entered)
			<-release
			return "j", nil
		},
		delete: func(context.Context, *backendplugin.Job[string]) error { return nil },
	}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithDrain(time.Second, limit))
	require.Eventually(t, func() bool { return health(w) == healthpb.HealthCheckResponse_SERVING }, limit, time.Millisecond)
	watch, err := healthpb.NewHealthClient(w.conn).Watch(w.within(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := w.create(w.within(), "a", nil)
		result <- err
	}()
	<-entered
	w.stop()
	for s := healthpb.HealthCheckResponse_SERVING; s != healthpb.HealthCheckResponse_NOT_SERVING; {
		r, err := watch.Recv()
		require.NoError(t, err)
		s = r.GetStatus()
	}
	require.NoError(t, w.delete(w.within(), "a", "j"), "it still answers")
	require.Eventually(t, func() bool { // the port is closed
		conn, err := net.Dial("tcp", w.address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, limit, 10*time.Millisecond)
	select {
	case err := <-w.ended:
		t.Fatal("it ended before its call did: ", err)
	default:
	}
	close(release)
	require.NoError(t, <-result, "a call under way is answered")
	require.NoError(t, <-w.ended)
}

// TestDrainEndsInTime: a call that does not end is cut off.
func TestDrainEndsInTime(t *testing.T) {
	entered := make(chan struct{})
	w := start(t, backendplugin.Plugins{backendplugin.NewSync("s", &fakeSync[values, values]{
		execute: func(ctx context.Context, _ *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
			close(entered)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})}, backendplugin.WithDrain(0, 50*time.Millisecond))
	result := make(chan error, 1)
	go func() {
		_, err := w.execute(w.within(), header("s"))
		result <- err
	}()
	<-entered
	w.stop()
	require.ErrorContains(t, <-w.ended, "calls were cut off that had not ended 50ms after")
	require.Equal(t, codes.Unavailable, status.Code(<-result), "propeller makes the call again")
}

// TestDrainOfNothing: callers that are connected and wait for nothing are no calls that are cut off, however short the time is.
func TestDrainOfNothing(t *testing.T) {
	t.Parallel()
	w := startREST(t, backendplugin.Plugins{versioned("")}, backendplugin.WithDrain(0, 0))
	require.Eventually(t, func() bool { return health(w.world) == healthpb.HealthCheckResponse_SERVING }, limit, time.Millisecond)
	require.Equal(t, 200, w.do("GET", "/healthz", "").status)
	silent, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
	require.NoError(t, err)
	defer silent.Close()
	w.stop()
	require.NoError(t, <-w.ended)
}

// sick is a plugin that can tell how it is.
type sick struct {
	simple
	state atomic.Pointer[func() error]
}

func (s *sick) Probe(context.Context) error { return (*s.state.Load())() }

func TestProbe(t *testing.T) {
	p := &sick{}
	set := func(f func() error) { p.state.Store(&f) }
	set(func() error { return errors.New("no database") })
	p.delete = func(context.Context, *backendplugin.Job[string]) error { return nil }
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p), versioned("", backendplugin.WithVersion("v2"))}, backendplugin.WithProbeInterval(10*time.Millisecond))
	until := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		require.Eventually(t, func() bool { return health(w) == want }, limit, time.Millisecond)
	}
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), "no database") }, limit, time.Millisecond)
	until(healthpb.HealthCheckResponse_NOT_SERVING)
	require.NoError(t, w.delete(with(w.within(), versionHeader, "v1"), "a", "j"), "calls are still answered")
	set(func() error { return nil })
	until(healthpb.HealthCheckResponse_SERVING)
	set(func() error { panic("broken") })
	until(healthpb.HealthCheckResponse_NOT_SERVING)
}

// TestProbeThatHangs: one probe that never ends keeps neither the others from being asked nor the service from ending.
func TestProbeThatHangs(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var hung, asked atomic.Int32
	hangs, works := &sick{}, &sick{}
	hang := func() error {
		hung.Add(1)
		<-release
		return nil
	}
	work := func() error {
		asked.Add(1)
		return nil
	}
	hangs.state.Store(&hang)
	works.state.Store(&work)
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", hangs), backendplugin.New("b", works)}, backendplugin.WithProbeInterval(20*time.Millisecond))
	require.Eventually(t, func() bool {
		return asked.Load() >= 3 && strings.Contains(w.log.String(), "its last probe has not ended")
	}, limit, time.Millisecond)
	require.Contains(t, w.log.String(), "it did not answer within 20ms")
	require.Equal(t, int32(1), hung.Load(), "probes do not pile up")
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, health(w.world))
	require.Equal(t, 503, w.do("GET", "/readyz", "").status)
	w.stop()
	select {
	case err := <-w.ended:
		require.NoError(t, err)
	case <-time.After(limit):
		t.Fatal("the service does not end")
	}
}

package backend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

func TestReload(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testReload)
	t.Run(overREST, testReload)
}

func testReload(t *testing.T) {
	t.Parallel()
	first := startBackend(t, backendtest.Plugin{TaskType: myTask})
	second := startBackend(t, backendtest.Plugin{TaskType: myTask})
	for _, b := range []*backendtest.Backend{first, second} {
		b.Script(backendtest.Step{Resource: succeeded(1)})
	}
	w := newWorld(t, nil, first)
	run := func(name string) {
		require.True(t, w.finish(w.start(taskrunner.Task{Template: template(myTask), Execution: name})).Succeeded)
	}
	run("a")
	require.Len(t, first.Jobs(), 1)

	bad := *w.cfg
	bad.Deployments = map[string]*config.Deployment{"default": {Endpoint: "ftp://nope", Protocol: second.Deployment().Protocol, Insecure: true}}
	w.system.Apply(w.ctx, &bad)
	run("b")
	require.Len(t, first.Jobs(), 2, "an invalid reload changes nothing")

	moved := *w.cfg
	moved.Deployments = map[string]*config.Deployment{"default": second.Deployment()}
	w.system.Apply(w.ctx, &moved)
	eventually(t, "the new address is asked", func() bool { return second.Calls(backendtest.List) > 0 && len(w.system.Snapshot().TaskTypes()) == 1 })
	run("c")
	require.Len(t, second.Jobs(), 1)
}

func TestResourceQuota(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testResourceQuota)
	t.Run(overREST, testResourceQuota)
}

func testResourceQuota(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	w := newWorld(t, func(c *config.Config) { c.WebAPI.ResourceQuotas = map[string]int{"default": 10} }, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	require.True(t, w.finish(run).Succeeded)
}

// TestWrongEndpoints: what people get to see for a wrong set-up, and that setting it right costs the task nothing.
func TestWrongEndpoints(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testWrongEndpoints)
	t.Run(overREST, testWrongEndpoints)
}

func testWrongEndpoints(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: succeeded(1)})
	nowhere, plain := b.Deployment(), b.Deployment()
	nowhere.Endpoint = "127.0.0.1:1"
	plain.Insecure = false
	if b.REST {
		nowhere.Endpoint = "http://" + nowhere.Endpoint
		plain.Endpoint = strings.Replace(plain.Endpoint, "http://", "https://", 1)
	}
	for _, tc := range []struct {
		reason string
		d      *config.Deployment
		says   string
	}{
		{"nothing listens there", nowhere, "nothing listens at this address"},
		{"TLS spoken to a plain-text service", plain, "insecure: true"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			w := newWorld(t, func(c *config.Config) {
				c.Deployments["default"] = tc.d
				c.Routes = []config.Route{{TaskType: myTask, Deployment: "default"}}
			})
			run := w.start(taskrunner.Task{Template: template(myTask), Execution: fmt.Sprint(len(tc.says))})
			require.Eventually(t, func() bool {
				_, err := run.Round(w.ctx)
				require.NoError(t, err)
				return containsAny(reasons(run.Events()), tc.says)
			}, limit, 20*time.Millisecond, tc.says)
			require.True(t, containsAny(reasons(run.Events()), tc.d.Endpoint))
			right := *w.cfg
			right.Deployments = map[string]*config.Deployment{"default": b.Deployment()}
			w.system.Apply(w.ctx, &right)
			out := w.finish(run)
			require.True(t, out.Succeeded)
			require.Equal(t, 1, out.Attempts)
		})
	}
}

// TestReloadOfTimeouts: a setting that says nothing of the address costs no call its answer, and no type its service.
func TestReloadOfTimeouts(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testReloadOfTimeouts)
	t.Run(overREST, testReloadOfTimeouts)
}

func testReloadOfTimeouts(t *testing.T) {
	t.Parallel()
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.IgnoreKeys = true
	b.Script(backendtest.Step{Resource: succeeded(1)})
	release := b.Hold(backendtest.Create)
	w := newWorld(t, nil, b)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	w.until(run, pluginscore.PhaseQueued)
	eventually(t, "the create is under way", func() bool { return b.Calls(backendtest.Create) == 1 })

	b.Fail(backendtest.List, -1, status.Error(codes.Unavailable, "busy"))
	changed := *w.cfg
	d := *w.cfg.Deployments["default"]
	d.DefaultTimeout = duration(time.Minute)
	changed.Deployments = map[string]*config.Deployment{"default": &d}
	w.system.Apply(w.ctx, &changed)
	require.Equal(t, []string{myTask}, w.system.Snapshot().TaskTypes(), "what the service registered is known still")
	release()
	require.True(t, w.finish(run).Succeeded)
	require.Equal(t, 1, b.Calls(backendtest.Create))
	require.Len(t, b.Jobs(), 1)
}

// TestReloadOfAddressLetsCallsEnd: a call at the old address gives its answer, or a service without keys makes a second job.
func TestReloadOfAddressLetsCallsEnd(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testReloadOfAddressLetsCallsEnd)
	t.Run(overREST, testReloadOfAddressLetsCallsEnd)
}

func testReloadOfAddressLetsCallsEnd(t *testing.T) {
	t.Parallel()
	old := startBackend(t, backendtest.Plugin{TaskType: myTask})
	next := startBackend(t, backendtest.Plugin{TaskType: myTask})
	release := old.Hold(backendtest.Create)
	w := newWorld(t, nil, old)
	run := w.start(taskrunner.Task{Template: template(myTask)})
	w.until(run, pluginscore.PhaseQueued)
	eventually(t, "the create is under way", func() bool { return old.Calls(backendtest.Create) == 1 })

	moved := *w.cfg
	moved.Deployments = map[string]*config.Deployment{"default": next.Deployment()}
	w.system.Apply(w.ctx, &moved)
	release()
	eventually(t, "the job is known", func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return next.Calls(backendtest.Get) > 0
	})
	require.Len(t, old.Jobs(), 1)
	require.Empty(t, next.Jobs(), "nothing is created twice")
}

// TestQuotasHoldUntilTheNextStart: propeller takes quotas at its start only, and a token goes back under the name it came from.
func TestQuotasHoldUntilTheNextStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *config.Config) { c.WebAPI.ResourceQuotas = map[string]int{"default": 3} })
	changed := *w.cfg
	changed.WebAPI.ResourceQuotas = nil
	w.system.Apply(w.ctx, &changed)
	require.Len(t, w.system.Machinery().ResourceQuotas, 1)
}

func TestDeploymentRemovedFromConfiguration(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testDeploymentRemovedFromConfiguration)
	t.Run(overREST, testDeploymentRemovedFromConfiguration)
}

func testDeploymentRemovedFromConfiguration(t *testing.T) {
	t.Parallel()
	b, w, run := runningTask(t, nil)
	without := *w.cfg
	without.Deployments = map[string]*config.Deployment{}
	w.system.Apply(t.Context(), &without)
	require.Eventually(t, func() bool {
		_, err := run.Round(w.ctx)
		require.NoError(t, err)
		return containsAny(reasons(run.Events()), "put plugins.backend.deployments.default back")
	}, limit, 50*time.Millisecond)
	w.system.Apply(t.Context(), w.cfg)
	b.SetJob("", succeeded(1))
	require.True(t, w.finish(run).Succeeded)
}

// TestGaugesOfARemovedDeployment are gone: at their latest value they would page somebody until propeller's next start.
func TestGaugesOfARemovedDeployment(t *testing.T) {
	t.Parallel()
	t.Run(overGRPC, testGaugesOfARemovedDeployment)
	t.Run(overREST, testGaugesOfARemovedDeployment)
}

func testGaugesOfARemovedDeployment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, startBackend(t, backendtest.Plugin{TaskType: myTask}), startBackend(t))
	ages := func() []string {
		var out []string
		families, err := prometheus.DefaultGatherer.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == w.runner.Scope()+"backend:registry_age_seconds" {
				for _, m := range f.GetMetric() {
					out = append(out, m.GetLabel()[0].GetValue())
				}
			}
		}
		return out
	}
	require.Eventually(t, func() bool { return len(ages()) == 2 }, limit, 200*time.Millisecond) // gathering is work
	without := *w.cfg
	without.Deployments = map[string]*config.Deployment{"default": w.cfg.Deployments["default"]}
	w.system.Apply(w.ctx, &without)
	require.Eventually(t, func() bool { return slices.Equal(ages(), []string{"default"}) }, limit, 200*time.Millisecond)
}

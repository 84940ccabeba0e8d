package registry

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// limit is far longer than anything here takes; reaching it is a failure.
const limit = 20 * time.Second

// reg is a registration for tests: any template version, asynchronous.
func reg(taskType, pluginVersion string, versions ...int32) client.Registration {
	return client.Registration{Name: taskType, TaskType: taskType, PluginVersion: pluginVersion, TaskTypeVersions: versions}
}

func syncReg(taskType, pluginVersion string) client.Registration {
	r := reg(taskType, pluginVersion)
	r.Mode = client.Sync
	return r
}

// offers is what each deployment registers.
type offers = map[string][]client.Registration

func snapshot(routes []config.Route, regs offers) *Snapshot {
	health := map[string]Health{}
	for name := range regs {
		health[name] = Health{LastSeen: time.Unix(1, 0)}
	}
	return newSnapshot(routes, regs, health)
}

func configOf(routes []config.Route, deployments ...string) *config.Config {
	cfg := &config.Config{Routes: routes, Deployments: map[string]*config.Deployment{}}
	for _, name := range deployments {
		cfg.Deployments[name] = &config.Deployment{Endpoint: name + ":8000"}
	}
	return cfg
}

// services answers for deployments. A deployment with a gate answers once the gate is closed, or when ctx ends.
type services struct {
	mu    sync.Mutex
	regs  offers
	errs  map[string]error
	gates map[string]chan struct{}
	asked map[string]int
}

func newServices() *services {
	return &services{regs: offers{}, errs: map[string]error{}, gates: map[string]chan struct{}{}, asked: map[string]int{}}
}

func (s *services) answer(deployment string, err error, regs ...client.Registration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regs[deployment], s.errs[deployment] = regs, err
}

// hang makes a deployment wait until the function that it gives is called.
func (s *services) hang(deployment string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gates[deployment] = gate
	return func() { close(gate) }
}

func (s *services) count(deployment string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[deployment]
}

// list fixes its answer before it waits, as a service does that is asked and then slow.
func (s *services) list(ctx context.Context, deployment string) ([]client.Registration, error) {
	s.mu.Lock()
	s.asked[deployment]++
	regs, err, gate := s.regs[deployment], s.errs[deployment], s.gates[deployment]
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return regs, err
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func i32(v int32) *int32 { return &v }

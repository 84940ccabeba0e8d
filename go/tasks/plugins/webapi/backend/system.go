package backend

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// system is what lives as long as the plugin does: the configuration in force, the connections, the registry, and the
// memory of tasks.
type system struct {
	cfg     atomic.Pointer[config.Config]
	pool    *pool
	reg     *registry.Registry
	tasks   *tasks
	mx      atomic.Pointer[metrics]
	enqueue func(types.NamespacedName) error
	// webAPI is in force until propeller's next start: quotas are registered with it at its start, and a token is given back
	// under the name that it was taken by.
	webAPI config.WebAPIConfig
	// early bounds the early polls that are under way; ended is closed when propeller is.
	early chan struct{}
	ended <-chan struct{}
}

// maxEarlyPolls is how many early polls are under way at once. There may be thousands of new jobs; those that find no place
// are polled as all are.
const maxEarlyPolls = 64

// newSystem takes a valid configuration. It dials, and asks nobody yet.
func newSystem(cfg *config.Config) *system {
	s := &system{
		enqueue: func(types.NamespacedName) error { return nil },
		webAPI:  cfg.WebAPI, early: make(chan struct{}, maxEarlyPolls),
	}
	s.tasks = newTasks(func(n int) {
		if mx := s.mx.Load(); mx != nil {
			mx.inFlight.Set(float64(n))
		}
	})
	s.cfg.Store(cfg)
	s.pool = &pool{timeout: s.timeout, metrics: s.mx.Load}
	s.pool.apply(cfg)
	s.reg = registry.New(cfg, s.list)
	return s
}

func (s *system) config() *config.Config { return s.cfg.Load() }

func (s *system) timeout(d *config.Deployment, call string) time.Duration {
	if call == config.CallExecute {
		return s.config().ExecuteTimeout(d)
	}
	return d.Timeout(call)
}

func (s *system) list(ctx context.Context, name string) ([]client.Registration, error) {
	d, err := s.pool.get(name, config.CallList)
	if err != nil {
		return nil, err
	}
	return d.List(ctx)
}

// apply takes over a changed configuration, or keeps the one in force when the new one is invalid.
func (s *system) apply(ctx context.Context, cfg *config.Config) {
	mx := s.mx.Load()
	if err := validate(cfg); err != nil {
		logger.Errorf(ctx, "the changed plugins.backend configuration is not taken over, the last valid one stays in force: %v", err)
		if mx != nil {
			mx.configReloadErrors.Inc()
			mx.configValid.Set(0)
		}
		return
	}
	if mx != nil {
		mx.configValid.Set(1)
	}
	before := s.cfg.Swap(cfg)
	moved := s.pool.apply(cfg)
	s.reg.Apply(ctx, cfg)
	for _, name := range moved {
		s.reg.Forget(ctx, name)
	}
	for name := range before.Deployments {
		if _, stays := cfg.Deployment(name); !stays && mx != nil {
			mx.forget(config.Canonical(name))
		}
	}
	go func() {
		s.discover(context.WithoutCancel(ctx))
		s.observeRegistry()
	}()
}

// discover asks every deployment once. It blocks for discoveryWait at most.
func (s *system) discover(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, discoveryWait)
	defer cancel()
	s.reg.Refresh(ctx)
}

// run keeps the registry current until ctx ends, then closes the connections.
func (s *system) run(ctx context.Context) {
	s.observeRegistry()
	s.reg.Run(ctx, func() time.Duration { return s.config().DiscoveryInterval.Duration }, s.observeRegistry)
	s.pool.close()
}

func (s *system) observeRegistry() {
	mx := s.mx.Load()
	if mx == nil {
		return
	}
	snap := s.reg.Snapshot()
	for name, h := range snap.Health() {
		age := -1.0
		if !h.LastSeen.IsZero() {
			age = time.Since(h.LastSeen).Seconds()
		}
		mx.registryAge.WithLabelValues(name).Set(age)
	}
	mx.registryConflicts.Set(float64(len(snap.Conflicts())))
}

// wakeDelays are the pauses between calls of EnqueueOwner for one change: the round that it causes can be too early (the
// machinery stores a poll's result only after the poll returned) or be swallowed by the queue.
var wakeDelays = []time.Duration{
	20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2 * time.Second,
}

// wake has propeller look at the task until it has heard of the latest change.
func (s *system) wake(t *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waking {
		return
	}
	t.waking = true
	go func() {
		for _, pause := range wakeDelays {
			<-time.After(pause)
			if t.settled() {
				return
			}
			s.enqueueOwner(t)
		}
		t.mu.Lock()
		t.waking = false
		t.mu.Unlock()
	}()
}

func (s *system) enqueueOwner(t *task) {
	if err := s.enqueue(t.owner); err != nil {
		logger.Warnf(context.Background(), "cannot wake workflow %s for task %s: %v", t.owner, t.id, err)
	}
}

package registry

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// Lister asks one deployment for its registrations. It may block until ctx ends, and is called from many goroutines.
type Lister func(ctx context.Context, deployment string) ([]client.Registration, error)

// Registry keeps the snapshot current. Its methods may be called at once from any number of goroutines.
type Registry struct {
	list Lister
	snap atomic.Pointer[Snapshot]

	// mu orders the makers of snapshots; readers never take it.
	mu     sync.Mutex
	routes []config.Route
	names  []string
	regs   map[string][]client.Registration
	health map[string]Health
	// asked changes with every Forget and removal of a deployment, so that an answer to a question from before is known.
	asked map[string]int
}

// New gives a registry that knows cfg's routes and deployments, and asks nobody yet.
func New(cfg *config.Config, list Lister) *Registry {
	r := &Registry{list: list, regs: map[string][]client.Registration{}, health: map[string]Health{}, asked: map[string]int{}}
	r.Apply(context.Background(), cfg)
	return r
}

// Snapshot gives the current view. It never blocks and never is nil.
func (r *Registry) Snapshot() *Snapshot { return r.snap.Load() }

// Apply takes over the routes and deployments of a valid configuration. What a deployment that stays had registered is
// kept; what a removed one had is dropped. It does not block on the network.
func (r *Registry) Apply(ctx context.Context, cfg *config.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.routes = cfg.Routes
	regs, health := map[string][]client.Registration{}, map[string]Health{}
	r.names = r.names[:0:0]
	for name := range cfg.Deployments {
		name = config.Canonical(name)
		r.names = append(r.names, name)
		health[name] = r.health[name]
		if have, ok := r.regs[name]; ok {
			regs[name] = have
		}
	}
	for name := range r.health {
		if _, stays := health[name]; !stays {
			r.asked[name]++
		}
	}
	r.regs, r.health = regs, health
	r.publish(ctx)
}

// Forget drops what a deployment had registered, because its address now is another service's.
func (r *Registry) Forget(ctx context.Context, deployment string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.regs, deployment)
	r.asked[deployment]++
	if _, ok := r.health[deployment]; ok {
		r.health[deployment] = Health{}
	}
	r.publish(ctx)
}

// Refresh asks every deployment at once and publishes each answer as it comes, so that one that hangs delays nobody. It
// returns when all have answered or ctx has ended. A deployment that fails keeps its last known registrations.
func (r *Registry) Refresh(ctx context.Context) {
	r.mu.Lock()
	asked := make(map[string]int, len(r.names))
	for _, name := range r.names {
		asked[name] = r.asked[name]
	}
	r.mu.Unlock()
	var wg sync.WaitGroup
	for name, question := range asked {
		wg.Go(func() {
			regs, err := r.list(ctx, name)
			if err != nil && errors.Is(ctx.Err(), context.Canceled) {
				return // given up by the caller, which says nothing of the deployment
			}
			r.record(ctx, name, question, regs, err)
		})
	}
	wg.Wait()
}

func (r *Registry) record(ctx context.Context, name string, question int, regs []client.Registration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, known := r.health[name]
	if !known || r.asked[name] != question {
		return // removed from the configuration meanwhile, or at another address now
	}
	if err != nil {
		if h.Err == nil {
			// Once for each outage, with the cause; the difference below only says that there is one.
			logger.Warnf(ctx, "backend deployment %q does not tell its task types: %v", name, err)
		}
		h.Err = err
	} else {
		h = Health{LastSeen: time.Now()}
		r.regs[name] = regs
	}
	r.health[name] = h
	r.publish(ctx)
}

// publish makes and swaps in a new snapshot and logs what is different. The caller holds mu.
func (r *Registry) publish(ctx context.Context) {
	next := newSnapshot(r.routes, r.regs, maps.Clone(r.health)) // it keeps health, and reads regs only now
	prev := r.snap.Swap(next)
	if diff := difference(prev, next); len(diff) > 0 && prev != nil {
		logger.Infof(ctx, "backend plugin registry changed: %s", strings.Join(diff, "; "))
	}
}

// Run refreshes until ctx ends, first after one interval, and calls after at the end of each round. interval is asked
// before each pause, so that it may change; it counts from one round's start to the next one's.
func (r *Registry) Run(ctx context.Context, interval func() time.Duration, after func()) {
	t := time.NewTimer(interval())
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		pause := interval()
		t.Reset(pause)
		// A hanging deployment must not keep the others from being asked again.
		round, cancel := context.WithTimeout(ctx, max(pause, time.Second))
		r.Refresh(round)
		cancel()
		after()
	}
}

package backend

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/dial"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// pool owns the connections: one for each deployment, made when its configuration is first seen, closed when that changes.
type pool struct {
	timeout func(d *config.Deployment, call string) time.Duration
	metrics func() *metrics

	mu    sync.RWMutex
	conns map[string]*deployment
}

// deployment is a connection with what it was made from. It implements client.Client, and adds to the transport's calls
// their time limits and metrics.
type deployment struct {
	name    string
	cfg     *config.Deployment
	client  client.Client // nil when dialErr says why
	close   io.Closer
	dialErr error
	pool    *pool
}

var _ client.Client = (*deployment)(nil)

// apply takes over the deployments of a valid configuration and gives those whose address or credentials changed. Calls
// under way on a connection that is replaced end as Canceled, which callers repeat.
func (p *pool) apply(cfg *config.Config) (changed []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make(map[string]*deployment, len(cfg.Deployments))
	for name, d := range cfg.Deployments {
		name = config.Canonical(name)
		if have, ok := p.conns[name]; ok && reflect.DeepEqual(have.cfg, d) && have.dialErr == nil {
			next[name] = have
			continue
		}
		next[name] = p.dial(name, d)
		if _, had := p.conns[name]; had {
			changed = append(changed, name)
		}
	}
	for name, old := range p.conns {
		if next[name] != old {
			old.shut()
		}
	}
	p.conns = next
	return changed
}

func (p *pool) dial(name string, d *config.Deployment) *deployment {
	out := &deployment{name: name, cfg: d, pool: p}
	conn, err := dial.Dial(name, d)
	if err != nil {
		out.dialErr = err
		return out
	}
	out.client, out.close = conn, conn
	return out
}

// get finds a deployment by its canonical name. One that is not configured gives a transient error: the configuration can
// be put back while the task waits.
func (p *pool) get(name, op string) (*deployment, error) {
	p.mu.RLock()
	d, ok := p.conns[name]
	p.mu.RUnlock()
	if !ok {
		return nil, &client.Error{
			Op: op, Deployment: name, Endpoint: "not configured", Code: codes.Unavailable, Class: client.RetryLater,
			Message: "the deployment that owns this task is not in the configuration any more",
			Advice:  fmt.Sprintf("put plugins.backend.deployments.%s back until its tasks have ended", name),
		}
	}
	if d.dialErr != nil {
		return nil, &client.Error{
			Op: op, Deployment: name, Endpoint: d.cfg.Endpoint, Code: codes.Unavailable, Class: client.RetryLater,
			Message: d.dialErr.Error(),
		}
	}
	return d, nil
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.conns {
		d.shut()
	}
	p.conns = nil
}

func (d *deployment) shut() {
	if d.close != nil {
		_ = d.close.Close() // nothing is written through it; there is nobody to tell
	}
}

// measure runs one call under its time limit.
func measure[T any](ctx context.Context, d *deployment, call string, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d.pool.timeout(d.cfg, call))
	defer cancel()
	start := time.Now()
	out, err := f(ctx)
	d.pool.metrics().call(d.name, call, time.Since(start), err)
	return out, err
}

func (d *deployment) List(ctx context.Context) ([]client.Registration, error) {
	return measure(ctx, d, config.CallList, d.client.List)
}

func (d *deployment) Create(ctx context.Context, req *client.CreateRequest) (client.JobID, error) {
	return measure(ctx, d, config.CallCreate, func(ctx context.Context) (client.JobID, error) { return d.client.Create(ctx, req) })
}

func (d *deployment) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	return measure(ctx, d, config.CallGet, func(ctx context.Context) (*client.Job, error) { return d.client.Get(ctx, ref) })
}

func (d *deployment) Delete(ctx context.Context, ref client.JobRef) error {
	_, err := measure(ctx, d, config.CallDelete, func(ctx context.Context) (struct{}, error) { return struct{}{}, d.client.Delete(ctx, ref) })
	return err
}

func (d *deployment) Execute(ctx context.Context, req *client.CreateRequest) (*client.Job, error) {
	return measure(ctx, d, config.CallExecute, func(ctx context.Context) (*client.Job, error) { return d.client.Execute(ctx, req) })
}

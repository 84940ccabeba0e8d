package backend

import (
	"context"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// pool owns the connections: one for each deployment, made when its configuration is first seen, and closed when its address or
// credentials have changed and the calls that were under way have ended.
type pool struct {
	timeout func(d *config.Deployment, call string) time.Duration
	metrics func() *metrics

	mu    sync.RWMutex
	conns map[string]*deployment
}

// deployment is a connection with its configuration. It implements client.Client, and adds to the transport's calls their time
// limits and metrics.
type deployment struct {
	name string
	cfg  *config.Deployment
	conn *connection
	pool *pool
}

var _ client.Client = (*deployment)(nil)

// apply takes over the deployments of a valid configuration and gives those that are at another address now. Calls under way on
// a connection that is replaced come to their end: a service that knows no keys would make a second job of a repeated create.
func (p *pool) apply(cfg *config.Config) (moved []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make(map[string]*deployment, len(cfg.Deployments))
	for name, d := range cfg.Deployments {
		name = config.Canonical(name)
		have, had := p.conns[name]
		if had && have.conn.err == nil && reflect.DeepEqual(dialled(have.cfg), dialled(d)) {
			next[name] = &deployment{name: name, cfg: d, conn: have.conn, pool: p}
			continue
		}
		next[name] = &deployment{name: name, cfg: d, conn: connect(name, d), pool: p}
		if had && (have.cfg.Endpoint != d.Endpoint || have.cfg.Protocol != d.Protocol) {
			moved = append(moved, name)
		}
	}
	for name, old := range p.conns {
		if now, stays := next[name]; !stays || now.conn != old.conn {
			old.conn.retire()
		}
	}
	p.conns = next
	return moved
}

// dialled is the part of a configuration that a connection is made from.
func dialled(d *config.Deployment) config.Deployment {
	out := *d
	out.DefaultTimeout, out.Timeouts = stdconfig.Duration{}, nil
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
	if d.conn.err != nil {
		return nil, &client.Error{
			Op: op, Deployment: name, Endpoint: d.cfg.Endpoint, Code: codes.Unavailable, Class: client.RetryLater,
			Message: d.conn.err.Error(),
		}
	}
	return d, nil
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.conns {
		d.conn.close()
	}
	p.conns = nil
}

// measure runs one call under its time limit.
func measure[T any](ctx context.Context, d *deployment, op string, f func(context.Context, client.Client) (T, error)) (out T, err error) {
	if !d.conn.enter() {
		return out, &client.Error{
			Op: op, Deployment: d.name, Endpoint: d.cfg.Endpoint, Code: codes.Canceled, Class: client.RetryNow,
			Message: "the connection was replaced just now",
		}
	}
	defer d.conn.leave()
	ctx, cancel := context.WithTimeout(ctx, d.pool.timeout(d.cfg, op))
	defer cancel()
	start := time.Now()
	defer func() {
		if r := recover(); r != nil {
			// Calls run beside propeller's workers, where a panic would end the process, or one of the machinery's few pollers.
			logger.Errorf(ctx, "panic in a call (%s) to backend deployment %q: %v\n%s", op, d.name, r, debug.Stack())
			err = &client.Error{
				Op: op, Deployment: d.name, Endpoint: d.cfg.Endpoint, Code: codes.Internal, Class: client.SystemError,
				Message: fmt.Sprintf("panic in propeller's client, see its log: %v", r),
			}
		}
		d.pool.metrics().call(d.name, op, time.Since(start), err)
	}()
	return f(ctx, d.conn.client)
}

func (d *deployment) List(ctx context.Context) ([]client.Registration, error) {
	return measure(ctx, d, config.CallList, func(ctx context.Context, c client.Client) ([]client.Registration, error) { return c.List(ctx) })
}

func (d *deployment) Create(ctx context.Context, req *client.CreateRequest) (client.JobID, error) {
	return measure(ctx, d, config.CallCreate, func(ctx context.Context, c client.Client) (client.JobID, error) { return c.Create(ctx, req) })
}

func (d *deployment) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	return measure(ctx, d, config.CallGet, func(ctx context.Context, c client.Client) (*client.Job, error) { return c.Get(ctx, ref) })
}

func (d *deployment) Delete(ctx context.Context, ref client.JobRef) error {
	_, err := measure(ctx, d, config.CallDelete, func(ctx context.Context, c client.Client) (struct{}, error) {
		return struct{}{}, c.Delete(ctx, ref)
	})
	return err
}

func (d *deployment) Execute(ctx context.Context, req *client.CreateRequest) (*client.Job, error) {
	return measure(ctx, d, config.CallExecute, func(ctx context.Context, c client.Client) (*client.Job, error) { return c.Execute(ctx, req) })
}

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/webapi"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// handling goes from the router through the machinery to the plugin, and brings back what the machinery's own results
// cannot say.
type handling struct {
	env  *envelope
	task *task
	// tCtx is propeller's context, without the machinery's qualified name.
	tCtx pluginscore.TaskExecutionContext

	// Set by Create: the call is still under way, or failed.
	pending bool
	err     error
	// told is set by Status when it told how the job is.
	told bool
}

// handlingOf finds the handling in what the machinery gives to the plugin.
func handlingOf(tCtx any) (*handling, bool) {
	c, ok := tCtx.(interface {
		TaskExecutionMetadata() pluginscore.TaskExecutionMetadata
	})
	if !ok {
		return nil, false
	}
	m, ok := c.TaskExecutionMetadata().(qualifiedMetadata)
	return m.h, ok && m.h != nil
}

// errNotDone tells the machinery that there is no job yet. The router knows better and never shows it.
var errNotDone = errors.New("the job is not created yet")

// plugin translates between Flyte and a Client. It implements webapi.AsyncPlugin.
type plugin struct{ s *system }

var _ webapi.AsyncPlugin = plugin{}

// GetConfig gives the machinery its settings.
func (p plugin) GetConfig() webapi.PluginConfig { return machineryConfig(p.s.webAPI) }

// machineryConfig says the settings in the machinery's own words.
func machineryConfig(c config.WebAPIConfig) webapi.PluginConfig {
	out := webapi.PluginConfig{
		ReadRateLimiter:  webapi.RateLimiterConfig(c.ReadRateLimiter),
		WriteRateLimiter: webapi.RateLimiterConfig(c.WriteRateLimiter),
		Caching:          webapi.CachingConfig(c.Caching),
		ResourceMeta:     c.ResourceMeta,
	}
	if c.ResourceQuotas != nil {
		out.ResourceQuotas = make(webapi.ResourceQuotas, len(c.ResourceQuotas))
		for namespace, n := range c.ResourceQuotas {
			out.ResourceQuotas[pluginscore.ResourceNamespace(namespace)] = n
		}
	}
	return out
}

// ResourceRequirements takes a token from the quota that bears the deployment's name, or else from "default".
func (p plugin) ResourceRequirements(_ context.Context, tCtx webapi.TaskExecutionContextReader) (
	pluginscore.ResourceNamespace, pluginscore.ResourceConstraintsSpec, error) {
	if h, ok := handlingOf(tCtx); ok {
		if _, has := p.s.webAPI.ResourceQuotas[h.env.Deployment]; has {
			return pluginscore.ResourceNamespace(h.env.Deployment), pluginscore.ResourceConstraintsSpec{}, nil
		}
	}
	return "default", pluginscore.ResourceConstraintsSpec{}, nil
}

// Create starts the job, or the synchronous call, beside propeller's worker and waits a bounded time for it. An outcome
// that is no job is left in the handling, because the machinery would make a failure of it.
func (p plugin) Create(ctx context.Context, tCtx webapi.TaskExecutionContextReader) (webapi.ResourceMeta, webapi.Resource, error) {
	h, ok := handlingOf(tCtx)
	if !ok {
		return nil, nil, errors.New("the backend plugin runs behind its router only")
	}
	c := h.task.currentCall()
	if c == nil || (c.finished() && c.err != nil) {
		req, err := newCreateRequest(ctx, h)
		if err != nil {
			h.err = err
			return nil, nil, err
		}
		c = p.begin(ctx, h, req)
	}
	wait := time.NewTimer(p.s.config().Sync.InlineWait.Duration)
	defer wait.Stop()
	select {
	case <-c.done:
	case <-wait.C:
	case <-ctx.Done():
	}
	if !c.finished() {
		h.pending = true
		return nil, nil, errNotDone
	}
	h.task.view() // heard of
	if c.err != nil {
		h.err = c.err
		return nil, nil, c.err
	}
	meta := c.meta(h.task.key, h.env.Deployment)
	if c.job != nil {
		return meta, resource{c.job}, nil
	}
	p.pollEarly(meta, h.task)
	return meta, nil, nil
}

func (p plugin) begin(ctx context.Context, h *handling, req *client.CreateRequest) *call {
	op := config.CallCreate
	if h.env.Mode == client.Sync {
		op = config.CallExecute
	}
	name, t, env := h.env.Deployment, h.task, *h.env
	return t.begin(ctx, req.Target, op == config.CallExecute,
		func(ctx context.Context, c *call) {
			d, err := p.s.pool.get(name, op)
			if err != nil {
				c.err = err
				return
			}
			if op == config.CallExecute {
				c.job, c.err = d.Execute(ctx, req)
				c.err = checkExecuted(name, c.job, c.err)
				return
			}
			if c.id, c.err = d.Create(ctx, req); c.err == nil && (len(c.id) == 0 || len(c.id) > client.MaxJobID) {
				c.err = contractError(op, name, fmt.Sprintf("the job id has %d bytes, 1 to %d are due", len(c.id), client.MaxJobID))
			}
			if c.err == nil {
				// Here and not in the next round of propeller: until it is written, a restart leads to a second create.
				t.found(ctx, env, c)
			}
		},
		func() { p.s.wake(t) })
}

// checkExecuted finds the outcomes of a synchronous call that repeating it would not mend.
func checkExecuted(deployment string, job *client.Job, err error) error {
	if err == nil {
		if !job.Terminal() {
			return contractError(config.CallExecute, deployment, fmt.Sprintf("a synchronous task ended in phase %s", job.Phase))
		}
		bounded(job)
		return nil
	}
	if e := client.AsError(err); e.Code == codes.DeadlineExceeded && !e.FromService {
		limited := *e
		limited.Class = client.SystemError
		limited.Advice = "the limit is plugins.backend.sync.timeout, or timeouts.execute of the deployment"
		return &limited
	}
	return err
}

// contractError is an answer that the transport let through.
func contractError(op, deployment, what string) *client.Error {
	return client.ContractBroken(op, deployment, "its service", what)
}

// resource is what the machinery keeps of a poll. Status reads the task's memory, which is never older; this is what is
// left when that memory was lost.
type resource struct{ job *client.Job }

// IsTerminal ends the machinery's polling.
func (r resource) IsTerminal() bool { return r.job != nil && r.job.Terminal() }

// Get polls a job. It never gives the machinery an error, because the machinery counts those for ever and then stops
// polling: failures are kept with the task, by time.
func (p plugin) Get(ctx context.Context, gCtx webapi.GetContext) (webapi.Resource, error) {
	meta, ok := gCtx.ResourceMeta().(resourceMeta)
	if !ok {
		return nil, fmt.Errorf("%w: a poll without a job's reference", errEnvelope)
	}
	t := p.s.tasks.lookup(meta.key)
	if t == nil {
		// Propeller has not looked at this task for an hour, or has finished with it: nobody waits for the answer.
		return resource{}, nil
	}
	asked := time.Now()
	if job, resting := t.resting(asked); resting {
		return resource{job}, nil
	}
	job, err := p.pollShared(ctx, meta, t)
	if mx := p.s.mx.Load(); mx != nil {
		if err != nil {
			mx.pollFailures.WithLabelValues(meta.deployment).Inc()
			mx.pollFailuresInRow.WithLabelValues(meta.deployment).Inc()
		} else {
			mx.pollFailuresInRow.WithLabelValues(meta.deployment).Set(0)
		}
	}
	if t.polled(job, err, err != nil && hopeless(err), asked) {
		if err != nil { // once for each outage: there may be thousands of tasks
			logger.Infof(ctx, "task %s: %v", t.id, err)
		}
		p.s.wake(t)
	}
	return resource{job}, nil
}

// pollShared polls in one of the machinery's workers, unless the deployment holds its share of them already and answers none.
func (p plugin) pollShared(ctx context.Context, meta resourceMeta, t *task) (*client.Job, *client.Error) {
	d, err := p.s.pool.get(meta.deployment, config.CallGet)
	if err != nil {
		return nil, client.AsError(err)
	}
	if refused := d.conn.beginPoll(p.s.webAPI.Caching.Workers); refused != nil {
		return nil, refused
	}
	job, failure := p.poll(ctx, meta, t)
	d.conn.endPoll(failure)
	return job, failure
}

func (p plugin) poll(ctx context.Context, meta resourceMeta, t *task) (*client.Job, *client.Error) {
	d, err := p.s.pool.get(meta.deployment, config.CallGet)
	if err != nil {
		return nil, client.AsError(err)
	}
	job, err := d.Get(ctx, client.JobRef{Target: meta.target, ID: meta.id, OutputPrefix: t.prefix()})
	if err != nil {
		return nil, client.AsError(err)
	}
	if _, known := core.TaskExecution_Phase_name[int32(job.Phase)]; !known || job.Phase == core.TaskExecution_UNDEFINED {
		e := contractError(config.CallGet, meta.deployment, fmt.Sprintf("the job's phase is not set or unknown (%d)", job.Phase))
		e.Code = codes.DataLoss // no answer of the same service will be better
		return nil, e
	}
	return bounded(job), nil
}

// hopeless says that polling again cannot help: the service answered, and its answer is about this job.
func hopeless(e *client.Error) bool {
	if e.TooLarge {
		return true
	}
	return e.FromService && (e.Class == client.UserError || e.Code == codes.NotFound || e.Code == codes.DataLoss)
}

// Delete ends the task's job, or the call that would make one.
func (p plugin) Delete(ctx context.Context, dCtx webapi.DeleteContext) error {
	meta, ok := dCtx.ResourceMeta().(resourceMeta)
	if !ok {
		return p.settle(ctx, dCtx)
	}
	return p.delete(ctx, meta)
}

// settleWait bounds how long an abort waits for a create that is under way.
const settleWait = time.Second

// settle ends a task that has no recorded job: a synchronous call is cancelled; a create that is under way or has not been
// recorded is waited for, and its job deleted. What takes longer is deleted in the background.
func (p plugin) settle(ctx context.Context, dCtx webapi.DeleteContext) error {
	h, ok := handlingOf(dCtx)
	if !ok {
		return nil
	}
	c := h.task.currentCall()
	if c == nil {
		return nil
	}
	if c.sync {
		c.cancel()
		return nil
	}
	key, deployment := h.task.key, h.env.Deployment
	finish := func(ctx context.Context) error {
		if c.err != nil {
			return nil //nolint:nilerr // no job was made
		}
		return p.delete(ctx, c.meta(key, deployment))
	}
	wait := time.NewTimer(settleWait)
	defer wait.Stop()
	select {
	case <-c.done:
		return finish(ctx)
	case <-wait.C:
	}
	go func() {
		<-c.done
		p.insist(context.WithoutCancel(ctx), h.task.id, finish)
	}()
	return nil
}

// insist deletes a job that nobody else will delete, for as long as a task would wait for its creation.
func (p plugin) insist(ctx context.Context, id identity, finish func(context.Context) error) {
	for n, begin := 1, time.Now(); ; n++ {
		err := finish(ctx)
		if err == nil {
			return
		}
		cfg := p.s.config().Create
		if time.Since(begin) > cfg.Deadline.Duration {
			logger.Errorf(ctx, "task %s was aborted while its job was being created, and the job cannot be deleted: %v", id, err)
			return
		}
		pause := time.NewTimer(client.NextBackoff(n, cfg.InitialBackoff.Duration, cfg.MaxBackoff.Duration))
		select {
		case <-pause.C:
		case <-p.s.ended:
			pause.Stop()
			logger.Errorf(ctx, "task %s was aborted while its job was being created, and propeller ends before the job could be deleted: %v", id, err)
			return
		}
	}
}

func (p plugin) delete(ctx context.Context, meta resourceMeta) error {
	d, err := p.s.pool.get(meta.deployment, config.CallDelete)
	if err != nil {
		return err
	}
	err = d.Delete(ctx, client.JobRef{Target: meta.target, ID: meta.id})
	if err == nil {
		return nil
	}
	e := client.AsError(err)
	if e.FromService && (e.Class == client.UserError || e.Code == codes.Unimplemented) {
		// The service will never delete it, and refusing to abort would not change that.
		logger.Errorf(ctx, "the service cannot delete a job, which may go on: %v", e)
		return nil
	}
	return e
}

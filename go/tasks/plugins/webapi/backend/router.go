package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// ID is the plugin's id in propeller.
const ID = "backend"

// router is the core plugin that propeller sees. It finds the owner of each task, a backend deployment or a built-in
// plugin, and leaves the task to it for good.
type router struct {
	s         *system
	machinery pluginscore.Plugin
	builtIns  *builtIns
	gate      *gate
}

var _ pluginscore.Plugin = (*router)(nil)

// GetID is the plugin's id.
func (r *router) GetID() string { return ID }

// GetProperties is empty: what a built-in plugin demands is met when it is called.
func (r *router) GetProperties() pluginscore.PluginProperties { return pluginscore.PluginProperties{} }

// Handle runs one round of a task. It blocks for sync.inlineWait, reads from the data store, and for a sub-task of a map
// writes to it, no longer.
func (r *router) Handle(ctx context.Context, tCtx pluginscore.TaskExecutionContext) (pluginscore.Transition, error) {
	tmpl, err := tCtx.TaskReader().Read(ctx)
	if err != nil {
		return pluginscore.UnknownTransition, fmt.Errorf("cannot read the task template: %w", err)
	}
	trns, err := r.handle(ctx, tCtx, tmpl)
	if err == nil && isNews(tCtx, trns.Info()) {
		r.gate.pass(ctx, tmpl.GetType())
	}
	return trns, err
}

func (r *router) handle(ctx context.Context, tCtx pluginscore.TaskExecutionContext, tmpl *core.TaskTemplate) (pluginscore.Transition, error) {
	if tmpl.GetType() == "" {
		return pluginscore.DoTransition(failed(&core.ExecutionError{
			Code: CodeBadTemplate, Kind: core.ExecutionError_USER,
			Message: fmt.Sprintf("task template %q has no type, so no plugin can run it", tmpl.GetId().GetName()),
		}, false, false, nil)), nil
	}
	own, err := r.ownerOf(ctx, tCtx, tmpl, true)
	if errors.Is(err, errStateFile) {
		// An error would fail the round of the whole map, every time. The job's id is lost and the job may go on, so another
		// create under the same key could run beside it: another attempt has a key and outputs of its own.
		logger.Errorf(ctx, "%v", err)
		return pluginscore.DoTransition(failed(&core.ExecutionError{
			Code: CodeStateDamaged, Kind: core.ExecutionError_SYSTEM, Message: err.Error() + "; the job, if there is one, may go on",
		}, true, false, nil)), nil
	}
	if err != nil {
		return pluginscore.UnknownTransition, err
	}
	if own.builtIn != nil {
		return own.builtIn.Handle(ctx, own.builtIn.context(tCtx, own.held))
	}
	return r.handleBackend(ctx, tCtx, own)
}

// handleBackend runs a round of a task that a backend owns.
func (r *router) handleBackend(ctx context.Context, tCtx pluginscore.TaskExecutionContext, own owner) (pluginscore.Transition, error) {
	next := *own.env
	if own.env.Deployment == "" {
		return r.hold(ctx, tCtx, own, next)
	}
	if info, backingOff := r.backingOff(own); backingOff {
		return r.report(ctx, tCtx, own, next, false, info)
	}
	h := &handling{env: own.env, task: own.task, tCtx: tCtx}
	inner := newInnerContext(h)
	trns, err := r.machinery.Handle(ctx, inner)
	switch {
	case h.pending:
		// A synchronous call that has begun is no success yet: what is cut off every time would be run again for ever.
		return r.report(ctx, tCtx, own, next, false, r.underWay(own))
	case h.err != nil:
		return r.createFailed(ctx, tCtx, own, next, asCallError(h.err))
	case err != nil:
		return pluginscore.UnknownTransition, fmt.Errorf("task %s at backend deployment %q: %w", own.task.id, own.env.Deployment, err)
	}
	own.task.created()
	next.Since = 0
	if own.kept || !trns.Info().Phase().IsTerminal() {
		// The machinery cannot go on from the end of a task. A sub-task has to, when ArrayNode loses the round.
		next.Inner, next.InnerVersion = inner.state.written, inner.state.newVersion
	}
	if (!inner.state.changed || own.task.wasRecalled()) && !own.fresh && !h.told && !trns.Info().Phase().IsTerminal() {
		// The machinery says "job submitted" until it has a first poll, also after a restart in mid-task. What is recorded
		// is newer than that.
		return r.repeat(ctx, tCtx, own, next)
	}
	return r.report(ctx, tCtx, own, next, inner.state.changed, trns.Info())
}

// hold keeps a task queued whose service has never answered.
func (r *router) hold(ctx context.Context, tCtx pluginscore.TaskExecutionContext, own owner, next envelope) (pluginscore.Transition, error) {
	now := time.Now()
	changed := next.Since == 0
	if changed {
		next.Since = now.Unix()
		r.count(own, reasonUnanswered)
	}
	r.wakeIn(own.task, r.s.config().DiscoveryInterval.Duration)
	return r.report(ctx, tCtx, own, next, changed, pluginscore.PhaseInfoQueued(now, 0, fmt.Sprintf(
		"waiting for a backend plugin service that registers this task type; not answering yet: %s",
		strings.Join(r.s.reg.Snapshot().Unanswered(), ", "))))
}

// underWay is a call that outlasts the round: propeller is woken when it ends.
func (r *router) underWay(own owner) pluginscore.PhaseInfo {
	if own.env.Mode == client.Sync {
		info := &pluginscore.TaskInfo{}
		addReason(info, fmt.Sprintf("running synchronously at backend deployment %q", own.env.Deployment))
		return pluginscore.PhaseInfoRunning(0, info)
	}
	return pluginscore.PhaseInfoQueued(time.Now(), 0, fmt.Sprintf("the job is being created at backend deployment %q", own.env.Deployment))
}

// backingOff says whether the pause after a failed create still lasts.
func (r *router) backingOff(own owner) (pluginscore.PhaseInfo, bool) {
	t := own.task
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == 0 || !time.Now().Before(t.nextTry) {
		return pluginscore.PhaseInfo{}, false
	}
	return pluginscore.PhaseInfoQueued(time.Now(), 0, t.waiting), true
}

// createFailed decides by the error's class whether the task waits or its attempt fails.
func (r *router) createFailed(ctx context.Context, tCtx pluginscore.TaskExecutionContext, own owner, next envelope, e *client.Error) (pluginscore.Transition, error) {
	cfg, now := r.s.config().Create, time.Now()
	if !own.task.waitsFor(e) { // or thousands of tasks would tell the same every few seconds
		logger.Warnf(ctx, "task %s: %v", own.task.id, e)
	}
	if mx := r.s.mx.Load(); mx != nil {
		mx.createFailures.WithLabelValues(own.env.Deployment, e.Class.String()).Inc()
	}
	if !e.Transient() {
		kind, retry := core.ExecutionError_SYSTEM, true
		if e.Class == client.UserError {
			kind, retry = core.ExecutionError_USER, false
		}
		return r.report(ctx, tCtx, own, next, true, failed(&core.ExecutionError{
			Code: codePrefix + e.Code.String(), Message: e.Error(), Kind: kind,
		}, retry, false, nil))
	}
	if next.Since == 0 {
		next.Since = now.Unix()
	} else if waited := since(next.Since, now); waited > cfg.Deadline.Duration {
		return r.report(ctx, tCtx, own, next, true, failed(&core.ExecutionError{
			Code: CodeUnreachable, Kind: core.ExecutionError_SYSTEM,
			Message: fmt.Sprintf("the job could not be created for %s (plugins.backend.create.deadline is %s); the last failure: %v",
				waited.Round(time.Second), cfg.Deadline.Duration, e),
		}, true, false, nil))
	}
	pause := own.task.backOff(e, cfg.InitialBackoff.Duration, cfg.MaxBackoff.Duration, now)
	r.wakeIn(own.task, pause)
	return r.report(ctx, tCtx, own, next, next.Since != own.env.Since, pluginscore.PhaseInfoQueued(now, 0, waitingFor(e)))
}

func waitingFor(e *client.Error) string { return "waiting to create the job: " + e.Error() }

// wakeIn has propeller look at the task after a pause, unless that is to happen sooner already: rounds that come for other
// reasons must not each leave a timer behind.
func (r *router) wakeIn(t *task, pause time.Duration) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wakeAt.After(now) && !t.wakeAt.After(now.Add(pause)) {
		return
	}
	t.wakeAt = now.Add(pause)
	time.AfterFunc(pause, func() { r.s.enqueueOwner(t) })
}

// Abort ends the task at its owner. It may be repeated, also after the task has ended.
func (r *router) Abort(ctx context.Context, tCtx pluginscore.TaskExecutionContext) error {
	return r.end(ctx, tCtx, false)
}

// Finalize frees what the task holds. It may be repeated.
func (r *router) Finalize(ctx context.Context, tCtx pluginscore.TaskExecutionContext) error {
	err := r.end(ctx, tCtx, true)
	if err == nil {
		r.s.tasks.forget(identityOf(tCtx.TaskExecutionMetadata()).key())
	}
	return err
}

func (r *router) end(ctx context.Context, tCtx pluginscore.TaskExecutionContext, finalize bool) error {
	how := pluginscore.Plugin.Abort
	if finalize {
		how = pluginscore.Plugin.Finalize
	}
	tmpl, err := tCtx.TaskReader().Read(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the task template: %w", err)
	}
	own, err := r.ownerOf(ctx, tCtx, tmpl, false)
	if errors.Is(err, errEnvelope) {
		// Nothing can be ended by a state that cannot be read, and the workflow must come to its end.
		logger.Errorf(ctx, "cannot end the job: %v", err)
		return nil
	}
	switch {
	case err != nil:
		return err
	case own.builtIn != nil:
		return how(own.builtIn, ctx, own.builtIn.context(tCtx, own.held))
	case own.env.Deployment == "":
		return nil
	}
	inner := newInnerContext(&handling{env: own.env, task: own.task, tCtx: tCtx})
	if finalize && !own.kept && own.phase.IsFailure() && !own.task.jobEnded() {
		// A failure that leaves the job running asks to be aborted, and ArrayNode does not keep that either.
		if err := r.machinery.Abort(ctx, inner); err != nil {
			return err
		}
	}
	return how(r.machinery, ctx, inner)
}

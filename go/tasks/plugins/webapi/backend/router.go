package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/registry"
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

// owner is who a task belongs to.
type owner struct {
	key     string
	builtIn *builtIn  // set for a built-in plugin's task
	task    *task     // set otherwise
	env     *envelope // set otherwise; its Deployment is empty while the task waits for one
	phase   pluginscore.Phase
	fresh   bool
	kept    bool
	held    bool // the task waited for a deployment before
}

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

// ownerOf reads a task's owner from its state, or decides when it has none. Only Handle counts and remembers a decision.
func (r *router) ownerOf(ctx context.Context, tCtx pluginscore.TaskExecutionContext, tmpl *core.TaskTemplate, deciding bool) (owner, error) {
	rec, err := readRecord(tCtx)
	id := identityOf(tCtx.TaskExecutionMetadata())
	if err != nil {
		return owner{}, fmt.Errorf("task %s: %w", id, err)
	}
	now := time.Now()
	own := owner{key: id.key(), env: rec.env, phase: rec.phase, fresh: rec.fresh, kept: rec.kept}
	t := r.s.tasks.touch(own.key, id, tCtx.TaskExecutionMetadata(), now)
	if !own.kept {
		if err := t.recall(ctx, tCtx, rec); err != nil {
			return owner{}, fmt.Errorf("task %s: %w", id, err)
		}
	}
	t.mu.Lock()
	t.outputPrefix = tCtx.OutputWriter().GetOutputPrefixPath().String()
	if !own.kept && t.memory != nil {
		env := *t.memory
		own.env = &env
	}
	if t.pin != nil && (own.env == nil && own.fresh || own.env != nil && own.env.Deployment == "") {
		// Decided before, in a round that propeller has lost or had no reason to record.
		own.env = t.pin.onto(own.env)
	}
	builtIn := t.builtIn
	t.mu.Unlock()
	own.task, own.held = t, own.env != nil

	switch {
	case own.env != nil && (own.env.Deployment != "" || !deciding):
		return own, nil
	case builtIn, own.env == nil && !own.fresh && own.kept:
		// A recorded state that is not ours is a built-in plugin's, and then there is nothing to remember.
		if !own.fresh && own.kept {
			r.s.tasks.forget(own.key)
		}
		own.builtIn, own.task = r.builtIns.forType(tmpl.GetType()), nil
		return own, nil
	}
	return r.decide(ctx, tmpl, id, own, deciding)
}

// decide finds an owner for a task that has none.
func (r *router) decide(ctx context.Context, tmpl *core.TaskTemplate, id identity, own owner, deciding bool) (owner, error) {
	env := own.env
	if env == nil {
		env = &envelope{}
	}
	d, how := r.choose(tmpl, id, env)
	switch {
	case how == reasonUnanswered:
		own.env = env
		return own, nil // waits without an owner
	case d == nil:
		own.builtIn, own.env = r.builtIns.forType(tmpl.GetType()), nil
		if deciding {
			if own.held {
				if err := own.task.gaveUp(ctx); err != nil {
					return owner{}, fmt.Errorf("task %s: %w", id, err)
				}
			}
			own.task.mu.Lock()
			own.task.builtIn, own.task.memory = true, nil
			own.task.mu.Unlock()
			logger.Infof(ctx, "task %s of type %q runs on built-in plugin %q: %s", id, tmpl.GetType(), own.builtIn.id, explanations[how])
			Decided{Task: id.String(), TaskType: tmpl.GetType(), BuiltIn: own.builtIn.id, Why: explanations[how]}.tell()
		}
		own.task = nil
	default:
		choice := envelope{Deployment: d.Deployment, PluginVersion: d.PluginVersion, Mode: d.Mode}
		own.env = choice.onto(env)
		if deciding {
			own.task.decided(choice)
			logger.Infof(ctx, "task %s of type %q runs on backend deployment %q (plugin %s, %s): %s",
				id, tmpl.GetType(), d.Deployment, d.PluginVersion, d.Mode, d.Reason)
			Decided{Task: id.String(), TaskType: tmpl.GetType(), Deployment: d.Deployment, PluginVersion: d.PluginVersion, Why: d.Reason}.tell()
		}
	}
	if deciding {
		r.count(own, how)
	}
	return own, nil
}

// Why a task has the owner that it has; the values of the reason label of decisions_total.
const (
	reasonRoute        = "route"
	reasonRegistered   = "registered"
	reasonDrain        = "drain"
	reasonUnregistered = "unregistered"
	reasonUnanswered   = "unanswered"
)

// explanations say the reasons for a built-in plugin in words.
var explanations = map[string]string{
	reasonDrain:        "the backend plugin system takes no new tasks",
	reasonUnregistered: "no backend plugin service has registered this task type",
}

func (r *router) count(own owner, how string) {
	if mx := r.s.mx.Load(); mx != nil {
		who := "backend"
		switch {
		case own.builtIn != nil:
			who = "builtin"
		case own.env.Deployment == "":
			who = "held"
		}
		mx.decisions.WithLabelValues(who, how).Inc()
	}
}

// choose applies the configuration and the registry to a task. No decision means the built-in plugin.
func (r *router) choose(tmpl *core.TaskTemplate, id identity, env *envelope) (*registry.Decision, string) {
	cfg, snap := r.s.config(), r.s.reg.Snapshot()
	if !cfg.AcceptNewTasks || !cfg.Enabled {
		return nil, reasonDrain
	}
	d, ok := snap.Resolve(registry.Query{
		TaskType: tmpl.GetType(), TaskTypeVersion: tmpl.GetTaskTypeVersion(), Project: id.project, Domain: id.domain,
	})
	switch {
	case ok && d.Routed:
		return &d, reasonRoute
	case ok:
		return &d, reasonRegistered
	case r.expected(tmpl.GetType()) && len(snap.Unanswered()) > 0 && since(env.Since, time.Now()) < cfg.Create.Deadline.Duration:
		return nil, reasonUnanswered
	}
	return nil, reasonUnregistered
}

// expected says whether the operator told us to claim a type that no built-in plugin has: handing such a task to the
// default plugin, because no service has answered yet, would run the wrong thing.
func (r *router) expected(taskType string) bool {
	for _, t := range r.s.config().TaskTypes {
		if t == taskType {
			return !r.builtIns.serves(taskType)
		}
	}
	return false
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

// unchanged is the phase that was recorded, without anything to show.
func unchanged(env *envelope) pluginscore.PhaseInfo {
	return ongoing(env.Phase, "", &pluginscore.TaskInfo{})
}

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

// updateDamping stretches the time between two updates of one phase as they grow in number: propeller fails a task that
// has had 100,000 of them (max-plugin-phase-versions).
const updateDamping = 1000

// report gives propeller the task's phase with the right version, and the state to keep. Propeller drops an event and the
// state with it when phase and version are those of before, so a state that has to be kept must come with a new version,
// and nothing else may. ArrayNode keeps neither version nor state, so a sub-task's version is 0 but in the one round that has
// something to show.
func (r *router) report(ctx context.Context, tCtx pluginscore.TaskExecutionContext, own owner, next envelope, stateChanged bool, info pluginscore.PhaseInfo) (pluginscore.Transition, error) {
	prev, now := own.env, time.Now()
	next.Phase, next.Info, next.At = info.Phase(), fingerprint(info), now.Unix()
	if !own.kept && !own.fresh && prev.Info == 0 {
		prev.Info, prev.At = next.Info, next.At // an earlier process knew what was shown last; nothing is shown twice
	}
	interval := r.s.config().Poll.UpdateInterval.Duration * time.Duration(1+prev.Version/updateDamping)
	switch {
	case prev.Phase != next.Phase, own.fresh:
		next.Version = 0
	case own.kept && stateChanged, next.Info != prev.Info && since(prev.At, now) >= interval:
		next.Version = prev.Version + 1
	case stateChanged:
		next.Info, next.At = prev.Info, prev.At
	default:
		next = *prev
	}
	if err := put(ctx, tCtx, own, next); err != nil {
		return pluginscore.UnknownTransition, err
	}
	if !info.Phase().IsTerminal() {
		// Not for a failure: WithVersion forgets that it is to be cleaned up.
		info = info.WithVersion(next.Version)
	}
	return pluginscore.DoTransition(info), nil
}

// repeat reports what is recorded already, so that propeller records nothing and tells nobody.
func (r *router) repeat(ctx context.Context, tCtx pluginscore.TaskExecutionContext, own owner, next envelope) (pluginscore.Transition, error) {
	if err := put(ctx, tCtx, own, next); err != nil {
		return pluginscore.UnknownTransition, err
	}
	return pluginscore.DoTransition(unchanged(own.env).WithVersion(own.env.Version)), nil
}

// put keeps the envelope where the task's state belongs. It is written in every round: without that propeller replaces the
// state's version by a phase version.
func put(ctx context.Context, tCtx pluginscore.TaskExecutionContext, own owner, env envelope) error {
	if !own.kept {
		if err := own.task.keep(ctx, env); err != nil {
			return fmt.Errorf("task %s: %w", own.task.id, err)
		}
		own.task.remember(env)
		return nil
	}
	if err := tCtx.PluginStateWriter().Put(stateVersion, env.encode()); err != nil {
		return fmt.Errorf("cannot keep the state of task %s: %w", own.task.id, err)
	}
	return nil
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

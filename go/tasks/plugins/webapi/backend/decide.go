package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

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

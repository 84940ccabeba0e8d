package backend

import (
	"context"
	"fmt"
	"time"

	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// unchanged is the phase that was recorded, without anything to show.
func unchanged(env *envelope) pluginscore.PhaseInfo {
	return ongoing(env.Phase, "", &pluginscore.TaskInfo{})
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

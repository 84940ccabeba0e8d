package taskrunner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/ioutils"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/executors"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/array"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/handler"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/codex"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/k8s"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// Task is a task to run.
type Task struct {
	Template *core.TaskTemplate
	Inputs   *core.LiteralMap
	// Project, Domain, Execution and Node name the execution; empty means flytesnacks, development, run and n0.
	Project, Domain, Execution, Node string
	// Environment variables as an execution sets them.
	Environment map[string]string
	// Labels, Annotations and Identity go to the task's metadata.
	Labels, Annotations map[string]string
	Identity            *core.Identity
	// Item makes the task a sub-task of a map_task, the one with this index, as propeller's ArrayNode handles it: of what is
	// recorded only the phase is kept, and every round begins with the state that ArrayNode makes up. Node is the map's.
	Item *int
	// RawOutputPrefix is where the task may write data; empty means a place of the store's.
	RawOutputPrefix string
}

// Outcome is how a task ended.
type Outcome struct {
	// Succeeded, or failed with Error.
	Succeeded bool
	Error     *core.ExecutionError
	// Outputs of a task that succeeded; empty when its interface declares none.
	Outputs *core.LiteralMap
	// Attempts counts from 1. SystemFailures are those attempts that failed by no fault of the task.
	Attempts, SystemFailures int
}

// Run is one task on its way. Its methods may not be called at once, except Events.
type Run struct {
	r    *Runner
	task Task
	base storage.DataReference
	wf   *v1alpha1.FlyteWorkflow
	node *v1alpha1.NodeSpec
	// parent is the map of a sub-task.
	parent executors.ImmutableParentInfo

	attempt        uint32
	systemFailures int
	state          handler.TaskNodeState
	rounds         int
	// again: the round changed what is recorded. Propeller sees that change of its own resource and looks again at once.
	again bool

	mu     sync.Mutex
	events []*event.TaskExecutionEvent
}

// Start writes the inputs to the store and gives the run. Nothing is handled yet.
func (r *Runner) Start(ctx context.Context, t Task) (*Run, error) {
	for _, d := range []struct {
		to *string
		v  string
	}{{&t.Project, "flytesnacks"}, {&t.Domain, "development"}, {&t.Execution, "run"}, {&t.Node, "n0"}} {
		if *d.to == "" {
			*d.to = d.v
		}
	}
	if t.Inputs == nil {
		t.Inputs = &core.LiteralMap{}
	}
	container := storage.DataReference(r.opts.Prefix)
	if container == "" {
		container = r.store.GetBaseContainerFQN(ctx)
	}
	if container == "" {
		container = "s3://taskrunner" // storage in memory takes any name
	}
	base, err := r.store.ConstructReference(ctx, container, "metadata", t.Project, t.Domain, t.Execution, t.Node)
	if err != nil {
		return nil, fmt.Errorf("cannot name the task's place in the store: %w", err)
	}
	run := &Run{r: r, task: t, base: base}
	if t.Item != nil {
		run.base = storage.DataReference(fmt.Sprintf("%s/data/0/%d", base, *t.Item))
	}
	if err := run.describe(); err != nil {
		return nil, err
	}
	run.SetState(handler.TaskNodeState{})
	paths := ioutils.NewInputFilePaths(ctx, r.store, run.dataDir())
	if err := r.store.WriteProtobuf(ctx, paths.GetInputPath(), storage.Options{}, t.Inputs); err != nil {
		return nil, fmt.Errorf("cannot write the task's inputs: %w", err)
	}
	return run, nil
}

// MoveTo goes on with the run on another Runner that has the same store, as after a restart of propeller: what propeller
// keeps in etcd stays, what plugins had in memory is gone.
func (run *Run) MoveTo(r *Runner) { run.r = r }

// State is what propeller has recorded of the task.
func (run *Run) State() handler.TaskNodeState { return run.state }

// SetState replaces what propeller has recorded, as damage or a lost write would. Of a sub-task only the phase is kept.
func (run *Run) SetState(s handler.TaskNodeState) {
	if run.task.Item != nil {
		s = madeUp(s.PluginPhase)
	}
	run.state = s
}

// Rounds counts the rounds of propeller that the task has had.
func (run *Run) Rounds() int { return run.rounds }

// Attempt is the current attempt, from 0.
func (run *Run) Attempt() uint32 { return run.attempt }

// Events are the events that flyteadmin would have got so far, oldest first.
func (run *Run) Events() []*event.TaskExecutionEvent {
	run.mu.Lock()
	defer run.mu.Unlock()
	return append([]*event.TaskExecutionEvent{}, run.events...)
}

// Wait runs rounds until the task has ended. An error means that propeller itself could not go on, or that ctx ended.
func (run *Run) Wait(ctx context.Context) (*Outcome, error) {
	for {
		out, err := run.Round(ctx)
		if out != nil || err != nil {
			return out, err
		}
		if err := run.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// Until runs rounds until the recorded phase is the given one, or the task has ended.
func (run *Run) Until(ctx context.Context, phase pluginscore.Phase) (*Outcome, error) {
	for run.state.PluginPhase != phase {
		out, err := run.Round(ctx)
		if out != nil || err != nil {
			return out, err
		}
		if run.state.PluginPhase == phase {
			break
		}
		if err := run.pause(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // no outcome yet, as documented
}

// pause waits until something wakes the workflow, or for the re-evaluation.
func (run *Run) pause(ctx context.Context) error {
	if run.again {
		return nil
	}
	timer := time.NewTimer(run.r.opts.Reevaluate)
	defer timer.Stop()
	select {
	case <-run.r.wakeOf(run.ownerID()):
	case <-timer.C:
	case <-ctx.Done():
		return fmt.Errorf("task %s is still in phase %s: %w", run.task.Execution, run.state.PluginPhase, ctx.Err())
	}
	return nil
}

// Round has propeller look at the task once. The outcome is nil while the task goes on.
func (run *Run) Round(ctx context.Context) (*Outcome, error) {
	run.rounds++
	run.again = false
	nCtx := run.nodeContext(ctx)
	trns, err := run.r.handler.Handle(ctx, nCtx)
	if err != nil {
		// Propeller tries again, and counts it against the workflow.
		return nil, fmt.Errorf("round %d of task %s: %w", run.rounds, run.task.Execution, err)
	}
	before := run.state
	if nCtx.next != nil {
		run.SetState(*nCtx.next)
		run.again = run.state.PluginPhase != before.PluginPhase || run.state.PluginPhaseVersion != before.PluginPhaseVersion
	}
	switch info := trns.Info(); info.GetPhase() {
	case handler.EPhaseSuccess:
		if err := run.r.handler.Finalize(ctx, run.nodeContext(ctx)); err != nil {
			return nil, err
		}
		return run.success(ctx)
	case handler.EPhaseRetryableFailure:
		return run.retry(ctx, info.GetErr(), before)
	case handler.EPhaseFailed:
		return run.failed(ctx, info.GetErr())
	default:
		return nil, nil //nolint:nilnil // no outcome yet, as documented
	}
}

// LoseRound has propeller look at the task and records nothing of it, as when propeller cannot write its resource, or when
// another item of the map fails with an error. It says whether the task ended in that round.
func (run *Run) LoseRound(ctx context.Context) (ended bool, err error) {
	run.rounds++
	trns, err := run.r.handler.Handle(ctx, run.nodeContext(ctx))
	if err != nil {
		return false, fmt.Errorf("round %d of task %s: %w", run.rounds, run.task.Execution, err)
	}
	switch trns.Info().GetPhase() {
	case handler.EPhaseSuccess, handler.EPhaseRetryableFailure, handler.EPhaseFailed:
		return true, nil
	default:
		return false, nil
	}
}

func (run *Run) success(ctx context.Context) (*Outcome, error) {
	out := &Outcome{Succeeded: true, Attempts: int(run.attempt) + 1, SystemFailures: run.systemFailures, Outputs: &core.LiteralMap{}}
	if len(run.task.Template.GetInterface().GetOutputs().GetVariables()) == 0 {
		return out, nil
	}
	path, err := run.r.store.ConstructReference(ctx, run.outputDir(), "outputs.pb")
	if err != nil {
		return nil, err
	}
	if err := run.r.store.ReadProtobuf(ctx, path, out.Outputs); err != nil {
		return nil, fmt.Errorf("the task succeeded, and its outputs cannot be read: %w", err)
	}
	return out, nil
}

// retry ends the attempt as propeller's node executor does, and begins the next if one is left. Failures that are the
// platform's count apart from those that are the task's. Propeller drops what the failing round recorded, so that the attempt
// is aborted with the state of before.
func (run *Run) retry(ctx context.Context, e *core.ExecutionError, before handler.TaskNodeState) (*Outcome, error) {
	left := int(run.task.Template.GetMetadata().GetRetries().GetRetries()) - (int(run.attempt) - run.systemFailures)
	system := e.GetKind() == core.ExecutionError_SYSTEM
	if system {
		left = run.r.opts.SystemRetries - run.systemFailures
	}
	if left <= 0 {
		return run.failed(ctx, e)
	}
	run.state = before
	if err := run.end(ctx, e.GetMessage()); err != nil {
		return nil, err
	}
	if system {
		run.systemFailures++
	}
	run.attempt++
	run.again = true
	run.SetState(handler.TaskNodeState{})
	return nil, nil //nolint:nilnil // no outcome yet, as documented
}

func (run *Run) failed(ctx context.Context, e *core.ExecutionError) (*Outcome, error) {
	out := &Outcome{Error: e, Attempts: int(run.attempt) + 1, SystemFailures: run.systemFailures}
	return out, run.end(ctx, e.GetMessage())
}

// Abort ends the task, as aborting its workflow does.
func (run *Run) Abort(ctx context.Context, reason string) error { return run.end(ctx, reason) }

// end aborts and finalizes.
func (run *Run) end(ctx context.Context, reason string) error {
	return errors.Join(
		run.r.handler.Abort(ctx, run.nodeContext(ctx), reason),
		run.r.handler.Finalize(ctx, run.nodeContext(ctx)))
}

func (run *Run) record(e *event.TaskExecutionEvent) {
	e, _ = proto.Clone(e).(*event.TaskExecutionEvent)
	run.mu.Lock()
	run.events = append(run.events, e)
	run.mu.Unlock()
	if run.r.opts.OnEvent != nil {
		run.r.opts.OnEvent(e)
	}
}

func (run *Run) ownerID() string { return run.namespace() + "/" + run.task.Execution }

func (run *Run) namespace() string { return run.task.Project + "-" + run.task.Domain }

func (run *Run) dataDir() storage.DataReference { return run.base + "/data" }

func (run *Run) outputDir() storage.DataReference {
	if run.task.Item != nil {
		return storage.DataReference(fmt.Sprintf("%s/%d", run.base, run.attempt))
	}
	return storage.DataReference(fmt.Sprintf("%s/data/%d", run.base, run.attempt))
}

func (run *Run) rawPrefix() storage.DataReference {
	if run.task.RawOutputPrefix != "" {
		return storage.DataReference(strings.TrimSuffix(run.task.RawOutputPrefix, "/"))
	}
	return run.base + "/raw"
}

// environment gives a copy: plugins may write to it.
func (run *Run) environment() map[string]string {
	env := maps.Clone(run.task.Environment)
	if run.task.Item != nil {
		if env == nil {
			env = map[string]string{}
		}
		env[array.JobIndexVarName], env[array.FlyteK8sArrayIndexVarName] = array.FlyteK8sArrayIndexVarName, strconv.Itoa(*run.task.Item)
	}
	return env
}

// madeUp is the state that ArrayNode hands to a sub-task's plugin, whatever plugin it is: a Kubernetes plugin's.
func madeUp(phase pluginscore.Phase) handler.TaskNodeState {
	state := k8s.PluginState{Phase: k8s.PluginPhaseStarted}
	if phase == pluginscore.PhaseUndefined || phase == pluginscore.PhaseRetryableFailure || phase == pluginscore.PhaseWaitingForResources {
		state.Phase = k8s.PluginPhaseNotStarted
	}
	var b bytes.Buffer
	if err := (codex.GobStateCodec{}).Encode(state, &b); err != nil {
		panic(err) // a fixed value, encoded into memory
	}
	return handler.TaskNodeState{PluginPhase: phase, PluginState: b.Bytes()}
}

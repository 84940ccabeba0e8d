package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
)

// Execution is one run of a workflow. Its methods may be called at once and repeated.
type Execution struct {
	e    *Engine
	id   *core.WorkflowExecutionIdentifier
	key  string
	done chan struct{}
}

func newExecution(e *Engine, id *core.WorkflowExecutionIdentifier) *Execution {
	return &Execution{e: e, id: id, key: keyOf(namespaceOf(id.GetProject(), id.GetDomain()), id.GetName()), done: make(chan struct{})}
}

// Outcome is how an execution stands.
type Outcome struct {
	// Phase is SUCCEEDED, FAILED or ABORTED for one that has ended.
	Phase core.WorkflowExecution_Phase
	// Outputs of an execution that succeeded; empty if it has none.
	Outputs *core.LiteralMap
	// Error of an execution that failed.
	Error *core.ExecutionError
	// AbortCause says why it was aborted.
	AbortCause string
	// Started and Ended are zero until then.
	Started, Ended time.Time
}

// ID names the execution. It must not be changed.
func (x *Execution) ID() *core.WorkflowExecutionIdentifier { return x.id }

// Done is closed when the execution has ended.
func (x *Execution) Done() <-chan struct{} { return x.done }

// Wait blocks until the execution has ended. An error means that ctx ended first or that the outputs cannot be read; a
// workflow that failed is an outcome.
func (x *Execution) Wait(ctx context.Context) (*Outcome, error) {
	why := ErrClosed
	select {
	case <-x.done:
	case <-x.e.ctx.Done():
	case <-ctx.Done():
		why = ctx.Err()
	}
	select {
	case <-x.done: // it may have ended at the same moment, or long ago
		return x.outcome(context.WithoutCancel(ctx))
	default:
		return nil, fmt.Errorf("execution %s has not ended: %w", x.id.GetName(), why)
	}
}

// Abort ends the execution: running tasks are aborted, child executions too. It returns at once; Wait tells when it is done.
// Aborting one that has ended changes nothing.
func (x *Execution) Abort(cause string) error { return x.e.abort(x.key, cause) }

func (e *Engine) abort(key, cause string) error {
	if x, ok := e.executions.Load(key); ok {
		select {
		case <-x.(*Execution).done: //nolint:forcetypeassert // nothing else is in it
			return nil
		default:
		}
	}
	rec, err := e.record(key)
	if err != nil {
		return fmt.Errorf("cannot abort: %w", err)
	}
	if rec.AbortCause == "" {
		rec.AbortCause = cause
		if err := e.keepRecord(key, rec); err != nil {
			return fmt.Errorf("cannot abort: %w", err)
		}
	}
	going, err := e.workflows.abort(key)
	if err != nil {
		return fmt.Errorf("cannot abort: %w", err)
	}
	if going {
		e.wake(key)
	}
	return nil
}

const kindExecution = "executions"

// executionRecord is what flyteadmin's database holds of an execution beside the resource that propeller works on.
type executionRecord struct {
	// Workflow is the key of its compiled workflow.
	Workflow string `json:"workflow"`
	// Parent is the key of the execution that launched it.
	Parent string `json:"parent,omitempty"`
	// Deadline is when it is aborted, Timeout the time that it has.
	Deadline   time.Time     `json:"deadline,omitzero"`
	Timeout    time.Duration `json:"timeout,omitempty"`
	AbortCause string        `json:"abortCause,omitempty"`
}

func (e *Engine) keepRecord(key string, rec executionRecord) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return e.records.put(kindExecution, key, data)
}

func (e *Engine) record(key string) (executionRecord, error) {
	data, ok := e.records.get(kindExecution, key)
	if !ok {
		return executionRecord{}, fmt.Errorf("there is no execution %s", key)
	}
	var rec executionRecord
	err := json.Unmarshal(data, &rec)
	return rec, err
}

var phases = map[v1alpha1.WorkflowPhase]core.WorkflowExecution_Phase{
	v1alpha1.WorkflowPhaseReady:               core.WorkflowExecution_QUEUED,
	v1alpha1.WorkflowPhaseRunning:             core.WorkflowExecution_RUNNING,
	v1alpha1.WorkflowPhaseSucceeding:          core.WorkflowExecution_SUCCEEDING,
	v1alpha1.WorkflowPhaseSuccess:             core.WorkflowExecution_SUCCEEDED,
	v1alpha1.WorkflowPhaseFailing:             core.WorkflowExecution_FAILING,
	v1alpha1.WorkflowPhaseHandlingFailureNode: core.WorkflowExecution_FAILING,
	v1alpha1.WorkflowPhaseFailed:              core.WorkflowExecution_FAILED,
	v1alpha1.WorkflowPhaseAborted:             core.WorkflowExecution_ABORTED,
}

// outcome reads how the execution stands.
func (x *Execution) outcome(ctx context.Context) (*Outcome, error) {
	wf, err := x.e.workflows.read(x.key)
	if err != nil {
		return nil, err
	}
	out := &Outcome{Phase: phases[wf.Status.Phase], Outputs: &core.LiteralMap{}}
	if wf.Status.StartedAt != nil {
		out.Started = wf.Status.StartedAt.Time
	}
	if wf.Status.StoppedAt != nil {
		out.Ended = wf.Status.StoppedAt.Time
	}
	switch out.Phase {
	case core.WorkflowExecution_ABORTED:
		rec, err := x.e.record(x.key)
		if err != nil {
			return nil, err
		}
		out.AbortCause = rec.AbortCause
	case core.WorkflowExecution_FAILED, core.WorkflowExecution_FAILING:
		if wf.Status.Error != nil {
			out.Error = wf.Status.Error.ExecutionError
		}
		if out.Error == nil {
			out.Error = &core.ExecutionError{Kind: core.ExecutionError_SYSTEM, Code: "Unknown", Message: wf.Status.Message}
		}
	case core.WorkflowExecution_SUCCEEDED:
		if ref := wf.Status.OutputReference; ref != "" {
			if err := x.e.store.ReadProtobuf(ctx, ref, out.Outputs); err != nil {
				return nil, fmt.Errorf("execution %s succeeded, and its outputs cannot be read: %w", x.id.GetName(), err)
			}
		}
	default:
	}
	return out, nil
}

// Closure gives the compiled workflow.
func (x *Execution) Closure() (*core.CompiledWorkflowClosure, error) {
	rec, err := x.e.record(x.key)
	if err != nil {
		return nil, err
	}
	return x.e.plans.closure(rec.Workflow)
}

// Inputs gives what the execution started with.
func (x *Execution) Inputs() (*core.LiteralMap, error) {
	wf, err := x.e.workflows.read(x.key)
	if err != nil {
		return nil, err
	}
	if wf.Inputs == nil || wf.Inputs.LiteralMap == nil {
		return &core.LiteralMap{}, nil
	}
	inputs, _ := proto.Clone(wf.Inputs.LiteralMap).(*core.LiteralMap) // rounds of propeller share it
	return inputs, nil
}

// Events gives the events so far, oldest first, of an engine whose state is kept in a folder; otherwise none.
func (x *Execution) Events() ([]Event, error) { return x.e.events.load(x.key) }

// Signals lists what gates of this execution have asked for.
func (x *Execution) Signals(ctx context.Context) ([]*admin.Signal, error) {
	list, err := x.e.signals.ListSignals(ctx, &admin.SignalListRequest{WorkflowExecutionId: x.id})
	return list.GetSignals(), err
}

// Signal gives a gate the value that it waits for; a boolean for one that waits for approval.
func (x *Execution) Signal(ctx context.Context, signal string, value *core.Literal) error {
	_, err := x.e.signals.SetSignal(ctx, &admin.SignalSetRequest{
		Id: &core.SignalIdentifier{ExecutionId: x.id, SignalId: signal}, Value: value,
	})
	return err
}

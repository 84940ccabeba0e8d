package history

import (
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Phase is how something stands: an execution, a node, an attempt at a task or an item of a map. Flyte has an enumeration
// for each; people see one.
type Phase uint8

// The phases, in the order in which they are reached.
const (
	// Unknown is what nothing is known of.
	Unknown Phase = iota
	// Pending is planned: the workflow has it, and no event has named it yet.
	Pending
	Queued
	Waiting // for resources
	Initializing
	Running
	// DynamicRunning runs the nodes that a dynamic task has made.
	DynamicRunning
	Succeeding
	Failing
	Aborting
	// The rest are final.
	Succeeded
	Recovered
	Skipped
	Failed
	TimedOut
	Aborted
	// NotRun was planned, and what it belongs to has ended without it.
	NotRun
)

var phaseNames = [...]string{
	Unknown: "UNKNOWN", Pending: "PENDING", Queued: "QUEUED", Waiting: "WAITING", Initializing: "INITIALIZING",
	Running: "RUNNING", DynamicRunning: "DYNAMIC", Succeeding: "SUCCEEDING", Failing: "FAILING", Aborting: "ABORTING",
	Succeeded: "SUCCEEDED", Recovered: "RECOVERED", Skipped: "SKIPPED", Failed: "FAILED", TimedOut: "TIMED OUT",
	Aborted: "ABORTED", NotRun: "NOT RUN",
}

// String is the phase in capitals.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return phaseNames[Unknown]
}

// Final says that nothing follows.
func (p Phase) Final() bool { return p >= Succeeded }

// Bad says that it failed or is about to.
func (p Phase) Bad() bool {
	return p == Failed || p == TimedOut || p == Aborted || p == Failing || p == Aborting
}

// Good says that it ended well.
func (p Phase) Good() bool { return p == Succeeded || p == Recovered }

// Active says that it has begun and not ended.
func (p Phase) Active() bool { return p >= Queued && p < Succeeded }

// Working says that it is being worked on, not only waiting for its turn.
func (p Phase) Working() bool { return p >= Initializing && p < Succeeded }

func ofWorkflow(p core.WorkflowExecution_Phase) Phase {
	switch p {
	case core.WorkflowExecution_QUEUED:
		return Queued
	case core.WorkflowExecution_RUNNING:
		return Running
	case core.WorkflowExecution_SUCCEEDING:
		return Succeeding
	case core.WorkflowExecution_SUCCEEDED:
		return Succeeded
	case core.WorkflowExecution_FAILING:
		return Failing
	case core.WorkflowExecution_FAILED:
		return Failed
	case core.WorkflowExecution_ABORTED:
		return Aborted
	case core.WorkflowExecution_TIMED_OUT:
		return TimedOut
	case core.WorkflowExecution_ABORTING:
		return Aborting
	default:
		return Unknown
	}
}

func ofNode(p core.NodeExecution_Phase) Phase {
	switch p {
	case core.NodeExecution_QUEUED:
		return Queued
	case core.NodeExecution_RUNNING:
		return Running
	case core.NodeExecution_DYNAMIC_RUNNING:
		return DynamicRunning
	case core.NodeExecution_SUCCEEDED:
		return Succeeded
	case core.NodeExecution_FAILING:
		return Failing
	case core.NodeExecution_FAILED:
		return Failed
	case core.NodeExecution_ABORTED:
		return Aborted
	case core.NodeExecution_SKIPPED:
		return Skipped
	case core.NodeExecution_TIMED_OUT:
		return TimedOut
	case core.NodeExecution_RECOVERED:
		return Recovered
	default:
		return Unknown
	}
}

func ofTask(p core.TaskExecution_Phase) Phase {
	switch p {
	case core.TaskExecution_QUEUED:
		return Queued
	case core.TaskExecution_WAITING_FOR_RESOURCES:
		return Waiting
	case core.TaskExecution_INITIALIZING:
		return Initializing
	case core.TaskExecution_RUNNING:
		return Running
	case core.TaskExecution_SUCCEEDED:
		return Succeeded
	case core.TaskExecution_FAILED, core.TaskExecution_RETRYABLE_FAILED:
		return Failed
	case core.TaskExecution_ABORTED:
		return Aborted
	default:
		return Unknown
	}
}

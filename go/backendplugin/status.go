package backendplugin

import (
	"context"
	"strings"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Phase is how far a job is.
type Phase = core.TaskExecution_Phase

// The phases that a plugin reports. A failed job has the phase that [Failed] gives it.
const (
	PhaseQueued       Phase = core.TaskExecution_QUEUED
	PhaseWaiting      Phase = core.TaskExecution_WAITING_FOR_RESOURCES
	PhaseInitializing Phase = core.TaskExecution_INITIALIZING
	PhaseRunning      Phase = core.TaskExecution_RUNNING
	PhaseSucceeded    Phase = core.TaskExecution_SUCCEEDED
	PhaseFailed       Phase = core.TaskExecution_FAILED
	PhaseAborted      Phase = core.TaskExecution_ABORTED
)

// Status is the state of a job.
type Status[Out any] struct {
	// Phase must be set.
	Phase Phase
	// Message tells people how far it is. It may change while the phase does not.
	Message string
	// Outputs of a job that succeeded; nil when the job has written them at the output prefix.
	Outputs *Out
	// Err is why a job failed. A user error fails the task for good; after any other the task may be tried again.
	Err error
	// LogLinks are shown beside the task.
	LogLinks []LogLink
	// Info is shown beside the task: a struct or map, as a dataclass.
	Info any
	// PollAfter is how long nothing new is to be expected: propeller does not ask before, but for ten minutes at most. 0 leaves it
	// to propeller. flyteidl's GetTask has no place for it; polls of many jobs, watches and REST carry it.
	PollAfter time.Duration
}

// Succeeded is the status of a job that ended with these outputs.
func Succeeded[Out any](outputs Out) *Status[Out] {
	return &Status[Out]{Phase: PhaseSucceeded, Outputs: &outputs}
}

// Running is the status of a job that runs.
func Running[Out any](message string) *Status[Out] {
	return &Status[Out]{Phase: PhaseRunning, Message: message}
}

// Failed is the status of a job that failed with err: [UserError] and its like for the author of the task, [SystemError] for
// whoever runs the service.
func Failed[Out any](err error) *Status[Out] {
	return &Status[Out]{Phase: PhaseFailed, Err: err}
}

// LogLink leads people to a job's log.
type LogLink struct{ Name, URI string }

// LogQuery asks for a page of a job's log.
type LogQuery struct {
	// Lines is how many lines are wanted; 0 leaves it to the plugin.
	Lines uint64
	// Token is what the page before gave as Next; empty for the first.
	Token string
}

// LogPage is a page of a job's log.
type LogPage struct {
	Lines []LogLine
	// Next is the token of the next page; empty when there is none.
	Next string
}

// LogLine is a line of a job's log. Message includes its line ending.
type LogLine struct {
	Time    time.Time
	Message string
	// System tells that the service wrote it, not the task's own code.
	System bool
}

// MetricsQuery asks for metrics of a job.
type MetricsQuery struct {
	// Names are such as EXECUTION_METRIC_USED_CPU_AVG; none asks for what the plugin has by default.
	Names []string
	// Start and End bound the time, both inclusive; zero means unbounded. Step is the resolution; 0 leaves it to the plugin.
	Start, End time.Time
	Step       time.Duration
}

// Metric is one of them, its Data in the form of Prometheus's range query: a struct or map, as a dataclass.
type Metric struct {
	Name string
	Data any
}

func final(p Phase) bool {
	switch p {
	case PhaseSucceeded, PhaseFailed, PhaseAborted, core.TaskExecution_RETRYABLE_FAILED:
		return true
	default:
		return false
	}
}

// stateOf is a status in flyteidl's words, with its PollAfter.
func stateOf[Out any](s *Status[Out], err error) (*state, error) {
	r, err := resourceOf(s, err)
	if err != nil {
		return nil, err
	}
	return &state{r, max(s.PollAfter, 0)}, nil
}

// resourceOf is a status in flyteidl's words.
func resourceOf[Out any](s *Status[Out], err error) (*admin.Resource, error) {
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, SystemError("the plugin gave no status")
	case s.Phase == core.TaskExecution_UNDEFINED:
		return nil, SystemError("the plugin gave a status without a phase")
	case core.TaskExecution_Phase_name[int32(s.Phase)] == "":
		return nil, SystemError("the plugin gave a status with the phase %d, which Flyte does not have", s.Phase)
	}
	r := &admin.Resource{Phase: s.Phase, Message: s.Message, State: legacyStates[s.Phase]}
	for _, l := range s.LogLinks {
		r.LogLinks = append(r.LogLinks, &core.TaskLog{Name: l.Name, Uri: l.URI, MessageFormat: core.TaskLog_UNKNOWN})
	}
	if s.Outputs != nil && s.Phase == PhaseSucceeded {
		if r.Outputs, err = EncodeOutputs(*s.Outputs); err != nil {
			return nil, SystemError("the plugin's outputs: %w", err)
		}
	}
	if s.Info != nil {
		if r.CustomInfo, err = encodeStruct(s.Info); err != nil {
			return nil, SystemError("the plugin's info: %w", err)
		}
	}
	if s.Err != nil {
		r.AgentError = agentError(asError(context.Background(), s.Err))
		if r.Message == "" {
			r.Message = s.Err.Error()
		}
	}
	r.Message = strings.ToValidUTF8(r.Message, "\uFFFD") // protobuf takes no other
	return r, nil
}

// legacyStates are for readers from before phases.
var legacyStates = map[Phase]admin.State{
	PhaseQueued: admin.State_PENDING, PhaseWaiting: admin.State_PENDING, PhaseInitializing: admin.State_PENDING,
	PhaseRunning: admin.State_RUNNING, PhaseSucceeded: admin.State_SUCCEEDED,
	PhaseFailed: admin.State_PERMANENT_FAILURE, PhaseAborted: admin.State_PERMANENT_FAILURE,
}

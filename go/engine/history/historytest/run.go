// Package historytest makes events as propeller sends them, for tests and for pictures: a builder, and a run that has
// one of everything.
package historytest

import (
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
)

// Run makes the events of one execution. Times are given as what has passed since its start.
type Run struct {
	ID     *core.WorkflowExecutionIdentifier
	Start  time.Time
	Events []history.Event
}

// NewRun begins a run.
func NewRun(name string, start time.Time) *Run {
	return &Run{ID: &core.WorkflowExecutionIdentifier{Project: "flytesnacks", Domain: "development", Name: name}, Start: start}
}

// Workflow adds an event of the execution itself.
func (r *Run) Workflow(at time.Duration, p core.WorkflowExecution_Phase, change ...func(*event.WorkflowExecutionEvent)) {
	t := r.Start.Add(at)
	e := &event.WorkflowExecutionEvent{ExecutionId: r.ID, Phase: p, OccurredAt: timestamppb.New(t)}
	for _, c := range change {
		c(e)
	}
	r.Events = append(r.Events, history.Event{At: t, Workflow: e})
}

// Node adds an event of a node. An id "n1/n0" is the node n0 in n1's first attempt.
func (r *Run) Node(at time.Duration, id string, p core.NodeExecution_Phase, change ...func(*event.NodeExecutionEvent)) {
	t := r.Start.Add(at)
	e := &event.NodeExecutionEvent{
		Id: r.nodeID(id), Phase: p, OccurredAt: timestamppb.New(t), ReportedAt: timestamppb.New(t), EventVersion: 1, SpecNodeId: id,
	}
	for i := len(id) - 1; i >= 0; i-- {
		if id[i] == '/' {
			e.ParentNodeMetadata = &event.ParentNodeExecutionMetadata{NodeId: nodeID(id[:i])}
			e.SpecNodeId, e.RetryGroup = id[i+1:], "0"
			break
		}
	}
	for _, c := range change {
		c(e)
	}
	r.Events = append(r.Events, history.Event{At: t, Node: e})
}

// Task adds an event of an attempt at a node's task.
func (r *Run) Task(at time.Duration, id string, attempt uint32, p core.TaskExecution_Phase, message string, change ...func(*event.TaskExecutionEvent)) {
	t := r.Start.Add(at)
	e := &event.TaskExecutionEvent{
		TaskId: &core.Identifier{ResourceType: core.ResourceType_TASK}, ParentNodeExecutionId: r.nodeID(id), RetryAttempt: attempt,
		Phase: p, OccurredAt: timestamppb.New(t), ReportedAt: timestamppb.New(t), EventVersion: 1, Metadata: &event.TaskExecutionMetadata{},
	}
	if message != "" {
		e.Reasons = []*event.EventReason{{Reason: message, OccurredAt: e.OccurredAt}}
	}
	for _, c := range change {
		c(e)
	}
	r.Events = append(r.Events, history.Event{At: t, Task: e})
}

// nodeID makes ids of the form that propeller's have: n1-0-n0.
func nodeID(id string) string {
	out := ""
	for _, c := range id {
		if c == '/' {
			out += "-0-"
		} else {
			out += string(c)
		}
	}
	return out
}

func (r *Run) nodeID(id string) *core.NodeExecutionIdentifier {
	return &core.NodeExecutionIdentifier{ExecutionId: r.ID, NodeId: nodeID(id)}
}

// Sorted merges the events of runs in the order of their times.
func Sorted(runs ...*Run) []history.Event {
	var all []history.Event
	for _, r := range runs {
		all = append(all, r.Events...)
	}
	slices.SortStableFunc(all, func(a, b history.Event) int { return a.At.Compare(b.At) })
	return all
}

// Int makes a literal.
func Int(i int64) *core.Literal {
	return primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: i}})
}

// String makes a literal.
func String(s string) *core.Literal {
	return primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: s}})
}

// Float makes a literal.
func Float(f float64) *core.Literal {
	return primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: f}})
}

func primitive(p *core.Primitive) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}}}}
}

// List makes a literal of literals.
func List(l ...*core.Literal) *core.Literal {
	return &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: l}}}
}

// Dataset makes a literal of a structured dataset.
func Dataset(uri string) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{Uri: uri}}}}}
}

// Values makes a map of literals of names and literals by turns.
func Values(pairs ...any) *core.LiteralMap {
	m := &core.LiteralMap{Literals: map[string]*core.Literal{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		m.Literals[pairs[i].(string)] = pairs[i+1].(*core.Literal)
	}
	return m
}

// Link adds a log link.
func Link(name, uri string) func(*event.TaskExecutionEvent) {
	return func(e *event.TaskExecutionEvent) { e.Logs = append(e.Logs, &core.TaskLog{Name: name, Uri: uri}) }
}

// Job adds the id of a job.
func Job(id string) func(*event.TaskExecutionEvent) {
	return func(e *event.TaskExecutionEvent) {
		e.Metadata.ExternalResources = append(e.Metadata.ExternalResources, &event.ExternalResourceInfo{ExternalId: id, Phase: e.Phase})
	}
}

// Custom sets the custom info.
func Custom(fields map[string]any) func(*event.TaskExecutionEvent) {
	return func(e *event.TaskExecutionEvent) {
		s, err := structpb.NewStruct(fields)
		if err != nil {
			panic(err) // a mistake in a test
		}
		e.CustomInfo = s
	}
}

// Version sets the phase version.
func Version(v uint32) func(*event.TaskExecutionEvent) {
	return func(e *event.TaskExecutionEvent) { e.PhaseVersion = v }
}

// Array marks the event as an array node's.
func Array(e *event.TaskExecutionEvent) {
	e.TaskType = "container_array"
	e.Metadata.PluginIdentifier = "k8s-array"
}

// Item tells of one item of a map.
func Item(index int, attempt uint32, p core.TaskExecution_Phase) func(*event.TaskExecutionEvent) {
	return func(e *event.TaskExecutionEvent) {
		e.Metadata.ExternalResources = append(e.Metadata.ExternalResources, &event.ExternalResourceInfo{
			ExternalId: "job-" + strconv.Itoa(index) + "-" + strconv.Itoa(int(attempt)), Index: uint32(index), RetryAttempt: attempt, Phase: p, //nolint:gosec // a map has few items
			Logs: []*core.TaskLog{{Name: "Console-" + strconv.Itoa(index), Uri: "https://console.example.com/jobs/" + strconv.Itoa(index)}},
		})
	}
}

// TaskError gives a failed attempt's error.
func TaskError(kind core.ExecutionError_ErrorKind, code, message string) func(*event.TaskExecutionEvent) {
	return func(e *event.TaskExecutionEvent) {
		e.OutputResult = &event.TaskExecutionEvent_Error{Error: &core.ExecutionError{Kind: kind, Code: code, Message: message}}
	}
}

// NodeError gives a failed node's error.
func NodeError(kind core.ExecutionError_ErrorKind, code, message string) func(*event.NodeExecutionEvent) {
	return func(e *event.NodeExecutionEvent) {
		e.OutputResult = &event.NodeExecutionEvent_Error{Error: &core.ExecutionError{Kind: kind, Code: code, Message: message}}
	}
}

// Inputs of a node.
func Inputs(m *core.LiteralMap) func(*event.NodeExecutionEvent) {
	return func(e *event.NodeExecutionEvent) { e.InputValue = &event.NodeExecutionEvent_InputData{InputData: m} }
}

// Outputs of a node.
func Outputs(m *core.LiteralMap) func(*event.NodeExecutionEvent) {
	return func(e *event.NodeExecutionEvent) {
		e.OutputResult = &event.NodeExecutionEvent_OutputData{OutputData: m}
	}
}

// Launched names the execution that a node has launched.
func Launched(id *core.WorkflowExecutionIdentifier) func(*event.NodeExecutionEvent) {
	return func(e *event.NodeExecutionEvent) {
		e.TargetMetadata = &event.NodeExecutionEvent_WorkflowNodeMetadata{WorkflowNodeMetadata: &event.WorkflowNodeMetadata{ExecutionId: id}}
	}
}

// Cache gives a node's cache status.
func Cache(s core.CatalogCacheStatus) func(*event.NodeExecutionEvent) {
	return func(e *event.NodeExecutionEvent) {
		e.TargetMetadata = &event.NodeExecutionEvent_TaskNodeMetadata{TaskNodeMetadata: &event.TaskNodeMetadata{CacheStatus: s}}
	}
}

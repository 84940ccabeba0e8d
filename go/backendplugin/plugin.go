package backendplugin

import (
	"context"
	"log/slog"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// None is for a task without inputs or outputs.
type None = struct{}

// Async is a plugin whose tasks are jobs: created, polled, and deleted. In is what inputs become, Out what outputs are made
// from, ID what a job is found by again.
//
// Every method may block until its ctx ends, which is the caller's deadline or the server's limit ([WithTimeout]), and runs at
// once with any other, in any replica of the service.
type Async[In, ID, Out any] interface {
	// Create starts a job and gives its id, without waiting for the job. It is repeated with the same
	// [Request.IdempotencyKey] when its answer was lost: a plugin that honours the key then gives the first job's id.
	//
	// An id that is a string or []byte travels as it is, any other as JSON; it takes at least one byte and at most 64 KiB. It is
	// kept in propeller's state, so it holds nothing secret. Of a struct, fields may be added while jobs run: those that an id does
	// not have are zero. An id that has none of them is no job, and none of the methods hears of it.
	Create(ctx context.Context, req *Request[In]) (ID, error)
	// Get gives the job's state now. It is repeated every few seconds. An error is about the call, not about the job: a job that
	// failed is a [Status] made by [Failed].
	Get(ctx context.Context, job *Job[ID]) (*Status[Out], error)
	// Delete ends the job. It is called when a task is aborted, and may be repeated: deleting a job that has ended or is
	// unknown is not an error, and NotFound counts as success.
	Delete(ctx context.Context, job *Job[ID]) error
}

// Sync is a plugin whose tasks are one call, which blocks until the task's end. A type that is [Async] too and has this method
// serves the task type in both ways; propeller prefers the asynchronous one, unless a route says otherwise.
type Sync[In, Out any] interface {
	// Execute runs a task to its end. It is cancelled when the task is aborted, and repeated with the same key when its answer
	// was lost. An error fails the task as the error table says; a Status must be of a final phase.
	Execute(ctx context.Context, req *Request[In]) (*Status[Out], error)
}

// LogReader is an optional ability of an [Async] plugin: it gives a job's log, a page a call. It may be repeated.
type LogReader[ID any] interface {
	Logs(ctx context.Context, job *Job[ID], query LogQuery) (*LogPage, error)
}

// MetricsReader is an optional ability of an [Async] plugin: it gives a job's metrics over time. It may be repeated.
type MetricsReader[ID any] interface {
	Metrics(ctx context.Context, job *Job[ID], query MetricsQuery) ([]Metric, error)
}

// Prober is an optional ability of any plugin: it tells every few seconds whether the service can work. While it gives an
// error, panics, or has not ended with its ctx, the service reports that it is not ready, and calls are still answered. A plugin is
// asked by one goroutine at a time ([WithProbeInterval]).
type Prober interface {
	Probe(ctx context.Context) error
}

// Request is a task to run.
type Request[In any] struct {
	// Inputs are the task's inputs.
	Inputs In
	// IdempotencyKey is the same for every call about the same attempt of a task, and of no other: 64 hexadecimal characters.
	// Empty when the caller sends none, as the connector plugin that ships with Flyte.
	IdempotencyKey string
	// PluginVersion is the version that the caller asked for; empty when it did not.
	PluginVersion string
	// Template is the task as it was registered, RawInputs are the inputs as they came.
	Template  *core.TaskTemplate
	RawInputs *core.LiteralMap
	// OutputPrefix is where the job may write outputs.pb or error.pb instead of giving outputs, such as s3://bucket/metadata/x/0.
	OutputPrefix string
	// Metadata has the execution's identity, labels, service account, environment variables and more.
	Metadata *admin.TaskExecutionMetadata
	// MaxOutputBytes bounds the outputs of a synchronous task; 0 means unbounded.
	MaxOutputBytes int64
	// Secrets reads secrets, and Log is for what operators are to know; it names the task type already.
	Secrets Secrets
	Log     *slog.Logger
}

// Custom reads the template's custom, where flytekit's task types have their configuration, into a struct or map as if it
// were a dataclass. Keys that are not there leave their fields as they are. It gives a [UserError].
func (r *Request[In]) Custom(into any) error {
	if err := decodeStructure(r.Template.GetCustom().AsMap(), into); err != nil {
		return UserError("the task's custom: %w", err)
	}
	return nil
}

// Job is a job that a call is about.
type Job[ID any] struct {
	// ID is what Create gave.
	ID ID
	// TaskType is the type that the task was created with, PluginVersion the version that the caller asked for, if it did.
	TaskType, PluginVersion string
	// OutputPrefix is the request's; it is set where the job is looked at: in Get, GetMany and Watch.
	OutputPrefix string
	Secrets      Secrets
	Log          *slog.Logger
}

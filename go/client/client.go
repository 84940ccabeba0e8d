// Package client is how FlytePropeller talks to a backend plugin service: one small interface over any transport, the
// values that go through it, and the one table that says what an error means.
package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// MaxJobID is the most bytes that a job id may have, since etcd keeps it with the task.
const MaxJobID = 64 << 10

// Keys of gRPC request metadata.
const (
	// MetadataIdempotencyKey goes with every create and execute: the hash of the task attempt's whole identity, at most
	// 64 characters. A service that honours it answers a repeated create with the job of the first.
	MetadataIdempotencyKey = "flyte-backend-idempotency-key"
	// MetadataPluginVersion names the plugin version that a call is for.
	MetadataPluginVersion = "flyte-backend-plugin-version"
)

// Client calls one deployment. Every method blocks until the service answered or ctx ends, may be called by any number of
// goroutines at once, and gives an *[Error] when it fails.
type Client interface {
	// List gives what the service has registered. It may be repeated at will.
	List(ctx context.Context) ([]Registration, error)
	// Create starts a job and gives its id. It may be repeated with the same idempotency key; a service that honours
	// the key then gives the same id, any other one starts another job.
	Create(ctx context.Context, req *CreateRequest) (JobID, error)
	// Get gives a job's current state. It may be repeated at will.
	Get(ctx context.Context, ref JobRef) (*Job, error)
	// Delete ends a job and frees what it holds. Deleting an unknown or finished job is not an error; it may be repeated.
	Delete(ctx context.Context, ref JobRef) error
	// Execute runs a synchronous task to its end. Repeating it runs the task again unless the service honours the key.
	Execute(ctx context.Context, req *CreateRequest) (*Job, error)
}

// Mode says how tasks of a registration run.
type Mode uint8

// The two modes.
const (
	// Async tasks are created, polled and deleted.
	Async Mode = iota
	// Sync tasks are one call that answers with the outputs.
	Sync
)

func (m Mode) String() string {
	if m == Sync {
		return "sync"
	}
	return "async"
}

// Registration is one plugin that a service offers.
type Registration struct {
	// Name is what people call it.
	Name string
	// TaskType is the type in the task template.
	TaskType string
	// PluginVersion is the version of the plugin itself, such as "v1".
	PluginVersion string
	// TaskTypeVersions are the template versions that it takes; none means any.
	TaskTypeVersions []int32
	// Mode says how its tasks run.
	Mode Mode
}

// Takes says whether the registration takes templates of version v, and whether it names that version.
func (r Registration) Takes(v int32) (takes, exact bool) {
	for _, have := range r.TaskTypeVersions {
		if have == v {
			return true, true
		}
	}
	return len(r.TaskTypeVersions) == 0, false
}

func (r Registration) String() string {
	versions := "any version"
	if len(r.TaskTypeVersions) > 0 {
		versions = "version " + strings.Trim(strings.ReplaceAll(fmt.Sprint(r.TaskTypeVersions), " ", ","), "[]")
	}
	return fmt.Sprintf("%s (%s, %s, %s)", r.TaskType, r.PluginVersion, versions, r.Mode)
}

// Target is the plugin that a call is for.
type Target struct {
	TaskType        string
	TaskTypeVersion int32
	PluginVersion   string
}

// CreateRequest is everything a service is told about a task.
type CreateRequest struct {
	Target         Target
	IdempotencyKey string
	Template       *core.TaskTemplate
	Inputs         *core.LiteralMap
	// OutputPrefix is where the job may write outputs.pb or error.pb, such as s3://bucket/metadata/…/0.
	OutputPrefix string
	Metadata     Metadata
}

// Metadata is what propeller knows of a task execution beside its template.
type Metadata struct {
	TaskExecutionID               *core.TaskExecutionIdentifier
	Namespace                     string
	Labels                        map[string]string
	Annotations                   map[string]string
	K8sServiceAccount             string
	EnvironmentVariables          map[string]string
	Identity                      *core.Identity
	MaxAttempts                   int32
	Interruptible                 bool
	InterruptibleFailureThreshold int32
	Overrides                     *core.TaskNodeOverrides
	// MaxDatasetSizeBytes bounds the outputs of a synchronous task; 0 means unbounded.
	MaxDatasetSizeBytes int64
}

// JobID is the opaque name that a service gave a job (resource meta in flyteidl's words). Some services put credentials
// into it, so it never prints. (fmt calls no methods on unexported struct fields: keep it in exported ones.)
type JobID []byte

// String hides the id.
func (id JobID) String() string { return fmt.Sprintf("job id of %d bytes", len(id)) }

// GoString hides the id from %#v.
func (id JobID) GoString() string { return id.String() }

// Format hides the id from every verb, %x and %s among them.
func (id JobID) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(id.String())) }

// JobRef names a job at a service.
type JobRef struct {
	Target       Target
	ID           JobID
	OutputPrefix string
}

// Job is the state of a job as its service tells it.
type Job struct {
	// Phase is never UNDEFINED unless the service left it out.
	Phase   core.TaskExecution_Phase
	Message string
	// Outputs is nil when the service gave none in its answer; the job may then have written them at the output prefix.
	Outputs    *core.LiteralMap
	LogLinks   []*core.TaskLog
	CustomInfo *structpb.Struct
	// Failure has details of a failed or aborted job, nil when the service gave none.
	Failure *Failure
	// PollAfter is how long the service expects nothing new, or 0.
	PollAfter time.Duration
}

// Failure is why a job failed.
type Failure struct {
	Code        string
	Recoverable bool
	Origin      core.ExecutionError_ErrorKind
}

// Terminal says whether the job's phase is final.
func (j *Job) Terminal() bool {
	switch j.Phase {
	case core.TaskExecution_SUCCEEDED, core.TaskExecution_FAILED, core.TaskExecution_RETRYABLE_FAILED, core.TaskExecution_ABORTED:
		return true
	default:
		return false
	}
}

// NextBackoff gives the pause after n failures in a row (n from 1): initial, doubled with each, at most limit.
func NextBackoff(n int, initial, limit time.Duration) time.Duration {
	d := initial
	for i := 1; i < n && 0 < d && d < limit; i++ {
		if d > limit/2 {
			return limit // doubling could overflow
		}
		d *= 2
	}
	return min(d, limit)
}

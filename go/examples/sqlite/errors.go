package sqlite

import (
	"errors"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

var (
	// errDeleted ends a run whose job was deleted.
	errDeleted = errors.New("the job was deleted")
	// errLost ends a run whose lease another service took over, because this one was too slow to renew it.
	errLost = errors.New("the job went to another service")
)

// jobError is why a job failed: whose fault it is decides whether trying again can help.
type jobError struct {
	code   string
	kind   admin.AgentError_Kind
	origin core.ExecutionError_ErrorKind
	err    error
}

func (e *jobError) Error() string { return e.err.Error() }
func (e *jobError) Unwrap() error { return e.err }

// userError is for the author of the task: the same task fails again, however often it runs.
func userError(code string, err error) error {
	return &jobError{code, admin.AgentError_NON_RECOVERABLE, core.ExecutionError_USER, err}
}

// systemError is for whoever runs the service, or a server it depends on: another attempt may work.
func systemError(code string, err error) error {
	return &jobError{code, admin.AgentError_RECOVERABLE, core.ExecutionError_SYSTEM, err}
}

// failed is the outcome of a job that ended with err.
func failed(err error) *admin.Resource {
	var e *jobError
	if !errors.As(err, &e) {
		e = &jobError{"Internal", admin.AgentError_RECOVERABLE, core.ExecutionError_SYSTEM, err}
	}
	return &admin.Resource{
		Phase:      core.TaskExecution_FAILED,
		Message:    err.Error(),
		AgentError: &admin.AgentError{Code: "sqlite:" + e.code, Kind: e.kind, Origin: e.origin},
	}
}

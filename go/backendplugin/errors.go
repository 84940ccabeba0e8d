package backendplugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Error is a failure with a code. What propeller does about a call that fails depends on the code alone; docs/contract.md has
// the table. The constructors below are for the cases that plugins have; [NewError] makes any other.
//
// An error of another kind that a plugin returns is Unknown, a system error, unless it wraps an *Error or carries a gRPC
// status; the end of the call's own time is DeadlineExceeded or Canceled.
type Error struct {
	// Code is what goes over the wire.
	Code codes.Code
	// Reason is a name for programs and for searching, such as "TableMissing". It becomes the error code of a failed job
	// ([Failed]) and may be empty.
	Reason string
	// RetryAfter asks propeller for a pause before it tries again; 0 leaves it to propeller. Propeller waits ten minutes at most.
	RetryAfter time.Duration
	// Err is what went wrong. Its text is shown to the task's author, so it holds nothing secret.
	Err error
}

// Error gives the text of what went wrong.
func (e *Error) Error() string {
	if e == nil {
		return "an error that is nil"
	}
	if e.Err == nil {
		return e.Code.String()
	}
	return e.Err.Error()
}

// Unwrap gives what went wrong.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// WithReason gives the error a Reason, and returns it.
func (e *Error) WithReason(reason string) *Error {
	e.Reason = reason
	return e
}

// GRPCStatus is the error over the wire.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.Code, e.Error())
	if e.RetryAfter <= 0 {
		return st
	}
	if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)}); err == nil {
		return with
	}
	return st
}

// NewError gives err a code.
func NewError(code codes.Code, err error) *Error { return &Error{Code: code, Err: err} }

func errorf(code codes.Code, format string, args []any) *Error {
	return NewError(code, fmt.Errorf(format, args...))
}

// UserError (INVALID_ARGUMENT) says that the task template or an input is wrong: the task fails for good, as its author's
// failure. %w works as in fmt.Errorf, here and below.
func UserError(format string, args ...any) *Error { return errorf(codes.InvalidArgument, format, args) }

// SystemError (INTERNAL) says that the service failed: on Create the attempt fails as the system's failure, which does not use
// up the task's own retries; on Get propeller asks again.
func SystemError(format string, args ...any) *Error { return errorf(codes.Internal, format, args) }

// Retry (UNAVAILABLE) says that nothing is wrong with the request and it may succeed later: the task waits, shows why, and
// the call is made again after the pause; 0 leaves the pause to propeller.
func Retry(after time.Duration, format string, args ...any) *Error {
	e := errorf(codes.Unavailable, format, args)
	e.RetryAfter = after
	return e
}

// Overloaded (RESOURCE_EXHAUSTED) is Retry for too many requests or no capacity.
func Overloaded(after time.Duration, format string, args ...any) *Error {
	e := errorf(codes.ResourceExhausted, format, args)
	e.RetryAfter = after
	return e
}

// Conflict (ABORTED) says that the same call may be made again at once.
func Conflict(format string, args ...any) *Error { return errorf(codes.Aborted, format, args) }

// NotFound (NOT_FOUND) says that there is no such job: on Get the attempt fails as the system's failure; on Delete it is
// success, since the job is gone.
func NotFound(format string, args ...any) *Error { return errorf(codes.NotFound, format, args) }

// AlreadyExists (ALREADY_EXISTS) says that the idempotency key was used for another request.
func AlreadyExists(format string, args ...any) *Error {
	return errorf(codes.AlreadyExists, format, args)
}

// PermissionDenied (PERMISSION_DENIED) says that the task's identity may not do this: a user error.
func PermissionDenied(format string, args ...any) *Error {
	return errorf(codes.PermissionDenied, format, args)
}

// FailedPrecondition (FAILED_PRECONDITION) says that something that the task needs is not there: a user error.
func FailedPrecondition(format string, args ...any) *Error {
	return errorf(codes.FailedPrecondition, format, args)
}

// DataLoss (DATA_LOSS) says that the service lost the job or its result: a system error that ends the attempt.
func DataLoss(format string, args ...any) *Error { return errorf(codes.DataLoss, format, args) }

// asError finds the *Error of a call that failed with err.
func asError(ctx context.Context, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if e == nil || e.Code == codes.OK || e.Err == nil { // a plugin made it by hand, and left it half empty
			return NewError(codes.Unknown, fmt.Errorf("the plugin returned an error without a code or a cause: %w", err))
		}
		if e.Code > codes.Unauthenticated { // such as an HTTP status; gRPC has no more codes
			return &Error{Code: codes.Unknown, Reason: e.Reason, RetryAfter: e.RetryAfter, Err: err}
		}
		return &Error{Code: e.Code, Reason: e.Reason, RetryAfter: e.RetryAfter, Err: err} // with the text of what wraps it
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return NewError(codes.DeadlineExceeded, err)
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return NewError(codes.Canceled, err)
	}
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		return &Error{Code: st.Code(), RetryAfter: retryAfter(st), Err: err}
	}
	return NewError(codes.Unknown, err)
}

func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// userCodes are the codes that the error table calls a user error.
var userCodes = map[codes.Code]bool{
	codes.InvalidArgument: true, codes.PermissionDenied: true, codes.FailedPrecondition: true, codes.OutOfRange: true,
}

// agentError is why a job failed, in flyteidl's words: a user error fails for good, everything else may be tried again.
func agentError(e *Error) *admin.AgentError {
	a := &admin.AgentError{Code: e.Reason, Kind: admin.AgentError_RECOVERABLE, Origin: core.ExecutionError_SYSTEM}
	if userCodes[e.Code] {
		a.Kind, a.Origin = admin.AgentError_NON_RECOVERABLE, core.ExecutionError_USER
	}
	if a.Code == "" {
		a.Code = e.Code.String()
	}
	return a
}

package client

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Class says what a caller does about an error. It is the only thing that callers decide by.
type Class uint8

// The classes.
const (
	// RetryNow: the same call may be made again at once.
	RetryNow Class = iota + 1
	// RetryLater: the same call may succeed after a pause; nothing is wrong with the request.
	RetryLater
	// UserError: the request itself is wrong; it fails again however often it is made.
	UserError
	// SystemError: the service or the platform is at fault; another attempt may help, the same call will not.
	SystemError
)

func (c Class) String() string {
	switch c {
	case RetryNow:
		return "retry now"
	case RetryLater:
		return "retry later"
	case UserError:
		return "user error"
	case SystemError:
		return "system error"
	default:
		return "unknown class"
	}
}

// Rule is a row of the error table.
type Rule struct {
	Code codes.Code
	// Status is the HTTP status that a service answers with over REST. Codes share some; the code in the answer's body tells
	// them apart.
	Status int
	Class  Class
	// Meaning is what the service says with the code.
	Meaning string
}

// StatusClientClosed is the HTTP status of a call that its caller cancelled; net/http has no name for it.
const StatusClientClosed = 499

// Table is the error contract: what each gRPC code means to propeller, and the HTTP status that goes with it over REST.
// docs/contract.md is checked against it.
//
// Unauthenticated and Unimplemented are not the task's fault and not repaired by another attempt, but an operator can
// repair them while the task waits; hence retry later.
var Table = []Rule{
	{codes.Canceled, StatusClientClosed, RetryNow, "the call was cancelled on its way"},
	{codes.Unknown, http.StatusInternalServerError, SystemError, "the service failed in a way that it did not foresee"},
	{codes.InvalidArgument, http.StatusBadRequest, UserError, "the task template or an input is wrong"},
	{codes.DeadlineExceeded, http.StatusGatewayTimeout, RetryLater, "no answer within the time limit"},
	{codes.NotFound, http.StatusNotFound, SystemError, "the service knows no such plugin or job"},
	{codes.AlreadyExists, http.StatusConflict, SystemError, "the idempotency key was used for another request"},
	{codes.PermissionDenied, http.StatusForbidden, UserError, "the task's identity may not do this"},
	{codes.ResourceExhausted, http.StatusTooManyRequests, RetryLater, "too many requests or no capacity"},
	{codes.FailedPrecondition, http.StatusBadRequest, UserError, "something that the task needs is not there"},
	{codes.Aborted, http.StatusConflict, RetryNow, "a conflict inside the service"},
	{codes.OutOfRange, http.StatusBadRequest, UserError, "a value of the task is out of range"},
	{codes.Unimplemented, http.StatusNotImplemented, RetryLater, "this endpoint does not serve that call"},
	{codes.Internal, http.StatusInternalServerError, SystemError, "the service failed"},
	{codes.Unavailable, http.StatusServiceUnavailable, RetryLater, "the service cannot be reached or is starting"},
	{codes.DataLoss, http.StatusInternalServerError, SystemError, "the service lost data"},
	{codes.Unauthenticated, http.StatusUnauthorized, RetryLater, "the service does not accept propeller's credentials"},
}

// ClassOf looks a code up in Table. A code that the table does not know is a system error.
func ClassOf(code codes.Code) Class {
	for _, r := range Table {
		if r.Code == code {
			return r.Class
		}
	}
	return SystemError
}

// Error is a failed call. Its message names the call, the deployment, the address, and what came back; it holds nothing
// of the request.
type Error struct {
	// Op is the call: list, create, get, delete or execute.
	Op string
	// Deployment is the name in the configuration, Endpoint its address.
	Deployment, Endpoint string
	Code                 codes.Code
	Class                Class
	// FromService tells that the service itself answered with this error; otherwise the call failed on its way.
	FromService bool
	// TooLarge tells that a message was over the size limit.
	TooLarge bool
	// RetryAfter is the pause the service asked for, or 0.
	RetryAfter time.Duration
	// Message is what the service or the network said, Advice what to do about it (may be empty).
	Message, Advice string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Deployment != "" {
		fmt.Fprintf(&b, " at backend deployment %q (%s)", e.Deployment, e.Endpoint)
	}
	b.WriteString(" failed: ")
	if e.FromService {
		b.WriteString("the service answered ")
	}
	fmt.Fprintf(&b, "%s: %s", e.Code, cmp.Or(e.Message, "no reason was given"))
	if e.Advice != "" {
		b.WriteString(" (" + e.Advice + ")")
	}
	return b.String()
}

// ContractBroken is the error for an answer that arrived and breaks the contract; what says how.
func ContractBroken(op, deployment, endpoint, what string) *Error {
	return &Error{
		Op: op, Deployment: deployment, Endpoint: endpoint, Code: codes.Internal, Class: SystemError, FromService: true,
		Message: "the answer breaks the contract: " + what,
	}
}

// Transient tells that the same call may succeed when it is repeated.
func (e *Error) Transient() bool { return e.Class == RetryNow || e.Class == RetryLater }

// AsError finds the *Error in err's chain; any other error becomes a system error that keeps err's text.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Op: "call", Code: codes.Unknown, Class: SystemError, Message: err.Error()}
}

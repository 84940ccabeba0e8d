package rest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// TestCodes: every code has its status and its name, and each can be read back.
func TestCodes(t *testing.T) {
	t.Parallel()
	var fails error
	w := serve(t, rest.Services{Async: &service{get: func(context.Context, *admin.GetTaskRequest) (*admin.Resource, error) {
		return nil, fails
	}}}, rest.Options{})
	for _, tt := range []struct {
		code   codes.Code
		status int
		name   string
		// alone is the code that the status stands for when there is nothing but the status.
		alone codes.Code
	}{
		{codes.Canceled, 499, "CANCELLED", codes.Canceled},
		{codes.Unknown, 500, "UNKNOWN", codes.Internal},
		{codes.InvalidArgument, 400, "INVALID_ARGUMENT", codes.InvalidArgument},
		{codes.DeadlineExceeded, 504, "DEADLINE_EXCEEDED", codes.DeadlineExceeded},
		{codes.NotFound, 404, "NOT_FOUND", codes.NotFound},
		{codes.AlreadyExists, 409, "ALREADY_EXISTS", codes.AlreadyExists},
		{codes.PermissionDenied, 403, "PERMISSION_DENIED", codes.PermissionDenied},
		{codes.ResourceExhausted, 429, "RESOURCE_EXHAUSTED", codes.ResourceExhausted},
		{codes.FailedPrecondition, 400, "FAILED_PRECONDITION", codes.InvalidArgument},
		{codes.Aborted, 409, "ABORTED", codes.AlreadyExists},
		{codes.OutOfRange, 400, "OUT_OF_RANGE", codes.InvalidArgument},
		{codes.Unimplemented, 501, "UNIMPLEMENTED", codes.Unimplemented},
		{codes.Internal, 500, "INTERNAL", codes.Internal},
		{codes.Unavailable, 503, "UNAVAILABLE", codes.Unavailable},
		{codes.DataLoss, 500, "DATA_LOSS", codes.Internal},
		{codes.Unauthenticated, 401, "UNAUTHENTICATED", codes.Unauthenticated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fails = status.Error(tt.code, "because <it> is")
			a := w.do("GET", "/plugins/v1/t/v1?job_id=j", "")
			require.Equal(t, tt.status, a.status)
			require.JSONEq(t, fmt.Sprintf(`{"error_code": %q, "message": "because <it> is"}`, tt.name), a.text)
			read, ok := rest.ParseCode(tt.name)
			require.True(t, ok)
			require.Equal(t, tt.code, read)
			require.Equal(t, tt.alone, rest.CodeOf(tt.status))
		})
	}
	_, ok := rest.ParseCode("OK")
	require.False(t, ok, "it is no error's")
	_, ok = rest.ParseCode("not_found")
	require.False(t, ok, "names have their capitals")
	require.Equal(t, http.StatusOK, rest.Status(codes.OK))
	require.Equal(t, codes.Unavailable, rest.CodeOf(http.StatusBadGateway), "a proxy's own")
	require.Equal(t, codes.Unknown, rest.CodeOf(http.StatusTeapot))
}

// contradiction is an error whose status says that all is well.
type contradiction struct{}

func (contradiction) Error() string              { return "it failed and says that it did not" }
func (contradiction) GRPCStatus() *status.Status { return status.New(codes.OK, "") }

// TestServiceErrors: what a service returns becomes what gRPC would have made of it.
func TestServiceErrors(t *testing.T) {
	t.Parallel()
	var fails error
	w := serve(t, rest.Services{Async: &service{get: func(context.Context, *admin.GetTaskRequest) (*admin.Resource, error) {
		return nil, fails
	}}}, rest.Options{})
	pause := func(d time.Duration) error {
		st, err := status.New(codes.Unavailable, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
		require.NoError(t, err)
		return st.Err()
	}
	for _, tt := range []struct {
		reason string
		err    error
		status int
		code   string
		says   string
		after  string
	}{
		{"a plain error", errors.New("disk full"), 500, "UNKNOWN", "disk full", ""},
		{"a status that is wrapped", fmt.Errorf("looking: %w", status.Error(codes.NotFound, "no job")), 404, "NOT_FOUND", "looking: ", ""},
		{"a deadline of the service's own", fmt.Errorf("looking: %w", context.DeadlineExceeded), 504, "DEADLINE_EXCEEDED", "looking: ", ""},
		{"a code that gRPC does not have", status.Error(codes.Code(99), "odd"), 500, "UNKNOWN", "odd", ""},
		{"an error that says that there is none", contradiction{}, 500, "UNKNOWN", "says that it did not", ""},
		{"no text", status.Error(codes.Internal, ""), 500, "INTERNAL", "no reason", ""},
		{"text that is no UTF-8", status.Error(codes.Internal, "a\xffb"), 500, "INTERNAL", "a\uFFFDb", ""},
		{"more text than the contract has room for", status.Error(codes.Internal, strings.Repeat("é", 10000)), 500, "INTERNAL", "é…", ""},
		{"a pause of part of a second", pause(time.Nanosecond), 503, "UNAVAILABLE", "later", "1"},
		{"a pause is never made shorter", pause(1500 * time.Millisecond), 503, "UNAVAILABLE", "later", "2"},
		{"nor longer than it takes", pause(7 * time.Second), 503, "UNAVAILABLE", "later", "7"},
		{"no pause", pause(0), 503, "UNAVAILABLE", "later", ""},
		{"a pause that is over", pause(-time.Second), 503, "UNAVAILABLE", "later", ""},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			fails = tt.err
			a := w.do("GET", "/plugins/v1/t/v1?job_id=j", "")
			require.Equal(t, tt.status, a.status)
			require.Equal(t, tt.code, a.member("error_code"))
			require.Contains(t, a.member("message"), tt.says)
			require.LessOrEqual(t, len(fmt.Sprint(a.member("message"))), 16<<10)
			require.Equal(t, tt.after, a.header.Get("Retry-After"))
		})
	}
}

// TestPanics: a panic is an answer, tells the caller nothing, and the log everything.
func TestPanics(t *testing.T) {
	t.Parallel()
	var nothing any
	s := &service{
		get:    func(context.Context, *admin.GetTaskRequest) (*admin.Resource, error) { panic("secret") },
		create: func(context.Context, *admin.CreateTaskRequest) ([]byte, error) { panic(nothing) },
	}
	w := serve(t, rest.Services{Async: s}, rest.Options{})
	for _, a := range []answer{
		w.do("GET", "/plugins/v1/t/v1?job_id=j", ""),
		w.do("PUT", "/plugins/v1/t/v1", `{"template": {}}`),
	} {
		require.Equal(t, 500, a.status)
		require.Equal(t, "INTERNAL", a.member("error_code"))
		require.NotContains(t, a.text, "secret")
	}
	many := w.do("POST", "/plugins/v1/t/v1/poll", `{"jobs": [{"job_id": "a"}, {"job_id": "b"}]}`)
	require.Equal(t, 200, many.status)
	require.Equal(t, 2, strings.Count(many.text, `"status":500`), many.text)
	require.NotContains(t, many.text, "secret")
	require.Contains(t, w.log.String(), "secret")
	require.Contains(t, w.log.String(), "errors_test.go", "the log has the stack")
}

// TestNothingIsServed: a service that is nil is 501 on each of its paths, and what is no path stays 404.
func TestNothingIsServed(t *testing.T) {
	t.Parallel()
	w := serve(t, rest.Services{}, rest.Options{})
	const job, ref = "/plugins/v1/t/v1", `{"job_id": "j"}`
	for _, tt := range []struct{ method, path, body, says string }{
		{"GET", "/plugins/v1", "", "the list of its plugins"},
		{"PUT", job, `{"template": {}}`, "jobs"},
		{"GET", job + "?job_id=j", "", "jobs"},
		{"DELETE", job + "?job_id=j", "", "jobs"},
		{"POST", job + "/poll", `{"jobs": [` + ref + `]}`, "jobs"},
		{"POST", job + "/delete", ref, "jobs"},
		{"POST", job + "/logs", ref, "jobs"},
		{"POST", job + "/metrics", ref, "jobs"},
		{"POST", job + "/execute", `{"template": {}}`, "synchronous tasks"},
	} {
		a := w.do(tt.method, tt.path, tt.body)
		require.Equal(t, 501, a.status, tt.path)
		require.Equal(t, "UNIMPLEMENTED", a.member("error_code"))
		require.Equal(t, "this service does not serve "+tt.says, a.member("message"))
	}
	require.Equal(t, 404, w.do("GET", "/", "").status)
}

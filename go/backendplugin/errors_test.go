package backendplugin_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

var failures = []struct {
	reason string
	err    error
	code   codes.Code
	text   string
	after  time.Duration
	user   bool
}{
	{"the author's mistake", backendplugin.UserError("no table %q", "t"), codes.InvalidArgument, `no table "t"`, 0, true},
	{"the service's fault", backendplugin.SystemError("disk full"), codes.Internal, "disk full", 0, false},
	{"a pause is asked for", backendplugin.Retry(3*time.Second, "starting"), codes.Unavailable, "starting", 3 * time.Second, false},
	{"the pause is left to propeller", backendplugin.Retry(0, "starting"), codes.Unavailable, "starting", 0, false},
	{"no capacity", backendplugin.Overloaded(time.Minute, "full"), codes.ResourceExhausted, "full", time.Minute, false},
	{"a conflict", backendplugin.Conflict("raced"), codes.Aborted, "raced", 0, false},
	{"no such job", backendplugin.NotFound("gone"), codes.NotFound, "gone", 0, false},
	{"a key used twice", backendplugin.AlreadyExists("other request"), codes.AlreadyExists, "other request", 0, false},
	{"not allowed", backendplugin.PermissionDenied("no"), codes.PermissionDenied, "no", 0, true},
	{"something is missing", backendplugin.FailedPrecondition("no cluster"), codes.FailedPrecondition, "no cluster", 0, true},
	{"the result is lost", backendplugin.DataLoss("lost"), codes.DataLoss, "lost", 0, false},
	{"any other code", backendplugin.NewError(codes.OutOfRange, errors.New("too far")), codes.OutOfRange, "too far", 0, true},
	{"wrapped, the outer text is told", fmt.Errorf("query: %w", backendplugin.UserError("bad")), codes.InvalidArgument, "query: bad", 0, true},
	{"another service's status", status.Error(codes.ResourceExhausted, "quota"), codes.ResourceExhausted, "quota", 0, false},
	{"nobody foresaw it", errors.New("boom"), codes.Unknown, "boom", 0, false},
	{"a time limit of the plugin's own", fmt.Errorf("query: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "query: context deadline exceeded", 0, false},
	{"cancelled, and not by the caller", context.Canceled, codes.Unknown, "context canceled", 0, false},
	{"an error that was left empty", &backendplugin.Error{}, codes.Unknown, "without a code or a cause", 0, false},
	{"an error that is nil and yet is not", error((*backendplugin.Error)(nil)), codes.Unknown, "without a code or a cause", 0, false},
	{"a code that gRPC does not have", backendplugin.NewError(404, errors.New("HTTP 404")), codes.Unknown, "HTTP 404", 0, false},
	{"text that is not UTF-8", backendplugin.UserError("bad \xff"), codes.InvalidArgument, "bad \uFFFD", 0, true},
}

// TestErrorsOverTheWire: every error arrives with its code, text and pause, from every call.
func TestErrorsOverTheWire(t *testing.T) {
	for _, tt := range failures {
		t.Run(tt.reason, func(t *testing.T) {
			w := start(t, backendplugin.Plugins{
				backendplugin.New("a", &simple{
					create: func(context.Context, *backendplugin.Request[values]) (string, error) { return "", tt.err },
					get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
						return nil, tt.err
					},
					delete: func(context.Context, *backendplugin.Job[string]) error { return tt.err },
				}),
				backendplugin.NewSync("s", &fakeSync[values, values]{
					execute: func(context.Context, *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
						return nil, tt.err
					},
				}),
			})
			check := func(call string, err error) {
				st := status.Convert(err)
				assert.Equal(t, tt.code, st.Code(), call)
				assert.Contains(t, st.Message(), tt.text, call)
				var after time.Duration
				for _, d := range st.Details() {
					if info, ok := d.(*errdetails.RetryInfo); ok {
						after = info.GetRetryDelay().AsDuration()
					}
				}
				assert.Equal(t, tt.after, after, call)
			}
			_, err := w.create(w.within(), "a", nil)
			check("create", err)
			_, err = w.get(w.within(), "a", "j")
			check("get", err)
			_, err = w.execute(w.within(), header("s"))
			check("execute", err)
			err = w.delete(w.within(), "a", "j")
			if tt.code == codes.NotFound {
				require.NoError(t, err, "deleting an unknown job succeeds")
			} else {
				check("delete", err)
			}
		})
	}
}

// TestFailedJobs: a job's failure tells whose fault it was, and whether it may be tried again.
func TestFailedJobs(t *testing.T) {
	for _, tt := range failures {
		t.Run(tt.reason, func(t *testing.T) {
			w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
				get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
					return backendplugin.Failed[values](tt.err), nil
				},
			})})
			r, err := w.get(w.within(), "a", "j")
			require.NoError(t, err)
			assert.Equal(t, core.TaskExecution_FAILED, r.GetPhase())
			assert.True(t, utf8.ValidString(r.GetMessage()) && r.GetMessage() != "")
			assert.NotEmpty(t, r.GetAgentError().GetCode())
			assert.Equal(t, tt.user, r.GetAgentError().GetKind() == admin.AgentError_NON_RECOVERABLE)
			assert.Equal(t, tt.user, r.GetAgentError().GetOrigin() == core.ExecutionError_USER)
		})
	}
}

type treacherous struct{}

func (treacherous) Error() string { panic("no text") }

// TestErrorThatPanics: the text of an error is the plugin's code too.
func TestErrorThatPanics(t *testing.T) {
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		delete: func(context.Context, *backendplugin.Job[string]) error { return treacherous{} },
	})})
	for range 2 {
		require.ErrorContains(t, w.delete(w.within(), "a", "j"), "Internal desc = the plugin panicked in Delete")
	}
}

func TestReasonIsTheFailedJobsCode(t *testing.T) {
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			return backendplugin.Failed[values](backendplugin.UserError("no table").WithReason("TableMissing")), nil
		},
	})})
	r, err := w.get(w.within(), "a", "j")
	require.NoError(t, err)
	assert.Equal(t, "TableMissing", r.GetAgentError().GetCode())
	assert.Equal(t, "no table", r.GetMessage())
}

package client

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
)

func TestTableHasEachCodeOnce(t *testing.T) {
	t.Parallel()
	rows := map[codes.Code]int{}
	for _, r := range Table {
		rows[r.Code]++
		assert.NotEmpty(t, r.Meaning, r.Code)
		assert.GreaterOrEqual(t, r.Status, 400, r.Code)
		assert.Less(t, r.Status, 600, r.Code)
		assert.NotEqual(t, "unknown class", r.Class.String(), r.Code)
		assert.Equal(t, r.Class, ClassOf(r.Code))
	}
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		assert.Equal(t, 1, rows[c], c)
	}
	assert.Len(t, rows, 16, "OK is no error, and there are no other codes")
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		code   codes.Code
		want   Class
	}{
		{"the service restarts", codes.Unavailable, RetryLater},
		{"the request was refused for what is in it", codes.InvalidArgument, UserError},
		{"a lost race", codes.Aborted, RetryNow},
		{"a crash in the plugin", codes.Unknown, SystemError},
		{"a code that no table knows", codes.Code(17), SystemError},
		{"OK has no class of its own", codes.OK, SystemError},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, ClassOf(tt.code)) })
	}
}

func TestClassString(t *testing.T) {
	t.Parallel()
	for class, want := range map[Class]string{
		0: "unknown class", RetryNow: "retry now", RetryLater: "retry later", UserError: "user error", SystemError: "system error", 5: "unknown class",
	} {
		assert.Equal(t, want, class.String())
	}
	assert.Equal(t, "async", Async.String())
	assert.Equal(t, "sync", Sync.String())
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		err    Error
		want   string
	}{
		{"the service said so",
			Error{Op: "create", Deployment: "big", Endpoint: "dns:///big:8000", Code: codes.InvalidArgument, FromService: true, Message: "no query"},
			`create at backend deployment "big" (dns:///big:8000) failed: the service answered InvalidArgument: no query`},
		{"the network failed, with what to do",
			Error{Op: "get", Deployment: "big", Endpoint: "big:8000", Code: codes.Unavailable, Message: "refused", Advice: "start it"},
			`get at backend deployment "big" (big:8000) failed: Unavailable: refused (start it)`},
		{"no deployment was asked",
			Error{Op: "call", Code: codes.Unknown, Message: "lost"},
			`call failed: Unknown: lost`},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, tt.err.Error()) })
	}
}

func TestTransient(t *testing.T) {
	t.Parallel()
	for class, want := range map[Class]bool{RetryNow: true, RetryLater: true, UserError: false, SystemError: false} {
		assert.Equal(t, want, (&Error{Class: class}).Transient(), class)
	}
}

func TestAsError(t *testing.T) {
	t.Parallel()
	own := &Error{Op: "get", Code: codes.NotFound, Class: SystemError}
	assert.Same(t, own, AsError(own), "itself")
	assert.Same(t, own, AsError(fmt.Errorf("while polling: %w", own)), "wrapped")
	assert.Same(t, own, AsError(errors.Join(errors.New("first"), own)), "joined")

	other := AsError(errors.New("disk full"))
	assert.Equal(t, SystemError, other.Class)
	assert.Equal(t, codes.Unknown, other.Code)
	assert.False(t, other.FromService)
	assert.Contains(t, other.Error(), "disk full")
}

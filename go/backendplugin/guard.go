package backendplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// guarded runs a plugin's code within the server's limits and answers in time, even when the plugin does not: its place
// among the calls that run at once is then free only when it has really ended. A panic becomes an error of this call. The call
// is a span and is counted.
func guarded[T any](ctx context.Context, s *service, op string, c *call, limit time.Duration, fn func(context.Context, *call) (T, error)) (T, error) {
	var none T
	begin := time.Now()
	ctx, endSpan := s.tracing.start(ctx, op, c)
	ended := func(code codes.Code) {
		s.metrics.call(ctx, op, c, code, time.Since(begin))
		endSpan(code)
	}
	if !s.enter(ctx, c) {
		if err := ctx.Err(); err != nil {
			gone := status.FromContextError(err)
			ended(gone.Code())
			return none, gone.Err()
		}
		c.log.WarnContext(ctx, "a call was turned away", "call", op, "limit", cap(s.slots))
		s.metrics.turned.Inc()
		refused := Overloaded(time.Second, "the service runs %d calls already, which is its limit (in the Go SDK, WithMaxConcurrent)", cap(s.slots))
		ended(refused.Code)
		return none, refused.GRPCStatus().Err()
	}
	s.metrics.inFlight.Inc()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errOwnLimit)
		defer cancel()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: SystemError("the plugin ended its goroutine in %s", op)} // runtime.Goexit is no panic
		defer func() {
			if p := recover(); p != nil {
				r = result{err: s.panicked(ctx, op, c, p)}
			}
			s.metrics.inFlight.Dec()
			<-s.slots
			done <- r
		}()
		if r.value, r.err = fn(ctx, c); r.err != nil {
			if op != "Create" && op != "Execute" {
				r.err = aboutJob(r.err)
			}
			r.err = spoken(ctx, r.err)
		}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done: // it may have ended by now
		default:
			r.err = ctx.Err()
		}
	}
	if r.err == nil {
		c.log.DebugContext(ctx, "call", "call", op, "code", codes.OK.String(), "duration", time.Since(begin))
		ended(codes.OK)
		return r.value, nil
	}
	e := asError(ctx, r.err)
	if ctx.Err() != nil && (e.Code == codes.DeadlineExceeded || e.Code == codes.Canceled) {
		e.Err = fmt.Errorf("%s %s: %w", op, s.whyLate(ctx, op, limit), e.Err)
	}
	ended(e.Code)
	level := slog.LevelWarn
	if userCodes[e.Code] || e.Code == codes.NotFound || e.Code == codes.Canceled {
		level = slog.LevelInfo
	}
	c.log.Log(ctx, level, "call", "call", op, "code", e.Code.String(), "duration", time.Since(begin), "error", e)
	return none, e.GRPCStatus().Err()
}

// enter takes a place among the calls that run at once. It is false when there is none.
func (s *service) enter(ctx context.Context, c *call) bool {
	if c.background {
		select {
		case s.slots <- struct{}{}:
			return true
		case <-ctx.Done():
			return false
		}
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// panicked tells the log, and gives the error for the caller: what was thrown may hold anything, so it goes no further.
func (s *service) panicked(ctx context.Context, op string, c *call, thrown any) *Error {
	c.log.ErrorContext(ctx, "the plugin panicked", "call", op, "panic", thrown, "stack", string(debug.Stack()))
	return SystemError("the plugin panicked in %s; its log has the details", op)
}

// errOwnLimit is why a context ends at the service's own limit.
var errOwnLimit = errors.New("the service's own limit")

// whyLate says what a call that has no more time did, and who could give it more.
func (s *service) whyLate(ctx context.Context, op string, limit time.Duration) string {
	option := "WithTimeout"
	if op == "Execute" {
		option = "WithExecuteTimeout"
	}
	switch {
	case errors.Is(context.Cause(ctx), errOwnLimit):
		return fmt.Sprintf("did not end within %s, the limit of this service (in the Go SDK, %s)", limit, option)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "did not end by its caller's deadline"
	default:
		return "was cancelled before it ended"
	}
}

// maxErrorText bounds an error's text, as the contract does: what vendors say may be pages, and gRPC sends it as a header.
const maxErrorText = 16 << 10

// spoken is the error with its text fixed: making text of an error is the plugin's own code as well. Protobuf takes no text
// but UTF-8.
func spoken(ctx context.Context, err error) error {
	e := asError(ctx, err)
	return &Error{Code: e.Code, RetryAfter: e.RetryAfter, Err: errors.New(bounded(e.Error()))}
}

func bounded(text string) string {
	const room = 100 // for what comes before it, and for the mark
	if len(text) > maxErrorText-room {
		text = fmt.Sprintf("%s… (%d bytes)", text[:maxErrorText-2*room], len(text))
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// sendable says what is wrong with an answer that gRPC would give up, when nobody is left to count or log it.
func (s *service) sendable(answer proto.Message) error {
	const around = 64 // what the messages take that it is sent in
	if size := proto.Size(answer) + around; size > s.maxMessageSize {
		// To wait is no use, and callers know it by the words that grpc has for it.
		return NewError(codes.ResourceExhausted, fmt.Errorf(
			"the plugin's answer is larger than max (%d vs. %d), the limit of this service (in the Go SDK, WithMaxMessageSize)", size, s.maxMessageSize))
	}
	if _, err := proto.Marshal(answer); err != nil { // text that is not UTF-8, in a link or a name
		return SystemError("the plugin's answer cannot be sent: %w", err)
	}
	return nil
}

// get asks the plugin for a job's state, which then can be sent.
func (s *service) get(p *Plugin) func(context.Context, *call) (*state, error) {
	return func(ctx context.Context, c *call) (*state, error) {
		state, err := p.get(ctx, c)
		if err == nil {
			err = s.sendable(state.resource)
		}
		return state, err
	}
}

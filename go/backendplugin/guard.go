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
		refused := Overloaded(time.Second, "the service runs %d calls already, which is its limit", cap(s.slots))
		ended(refused.Code)
		return none, refused.GRPCStatus().Err()
	}
	s.metrics.inFlight.Inc()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
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
			r.err = fmt.Errorf("%s did not end in time: %w", op, ctx.Err())
		}
	}
	if r.err == nil {
		c.log.DebugContext(ctx, "call", "call", op, "code", codes.OK.String(), "duration", time.Since(begin))
		ended(codes.OK)
		return r.value, nil
	}
	e := asError(ctx, r.err)
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

// spoken is the error with its text fixed: making text of an error is the plugin's own code as well. Protobuf takes no text
// but UTF-8.
func spoken(ctx context.Context, err error) error {
	e := asError(ctx, err)
	return &Error{Code: e.Code, RetryAfter: e.RetryAfter, Err: errors.New(strings.ToValidUTF8(e.Error(), "\uFFFD"))}
}

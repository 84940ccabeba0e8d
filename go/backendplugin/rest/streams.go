package rest

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// stream is a gRPC stream in process, as far as a service uses one: Rs come from the caller, Ss go to it.
type stream[R, S any] struct {
	ctx      context.Context
	received []*R
	sent     []*S
	// limit bounds what is sent, in bytes: here it is kept until the service has ended.
	limit int64
	size  int64
}

// tooLarge is the error of an answer that is over the limit.
type tooLarge struct{ limit int64 }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("the answer is larger than %d bytes, the limit of this service (in the Go SDK, WithMaxMessageSize)", e.limit)
}

// GRPCStatus is the error as the service sees it.
func (e *tooLarge) GRPCStatus() *status.Status { return status.New(codes.ResourceExhausted, e.Error()) }

// over is the error of a stream that sent too much, whatever the service made of it, and else err.
func (s *stream[R, S]) over(err error) error {
	if s.size > s.limit {
		return &tooLarge{s.limit}
	}
	return err
}

func (s *stream[R, S]) Recv() (*R, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if len(s.received) == 0 {
		return nil, io.EOF
	}
	next := s.received[0]
	s.received = s.received[1:]
	return next, nil
}

func (s *stream[R, S]) Send(m *S) error {
	if m, ok := any(m).(proto.Message); ok {
		s.size += int64(proto.Size(m))
	}
	if s.size > s.limit {
		return &tooLarge{s.limit}
	}
	s.sent = append(s.sent, m)
	return status.FromContextError(s.ctx.Err()).Err()
}

func (s *stream[R, S]) Context() context.Context { return s.ctx }

func (*stream[R, S]) SetHeader(metadata.MD) error  { return nil }
func (*stream[R, S]) SendHeader(metadata.MD) error { return nil }
func (*stream[R, S]) SetTrailer(metadata.MD)       {}

// SendMsg and RecvMsg are what generated code is made of; a service that passes messages on may use them too.
func (s *stream[R, S]) SendMsg(m any) error {
	if m, ok := m.(*S); ok {
		return s.Send(m)
	}
	return internal("a message is sent as %T, and %T is due", m, new(S))
}

func (s *stream[R, S]) RecvMsg(m any) error {
	into, ok := m.(proto.Message)
	if _, same := m.(*R); !ok || !same {
		return internal("a message is received as %T, and %T is due", m, new(R))
	}
	next, err := s.Recv()
	if err != nil {
		return err
	}
	proto.Reset(into)
	if next, ok := any(next).(proto.Message); ok {
		proto.Merge(into, next)
	}
	return nil
}

// executed puts an answer together that may have come in parts.
func executed(parts []*admin.ExecuteTaskSyncResponse) (*admin.Resource, error) {
	var resource *admin.Resource
	outputs := map[string]*core.Literal{}
	add := func(m *core.LiteralMap) error {
		for name, l := range m.GetLiterals() {
			if have, twice := outputs[name]; twice && !proto.Equal(have, l) {
				return internal("output %q came twice with different values", name)
			}
			outputs[name] = l
		}
		return nil
	}
	for _, part := range parts {
		switch part := part.GetRes().(type) {
		case *admin.ExecuteTaskSyncResponse_Header:
			if resource != nil {
				return nil, internal("the plugin answered twice")
			}
			resource = part.Header.GetResource()
			if err := add(resource.GetOutputs()); err != nil {
				return nil, err
			}
		case *admin.ExecuteTaskSyncResponse_Outputs:
			if err := add(part.Outputs); err != nil {
				return nil, err
			}
		}
	}
	if resource == nil {
		return nil, internal("the plugin gave no result")
	}
	if resource.GetOutputs() == nil && len(outputs) == 0 {
		return resource, nil
	}
	resource, _ = proto.Clone(resource).(*admin.Resource)
	resource.Outputs = &core.LiteralMap{Literals: outputs}
	return resource, nil
}

// logged is the page of a log that came in parts.
func logged(parts []*admin.GetTaskLogsResponse) logPage {
	page := logPage{Lines: []logLine{}}
	for _, part := range parts {
		switch part := part.GetPart().(type) {
		case *admin.GetTaskLogsResponse_Header:
			page.Next = part.Header.GetToken()
		case *admin.GetTaskLogsResponse_Body:
			page.Lines = append(page.Lines, lines(part.Body)...)
		}
	}
	return page
}

func lines(body *admin.GetTaskLogsResponseBody) []logLine {
	var out []logLine
	for _, l := range body.GetStructuredLines() {
		line := logLine{Message: l.GetMessage(), System: l.GetOriginator() == admin.LogLineOriginator_SYSTEM}
		if l.GetTimestamp() != nil {
			line.Time = l.GetTimestamp().AsTime().Format("2006-01-02T15:04:05.999999999Z07:00")
		}
		out = append(out, line)
	}
	if len(out) == 0 {
		for _, text := range body.GetResults() {
			out = append(out, logLine{Message: text})
		}
	}
	return out
}

package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	protov1 "github.com/golang/protobuf/proto" //nolint:staticcheck // propeller's interface names its Message
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	"github.com/flyteorg/flyte/flytepropeller/events"
)

// Event is an event as flyteadmin would get it.
type Event = history.Event

// eventLog stands for flyteadmin's event service. The real one stores events, refuses what contradicts them, and makes
// flyteconsole's pictures of them; here they are handed to whoever listens, and kept in a folder if there is one.
type eventLog struct {
	dir string // empty means that they are not kept

	mu        sync.Mutex
	listeners map[int]func(Event)
	next      int
}

var _ events.EventSink = (*eventLog)(nil)

// Close is part of events.EventSink.
func (*eventLog) Close() error { return nil }

// Sink hands an event to all listeners, one event at a time.
func (l *eventLog) Sink(_ context.Context, message protov1.Message) error {
	e := Event{At: time.Now()}
	// A copy: propeller goes on changing what it sent.
	switch m := proto.Clone(protov1.MessageV2(message)).(type) {
	case *event.WorkflowExecutionEvent:
		e.Workflow = m
	case *event.NodeExecutionEvent:
		e.Node = m
	case *event.TaskExecutionEvent:
		e.Task = m
	default:
		return fmt.Errorf("propeller sent an event of unknown type %T", message)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.keep(e); err != nil {
		return err
	}
	for i := range l.next {
		if f, ok := l.listeners[i]; ok {
			f(e)
		}
	}
	return nil
}

func (l *eventLog) listen(f func(Event)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.next
	l.next++
	l.listeners[i] = f
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.listeners, i)
	}
}

// executionOf gives the execution that an event is of.
func executionOf(e Event) *core.WorkflowExecutionIdentifier {
	switch {
	case e.Workflow != nil:
		return e.Workflow.GetExecutionId()
	case e.Node != nil:
		return e.Node.GetId().GetExecutionId()
	default:
		return e.Task.GetParentNodeExecutionId().GetExecutionId()
	}
}

func (l *eventLog) file(key string) string {
	return filepath.Join(l.dir, url.PathEscape(key)+".events")
}

// The kinds of events in a file.
const (
	fileWorkflow byte = 1 + iota
	fileNode
	fileTask
)

// keep appends the event to its execution's file: its time, its kind, its length and itself, in one write.
func (l *eventLog) keep(e Event) error {
	if l.dir == "" {
		return nil
	}
	kind, msg := fileWorkflow, proto.Message(e.Workflow)
	switch {
	case e.Node != nil:
		kind, msg = fileNode, e.Node
	case e.Task != nil:
		kind, msg = fileTask, e.Task
	}
	body, err := proto.Marshal(msg)
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint64(nil, uint64(e.At.UnixNano()))
	frame = append(frame, kind)
	frame = binary.AppendUvarint(frame, uint64(len(body)))
	frame = append(frame, body...)
	exec := executionOf(e)
	f, err := os.OpenFile(l.file(keyOf(namespaceOf(exec.GetProject(), exec.GetDomain()), exec.GetName())), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot keep an event: %w", err)
	}
	_, err = f.Write(frame)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot keep an event: %w", err)
	}
	return nil
}

// load reads an execution's events. What a kill cut off at the end is left out: propeller sends it again.
func (l *eventLog) load(key string) ([]Event, error) {
	if l.dir == "" {
		return nil, nil
	}
	f, err := os.Open(l.file(key))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the events of %s: %w", key, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	r := bufio.NewReader(f)
	var out []Event
	for {
		e, err := readEvent(r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return out, nil
		case err != nil:
			return out, fmt.Errorf("the events of %s cannot be read beyond the first %d: %w", key, len(out), err)
		}
		out = append(out, e)
	}
}

func readEvent(r *bufio.Reader) (Event, error) {
	head := make([]byte, 9)
	if _, err := io.ReadFull(r, head); err != nil {
		return Event{}, err
	}
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return Event{}, err
	}
	if size > maxEvent {
		return Event{}, fmt.Errorf("an event of %d bytes is too long to be one", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return Event{}, err
	}
	e := Event{At: time.Unix(0, int64(binary.BigEndian.Uint64(head)))} //nolint:gosec // written from an int64
	var msg proto.Message
	switch head[8] {
	case fileWorkflow:
		e.Workflow = &event.WorkflowExecutionEvent{}
		msg = e.Workflow
	case fileNode:
		e.Node = &event.NodeExecutionEvent{}
		msg = e.Node
	case fileTask:
		e.Task = &event.TaskExecutionEvent{}
		msg = e.Task
	default:
		return Event{}, fmt.Errorf("unknown kind %d of event", head[8])
	}
	return e, proto.Unmarshal(body, msg)
}

// maxEvent bounds what is believed of a length in a file.
const maxEvent = 1 << 30

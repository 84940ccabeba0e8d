package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	protov1 "github.com/golang/protobuf/proto" //nolint:staticcheck // propeller's interface names its Message
	"google.golang.org/protobuf/proto"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

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
	// ends has where the next event belongs in each file that this engine has appended to.
	ends map[string]int64
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
			tell(f, e)
		}
	}
	return nil
}

// tell calls a listener. Propeller would take its panic for a fault of the workflow, which could then not even be aborted.
func tell(f func(Event), e Event) {
	defer func() {
		if r := recover(); r != nil {
			utilruntime.HandleError(fmt.Errorf("a listener to the engine's events panicked: %v\n%s", r, debug.Stack()))
		}
	}()
	f(e)
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
	return filepath.Join(l.dir, fileName(key)+".events")
}

// The kinds of events in a file.
const (
	fileWorkflow byte = 1 + iota
	fileNode
	fileTask
)

// keep appends the event to its execution's file: its time, its kind, its length and itself. What a kill or a full disk cut
// off there is removed first, or nothing behind it could be read.
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
	path := l.file(keyOf(namespaceOf(exec.GetProject(), exec.GetDomain()), exec.GetName()))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) { // a long key has a folder
		if err = os.MkdirAll(filepath.Dir(path), 0o750); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot keep an event: %w", err)
	}
	end, known := l.ends[path]
	if !known {
		if _, end, err = readEvents(f); err == nil {
			err = f.Truncate(end)
		}
	}
	if err == nil {
		_, err = f.WriteAt(frame, end)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		delete(l.ends, path)
		return fmt.Errorf("cannot keep an event: %w", err)
	}
	l.ends[path] = end + int64(len(frame))
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
	out, _, err := readEvents(f)
	if err != nil {
		return out, fmt.Errorf("the events of %s cannot be read beyond the first %d: %w", key, len(out), err)
	}
	return out, nil
}

// readEvents reads events, and tells where the last whole one ends.
func readEvents(f io.Reader) (out []Event, end int64, err error) {
	r := bufio.NewReader(f)
	for {
		e, size, err := readEvent(r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return out, end, nil
		case err != nil:
			return out, end, err
		}
		out, end = append(out, e), end+size
	}
}

// readEvent reads one event, and tells how long it is in the file.
func readEvent(r *bufio.Reader) (Event, int64, error) {
	head := make([]byte, 9)
	if _, err := io.ReadFull(r, head); err != nil {
		return Event{}, 0, err
	}
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return Event{}, 0, err
	}
	if size > maxEvent {
		return Event{}, 0, fmt.Errorf("an event of %d bytes is too long to be one", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return Event{}, 0, err
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
		return Event{}, 0, fmt.Errorf("unknown kind %d of event", head[8])
	}
	return e, int64(len(head) + len(binary.AppendUvarint(nil, size)) + len(body)), proto.Unmarshal(body, msg)
}

// maxEvent bounds what is believed of a length in a file.
const maxEvent = 1 << 30

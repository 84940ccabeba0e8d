package local

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyte-backend/flyte-backend/go/engine/tree"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Follower shows what happens in an engine, and keeps it. It takes events from before the engine is open (OnEvent), and shows
// them from Start on.
type Follower struct {
	model *history.Model
	tree  *tree.Tree

	showing sync.Mutex
	mu      sync.Mutex
	// held are events that came before Start; nil after it.
	held    []history.Event
	started bool
	known   map[string]bool
	watched []*engine.Execution

	engine  *engine.Engine
	gates   func(name string, kind *core.LiteralType) (*core.Literal, error)
	asked   map[string]bool
	wake    chan struct{}
	stop    chan struct{}
	stopped chan struct{}
}

// NewFollower shows on f: as a tree on a terminal, and in plain lines elsewhere.
func NewFollower(f *os.File) *Follower {
	return &Follower{
		model: history.New(), tree: tree.New(f, tree.For(f)), known: map[string]bool{}, asked: map[string]bool{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// OnEvent is for engine.Options. It does not block.
func (f *Follower) OnEvent(e engine.Event) {
	f.mu.Lock()
	if !f.started {
		f.held = append(f.held, e)
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.model.Add(e)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Gates has values given to gates that ask for them: give gets the signal's name and type, and gives no literal when it has
// no value.
func (f *Follower) Gates(give func(name string, kind *core.LiteralType) (*core.Literal, error)) {
	f.gates = give
}

// Print writes a line without disturbing the tree, after what has happened by now.
func (f *Follower) Print(format string, args ...any) {
	f.show()
	f.tree.Print(fmt.Sprintf(format, args...))
}

// show gives the tree how everything stands, and never how it stood before that.
func (f *Follower) show() {
	f.showing.Lock()
	defer f.showing.Unlock()
	f.tree.Update(f.model.Snapshot())
}

// Start shows executions from their beginning on, with the events that the engine has kept of them.
func (f *Follower) Start(ctx context.Context, e *engine.Engine, executions ...*engine.Execution) error {
	f.engine = e
	for _, x := range executions {
		if err := f.recall(x); err != nil {
			return err
		}
	}
	f.mu.Lock()
	for _, e := range f.held {
		f.model.Add(e)
	}
	f.held, f.started = nil, true
	f.mu.Unlock()
	f.watch()
	go f.run(context.WithoutCancel(ctx))
	return nil
}

// recall describes an execution and adds what was kept of it.
func (f *Follower) recall(x *engine.Execution) error {
	name := x.ID().GetName()
	if f.known[name] {
		return nil
	}
	f.known[name] = true
	f.watched = append(f.watched, x)
	closure, err := x.Closure()
	if err != nil {
		return err
	}
	inputs, err := x.Inputs()
	if err != nil {
		return err
	}
	f.model.Describe(history.Description{ID: x.ID(), Workflow: closure, Inputs: inputs})
	events, err := x.Events()
	if err != nil {
		return err
	}
	for _, e := range events {
		f.model.Add(e)
	}
	return nil
}

// watch finds the executions that others have started.
func (f *Follower) watch() {
	f.model.Snapshot().Walk(func(x *history.Execution, n *history.Node, _ int) bool {
		if n == nil && !f.known[x.Name] {
			if child, ok := f.engine.Execution(x.ID); ok {
				if err := f.recall(child); err != nil {
					f.Print("execution %s cannot be looked at: %s", x.Name, exit.OneLine(err.Error()))
				}
			}
		}
		return true
	})
}

// betweenUpdates is the shortest time from one look at events to the next.
const betweenUpdates = 50 * time.Millisecond

func (f *Follower) run(ctx context.Context) {
	defer close(f.stopped)
	for {
		f.watch()
		f.answer(ctx)
		f.show()
		select {
		case <-f.stop:
			f.watch()
			f.show()
			return
		case <-f.wake:
		}
		select {
		case <-f.stop:
		case <-time.After(betweenUpdates):
		}
	}
}

// answer gives gates their values, and says what the others wait for.
func (f *Follower) answer(ctx context.Context) {
	if f.gates == nil {
		return
	}
	for _, x := range f.watched {
		signals, err := x.Signals(ctx)
		if err != nil {
			continue // it is asked again after the next event
		}
		for _, s := range signals {
			name, id := s.GetId().GetSignalId(), x.ID().GetName()+"/"+s.GetId().GetSignalId()
			if s.GetValue() != nil || f.asked[id] {
				continue
			}
			f.asked[id] = true
			value, err := f.gates(name, s.GetType())
			switch {
			case err == nil && value == nil && isBoolean(s.GetType()):
				f.Print("gate %s waits: run it with --approve %s, --reject %s or --signal %s=true", name, name, name, name)
				continue
			case err == nil && value == nil:
				f.Print("gate %s waits for %s: run it with --signal %s=VALUE", name, literals.Describe(s.GetType()), name)
				continue
			case err == nil:
				err = x.Signal(ctx, name, value)
			}
			if err != nil {
				f.Print("gate %s cannot be given its value: %s", name, exit.OneLine(err.Error()))
			}
		}
	}
}

func isBoolean(t *core.LiteralType) bool { return t.GetSimple() == core.SimpleType_BOOLEAN }

// Snapshot is how everything stands.
func (f *Follower) Snapshot() *history.Snapshot { return f.model.Snapshot() }

// Close shows the last of it, and leaves it there.
func (f *Follower) Close() error {
	f.mu.Lock()
	started := f.started
	f.mu.Unlock()
	if started {
		select {
		case <-f.stop:
		default:
			close(f.stop)
		}
		<-f.stopped
	}
	return f.tree.Close()
}

package backend

import (
	"context"
	"sync"
	"time"
)

// gateHold is how long the others of a task type are held back once the first round with news of it goes out. Propeller needs
// a fraction of a millisecond, but nothing tells when it is done, and on a busy machine 50 ms were too few.
const gateHold = 250 * time.Millisecond

// gate keeps propeller from telling of the first two tasks of a type at once. Its task handler makes a type's metrics when
// the first round of that type ends that has news, under a lock that its value receiver copies, so that two at once register
// the same metric twice and panic (fetchPluginTaskMetrics in flytepropeller v1.16.8).
type gate struct {
	mu    sync.Mutex
	types map[string]chan struct{}
}

func newGate() *gate { return &gate{types: map[string]chan struct{}{}} }

// pass waits until a round of the type may go out, for gateHold at most.
func (g *gate) pass(ctx context.Context, taskType string) {
	g.mu.Lock()
	open, known := g.types[taskType]
	if !known {
		open = make(chan struct{})
		g.types[taskType] = open
		time.AfterFunc(gateHold, func() { close(open) })
	}
	g.mu.Unlock()
	if !known {
		return
	}
	select {
	case <-open:
	case <-ctx.Done():
	}
}

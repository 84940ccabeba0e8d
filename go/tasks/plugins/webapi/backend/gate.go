package backend

import (
	"context"
	"sync"
	"time"
)

// gateHold is how long after the first round of a task type has ended the others of that type are held back. 50 ms gave
// no panic in tests that had panicked in a quarter of runs.
const gateHold = 50 * time.Millisecond

// gate keeps propeller from handling the first two tasks of a type at once. Its task handler makes a type's metrics when
// the first round of that type ends, under a lock that its value receiver copies, so that two at once register the same
// metric twice and panic (fetchPluginTaskMetrics in flytepropeller v1.16.8).
type gate struct {
	mu    sync.Mutex
	types map[string]chan struct{}
}

func newGate() *gate { return &gate{types: map[string]chan struct{}{}} }

// enter waits until rounds of the type may run; leave must be called when the round has ended.
func (g *gate) enter(ctx context.Context, taskType string) (leave func(), err error) {
	g.mu.Lock()
	open, known := g.types[taskType]
	if !known {
		open = make(chan struct{})
		g.types[taskType] = open
	}
	g.mu.Unlock()
	if !known {
		return func() { time.AfterFunc(gateHold, func() { close(open) }) }, nil
	}
	select {
	case <-open:
		return func() {}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

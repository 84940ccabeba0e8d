package backend

import (
	"io"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/dial"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// connection is one to a deployment's address. It is closed when it is not needed any more and nobody calls through it.
type connection struct {
	client client.Client // nil when err says why
	closer io.Closer
	err    error

	mu      sync.Mutex
	calls   int
	retired bool
	closed  bool
	// polls are those of the machinery that are under way, silent the latest error when the latest got no answer in time.
	polls  int
	silent *client.Error
}

func connect(name string, d *config.Deployment) *connection {
	conn, err := dial.Dial(name, d)
	if err != nil {
		return &connection{err: err}
	}
	return &connection{client: conn, closer: conn}
}

// enter says whether a call may be made; leave must be called at its end.
func (c *connection) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.client == nil {
		return false
	}
	c.calls++
	return true
}

func (c *connection) leave() {
	c.mu.Lock()
	c.calls--
	last := c.retired && c.calls == 0
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// retire closes the connection after the last call that is under way.
func (c *connection) retire() {
	c.mu.Lock()
	c.retired = true
	idle := c.calls == 0
	c.mu.Unlock()
	if idle {
		c.close()
	}
}

// close ends calls under way as Canceled. It may be repeated.
func (c *connection) close() {
	c.mu.Lock()
	shut := c.closer != nil && !c.closed
	c.closed = true
	c.mu.Unlock()
	if shut {
		_ = c.closer.Close() // nothing is written through it; there is nobody to tell
	}
}

// silentShare is the part of the machinery's workers that polls may hold at a service that does not answer in time: all
// deployments share the workers, and each such poll holds one for the whole time limit.
const silentShare = 4

// beginPoll says whether a poll may take one of the machinery's workers, and why not. endPoll must be called at its end.
func (c *connection) beginPoll(workers int) *client.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent != nil && c.polls >= max(workers/silentShare, 1) {
		e := *c.silent
		return &e
	}
	c.polls++
	return nil
}

func (c *connection) endPoll(e *client.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.polls--
	c.silent = nil
	if e != nil && e.Code == codes.DeadlineExceeded && !e.FromService {
		c.silent = e
	}
}

package conformance_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// faulty is a service that conforms, but for the one fault that it is made with. It serves both protocols, and what it
// remembers outlives it, so that it can be killed, restarted and have replicas.
type faulty struct {
	fault    string
	protocol conformance.Protocol
	tls      *tls.Config
	store    *store

	mu      sync.Mutex
	address string
	stop    func()
	lis     *listener
	starts  int

	creating, polling, deleting, calls atomic.Int32
	deletesAtOnce                      atomic.Int32 // the most of them

	// What some faults are about.
	abortNext  bool // the next poll says that its job was aborted
	poisoned   atomic.Bool
	lists      int
	inARow     int
	lastPolled string
	listsInRow int
	broken     map[string]bool
}

// store is where jobs are.
type store struct {
	mu   sync.Mutex
	jobs map[string]*fjob
	keys map[string]fkey
}

type fkey struct{ digest, id string }

// fjob is a job. A quick one runs at its first poll and has succeeded from the second one on; a long one runs until it is
// deleted; a failing one has failed. How often it was polled decides, and not the time, so that tests need no luck.
type fjob struct {
	id, taskType, version, mode string
	polls                       int
	deleted                     bool
	born                        int // how often the service had been started
}

func newStore() *store { return &store{jobs: map[string]*fjob{}, keys: map[string]fkey{}} }

// ferr is an error of the service.
type ferr struct {
	code    codes.Code
	message string
	retry   string
	pause   bool // asks for a short one
}

func fail(code codes.Code, format string, args ...any) *ferr {
	return &ferr{code: code, message: fmt.Sprintf(format, args...)}
}

// fplugin is what is served.
type fplugin struct {
	name, taskType, version string
	versions                []int32
	sync                    bool
}

// request is what a call brings, over either protocol.
type frequest struct {
	taskType, version string
	taskTypeVersion   int32
	template          *core.TaskTemplate
	inputs            *core.LiteralMap
	metadata          *admin.TaskExecutionMetadata
	key, prefix       string
	id                []byte
	unknownFields     bool
	single            bool // not of a batch
	echo              string
}

// What is no fault, and makes a service unlike others.
const (
	bare        = "nothing optional"
	busy        = "every other call is refused" // with a pause that is asked for
	overrun     = "every third call is refused" // without one
	always      = "every call is refused"
	longIDs     = "ids of 60 KiB"
	slowStart   = "a create takes a while"
	unprintable = "an error with codes for a terminal"
	slowEnds    = "a deletion takes a while"
	shortIDs    = "ids are never in a body" // over REST
)

// full says that there is no capacity for a call.
func (f *faulty) full() *ferr {
	n := f.calls.Add(1)
	switch {
	case f.is(busy) && n%2 == 1:
		return &ferr{code: codes.ResourceExhausted, message: "too many calls", pause: true}
	case f.is(overrun) && n%3 == 1, f.is(always):
		return fail(codes.Unavailable, "the queue is full")
	}
	return nil
}

func (f *faulty) is(fault string) bool { return f.fault == fault }

func (f *faulty) plugins() []fplugin {
	out := []fplugin{
		{"worker", "work", "v1", nil, false},
		{"picky", "picky", "v1", []int32{2}, false},
		{"adder", "sum", "v1", nil, true},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.fault {
	case "lists nothing":
		return nil
	case "a task type without a name":
		out = append(out, fplugin{"anonymous", "", "v1", nil, true})
	case "a plugin version with a blank":
		out = append(out, fplugin{"blank", "other", "v 1", nil, true})
	case "a negative task type version":
		out = append(out, fplugin{"negative", "other", "v1", []int32{-1}, true})
	case "a plugin twice":
		out = append(out, out[0])
	case "another list each time":
		f.lists++
		out = append(out, fplugin{"extra", fmt.Sprint("extra", f.lists), "v1", nil, true})
	case "another list after a restart":
		out = append(out, fplugin{"extra", fmt.Sprint("extra", f.starts), "v1", nil, true})
	case "another list at the replica":
		out = append(out, fplugin{"extra", "at " + f.address, "v1", nil, true})
	}
	return out
}

// collide makes a call last, and says whether few others were under way. A call or two may be that their callers hung up on.
func collide(ctx context.Context, n *atomic.Int32) (alone bool) {
	defer n.Add(-1)
	alone = n.Add(1) <= 4
	timer := time.NewTimer(40 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return alone
}

// poisonable takes a while, and tells whether a caller has hung up meanwhile or before: long enough for a caller to hang up within
// it on a busy machine, and for the news of that to overtake the next call.
func (f *faulty) poisonable(ctx context.Context) bool {
	timer := time.NewTimer(60 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		f.poisoned.Store(true)
	}
	return f.poisoned.Load()
}

// find gives the plugin of a request.
func (f *faulty) find(r *frequest, sync bool) (*fplugin, *ferr) {
	if strings.HasPrefix(r.taskType, "extra") {
		return &fplugin{taskType: r.taskType, version: "v1", sync: true}, nil
	}
	known := false
	for _, p := range f.plugins() {
		if p.taskType != r.taskType || p.sync != sync {
			continue
		}
		known = true
		if r.version == "" || r.version == p.version {
			return &p, nil
		}
	}
	if known {
		return nil, f.shape(r, fail(codes.NotFound, "task type %.100q has no version %.100q", r.taskType, r.version))
	}
	return nil, f.shape(r, fail(codes.NotFound, "no plugin for task type %.100q", r.taskType))
}

// shape gives an error of the service the form that the fault wants.
func (f *faulty) shape(r *frequest, e *ferr) *ferr {
	switch {
	case f.is("errors without a message") && r.single:
		e.message = ""
	case f.is("a stack trace"):
		e.message += "\nTraceback (most recent call last):\n  File \"service.py\", line 7, in get"
	case f.is("credentials in errors"):
		e.message += " (" + r.echo + ")"
	case f.is("long errors"):
		e.message += strings.Repeat("x", 20<<10)
	case f.is("a negative pause"):
		e.retry = "-1"
	}
	return e
}

// began counts calls for the faults that are about calls in a row.
func (f *faulty) began(call, id string) (inARow int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abortNext = f.abortNext && call == "get"
	if call == "get" && id == f.lastPolled {
		f.inARow++
	} else if call != "list" {
		f.inARow, f.lastPolled = 1, id
	}
	if call == "list" {
		f.listsInRow++
	} else {
		f.listsInRow = 0
	}
	return f.inARow
}

func (f *faulty) beforeList() {
	f.began("list", "")
	f.poisoned.Store(false) // the suite lists after every case, and one case is to fail
	f.mu.Lock()
	slow := f.is("slow lists") && f.inARow >= 5 && f.listsInRow == 2
	f.mu.Unlock()
	if slow {
		time.Sleep(3100 * time.Millisecond)
	}
}

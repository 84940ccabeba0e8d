package history

import (
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Snapshot is how everything stood at one moment. Nothing in it changes afterwards, and its readers must not change it:
// snapshots share what has not changed between them.
type Snapshot struct {
	// At is when the snapshot was taken.
	At time.Time
	// Executions are those that no other execution has launched, in the order in which they were first heard of.
	Executions []*Execution
	// Records are the events in the order of their arrival, without those that told nothing new. Only the last of many
	// are kept; Dropped counts those that were not.
	Records []*Record
	Dropped int
}

// Find looks an execution up, child executions included.
func (s *Snapshot) Find(name string) *Execution {
	var found *Execution
	s.Walk(func(x *Execution, n *Node, _ int) bool {
		if n == nil && x.Name == name {
			found = x
		}
		return found == nil
	})
	return found
}

// Walk visits every execution (with a nil node) and every node below it, parents first, with their depth. It goes no
// deeper where visit returns false.
func (s *Snapshot) Walk(visit func(x *Execution, n *Node, depth int) bool) {
	for _, x := range s.Executions {
		x.Walk(0, visit)
	}
}

// Ended says that there are executions and that all have ended.
func (s *Snapshot) Ended() bool {
	for _, x := range s.Executions {
		if !x.Phase.Final() {
			return false
		}
	}
	return len(s.Executions) > 0
}

// Record is one event in a line.
type Record struct {
	// Seq counts from 1, with no gaps.
	Seq int
	// At is when it occurred, Received when the event was handed out.
	At, Received time.Time
	Execution    string
	// Node is the id that the node has in its execution; empty for the execution's own events.
	Node string
	// Task says that an attempt at a task sent it; Attempt counts from 0.
	Task    bool
	Attempt int
	Phase   Phase
	Message string
	// Items says that the message tells of items of a map.
	Items bool
}

// Execution is one run of a workflow.
type Execution struct {
	ID                    *core.WorkflowExecutionIdentifier
	Project, Domain, Name string
	// Workflow and LaunchPlan are their names, as far as they are known.
	Workflow, LaunchPlan, Version string

	Phase          Phase
	Steps          []Step
	Started, Ended time.Time
	Message        string
	Error          *Error
	Inputs         *core.LiteralMap
	Outputs        *core.LiteralMap
	OutputURI      string

	// Nodes are in the workflow's order, without those that Flyte puts at its start and end. Edges join their SpecIDs.
	Nodes []*Node
	Edges []Edge
}

// Title is the name for people.
func (x *Execution) Title() string {
	switch {
	case x.Workflow != "":
		return x.Workflow
	case x.LaunchPlan != "":
		return x.LaunchPlan
	default:
		return x.Name
	}
}

// Elapsed is how long it has taken, until now for one that goes on.
func (x *Execution) Elapsed(now time.Time) time.Duration { return elapsed(x.Started, x.Ended, now) }

// Walk is as Snapshot.Walk's, for this execution.
func (x *Execution) Walk(depth int, visit func(x *Execution, n *Node, depth int) bool) {
	if !visit(x, nil, depth) {
		return
	}
	for _, n := range x.Nodes {
		n.walk(x, depth+1, visit)
	}
}

func (n *Node) walk(x *Execution, depth int, visit func(x *Execution, n *Node, depth int) bool) {
	if !visit(x, n, depth) {
		return
	}
	for _, c := range n.Earlier {
		c.walk(x, depth+1, visit)
	}
	for _, c := range n.Children {
		c.walk(x, depth+1, visit)
	}
	if n.Launched != nil {
		n.Launched.Walk(depth+1, visit)
	}
}

// Kind is what a node is.
type Kind string

// The kinds.
const (
	KindNode       Kind = "node" // not known yet
	KindTask       Kind = "task"
	KindWorkflow   Kind = "sub-workflow"
	KindLaunchPlan Kind = "launch plan"
	KindBranch     Kind = "branch"
	KindGate       Kind = "gate"
	KindMap        Kind = "map"
	KindDynamic    Kind = "dynamic"
)

// Node is one node of a workflow, a sub-workflow, a branch or a dynamic task.
type Node struct {
	// ID is unique in its execution; a planned node's is made up. SpecID is its id in the workflow, unique among its
	// siblings.
	ID, SpecID string
	// Alias is the name that the workflow's author gave the node, Entity the name of its task or workflow.
	Alias, Entity string
	Kind          Kind
	TaskType      string

	Phase          Phase
	Steps          []Step
	Started, Ended time.Time
	// Attempts at its task, the first one first.
	Attempts []*Attempt
	// Retries is how many attempts after the first one its author allows; 0 when that is not known.
	Retries int

	Error     *Error
	Inputs    *core.LiteralMap
	Outputs   *core.LiteralMap
	OutputURI string
	DeckURI   string
	// Cache is empty where nothing is cached.
	Cache string
	Gate  *Gate
	Map   *Map

	// Children are the nodes of its sub-workflow, branch or dynamic task, of the latest attempt; Earlier are those of
	// attempts before it. Edges join SpecIDs of the children.
	Children []*Node
	Edges    []Edge
	Earlier  []*Node
	// Launched is the execution that its launch plan has started.
	Launched *Execution
	// Attempt is the parent's attempt that this node belongs to, from 0.
	Attempt int
}

// mapName is how flytekit names a map's task: the mapped task's module (or type), its variable, and a hash.
var mapName = regexp.MustCompile(`^(?:.*\.)?map_(.+)_[0-9a-f]{32}-arraynode$`)

// Title is the name for people.
func (n *Node) Title() string {
	switch {
	case n.Alias != "" && n.Alias != n.SpecID:
		return mapName.ReplaceAllString(n.Alias, "map of $1")
	case n.Entity != "":
		return mapName.ReplaceAllString(n.Entity, "map of $1")
	case n.Gate != nil && n.Gate.Signal != "":
		return n.Gate.Signal
	default:
		return string(n.Kind)
	}
}

// Label is the title's last part, for where there is little room.
func (n *Node) Label() string {
	t := n.Title()
	if i := strings.LastIndexByte(t, '.'); i >= 0 && i+1 < len(t) {
		return t[i+1:]
	}
	return t
}

// Last is the latest attempt at the node's task, or nil.
func (n *Node) Last() *Attempt {
	if len(n.Attempts) == 0 {
		return nil
	}
	return n.Attempts[len(n.Attempts)-1]
}

// Shown is the phase for people: the running task's, which says more than "running".
func (n *Node) Shown() Phase {
	if a := n.Last(); a != nil && n.Phase == Running && a.Phase != Unknown && !a.Phase.Final() {
		return a.Phase
	}
	return n.Phase
}

// Message is what there is to say of how it stands: what it waits for, or what its task said last.
func (n *Node) Message() string {
	if n.Error != nil {
		return ""
	}
	if n.Gate != nil && n.Phase.Active() {
		return n.Gate.String()
	}
	a := n.Last()
	if a == nil || n.Phase.Final() {
		return ""
	}
	if a.Phase == Failed {
		if a.Error != nil {
			return "will be tried again after " + a.Error.String()
		}
		return "will be tried again"
	}
	return a.Message()
}

// Elapsed is how long it has taken, until now for one that goes on.
func (n *Node) Elapsed(now time.Time) time.Duration { return elapsed(n.Started, n.Ended, now) }

// Attempt is one attempt at a node's task.
type Attempt struct {
	// Number counts from 0.
	Number         int
	Task           string
	Phase          Phase
	Steps          []Step
	Started, Ended time.Time
	Messages       []Message
	Links          []Link
	// Custom is what the task's plugin tells besides, or nil.
	Custom *structpb.Struct
	Jobs   []Job
	Plugin string
	Error  *Error
	// Outputs as the task's event has them.
	Outputs *core.LiteralMap
}

// Message is the latest one.
func (a *Attempt) Message() string {
	if len(a.Messages) == 0 {
		return ""
	}
	return a.Messages[len(a.Messages)-1].Text
}

// Step is one phase with its times; End is zero while it lasts, and in a final phase.
type Step struct {
	Phase   Phase
	At, End time.Time
}

// Message is what a task said.
type Message struct {
	At    time.Time
	Phase Phase
	Text  string
}

// Link leads to a log, a console or whatever else a plugin knows of.
type Link struct{ Name, URI string }

// Job is an external resource of a task that is not a map: for a backend plugin, the job's id.
type Job struct {
	ID     string
	Phase  Phase
	Links  []Link
	Custom *structpb.Struct
}

// Edge leads from one node to one that needs it.
type Edge struct{ From, To string }

// Error is why something failed.
type Error struct {
	// Kind is USER, SYSTEM or empty.
	Kind, Code, Message string
}

// String is the code and the message.
func (e *Error) String() string {
	switch {
	case e.Code == "":
		return e.Message
	case e.Message == "":
		return e.Code
	default:
		return e.Code + ": " + e.Message
	}
}

// Gate is what a gate waits for.
type Gate struct {
	// Kind is "approve", "signal" or "sleep".
	Kind string
	// Signal is the id that a signal has to name.
	Signal string
	Type   string
	Sleep  time.Duration
}

// String says what the gate waits for.
func (g *Gate) String() string {
	switch g.Kind {
	case "approve":
		return "waits for the approval " + quote(g.Signal)
	case "signal":
		return "waits for the signal " + quote(g.Signal) + " (" + g.Type + ")"
	default:
		return "sleeps for " + g.Sleep.String()
	}
}

func quote(s string) string { return `"` + s + `"` }

// Map is how the items of a map stand.
type Map struct {
	// Total counts all items, also those that have not begun.
	Total  int
	Items  []*Item
	Counts Counts
}

// Counts of items; they add up to the total.
type Counts struct{ Waiting, Running, Succeeded, Failed int }

// Item is one item of a map.
type Item struct {
	Index int
	// Attempt counts from 0.
	Attempt        int
	Phase          Phase
	Steps          []Step // of all attempts
	Started, Ended time.Time
	Job            string
	Cache          string
	Links          []Link
	Custom         *structpb.Struct
}

func elapsed(from, to, now time.Time) time.Duration {
	if from.IsZero() {
		return 0
	}
	if to.IsZero() {
		to = now
	}
	return max(0, to.Sub(from))
}

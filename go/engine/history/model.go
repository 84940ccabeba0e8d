package history

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
)

// maxRecords bounds the list of events that is kept.
const maxRecords = 20000

// Model folds events into executions. It is safe for concurrent use; its methods do not block for longer than they
// compute.
type Model struct {
	mu      sync.Mutex
	execs   map[string]*execution
	order   []*execution
	records []*Record
	seq     int
	dropped int
	// last is the snapshot that still holds; nil after a change.
	last *Snapshot
}

// New makes an empty model.
func New() *Model { return &Model{execs: map[string]*execution{}} }

// Description is what events do not tell of an execution.
type Description struct {
	ID *core.WorkflowExecutionIdentifier
	// Workflow gives the nodes that have not begun, the edges, and the names of tasks. It may be nil.
	Workflow   *core.CompiledWorkflowClosure
	LaunchPlan *core.Identifier
	Inputs     *core.LiteralMap
	// Parent is the execution that has launched it, if one has. Its node's events tell too, but later.
	Parent *core.WorkflowExecutionIdentifier
}

type execution struct {
	id         *core.WorkflowExecutionIdentifier
	launchPlan *core.Identifier
	inputs     *core.LiteralMap
	track      track
	plan       *graph
	workflow   *core.Identifier
	nodes      map[string]*node
	order      []*node
	parent     *execution
	// cached is the built execution; nil after a change below it.
	cached *Execution
}

type node struct {
	id, spec, name, parent string
	group                  int
	dynamic, array, isFlow bool
	target                 *core.Identifier
	track                  track
	inputs                 *core.LiteralMap
	deck                   string
	cache                  core.CatalogCacheStatus
	cacheAt                time.Time
	launched               *execution
	dynamicPlan            *graph
	attempts               map[int]*attempt
	items                  map[int]*item
	// cached is what was built of the node itself, without its children; nil after a change.
	cached *Node
}

type attempt struct {
	track    track
	task     string
	taskType string
	plugin   string
}

type item struct {
	attempts map[int]*track
	job      map[int]string
	cache    core.CatalogCacheStatus
	cached   *Item
}

func execKey(id *core.WorkflowExecutionIdentifier) string {
	return id.GetProject() + "\x00" + id.GetDomain() + "\x00" + id.GetName()
}

func (m *Model) execution(id *core.WorkflowExecutionIdentifier) *execution {
	k := execKey(id)
	x := m.execs[k]
	if x == nil {
		x = &execution{id: id, nodes: map[string]*node{}, track: track{ranked: true}}
		m.execs[k] = x
		m.order = append(m.order, x)
	}
	return x
}

func (x *execution) node(id string) *node {
	n := x.nodes[id]
	if n == nil {
		n = &node{id: id, track: track{ranked: true}, attempts: map[int]*attempt{}, items: map[int]*item{}}
		x.nodes[id] = n
		x.order = append(x.order, n)
		for _, child := range x.order {
			if child.parent == id {
				child.cached = nil // it was built before its parent was known, so without its place in the plan
			}
		}
	}
	return n
}

// changed forgets what was built of an execution and of those that it is shown in.
func (m *Model) changed(x *execution) {
	m.last = nil
	for ; x != nil; x = x.parent {
		x.cached = nil
	}
}

// Describe adds what is known of an execution besides its events, before, between or after them.
func (m *Model) Describe(d Description) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.execution(d.ID)
	if d.Workflow != nil {
		s := newScope(d.Workflow)
		x.plan = s.graph(s.primary)
		x.workflow = s.primary.GetTemplate().GetId()
		for _, n := range x.order {
			n.cached = nil
		}
	}
	if d.LaunchPlan != nil {
		x.launchPlan = d.LaunchPlan
	}
	if d.Inputs != nil {
		x.inputs = d.Inputs
	}
	if d.Parent != nil {
		m.adopt(m.execution(d.Parent), x)
	}
	m.changed(x)
}

// Add folds one event in. An event that is not known, or names nothing, changes nothing.
func (m *Model) Add(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case e.Workflow != nil:
		m.addWorkflow(e.At, e.Workflow)
	case e.Node != nil && e.Node.GetId().GetNodeId() != "":
		m.addNode(e.At, e.Node)
	case e.Task != nil && e.Task.GetParentNodeExecutionId().GetNodeId() != "":
		m.addTask(e.At, e.Task)
	}
}

func (m *Model) record(r *Record) {
	m.seq++
	r.Seq = m.seq
	if len(m.records) >= maxRecords {
		// Snapshots share the old slice, so the rest moves to a new one; half at a time, so that it costs little.
		m.dropped += maxRecords / 2
		m.records = slices.Clone(m.records[maxRecords/2:])
	}
	m.records = append(m.records, r)
}

func (m *Model) addWorkflow(received time.Time, e *event.WorkflowExecutionEvent) {
	x := m.execution(e.GetExecutionId())
	at := when(received, e.GetOccurredAt())
	p := ofWorkflow(e.GetPhase())
	u, fresh := x.track.at(p, 0, at)
	if err := toError(e.GetError()); err != nil && u.err == nil {
		u.err = err
	}
	if e.GetOutputData() != nil {
		u.outputs = e.GetOutputData()
	}
	if e.GetOutputUri() != "" {
		u.outputURI = e.GetOutputUri()
	}
	m.changed(x)
	if fresh {
		r := &Record{At: at, Received: received, Execution: x.id.GetName(), Phase: p}
		if u.err != nil {
			r.Message = u.err.String()
		}
		m.record(r)
	}
}

func (m *Model) addNode(received time.Time, e *event.NodeExecutionEvent) {
	x := m.execution(e.GetId().GetExecutionId())
	n := x.node(e.GetId().GetNodeId())
	at := when(received, e.GetOccurredAt(), e.GetReportedAt())
	told := when(at, e.GetReportedAt())
	p := ofNode(e.GetPhase())
	u, fresh := n.track.at(p, 0, at)

	n.cached = nil
	n.spec = cmp.Or(e.GetSpecNodeId(), n.spec)
	n.name = cmp.Or(e.GetNodeName(), n.name)
	n.parent = cmp.Or(e.GetParentNodeMetadata().GetNodeId(), n.parent)
	if g, err := strconv.Atoi(e.GetRetryGroup()); err == nil {
		n.group = g
	}
	n.dynamic = n.dynamic || e.GetIsDynamic()
	n.array = n.array || e.GetIsArray()
	n.isFlow = n.isFlow || e.GetIsParent() && !e.GetIsArray() && !e.GetIsDynamic()
	if e.GetTargetEntity() != nil {
		n.target = e.GetTargetEntity()
	}
	if e.GetInputData() != nil {
		n.inputs = e.GetInputData()
	}
	n.deck = cmp.Or(e.GetDeckUri(), n.deck)
	if err := toError(e.GetError()); err != nil && u.err == nil {
		u.err = err
	}
	if e.GetOutputData() != nil {
		u.outputs = e.GetOutputData()
	}
	u.outputURI = cmp.Or(e.GetOutputUri(), u.outputURI)

	if t := e.GetTaskNodeMetadata(); t != nil {
		if t.GetCacheStatus() != core.CatalogCacheStatus_CACHE_DISABLED && !told.Before(n.cacheAt) {
			n.cache, n.cacheAt = t.GetCacheStatus(), told
		}
		if c := t.GetDynamicWorkflow().GetCompiledWorkflow(); c != nil {
			n.dynamic = true
			s := newScope(c)
			n.dynamicPlan = s.graph(s.primary)
			for _, other := range x.order {
				other.cached = nil // a node of this plan may have come before it
			}
		}
	}
	if id := e.GetWorkflowNodeMetadata().GetExecutionId(); id.GetName() != "" {
		if child := m.execution(id); m.adopt(x, child) {
			n.launched = child
		}
	}
	m.changed(x)
	if fresh && (!n.flytes() || p.Bad()) {
		r := &Record{At: at, Received: received, Execution: x.id.GetName(), Node: n.id, Phase: p}
		if u.err != nil {
			r.Message = u.err.String()
		}
		m.record(r)
	}
}

// adopt makes one execution the child of another, unless it has a parent or that would close a circle.
func (m *Model) adopt(x, child *execution) bool {
	for up := x; up != nil; up = up.parent {
		if up == child {
			return false
		}
	}
	if child.parent != nil && child.parent != x {
		return false
	}
	child.parent = x
	return true
}

func (m *Model) addTask(received time.Time, e *event.TaskExecutionEvent) {
	x := m.execution(e.GetParentNodeExecutionId().GetExecutionId())
	n := x.node(e.GetParentNodeExecutionId().GetNodeId())
	at := within(when(received, e.GetOccurredAt(), e.GetReportedAt()), received)
	told := when(at, e.GetReportedAt())
	p := ofTask(e.GetPhase())
	number := int(e.GetRetryAttempt())
	a := n.attempts[number]
	if a == nil {
		a = &attempt{}
		n.attempts[number] = a
	}
	u, fresh := a.track.at(p, e.GetPhaseVersion(), at)
	n.cached = nil
	a.task = cmp.Or(e.GetTaskId().GetName(), a.task)
	a.taskType = cmp.Or(e.GetTaskType(), a.taskType)
	a.plugin = cmp.Or(e.GetMetadata().GetPluginIdentifier(), a.plugin)
	if e.GetInputData() != nil && n.inputs == nil {
		n.inputs = e.GetInputData()
	}
	if err := toError(e.GetError()); err != nil && u.err == nil {
		u.err = err
	}
	if e.GetOutputData() != nil {
		u.outputs = e.GetOutputData()
	}
	u.outputURI = cmp.Or(e.GetOutputUri(), u.outputURI)

	var message string
	reasons := e.GetReasons()
	if len(reasons) == 0 && e.GetReason() != "" { //nolint:staticcheck // older plugins fill only this
		reasons = []*event.EventReason{{Reason: e.GetReason()}} //nolint:staticcheck // as above
	}
	for _, r := range reasons {
		text := strings.TrimSpace(r.GetReason())
		if text == "" {
			continue
		}
		message = text
		msg := Message{At: when(at, r.GetOccurredAt()), Phase: p, Text: text}
		if !slices.ContainsFunc(u.messages, func(have Message) bool { return have.Text == msg.Text }) {
			u.messages = append(u.messages, msg)
		}
	}

	array := n.array || a.taskType == "container_array" || strings.HasSuffix(a.plugin, "-array")
	var touched []*event.ExternalResourceInfo
	if array {
		n.array = true
		touched = n.addItems(at, e.GetMetadata().GetExternalResources())
	} else if !told.Before(u.told) || u.jobs == nil {
		u.jobs = nil
		for _, r := range e.GetMetadata().GetExternalResources() {
			if r.GetExternalId() != "" {
				u.jobs = append(u.jobs, Job{ID: r.GetExternalId(), Phase: ofTask(r.GetPhase()), Links: toLinks(r.GetLogs()), Custom: toCustom(r.GetCustomInfo())})
			}
		}
	}
	if !told.Before(u.told) {
		u.told = told
		u.links = mergeLinks(u.links, toLinks(e.GetLogs()))
		if c := toCustom(e.GetCustomInfo()); c != nil {
			u.custom = c
		}
	}
	m.changed(x)
	if fresh || len(touched) > 0 {
		if u.err != nil {
			message = u.err.String()
		}
		if len(touched) > 0 {
			message = strings.TrimSpace(message + " " + itemsText(touched))
		}
		m.record(&Record{
			At: at, Received: received, Execution: x.id.GetName(), Node: n.id, Task: true, Attempt: number, Phase: p, Message: message,
			Items: len(touched) > 0,
		})
	}
}

// addItems folds in what an array node tells of its items, and returns what was new. An event holds only those items
// that have changed; at the end all of them, with little but their phase.
func (n *node) addItems(at time.Time, resources []*event.ExternalResourceInfo) []*event.ExternalResourceInfo {
	var touched []*event.ExternalResourceInfo
	for _, r := range resources {
		index, number := int(r.GetIndex()), int(r.GetRetryAttempt())
		it := n.items[index]
		if it == nil {
			it = &item{attempts: map[int]*track{}, job: map[int]string{}}
			n.items[index] = it
		}
		it.cached = nil
		if r.GetExternalId() != "" {
			it.job[number] = r.GetExternalId()
		}
		if s := r.GetCacheStatus(); s != core.CatalogCacheStatus_CACHE_DISABLED {
			it.cache = s
		}
		p := ofTask(r.GetPhase())
		if p == Unknown {
			continue
		}
		t := it.attempts[number]
		if t == nil {
			t = &track{}
			it.attempts[number] = t
		}
		u, fresh := t.at(p, 0, at)
		if fresh {
			touched = append(touched, r)
		}
		if !at.Before(u.told) {
			u.told = at
			u.links = mergeLinks(u.links, toLinks(r.GetLogs()))
			if c := toCustom(r.GetCustomInfo()); c != nil {
				u.custom = c
			}
		}
	}
	return touched
}

// itemsText is "#3 and 16 more SUCCEEDED, #2 FAILED".
func itemsText(touched []*event.ExternalResourceInfo) string {
	first := map[Phase]*event.ExternalResourceInfo{}
	count := map[Phase]int{}
	for _, r := range touched {
		p := ofTask(r.GetPhase())
		if count[p] == 0 || r.GetIndex() < first[p].GetIndex() {
			first[p] = r
		}
		count[p]++
	}
	var parts []string
	for p := Unknown; p <= NotRun; p++ {
		c := count[p]
		if c == 0 {
			continue
		}
		text := fmt.Sprintf("#%d", first[p].GetIndex())
		if c > 1 {
			text += fmt.Sprintf(" and %d more", c-1)
		}
		text += " " + p.String()
		if a := first[p].GetRetryAttempt(); c == 1 && a > 0 {
			text += fmt.Sprintf(" (attempt %d)", a+1)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

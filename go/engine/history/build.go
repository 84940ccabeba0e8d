package history

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Snapshot is how everything stands now. It shares what has not changed with snapshots before it, so it costs as much
// as there was news.
func (m *Model) Snapshot() *Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == nil {
		s := &Snapshot{Records: m.records[:len(m.records):len(m.records)], Dropped: m.dropped}
		for _, x := range m.order {
			if x.parent == nil {
				s.Executions = append(s.Executions, x.build())
			}
		}
		m.last = s
	}
	s := *m.last
	s.At = time.Now()
	return &s
}

func (x *execution) build() *Execution {
	if x.cached != nil {
		return x.cached
	}
	out := &Execution{
		ID: x.id, Project: x.id.GetProject(), Domain: x.id.GetDomain(), Name: x.id.GetName(),
		Workflow: x.workflow.GetName(), Version: x.workflow.GetVersion(), LaunchPlan: x.launchPlan.GetName(),
		Phase: x.track.phase(), Steps: x.track.steps(), Inputs: x.inputs,
	}
	if out.Phase == Unknown {
		out.Phase = Pending
	}
	out.Started, out.Ended = span(out.Steps)
	for _, u := range x.track.updates {
		out.Error = cmp.Or(u.err, out.Error)
		out.Outputs = cmp.Or(u.outputs, out.Outputs)
		out.OutputURI = cmp.Or(u.outputURI, out.OutputURI)
	}
	if out.Phase.Good() {
		out.Error = nil
	}

	b := builder{x: x, children: map[string][]*node{}}
	for _, n := range x.order {
		parent := n.parent
		if _, known := x.nodes[parent]; !known || b.circular(n) {
			parent = ""
		}
		b.children[parent] = append(b.children[parent], n)
		if e := n.track.current(); out.Phase == Aborted && out.Message == "" && e != nil && e.phase == Aborted && e.err != nil {
			out.Message = e.err.Message
		}
	}
	out.Nodes, out.Edges, _ = b.level("", "", x.plan, out.Phase, 0)
	x.cached = out
	return out
}

type builder struct {
	x        *execution
	children map[string][]*node
}

// circular says that a node is its own ancestor.
func (b *builder) circular(n *node) bool {
	depth := 0
	for up := n; up != nil && up.parent != ""; up = b.x.nodes[up.parent] {
		if depth++; depth > maxDepth || up.parent == n.id {
			return true
		}
	}
	return false
}

// level builds the nodes below a parent (the empty string means the execution): those that have begun and those that
// are only planned, in the plan's order.
func (b *builder) level(parent, prefix string, plan *graph, parentPhase Phase, depth int) (nodes []*Node, edges []Edge, earlier []*Node) {
	begun := b.children[parent]
	latest := 0
	for _, n := range begun {
		latest = max(latest, n.group)
	}
	bySpec := map[string]*node{}
	var rest []*node
	for _, n := range begun {
		switch spec := cmp.Or(n.spec, n.id); {
		case n.group < latest:
			earlier = append(earlier, b.node(n, plan, depth))
		case n.flytes() && !n.track.phase().Bad():
		case plan != nil && n.parent == parent && plan.has(spec) && bySpec[spec] == nil:
			bySpec[spec] = n
		default:
			rest = append(rest, n)
		}
	}
	if plan != nil && depth <= maxDepth {
		edges = plan.edges
		for _, spec := range plan.nodes {
			if n := bySpec[spec.GetId()]; n != nil {
				nodes = append(nodes, b.node(n, plan, depth))
				continue
			}
			nodes = append(nodes, b.planned(spec, prefix, plan.scope, parentPhase, depth))
		}
	}
	for _, n := range rest {
		// A node whose parent is not known yet may have the id of another in this plan.
		its := plan
		if n.parent != parent {
			its = nil
		}
		nodes = append(nodes, b.node(n, its, depth))
	}
	return nodes, edges, earlier
}

// flytes says that the node is one of Flyte's own, which are of interest to nobody unless they fail.
func (n *node) flytes() bool {
	spec := cmp.Or(n.spec, n.id)
	return n.id == startNode || n.id == endNode || spec == startNode || spec == endNode
}

func specOf(plan *graph, id string) *core.Node {
	if plan == nil {
		return nil
	}
	for _, n := range plan.nodes {
		if n.GetId() == id {
			return n
		}
	}
	return nil
}

// planned is a node that no event has named yet.
func (b *builder) planned(spec *core.Node, prefix string, s *scope, parentPhase Phase, depth int) *Node {
	out := &Node{ID: prefix + spec.GetId(), SpecID: spec.GetId(), Kind: KindNode, Phase: Pending}
	s.describe(out, spec)
	if parentPhase.Final() {
		out.Phase = NotRun
	}
	if g := s.inside(spec); g != nil && depth < maxDepth {
		out.Edges = g.edges
		for _, c := range g.nodes {
			out.Children = append(out.Children, b.planned(c, out.ID+"/", s, out.Phase, depth+1))
		}
	}
	return out
}

func (b *builder) node(n *node, plan *graph, depth int) *Node {
	spec := specOf(plan, cmp.Or(n.spec, n.id))
	if n.cached == nil {
		n.cached = n.build(spec, plan)
	}
	out := *n.cached
	inside := n.dynamicPlan
	if inside == nil && spec != nil {
		inside = plan.scope.inside(spec)
	}
	if inside != nil || len(b.children[n.id]) > 0 {
		out.Children, out.Edges, out.Earlier = b.level(n.id, n.id+"/", inside, out.Phase, depth+1)
	}
	if n.launched != nil {
		out.Launched = n.launched.build()
	}
	if out.Kind == KindNode {
		switch {
		case n.launched != nil:
			out.Kind = KindLaunchPlan
		case len(out.Children) > 0:
			out.Kind = KindBranch
		}
	}
	return &out
}

// build makes what there is to tell of the node itself.
func (n *node) build(spec *core.Node, plan *graph) *Node {
	out := &Node{
		ID: n.id, SpecID: cmp.Or(n.spec, n.id), Kind: KindNode, Phase: n.track.phase(), Steps: n.track.steps(),
		Inputs: n.inputs, DeckURI: n.deck, Attempt: n.group,
	}
	if spec != nil {
		plan.scope.describe(out, spec)
	} else if n.name != out.SpecID {
		out.Alias = n.name
	}
	out.Entity = cmp.Or(out.Entity, n.target.GetName())
	if n.cache != core.CatalogCacheStatus_CACHE_DISABLED {
		out.Cache = cacheText(n.cache)
	}
	out.Started, out.Ended = span(out.Steps)

	for _, number := range slices.Sorted(maps.Keys(n.attempts)) {
		a := n.attempts[number].build(number)
		out.Attempts = append(out.Attempts, a)
		out.Entity = cmp.Or(out.Entity, a.Task)
		if t := n.attempts[number].taskType; t != "container_array" && t != "k8s-array" {
			out.TaskType = cmp.Or(out.TaskType, t)
		}
		if a.Outputs != nil {
			out.Outputs = a.Outputs
		}
	}
	for _, u := range n.track.updates {
		out.Error = cmp.Or(u.err, out.Error)
		out.Outputs = cmp.Or(u.outputs, out.Outputs)
		out.OutputURI = cmp.Or(u.outputURI, out.OutputURI)
	}
	// A task's event comes before its node's: its error need not wait.
	if a := out.Last(); a != nil && out.Error == nil && a.Error != nil && out.Phase.Bad() {
		out.Error = a.Error
	}
	if !out.Phase.Bad() {
		out.Error = nil
	}
	if out.Phase == Unknown {
		out.Phase = Queued // its task is known, so its own event is on the way
		if a := out.Last(); a != nil && !a.Phase.Final() {
			out.Phase = a.Phase
		}
	}
	switch {
	case n.array:
		out.Kind = KindMap
		out.Map = n.buildMap(out, spec)
	case n.dynamic:
		out.Kind = KindDynamic
	case out.Kind == KindNode && n.isFlow:
		out.Kind = KindWorkflow
	case out.Kind == KindNode && len(n.attempts) > 0:
		out.Kind = KindTask
	}
	return out
}

func (a *attempt) build(number int) *Attempt {
	out := &Attempt{
		Number: number, Task: a.task, Phase: a.track.phase(), Steps: a.track.steps(), Messages: a.track.messages(),
		Links: a.track.links(), Custom: a.track.custom(), Jobs: a.track.jobs(), Plugin: a.plugin,
	}
	out.Started, out.Ended = span(out.Steps)
	if u := a.track.ended(); u != nil {
		out.Error, out.Outputs = u.err, u.outputs
	}
	return out
}

func (n *node) buildMap(out *Node, spec *core.Node) *Map {
	m := &Map{}
	for _, index := range slices.Sorted(maps.Keys(n.items)) {
		it := n.items[index]
		if it.cached == nil {
			it.cached = it.build(index)
		}
		i := it.cached
		if out.Phase.Final() && !i.Phase.Final() {
			// The map has ended without this item.
			c := *i
			c.Phase, c.Ended = NotRun, out.Ended
			if !c.Started.IsZero() {
				c.Phase = Aborted
			}
			i = &c
		}
		m.Items = append(m.Items, i)
		switch p := i.Phase; {
		case p.Good():
			m.Counts.Succeeded++
		case p.Bad():
			m.Counts.Failed++
		case p.Working():
			m.Counts.Running++
		}
		m.Total = max(m.Total, index+1)
	}
	m.Total = max(m.Total, inputLength(out.Inputs, spec.GetArrayNode().GetBoundInputs()))
	m.Counts.Waiting = m.Total - m.Counts.Succeeded - m.Counts.Failed - m.Counts.Running
	return m
}

// inputLength is the length of the lists that a map runs over; all have the same one, and if not nothing is known.
func inputLength(inputs *core.LiteralMap, bound []string) int {
	length := 0
	for name, l := range inputs.GetLiterals() {
		c := l.GetCollection()
		if c == nil || slices.Contains(bound, name) {
			continue
		}
		if n := len(c.GetLiterals()); length == 0 || length == n {
			length = n
		} else {
			return 0
		}
	}
	return length
}

func (it *item) build(index int) *Item {
	out := &Item{Index: index, Phase: Pending}
	if it.cache != core.CatalogCacheStatus_CACHE_DISABLED {
		out.Cache = cacheText(it.cache)
	}
	for _, number := range slices.Sorted(maps.Keys(it.job)) {
		out.Job = it.job[number]
	}
	for _, number := range slices.Sorted(maps.Keys(it.attempts)) {
		t := it.attempts[number]
		out.Attempt, out.Phase = number, t.phase()
		for i, s := range t.steps() {
			if k := len(out.Steps); i == 0 && k > 0 && out.Steps[k-1].End.IsZero() {
				out.Steps[k-1].End = s.At
			}
			out.Steps = append(out.Steps, s)
		}
		if l := t.links(); l != nil {
			out.Links = l
		}
		if c := t.custom(); c != nil {
			out.Custom = c
		}
	}
	out.Started, out.Ended = span(out.Steps)
	return out
}

func cacheText(s core.CatalogCacheStatus) string {
	switch s {
	case core.CatalogCacheStatus_CACHE_HIT:
		return "hit"
	case core.CatalogCacheStatus_CACHE_MISS:
		return "miss"
	case core.CatalogCacheStatus_CACHE_POPULATED:
		return "stored"
	case core.CatalogCacheStatus_CACHE_LOOKUP_FAILURE:
		return "lookup failed"
	case core.CatalogCacheStatus_CACHE_PUT_FAILURE:
		return "storing failed"
	case core.CatalogCacheStatus_CACHE_SKIPPED:
		return "skipped"
	case core.CatalogCacheStatus_CACHE_EVICTED:
		return "evicted"
	default:
		return ""
	}
}

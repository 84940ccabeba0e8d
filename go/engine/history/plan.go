package history

import (
	"slices"
	"strings"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// maxDepth bounds how deep workflows nest, in case one contains itself.
const maxDepth = 16

const (
	startNode = "start-node"
	endNode   = "end-node"
)

// scope is a compiled closure, in which references are looked up: the execution's, or one that a dynamic task has made.
type scope struct {
	tasks     map[string]*core.TaskTemplate
	workflows map[string]*core.CompiledWorkflow
	primary   *core.CompiledWorkflow
}

func newScope(c *core.CompiledWorkflowClosure) *scope {
	s := &scope{tasks: map[string]*core.TaskTemplate{}, workflows: map[string]*core.CompiledWorkflow{}, primary: c.GetPrimary()}
	for _, t := range c.GetTasks() {
		s.tasks[key(t.GetTemplate().GetId())] = t.GetTemplate()
	}
	for _, w := range c.GetSubWorkflows() {
		s.workflows[key(w.GetTemplate().GetId())] = w
	}
	return s
}

func key(id *core.Identifier) string {
	return strings.Join([]string{id.GetProject(), id.GetDomain(), id.GetName(), id.GetVersion()}, "\x00")
}

// graph is nodes in the order in which they can run, and the edges between them.
type graph struct {
	nodes []*core.Node
	edges []Edge
	scope *scope
}

func (s *scope) graph(w *core.CompiledWorkflow) *graph {
	g := &graph{scope: s}
	inside := map[string]bool{startNode: true, endNode: true}
	for _, n := range w.GetTemplate().GetNodes() {
		for _, c := range cases(n) {
			inside[c.GetId()] = true
		}
	}
	for _, n := range w.GetTemplate().GetNodes() {
		if !inside[n.GetId()] {
			g.nodes = append(g.nodes, n)
		}
	}
	for from, to := range w.GetConnections().GetDownstream() {
		for _, id := range to.GetIds() {
			g.join(from, id)
		}
	}
	for to, from := range w.GetConnections().GetUpstream() {
		for _, id := range from.GetIds() {
			g.join(id, to)
		}
	}
	g.order()
	if f := w.GetTemplate().GetFailureNode(); f != nil && !g.has(f.GetId()) {
		g.nodes = append(g.nodes, f)
	}
	return g
}

func (g *graph) has(id string) bool {
	return slices.ContainsFunc(g.nodes, func(n *core.Node) bool { return n.GetId() == id })
}

func (g *graph) join(from, to string) {
	e := Edge{From: from, To: to}
	if from != to && g.has(from) && g.has(to) && !slices.Contains(g.edges, e) {
		g.edges = append(g.edges, e)
	}
}

// order sorts the nodes so that each comes after those that it needs, and otherwise as the workflow has them.
func (g *graph) order() {
	place := make(map[string]int, len(g.nodes))
	for i, n := range g.nodes {
		place[n.GetId()] = i
	}
	needs := make([]int, len(g.nodes))
	next := make([][]int, len(g.nodes))
	for _, e := range g.edges {
		from, to := place[e.From], place[e.To]
		needs[to]++
		next[from] = append(next[from], to)
	}
	done := make([]bool, len(g.nodes))
	sorted := make([]*core.Node, 0, len(g.nodes))
	for len(sorted) < len(g.nodes) {
		// A circle cannot be run, so what to show of it does not matter, only that this ends.
		pick := slices.Index(done, false)
		for i := range g.nodes {
			if !done[i] && needs[i] == 0 {
				pick = i
				break
			}
		}
		done[pick] = true
		sorted = append(sorted, g.nodes[pick])
		for _, to := range next[pick] {
			needs[to]--
		}
	}
	g.nodes = sorted
	for i, n := range g.nodes {
		place[n.GetId()] = i
	}
	slices.SortFunc(g.edges, func(a, b Edge) int {
		if d := place[a.From] - place[b.From]; d != 0 {
			return d
		}
		return place[a.To] - place[b.To]
	})
}

// cases are the nodes that a branch chooses from.
func cases(n *core.Node) []*core.Node {
	b := n.GetBranchNode().GetIfElse()
	if b == nil {
		return nil
	}
	var nodes []*core.Node
	add := func(n *core.Node) {
		if n != nil {
			nodes = append(nodes, n)
		}
	}
	add(b.GetCase().GetThenNode())
	for _, o := range b.GetOther() {
		add(o.GetThenNode())
	}
	add(b.GetElseNode())
	return nodes
}

// inside is the graph that a node contains, or nil.
func (s *scope) inside(n *core.Node) *graph {
	if ref := n.GetWorkflowNode().GetSubWorkflowRef(); ref != nil {
		if w := s.workflows[key(ref)]; w != nil {
			return s.graph(w)
		}
		return nil
	}
	if c := cases(n); len(c) > 0 {
		return &graph{nodes: c, scope: s}
	}
	return nil
}

// describe fills in what the workflow says of a node.
func (s *scope) describe(out *Node, n *core.Node) {
	out.Alias = n.GetMetadata().GetName()
	out.Retries = int(n.GetMetadata().GetRetries().GetRetries())
	switch t := n.GetTarget().(type) {
	case *core.Node_TaskNode:
		out.Kind = KindTask
		s.describeTask(out, t.TaskNode.GetReferenceId())
	case *core.Node_WorkflowNode:
		if lp := t.WorkflowNode.GetLaunchplanRef(); lp != nil {
			out.Kind, out.Entity = KindLaunchPlan, lp.GetName()
		} else {
			out.Kind, out.Entity = KindWorkflow, t.WorkflowNode.GetSubWorkflowRef().GetName()
		}
	case *core.Node_BranchNode:
		out.Kind = KindBranch
	case *core.Node_GateNode:
		out.Kind = KindGate
		out.Gate = toGate(t.GateNode)
	case *core.Node_ArrayNode:
		out.Kind = KindMap
		sub := t.ArrayNode.GetNode()
		switch {
		case sub.GetTaskNode() != nil:
			s.describeTask(out, sub.GetTaskNode().GetReferenceId())
		case sub.GetWorkflowNode().GetLaunchplanRef() != nil:
			out.Entity = sub.GetWorkflowNode().GetLaunchplanRef().GetName()
		}
		if r := sub.GetMetadata().GetRetries().GetRetries(); r > 0 {
			out.Retries = int(r)
		}
	}
	if out.Alias == "" {
		out.Alias = n.GetId()
	}
	// flytekit names a node after its task, which is no name of its own.
	if out.Alias == n.GetId() || out.Alias == out.Entity || strings.HasSuffix(out.Entity, "."+out.Alias) {
		out.Alias = ""
	}
}

func (s *scope) describeTask(out *Node, ref *core.Identifier) {
	out.Entity = ref.GetName()
	t := s.tasks[key(ref)]
	if t == nil {
		return
	}
	out.TaskType = t.GetType()
	if r := t.GetMetadata().GetRetries().GetRetries(); out.Retries == 0 {
		out.Retries = int(r)
	}
}

func toGate(g *core.GateNode) *Gate {
	switch c := g.GetCondition().(type) {
	case *core.GateNode_Approve:
		return &Gate{Kind: "approve", Signal: c.Approve.GetSignalId()}
	case *core.GateNode_Signal:
		return &Gate{Kind: "signal", Signal: c.Signal.GetSignalId(), Type: TypeText(c.Signal.GetType())}
	case *core.GateNode_Sleep:
		return &Gate{Kind: "sleep", Sleep: c.Sleep.GetDuration().AsDuration()}
	default:
		return nil
	}
}

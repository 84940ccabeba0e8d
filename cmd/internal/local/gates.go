package local

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler"
)

// surroundings is what can be known of a workflow before it runs, with those that it launches.
type surroundings struct {
	tasks []*core.TaskTemplate
	// gates by the signal that they wait for.
	gates map[string]*core.LiteralType
}

func survey(b *bundle.Bundle, closure *core.CompiledWorkflowClosure) surroundings {
	s := surroundings{gates: map[string]*core.LiteralType{}}
	s.add(b, closure, map[string]bool{})
	return s
}

func (s *surroundings) add(b *bundle.Bundle, closure *core.CompiledWorkflowClosure, seen map[string]bool) {
	name := closure.GetPrimary().GetTemplate().GetId().GetName()
	if seen[name] {
		return
	}
	seen[name] = true
	for _, t := range closure.GetTasks() {
		s.tasks = append(s.tasks, t.GetTemplate())
	}
	subs := make([]*core.WorkflowTemplate, 0, len(closure.GetSubWorkflows()))
	for _, w := range closure.GetSubWorkflows() {
		subs = append(subs, w.GetTemplate())
	}
	for _, w := range append(slices.Clone(subs), closure.GetPrimary().GetTemplate()) {
		s.nodes(w.GetNodes())
	}
	needs, err := compiler.GetRequirements(closure.GetPrimary().GetTemplate(), subs)
	if err != nil {
		return // the engine says so when it is to run this
	}
	for _, id := range needs.GetRequiredLaunchPlanIds() {
		if child, err := b.Find(id.GetName(), nil); err == nil {
			s.add(b, child.Closure, seen)
		}
	}
}

func (s *surroundings) nodes(nodes []*core.Node) {
	for _, n := range nodes {
		switch g := n.GetGateNode().GetCondition().(type) {
		case *core.GateNode_Approve:
			s.gates[g.Approve.GetSignalId()] = &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_BOOLEAN}}
		case *core.GateNode_Signal:
			s.gates[g.Signal.GetSignalId()] = g.Signal.GetType()
		}
		if b := n.GetBranchNode().GetIfElse(); b != nil {
			all := []*core.Node{b.GetCase().GetThenNode(), b.GetElseNode()}
			for _, o := range b.GetOther() {
				all = append(all, o.GetThenNode())
			}
			s.nodes(slices.DeleteFunc(all, func(n *core.Node) bool { return n == nil }))
		}
	}
}

// checkSignals refuses values of the wrong type. The names of gates that are not known are given back: a dynamic task may
// yet make them.
func (s *surroundings) checkSignals(signals map[string]*gateValue) (unknown []string, err error) {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(signals)) {
		t, known := s.gates[name]
		if !known {
			unknown = append(unknown, name)
			continue
		}
		if _, err := signals[name].literal(name, t); err != nil {
			wrong = append(wrong, "--signal "+err.Error())
		}
	}
	if len(wrong) > 0 {
		return nil, exit.BadInputf("%s", strings.Join(wrong, "; "))
	}
	return unknown, nil
}

func (s *surroundings) unknownGates(names []string) string {
	has := "it has none that is known before it runs"
	if len(s.gates) > 0 {
		has = "it has " + strings.Join(slices.Sorted(maps.Keys(s.gates)), ", ")
	}
	return fmt.Sprintf("the workflow has no gate %s so far; %s", strings.Join(names, ", "), has)
}

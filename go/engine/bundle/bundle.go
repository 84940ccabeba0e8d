// Package bundle reads what flytekit serialises: the archive that `pyflyte package` writes, a folder with the same files, or
// one compiled workflow. It takes the place of registration (flytectl and flyteadmin): identifiers get their project, domain
// and version, launch plans their interfaces, and workflows are compiled by propeller's own compiler.
package bundle

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler/common"
)

// Bundle is a set of tasks, workflows and launch plans that refer to each other. It does not change once it is loaded.
type Bundle struct {
	opts        Options
	tasks       map[string]*core.TaskTemplate
	workflows   map[string]*admin.WorkflowSpec
	launchPlans map[string]*admin.LaunchPlan
	// compiled is set for a bundle that came as one compiled workflow.
	compiled *core.CompiledWorkflowClosure
}

// Options say what registration would.
type Options struct {
	// Project and Domain of everything in the bundle; empty means flytesnacks and development.
	Project, Domain string
	// Version of everything in the bundle; empty means a hash of its content, so that the same package has the same one.
	Version string
}

// ErrNotFound marks what a bundle does not hold.
var ErrNotFound = errors.New("not found")

// ErrEmpty marks a package without a workflow.
var ErrEmpty = errors.New("holds no workflow")

// Project is the project of everything in the bundle.
func (b *Bundle) Project() string { return b.opts.Project }

// Domain is the domain of everything in the bundle.
func (b *Bundle) Domain() string { return b.opts.Domain }

// Version is the version of everything in the bundle.
func (b *Bundle) Version() string { return b.opts.Version }

// Workflows lists the names of the workflows, sorted.
func (b *Bundle) Workflows() []string {
	if b.compiled != nil {
		return []string{b.compiled.GetPrimary().GetTemplate().GetId().GetName()}
	}
	return slices.Sorted(maps.Keys(b.workflows))
}

// LaunchPlans gives copies of the launch plans by name.
func (b *Bundle) LaunchPlans() map[string]*admin.LaunchPlan {
	out := make(map[string]*admin.LaunchPlan, len(b.launchPlans))
	for name, lp := range b.launchPlans {
		out[name], _ = proto.Clone(lp).(*admin.LaunchPlan)
	}
	return out
}

// Launchable is a workflow that is ready to be started.
type Launchable struct {
	// Plan is what starts it. A workflow without a launch plan of its own gets one with the same name.
	Plan *admin.LaunchPlan
	// Closure is the compiled workflow.
	Closure *core.CompiledWorkflowClosure
}

// Find gives a workflow or launch plan by its name, compiled. A name's last part will do if only one workflow ends so.
// known gives launch plans that are not in the bundle; it may be nil.
func (b *Bundle) Find(name string, known func(*core.Identifier) *admin.LaunchPlan) (*Launchable, error) {
	full, err := b.complete(name)
	if err != nil {
		return nil, err
	}
	lp := b.launchPlans[full]
	if lp == nil {
		lp = b.planFor(full)
	}
	closure, err := b.Compile(lp.GetSpec().GetWorkflowId().GetName(), known)
	if err != nil {
		return nil, err
	}
	lp, _ = proto.Clone(lp).(*admin.LaunchPlan)
	return &Launchable{Plan: lp, Closure: closure}, nil
}

// complete finds the full name that is meant.
func (b *Bundle) complete(name string) (string, error) {
	names := b.Workflows()
	for _, n := range slices.Sorted(maps.Keys(b.launchPlans)) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if slices.Contains(names, name) {
		return name, nil
	}
	var ends []string
	for _, n := range names {
		if strings.HasSuffix(n, "."+name) {
			ends = append(ends, n)
		}
	}
	switch {
	case len(ends) == 1:
		return ends[0], nil
	case len(ends) > 1:
		return "", fmt.Errorf("workflow %q could be %s: give the whole name", name, strings.Join(ends, " or "))
	case len(names) == 0:
		return "", fmt.Errorf("workflow %q: %w: the package holds no workflow", name, ErrNotFound)
	}
	return "", fmt.Errorf("workflow %q: %w; the package holds %s", name, ErrNotFound, strings.Join(names, ", "))
}

// planFor makes the launch plan that flyteadmin makes for a workflow that has none: without fixed values or defaults.
func (b *Bundle) planFor(workflow string) *admin.LaunchPlan {
	wf := b.template(workflow)
	id, _ := proto.Clone(wf.GetId()).(*core.Identifier)
	id.ResourceType = core.ResourceType_LAUNCH_PLAN
	lp := &admin.LaunchPlan{Id: id, Spec: &admin.LaunchPlanSpec{WorkflowId: wf.GetId()}}
	complement(lp, wf.GetInterface())
	return lp
}

func (b *Bundle) template(workflow string) *core.WorkflowTemplate {
	if b.compiled != nil {
		return b.compiled.GetPrimary().GetTemplate()
	}
	return b.workflows[workflow].GetTemplate()
}

// complement fills in what flytekit leaves empty and flyteadmin fills in at registration: which inputs the launch plan still
// expects, and which outputs it gives.
func complement(lp *admin.LaunchPlan, iface *core.TypedInterface) {
	expected := map[string]*core.Parameter{}
	for name, v := range iface.GetInputs().GetVariables() {
		if _, fixed := lp.GetSpec().GetFixedInputs().GetLiterals()[name]; fixed {
			continue
		}
		if p, ok := lp.GetSpec().GetDefaultInputs().GetParameters()[name]; ok {
			p, _ = proto.Clone(p).(*core.Parameter)
			if p.Var == nil {
				p.Var = v
			}
			expected[name] = p
			continue
		}
		expected[name] = &core.Parameter{Var: v, Behavior: &core.Parameter_Required{Required: true}}
	}
	lp.Closure = &admin.LaunchPlanClosure{
		ExpectedInputs:  &core.ParameterMap{Parameters: expected},
		ExpectedOutputs: iface.GetOutputs(),
	}
}

// Compile compiles a workflow with all that it needs, as flyteadmin does at registration. known gives launch plans that are
// not in the bundle; it may be nil.
func (b *Bundle) Compile(workflow string, known func(*core.Identifier) *admin.LaunchPlan) (*core.CompiledWorkflowClosure, error) {
	if b.compiled != nil {
		out, _ := proto.Clone(b.compiled).(*core.CompiledWorkflowClosure)
		return out, nil
	}
	spec, ok := b.workflows[workflow]
	if !ok {
		return nil, fmt.Errorf("workflow %q: %w; the package holds %s", workflow, ErrNotFound, strings.Join(b.Workflows(), ", "))
	}
	spec, _ = proto.Clone(spec).(*admin.WorkflowSpec)
	needs, err := compiler.GetRequirements(spec.GetTemplate(), spec.GetSubWorkflows())
	if err != nil {
		return nil, fmt.Errorf("workflow %q does not compile: %w", workflow, err)
	}
	tasks := make([]*core.CompiledTask, 0, len(needs.GetRequiredTaskIds()))
	for _, id := range needs.GetRequiredTaskIds() {
		name := id.GetName()
		tmpl, ok := b.tasks[name]
		if !ok {
			return nil, fmt.Errorf("workflow %q needs task %q, which the package does not hold", workflow, name)
		}
		tmpl, _ = proto.Clone(tmpl).(*core.TaskTemplate)
		compiled, err := compiler.CompileTask(tmpl)
		if err != nil {
			return nil, fmt.Errorf("task %q of workflow %q does not compile: %w", name, workflow, err)
		}
		tasks = append(tasks, compiled)
	}
	var plans []common.InterfaceProvider
	for _, ref := range needs.GetRequiredLaunchPlanIds() {
		lp, err := b.launchPlan(ref, known)
		if err != nil {
			return nil, fmt.Errorf("workflow %q needs %w", workflow, err)
		}
		plans = append(plans, compiler.NewLaunchPlanInterfaceProvider(lp))
	}
	closure, err := compiler.CompileWorkflow(spec.GetTemplate(), spec.GetSubWorkflows(), tasks, plans)
	if err != nil {
		return nil, fmt.Errorf("workflow %q does not compile: %w", workflow, err)
	}
	return closure, nil
}

func (b *Bundle) launchPlan(id *core.Identifier, known func(*core.Identifier) *admin.LaunchPlan) (*admin.LaunchPlan, error) {
	if lp, ok := b.launchPlans[id.GetName()]; ok && proto.Equal(lp.GetId(), id) {
		return lp, nil
	}
	if known != nil {
		if lp := known(id); lp != nil {
			return lp, nil
		}
	}
	return nil, fmt.Errorf("launch plan %q, version %q, of project %q and domain %q, which is not in the package: a workflow that is registered elsewhere cannot be launched from here",
		id.GetName(), id.GetVersion(), id.GetProject(), id.GetDomain())
}

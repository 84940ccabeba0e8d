package engine

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/subworkflow/launchplan"
	stderrors "github.com/flyteorg/flyte/flytestdlib/errors"
)

const (
	kindLaunchPlan = "launchplans"
	kindClosure    = "closures"
)

// launchPlans stands for flyteadmin, as far as workflows that launch workflows are concerned: it knows the launch plans of
// all bundles that were submitted from, and starts child executions. The real one is asked over gRPC and polled, and knows
// what was registered elsewhere; here a parent is woken as soon as its child has ended.
type launchPlans struct {
	records *records
	e       *Engine
}

var _ launchplan.FlyteAdmin = launchPlans{}

func idKey(id *core.Identifier) string {
	return fmt.Sprintf("%s/%s/%s/%s", id.GetProject(), id.GetDomain(), id.GetName(), id.GetVersion())
}

// known gives a registered launch plan, or nil.
func (p launchPlans) known(id *core.Identifier) *admin.LaunchPlan {
	data, ok := p.records.get(kindLaunchPlan, idKey(id))
	lp := &admin.LaunchPlan{}
	if !ok || proto.Unmarshal(data, lp) != nil {
		return nil
	}
	return lp
}

// closure gives a registered workflow, compiled.
func (p launchPlans) closure(key string) (*core.CompiledWorkflowClosure, error) {
	data, ok := p.records.get(kindClosure, key)
	if !ok {
		return nil, fmt.Errorf("workflow %s is not registered", key)
	}
	closure := &core.CompiledWorkflowClosure{}
	if err := proto.Unmarshal(data, closure); err != nil {
		return nil, fmt.Errorf("workflow %s cannot be read: %w", key, err)
	}
	return closure, nil
}

// register makes a bundle's launch plans known. One that does not compile is left out: it may not be wanted.
func (p launchPlans) register(b *bundle.Bundle) error {
	for _, lp := range b.LaunchPlans() {
		if _, done := p.records.get(kindLaunchPlan, idKey(lp.GetId())); done {
			continue
		}
		closure, err := b.Compile(lp.GetSpec().GetWorkflowId().GetName(), p.known)
		if err != nil {
			continue
		}
		if err := p.e.keepClosure(closure); err != nil {
			return err
		}
		data, err := proto.Marshal(lp)
		if err != nil {
			return err
		}
		if err := p.records.put(kindLaunchPlan, idKey(lp.GetId()), data); err != nil {
			return err
		}
	}
	return nil
}

// keepClosure keeps a compiled workflow, for child executions and for whoever looks at an execution.
func (e *Engine) keepClosure(closure *core.CompiledWorkflowClosure) error {
	key := idKey(closure.GetPrimary().GetTemplate().GetId())
	if _, done := e.records.get(kindClosure, key); done {
		return nil
	}
	data, err := proto.Marshal(closure)
	if err != nil {
		return err
	}
	return e.records.put(kindClosure, key, data)
}

// Initialize is part of launchplan.Executor.
func (launchPlans) Initialize(context.Context) error { return nil }

// GetLaunchPlan is part of launchplan.Reader.
func (p launchPlans) GetLaunchPlan(_ context.Context, id *core.Identifier) (*admin.LaunchPlan, error) {
	if lp := p.known(id); lp != nil {
		return lp, nil
	}
	return nil, stderrors.Errorf(launchplan.RemoteErrorNotFound, "launch plan %s is in no package that was submitted from", idKey(id))
}

// Launch starts a child execution. A repeated call finds the first one's.
func (p launchPlans) Launch(_ context.Context, lc launchplan.LaunchContext, id *core.WorkflowExecutionIdentifier, ref *core.Identifier, inputs *core.LiteralMap, parent v1alpha1.WorkflowID) error {
	plan := p.known(ref)
	if plan == nil {
		return stderrors.Errorf(launchplan.RemoteErrorUser, "launch plan %s is in no package that was submitted from", idKey(ref))
	}
	closure, err := p.closure(idKey(plan.GetSpec().GetWorkflowId()))
	if err != nil {
		return stderrors.Wrapf(launchplan.RemoteErrorSystem, err, "cannot launch %s", ref.GetName())
	}
	resolved, err := resolveInputs(plan, inputs.GetLiterals())
	if err != nil {
		return stderrors.Wrapf(launchplan.RemoteErrorUser, err, "cannot launch %s", ref.GetName())
	}
	// flyteadmin starts it in the parent's project and domain.
	plan.Id.Project, plan.Id.Domain = id.GetProject(), id.GetDomain()
	_, created, err := p.e.start(plan, closure, resolved, Submission{
		Name: id.GetName(), Labels: lc.Labels, Annotations: lc.Annotations, Env: lc.EnvironmentVariables,
		MaxParallelism: lc.MaxParallelism, OverwriteCache: lc.OverwriteCache, Interruptible: lc.Interruptible,
	}, &child{parent: parent, security: &lc.SecurityContext, raw: lc.RawOutputDataConfig})
	switch {
	case errors.As(err, new(*BadInputError)):
		return stderrors.Wrapf(launchplan.RemoteErrorUser, err, "cannot launch %s", ref.GetName())
	case err != nil:
		return stderrors.Wrapf(launchplan.RemoteErrorSystem, err, "cannot launch %s", ref.GetName())
	case !created:
		return stderrors.Errorf(launchplan.RemoteErrorAlreadyExists, "execution %s exists", id.GetName())
	}
	return nil
}

// GetStatus is part of launchplan.Executor.
func (p launchPlans) GetStatus(ctx context.Context, id *core.WorkflowExecutionIdentifier) (*admin.ExecutionClosure, *core.LiteralMap, error) {
	x, ok := p.e.Execution(id)
	if !ok {
		return nil, nil, stderrors.Errorf(launchplan.RemoteErrorNotFound, "there is no execution %s", id.GetName())
	}
	out, err := x.outcome(ctx)
	if err != nil {
		return nil, nil, stderrors.Wrapf(launchplan.RemoteErrorSystem, err, "cannot look at execution %s", id.GetName())
	}
	closure := &admin.ExecutionClosure{Phase: out.Phase}
	if out.Error != nil {
		closure.OutputResult = &admin.ExecutionClosure_Error{Error: out.Error}
	}
	return closure, out.Outputs, nil
}

// Kill aborts a child execution, and waits for nothing. It may be repeated.
func (p launchPlans) Kill(_ context.Context, id *core.WorkflowExecutionIdentifier, reason string) error {
	x, ok := p.e.Execution(id)
	if !ok {
		return nil // it was never launched
	}
	return p.e.abort(x.key, reason)
}

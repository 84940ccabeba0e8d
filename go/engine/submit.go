package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"regexp"
	"time"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler/transformers/k8s"
)

// Submission is what a user says of one execution. The zero value works for a workflow without inputs.
type Submission struct {
	// Name of the execution, unique in its project and domain; empty has one made.
	Name string
	// Inputs by name. What is missing comes from the launch plan.
	Inputs map[string]*core.Literal
	// Labels, Annotations and Env reach every task.
	Labels, Annotations, Env map[string]string
	// MaxParallelism bounds the nodes that run at once; 0 means flyteadmin's default, 25.
	MaxParallelism uint32
	// OverwriteCache runs cached tasks again and keeps their new outputs.
	OverwriteCache bool
	// Interruptible overrides what the workflow says.
	Interruptible *bool
	// Timeout aborts the execution after that long; 0 means never. Propeller has none of its own for a whole workflow.
	Timeout time.Duration
}

// defaultParallelism is flyteadmin's maxParallelism.
const defaultParallelism = 25

// executionName is what flyteadmin takes; the length is Kubernetes'.
var executionName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// namespaceOf is flyteadmin's default namespace mapping.
func namespaceOf(project, domain string) string { return project + "-" + domain }

// Submit starts a workflow or launch plan of the bundle, by its name, or refuses before anything runs: with a BadInputError
// for what the caller can set right, or a RefusedError for what this engine cannot run. The execution goes on when ctx ends.
func (e *Engine) Submit(ctx context.Context, b *bundle.Bundle, workflow string, s Submission) (*Execution, error) {
	if e.ctx.Err() != nil {
		return nil, ErrClosed
	}
	l, err := b.Find(workflow, e.plans.known)
	if err != nil {
		return nil, &BadInputError{err.Error()}
	}
	inputs, err := resolveInputs(l.Plan, s.Inputs)
	if err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = newName()
	}
	if !executionName.MatchString(s.Name) {
		return nil, badInput("execution name %q will not do: at most 63 lower-case letters, digits and dashes, beginning with a letter", s.Name)
	}
	if err := e.plans.register(b); err != nil {
		return nil, err
	}
	if err := e.check(ctx, l.Closure); err != nil {
		return nil, err
	}
	x, created, err := e.start(l.Plan, l.Closure, inputs, s, nil)
	if err == nil && !created {
		return nil, badInput("there is an execution %q of project %q and domain %q already", s.Name, b.Project(), b.Domain())
	}
	return x, err
}

// newName is made as flyteadmin makes names: a letter and 19 characters of which no two executions have the same.
func newName() string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyz"
	b := make([]byte, 19)
	_, _ = rand.Read(b) // it does not fail
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return "a" + string(b)
}

// child is what only an execution that a workflow started has.
type child struct {
	parent   string // the key of the workflow to wake at the end
	security *core.SecurityContext
	raw      *admin.RawOutputDataConfig
}

// start makes the FlyteWorkflow resource, as flyteadmin does, and hands it to propeller; false says that there is one of
// this name already.
func (e *Engine) start(plan *admin.LaunchPlan, closure *core.CompiledWorkflowClosure, inputs *core.LiteralMap, s Submission, c *child) (*Execution, bool, error) {
	id := &core.WorkflowExecutionIdentifier{Project: plan.GetId().GetProject(), Domain: plan.GetId().GetDomain(), Name: s.Name}
	namespace := namespaceOf(id.GetProject(), id.GetDomain())
	kept, _ := proto.Clone(closure).(*core.CompiledWorkflowClosure)
	wf, err := k8s.BuildFlyteWorkflow(closure, inputs, id, namespace)
	if err != nil {
		return nil, false, badInput("workflow %s cannot be run with these inputs: %v", plan.GetId().GetName(), err)
	}
	now := metav1.NewTime(time.Now())
	wf.ExecutionID = v1alpha1.ExecutionID{WorkflowExecutionIdentifier: id}
	wf.UID, wf.CreationTimestamp, wf.AcceptedAt = uuid.NewUUID(), now, &now
	wf.WorkflowMeta = &v1alpha1.WorkflowMeta{EventVersion: v1alpha1.EventVersion2}
	maps.Copy(wf.Labels, s.Labels)
	wf.Annotations = maps.Clone(s.Annotations)
	raw, security := &admin.RawOutputDataConfig{}, &core.SecurityContext{RunAs: &core.Identity{K8SServiceAccount: "default"}}
	rec := executionRecord{Workflow: idKey(closure.GetPrimary().GetTemplate().GetId())}
	if c != nil {
		rec.Parent = c.parent
		raw, security = c.raw, c.security
	}
	if s.Timeout > 0 {
		rec.Timeout, rec.Deadline = s.Timeout, now.Add(s.Timeout)
	}
	if raw.GetOutputLocationPrefix() == "" {
		raw = &admin.RawOutputDataConfig{OutputLocationPrefix: cmp.Or(plan.GetSpec().GetRawOutputDataConfig().GetOutputLocationPrefix(), e.rawPrefix)}
	}
	wf.RawOutputDataConfig = v1alpha1.RawOutputDataConfig{RawOutputDataConfig: raw}
	wf.SecurityContext = *security
	wf.ExecutionConfig = v1alpha1.ExecutionConfig{
		MaxParallelism: cmp.Or(s.MaxParallelism, uint32(max(plan.GetSpec().GetMaxParallelism(), 0)), defaultParallelism),
		Interruptible:  s.Interruptible, OverwriteCache: s.OverwriteCache, EnvironmentVariables: s.Env,
	}
	if err := e.keepClosure(kept); err != nil {
		return nil, false, err
	}
	x := newExecution(e, id)
	// Known before propeller can see it, or its end could come before anybody waits.
	if other, there := e.executions.LoadOrStore(x.key, x); there {
		x, _ := other.(*Execution)
		return x, false, nil
	}
	err = e.keepRecord(x.key, rec)
	if err == nil { // a workflow without a record could not be resumed
		err = e.workflows.create(wf)
	}
	if err != nil {
		e.executions.Delete(x.key)
		return nil, false, err
	}
	e.begin(x.key, rec)
	return x, true, nil
}

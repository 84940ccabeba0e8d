package taskrunner

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/io"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/ioutils"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	propellerconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/config"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/executors"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/common"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/handler"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/interfaces"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// describe makes the workflow and the node that propeller thinks the task belongs to.
func (run *Run) describe() error {
	id := &core.WorkflowExecutionIdentifier{Project: run.task.Project, Domain: run.task.Domain, Name: run.task.Execution}
	run.wf = &v1alpha1.FlyteWorkflow{
		ObjectMeta:   metav1.ObjectMeta{Namespace: run.namespace(), Name: run.task.Execution},
		WorkflowSpec: &v1alpha1.WorkflowSpec{ID: "taskrunner"},
		ExecutionID:  v1alpha1.ExecutionID{WorkflowExecutionIdentifier: id},
		WorkflowMeta: &v1alpha1.WorkflowMeta{EventVersion: v1alpha1.EventVersion2},
		ExecutionConfig: v1alpha1.ExecutionConfig{
			EnvironmentVariables: run.environment(),
		},
	}
	nodeID := run.task.Node
	if run.task.Item != nil {
		parent, err := common.CreateParentInfo(nil, run.task.Node, 0, false)
		if err != nil {
			return fmt.Errorf("cannot name the map of the sub-task: %w", err)
		}
		run.parent, nodeID = parent, fmt.Sprintf("n%d", *run.task.Item)
	}
	taskID := "task"
	run.node = &v1alpha1.NodeSpec{
		ID: nodeID, Kind: v1alpha1.NodeKindTask, TaskRef: &taskID,
		Resources: &v1.ResourceRequirements{}, // propeller's compiler never leaves it out
	}
	attempts := int(run.task.Template.GetMetadata().GetRetries().GetRetries()) + 1
	run.node.RetryStrategy = &v1alpha1.RetryStrategy{MinAttempts: &attempts}
	return nil
}

// nodeContext is one round's view of the node.
type nodeContext struct {
	run    *Run
	inputs io.InputReader
	status *v1alpha1.NodeStatus
	exec   executors.ExecutionContext
	// next is the state that propeller recorded in this round.
	next *handler.TaskNodeState
}

var _ interfaces.NodeExecutionContext = (*nodeContext)(nil)

func (run *Run) nodeContext(ctx context.Context) *nodeContext {
	store := run.r.store
	return &nodeContext{
		run:    run,
		inputs: ioutils.NewCachedInputReader(ctx, ioutils.NewRemoteFileInputReader(ctx, store, ioutils.NewInputFilePaths(ctx, store, run.dataDir()))),
		status: &v1alpha1.NodeStatus{DataDir: run.dataDir(), OutputDir: run.outputDir(), Attempts: run.attempt},
		exec:   executors.NewExecutionContext(run.wf, nil, nil, run.parent, executors.InitializeControlFlow()),
	}
}

func (n *nodeContext) RawOutputPrefix() storage.DataReference { return n.run.rawPrefix() }
func (n *nodeContext) OutputShardSelector() ioutils.ShardSelector {
	return ioutils.NewConstantShardSelector([]string{"x"})
}
func (n *nodeContext) DataStore() *storage.DataStore            { return n.run.r.store }
func (n *nodeContext) InputReader() io.InputReader              { return n.inputs }
func (n *nodeContext) EventsRecorder() interfaces.EventRecorder { return recorder{n.run} }
func (n *nodeContext) NodeID() v1alpha1.NodeID                  { return n.run.node.ID }
func (n *nodeContext) Node() v1alpha1.ExecutableNode            { return n.run.node }
func (n *nodeContext) CurrentAttempt() uint32                   { return n.run.attempt }
func (n *nodeContext) TaskReader() interfaces.TaskReader        { return reader{n.run.task.Template} }
func (n *nodeContext) NodeStateReader() interfaces.NodeStateReader {
	return stateReader{state: n.run.state}
}
func (n *nodeContext) NodeStateWriter() interfaces.NodeStateWriter { return stateWriter{n: n} }
func (n *nodeContext) NodeExecutionMetadata() interfaces.NodeExecutionMetadata {
	return metadata{n.run}
}
func (n *nodeContext) EnqueueOwnerFunc() func() error {
	return func() error {
		setup{r: n.run.r}.EnqueueOwner()(n.run.ownerID())
		return nil
	}
}
func (n *nodeContext) ContextualNodeLookup() executors.NodeLookup   { return nil }
func (n *nodeContext) ExecutionContext() executors.ExecutionContext { return n.exec }
func (n *nodeContext) NodeStatus() v1alpha1.ExecutableNodeStatus    { return n.status }

// reader gives the template as it is in the workflow's resource.
type reader struct{ t *core.TaskTemplate }

func (r reader) Read(context.Context) (*core.TaskTemplate, error) { return r.t, nil }
func (r reader) GetTaskType() v1alpha1.TaskType                   { return r.t.GetType() }
func (r reader) GetTaskID() *core.Identifier                      { return r.t.GetId() }

// The embedded interfaces are nil: a task handler asks for a task's state only.

type stateReader struct {
	interfaces.NodeStateReader
	state handler.TaskNodeState
}

func (s stateReader) HasTaskNodeState() bool                  { return true }
func (s stateReader) GetTaskNodeState() handler.TaskNodeState { return s.state }

type stateWriter struct {
	interfaces.NodeStateWriter
	n *nodeContext
}

func (s stateWriter) PutTaskNodeState(state handler.TaskNodeState) error {
	s.n.next = &state
	return nil
}

type recorder struct{ run *Run }

func (r recorder) RecordTaskEvent(ctx context.Context, e *event.TaskExecutionEvent, cfg *propellerconfig.EventConfig) error {
	if err := r.run.r.events.RecordTaskEvent(ctx, e, cfg); err != nil {
		return err
	}
	r.run.record(e)
	return nil
}

func (recorder) RecordNodeEvent(context.Context, *event.NodeExecutionEvent, *propellerconfig.EventConfig) error {
	return nil
}

type metadata struct{ run *Run }

func (m metadata) GetOwnerID() types.NamespacedName {
	return types.NamespacedName{Namespace: m.run.namespace(), Name: m.run.task.Execution}
}

func (m metadata) GetNodeExecutionID() *core.NodeExecutionIdentifier {
	return &core.NodeExecutionIdentifier{NodeId: m.run.node.ID, ExecutionId: m.run.wf.ExecutionID.WorkflowExecutionIdentifier}
}
func (m metadata) GetNamespace() string { return m.run.namespace() }
func (m metadata) GetOwnerReference() metav1.OwnerReference {
	return metav1.OwnerReference{Name: m.run.task.Execution}
}
func (m metadata) GetLabels() map[string]string      { return m.run.task.Labels }
func (m metadata) GetAnnotations() map[string]string { return m.run.task.Annotations }
func (m metadata) GetK8sServiceAccount() string      { return m.run.task.Identity.GetK8SServiceAccount() }
func (m metadata) GetSecurityContext() core.SecurityContext {
	return core.SecurityContext{RunAs: m.run.task.Identity}
}
func (metadata) IsInterruptible() bool                   { return false }
func (metadata) GetInterruptibleFailureThreshold() int32 { return -1 }
func (metadata) GetConsoleURL() string                   { return "" }

package backend

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core/template"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/flytek8s"
	"github.com/flyteorg/flyte/flytestdlib/storage"
	"github.com/flyteorg/flyte/flytestdlib/utils"
)

// newCreateRequest gathers everything that a service is told. It reads the template and the inputs from the data store.
func newCreateRequest(ctx context.Context, h *handling) (*client.CreateRequest, error) {
	tCtx := h.tCtx
	tmpl, err := tCtx.TaskReader().Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the task template: %w", err)
	}
	inputs, err := tCtx.InputReader().Get(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the task's inputs: %w", err)
	}
	// Propeller hands out its own copy, which later rounds read again.
	tmpl, _ = proto.Clone(tmpl).(*core.TaskTemplate)
	if tmpl.GetId() == nil {
		id := tCtx.TaskExecutionMetadata().GetTaskExecutionID().GetID()
		tmpl.Id = id.GetTaskId()
	}
	if err := render(ctx, tCtx, tmpl); err != nil {
		return nil, &client.Error{
			Op: config.CallCreate, Deployment: h.env.Deployment, Endpoint: "not called", Code: codes.InvalidArgument,
			Class: client.UserError, Message: fmt.Sprintf("the task template cannot be rendered: %v", err),
		}
	}
	return &client.CreateRequest{
		Target: client.Target{
			TaskType: tmpl.GetType(), TaskTypeVersion: tmpl.GetTaskTypeVersion(), PluginVersion: h.env.PluginVersion,
		},
		IdempotencyKey: h.task.key,
		Template:       tmpl,
		Inputs:         inputs,
		OutputPrefix:   tCtx.OutputWriter().GetOutputPrefixPath().String(),
		Metadata:       metadataOf(tCtx.TaskExecutionMetadata()),
	}, nil
}

// render fills in what propeller fills in for its own plugins: the placeholders of a container's arguments, or the
// defaults of a pod.
func render(ctx context.Context, tCtx pluginscore.TaskExecutionContext, tmpl *core.TaskTemplate) error {
	switch {
	case tmpl.GetContainer() != nil:
		args, err := template.Render(ctx, tmpl.GetContainer().GetArgs(), template.Parameters{
			TaskExecMetadata: tCtx.TaskExecutionMetadata(),
			Inputs:           tCtx.InputReader(),
			OutputPath:       tCtx.OutputWriter(),
			Task:             tCtx.TaskReader(),
		})
		if err != nil {
			return err
		}
		tmpl.GetContainer().Args = args
	case tmpl.GetK8SPod() != nil:
		spec, _, _, err := flytek8s.ToK8sPodSpec(ctx, tCtx)
		if err != nil {
			return err
		}
		asStruct, err := utils.MarshalObjToStruct(spec)
		if err != nil {
			return err
		}
		tmpl.GetK8SPod().PodSpec = asStruct
	}
	return nil
}

// metadataOf copies what it gets: a call goes on beside propeller's worker, which changes the node's id for its events.
func metadataOf(m pluginscore.TaskExecutionMetadata) client.Metadata {
	id := m.GetTaskExecutionID().GetID()
	nodeID, _ := proto.Clone(id.GetNodeExecutionId()).(*core.NodeExecutionIdentifier)
	security := m.GetSecurityContext()
	return client.Metadata{
		TaskExecutionID: &core.TaskExecutionIdentifier{
			TaskId: id.GetTaskId(), NodeExecutionId: nodeID, RetryAttempt: id.GetRetryAttempt(),
		},
		Namespace:                     m.GetNamespace(),
		Labels:                        m.GetLabels(),
		Annotations:                   m.GetAnnotations(),
		K8sServiceAccount:             m.GetK8sServiceAccount(),
		EnvironmentVariables:          m.GetEnvironmentVariables(),
		Identity:                      security.GetRunAs(),
		MaxAttempts:                   int32(min(m.GetMaxAttempts(), 1<<30)),
		Interruptible:                 m.IsInterruptible(),
		InterruptibleFailureThreshold: m.GetInterruptibleFailureThreshold(),
		Overrides:                     overridesOf(m.GetOverrides()),
		MaxDatasetSizeBytes:           storage.GetConfig().Limits.GetLimitMegabytes << 20,
	}
}

// overridesOf gives what with_overrides() set on the node, in flyteidl's form; nil when nothing is set.
func overridesOf(o pluginscore.TaskOverrides) *core.TaskNodeOverrides {
	if o == nil {
		return nil
	}
	out := &core.TaskNodeOverrides{
		ContainerImage:    o.GetContainerImage(),
		ExtendedResources: o.GetExtendedResources(),
		PodTemplate:       o.GetPodTemplate(),
	}
	if res := o.GetResources(); res != nil {
		out.Resources = &core.Resources{Requests: resourceEntries(res.Requests), Limits: resourceEntries(res.Limits)}
	}
	if proto.Size(out) == 0 {
		return nil
	}
	return out
}

// asCallError turns any failure to create into a classified one. What did not come from a call came from the data store
// or from propeller, and another round may go better.
func asCallError(err error) *client.Error {
	if e := (*client.Error)(nil); errors.As(err, &e) {
		return e
	}
	return &client.Error{
		Op: config.CallCreate, Endpoint: "not called", Code: codes.Unavailable, Class: client.RetryLater, Message: err.Error(),
	}
}

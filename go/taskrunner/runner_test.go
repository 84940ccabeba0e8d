package taskrunner_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"

	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
)

// The runner drives propeller's own plugins; ours is tested with it in its own package.

func TestMain(m *testing.M) {
	taskconfig.GetConfig().TaskPlugins.EnabledPlugins = []string{"container", "echo"}
	m.Run()
}

func echo() taskrunner.Task {
	ints := &core.VariableMap{Variables: map[string]*core.Variable{
		"n": {Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}},
	}}
	return taskrunner.Task{
		Template: &core.TaskTemplate{
			Id:   &core.Identifier{ResourceType: core.ResourceType_TASK, Name: "echo"},
			Type: "echo", Interface: &core.TypedInterface{Inputs: ints, Outputs: ints},
		},
		Inputs: &core.LiteralMap{Literals: map[string]*core.Literal{"n": {Value: &core.Literal_Scalar{Scalar: &core.Scalar{
			Value: &core.Scalar_Primitive{Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: 3}}},
		}}}}},
	}
}

func container() taskrunner.Task {
	return taskrunner.Task{Execution: "pod", Template: &core.TaskTemplate{
		Id: &core.Identifier{ResourceType: core.ResourceType_TASK, Name: "c"}, Type: "container",
		Target: &core.TaskTemplate_Container{Container: &core.Container{Image: "img", Resources: &core.Resources{}}},
	}}
}

func TestRunsABuiltInPlugin(t *testing.T) {
	r, err := taskrunner.New(t.Context(), taskrunner.Options{})
	require.NoError(t, err)
	run, err := r.Start(t.Context(), echo())
	require.NoError(t, err)
	out, err := run.Wait(t.Context())
	require.NoError(t, err)
	require.True(t, out.Succeeded)
	require.Equal(t, 1, out.Attempts)
	require.True(t, proto.Equal(echo().Inputs, out.Outputs))
	require.Equal(t, pluginscore.PhaseSuccess, run.State().PluginPhase)
	require.Positive(t, run.Rounds())
	require.Equal(t, "echo", run.Events()[0].GetMetadata().GetPluginIdentifier())
}

// TestPodsStay: there is no cluster, so a pod is made and nothing comes of it until it is aborted.
func TestPodsStay(t *testing.T) {
	r, err := taskrunner.New(t.Context(), taskrunner.Options{Reevaluate: 10 * time.Millisecond})
	require.NoError(t, err)
	run, err := r.Start(t.Context(), container())
	require.NoError(t, err)
	_, err = run.Until(t.Context(), pluginscore.PhaseQueued)
	require.NoError(t, err)
	var pods v1.PodList
	require.NoError(t, r.Kube().List(t.Context(), &pods))
	require.Len(t, pods.Items, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = run.Wait(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "task pod is still in phase")
	require.NoError(t, run.Abort(t.Context(), "enough"))
	require.NoError(t, r.Kube().List(t.Context(), &pods))
	require.Empty(t, pods.Items)
}

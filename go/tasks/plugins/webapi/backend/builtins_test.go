package backend

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core/mocks"
)

// TestNoPlugin: without a default plugin the error says what is missing.
func TestNoPlugin(t *testing.T) {
	t.Parallel()
	b := &builtIns{fallback: &builtIn{noPlugin{}, "none"}}
	tr := &mocks.TaskReader{}
	tr.EXPECT().Read(t.Context()).Return(&core.TaskTemplate{Type: "lonely"}, nil)
	tCtx := &mocks.TaskExecutionContext{}
	tCtx.EXPECT().TaskReader().Return(tr)
	p := b.forType("lonely")
	_, err := p.Handle(t.Context(), tCtx)
	require.ErrorIs(t, err, errNoPlugin)
	require.ErrorContains(t, err, `"lonely"`)
	require.NoError(t, p.Abort(t.Context(), tCtx))
	require.NoError(t, p.Finalize(t.Context(), tCtx))
	require.False(t, b.serves("lonely"))
	require.Equal(t, "none", p.GetID())
}

// TestShortNames: a plugin that needs short names gets them, although propeller asked us for the length.
func TestShortNames(t *testing.T) {
	t.Parallel()
	length := 20
	p := &builtIn{shortNamed{length: &length}, "ray"}
	tid := &mocks.TaskExecutionID{}
	tid.EXPECT().GetID().Return(core.TaskExecutionIdentifier{RetryAttempt: 2})
	tid.EXPECT().GetUniqueNodeID().Return("a-node-with-a-long-name")
	meta := &mocks.TaskExecutionMetadata{}
	meta.EXPECT().GetTaskExecutionID().Return(tid)
	meta.EXPECT().GetOwnerID().Return(types.NamespacedName{Namespace: "ns", Name: "an-execution-with-a-long-name"})
	tCtx := &mocks.TaskExecutionContext{}
	tCtx.EXPECT().TaskExecutionMetadata().Return(meta)
	name := p.context(tCtx, false).TaskExecutionMetadata().GetTaskExecutionID().GetGeneratedName()
	require.LessOrEqual(t, len(name), length)
	require.NotEmpty(t, name)
}

type shortNamed struct {
	noPlugin
	length *int
}

func (s shortNamed) GetProperties() pluginscore.PluginProperties {
	return pluginscore.PluginProperties{GeneratedNameMaxLength: s.length}
}

package backend_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	coremocks "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core/mocks"
	"github.com/flyteorg/flyte/flyteplugins/tests"
	executormocks "github.com/flyteorg/flyte/flytepropeller/pkg/controller/executors/mocks"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
)

// TestUpstreamEndToEnd is the test that flyteplugins gives to authors of plugins. It makes a data store, and flytestdlib
// writes to a variable of the process when it does, so this test runs by itself.
func TestUpstreamEndToEnd(t *testing.T) {
	t.Run(overGRPC, testUpstreamEndToEnd)
	t.Run(overREST, testUpstreamEndToEnd)
}

func testUpstreamEndToEnd(t *testing.T) {
	b := startBackend(t, backendtest.Plugin{TaskType: myTask})
	b.Script(backendtest.Step{Resource: running("")}, backendtest.Step{Resource: succeeded(11)})
	newWorld(t, nil, b) // sets the process-wide metric keys, as propeller does
	iCtx := &coremocks.SetupContext{}
	iCtx.EXPECT().EnqueueOwner().Return(func(types.NamespacedName) error { return nil })
	iCtx.EXPECT().MetricsScope().Return(promutils.NewTestScope())
	iCtx.EXPECT().KubeClient().Return(executormocks.NewFakeKubeClient())
	registrar := &coremocks.ResourceRegistrar{}
	registrar.EXPECT().RegisterResourceQuota(mock.Anything, mock.Anything, mock.Anything).Return(nil)
	iCtx.EXPECT().ResourceRegistrar().Return(registrar)
	iCtx.EXPECT().OwnerKind().Return("FlyteWorkflow")
	loading.Lock()
	backend.Configure(baseConfig(b))
	plugin, err := backend.Load(t.Context(), iCtx)
	loading.Unlock()
	require.NoError(t, err)

	tmpl := tests.BuildTaskTemplate()
	tmpl.Type = myTask
	tmpl.Interface = template(myTask).GetInterface()
	info := tests.RunPluginEndToEndTest(t, &withState{Plugin: plugin}, tmpl, outputs(1), outputs(11), nil, nil)
	require.Equal(t, pluginscore.PhaseSuccess, info.Phase())
	require.Len(t, b.Jobs(), 1)
}

// withState keeps plugin state as propeller does: gob-encoded, with its version. The upstream test keeps it as JSON and
// always says version 0.
type withState struct {
	pluginscore.Plugin
	state   []byte
	version atomic.Uint32
}

func (p *withState) Handle(ctx context.Context, tCtx pluginscore.TaskExecutionContext) (pluginscore.Transition, error) {
	return p.Plugin.Handle(ctx, stateContext{tCtx, p})
}

type stateContext struct {
	pluginscore.TaskExecutionContext
	p *withState
}

func (c stateContext) PluginStateReader() pluginscore.PluginStateReader { return c }
func (c stateContext) PluginStateWriter() pluginscore.PluginStateWriter { return c }
func (c stateContext) GetStateVersion() uint8                           { return uint8(c.p.version.Load()) }
func (c stateContext) Get(v any) (uint8, error) {
	if c.p.state == nil {
		return c.GetStateVersion(), nil
	}
	return c.GetStateVersion(), gob.NewDecoder(bytes.NewReader(c.p.state)).Decode(v)
}

func (c stateContext) Put(version uint8, v any) error {
	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(v); err != nil {
		return err
	}
	c.p.state = buf.Bytes()
	c.p.version.Store(uint32(version))
	return nil
}
func (c stateContext) Reset() error { c.p.state = nil; return nil }

package testplugins

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Anything gives a plugin that takes whatever a template, inputs and a job id may be, with every ability: what is refused is
// refused by the SDK. A job's outputs are its inputs, which it keeps in memory, other than a real plugin.
func Anything() *backendplugin.Plugin {
	return backendplugin.New("anything", &anything{inputs: map[string]*core.LiteralMap{}})
}

type anything struct {
	lock   sync.Mutex
	made   int
	inputs map[string]*core.LiteralMap
}

func (a *anything) Create(_ context.Context, r *backendplugin.Request[*core.LiteralMap]) (string, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.made++
	id := fmt.Sprintf("job-%d", a.made)
	a.inputs[id] = r.Inputs
	return id, nil
}

func (a *anything) Get(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[*core.LiteralMap], error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	inputs, known := a.inputs[j.ID]
	if !known {
		return nil, backendplugin.NotFound("there is no job %q", j.ID)
	}
	s := backendplugin.Succeeded(inputs)
	s.LogLinks = []backendplugin.LogLink{{Name: "Log", URI: "https://logs.example/" + j.ID}}
	s.Info = map[string]any{"job": j.ID}
	return s, nil
}

func (a *anything) Delete(_ context.Context, j *backendplugin.Job[string]) error {
	a.lock.Lock()
	defer a.lock.Unlock()
	delete(a.inputs, j.ID)
	return nil
}

func (a *anything) Execute(_ context.Context, r *backendplugin.Request[*core.LiteralMap]) (*backendplugin.Status[*core.LiteralMap], error) {
	return backendplugin.Succeeded(r.Inputs), nil
}

func (a *anything) Logs(_ context.Context, _ *backendplugin.Job[string], q backendplugin.LogQuery) (*backendplugin.LogPage, error) {
	if q.Token != "" {
		return &backendplugin.LogPage{}, nil
	}
	return &backendplugin.LogPage{Lines: []backendplugin.LogLine{{Time: time.Unix(1e9, 0), Message: "it began\n", System: true}}, Next: "1"}, nil
}

func (a *anything) Metrics(_ context.Context, _ *backendplugin.Job[string], q backendplugin.MetricsQuery) ([]backendplugin.Metric, error) {
	var out []backendplugin.Metric
	for _, name := range q.Names {
		out = append(out, backendplugin.Metric{Name: name, Data: map[string]any{"resultType": "matrix", "result": []any{}}})
	}
	return out, nil
}

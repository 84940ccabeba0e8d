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
// refused by the SDK. Every id is a job's until it is deleted; only for that it has a memory, which a real plugin has not.
func Anything() *backendplugin.Plugin {
	return backendplugin.New("anything", &anything{inputs: map[string]*core.LiteralMap{}, deleted: map[string]bool{}})
}

type anything struct {
	lock    sync.Mutex
	made    int
	inputs  map[string]*core.LiteralMap // they are the outputs too
	deleted map[string]bool
}

func (a *anything) Create(_ context.Context, r *backendplugin.Request[*core.LiteralMap]) (string, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.made++
	id := fmt.Sprintf("job-%d", a.made)
	a.inputs[id] = r.Inputs
	return id, nil
}

func (a *anything) find(id string) (*core.LiteralMap, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	if a.deleted[id] {
		return nil, backendplugin.NotFound("job %q was deleted", id)
	}
	return a.inputs[id], nil
}

func (a *anything) Get(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[*core.LiteralMap], error) {
	inputs, err := a.find(j.ID)
	if err != nil {
		return nil, err
	}
	s := backendplugin.Succeeded(inputs)
	s.LogLinks = []backendplugin.LogLink{{Name: "Log", URI: "https://logs.example/" + j.ID}}
	s.Info = map[string]any{"job": j.ID}
	return s, nil
}

func (a *anything) Delete(_ context.Context, j *backendplugin.Job[string]) error {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.deleted[j.ID] = true
	return nil
}

func (a *anything) Execute(_ context.Context, r *backendplugin.Request[*core.LiteralMap]) (*backendplugin.Status[*core.LiteralMap], error) {
	return backendplugin.Succeeded(r.Inputs), nil
}

func (a *anything) Logs(_ context.Context, j *backendplugin.Job[string], q backendplugin.LogQuery) (*backendplugin.LogPage, error) {
	if _, err := a.find(j.ID); err != nil {
		return nil, err
	}
	if q.Token != "" {
		return &backendplugin.LogPage{}, nil
	}
	return &backendplugin.LogPage{Lines: []backendplugin.LogLine{{Time: time.Unix(1e9, 0), Message: "it began\n", System: true}}, Next: "1"}, nil
}

func (a *anything) Metrics(_ context.Context, j *backendplugin.Job[string], q backendplugin.MetricsQuery) ([]backendplugin.Metric, error) {
	if _, err := a.find(j.ID); err != nil {
		return nil, err
	}
	var out []backendplugin.Metric
	for _, name := range q.Names {
		out = append(out, backendplugin.Metric{Name: name, Data: map[string]any{"resultType": "matrix", "result": []any{}}})
	}
	return out, nil
}

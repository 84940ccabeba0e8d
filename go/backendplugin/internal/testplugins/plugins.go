// Package testplugins are plugins for tests, here and under propeller's engine.
package testplugins

import (
	"context"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
)

// All gives them.
func All() backendplugin.Plugins {
	return backendplugin.Plugins{
		backendplugin.New("square", square{}),
		backendplugin.New("square", square{}, backendplugin.WithVersion("v2")),
		backendplugin.NewSync("square_sync", square{}),
		backendplugin.New("rich", rich{}),
	}
}

type (
	// Inputs are the number to square.
	Inputs struct {
		X int64 `flyte:"x"`
	}
	// Outputs are its square.
	Outputs struct {
		O0 int64 `flyte:"o0"`
	}
	job struct {
		X int64
		// Ends is when the job is to end, in milliseconds: a stateless service's way to make it last. 0 is at once, so that such
		// a job is the same one however often it is created.
		Ends int64
	}
)

// square squares x, and refuses numbers that are too large. Its jobs last as long as the task's custom says.
type square struct{}

func (square) Create(_ context.Context, r *backendplugin.Request[Inputs]) (job, error) {
	var custom struct {
		Lasting time.Duration `flyte:"lasting"`
		Reject  string        `flyte:"reject"`
	}
	if err := r.Custom(&custom); err != nil {
		return job{}, err
	}
	if custom.Reject != "" {
		return job{}, backendplugin.UserError("rejected: %s", custom.Reject)
	}
	j := job{X: r.Inputs.X}
	if custom.Lasting > 0 {
		j.Ends = time.Now().Add(custom.Lasting).UnixMilli()
	}
	return j, nil
}

func (square) Get(_ context.Context, j *backendplugin.Job[job]) (*backendplugin.Status[Outputs], error) {
	if time.Now().UnixMilli() < j.ID.Ends {
		return backendplugin.Running[Outputs]("squaring"), nil
	}
	return backendplugin.Succeeded(Outputs{j.ID.X * j.ID.X}), nil
}

func (square) Delete(context.Context, *backendplugin.Job[job]) error { return nil }

func (square) Execute(_ context.Context, r *backendplugin.Request[Inputs]) (*backendplugin.Status[Outputs], error) {
	return backendplugin.Succeeded(Outputs{r.Inputs.X * r.Inputs.X}), nil
}

// Rich are outputs of every simple kind, lists, maps and an optional value.
type Rich struct {
	N  int64            `flyte:"n"`
	F  float64          `flyte:"f"`
	S  string           `flyte:"s"`
	B  bool             `flyte:"b"`
	At time.Time        `flyte:"at"`
	D  time.Duration    `flyte:"d"`
	Xs []int64          `flyte:"xs"`
	M  map[string]int64 `flyte:"m"`
	O  *int64           `flyte:"o"`
}

// rich gives the same outputs for every task.
type rich struct{}

func (rich) Create(context.Context, *backendplugin.Request[backendplugin.None]) (string, error) {
	return "rich", nil
}

func (rich) Get(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[Rich], error) {
	if j.ID != "rich" {
		return nil, backendplugin.NotFound("there is no such job")
	}
	seven := int64(7)
	return backendplugin.Succeeded(Rich{
		1, 0.5, "s", true, time.Unix(1e9, 0), time.Minute, []int64{1, 2}, map[string]int64{"a": 1}, &seven,
	}), nil
}

func (rich) Delete(context.Context, *backendplugin.Job[string]) error { return nil }

// Command square is the smallest useful plugin: its tasks take an integer x and give its square, o0.
package main

import (
	"context"
	"flag"
	"log"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
)

type inputs struct {
	X int64 `flyte:"x"`
}
type outputs struct {
	O0 int64 `flyte:"o0"`
}
type square struct{} // its job id, an int64, is all that is needed to find a job again

func (square) Create(_ context.Context, r *backendplugin.Request[inputs]) (int64, error) {
	if x := r.Inputs.X; x > 1<<31 || x < -1<<31 {
		return 0, backendplugin.UserError("x is %d, whose square is too large", x)
	}
	return r.Inputs.X, nil
}

func (square) Get(_ context.Context, j *backendplugin.Job[int64]) (*backendplugin.Status[outputs], error) {
	return backendplugin.Succeeded(outputs{j.ID * j.ID}), nil
}

func (square) Delete(context.Context, *backendplugin.Job[int64]) error { return nil }

func main() {
	address := flag.String("listen", ":8000", "address to listen on")
	flag.Parse()
	plugins := backendplugin.Plugins{backendplugin.New("square", square{})}
	if err := backendplugin.Serve(context.Background(), plugins, backendplugin.WithAddress(*address), backendplugin.WithPlainText()); err != nil {
		log.Fatal(err)
	}
}

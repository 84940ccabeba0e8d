// Command flyte-backend-engine is the part of flyte-backend that has propeller's engine in it: `flyte-backend local` and
// `flyte-backend demo`. It is a program of its own because of its size; flyte-backend finds it and becomes it.
package main

import (
	"context"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/example"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/local"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), exit.Signals()...)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(exit.Report(os.Stderr, err)) //nolint:gocritic // stop has been called
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "flyte-backend", // what the user has called
		Short:         "Out-of-core plugins for FlytePropeller",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	exit.Usage(root)
	// The demo starts its service from this program.
	root.AddCommand(local.New(), newDemo(), example.New())
	return root
}

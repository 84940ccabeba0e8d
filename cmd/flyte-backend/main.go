// Command flyte-backend serves example backend plugins and shows the backend plugin system at work.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "flyte-backend:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "flyte-backend",
		Short:         "Out-of-core plugins for FlytePropeller",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newServe(), newDemo())
	return root
}

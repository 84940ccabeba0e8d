// Command flyte-backend runs workflows on one machine, serves example backend plugins, and shows the backend plugin system
// at work. What needs propeller's engine is done by flyte-backend-engine, which this one finds.
package main

import (
	"context"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/conformance"
	"github.com/flyte-backend/flyte-backend/cmd/internal/example"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/jobs"
	"github.com/flyte-backend/flyte-backend/cmd/internal/migrate"
	"github.com/flyte-backend/flyte-backend/cmd/internal/version"
	"github.com/flyteorg/flyte/flytestdlib/logger"
)

func main() {
	_ = logger.SetConfig(&logger.Config{Mute: true}) // Flyte's own packages log what commands tell in their own words
	completeElsewhere(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), exit.Signals()...)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(exit.Report(os.Stderr, err)) //nolint:gocritic // stop has been called
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "flyte-backend",
		Short:         "Out-of-core plugins for FlytePropeller",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	exit.Usage(root)
	root.AddCommand(
		example.New(),
		conformance.New(),
		jobs.NewList(),
		jobs.NewRun(),
		jobs.NewGet(),
		jobs.NewDelete(),
		migrate.New(),
		version.New(),
		in("explain", "Say what would handle each task type and why, from propeller's configuration and the live services"),
		in("local", "Run workflows on this machine, with propeller's own engine and without Kubernetes"),
		in("demo", "Run real workflows on propeller's engine against services that are killed and restarted"),
	)
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() } // or a shell that is none would be no error
	}
	return root
}

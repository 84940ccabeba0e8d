// Package example is the command that serves the example plugin.
package example

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/examples/sqlite"
)

// Listening begins the line that serve prints when calls are answered; the address follows.
const Listening = "listening on "

// New makes the command `serve`.
func New() *cobra.Command {
	var listen, restAddress, dir, localStore string
	var minJobTime time.Duration
	var workers int
	var plain bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the example plugin: task type sqlite, over gRPC and REST",
		Long: "Serves flytekit's SQLite3Task: SQL on an embedded table (uri embedded:elements), a local file or a download,\n" +
			"with the result written as Parquet. Jobs are kept in a folder, so that a service that was killed goes on with them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !plain {
				return exit.BadInputf("this example speaks plain text only; say so with --insecure")
			}
			if dir == "" {
				return exit.BadInputf("--dir is missing: name a folder for the jobs")
			}
			lis, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return exit.BadInputf("cannot listen at %s: %w", listen, err)
			}
			s, err := sqlite.New(sqlite.Options{
				Dir: dir, LocalStore: localStore, MinJobTime: minJobTime, Workers: workers, Lease: time.Second,
				Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			})
			if err != nil {
				_ = lis.Close()
				return exit.BadInputf("%w", err)
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), Listening+lis.Addr().String()); err != nil {
				return errors.Join(err, lis.Close(), s.Close())
			}
			if restAddress == "" {
				return sqlite.Serve(cmd.Context(), lis, s)
			}
			stop, err := serveREST(cmd, restAddress, s)
			if err != nil {
				return errors.Join(err, lis.Close(), s.Close())
			}
			defer stop()
			return sqlite.Serve(cmd.Context(), lis, s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:8000", "address to listen at")
	f.StringVar(&restAddress, "rest", "", "`ADDRESS` to listen at for REST too")
	f.StringVar(&dir, "dir", "", "folder where jobs are kept")
	f.StringVar(&localStore, "local-store", "", "folder of a Flyte data store of kind local, whose names are file://container/path")
	f.IntVar(&workers, "workers", 2, "how many jobs run at once")
	f.DurationVar(&minJobTime, "min-job-time", 0, "let every job take at least this long")
	f.BoolVar(&plain, "insecure", false, "speak plain text")
	return cmd
}

// serveREST serves the same service over REST, until it is told to stop: calls under way have a few seconds then.
func serveREST(cmd *cobra.Command, address string, s *sqlite.Service) (stop func(), err error) {
	lis, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", address)
	if err != nil {
		return nil, exit.BadInputf("cannot listen at %s: %w", address, err)
	}
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(lis); err != nil && !errors.Is(err, http.ErrServerClosed) {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "REST:", err)
		}
	}()
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), Listening+lis.Addr().String()+" for REST"); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	// gRPC drains for as long as its calls take; this one ends with the command.
	context.AfterFunc(cmd.Context(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	})
	return func() {
		_ = server.Close()
		<-ended
	}, nil
}

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Serve serves s on lis, with gRPC's health service beside it, until ctx ends; then it reports itself as not
// serving, lets calls under way finish for up to [Options.DrainTimeout], and closes s. It blocks until all that is
// done, and returns nil after a stop that ctx asked for. Pass credentials and limits in opts.
func Serve(ctx context.Context, lis net.Listener, s *Service, opts ...grpc.ServerOption) error {
	srv := grpc.NewServer(opts...)
	s.Register(srv)
	h := health.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	for _, name := range []string{"", service.AsyncAgentService_ServiceDesc.ServiceName, service.AgentMetadataService_ServiceDesc.ServiceName} {
		h.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}

	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	s.opts.Log.Info("sqlite: serving", "address", lis.Addr().String(), "dir", s.opts.Dir)

	select {
	case err := <-served:
		srv.Stop()
		return errors.Join(fmt.Errorf("sqlite: serve on %s: %w", lis.Addr(), err), s.Close())
	case <-ctx.Done():
	}
	h.Shutdown()
	// A client that watches health keeps its call open for ever, so a graceful stop needs an end of its own.
	cut := time.AfterFunc(s.opts.DrainTimeout, srv.Stop)
	srv.GracefulStop()
	cut.Stop()
	// ErrServerStopped: ctx ended before Serve had begun.
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return errors.Join(fmt.Errorf("sqlite: serve on %s: %w", lis.Addr(), err), s.Close())
	}
	return s.Close()
}

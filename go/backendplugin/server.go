package backendplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Server is a server of plugins: flyteidl's AsyncAgentService, SyncAgentService and AgentMetadataService over gRPC, with health
// and reflection, and the same over REST if asked to ([WithREST]).
type Server struct {
	opts    options
	grpc    *grpc.Server
	http    *httpServer // nil when REST is not asked for
	health  *health.Server
	plugins Plugins
	metrics *metrics
	// slots are the places for calls; those that are taken are under way.
	slots chan struct{}
	// probing has the plugins whose probe is under way.
	probing sync.Map
	// ending is done when open streams that nobody would end are to end.
	ending context.Context
	end    context.CancelFunc
}

// NewServer makes a server of plugins. It gives an error for a plugin that cannot be served, for two that could not be told
// apart, and for a server that would speak plain text without having been asked to.
func NewServer(plugins Plugins, opts ...Option) (*Server, error) {
	o := options{
		address: DefaultAddress, maxMessageSize: DefaultMaxMessageSize, maxConcurrent: DefaultMaxConcurrent, timeout: DefaultTimeout,
		readinessDelay: DefaultReadinessDelay, drainTimeout: DefaultDrainTimeout, probeInterval: 10 * time.Second, log: slog.Default(),
		maxWatches: DefaultMaxWatches,
	}
	for _, opt := range opts {
		opt(&o)
	}
	if err := checkPlugins(plugins); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.registerer)
	if err != nil {
		return nil, fmt.Errorf("backendplugin: %w", err)
	}
	s := &Server{opts: o, health: health.NewServer(), plugins: slices.Clone(plugins), metrics: m, slots: make(chan struct{}, o.maxConcurrent)}
	s.ending, s.end = context.WithCancel(context.Background())
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	server := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(o.maxMessageSize), grpc.MaxSendMsgSize(o.maxMessageSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute}), // a caller that vanished follows no jobs
		grpc.ChainStreamInterceptor(s.endWatches),
	}
	if !o.plainText {
		o.tls.clientCA, o.tls.log = o.clientCA, o.log
		config, err := o.tls.serverConfig()
		if err != nil {
			return nil, fmt.Errorf("backendplugin: %w", err)
		}
		server = append(server, grpc.Creds(credentials.NewTLS(config)))
	}
	s.grpc = grpc.NewServer(append(server, o.server...)...)
	svc := &service{
		plugins: s.plugins, slots: s.slots, timeout: o.timeout, executeTimeout: o.executeTimeout,
		secrets: o.secrets, log: o.log, metrics: s.metrics, tracing: &tracing{o.tracers, o.propagator}, maxMessageSize: o.maxMessageSize,
		maxWatches: o.maxWatches, looks: make(chan struct{}, watchLooks(o.maxConcurrent)), ending: s.ending,
	}
	pb.RegisterAsyncAgentServiceServer(s.grpc, svc)
	pb.RegisterSyncAgentServiceServer(s.grpc, svc)
	pb.RegisterAgentMetadataServiceServer(s.grpc, svc)
	flytebackendv1.RegisterBackendServiceServer(s.grpc, svc)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	if o.restAddress == "" && o.restListener == nil {
		return s, nil
	}
	services := rest.Services{Async: svc, Sync: svc, Metadata: svc, Batch: svc, Capabilities: s.plugins.capabilities}
	s.http, err = newHTTPServer(&o, s.plugins, services, s.MetricsHandler())
	if err != nil {
		return nil, fmt.Errorf("backendplugin: %w", err)
	}
	return s, nil
}

func checkPlugins(plugins Plugins) error {
	if len(plugins) == 0 {
		return errors.New("backendplugin: there is no plugin to serve")
	}
	for i, p := range plugins {
		if p == nil {
			return errors.New("backendplugin: a plugin is nil")
		}
		if err := p.check(); err != nil {
			return fmt.Errorf("backendplugin: the plugin for task type %q: %w", p.taskType, err)
		}
		for _, other := range plugins[:i] {
			if p.taskType == other.taskType && p.version == other.version && p.overlaps(other) {
				return fmt.Errorf("backendplugin: two plugins serve task type %q in version %s and the same task type version; give one of them another WithVersion",
					p.taskType, p.version)
			}
		}
	}
	return nil
}

// overlaps says that the two take the same tasks in the same way.
func (p *Plugin) overlaps(other *Plugin) bool {
	if (p.create == nil || other.create == nil) && (p.execute == nil || other.execute == nil) {
		return false
	}
	if len(p.taskTypeVersions) == 0 || len(other.taskTypeVersions) == 0 {
		return len(p.taskTypeVersions) == len(other.taskTypeVersions)
	}
	return slices.ContainsFunc(p.taskTypeVersions, func(v int32) bool { return slices.Contains(other.taskTypeVersions, v) })
}

// endWatches ends what watches the server's health when the server ends; a graceful stop would wait for it.
func (s *Server) endWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, "/flyteidl.") {
		return handler(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	return handler(srv, &streamWithContext{stream, ctx})
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

// Serve serves plugins until ctx ends or the process gets SIGTERM or an interrupt, then drains ([WithDrain]); another signal
// ends the process at once. It blocks, and gives nil after all calls have ended, and an error when it cannot serve or had to cut calls
// off.
func Serve(ctx context.Context, plugins Plugins, opts ...Option) error {
	s, err := NewServer(plugins, opts...)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.opts.address)
	if err != nil {
		return fmt.Errorf("backendplugin: %w", err)
	}
	return s.Serve(ctx, lis)
}

// Serve serves on a listener, which it closes, until ctx ends, then drains. It blocks, and is called once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	defer s.end()
	failed := make(chan error, 3)
	about := []any{"address", lis.Addr().String(), "plugins", fmt.Sprint(s.plugins), "tls", !s.opts.plainText}
	if s.http != nil {
		restListener, err := s.listenREST(ctx)
		if err != nil {
			_ = lis.Close()
			return fmt.Errorf("backendplugin: %w", err)
		}
		about = append(about, "rest", restListener.Addr().String())
		go func() {
			if err := s.http.serve(restListener); err != nil {
				failed <- err
			}
		}()
	}
	metricsAddress, endMetrics, err := s.serveMetrics(ctx, failed)
	if err != nil {
		_ = lis.Close()
		s.stop(0)
		return fmt.Errorf("backendplugin: %w", err)
	}
	defer endMetrics()
	if metricsAddress != "" {
		about = append(about, "metrics", metricsAddress)
	}
	go func() { failed <- s.grpc.Serve(lis) }()
	s.opts.log.InfoContext(ctx, "serving", about...)
	s.probe(ctx)
	ticker := time.NewTicker(s.opts.probeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.probe(ctx)
		case err := <-failed:
			s.stop(0)
			return fmt.Errorf("backendplugin: %w", err)
		case <-ctx.Done():
			return s.drain()
		}
	}
}

func (s *Server) listenREST(ctx context.Context) (net.Listener, error) {
	if s.opts.restListener != nil {
		return s.opts.restListener, nil
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", s.opts.restAddress)
}

// probe asks the plugins that can tell whether they can work, all at once, and reports it as the server's health. It ends with ctx, and
// after the interval at the latest, whatever they do.
func (s *Server) probe(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, s.opts.probeInterval)
	defer cancel()
	var failed atomic.Bool
	var all sync.WaitGroup
	for _, p := range s.plugins {
		if p.probe == nil {
			continue
		}
		all.Go(func() {
			err := s.probeOne(within, p)
			if err != nil && ctx.Err() == nil {
				s.opts.log.WarnContext(ctx, "a plugin is not ready", "plugin", p.String(), "error", err)
			}
			if err != nil {
				failed.Store(true)
			}
		})
	}
	all.Wait()
	now, word := healthpb.HealthCheckResponse_SERVING, &ready
	if failed.Load() {
		now, word = healthpb.HealthCheckResponse_NOT_SERVING, &notReady
	}
	s.health.SetServingStatus("", now)
	s.metrics.setReady(word == &ready)
	if s.http != nil {
		s.http.ready.Store(word)
	}
}

// probeOne does not wait for a probe that ignores the end of its time, and asks no other one until it has ended.
func (s *Server) probeOne(ctx context.Context, p *Plugin) error {
	if _, still := s.probing.LoadOrStore(p, true); still {
		return errors.New("its last probe has not ended")
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("it ended its goroutine")
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("it panicked: %v", r)
			}
			s.probing.Delete(p)
			done <- err
		}()
		err = p.probe(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it did not answer within %s", s.opts.probeInterval)
	}
}

func (s *Server) drain() error {
	s.opts.log.Info("draining", "readiness_delay", s.opts.readinessDelay, "timeout", s.opts.drainTimeout)
	s.health.Shutdown()
	s.metrics.setReady(false)
	if s.http != nil {
		s.http.ready.Store(&draining)
	}
	<-time.After(s.opts.readinessDelay)
	s.end()
	if !s.stop(s.opts.drainTimeout) {
		return fmt.Errorf("backendplugin: calls were cut off that had not ended %s after the server had stopped to take new ones", s.opts.drainTimeout)
	}
	s.opts.log.Info("drained")
	return nil
}

// stop takes no more calls, and says whether those under way have ended within the time. The others are cut off.
func (s *Server) stop(within time.Duration) bool {
	patience, end := context.WithCancel(context.Background())
	defer end()
	drained := make(chan struct{}, 2)
	go func() {
		s.grpc.GracefulStop()
		drained <- struct{}{}
	}()
	go func() {
		if s.http != nil {
			s.http.stop(patience)
		}
		drained <- struct{}{}
	}()
	expired := time.After(within)
	ok := true
	for ended := 0; ended < cap(drained); {
		select {
		case <-drained:
			ended++
		case <-expired:
			ok = len(s.slots) == 0 // callers that do not hang up by themselves are no loss
			s.grpc.Stop()          // which ends its graceful stop as well
			end()
		}
	}
	return ok
}

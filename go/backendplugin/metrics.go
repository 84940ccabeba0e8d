package backendplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/transport"
)

// MetricInfo describes a metric of a [Server].
type MetricInfo struct{ Name, Labels, Help string }

const metricPrefix = "flyte_backend_plugin_"

// Metrics are all that a server has beside those of Go and of the process.
var Metrics = []MetricInfo{
	{metricPrefix + "calls_total", "call, task_type, plugin_version, transport, code", "Calls that ended, by the gRPC code that they ended with."},
	{metricPrefix + "call_duration_seconds", "call, task_type, transport", "How long calls took, by histogram."},
	{metricPrefix + "calls_in_flight", "", "Calls that run plugins' code, those among them that nobody waits for any more."},
	{metricPrefix + "calls_turned_away_total", "", "Calls over the limit of calls at once."},
	{metricPrefix + "watched_jobs", "", "Jobs that callers follow."},
	{metricPrefix + "ready", "", "1 while the service reports that it is ready."},
	{metricPrefix + "build_info", "version, go_version", "Always 1; tells the SDK's version."},
}

// noPlugin stands for the task type and version of calls for a plugin that is not here: what callers send is no label.
const noPlugin = "(none)"

// metrics are a server's.
type metrics struct {
	gatherer prometheus.Gatherer
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	turned   prometheus.Counter
	watched  prometheus.Gauge
	ready    prometheus.Gauge
}

func help(name string) string {
	for _, m := range Metrics {
		if m.Name == metricPrefix+name {
			return m.Help
		}
	}
	panic("no such metric: " + name)
}

// newMetrics registers a server's metrics: with registerer, or, if that is nil, in a registry of their own.
func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{}
	opts := func(name string) prometheus.Opts { return prometheus.Opts{Name: metricPrefix + name, Help: help(name)} }
	m.calls = prometheus.NewCounterVec(prometheus.CounterOpts(opts("calls_total")), []string{"call", "task_type", "plugin_version", "transport", "code"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: metricPrefix + "call_duration_seconds", Help: help("call_duration_seconds"),
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
	}, []string{"call", "task_type", "transport"})
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts(opts("calls_in_flight")))
	m.turned = prometheus.NewCounter(prometheus.CounterOpts(opts("calls_turned_away_total")))
	m.watched = prometheus.NewGauge(prometheus.GaugeOpts(opts("watched_jobs")))
	m.ready = prometheus.NewGauge(prometheus.GaugeOpts(opts("ready")))
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("build_info")), []string{"version", "go_version"})
	info.WithLabelValues(buildVersion()).Set(1)
	all := []prometheus.Collector{m.calls, m.duration, m.inFlight, m.turned, m.watched, m.ready, info}
	for i, c := range all {
		if registerer == nil {
			break
		}
		if err := registerer.Register(c); err != nil {
			for _, before := range all[:i] {
				registerer.Unregister(before)
			}
			return nil, fmt.Errorf("WithMetricsRegisterer: %w", err)
		}
	}
	if g, ok := registerer.(prometheus.Gatherer); ok {
		m.gatherer = g
		return m, nil
	}
	own := prometheus.NewRegistry()
	own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	own.MustRegister(all...)
	m.gatherer = own
	return m, nil
}

// buildVersion finds the SDK in the program's build.
func buildVersion() (version, goVersion string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", "unknown"
	}
	version = info.Main.Version
	for _, dep := range info.Deps {
		if dep.Path == module {
			version = dep.Version
		}
	}
	return version, info.GoVersion
}

// call counts a call that came to a plugin.
func (m *metrics) call(ctx context.Context, op string, c *call, code codes.Code, took time.Duration) {
	m.count(ctx, op, c.taskType, c.servedBy, code)
	m.duration.WithLabelValues(op, c.taskType, transport.Of(ctx)).Observe(took.Seconds())
}

// count counts one that did not, or that lasts as long as a job.
func (m *metrics) count(ctx context.Context, op, taskType, version string, code codes.Code) {
	m.calls.WithLabelValues(op, taskType, version, transport.Of(ctx), code.String()).Inc()
}

// label is the task type, if a plugin has it.
func (s *service) label(taskType string) string {
	if slices.ContainsFunc(s.plugins, func(p *Plugin) bool { return p.taskType == taskType }) {
		return taskType
	}
	return noPlugin
}

func (m *metrics) setReady(is bool) {
	value := 0.0
	if is {
		value = 1
	}
	m.ready.Set(value)
}

// WithMetricsRegisterer has the server register its metrics in a registry of the program's, which then shows them in its own
// way too. Without it the server has a registry of its own, with Go's and the process's metrics. A registry takes one server;
// prometheus.WrapRegistererWith gives two of them a label each.
func WithMetricsRegisterer(r prometheus.Registerer) Option {
	return func(o *options) { o.registerer = r }
}

// WithMetrics serves the metrics at /metrics of an address of their own, in plain text and alone, for services without REST,
// which has them too ([WithREST]). They can be read until the last call has ended.
func WithMetrics(address string) Option { return func(o *options) { o.metricsAddress = address } }

// MetricsHandler answers with the server's metrics in Prometheus's form, and with all others that are in the same registry, if
// [WithMetricsRegisterer] gave one that can be read. It may be called at any time.
func (s *Server) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics.gatherer, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.opts.log.Handler(), slog.LevelWarn)})
}

// serveMetrics serves them at their own address, if there is one, until the function is called that it gives.
func (s *Server) serveMetrics(ctx context.Context, failed chan<- error) (address string, end func(), err error) {
	if s.opts.metricsAddress == "" {
		return "", func() {}, nil
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.opts.metricsAddress)
	if err != nil {
		return "", nil, fmt.Errorf("WithMetrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.MetricsHandler())
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 5 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.opts.log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	return lis.Addr().String(), func() { _ = server.Close() }, nil
}

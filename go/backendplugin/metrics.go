package backendplugin

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
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
	registry *prometheus.Registry
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

// newMetrics registers a server's metrics. A registry that has them already, since it was given to two servers, is an error.
func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{registry: registry}
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
	for _, c := range []prometheus.Collector{m.calls, m.duration, m.inFlight, m.turned, m.watched, m.ready, info} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("WithMetrics: %w", err)
		}
	}
	return m, nil
}

// newRegistry is what a server has unless it is given one.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// buildVersion finds the SDK in the program's build.
func buildVersion() (version, goVersion string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", "unknown"
	}
	const module = "github.com/flyte-backend/flyte-backend/go/backendplugin"
	version = info.Main.Version
	for _, dep := range info.Deps {
		if dep.Path == module {
			version = dep.Version
		}
	}
	return version, info.GoVersion
}

func (m *metrics) call(op, taskType, version, transport string, code codes.Code, took time.Duration) {
	m.calls.WithLabelValues(op, taskType, version, transport, code.String()).Inc()
	m.duration.WithLabelValues(op, taskType, transport).Observe(took.Seconds())
}

func (m *metrics) setReady(is bool) {
	value := 0.0
	if is {
		value = 1
	}
	m.ready.Set(value)
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// WithMetrics has the server register its metrics in a registry of the program's, which then shows them in its own way too. A
// registry takes one server. Without it the server has a registry of its own, with Go's and the process's metrics.
func WithMetrics(registry *prometheus.Registry) Option {
	return func(o *options) { o.registry = registry }
}

// MetricsHandler answers with all metrics of the server's registry, in Prometheus's form. It is at /metrics where REST is
// served ([WithREST]); a program without REST can serve it itself.
func (s *Server) MetricsHandler() http.Handler { return s.metrics.handler() }

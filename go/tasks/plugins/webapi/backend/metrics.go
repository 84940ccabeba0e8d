package backend

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
)

// Metric is a row of docs/metrics.md.
type Metric struct{ Name, Labels, Help string }

// Metrics lists the plugin's own metrics, below propeller's scope for the plugin. docs/metrics.md is checked against it.
var Metrics = []Metric{
	{"calls_total", "deployment, method, code", "Calls to backend plugin services, by gRPC code."},
	{"call_duration_seconds", "deployment, method", "Time that calls took."},
	{"tasks_in_flight", "", "Tasks of backends that this process remembers."},
	{"decisions_total", "owner, reason", "Tasks decided on, by owner (backend, builtin, held) and reason (route, registered, drain, unregistered, unanswered)."},
	{"poll_failures_total", "deployment", "Polls that failed."},
	{"poll_failures_in_row", "deployment", "Polls that failed since the deployment last answered one."},
	{"create_failures_total", "deployment, class", "Creates that failed, by class of the error table."},
	{"registry_age_seconds", "deployment", "Time since the deployment last told its task types; -1 while it never has."},
	{"registry_conflicts", "", "Registrations that two deployments claim and that only the deployment's name decides."},
	{"config_reload_errors", "", "Changes of plugins.backend that were invalid and not taken over."},
	{"config_valid", "", "1 while the configuration in the file is the one in force, 0 after an invalid reload."},
}

type metrics struct {
	calls              *prometheus.CounterVec
	duration           *prometheus.HistogramVec
	inFlight           prometheus.Gauge
	decisions          *prometheus.CounterVec
	pollFailures       *prometheus.CounterVec
	pollFailuresInRow  *prometheus.GaugeVec
	createFailures     *prometheus.CounterVec
	registryAge        *prometheus.GaugeVec
	registryConflicts  prometheus.Gauge
	configReloadErrors prometheus.Counter
	configValid        prometheus.Gauge
}

// newMetrics registers everything in scope; a scope takes it once.
func newMetrics(scope promutils.Scope) *metrics {
	help := func(name string) string {
		for _, m := range Metrics {
			if m.Name == name {
				return m.Help
			}
		}
		return name
	}
	m := &metrics{
		calls: scope.MustNewCounterVec("calls_total", help("calls_total"), "deployment", "method", "code"),
		duration: scope.MustNewHistogramVec("call_duration_seconds", help("call_duration_seconds"),
			"deployment", "method"),
		inFlight:           scope.MustNewGauge("tasks_in_flight", help("tasks_in_flight")),
		decisions:          scope.MustNewCounterVec("decisions_total", help("decisions_total"), "owner", "reason"),
		pollFailures:       scope.MustNewCounterVec("poll_failures_total", help("poll_failures_total"), "deployment"),
		pollFailuresInRow:  scope.MustNewGaugeVec("poll_failures_in_row", help("poll_failures_in_row"), "deployment"),
		createFailures:     scope.MustNewCounterVec("create_failures_total", help("create_failures_total"), "deployment", "class"),
		registryAge:        scope.MustNewGaugeVec("registry_age_seconds", help("registry_age_seconds"), "deployment"),
		registryConflicts:  scope.MustNewGauge("registry_conflicts", help("registry_conflicts")),
		configReloadErrors: scope.MustNewCounter("config_reload_errors", help("config_reload_errors")),
		configValid:        scope.MustNewGauge("config_valid", help("config_valid")),
	}
	m.configValid.Set(1)
	return m
}

// forget drops what stands at its latest value for ever once the deployment is not configured any more.
func (m *metrics) forget(deployment string) {
	m.registryAge.DeleteLabelValues(deployment)
	m.pollFailuresInRow.DeleteLabelValues(deployment)
}

func (m *metrics) call(deployment, method string, took time.Duration, err error) {
	if m == nil {
		return
	}
	code := "OK"
	if err != nil {
		code = client.AsError(err).Code.String()
	}
	m.calls.WithLabelValues(deployment, method, code).Inc()
	m.duration.WithLabelValues(deployment, method).Observe(took.Seconds())
}

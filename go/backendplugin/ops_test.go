package backendplugin_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
)

// TestMetrics: calls over either transport are counted by what they were and how they ended; what callers send is no label.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := startREST(t, testplugins.All(), backendplugin.WithMetrics(registry))
	require.Eventually(t, func() bool { return w.do("GET", "/readyz", "").status == 200 }, limit, 1e6)
	_, err := w.create(w.within(), "square", literals(values{"x": 7}))
	require.NoError(t, err)
	_, err = w.create(w.within(), "square", nil)
	require.Error(t, err)
	_, err = w.create(w.within(), "anything that a caller likes", nil)
	require.Error(t, err)
	require.Equal(t, 200, w.do("PUT", "/plugins/v1/square/v1", sevenSquared).status)
	a := w.do("GET", "/metrics", "")
	require.Contains(t, a.header.Get("Content-Type"), "text/plain")
	for _, line := range []string{
		`flyte_backend_plugin_calls_total{call="Create",code="OK",plugin_version="v2",task_type="square",transport="grpc"} 1`,
		`flyte_backend_plugin_calls_total{call="Create",code="InvalidArgument",plugin_version="v2",task_type="square",transport="grpc"} 1`,
		`flyte_backend_plugin_calls_total{call="Create",code="OK",plugin_version="v1",task_type="square",transport="rest"} 1`,
		`flyte_backend_plugin_calls_total{call="Create",code="NotFound",plugin_version="(none)",task_type="(none)",transport="grpc"} 1`,
		`flyte_backend_plugin_call_duration_seconds_count{call="Create",task_type="square",transport="rest"} 1`,
		`flyte_backend_plugin_calls_in_flight 0`,
		`flyte_backend_plugin_ready 1`,
	} {
		require.Contains(t, a.text, line+"\n")
	}
	require.NotContains(t, a.text, "anything")
	for _, m := range backendplugin.Metrics {
		require.Contains(t, a.text, "# HELP "+m.Name+" "+m.Help+"\n")
	}
	_, err = backendplugin.NewServer(testplugins.All(), backendplugin.WithPlainText(), backendplugin.WithMetrics(registry))
	require.ErrorContains(t, err, "WithMetrics: duplicate metrics collector registration attempted")
	require.Contains(t, startREST(t, testplugins.All()).do("GET", "/metrics", "").text, "go_goroutines ", "a server's own registry tells of the process")
}

// TestMetricsAreDocumented: each has its row.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	for _, m := range backendplugin.Metrics {
		labels := m.Labels + " "
		if m.Labels == "" {
			labels = ""
		}
		require.Contains(t, string(doc), "| `"+m.Name+"` | "+labels+"| "+m.Help+" |")
	}
}

// TestTraces: a call's span continues the caller's, over either transport, and what the plugin does is below it.
func TestTraces(t *testing.T) {
	const caller = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	var inside trace.SpanContext
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(ctx context.Context, r *backendplugin.Request[values]) (string, error) {
			inside = trace.SpanContextFromContext(ctx)
			r.Log.Info("of the plugin")
			return "secret id", nil
		},
		get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			return nil, errors.New("broken")
		},
	})}, backendplugin.WithTracerProvider(provider))
	_, err := w.create(with(w.within(), "traceparent", caller), "a", nil)
	require.NoError(t, err)
	require.Equal(t, 200, w.do("PUT", "/plugins/v1/a/v1", `{"template": {}}`, "traceparent", caller).status)
	_, err = w.get(w.within(), "a", "secret id")
	require.Error(t, err)
	ended := spans.Ended()
	require.Len(t, ended, 3)
	for i, transport := range []string{"grpc", "rest"} {
		s := ended[i]
		require.Equal(t, "flyte.backend/Create", s.Name())
		require.Equal(t, trace.SpanKindServer, s.SpanKind())
		require.Equal(t, "0123456789abcdef0123456789abcdef", s.SpanContext().TraceID().String())
		require.Equal(t, "0123456789abcdef", s.Parent().SpanID().String())
		require.Contains(t, s.Attributes(), attribute.String("flyte.task_type", "a"))
		require.Contains(t, s.Attributes(), attribute.String("flyte.transport", transport))
		require.Contains(t, s.Attributes(), attribute.Int64("rpc.grpc.status_code", 0))
		require.Contains(t, w.log.String(), "span_id="+s.SpanContext().SpanID().String())
	}
	require.Equal(t, ended[1].SpanContext(), inside)
	require.Equal(t, otelcodes.Error, ended[2].Status().Code)
	require.False(t, ended[2].Parent().IsValid(), "a call without a trace begins one")
	for _, s := range ended {
		for _, a := range s.Attributes() {
			require.NotContains(t, a.Value.Emit(), "secret")
		}
	}
	require.Contains(t, strings.Join(strings.Fields(w.log.String()), " "), `msg="of the plugin" task_type=a plugin_version=v1 trace_id=0123456789abcdef0123456789abcdef`)
}

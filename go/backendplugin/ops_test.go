package backendplugin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// TestMetrics: calls over either transport are counted by what they were and how they ended; what callers send is no label.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := startREST(t, testplugins.All(), backendplugin.WithMetricsRegisterer(registry))
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
	_, err = backendplugin.NewServer(testplugins.All(), backendplugin.WithPlainText(), backendplugin.WithMetricsRegisterer(registry))
	require.ErrorContains(t, err, "WithMetricsRegisterer: duplicate metrics collector registration attempted")
	require.Contains(t, startREST(t, testplugins.All()).do("GET", "/metrics", "").text, "go_goroutines ", "a server's own registry tells of the process")
}

// scrape reads metrics over HTTP.
func scrape(t *testing.T, url string) (code int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	r, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(raw)
}

// metrics reads those of a service that serves them at an address of their own.
func (w *world) metrics() string {
	w.t.Helper()
	code, text := scrape(w.t, "http://"+w.logged("metrics")+"/metrics")
	require.Equal(w.t, 200, code)
	return text
}

// logged waits for a word of the log.
func (w *world) logged(key string) (value string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		for _, word := range strings.Fields(w.log.String()) {
			if v, ok := strings.CutPrefix(word, key+"="); ok {
				value = v
			}
		}
		return value != ""
	}, limit, time.Millisecond)
	return value
}

// TestMetricsAtAnAddress: services without REST have metrics too, alone, until their last call has ended.
func TestMetricsAtAnAddress(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) {
			close(entered)
			<-release
			return "j", nil
		},
	})}, backendplugin.WithMetrics("127.0.0.1:0"))
	require.Eventually(t, func() bool { return strings.Contains(w.metrics(), "\nflyte_backend_plugin_ready 1\n") }, limit, time.Millisecond)
	require.Contains(t, w.metrics(), "\ngo_goroutines ")
	code, _ := scrape(t, "http://"+w.logged("metrics")+"/")
	require.Equal(t, 404, code)
	result := make(chan error, 1)
	go func() {
		_, err := w.create(w.within(), "a", nil)
		result <- err
	}()
	<-entered
	require.Contains(t, w.metrics(), "\nflyte_backend_plugin_calls_in_flight 1\n")
	w.stop()
	require.Eventually(t, func() bool { return strings.Contains(w.metrics(), "\nflyte_backend_plugin_ready 0\n") }, limit, time.Millisecond)
	close(release)
	require.NoError(t, <-result)
	require.NoError(t, <-w.ended)

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	err = backendplugin.Serve(t.Context(), testplugins.All(), backendplugin.WithPlainText(), backendplugin.WithAddress("127.0.0.1:0"),
		backendplugin.WithMetrics(lis.Addr().String()))
	require.ErrorContains(t, err, "WithMetrics: ")
	require.ErrorContains(t, err, "address already in use")
}

// TestMetricsOfAllCalls: what is counted has the labels that it is said to have, and no others.
func TestMetricsOfAllCalls(t *testing.T) {
	t.Parallel()
	p := newWatchable()
	p.delete = func(context.Context, *backendplugin.Job[string]) error { return backendplugin.NotFound("long gone") }
	p.getMany = func(_ context.Context, jobs []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
		return make([]backendplugin.Result[values], len(jobs)), nil
	}
	entered, release := make(chan struct{}), make(chan struct{})
	p.create = func(context.Context, *backendplugin.Request[values]) (string, error) {
		close(entered)
		<-release
		return "new", nil
	}
	registry := prometheus.NewRegistry()
	// A registerer that cannot be read: the server's own handler has the metrics all the same.
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, backendplugin.WithMetrics("127.0.0.1:0"), backendplugin.WithMaxConcurrent(1),
		backendplugin.WithMetricsRegisterer(prometheus.WrapRegistererWith(prometheus.Labels{"server": "one"}, registry)))
	require.NoError(t, w.delete(w.within(), "a", "j"))
	w.tasks(w.within(), "x", "y")
	_, err := w.get(with(w.within(), versionHeader, "v7"), "a", "j")
	require.Error(t, err)
	logs, err := w.async.GetTaskLogs(w.within(), &admin.GetTaskLogsRequest{TaskCategory: &admin.TaskCategory{Name: "a"}, ResourceMeta: []byte("j")})
	require.NoError(t, err)
	_, err = logs.Recv()
	require.Error(t, err)
	stream := w.follow(map[uint64]string{1: "j", 2: "k"})
	next(t, stream)
	next(t, stream)
	p.watched(t, 2)
	require.Contains(t, w.metrics(), "\nflyte_backend_plugin_watched_jobs 2\n")
	p.becomes("j", "done")
	next(t, stream)
	require.Contains(t, w.metrics(), "\nflyte_backend_plugin_watched_jobs 1\n")
	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Unfollow: []uint64{2}}))
	p.watched(t, 0)
	created := make(chan error, 1)
	go func() {
		_, err := w.create(w.within(), "a", nil)
		created <- err
	}()
	<-entered
	_, err = w.create(w.within(), "a", nil)
	require.Error(t, err)
	close(release)
	require.NoError(t, <-created)
	for _, line := range []string{
		`calls_total{call="Delete",code="OK",plugin_version="v1",task_type="a",transport="grpc"} 1`, // what is long gone is no failure
		`calls_total{call="GetMany",code="OK",plugin_version="v1",task_type="a",transport="grpc"} 1`,
		`calls_total{call="Get",code="NotFound",plugin_version="(none)",task_type="a",transport="grpc"} 1`,
		`calls_total{call="Logs",code="Unimplemented",plugin_version="v1",task_type="a",transport="grpc"} 1`,
		`calls_total{call="Get",code="OK",plugin_version="v1",task_type="a",transport="grpc"} 3`,
		`calls_total{call="Watch",code="OK",plugin_version="v1",task_type="a",transport="grpc"} 2`,
		`calls_total{call="Create",code="ResourceExhausted",plugin_version="v1",task_type="a",transport="grpc"} 1`,
		`calls_turned_away_total 1`,
		`watched_jobs 0`,
	} {
		require.Eventually(t, func() bool { return strings.Contains(w.metrics(), "\nflyte_backend_plugin_"+line+"\n") }, limit, time.Millisecond, line)
	}
	families, err := registry.Gather()
	require.NoError(t, err)
	have := map[string]string{}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			if l.GetName() != "server" {
				labels = append(labels, l.GetName())
			}
		}
		have[f.GetName()] = strings.Join(labels, ", ")
	}
	for _, m := range backendplugin.Metrics {
		labels := strings.Split(m.Labels, ", ")
		slices.Sort(labels)
		require.Equal(t, strings.Join(labels, ", "), have[m.Name], m.Name)
		delete(have, m.Name)
	}
	require.Empty(t, have, "each metric is described")
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
	_, ours, _ := strings.Cut(string(doc), "\n## Of a service made with the Go SDK\n")
	require.Equal(t, len(backendplugin.Metrics), strings.Count(ours, "\n| `flyte_backend_plugin_"), "no row for a metric that is gone")
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

// TestTracesTellNothing: an error is a code, since its text may tell of inputs and job ids.
func TestTracesTellNothing(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &able{
		simple: *getting(func(_ context.Context, id string) (*backendplugin.Status[values], error) {
			return nil, backendplugin.NotFound("no job %s", id)
		}),
		getMany: func(_ context.Context, jobs []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			return nil, fmt.Errorf("no job %s", jobs[0].ID)
		},
	})}, backendplugin.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	w.tasks(w.within(), "secret1", "secret2")
	w.tasks(w.within(), "secret1")
	_, err := w.create(w.within(), "a", literals(values{"x": 1}))
	require.Error(t, err)
	ended := spans.Ended()
	require.Len(t, ended, 3)
	for i, want := range []struct {
		name, status string
		code         int64
	}{{"flyte.backend/GetMany", "Unknown", 2}, {"flyte.backend/Get", "NotFound", 5}, {"flyte.backend/Create", "Internal", 13}} {
		require.Equal(t, want.name, ended[i].Name())
		require.Equal(t, sdktrace.Status{Code: otelcodes.Error, Description: want.status}, ended[i].Status())
		require.Contains(t, ended[i].Attributes(), attribute.Int64("rpc.grpc.status_code", want.code))
		require.Empty(t, ended[i].Events())
		require.NotContains(t, fmt.Sprint(ended[i].Attributes()), "secret")
	}
	require.Contains(t, ended[0].Attributes(), attribute.Int("flyte.jobs", 2))
}

// TestTracesBelowOthers: a span that the program begins itself is the parent, and its propagator is the one that is used.
func TestTracesBelowOthers(t *testing.T) {
	t.Parallel()
	const caller = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	var carried baggage.Baggage
	p := &simple{delete: func(ctx context.Context, _ *backendplugin.Job[string]) error {
		carried = baggage.FromContext(ctx)
		return nil
	}}
	for _, tt := range []struct {
		reason string
		opts   []backendplugin.Option
		parent func([]sdktrace.ReadOnlySpan) string
		carry  string
	}{
		{"W3C's by default, without baggage", nil, func([]sdktrace.ReadOnlySpan) string { return "0123456789abcdef" }, ""},
		{
			"another propagator", []backendplugin.Option{backendplugin.WithPropagator(propagation.Baggage{})},
			func([]sdktrace.ReadOnlySpan) string { return trace.SpanID{}.String() }, "1,2",
		},
		{
			"an interceptor's span", []backendplugin.Option{backendplugin.WithServerOptions(grpc.ChainUnaryInterceptor(
				func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
					ctx, span := provider.Tracer("t").Start(ctx, "outer")
					defer span.End()
					return handler(ctx, req)
				},
			))},
			func(s []sdktrace.ReadOnlySpan) string { return s[1].SpanContext().SpanID().String() }, "",
		},
	} {
		spans.Reset()
		w := start(t, backendplugin.Plugins{backendplugin.New("a", p)}, append(tt.opts, backendplugin.WithTracerProvider(provider))...)
		ctx := with(w.within(), "traceparent", caller, "baggage", "x=1", "baggage", "y=2")
		require.NoError(t, w.delete(ctx, "a", "j"), tt.reason)
		w.stop()
		require.NoError(t, <-w.ended) // all spans have ended
		ended := spans.Ended()
		require.Equal(t, "flyte.backend/Delete", ended[0].Name(), tt.reason)
		require.Equal(t, tt.parent(ended), ended[0].Parent().SpanID().String(), tt.reason)
		var got []string
		for _, key := range []string{"x", "y"} {
			if v := carried.Member(key).Value(); v != "" {
				got = append(got, v)
			}
		}
		require.Equal(t, tt.carry, strings.Join(got, ","), tt.reason)
	}
}

// TestTracesOfWatches: a stream is open for days, so each look that it causes is a trace of its own, which names the stream's.
func TestTracesOfWatches(t *testing.T) {
	t.Parallel()
	const caller = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	spans := tracetest.NewSpanRecorder()
	p := newWatchable()
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p)},
		backendplugin.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	stream, err := flytebackendv1.NewBackendServiceClient(w.conn).WatchTasks(with(w.within(), "traceparent", caller))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&flytebackendv1.WatchTasksRequest{Follow: []*flytebackendv1.WatchedTask{followed(1, "j")}}))
	next(t, stream)
	p.watched(t, 1)
	p.becomes("j", "done")
	next(t, stream)
	ended := spans.Ended()
	require.Len(t, ended, 2)
	require.NotEqual(t, ended[0].SpanContext().TraceID(), ended[1].SpanContext().TraceID())
	for _, s := range ended {
		require.Equal(t, "flyte.backend/Get", s.Name())
		require.False(t, s.Parent().IsValid())
		require.Len(t, s.Links(), 1)
		require.Equal(t, "0123456789abcdef", s.Links()[0].SpanContext.SpanID().String())
	}
}

// TestTracesByGlobals: what a program sets for all of it holds here too, also when it does so after it made the server. It is
// not parallel, since others would see it.
func TestTracesByGlobals(t *testing.T) {
	const caller = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	var carried string
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{delete: func(ctx context.Context, _ *backendplugin.Job[string]) error {
		carried = baggage.FromContext(ctx).Member("x").Value()
		return nil
	}})})
	call := func() {
		require.NoError(t, w.delete(with(w.within(), "traceparent", caller, "baggage", "x=1"), "a", "j"))
	}
	call()
	require.Empty(t, carried)
	require.Contains(t, w.log.String(), "trace_id=0123456789abcdef0123456789abcdef", "without spans, the log has the caller's")
	spans := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetTextMapPropagator(propagation.Baggage{})
	t.Cleanup(func() {
		otel.SetTracerProvider(noop.NewTracerProvider())
		otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator())
	})
	call()
	require.Equal(t, "1", carried)
	require.Len(t, spans.Ended(), 1)
	require.False(t, spans.Ended()[0].Parent().IsValid())
}

package backendplugin

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/transport"
)

// WithTracerProvider is where the server's spans go, one for each call of a plugin; OpenTelemetry's global provider unless said
// otherwise, which drops them until the program sets one.
func WithTracerProvider(p trace.TracerProvider) Option { return func(o *options) { o.tracers = p } }

// WithPropagator reads the caller's span from a call's metadata or headers; W3C's trace context and baggage unless said
// otherwise.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(o *options) { o.propagator = p }
}

// tracing makes spans that continue the caller's.
type tracing struct {
	tracers    trace.TracerProvider // nil is the global one, asked at each call since programs set it late
	propagator propagation.TextMapPropagator
}

const tracerName = "github.com/flyte-backend/flyte-backend/go/backendplugin"

// carrier reads a call's metadata as headers.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// start begins the span of a call. Where the program's own interceptor has begun one, that is the parent; else it is the
// caller's. Nothing of inputs or job ids goes into it.
func (t *tracing) start(ctx context.Context, op string, c *call) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		md, _ := metadata.FromIncomingContext(ctx)
		ctx = t.propagator.Extract(ctx, carrier(md))
	}
	provider := t.tracers
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	return provider.Tracer(tracerName).Start(ctx, //nolint:spancheck // guarded ends it, with the call's code
		"flyte.backend/"+op, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("flyte.task_type", c.taskType),
			attribute.String("flyte.plugin_version", c.servedBy),
			attribute.String("flyte.transport", transport.Of(ctx)),
		))
}

// end ends it with the code of the call.
func end(span trace.Span, code codes.Code, message string) {
	span.SetAttributes(attribute.Int64("rpc.grpc.status_code", int64(code)))
	if code != codes.OK {
		span.SetStatus(otelcodes.Error, message)
	}
	span.End()
}

// logOf adds the span to what a call logs.
func logOf(ctx context.Context, log *slog.Logger) *slog.Logger {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return log.With("trace_id", sc.TraceID().String(), "span_id", sc.SpanID().String())
	}
	return log
}

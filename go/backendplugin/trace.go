package backendplugin

import (
	"context"
	"maps"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/transport"
)

// WithTracerProvider is where spans go; OpenTelemetry's global provider unless said otherwise, which drops them until the
// service sets one. Every call of a plugin's method is a span, such as flyte.backend/Create, that continues the caller's trace,
// with the task type, the plugin version and the code that it ended with; nothing of inputs, outputs or job ids. The method's
// ctx has the span, and its Log the span's trace_id and span_id. A call of Watch is none, since it lasts as long as its job.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(o *options) { o.tracers = p }
}

// WithPropagator reads the caller's trace out of request metadata or HTTP headers; OpenTelemetry's global propagator unless
// said otherwise, or W3C's traceparent while that is not set.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(o *options) { o.propagator = p }
}

// module is this one's path, and the name that spans come by.
const module = "github.com/flyte-backend/flyte-backend/go/backendplugin"

// tracing makes spans that continue the caller's. What is nil is the global one, asked for at each call, since programs set it
// late.
type tracing struct {
	tracers    trace.TracerProvider
	propagator propagation.TextMapPropagator
}

// incoming is ctx with the caller's span, unless something before us, such as a stats handler of gRPC's, has begun one.
func (t *tracing) incoming(ctx context.Context) context.Context {
	if here := trace.SpanContextFromContext(ctx); here.IsValid() && !here.IsRemote() {
		return ctx
	}
	p := t.propagator
	if p == nil {
		p = otel.GetTextMapPropagator()
		if len(p.Fields()) == 0 { // it is the one that does nothing
			p = propagation.TraceContext{}
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return p.Extract(ctx, carrier(md))
}

// start begins a call's span, and gives the call's log its ids. The function ends it.
func (t *tracing) start(ctx context.Context, op string, c *call) (context.Context, func(codes.Code)) {
	ctx = t.incoming(ctx)
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("flyte.task_type", c.taskType),
		attribute.String("flyte.plugin_version", c.servedBy),
		attribute.String("flyte.transport", transport.Of(ctx)),
	)}
	if c.jobs > 0 {
		opts = append(opts, trace.WithAttributes(attribute.Int("flyte.jobs", c.jobs)))
	}
	if c.background { // one trace of all that happens on a stream that is open for days would help nobody
		opts = append(opts, trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
	}
	provider := t.tracers
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	ctx, span := provider.Tracer(module).Start(ctx, "flyte.backend/"+op, opts...)
	if sc := span.SpanContext(); sc.IsValid() {
		c.log = c.log.With("trace_id", sc.TraceID().String(), "span_id", sc.SpanID().String())
	}
	return ctx, func(code codes.Code) {
		span.SetAttributes(attribute.Int("rpc.grpc.status_code", int(code)))
		if code != codes.OK {
			span.SetStatus(otelcodes.Error, code.String()) // the error's text may tell of inputs
		}
		span.End()
	}
}

// carrier is request metadata as propagators read it.
type carrier metadata.MD

// Get gives a key's first value.
func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values gives all of them: baggage may come in parts.
func (c carrier) Values(key string) []string { return metadata.MD(c).Get(key) }

// Set is for senders; nothing is sent from here.
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys gives the names that there are.
func (c carrier) Keys() []string { return slices.Collect(maps.Keys(c)) }

var _ propagation.ValuesGetter = carrier{}

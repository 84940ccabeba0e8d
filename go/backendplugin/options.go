package backendplugin

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// Defaults of a server.
const (
	DefaultAddress        = ":8000"
	DefaultMaxMessageSize = 16 << 20 // bytes, as propeller's
	DefaultMaxConcurrent  = 1024
	DefaultTimeout        = 30 * time.Second
	DefaultReadinessDelay = 5 * time.Second
	DefaultDrainTimeout   = 20 * time.Second
)

type options struct {
	address        string
	tls            *certificates
	clientCA       string
	plainText      bool
	maxMessageSize int
	maxConcurrent  int
	timeout        time.Duration
	executeTimeout time.Duration
	readinessDelay time.Duration
	drainTimeout   time.Duration
	probeInterval  time.Duration
	secrets        Secrets
	log            *slog.Logger
	server         []grpc.ServerOption
	headerTimeout  time.Duration // of REST callers; 0 is ten seconds
	restAddress    string
	restListener   net.Listener
	maxWatches     int
	metricsAddress string
	registerer     prometheus.Registerer
	tracers        trace.TracerProvider
	propagator     propagation.TextMapPropagator
}

// Option changes how plugins are served.
type Option func(*options)

// WithAddress is where [Serve] listens; [DefaultAddress] unless said otherwise.
func WithAddress(address string) Option { return func(o *options) { o.address = address } }

// WithTLS serves with a certificate and its key, PEM files that are read again when they change.
func WithTLS(certFile, keyFile string) Option {
	return func(o *options) { o.tls = &certificates{cert: certFile, key: keyFile} }
}

// WithClientCA asks for client certificates, and accepts those that a CA of the PEM file signed. It needs WithTLS.
func WithClientCA(caFile string) Option { return func(o *options) { o.clientCA = caFile } }

// WithPlainText serves without encryption and without knowing who calls: for one machine, or behind a mesh that encrypts.
func WithPlainText() Option { return func(o *options) { o.plainText = true } }

// WithMaxMessageSize limits a message, received or sent, in bytes; a larger one is RESOURCE_EXHAUSTED. [DefaultMaxMessageSize]
// is propeller's own default: raise both (maxMessageSizeBytes there).
func WithMaxMessageSize(bytes int) Option { return func(o *options) { o.maxMessageSize = bytes } }

// WithMaxConcurrent limits how many calls run plugins' code at once; [DefaultMaxConcurrent] unless said otherwise. One more is
// RESOURCE_EXHAUSTED, and propeller asks again a second later.
func WithMaxConcurrent(calls int) Option { return func(o *options) { o.maxConcurrent = calls } }

// WithTimeout limits a call of Create, Get, GetMany, Delete, Logs or Metrics, beside the caller's own deadline; [DefaultTimeout]
// unless said otherwise, and 0 means no limit. A call that takes longer is DEADLINE_EXCEEDED, whether the plugin returns or not.
// It also limits a poll of many jobs as a whole, in which that is the result of those jobs that were not looked at by then.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithExecuteTimeout limits a call of Execute; without, its caller's deadline is the limit.
func WithExecuteTimeout(d time.Duration) Option { return func(o *options) { o.executeTimeout = d } }

// WithDrain says how the server ends: it reports that it is not ready and still answers for readinessDelay, so that load
// balancers see it; then it takes no more calls, and those under way have drainTimeout to end. Both together should be less
// than the pod's terminationGracePeriodSeconds.
func WithDrain(readinessDelay, drainTimeout time.Duration) Option {
	return func(o *options) { o.readinessDelay, o.drainTimeout = readinessDelay, drainTimeout }
}

// WithProbeInterval is how often a [Prober] is asked, and how long it has to answer; ten seconds unless said otherwise.
func WithProbeInterval(d time.Duration) Option { return func(o *options) { o.probeInterval = d } }

// WithSecrets changes where secrets are.
func WithSecrets(s Secrets) Option { return func(o *options) { o.secrets = s } }

// WithLogger is where the server and [Request.Log] write; slog.Default unless said otherwise. Inputs, outputs, job ids and
// secrets are never logged; what a plugin's errors say is, and what it panics with.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithServerOptions adds options of grpc: interceptors, stats handlers, keepalive. They see every call over gRPC with the code
// that it ends with; a span that one of them begins is the parent of the plugin's.
func WithServerOptions(opts ...grpc.ServerOption) Option {
	return func(o *options) { o.server = append(o.server, opts...) }
}

func (o *options) check() error {
	switch {
	case o.plainText && (o.tls != nil || o.clientCA != ""):
		return errors.New("backendplugin: WithPlainText and TLS exclude each other")
	case !o.plainText && o.tls == nil:
		return errors.New("backendplugin: refusing to listen without TLS: give a certificate by WithTLS, or say WithPlainText to serve without encryption")
	case o.maxMessageSize <= 0 || o.maxMessageSize > math.MaxInt32:
		return fmt.Errorf("backendplugin: WithMaxMessageSize(%d) is not between 1 byte and 2 GiB", o.maxMessageSize)
	case o.maxConcurrent <= 0:
		return fmt.Errorf("backendplugin: WithMaxConcurrent(%d) would answer no call", o.maxConcurrent)
	case o.timeout < 0 || o.executeTimeout < 0 || o.readinessDelay < 0 || o.drainTimeout < 0:
		return errors.New("backendplugin: a timeout is negative")
	case o.probeInterval <= 0:
		return fmt.Errorf("backendplugin: WithProbeInterval(%s) is not positive", o.probeInterval)
	case o.log == nil:
		return errors.New("backendplugin: WithLogger got nil")
	case o.maxWatches <= 0:
		return fmt.Errorf("backendplugin: WithMaxWatches(%d) would follow no job", o.maxWatches)
	}
	return nil
}

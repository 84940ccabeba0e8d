// Package config is the plugins.backend section of FlytePropeller's configuration: which backend plugin services
// (deployments) there are, which task types go to which of them, and how they are called.
//
// flytestdlib decodes the section; [Config.Validate] says whether what came out can be used. The section is never read
// directly by the plugin at run time: a reload may bring a value that is wrong, and then the last valid one stays in
// force (see package backend).
package config

import (
	"context"
	"strings"
	"sync"
	"time"

	pluginsconfig "github.com/flyteorg/flyte/flyteplugins/go/tasks/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
)

// SectionKey is the name of the section below "plugins".
const SectionKey = "backend"

// DefaultDeployment is the deployment that is configured when the operator names none.
const DefaultDeployment = "default"

// DefaultPluginVersion is the plugin version of a registration that states none.
const DefaultPluginVersion = "v1"

// Protocol is the transport that a deployment is called by.
type Protocol = string

// The protocols of a deployment.
const (
	ProtocolGRPC Protocol = "grpc"
	ProtocolREST Protocol = "rest"
)

// Mode says how a task of a route runs: as a job that is created and polled, or as one synchronous call.
type Mode = string

// The modes of a route. The empty mode takes what the service registered.
const (
	ModeAsync Mode = "async"
	ModeSync  Mode = "sync"
)

// The names of calls that can have a time-out of their own.
const (
	CallCreate  = "create"
	CallGet     = "get"
	CallDelete  = "delete"
	CallExecute = "execute"
	CallList    = "list"
)

// Config is plugins.backend. Field comments are the reference: docs/configuration.md is generated from the doc tags.
type Config struct {
	Enabled           bool                   `json:"enable_backend_flytekit_plugin_system" doc:"Turns the backend plugin system on. While it is false nothing is registered with propeller."`
	AcceptNewTasks    bool                   `json:"acceptNewTasks" doc:"false drains: new tasks go to built-in plugins, running ones finish where they are."`
	Deployments       map[string]*Deployment `json:"deployments" doc:"Backend plugin services by name: a lower-case label of letters, digits and -. Names are matched without case."`
	Routes            []Route                `json:"routes" doc:"Explicit routes from task types to deployments; a route beats discovery, and the most specific matching route wins."`
	TaskTypes         []string               `json:"taskTypes" doc:"Task types to claim although no service answered at start-up. container_array and aws-batch stay built in, here and in routes."`
	DiscoveryInterval stdconfig.Duration     `json:"discoveryInterval" doc:"How often every deployment is asked which task types it serves (1s to 1h)."`
	Create            CreateConfig           `json:"create" doc:"What happens while a job cannot be created."`
	Poll              PollConfig             `json:"poll" doc:"What happens while a job cannot be polled, and how often changes are shown."`
	Sync              SyncConfig             `json:"sync" doc:"Synchronous tasks."`
	WebAPI            WebAPIConfig           `json:"webApi" doc:"The web API machinery's own settings: cache, rate limits, resource quotas."`
}

// CreateConfig bounds the time that a task waits for its job to be created.
type CreateConfig struct {
	Deadline       stdconfig.Duration `json:"deadline" doc:"How long a task stays queued while its service cannot take it; then the attempt fails as a system failure, which propeller retries (10s to 168h)."`
	InitialBackoff stdconfig.Duration `json:"initialBackoff" doc:"Pause after the first transient failure; it doubles with each further one (10ms to 1m)."`
	MaxBackoff     stdconfig.Duration `json:"maxBackoff" doc:"The longest pause between two tries (initialBackoff to 10m)."`
}

// PollConfig bounds how long a running task survives an outage of its service.
type PollConfig struct {
	MaxOutage stdconfig.Duration `json:"maxOutage" doc:"How long polls may fail in a row, by time, before the attempt fails as a system failure, which propeller retries (10s to 168h)."`
	// InitialInterval is for jobs that end soon: without it each would take a whole resync interval.
	InitialInterval stdconfig.Duration `json:"initialInterval" doc:"Pause before a new job's second poll; it doubles with every poll, for as long as the first webApi.caching.resyncInterval lasts (100ms to 1h; 0 turns these early polls off)."`
	UpdateInterval  stdconfig.Duration `json:"updateInterval" doc:"Shortest time between two events that only change a running task's message, links or custom info (0s to 1h)."`
}

// SyncConfig bounds synchronous execution.
type SyncConfig struct {
	InlineWait stdconfig.Duration `json:"inlineWait" doc:"How long one round of propeller waits for a call before the call goes on in the background (0s to 1s)."`
	Timeout    stdconfig.Duration `json:"timeout" doc:"Time limit of one synchronous execution; a deployment's timeouts.execute overrides it (1s to 24h)."`
}

// WebAPIConfig is what the web API machinery takes: its webapi.PluginConfig, key by key. The struct is not the machinery's own,
// since that one's package brings every cloud's SDK into programs that only read a configuration. Its meanings are in reference.go.
type WebAPIConfig struct {
	ResourceQuotas   map[string]int    `json:"resourceQuotas"`
	ReadRateLimiter  RateLimiterConfig `json:"readRateLimiter"`
	WriteRateLimiter RateLimiterConfig `json:"writeRateLimiter"`
	Caching          CachingConfig     `json:"caching"`
	// ResourceMeta is a key of the machinery's that an operator cannot use.
	ResourceMeta any `json:"resourceMeta"`
}

// RateLimiterConfig bounds calls a second.
type RateLimiterConfig struct {
	QPS   float64 `json:"qps"`
	Burst int     `json:"burst"`
}

// CachingConfig is the cache of running tasks, which is refreshed by polling.
type CachingConfig struct {
	Size              int                `json:"size"`
	ResyncInterval    stdconfig.Duration `json:"resyncInterval"`
	Workers           int                `json:"workers"`
	MaxSystemFailures int                `json:"maxSystemFailures"`
}

// Deployment is one backend plugin service: its replicas behind one address.
type Deployment struct {
	Endpoint            string                        `json:"endpoint" doc:"Address of the service: host:port or a gRPC target such as dns:///host:port for grpc, an http or https URL for rest, which may have a path that the service's own paths come after."`
	Protocol            Protocol                      `json:"protocol" doc:"grpc or rest; empty means grpc."`
	Insecure            bool                          `json:"insecure" doc:"true speaks plain text. Anything else is TLS."`
	TLS                 TLS                           `json:"tls" doc:"TLS settings; only allowed while insecure is false."`
	Auth                Auth                          `json:"auth" doc:"How propeller shows the service who it is."`
	DefaultTimeout      stdconfig.Duration            `json:"defaultTimeout" doc:"Time limit of a call that timeouts does not name (100ms to 1h); 0 or absent means 10s."`
	Timeouts            map[string]stdconfig.Duration `json:"timeouts" doc:"Time limits by call: create, get, delete, execute, list (100ms to 24h)."`
	MaxMessageSizeBytes int                           `json:"maxMessageSizeBytes" doc:"Largest message sent or received (64 KiB to 2 GiB - 1); 0 or absent means 16 MiB."`
}

// TLS is the transport security of a deployment. Empty paths mean: system CAs, no client certificate.
type TLS struct {
	CAFile     string `json:"caFile" doc:"PEM file with the CAs to trust instead of the system's."`
	CertFile   string `json:"certFile" doc:"PEM file with the client certificate (mTLS); needs keyFile."`
	KeyFile    string `json:"keyFile" doc:"PEM file with the client certificate's key; needs certFile."`
	ServerName string `json:"serverName" doc:"Name to verify the server's certificate against instead of the endpoint's host."`
}

// AuthNone is the only authentication of this version.
const AuthNone = "none"

// Auth is how propeller authenticates to a deployment, beside TLS.
type Auth struct {
	Type string `json:"type" doc:"none. (bearer, oauth2 and serviceAccount are reserved.)"`
}

// Route sends a task type to a deployment. Empty fields match anything.
type Route struct {
	TaskType        string `json:"taskType" doc:"Task type that the route is for."`
	Deployment      string `json:"deployment" doc:"Name of the deployment that serves it."`
	PluginVersion   string `json:"pluginVersion" doc:"Plugin version to use (at most 64 letters, digits and . _ + -); empty means the best that the service registered, or v1."`
	TaskTypeVersion *int32 `json:"taskTypeVersion" doc:"Only for tasks whose template has this task type version (0 or more)."`
	Project         string `json:"project" doc:"Only for this project."`
	Domain          string `json:"domain" doc:"Only for this domain."`
	Mode            Mode   `json:"mode" doc:"async or sync; empty means what the service registered, or async."`
}

// Default gives the defaults: a fresh value on every call. They hold 10,000 running tasks inside one resync interval as
// long as the services answer 1,000 polls a second in all (100 workers, each poll at most 100 ms).
func Default() *Config {
	return &Config{
		AcceptNewTasks: true,
		Deployments: map[string]*Deployment{
			DefaultDeployment: {Endpoint: "dns:///backend-plugin-system.flyte.svc.cluster.local:8000"},
		},
		DiscoveryInterval: duration(10 * time.Second),
		Create: CreateConfig{
			Deadline:       duration(30 * time.Minute),
			InitialBackoff: duration(500 * time.Millisecond),
			MaxBackoff:     duration(15 * time.Second),
		},
		Poll: PollConfig{
			MaxOutage:       duration(time.Hour),
			InitialInterval: duration(500 * time.Millisecond),
			UpdateInterval:  duration(5 * time.Second),
		},
		Sync: SyncConfig{
			InlineWait: duration(500 * time.Millisecond),
			Timeout:    duration(time.Hour),
		},
		WebAPI: WebAPIConfig{
			ReadRateLimiter:  RateLimiterConfig{QPS: 5000, Burst: 10000},
			WriteRateLimiter: RateLimiterConfig{QPS: 1000, Burst: 10000},
			Caching: CachingConfig{
				Size:           500000,
				ResyncInterval: duration(10 * time.Second),
				Workers:        100,
				// The machinery counts sync failures for ever and then stops polling. Ours never reports one to it.
				MaxSystemFailures: 5,
			},
		},
	}
}

func duration(d time.Duration) stdconfig.Duration { return stdconfig.Duration{Duration: d} }

// Fallbacks for keys that a deployment leaves out.
const (
	defaultTimeout        = 10 * time.Second
	defaultMaxMessageSize = 16 << 20
)

// Timeout gives the time limit of a call (one of the Call constants).
func (d *Deployment) Timeout(call string) time.Duration {
	for name, t := range d.Timeouts {
		if strings.EqualFold(name, call) && t.Duration > 0 {
			return t.Duration
		}
	}
	if d.DefaultTimeout.Duration > 0 {
		return d.DefaultTimeout.Duration
	}
	return defaultTimeout
}

// MaxMessageSize gives the largest message in bytes, sent or received.
func (d *Deployment) MaxMessageSize() int {
	if d.MaxMessageSizeBytes > 0 {
		return d.MaxMessageSizeBytes
	}
	return defaultMaxMessageSize
}

// ExecuteTimeout gives the time limit of one synchronous execution at deployment d.
func (c *Config) ExecuteTimeout(d *Deployment) time.Duration {
	for name, t := range d.Timeouts {
		if strings.EqualFold(name, CallExecute) && t.Duration > 0 {
			return t.Duration
		}
	}
	return c.Sync.Timeout.Duration
}

// Canonical is the form in which a deployment's name is matched: flytestdlib lower-cases map keys, so names have no case.
func Canonical(deployment string) string { return strings.ToLower(strings.TrimSpace(deployment)) }

// Deployment finds a deployment by name, without case.
func (c *Config) Deployment(name string) (*Deployment, bool) {
	for n, d := range c.Deployments {
		if Canonical(n) == Canonical(name) && d != nil {
			return d, true
		}
	}
	return nil, false
}

var (
	section = pluginsconfig.MustRegisterSubSectionWithUpdates(SectionKey, Default(), onUpdate)

	handlerMu sync.Mutex
	handler   func(ctx context.Context, cfg *Config)
)

// OnUpdate sets the function that is told of the section's value when configuration is first loaded (after all sections
// are set) and whenever this section changes. One function; a later call replaces it. f may block start-up for as long as
// it runs and cannot refuse a value.
func OnUpdate(f func(ctx context.Context, cfg *Config)) {
	handlerMu.Lock()
	defer handlerMu.Unlock()
	handler = f
}

func onUpdate(ctx context.Context, newValue stdconfig.Config) {
	cfg, ok := newValue.(*Config)
	if !ok {
		return
	}
	handlerMu.Lock()
	f := handler
	handlerMu.Unlock()
	if f != nil {
		f(ctx, cfg)
	}
}

// Get gives the section's current value, valid or not.
func Get() *Config {
	cfg, _ := section.GetConfig().(*Config)
	return cfg
}

// Set replaces the section's value and tells the function set by OnUpdate, as a reload of the file does.
func Set(ctx context.Context, cfg *Config) error {
	if err := section.SetConfig(cfg); err != nil {
		return err
	}
	onUpdate(ctx, cfg)
	return nil
}

package config

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
)

const pemDir = "../../../testdata/config/tls/"

// lines gives the lines of an error, none for nil.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestDefaultIsValid(t *testing.T) {
	require.NoError(t, Default().Validate())
}

func TestNilIsRefused(t *testing.T) {
	var c *Config
	assert.EqualError(t, c.Validate(), "plugins.backend: nil: must be set")
}

func TestValidate(t *testing.T) {
	version := func(v int32) *int32 { return &v }
	tests := []struct {
		reason string
		change func(c *Config)
		// want holds the beginning of each line, in order; none means valid.
		want []string
	}{
		{"the toggle off hides nothing, so that a file can be checked before it is switched on",
			func(c *Config) { c.Enabled = false; c.DiscoveryInterval = duration(0) },
			[]string{"plugins.backend.discoveryInterval: 0s: must be from 1s to 1h"}},
		{"every problem is told at once",
			func(c *Config) {
				c.Create.Deadline = duration(time.Second)
				c.Create.InitialBackoff = duration(0)
				c.Poll.MaxOutage = duration(time.Second)
				c.Poll.InitialInterval = duration(time.Millisecond)
				c.Poll.UpdateInterval = duration(-time.Second)
				c.Sync.InlineWait = duration(2 * time.Second)
				c.Sync.Timeout = duration(25 * time.Hour)
			},
			[]string{
				"plugins.backend.create.deadline: 1s: must be from 10s to 168h",
				"plugins.backend.create.initialBackoff: 0s: must be from 10ms to 1m",
				"plugins.backend.poll.maxOutage: 1s: must be from 10s to 168h",
				"plugins.backend.poll.initialInterval: 1ms: must be from 100ms to 1h",
				"plugins.backend.poll.updateInterval: -1s: must be from 0s to 1h",
				"plugins.backend.sync.inlineWait: 2s: must be from 0s to 1s",
				"plugins.backend.sync.timeout: 25h: must be from 1s to 24h",
			}},
		{"a bare number was meant as seconds",
			func(c *Config) { c.Sync.Timeout = duration(60) },
			[]string{"plugins.backend.sync.timeout: 60ns: must be from 1s to 24h; a number without a unit counts nanoseconds"}},
		{"a backoff cannot shrink", func(c *Config) { c.Create.MaxBackoff = duration(100 * time.Millisecond) },
			[]string{"plugins.backend.create.maxBackoff: 100ms: must be from initialBackoff (500ms) to 10m"}},
		{"a backoff may stay as it is", func(c *Config) { c.Create.MaxBackoff = c.Create.InitialBackoff }, nil},
		{"a wrong initialBackoff does not make maxBackoff wrong too", func(c *Config) {
			c.Create.InitialBackoff = duration(time.Hour)
			c.Create.MaxBackoff = duration(time.Minute)
		},
			[]string{"plugins.backend.create.initialBackoff: 1h: must be from 10ms to 1m"}},
		{"no task waits longer than ten minutes for its next try", func(c *Config) { c.Create.MaxBackoff = duration(time.Hour) },
			[]string{"plugins.backend.create.maxBackoff: 1h: must be from initialBackoff (500ms) to 10m"}},

		{"no deployment at all is useless but harmless", func(c *Config) { c.Deployments = nil }, nil},
		{"a name of one letter is a label", func(c *Config) { c.Deployments["a"] = c.Deployments["default"] }, nil},
		{"the list form keeps case, and names have none", func(c *Config) { c.Deployments["Big"] = c.Deployments["default"] }, nil},
		{"two names that differ only in case cannot be told apart",
			func(c *Config) {
				c.Deployments["Big"] = c.Deployments["default"]
				c.Deployments["big"] = c.Deployments["default"]
			},
			[]string{`plugins.backend.deployments.big: "big": is the same name as "Big"`}},
		{"names become metric labels and keys of a path",
			func(c *Config) {
				for _, n := range []string{"", "-a", "a.b", "a b", strings.Repeat("a", 64)} {
					c.Deployments[n] = c.Deployments["default"]
				}
			},
			[]string{
				`plugins.backend.deployments[""]: "": a deployment must have a name`,
				`plugins.backend.deployments.-a: "-a": the name must be a lower-case label`,
				`plugins.backend.deployments["a b"]: "a b": the name must be`,
				`plugins.backend.deployments["a.b"]: "a.b": the name must be`,
				`plugins.backend.deployments.aaaa`,
			}},
		{"list form with an empty item", func(c *Config) { c.Deployments["big"] = nil },
			[]string{"plugins.backend.deployments.big: nil: must at least have an endpoint"}},

		{"a route needs a task type and a deployment", func(c *Config) { c.Routes = []Route{{}} },
			[]string{
				`plugins.backend.routes[0].taskType: "": must name a task type`,
				`plugins.backend.routes[0].deployment: "": must name a deployment; configured: default`,
			}},
		{"a route cannot go where nothing is", func(c *Config) { c.Deployments = nil; c.Routes = []Route{{TaskType: "a", Deployment: "default"}} },
			[]string{`plugins.backend.routes[0].deployment: "default": there is no such deployment; no deployments are configured`}},
		{"a deployment is found without case", func(c *Config) { c.Routes = []Route{{TaskType: "a", Deployment: "DEFAULT"}} }, nil},
		{"the other fields of a route",
			func(c *Config) {
				c.Routes = []Route{{TaskType: "a b", Deployment: "default", PluginVersion: "v1/../v2", TaskTypeVersion: version(-1),
					Project: "a\n", Domain: " ", Mode: "Async"}}
			},
			[]string{
				`plugins.backend.routes[0].taskType: "a b": must not hold white space`,
				`plugins.backend.routes[0].pluginVersion: "v1/../v2": must be at most 64`,
				`plugins.backend.routes[0].taskTypeVersion: -1: must be 0 or more`,
				`plugins.backend.routes[0].project: "a\n": must not hold white space`,
				`plugins.backend.routes[0].domain: " ": must not hold white space`,
				`plugins.backend.routes[0].mode: "Async": must be async, sync, or empty`,
			}},
		{"routes that differ in any match key are two",
			func(c *Config) {
				c.Routes = []Route{
					{TaskType: "a", Deployment: "default"},
					{TaskType: "b", Deployment: "default", Mode: ModeAsync},
					{TaskType: "a", Deployment: "default", TaskTypeVersion: version(0), Mode: ModeSync, PluginVersion: "v1.2+x_y-z"},
					{TaskType: "a", Deployment: "default", TaskTypeVersion: version(1)},
					{TaskType: "a", Deployment: "default", Project: "p"},
					{TaskType: "a", Deployment: "default", Domain: "p"},
				}
			}, nil},
		{"version and mode are what a route gives, not what it matches",
			func(c *Config) {
				c.Routes = []Route{
					{TaskType: "a", Deployment: "default", TaskTypeVersion: version(2)},
					{TaskType: "a", Deployment: "default", TaskTypeVersion: version(2), PluginVersion: "v2", Mode: ModeSync},
				}
			},
			[]string{`plugins.backend.routes[1]: taskType "a", taskTypeVersion 2, project "", domain "": routes[0] matches the same tasks`}},
		{"node level caching is switched off by the built-in plugin",
			func(c *Config) {
				c.Routes = []Route{{TaskType: "aws-batch", Deployment: "default"}}
				c.TaskTypes = []string{"container_array"}
			},
			[]string{
				`plugins.backend.routes[0].taskType: "aws-batch": must stay with its built-in plugin`,
				`plugins.backend.taskTypes[0]: "container_array": must stay with its built-in plugin`,
			}},
		{"an empty type claims nothing, a repeated one says nothing", func(c *Config) { c.TaskTypes = []string{"", "a", "b", "a"} },
			[]string{
				`plugins.backend.taskTypes[0]: "": must name a task type`,
				`plugins.backend.taskTypes[3]: "a": is already named by taskTypes[1]`,
			}},

		{"below what the machinery takes",
			func(c *Config) { c.WebAPI = WebAPIConfig{Caching: CachingConfig{MaxSystemFailures: -1}} },
			[]string{
				"plugins.backend.webApi.caching.size: 0: must be from 10 to 500000",
				"plugins.backend.webApi.caching.resyncInterval: 0s: must be from 5s to 1h",
				"plugins.backend.webApi.caching.workers: 0: must be from 1 to 10000",
				"plugins.backend.webApi.caching.maxSystemFailures: -1: must be 0 or more",
				"plugins.backend.webApi.readRateLimiter.qps: 0: must be from 1 to 100000",
				"plugins.backend.webApi.readRateLimiter.burst: 0: must be from 5 to 10000",
				"plugins.backend.webApi.writeRateLimiter.qps: 0: must be from 1 to 100000",
				"plugins.backend.webApi.writeRateLimiter.burst: 0: must be from 5 to 10000",
			}},
		{"above what the machinery takes",
			func(c *Config) {
				c.WebAPI.Caching = CachingConfig{Size: 500001, Workers: 10001, ResyncInterval: duration(2 * time.Hour)}
				c.WebAPI.ReadRateLimiter = RateLimiterConfig{QPS: 100000.5, Burst: 10001}
				c.WebAPI.WriteRateLimiter = RateLimiterConfig{QPS: math.NaN(), Burst: 10001}
			},
			[]string{
				"plugins.backend.webApi.caching.size: 500001:",
				"plugins.backend.webApi.caching.resyncInterval: 2h:",
				"plugins.backend.webApi.caching.workers: 10001:",
				"plugins.backend.webApi.readRateLimiter.qps: 100000.5:",
				"plugins.backend.webApi.readRateLimiter.burst: 10001:",
				"plugins.backend.webApi.writeRateLimiter.qps: NaN:",
				"plugins.backend.webApi.writeRateLimiter.burst: 10001:",
			}},
		{"the ends of the machinery's ranges belong to them",
			func(c *Config) {
				c.WebAPI.Caching = CachingConfig{Size: 10, Workers: 10000, ResyncInterval: duration(time.Hour)}
				c.WebAPI.ReadRateLimiter = RateLimiterConfig{QPS: 1, Burst: 5}
				c.WebAPI.WriteRateLimiter = RateLimiterConfig{QPS: 100000, Burst: 10000}
			}, nil},
		{"a quota of none would stop every task",
			func(c *Config) {
				c.WebAPI.ResourceQuotas = map[string]int{"": 1, "b": -1, "c": 1}
				c.WebAPI.ResourceMeta = "anything"
			},
			[]string{
				`plugins.backend.webApi.resourceQuotas[""]: "": the resource namespace must not be empty`,
				"plugins.backend.webApi.resourceQuotas.b: -1: must be 1 or more",
				"plugins.backend.webApi.resourceMeta: (set): must not be set",
			}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			c := Default()
			tt.change(c)
			assertLines(t, tt.want, c.Validate())
		})
	}
}

func assertLines(t *testing.T, want []string, err error) {
	t.Helper()
	got := lines(err)
	if !assert.Len(t, got, len(want), "%v", err) {
		return
	}
	for i := range want {
		assert.Truef(t, strings.HasPrefix(got[i], want[i]), "line %d\n got: %s\nwant: %s", i, got[i], want[i])
	}
}

func TestValidateDeployment(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		d      Deployment
		want   []string // after plugins.backend.deployments.x
	}{
		{"0 means the default", Deployment{Endpoint: "a:1"}, nil},
		{"the ends of the ranges belong to them",
			Deployment{Endpoint: "a:1", DefaultTimeout: duration(time.Hour), MaxMessageSizeBytes: math.MaxInt32,
				Timeouts: map[string]stdconfig.Duration{"Create": duration(24 * time.Hour), "LIST": duration(100 * time.Millisecond)}}, nil},
		{"out of range",
			Deployment{Endpoint: "a:1", DefaultTimeout: duration(2 * time.Hour), MaxMessageSizeBytes: 1024},
			[]string{
				".defaultTimeout: 2h: must be from 100ms to 1h, or 0 for 10s",
				".maxMessageSizeBytes: 1024: must be from 65536 (64 KiB) to 2147483647 (2 GiB - 1), or 0 for 16777216 (16 MiB)",
			}},
		{"negative is not absent", Deployment{Endpoint: "a:1", DefaultTimeout: duration(-time.Second), MaxMessageSizeBytes: -1},
			[]string{".defaultTimeout: -1s:", ".maxMessageSizeBytes: -1:"}},
		{"a time-out of a call that does not exist would have no effect",
			Deployment{Endpoint: "a:1", Timeouts: map[string]stdconfig.Duration{"poll": duration(time.Second), "get": duration(0)}},
			[]string{
				".timeouts.get: 0s: must be from 100ms to 24h",
				".timeouts.poll: 1s: there is no such call; the calls are create, get, delete, execute, list",
			}},
		{"which of the two applies would be chance",
			Deployment{Endpoint: "a:1", Timeouts: map[string]stdconfig.Duration{"get": duration(time.Second), "Get": duration(time.Second)}},
			[]string{`.timeouts.get: 1s: is the same call as "Get"`}},

		{"none said aloud", Deployment{Endpoint: "a:1", Auth: Auth{Type: "none"}}, nil},
		{"reserved words are known, however written", Deployment{Endpoint: "a:1", Auth: Auth{Type: "serviceaccount"}},
			[]string{`.auth.type: "serviceaccount": not available in this version, use none`}},
		{"bearer", Deployment{Endpoint: "a:1", Auth: Auth{Type: "bearer"}}, []string{`.auth.type: "bearer": not available in this version, use none`}},
		{"unknown", Deployment{Endpoint: "a:1", Auth: Auth{Type: "basic"}}, []string{`.auth.type: "basic": is unknown, use none`}},
		{"a token pasted as the type is not repeated in the log", Deployment{Endpoint: "a:1", Auth: Auth{Type: "Bearer eyJhbGciOi"}},
			[]string{`.auth.type: (not shown): is unknown, use none`}},

		{"plain text has no certificates",
			Deployment{Endpoint: "a:1", Insecure: true, TLS: TLS{CAFile: "/a", CertFile: "/b", KeyFile: "/c", ServerName: "d"}},
			[]string{
				`.tls.caFile: "/a": must be empty while insecure is true`,
				`.tls.certFile: "/b": must be empty`,
				`.tls.keyFile: "/c": must be empty`,
				`.tls.serverName: "d": must be empty`,
			}},
		{"all of TLS", Deployment{Endpoint: "a:1", TLS: TLS{CAFile: pemDir + "cert.pem", CertFile: pemDir + "cert.pem", KeyFile: pemDir + "key.pem", ServerName: "d.example.com"}}, nil},
		{"half a key pair", Deployment{Endpoint: "a:1", TLS: TLS{CertFile: pemDir + "cert.pem"}},
			[]string{`.tls.keyFile: "": must be set, because certFile is`}},
		{"the other half", Deployment{Endpoint: "a:1", TLS: TLS{KeyFile: pemDir + "key.pem"}},
			[]string{`.tls.certFile: "": must be set, because keyFile is`}},
		{"files in the wrong places", Deployment{Endpoint: "a:1", TLS: TLS{CAFile: pemDir + "not-pem.txt", CertFile: pemDir + "key.pem", KeyFile: pemDir + "cert.pem"}},
			[]string{
				`.tls.caFile: "` + pemDir + `not-pem.txt": holds no certificate in PEM form`,
				`.tls.certFile: "` + pemDir + `key.pem": is no certificate that goes with keyFile`,
			}},
		{"a path that is not there, and one that is no file", Deployment{Endpoint: "a:1", TLS: TLS{CAFile: "/nowhere/ca.pem", CertFile: "/tmp", KeyFile: "/nowhere/key.pem"}},
			[]string{
				`.tls.caFile: "/nowhere/ca.pem": must be a file that propeller can read: no such file or directory`,
				`.tls.certFile: "/tmp": must be a file`,
				`.tls.keyFile: "/nowhere/key.pem": must be a file that propeller can read`,
			}},
		{"a key pasted in place of its path is not repeated in the log", Deployment{Endpoint: "a:1", TLS: TLS{CertFile: pemDir + "cert.pem", KeyFile: "-----BEGIN PRIVATE KEY-----\nhunter2"}},
			[]string{`.tls.keyFile: (PEM text, not shown): must be the path of a file`}},
		{"a URL is no name to verify", Deployment{Endpoint: "a:1", TLS: TLS{ServerName: "https://a:443"}},
			[]string{`.tls.serverName: "https://a:443": must be a host name`}},

		{"an unknown protocol says nothing of the endpoint's form", Deployment{Endpoint: "whatever", Protocol: "GRPC"},
			[]string{`.protocol: "GRPC": must be grpc (or empty) or rest`}},
		{"but an endpoint there must be", Deployment{Protocol: "http"}, []string{`.protocol: "http"`, `.endpoint: "": must be set`}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			c := Default()
			c.Deployments = map[string]*Deployment{"x": &tt.d}
			want := make([]string, len(tt.want))
			for i, w := range tt.want {
				want[i] = "plugins.backend.deployments.x" + w
			}
			err := c.Validate()
			assertLines(t, want, err)
			if err != nil {
				assert.NotContains(t, err.Error(), "hunter2")
				assert.NotContains(t, err.Error(), "eyJ")
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0))
	if _, err := os.ReadFile(path); err == nil {
		t.Log("running as root, whom no mode keeps out: only the content is refused")
	}
	c := Default()
	c.Deployments["default"].TLS.CAFile = path
	assert.ErrorContains(t, c.Validate(), "plugins.backend.deployments.default.tls.caFile")
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason   string
		endpoint string
		want     string // part of what is said; empty means valid
	}{
		{"as in a Service", "svc.ns.svc.cluster.local:8000", ""},
		{"IPv4", "10.0.0.1:8000", ""},
		{"IPv6", "[::1]:8000", ""},
		{"a host called localhost is no scheme", "localhost:8000", ""},
		{"grpc-go's own resolver", "dns:///svc:8000", ""},
		{"with a name server", "dns://8.8.8.8/svc:8000", ""},
		{"without slashes", "dns:svc:8000", ""},
		{"schemes have no case", "DNS:///svc:8000", ""},
		{"a socket", "unix:///run/plugin.sock", ""},
		{"a relative socket", "unix:plugin.sock", ""},
		{"an abstract socket", "unix-abstract:plugin", ""},
		{"as it is, for tests", "passthrough:///bufnet", ""},

		{"nothing", "", "must be set"},
		{"a URL, as other tools take", "http://svc:8000", "is a URL, but gRPC takes host:port"},
		{"a TLS URL", "https://svc:8000", "is a URL, but gRPC takes host:port"},
		{"a port is not guessed", "svc", "must be host:port"},
		{"a host is not guessed", ":8000", "must be host:port"},
		{"a port is a number", "svc:http", "must be host:port"},
		{"no port 0", "svc:0", "must be host:port"},
		{"no port above", "svc:65536", "must be host:port"},
		{"a host called http has no URL's slashes", "http:8000", ""},
		{"a path is no host", "svc/path:8000", "must be host:port"},
		{"a stray space", "svc:8000 ", "white space"},
		{"a stray newline", "svc:8000\n", "white space"},
		{"dns would quietly take 443", "dns:///svc", "must be dns:///host:port"},
		{"a slash short: svc is taken for the name server", "dns://svc:8000", "must be dns:///host:port"},
		{"dns is a scheme, not a host", "dns:8000", "must be dns:///host:port"},
		{"no target", "passthrough:///", "must be passthrough:///host:port"},
		{"no path", "unix:///", "must be unix:path"},
		{"no path either", "unix:", "must be unix:path"},
		{"a slash short", "unix://run/plugin.sock", "must be unix:path"},
		{"grpc-go has it only with another import", "xds:///svc", "has an unknown scheme"},
		{"a slip", "grpc://svc:8000", "has an unknown scheme"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			c := Default()
			c.Deployments["default"].Endpoint = tt.endpoint
			if tt.want == "" {
				assert.NoError(t, c.Validate())
				return
			}
			err := c.Validate()
			assert.ErrorContains(t, err, "plugins.backend.deployments.default.endpoint: ")
			assert.ErrorContains(t, err, tt.want)
			assert.Len(t, lines(err), 1)
		})
	}
}

func TestRESTEndpoint(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason   string
		endpoint string
		insecure bool
		want     string // part of the error's only line; empty means none
	}{
		{"TLS", "https://svc.example.com", false, ""},
		{"TLS with port and path", "https://svc.example.com:8443/base", false, ""},
		{"plain text said aloud", "http://svc:8000", true, ""},
		{"nothing", "", false, "must be set"},
		{"no URL", "svc:8000", false, "must be a URL"},
		{"no host", "https:///path", false, "must be a URL"},
		{"a bad port", "https://svc:70000", false, "must be a URL"},
		{"another scheme", "ftp://svc", false, "must be a URL"},
		{"plain text not said aloud", "http://svc:8000", false, "is plain text"},
		{"the scheme and insecure disagree", "https://svc:8000", true, "is TLS, but insecure is true"},
		{"credentials belong into auth", "https://me:hunter2@svc", false, "must not hold a user"},
		{"tokens belong into auth", "https://svc?token=hunter2", false, "must not hold a user"},
		{"even a URL that cannot be parsed keeps its password to itself", "https://me:hun:hunter2 /@svc:x%zz", false, "must be a URL"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			c := Default()
			c.Deployments = map[string]*Deployment{"x": {Endpoint: tt.endpoint, Protocol: ProtocolREST, Insecure: tt.insecure}}
			err := c.Validate()
			if tt.want == "" {
				assert.NoError(t, err)
				return
			}
			got := lines(err)
			require.Len(t, got, 1)
			assert.Contains(t, got[0], "plugins.backend.deployments.x.endpoint: ")
			assert.Contains(t, got[0], tt.want)
			assert.NotContains(t, got[0], "hunter2")
		})
	}
}

func TestLongValuesAreCut(t *testing.T) {
	assert.Equal(t, `"`+strings.Repeat("é", 120)+`"...`, quote(strings.Repeat("é", 200)))
}

// The doc tags are what operators read; the constants are what is enforced.
func TestDocTagsStateTheRanges(t *testing.T) {
	tests := []struct {
		in    any
		field string
		want  string
	}{
		{Config{}, "DiscoveryInterval", "(" + rangeDiscoveryInterval.String() + ")"},
		{CreateConfig{}, "Deadline", "(" + rangeCreateDeadline.String() + ")"},
		{CreateConfig{}, "InitialBackoff", "(" + rangeInitialBackoff.String() + ")"},
		{CreateConfig{}, "MaxBackoff", "(initialBackoff to " + short(maxMaxBackoff) + ")"},
		{PollConfig{}, "MaxOutage", "(" + rangeMaxOutage.String() + ")"},
		{PollConfig{}, "InitialInterval", "(" + rangeInitialInterval.String() + "; 0 turns these early polls off)"},
		{PollConfig{}, "UpdateInterval", "(" + rangeUpdateInterval.String() + ")"},
		{SyncConfig{}, "InlineWait", "(" + rangeInlineWait.String() + ")"},
		{SyncConfig{}, "Timeout", "(" + rangeSyncTimeout.String() + ")"},
		{Deployment{}, "DefaultTimeout", "(" + rangeDefaultTimeout.String() + "); 0 or absent means " + short(defaultTimeout)},
		{Deployment{}, "Timeouts", strings.Join(calls, ", ") + " (" + rangeTimeout.String() + ")"},
		{Deployment{}, "MaxMessageSizeBytes", "(64 KiB to 2 GiB - 1); 0 or absent means 16 MiB"},
		{Config{}, "TaskTypes", strings.Join(unclaimable, " and ")},
	}
	for _, tt := range tests {
		t.Run(tt.field, func(t *testing.T) {
			f, ok := reflect.TypeOf(tt.in).FieldByName(tt.field)
			require.True(t, ok)
			assert.Contains(t, f.Tag.Get("doc"), tt.want)
		})
	}
	assert.Equal(t, 64*1024, minMessageSize)
	assert.Equal(t, 2<<30-1, maxMessageSize)
	assert.Equal(t, 16<<20, defaultMaxMessageSize)
}

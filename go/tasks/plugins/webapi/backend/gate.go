package backend

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flyteorg/flyte/flytestdlib/promutils"
)

const (
	// gateLimit is how long the others of a task type are held back at most: the first round can end without its metrics.
	gateLimit = 5 * time.Second
	// gatePause is between two looks at them.
	gatePause = 10 * time.Millisecond
	// gateRest is how long after them the others go: propeller keeps them in a map a moment after it has made them.
	gateRest = 50 * time.Millisecond
)

// gate keeps propeller from telling of the first two tasks of a type at once. Its task handler makes a type's metrics when
// the first round of that type ends that has news, under a lock that its value receiver copies, so that two at once register
// the same metric twice and panic (fetchPluginTaskMetrics in flytepropeller v1.16.8). So the others wait until the metrics are there.
type gate struct {
	made func(key string) bool

	mu       sync.Mutex
	openings map[string]*opening // by the key of a task type's metrics, which two types may share
}

// opening is the gate of a task type.
type opening struct {
	since time.Time
	watch sync.Once
	open  chan struct{}
}

func newGate(made func(key string) bool) *gate {
	return &gate{made: made, openings: map[string]*opening{}}
}

// pass waits until a round of the type may go out: the first one at once, the others when propeller has made the type's metrics.
func (g *gate) pass(ctx context.Context, taskType string) {
	key := metricsKey(taskType)
	g.mu.Lock()
	o, known := g.openings[key]
	if !known {
		o = &opening{since: time.Now(), open: make(chan struct{})}
		g.openings[key] = o
	}
	g.mu.Unlock()
	if !known {
		return
	}
	o.watch.Do(func() { go g.watch(key, o) })
	select {
	case <-o.open:
	case <-ctx.Done():
	}
}

func (g *gate) watch(key string, o *opening) {
	for time.Since(o.since) < gateLimit && !g.made(key) {
		<-time.After(gatePause)
	}
	<-time.After(gateRest)
	close(o.open)
}

var notInKeys = regexp.MustCompile(`[^a-zA-Z0-9_:]`)

// metricsKey is what propeller names the metrics of a task type by.
func metricsKey(taskType string) string {
	return promutils.SanitizeMetricName(notInKeys.ReplaceAllString(taskType+"_"+ID, ""))
}

// metricsMade tells whether propeller, which gave this plugin its scope, has made the metrics of a key.
func metricsMade(scope promutils.Scope) func(key string) bool {
	nodes := strings.TrimSuffix(scope.CurrentScope(), ID+":")
	prefix := strings.TrimSuffix(nodes, "node:") + "plugin:"
	return func(key string) bool { return isRegistered(prefix + key + "_failure") } // which is the last of them
}

// isRegistered tells whether there is a metric of that name, which the registry says at once, and without gathering all, to somebody
// who would register another one.
func isRegistered(name string) bool { return !errors.Is(prometheus.Register(probe(name)), errProbe) }

// probe is a collector that cannot be registered: its first metric is refused when there is one of its name, its second one always.
type probe string

var errProbe = errors.New("only a probe")

func (p probe) Describe(to chan<- *prometheus.Desc) {
	to <- prometheus.NewDesc(string(p), "probe", []string{"probe"}, nil)
	to <- prometheus.NewInvalidDesc(errProbe)
}

func (probe) Collect(chan<- prometheus.Metric) {}

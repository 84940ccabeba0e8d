package backend

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flyteorg/flyte/flytestdlib/promutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils/labeled"
)

const (
	// gateLimit is how long the others of a task type are held back at most: the first round can end without its metrics.
	gateLimit = 5 * time.Second
	// gatePause is how long the metrics are left alone between two looks at them; gathering is work.
	gatePause = 50 * time.Millisecond
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
	<-time.After(gatePause) // propeller keeps them in a map a moment after it has made them
	close(o.open)
}

var notInKeys = regexp.MustCompile(`[^a-zA-Z0-9_:]`)

// metricsKey is what propeller names the metrics of a task type by.
func metricsKey(taskType string) string {
	return promutils.SanitizeMetricName(notInKeys.ReplaceAllString(taskType+"_"+ID, ""))
}

// metricsMade tells whether propeller, in whose scope this plugin has its metrics, has made those of a key.
func metricsMade(scope promutils.Scope) func(key string) bool {
	process, _, _ := strings.Cut(scope.CurrentScope(), ":")
	return func(key string) bool {
		last := ":plugin:" + labeled.GetUnlabeledMetricName(key+"_failure") // of those that show before they count anything
		families, _ := prometheus.DefaultGatherer.Gather()                  // with whatever can be gathered
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), process+":") && strings.HasSuffix(f.GetName(), last) {
				return true
			}
		}
		return false
	}
}

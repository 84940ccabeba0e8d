package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
)

// The ranges that values must lie in. The doc tags in config.go state the same ranges in words; a test holds the two
// together.
var (
	rangeDiscoveryInterval = durationRange{time.Second, time.Hour}
	rangeCreateDeadline    = durationRange{10 * time.Second, 168 * time.Hour}
	rangeInitialBackoff    = durationRange{10 * time.Millisecond, time.Minute}
	rangeMaxOutage         = durationRange{10 * time.Second, 168 * time.Hour}
	rangeInitialInterval   = durationRange{100 * time.Millisecond, time.Hour}
	rangeUpdateInterval    = durationRange{0, time.Hour}
	rangeInlineWait        = durationRange{0, time.Second}
	rangeSyncTimeout       = durationRange{time.Second, 24 * time.Hour}
	rangeDefaultTimeout    = durationRange{100 * time.Millisecond, time.Hour}
	rangeTimeout           = durationRange{100 * time.Millisecond, 24 * time.Hour}
)

const (
	maxMaxBackoff = 10 * time.Minute

	minMessageSize = 64 << 10
	maxMessageSize = math.MaxInt32
)

// What flyteplugins' web API machinery takes (go/tasks/pluginmachinery/internal/webapi/core.go, v1.16.8). It refuses
// anything else too, but only while propeller sets plugins up, and without saying which key is meant.
const (
	minCacheSize = 10
	maxCacheSize = 500000
	minWorkers   = 1
	maxWorkers   = 10000
	minBurst     = 5
	maxBurst     = 10000
	minQPS       = 1
	maxQPS       = 100000
)

var rangeResyncInterval = durationRange{5 * time.Second, time.Hour}

// unclaimable are the task types whose built-in plugins set DisableNodeLevelCaching. Propeller reads that from whichever
// plugin owns the type, so owning them here would change how their tasks are cached even while the built-in runs them.
var unclaimable = []string{"container_array", "aws-batch"}

// Claimable says whether the plugin may own a task type; container_array and aws-batch it may not.
func Claimable(taskType string) bool { return !slices.Contains(unclaimable, taskType) }

// calls are the names that timeouts may have.
var calls = []string{CallCreate, CallGet, CallDelete, CallExecute, CallList}

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// sectionPath is how an operator finds the section in the file.
const sectionPath = "plugins." + SectionKey

// Validate says whether the plugin can work with c. The error holds every problem, a line each: the key, the value
// (unless it could be a secret), and what would be right. It checks everything whether or not the toggle is on, and reads
// the TLS files, so it may block for as long as a file read does. It may be called again and at once.
func (c *Config) Validate() error {
	var p problems
	if c == nil {
		p.add(sectionPath, "nil", "must be set")
		return p.err()
	}

	p.duration(sectionPath+".discoveryInterval", c.DiscoveryInterval.Duration, rangeDiscoveryInterval)
	c.validateCreate(&p)
	p.duration(sectionPath+".poll.maxOutage", c.Poll.MaxOutage.Duration, rangeMaxOutage)
	if c.Poll.InitialInterval.Duration != 0 {
		p.duration(sectionPath+".poll.initialInterval", c.Poll.InitialInterval.Duration, rangeInitialInterval)
	}
	p.duration(sectionPath+".poll.updateInterval", c.Poll.UpdateInterval.Duration, rangeUpdateInterval)
	p.duration(sectionPath+".sync.inlineWait", c.Sync.InlineWait.Duration, rangeInlineWait)
	p.duration(sectionPath+".sync.timeout", c.Sync.Timeout.Duration, rangeSyncTimeout)
	c.validateDeployments(&p)
	c.validateRoutes(&p)
	c.validateTaskTypes(&p)
	c.validateWebAPI(&p)
	return p.err()
}

func (c *Config) validateCreate(p *problems) {
	const key = sectionPath + ".create"
	p.duration(key+".deadline", c.Create.Deadline.Duration, rangeCreateDeadline)
	p.duration(key+".initialBackoff", c.Create.InitialBackoff.Duration, rangeInitialBackoff)
	// A wrong initialBackoff has its own line; as the lower bound here it would only give a confusing second one.
	least := min(max(c.Create.InitialBackoff.Duration, rangeInitialBackoff.min), rangeInitialBackoff.max)
	if d := c.Create.MaxBackoff.Duration; d < least || d > maxMaxBackoff {
		p.add(key+".maxBackoff", short(d), "must be from initialBackoff (%s) to %s%s", short(least), short(maxMaxBackoff), unitHint(d))
	}
}

func (c *Config) validateRoutes(p *problems) {
	type match struct {
		taskType, version, project, domain string
	}
	first := map[match]int{}
	for i, r := range c.Routes {
		key := fmt.Sprintf("%s.routes[%d]", sectionPath, i)
		p.taskType(key+".taskType", r.TaskType)
		switch _, ok := c.Deployment(r.Deployment); {
		case r.Deployment == "":
			p.add(key+".deployment", `""`, "must name a deployment; %s", c.knownDeployments())
		case !ok:
			p.add(key+".deployment", quote(r.Deployment), "there is no such deployment; %s", c.knownDeployments())
		}
		if r.PluginVersion != "" && !pluginversion.Valid(r.PluginVersion) {
			p.add(key+".pluginVersion", quote(r.PluginVersion), "must be at most 64 letters, digits and . _ + -, as in v1, or empty for the best version")
		}
		version := "any"
		if v := r.TaskTypeVersion; v != nil {
			version = strconv.Itoa(int(*v))
			if *v < 0 {
				p.add(key+".taskTypeVersion", version, "must be 0 or more; leave the key out to match any version")
			}
		}
		p.word(key+".project", r.Project)
		p.word(key+".domain", r.Domain)
		if r.Mode != "" && r.Mode != ModeAsync && r.Mode != ModeSync {
			p.add(key+".mode", quote(r.Mode), "must be %s, %s, or empty for what the service registered", ModeAsync, ModeSync)
		}

		m := match{r.TaskType, version, r.Project, r.Domain}
		if j, taken := first[m]; taken {
			p.add(key, fmt.Sprintf("taskType %q, taskTypeVersion %s, project %q, domain %q", r.TaskType, version, r.Project, r.Domain),
				"routes[%d] matches the same tasks; keep one of the two", j)
		} else {
			first[m] = i
		}
	}
}

func (c *Config) validateTaskTypes(p *problems) {
	first := map[string]int{}
	for i, t := range c.TaskTypes {
		key := fmt.Sprintf("%s.taskTypes[%d]", sectionPath, i)
		p.taskType(key, t)
		if j, taken := first[t]; taken {
			p.add(key, quote(t), "is already named by taskTypes[%d]; name a task type once", j)
		} else {
			first[t] = i
		}
	}
}

func (c *Config) validateWebAPI(p *problems) {
	const key = sectionPath + ".webApi"
	w := c.WebAPI
	p.count(key+".caching.size", w.Caching.Size, minCacheSize, maxCacheSize)
	p.duration(key+".caching.resyncInterval", w.Caching.ResyncInterval.Duration, rangeResyncInterval)
	p.count(key+".caching.workers", w.Caching.Workers, minWorkers, maxWorkers)
	if n := w.Caching.MaxSystemFailures; n < 0 {
		p.add(key+".caching.maxSystemFailures", strconv.Itoa(n), "must be 0 or more")
	}
	p.qps(key+".readRateLimiter.qps", w.ReadRateLimiter.QPS)
	p.count(key+".readRateLimiter.burst", w.ReadRateLimiter.Burst, minBurst, maxBurst)
	p.qps(key+".writeRateLimiter.qps", w.WriteRateLimiter.QPS)
	p.count(key+".writeRateLimiter.burst", w.WriteRateLimiter.Burst, minBurst, maxBurst)
	for _, namespace := range slices.Sorted(maps.Keys(w.ResourceQuotas)) {
		quotaKey := member(key+".resourceQuotas", namespace)
		if strings.TrimSpace(namespace) == "" {
			p.add(quotaKey, quote(namespace), "the resource namespace must not be empty")
		}
		if n := w.ResourceQuotas[namespace]; n <= 0 {
			p.add(quotaKey, strconv.Itoa(n), "must be 1 or more; leave the namespace out for no quota")
		}
	}
	if w.ResourceMeta != nil {
		p.add(key+".resourceMeta", "(set)", "must not be set: the type of the resource meta is the plugin's own, not the operator's")
	}
}

func (c *Config) knownDeployments() string {
	if len(c.Deployments) == 0 {
		return "no deployments are configured"
	}
	return "configured: " + strings.Join(slices.Sorted(maps.Keys(c.Deployments)), ", ")
}

// problems collects what is wrong, so that an operator mends a file in one go.
type problems []error

func (p *problems) add(key, value, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %s: %s", key, value, fmt.Sprintf(format, args...)))
}

func (p *problems) err() error { return errors.Join(*p...) }

func (p *problems) duration(key string, d time.Duration, r durationRange) {
	if d < r.min || d > r.max {
		p.add(key, short(d), "must be from %s%s", r, unitHint(d))
	}
}

func (p *problems) count(key string, n, least, most int) {
	if n < least || n > most {
		p.add(key, strconv.Itoa(n), "must be from %d to %d", least, most)
	}
}

func (p *problems) qps(key string, qps float64) {
	// Put this way round because YAML can say .nan, which is neither below nor above anything.
	if !(qps >= minQPS && qps <= maxQPS) {
		p.add(key, strconv.FormatFloat(qps, 'g', -1, 64), "must be from %d to %d", minQPS, maxQPS)
	}
}

func (p *problems) taskType(key, t string) {
	switch {
	case t == "":
		p.add(key, `""`, "must name a task type, as in bigquery_query_job_task")
	case !Claimable(t):
		p.add(key, quote(t), "must stay with its built-in plugin, which disables node level caching; propeller treats it specially")
	default:
		p.word(key, t)
	}
}

func (p *problems) word(key, s string) {
	if strings.ContainsFunc(s, notInWord) {
		p.add(key, quote(s), "must not hold white space or control characters")
	}
}

func notInWord(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// durationRange is what a duration may be, both ends included.
type durationRange struct{ min, max time.Duration }

func (r durationRange) String() string { return short(r.min) + " to " + short(r.max) }

// short writes a duration as people do in the file: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// unitHint explains the commonest wrong duration: `timeout: 10`, which flytestdlib reads as 10 ns.
func unitHint(d time.Duration) string {
	if d == 0 || d.Abs() >= time.Millisecond {
		return ""
	}
	return "; a number without a unit counts nanoseconds, write a string such as 10s"
}

// member is the path of the map entry called name; a name that would be misread in a dotted path is quoted.
func member(path, name string) string {
	if strings.TrimSpace(name) == "" || strings.ContainsFunc(name, func(r rune) bool { return r == '.' || notInWord(r) }) {
		return path + "[" + quote(name) + "]"
	}
	return path + "." + name
}

// quote shows a value; a value can be a whole file pasted into the wrong key, so it shows no more than a line of it.
func quote(s string) string {
	const most = 120
	if runes := []rune(s); len(runes) > most {
		return strconv.Quote(string(runes[:most])) + "..."
	}
	return strconv.Quote(s)
}

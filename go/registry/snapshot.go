// Package registry knows which backend plugin service takes which task: from the configured routes and from what the
// services say of themselves. Readers see one immutable snapshot at a time.
package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// Query describes a task that looks for its plugin.
type Query struct {
	TaskType        string
	TaskTypeVersion int32
	Project, Domain string
}

// Decision is the plugin that takes a task.
type Decision struct {
	Deployment    string
	PluginVersion string
	Mode          client.Mode
	// Routed tells that a route decided, not discovery.
	Routed bool
	// Reason says in a few words why, for people.
	Reason string
}

// Health is how a deployment answered when it was last asked for its registrations.
type Health struct {
	// LastSeen is when it last answered; zero if it never has.
	LastSeen time.Time
	// Err is why the latest question failed, nil when it was answered.
	Err error
}

// Conflict is two deployments that offer the same thing; Winner was chosen by name.
type Conflict struct {
	TaskType, PluginVersion string
	Winner, Loser           string
}

func (c Conflict) String() string {
	return fmt.Sprintf("task type %s (%s) is served by both %s and %s: %s is used; a route decides otherwise",
		c.TaskType, c.PluginVersion, c.Winner, c.Loser, c.Winner)
}

type offer struct {
	deployment string
	reg        client.Registration
}

// Snapshot is an immutable view of routes and registrations.
type Snapshot struct {
	routes []config.Route // most specific first
	offers map[string][]offer
	health map[string]Health
}

// newSnapshot orders everything so that the same input always resolves in the same way.
func newSnapshot(routes []config.Route, regs map[string][]client.Registration, health map[string]Health) *Snapshot {
	s := &Snapshot{routes: slices.Clone(routes), offers: map[string][]offer{}, health: health}
	slices.SortStableFunc(s.routes, func(a, b config.Route) int { return cmp.Compare(specificity(b), specificity(a)) })
	for deployment, list := range regs {
		for _, r := range list {
			s.offers[r.TaskType] = append(s.offers[r.TaskType], offer{deployment, r})
		}
	}
	for _, list := range s.offers {
		slices.SortFunc(list, func(a, b offer) int {
			return cmp.Or(
				-pluginversion.Compare(a.reg.PluginVersion, b.reg.PluginVersion),
				cmp.Compare(a.deployment, b.deployment),
				cmp.Compare(a.reg.Mode, b.reg.Mode),
				slices.Compare(a.reg.TaskTypeVersions, b.reg.TaskTypeVersions),
				cmp.Compare(a.reg.Name, b.reg.Name))
		})
	}
	return s
}

// specificity counts what a route demands; project and domain weigh more than the template's version.
func specificity(r config.Route) int {
	n := 0
	if r.Project != "" {
		n += 4
	}
	if r.Domain != "" {
		n += 2
	}
	if r.TaskTypeVersion != nil {
		n++
	}
	return n
}

func matches(r config.Route, q Query) bool {
	return r.TaskType == q.TaskType &&
		(r.Project == "" || r.Project == q.Project) &&
		(r.Domain == "" || r.Domain == q.Domain) &&
		(r.TaskTypeVersion == nil || *r.TaskTypeVersion == q.TaskTypeVersion)
}

// Resolve finds the plugin for a task: the most specific route, else what the services registered. Among registrations one
// that names the task type version beats one that takes any, then the highest plugin version wins, then the deployment
// whose name sorts first.
func (s *Snapshot) Resolve(q Query) (Decision, bool) {
	for _, r := range s.routes {
		if matches(r, q) {
			return s.routed(r, q), true
		}
	}
	best, found := s.best(q, "", "")
	if !found {
		return Decision{}, false
	}
	return Decision{
		Deployment: best.deployment, PluginVersion: best.reg.PluginVersion, Mode: best.reg.Mode,
		Reason: "registered by " + best.deployment,
	}, true
}

// routed completes a route by what its deployment registered. The route holds even if the service has not answered yet or
// does not list the type: explicit beats discovery.
func (s *Snapshot) routed(r config.Route, q Query) Decision {
	d := Decision{
		Deployment: config.Canonical(r.Deployment), PluginVersion: r.PluginVersion, Routed: true,
		Reason: "routed to " + config.Canonical(r.Deployment),
	}
	best, found := s.best(q, d.Deployment, r.PluginVersion)
	switch {
	case found:
		d.PluginVersion, d.Mode = best.reg.PluginVersion, best.reg.Mode
	case d.PluginVersion == "":
		d.PluginVersion = config.DefaultPluginVersion
	}
	switch r.Mode {
	case config.ModeSync:
		d.Mode = client.Sync
	case config.ModeAsync:
		d.Mode = client.Async
	}
	return d
}

// best relies on the order of newSnapshot. Empty deployment and version match all.
func (s *Snapshot) best(q Query, deployment, pluginVersion string) (offer, bool) {
	var found offer
	ok := false
	for _, o := range s.offers[q.TaskType] {
		if (deployment != "" && o.deployment != deployment) || (pluginVersion != "" && o.reg.PluginVersion != pluginVersion) {
			continue
		}
		takes, exact := o.reg.Takes(q.TaskTypeVersion)
		if exact {
			return o, true
		}
		if takes && !ok {
			found, ok = o, true
		}
	}
	return found, ok
}

// TaskTypes gives every type that a route or a registration names, sorted.
func (s *Snapshot) TaskTypes() []string {
	seen := map[string]bool{}
	for _, r := range s.routes {
		seen[r.TaskType] = true
	}
	for t := range s.offers {
		seen[t] = true
	}
	return sortedKeys(seen)
}

// Unanswered gives the deployments that have never answered, sorted.
func (s *Snapshot) Unanswered() []string {
	silent := map[string]bool{}
	for name, h := range s.health {
		if h.LastSeen.IsZero() {
			silent[name] = true
		}
	}
	return sortedKeys(silent)
}

// Health gives how each deployment answered last. The map is the caller's.
func (s *Snapshot) Health() map[string]Health { return maps.Clone(s.health) }

// Conflicts gives the registrations that lose only because of their deployment's name, each with the one that is used in
// its place. A task type that a route decides for every task has none.
func (s *Snapshot) Conflicts() []Conflict {
	type claim struct {
		pluginVersion   string
		any             bool
		taskTypeVersion int32
	}
	var out []Conflict
	for _, t := range sortedKeys(s.offers) {
		if slices.ContainsFunc(s.routes, func(r config.Route) bool { return r.TaskType == t && specificity(r) == 0 }) {
			continue
		}
		holders, told := map[claim]string{}, map[Conflict]bool{}
		for _, o := range s.offers[t] {
			claims := []claim{{pluginVersion: o.reg.PluginVersion, any: true}}
			if len(o.reg.TaskTypeVersions) > 0 {
				claims = claims[:0]
				for _, v := range o.reg.TaskTypeVersions {
					claims = append(claims, claim{pluginVersion: o.reg.PluginVersion, taskTypeVersion: v})
				}
			}
			for _, c := range claims {
				holder, held := holders[c]
				if !held {
					holders[c] = o.deployment
					continue
				}
				conflict := Conflict{TaskType: t, PluginVersion: o.reg.PluginVersion, Winner: holder, Loser: o.deployment}
				if holder != o.deployment && !told[conflict] {
					told[conflict] = true
					out = append(out, conflict)
				}
			}
		}
	}
	return out
}

// lines describes the snapshot one fact a line, for the difference between two of them.
func (s *Snapshot) lines() []string {
	var out []string
	for _, list := range s.offers {
		for _, o := range list {
			out = append(out, o.deployment+": "+o.reg.String())
		}
	}
	for _, r := range s.routes {
		out = append(out, "route: "+describe(r))
	}
	for name, h := range s.health {
		if h.Err != nil {
			out = append(out, name+": does not answer")
		}
	}
	for _, c := range s.Conflicts() {
		out = append(out, "conflict: "+c.String())
	}
	slices.Sort(out)
	return out
}

func describe(r config.Route) string {
	var b strings.Builder
	b.WriteString(r.TaskType)
	if r.TaskTypeVersion != nil {
		fmt.Fprintf(&b, " version %d", *r.TaskTypeVersion)
	}
	if r.Project != "" {
		b.WriteString(" in project " + r.Project)
	}
	if r.Domain != "" {
		b.WriteString(" in domain " + r.Domain)
	}
	b.WriteString(" to " + r.Deployment)
	if r.PluginVersion != "" {
		b.WriteString(" plugin version " + r.PluginVersion)
	}
	if r.Mode != "" {
		b.WriteString(", " + r.Mode)
	}
	return b.String()
}

// difference gives the lines of next that prev lacks with a "+", and the reverse with a "-".
func difference(prev, next *Snapshot) []string {
	var before []string
	if prev != nil {
		before = prev.lines()
	}
	after := next.lines()
	var out []string
	for _, l := range before {
		if _, found := slices.BinarySearch(after, l); !found {
			out = append(out, "- "+l)
		}
	}
	for _, l := range after {
		if _, found := slices.BinarySearch(before, l); !found {
			out = append(out, "+ "+l)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

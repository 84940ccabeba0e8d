package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	query := Query{TaskType: "t", TaskTypeVersion: 2, Project: "p", Domain: "d"}
	tests := []struct {
		reason string
		routes []config.Route
		regs   offers
		want   Decision // without its reason and what that says
		none   bool
	}{
		{reason: "nobody serves it", regs: offers{"a": {reg("other", "v1")}}, none: true},
		{reason: "somebody does", regs: offers{"a": {reg("t", "v1")}}, want: Decision{Deployment: "a", PluginVersion: "v1"}},
		{reason: "only for other template versions", regs: offers{"a": {reg("t", "v1", 1, 3)}}, none: true},
		{reason: "the mode is the registration's", regs: offers{"a": {syncReg("t", "v1")}}, want: Decision{Deployment: "a", PluginVersion: "v1", Mode: client.Sync}},
		{reason: "an exact version beats any, whatever the plugin version and name", regs: offers{"a": {reg("t", "v9")}, "b": {reg("t", "v1", 2)}},
			want: Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "then the highest plugin version, in natural order", regs: offers{"a": {reg("t", "v9")}, "b": {reg("t", "v10")}},
			want: Decision{Deployment: "b", PluginVersion: "v10"}},
		{reason: "among exact ones too", regs: offers{"a": {reg("t", "v2", 2), reg("t", "v10", 1, 2), reg("t", "v11", 1)}},
			want: Decision{Deployment: "a", PluginVersion: "v10"}},
		{reason: "then the name", regs: offers{"b": {reg("t", "v1")}, "a": {reg("t", "v1")}}, want: Decision{Deployment: "a", PluginVersion: "v1"}},
		{reason: "then async", regs: offers{"a": {syncReg("t", "v1"), reg("t", "v1")}}, want: Decision{Deployment: "a", PluginVersion: "v1"}},
		{reason: "a route beats discovery, even the better one", routes: []config.Route{{TaskType: "t", Deployment: "b"}},
			regs: offers{"a": {reg("t", "v9", 2)}, "b": {reg("t", "v1")}}, want: Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "a route of another type does not", routes: []config.Route{{TaskType: "other", Deployment: "b"}},
			regs: offers{"a": {reg("t", "v1")}}, want: Decision{Deployment: "a", PluginVersion: "v1"}},
		{reason: "a route's deployment may be written in any case", routes: []config.Route{{TaskType: "t", Deployment: " Big"}},
			regs: offers{"big": {syncReg("t", "v3")}}, want: Decision{Deployment: "big", PluginVersion: "v3", Mode: client.Sync}},
		{reason: "a route holds although its deployment has registered nothing yet", routes: []config.Route{{TaskType: "t", Deployment: "b"}},
			want: Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "and for a template version that the deployment does not list", routes: []config.Route{{TaskType: "t", Deployment: "b"}},
			regs: offers{"b": {reg("t", "v3", 7)}}, want: Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "a route takes the best of its deployment", routes: []config.Route{{TaskType: "t", Deployment: "b"}},
			regs: offers{"b": {reg("t", "v2"), reg("t", "v10"), reg("t", "v3")}}, want: Decision{Deployment: "b", PluginVersion: "v10"}},
		{reason: "a route may name the plugin version", routes: []config.Route{{TaskType: "t", Deployment: "b", PluginVersion: "v2"}},
			regs: offers{"b": {syncReg("t", "v2"), reg("t", "v10")}}, want: Decision{Deployment: "b", PluginVersion: "v2", Mode: client.Sync}},
		{reason: "also one that is not registered", routes: []config.Route{{TaskType: "t", Deployment: "b", PluginVersion: "v5"}},
			regs: offers{"b": {reg("t", "v2")}}, want: Decision{Deployment: "b", PluginVersion: "v5"}},
		{reason: "a route may make it sync", routes: []config.Route{{TaskType: "t", Deployment: "b", Mode: config.ModeSync}},
			regs: offers{"b": {reg("t", "v2")}}, want: Decision{Deployment: "b", PluginVersion: "v2", Mode: client.Sync}},
		{reason: "or async", routes: []config.Route{{TaskType: "t", Deployment: "b", Mode: config.ModeAsync}},
			regs: offers{"b": {syncReg("t", "v2")}}, want: Decision{Deployment: "b", PluginVersion: "v2"}},
		{reason: "the most specific route: version beats nothing",
			routes: []config.Route{{TaskType: "t", Deployment: "a"}, {TaskType: "t", Deployment: "b", TaskTypeVersion: i32(2)}},
			want:   Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "domain beats version",
			routes: []config.Route{{TaskType: "t", Deployment: "a", TaskTypeVersion: i32(2)}, {TaskType: "t", Deployment: "b", Domain: "d"}},
			want:   Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "project beats domain and version together",
			routes: []config.Route{{TaskType: "t", Deployment: "a", Domain: "d", TaskTypeVersion: i32(2)}, {TaskType: "t", Deployment: "b", Project: "p"}},
			want:   Decision{Deployment: "b", PluginVersion: "v1"}},
		{reason: "routes for others do not count",
			routes: []config.Route{
				{TaskType: "t", Deployment: "a", Project: "q"}, {TaskType: "t", Deployment: "a", Domain: "e"},
				{TaskType: "t", Deployment: "a", TaskTypeVersion: i32(3)}, {TaskType: "t", Deployment: "b"},
			},
			want: Decision{Deployment: "b", PluginVersion: "v1"}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			got, ok := snapshot(tt.routes, tt.regs).Resolve(query)
			require.Equal(t, !tt.none, ok)
			if ok {
				assert.Contains(t, got.Reason, tt.want.Deployment)
				assert.Equal(t, strings.HasPrefix(got.Reason, "routed to"), got.Routed)
			}
			got.Reason, got.Routed = "", false
			assert.Equal(t, tt.want, got)
		})
	}
}

// The same registrations in any order resolve in the same way: replicas list in any order, and maps have none.
func TestResolveIsDeterministic(t *testing.T) {
	t.Parallel()
	var all []config.Route
	regs := offers{}
	for _, d := range []string{"a", "b", "c"} {
		for _, v := range []string{"v1", "v01", "v001", "v9", "v10", "v10-rc", "1.2.10", "1.2.9"} {
			for _, versions := range [][]int32{nil, {1}, {1, 2}, {2}} {
				for _, name := range []string{"x", "y"} {
					regs[d] = append(regs[d],
						client.Registration{Name: name, TaskType: "t", PluginVersion: v, TaskTypeVersions: versions},
						client.Registration{Name: name, TaskType: "u", PluginVersion: v, TaskTypeVersions: versions, Mode: client.Sync})
				}
			}
		}
	}
	for _, p := range []string{"", "p"} {
		for _, d := range []string{"", "d"} {
			for _, v := range []*int32{nil, i32(1)} {
				all = append(all, config.Route{TaskType: "r", Deployment: "b", Project: p, Domain: d, TaskTypeVersion: v, PluginVersion: fmt.Sprintf("v%d", len(all))})
			}
		}
	}
	ask := func(s *Snapshot) []Decision {
		var out []Decision
		for _, taskType := range []string{"t", "u", "r"} {
			for v := range int32(4) {
				for _, project := range []string{"p", "q"} {
					d, _ := s.Resolve(Query{TaskType: taskType, TaskTypeVersion: v, Project: project, Domain: "d"})
					out = append(out, d)
				}
			}
		}
		return out
	}
	first := snapshot(all, regs)
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		shuffled := offers{}
		for d, list := range regs {
			list = slices.Clone(list)
			random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			shuffled[d] = list
		}
		routes := slices.Clone(all)
		random.Shuffle(len(routes), func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
		next := snapshot(routes, shuffled)
		require.Equal(t, ask(first), ask(next))
		require.Equal(t, first.offers, next.offers)
		require.Equal(t, first.Conflicts(), next.Conflicts())
		require.Empty(t, difference(first, next))
	}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		routes []config.Route
		regs   offers
		want   []Conflict
	}{
		{reason: "one deployment has none", regs: offers{"a": {reg("t", "v1"), reg("t", "v1"), syncReg("t", "v1")}}},
		{reason: "two that take any", regs: offers{"b": {reg("t", "v1")}, "a": {reg("t", "v1")}}, want: []Conflict{{"t", "v1", "a", "b"}}},
		{reason: "other plugin versions differ by more than their name", regs: offers{"a": {reg("t", "v1")}, "b": {reg("t", "v2")}}},
		{reason: "so do an exact version and any", regs: offers{"a": {reg("t", "v1")}, "b": {reg("t", "v1", 1)}}},
		{reason: "and versions that do not overlap", regs: offers{"a": {reg("t", "v1", 1, 2)}, "b": {reg("t", "v1", 3)}}},
		{reason: "versions that do", regs: offers{"a": {reg("t", "v1", 1, 2)}, "b": {reg("t", "v1", 2, 3)}}, want: []Conflict{{"t", "v1", "a", "b"}}},
		{reason: "two overlaps are one conflict", regs: offers{"a": {reg("t", "v1", 1, 2)}, "b": {reg("t", "v1", 1, 2)}}, want: []Conflict{{"t", "v1", "a", "b"}}},
		{reason: "of three the first is used, whichever pair one looks at", regs: offers{"a": {reg("t", "v1")}, "b": {reg("t", "v1")}, "c": {reg("t", "v1")}},
			want: []Conflict{{"t", "v1", "a", "b"}, {"t", "v1", "a", "c"}}},
		{reason: "with another between them in the order", regs: offers{"a": {reg("t", "v1", 1)}, "b": {reg("t", "v1", 2)}, "c": {reg("t", "v1", 1)}},
			want: []Conflict{{"t", "v1", "a", "c"}}},
		{reason: "the loser of one version can win another", regs: offers{"a": {reg("t", "v1", 1)}, "b": {reg("t", "v1", 1, 2)}, "c": {reg("t", "v1", 2)}},
			want: []Conflict{{"t", "v1", "a", "b"}, {"t", "v1", "b", "c"}}},
		{reason: "types in order", regs: offers{"a": {reg("u", "v1"), reg("t", "v1")}, "b": {reg("t", "v1"), reg("u", "v1")}},
			want: []Conflict{{"t", "v1", "a", "b"}, {"u", "v1", "a", "b"}}},
		{reason: "a route has decided", routes: []config.Route{{TaskType: "t", Deployment: "b"}}, regs: offers{"a": {reg("t", "v1")}, "b": {reg("t", "v1")}}},
		{reason: "a route for one project has not", routes: []config.Route{{TaskType: "t", Deployment: "b", Project: "p"}},
			regs: offers{"a": {reg("t", "v1")}, "b": {reg("t", "v1")}}, want: []Conflict{{"t", "v1", "a", "b"}}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			s := snapshot(tt.routes, tt.regs)
			assert.Equal(t, tt.want, s.Conflicts())
			// What a conflict says of the winner is what Resolve does.
			for _, c := range s.Conflicts() {
				assert.Contains(t, c.String(), c.Winner+" is used")
			}
		})
	}
}

func TestDifference(t *testing.T) {
	t.Parallel()
	answered, silent := Health{LastSeen: time.Unix(1, 0)}, Health{LastSeen: time.Unix(1, 0), Err: errors.New("down")}
	route := config.Route{TaskType: "t", Deployment: "a", TaskTypeVersion: i32(1), Project: "p", Domain: "d", PluginVersion: "v2", Mode: config.ModeSync}
	build := func(h Health, routes []config.Route, regs offers) *Snapshot {
		return newSnapshot(routes, regs, map[string]Health{"a": h})
	}
	tests := []struct {
		reason     string
		prev, next *Snapshot
		want       []string
	}{
		{"everything is new at first", nil, build(answered, nil, offers{"a": {reg("t", "v1")}}), []string{"+ a: t (v1, any version, async)"}},
		{"the same again", build(answered, nil, offers{"a": {reg("t", "v1")}}), build(answered, nil, offers{"a": {reg("t", "v1")}}), nil},
		{"answered later is no difference", build(answered, nil, nil), build(Health{LastSeen: time.Unix(2, 0)}, nil, nil), nil},
		{"another version", build(answered, nil, offers{"a": {reg("t", "v1")}}), build(answered, nil, offers{"a": {reg("t", "v2", 1)}}),
			[]string{"- a: t (v1, any version, async)", "+ a: t (v2, version 1, async)"}},
		{"an outage begins", build(answered, nil, nil), build(silent, nil, nil), []string{"+ a: does not answer"}},
		{"an outage ends", build(silent, nil, nil), build(answered, nil, nil), []string{"- a: does not answer"}},
		{"another reason is the same outage", build(silent, nil, nil), build(Health{Err: errors.New("still down")}, nil, nil), nil},
		{"a route", build(answered, nil, nil), build(answered, []config.Route{route}, nil),
			[]string{"+ route: t version 1 in project p in domain d to a plugin version v2, sync"}},
		{"a conflict", build(answered, nil, offers{"a": {reg("t", "v1")}}), build(answered, nil, offers{"a": {reg("t", "v1")}, "b": {reg("t", "v1")}}),
			[]string{"+ b: t (v1, any version, async)", "+ conflict: task type t (v1) is served by both a and b: a is used; a route decides otherwise"}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, difference(tt.prev, tt.next)) })
	}
}

func TestTaskTypesAndUnanswered(t *testing.T) {
	t.Parallel()
	s := newSnapshot(
		[]config.Route{{TaskType: "routed", Deployment: "a"}, {TaskType: "b_type", Deployment: "a"}},
		offers{"a": {reg("b_type", "v1"), reg("a_type", "v1")}},
		map[string]Health{"c": {}, "b": {Err: errors.New("down")}, "a": {LastSeen: time.Unix(1, 0), Err: errors.New("down now")}})
	assert.Equal(t, []string{"a_type", "b_type", "routed"}, s.TaskTypes())
	assert.Equal(t, []string{"b", "c"}, s.Unanswered())

	delete(s.Health(), "c")
	assert.Len(t, s.Health(), 3, "the map is the caller's own")
}

func BenchmarkResolve(b *testing.B) {
	const types = 1000
	regs := offers{}
	for i := range types {
		taskType := fmt.Sprintf("type_%04d", i)
		for _, d := range []string{"a", "b", "c"} {
			regs[d] = append(regs[d], reg(taskType, "v1"), reg(taskType, "v2", 1, 2))
		}
	}
	var routes []config.Route
	for i := range 20 {
		routes = append(routes, config.Route{TaskType: fmt.Sprintf("routed_%d", i), Deployment: "a", Project: "p"})
	}
	s := snapshot(routes, regs)
	queries := make([]Query, types)
	for i := range queries {
		queries[i] = Query{TaskType: fmt.Sprintf("type_%04d", i), Project: "p", Domain: "d"}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if _, ok := s.Resolve(queries[i%types]); !ok {
			b.Fatal("not found")
		}
	}
}

package grpcclient

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestRegistrations(t *testing.T) {
	t.Parallel()
	categories := func(kv ...any) []*admin.TaskCategory {
		var out []*admin.TaskCategory
		for i := 0; i < len(kv); i += 2 {
			out = append(out, &admin.TaskCategory{Name: kv[i].(string), Version: int32(kv[i+1].(int))})
		}
		return out
	}
	one := func(name, version string) []client.Registration {
		return []client.Registration{{Name: name, TaskType: "t", PluginVersion: version}}
	}
	named := func(name string) []*admin.Agent {
		return []*admin.Agent{{Name: name, SupportedTaskCategories: categories("t", 0)}}
	}
	long := strings.Repeat("9", 65)
	tests := []struct {
		reason string
		agents []*admin.Agent
		want   []client.Registration
	}{
		{"no agents", nil, nil},
		{"a nil agent", []*admin.Agent{nil}, nil},
		{"an agent for nothing", []*admin.Agent{{Name: "n"}}, nil},
		{"a name without a version, as flytekit's are", named("BigQuery Connector"), one("BigQuery Connector", "v1")},
		{"a version behind the @", named("bigquery@v2"), one("bigquery", "v2")},
		{"behind the last one", named("me@home@v2"), one("me@home", "v2")},
		{"nothing behind it is no version", named("bigquery@"), one("bigquery@", "v1")},
		{"nothing before it is no name", named("@v2"), one("", "v2")},
		{"no name at all", named(""), one("", "v1")},
		{"what no route could name is part of the name", named("me @ home"), one("me @ home", "v1")},
		{"what metadata cannot carry too", named("plugin@é"), one("plugin@é", "v1")},
		{"and what is too long", named("plugin@" + long), one("plugin@"+long, "v1")},
		{"sync", []*admin.Agent{{Name: "n", IsSync: true, SupportedTaskCategories: categories("t", 0)}},
			[]client.Registration{{Name: "n", TaskType: "t", PluginVersion: "v1", Mode: client.Sync}}},
		{"no categories but deprecated types", []*admin.Agent{{Name: "n", SupportedTaskTypes: []string{"t", "u", "t"}}},
			[]client.Registration{{Name: "n", TaskType: "t", PluginVersion: "v1"}, {Name: "n", TaskType: "u", PluginVersion: "v1"}}},
		{"categories beat deprecated types", []*admin.Agent{{Name: "n", SupportedTaskTypes: []string{"u"}, SupportedTaskCategories: categories("t", 2)}},
			[]client.Registration{{Name: "n", TaskType: "t", PluginVersion: "v1", TaskTypeVersions: []int32{2}}}},
		{"a category without a name is nothing", []*admin.Agent{{Name: "n", SupportedTaskCategories: categories("", 1, "t", 0)}}, one("n", "v1")},
		{"versions of one type are one registration, sorted, once each", []*admin.Agent{{Name: "n", SupportedTaskCategories: categories("t", 3, "u", 1, "t", 1, "t", 3)}},
			[]client.Registration{
				{Name: "n", TaskType: "t", PluginVersion: "v1", TaskTypeVersions: []int32{1, 3}},
				{Name: "n", TaskType: "u", PluginVersion: "v1", TaskTypeVersions: []int32{1}},
			}},
		{"version 0 first means any", []*admin.Agent{{Name: "n", SupportedTaskCategories: categories("t", 0, "t", 2)}}, one("n", "v1")},
		{"version 0 last too", []*admin.Agent{{Name: "n", SupportedTaskCategories: categories("t", 2, "t", 0)}}, one("n", "v1")},
		{"version 0 between too", []*admin.Agent{{Name: "n", SupportedTaskCategories: categories("t", 2, "t", 0, "t", 3)}}, one("n", "v1")},
		{"two agents of one type stay two", []*admin.Agent{
			{Name: "n@v1", SupportedTaskCategories: categories("t", 0)}, {Name: "n@v2", SupportedTaskCategories: categories("t", 0)}},
			[]client.Registration{{Name: "n", TaskType: "t", PluginVersion: "v1"}, {Name: "n", TaskType: "t", PluginVersion: "v2"}}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, registrations(tt.agents)) })
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	a, b := literals(map[string]*core.Literal{"x": number(1)}), literals(map[string]*core.Literal{"y": number(2)})
	both := literals(map[string]*core.Literal{"x": number(1), "y": number(2)})
	tests := []struct {
		reason     string
		a, b, want *core.LiteralMap
		fails      bool
	}{
		{reason: "nothing and nothing stays nothing"},
		{reason: "only the first", a: a, want: a},
		{reason: "only the second", b: b, want: b},
		{reason: "an empty map is an answer", a: nil, b: literals(nil), want: literals(nil)},
		{reason: "both", a: a, b: b, want: both},
		{reason: "the same value twice", a: both, b: b, want: both},
		{reason: "two values of one name", a: a, b: literals(map[string]*core.Literal{"x": number(9)}), fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			got, err := merge(tt.a, tt.b)
			if tt.fails {
				require.ErrorContains(t, err, `output "x" came twice`)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want == nil, got == nil)
			equal(t, tt.want, got)
		})
	}
	assert.Len(t, a.GetLiterals(), 1, "the maps that came in are left alone")
}

package client

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestRegistrationTakes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason       string
		versions     []int32
		version      int32
		takes, exact bool
	}{
		{"none named means any, and no version in particular", nil, 3, true, false},
		{"an empty list is none", []int32{}, 0, true, false},
		{"a named version", []int32{1, 2}, 2, true, true},
		{"named ones leave out the others", []int32{1, 2}, 3, false, false},
		{"0 can be named like any other", []int32{0}, 0, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			takes, exact := Registration{TaskTypeVersions: tt.versions}.Takes(tt.version)
			assert.Equal(t, tt.takes, takes)
			assert.Equal(t, tt.exact, exact)
		})
	}
}

func TestRegistrationString(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason string
		reg    Registration
		want   string
	}{
		{"any version", Registration{TaskType: "t", PluginVersion: "v1"}, "t (v1, any version, async)"},
		{"one version", Registration{TaskType: "t", PluginVersion: "v1", TaskTypeVersions: []int32{2}, Mode: Sync}, "t (v1, version 2, sync)"},
		{"several versions", Registration{TaskType: "t", PluginVersion: "v2", TaskTypeVersions: []int32{1, 2}}, "t (v2, version 1,2, async)"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, tt.reg.String()) })
	}
}

// Some services put credentials into the job id, and a log line is one careless verb away.
func TestJobIDNeverPrints(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	id := JobID(secret)
	ref := JobRef{Target: Target{TaskType: "t"}, ID: id}
	values := []struct {
		reason string
		value  any
	}{
		{"the id", id},
		{"a pointer to it", &id},
		{"in a slice", []JobID{id}},
		{"in a map", map[string]JobID{"a": id}},
		{"in a struct", ref},
		{"in a pointer to a struct", &ref},
		{"deep in one", struct{ Refs []JobRef }{[]JobRef{ref}}},
		{"in an interface", []any{id}},
		{"in an error", fmt.Errorf("job %v", id)},
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%b", "%o", "%c", "%U", "%t", "%20s", "%.3s"}
	// What the secret looks like when the verbs above print bytes.
	var shapes []string
	for _, verb := range []string{"%s", "%x", "%X", "% x", "%#x", "%d", "%#v", "%b", "%o", "%c", "%U"} {
		shapes = append(shapes, fmt.Sprintf(verb, []byte(secret)))
	}
	for _, v := range values {
		t.Run(v.reason, func(t *testing.T) {
			for _, verb := range verbs {
				printed := fmt.Sprintf(verb, v.value)
				for _, shape := range shapes {
					assert.NotContains(t, printed, shape, verb)
				}
				assert.NotContains(t, printed, "115", verb) // 's' as a number
				assert.NotContains(t, printed, "0x73", verb)
			}
		})
	}
	for _, printed := range []string{fmt.Sprint(id), fmt.Sprintf("%#v", id), id.String(), id.GoString()} {
		assert.Equal(t, "job id of 6 bytes", printed)
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	final := []core.TaskExecution_Phase{
		core.TaskExecution_SUCCEEDED, core.TaskExecution_FAILED, core.TaskExecution_RETRYABLE_FAILED, core.TaskExecution_ABORTED,
	}
	for number, name := range core.TaskExecution_Phase_name {
		phase := core.TaskExecution_Phase(number)
		assert.Equal(t, slices.Contains(final, phase), (&Job{Phase: phase}).Terminal(), name)
	}
}

func TestNextBackoff(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason         string
		n              int
		initial, limit time.Duration
		want           time.Duration
	}{
		{"the first failure", 1, time.Second, time.Minute, time.Second},
		{"doubled", 2, time.Second, time.Minute, 2 * time.Second},
		{"doubled again", 4, time.Second, time.Minute, 8 * time.Second},
		{"bounded", 7, time.Second, time.Minute, time.Minute},
		{"bounded when the doubling passes the limit", 3, time.Second, 3 * time.Second, 3 * time.Second},
		{"no failure is no reason for less than the first pause", 0, time.Second, time.Minute, time.Second},
		{"the limit holds for the first pause too", 1, time.Minute, time.Second, time.Second},
		{"very many failures do not overflow", math.MaxInt, time.Second, math.MaxInt64, math.MaxInt64},
		{"nothing doubled stays nothing, at once", math.MaxInt, 0, time.Minute, 0},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, NextBackoff(tt.n, tt.initial, tt.limit)) })
	}
}

package backend

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core/mocks"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/k8s"
	taskconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task/config"
)

func TestEnvelopeKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, e := range []envelope{
		{},
		{Deployment: "d", PluginVersion: "v2", Mode: client.Sync, Phase: pluginscore.PhaseRunning, Version: 1 << 31, Info: 1<<64 - 1,
			At: 1795470843, Since: -1, InnerVersion: 1, Inner: []byte{0, 1, 2}},
	} {
		got, err := decodeEnvelope(e.encode())
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	require.Less(t, len(envelope{Deployment: "default", PluginVersion: "v1", At: time.Now().Unix()}.encode()), 40, "a few bytes")
}

func TestEnvelopeRefusesDamage(t *testing.T) {
	t.Parallel()
	whole := envelope{Deployment: "default", PluginVersion: "v1", Inner: []byte("inner")}.encode()
	for cut := range whole {
		_, err := decodeEnvelope(whole[:cut])
		require.ErrorIs(t, err, errEnvelope, "cut at %d", cut)
	}
	_, err := decodeEnvelope(append(bytes.Clone(whole), 0))
	require.ErrorIs(t, err, errEnvelope)
	newer := bytes.Clone(whole)
	newer[1] = 9
	_, err = decodeEnvelope(newer)
	require.ErrorContains(t, err, "format 9 was written by another version")
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(envelope{Deployment: "default", PluginVersion: "v1", Inner: []byte("inner")}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEnvelope(b); err == nil {
			again, err := decodeEnvelope(e.encode())
			require.NoError(t, err)
			require.Equal(t, e, again)
		}
	})
}

func TestStateFileKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, k := range []saved{
		{standing: standingHeld, env: envelope{Since: 1795470843}},
		{standing: standingBuiltIn},
		{standing: standingDecided, env: envelope{Deployment: "d", PluginVersion: "v2", Mode: client.Sync}},
		{standing: standingCreated, env: envelope{Deployment: "d", PluginVersion: "v2"}, meta: resourceMeta{
			deployment: "d", target: client.Target{TaskType: "t", TaskTypeVersion: 3, PluginVersion: "v2"}, id: client.JobID("job")}},
	} {
		k.meta.key = "key"
		if k.meta.id == nil {
			k.meta.id = client.JobID{}
		}
		b, err := k.encode()
		require.NoError(t, err)
		got, err := decodeSaved(b)
		require.NoError(t, err)
		require.Equal(t, k, got)
		for cut := range b {
			_, err := decodeSaved(b[:cut])
			require.Error(t, err, "cut at %d", cut)
		}
		for i := range b {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1
			_, err := decodeSaved(damaged)
			require.Error(t, err, "byte %d", i)
		}
	}
}

func FuzzDecodeStateFile(f *testing.F) {
	whole, err := saved{standing: standingCreated, env: envelope{Deployment: "d"}, meta: resourceMeta{key: "k", id: client.JobID("job")}}.encode()
	require.NoError(f, err)
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := decodeSaved(b); err == nil {
			again, err := k.encode()
			require.NoError(t, err)
			same, err := decodeSaved(again)
			require.NoError(t, err)
			require.Equal(t, k.meta, same.meta)
		}
	})
}

func TestResourceMetaSurvivesTheMachinery(t *testing.T) {
	t.Parallel()
	meta := resourceMeta{key: "k", deployment: "d", target: client.Target{TaskType: "t", TaskTypeVersion: -3, PluginVersion: "v1"}, id: client.JobID("\x00job")}
	type state struct{ ResourceMeta any }
	b, err := encodeGob(state{meta})
	require.NoError(t, err)
	var back state
	require.NoError(t, gob.NewDecoder(bytes.NewReader(b)).Decode(&back))
	require.Equal(t, meta, back.ResourceMeta)
	require.ErrorIs(t, (&resourceMeta{}).GobDecode([]byte{1}), errEnvelope)
	whole, err := meta.GobEncode()
	require.NoError(t, err)
	require.ErrorIs(t, (&resourceMeta{}).GobDecode(whole[:len(whole)-2]), errEnvelope)
}

// TestKeysAreUnique: parts that join to the same text are different tasks.
func TestKeysAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]identity{}
	for _, id := range []identity{
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g"},
		{project: "pd", domain: "", execution: "e", node: "n", generated: "g"},
		{project: "p", domain: "de", execution: "", node: "n", generated: "g"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g", attempt: 1},
		{project: "p", domain: "d", execution: "e", node: "n1", generated: "g"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g-1"},
		{project: "p", domain: "d2", execution: "e", node: "n", generated: "g"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g", index: "0"},
		{project: "p", domain: "d", execution: "e", node: "n", generated: "g", index: "1"},
	} {
		k := id.key()
		require.Len(t, k, 64)
		other, dup := seen[k]
		require.False(t, dup, "%v and %v", id, other)
		seen[k] = id
	}
}

type fakeRegistry struct {
	core []pluginscore.PluginEntry
	k8s  []k8s.PluginEntry
}

func (f fakeRegistry) GetCorePlugins() []pluginscore.PluginEntry { return f.core }
func (f fakeRegistry) GetK8sPlugins() []k8s.PluginEntry          { return f.k8s }

func TestClaims(t *testing.T) {
	t.Parallel()
	plugins := fakeRegistry{
		core: []pluginscore.PluginEntry{
			{ID: "bigquery", RegisteredTaskTypes: []string{"bigquery_query_job_task"}},
			{ID: "k8s-array", RegisteredTaskTypes: []string{"container_array"}},
			{ID: ID, RegisteredTaskTypes: []string{"own"}},
		},
		k8s: []k8s.PluginEntry{{ID: "ray", RegisteredTaskTypes: []string{"ray", "Ray2"}}},
	}
	for _, tc := range []struct {
		reason     string
		cfg        config.Config
		discovered []string
		tp         taskconfig.TaskPluginConfig
		types      []string
		left       []string
		enabled    []string
		defaults   map[string]string
	}{
		{
			reason:   "enabled built-in web API types are claimed, so that they can move later; array types never",
			types:    []string{"bigquery_query_job_task"},
			defaults: map[string]string{"bigquery_query_job_task": ID},
		},
		{
			reason:     "routes, taskTypes and registrations are claimed, against a Kubernetes plugin too",
			cfg:        config.Config{Routes: []config.Route{{TaskType: "a", Deployment: "d"}}, TaskTypes: []string{"b"}},
			discovered: []string{"ray", "a"},
			types:      []string{"a", "b", "bigquery_query_job_task", "ray"},
			defaults:   map[string]string{"a": ID, "b": ID, "bigquery_query_job_task": ID, "ray": ID},
		},
		{
			reason:   "an operator's own entry wins",
			tp:       taskconfig.TaskPluginConfig{DefaultForTaskTypes: map[string]string{"bigquery_query_job_task": "BigQuery"}},
			left:     []string{"bigquery_query_job_task"},
			defaults: map[string]string{"bigquery_query_job_task": "BigQuery"},
		},
		{
			reason:   "an operator's entry for us claims the type",
			tp:       taskconfig.TaskPluginConfig{DefaultForTaskTypes: map[string]string{"x": "backend"}, EnabledPlugins: []string{"backend"}},
			types:    []string{"x"},
			enabled:  []string{"backend"},
			defaults: map[string]string{"x": "backend"},
		},
		{
			reason:  "a list of enabled plugins that is not empty gets us, and disabled plugins' types are not claimed",
			tp:      taskconfig.TaskPluginConfig{EnabledPlugins: []string{"container"}},
			enabled: []string{"container", ID},
		},
		{
			reason:     "a type with capitals that another plugin has cannot be decided in propeller's configuration",
			discovered: []string{"Ray2", "Alone"},
			types:      []string{"Alone", "bigquery_query_job_task"},
			left:       []string{"Ray2"},
			defaults:   map[string]string{"Alone": ID, "bigquery_query_job_task": ID},
		},
		{
			reason:     "array types are left even when a service registers them",
			discovered: []string{"container_array"},
			types:      []string{"bigquery_query_job_task"},
			left:       []string{"container_array"},
			defaults:   map[string]string{"bigquery_query_job_task": ID},
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			before := len(tc.tp.DefaultForTaskTypes)
			original := tc.tp.DefaultForTaskTypes
			c := claim(&tc.cfg, tc.discovered, plugins, tc.tp)
			require.Equal(t, tc.types, c.types)
			require.Len(t, c.left, len(tc.left))
			for _, left := range tc.left {
				require.NotEmpty(t, c.left[left])
				require.Contains(t, c.String(), "not "+left)
			}
			c.stick(&tc.tp)
			require.Equal(t, tc.enabled, tc.tp.EnabledPlugins)
			if tc.defaults == nil {
				tc.defaults = map[string]string{}
			}
			require.Equal(t, tc.defaults, tc.tp.DefaultForTaskTypes)
			require.Len(t, original, before, "the map that propeller may be reading is not written to")
		})
	}
	require.Equal(t, "no task types", claims{}.String())
}

// TestNoPlugin: without a default plugin the error says what is missing.
func TestNoPlugin(t *testing.T) {
	t.Parallel()
	b := &builtIns{fallback: &builtIn{noPlugin{}, "none"}}
	tr := &mocks.TaskReader{}
	tr.EXPECT().Read(t.Context()).Return(&core.TaskTemplate{Type: "lonely"}, nil)
	tCtx := &mocks.TaskExecutionContext{}
	tCtx.EXPECT().TaskReader().Return(tr)
	p := b.forType("lonely")
	_, err := p.Handle(t.Context(), tCtx)
	require.ErrorIs(t, err, errNoPlugin)
	require.ErrorContains(t, err, `"lonely"`)
	require.NoError(t, p.Abort(t.Context(), tCtx))
	require.NoError(t, p.Finalize(t.Context(), tCtx))
	require.False(t, b.serves("lonely"))
	require.Equal(t, "none", p.GetID())
}

// TestShortNames: a plugin that needs short names gets them, although propeller asked us for the length.
func TestShortNames(t *testing.T) {
	t.Parallel()
	length := 20
	p := &builtIn{shortNamed{length: &length}, "ray"}
	tid := &mocks.TaskExecutionID{}
	tid.EXPECT().GetID().Return(core.TaskExecutionIdentifier{RetryAttempt: 2})
	tid.EXPECT().GetUniqueNodeID().Return("a-node-with-a-long-name")
	meta := &mocks.TaskExecutionMetadata{}
	meta.EXPECT().GetTaskExecutionID().Return(tid)
	meta.EXPECT().GetOwnerID().Return(types.NamespacedName{Namespace: "ns", Name: "an-execution-with-a-long-name"})
	tCtx := &mocks.TaskExecutionContext{}
	tCtx.EXPECT().TaskExecutionMetadata().Return(meta)
	name := p.context(tCtx, false).TaskExecutionMetadata().GetTaskExecutionID().GetGeneratedName()
	require.LessOrEqual(t, len(name), length)
	require.NotEmpty(t, name)
}

type shortNamed struct {
	noPlugin
	length *int
}

func (s shortNamed) GetProperties() pluginscore.PluginProperties {
	return pluginscore.PluginProperties{GeneratedNameMaxLength: s.length}
}

func TestGateLetsOneFirst(t *testing.T) {
	t.Parallel()
	g := newGate()
	first := time.Now()
	g.pass(t.Context(), "t")
	var wg sync.WaitGroup
	in := make(chan time.Time, 10)
	for range 10 {
		wg.Go(func() {
			g.pass(t.Context(), "t")
			in <- time.Now()
		})
	}
	g.pass(t.Context(), "another type")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.pass(ctx, "t") // propeller ends
	wg.Wait()
	for range 10 {
		require.GreaterOrEqual(t, (<-in).Sub(first), gateHold)
	}
}

// TestPanicInACall ends the call and nothing else: calls run where a panic would end the process.
func TestPanicInACall(t *testing.T) {
	t.Parallel()
	p := &pool{timeout: func(*config.Deployment, string) time.Duration { return time.Minute }, metrics: func() *metrics { return nil }}
	conn := &connection{client: nil}
	d := &deployment{name: "d", cfg: &config.Deployment{Endpoint: "e"}, conn: conn, pool: p}
	_, err := d.Get(t.Context(), client.JobRef{})
	require.Equal(t, codes.Canceled, client.AsError(err).Code, "there is no connection")
	conn.client = panicking{}
	_, err = d.Get(t.Context(), client.JobRef{})
	require.Equal(t, client.SystemError, client.AsError(err).Class)
	require.ErrorContains(t, err, "oh no")
	require.Zero(t, conn.calls)
}

type panicking struct{ client.Client }

func (panicking) Get(context.Context, client.JobRef) (*client.Job, error) { panic("oh no") }

func literalOf(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func prim(p *core.Primitive) *core.Literal {
	return literalOf(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func simple(s core.SimpleType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_Simple{Simple: s}}
}

func TestOutputsFitTheInterface(t *testing.T) {
	t.Parallel()
	integer := prim(&core.Primitive{Value: &core.Primitive_Integer{Integer: 1}})
	text := prim(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: "a"}})
	none := literalOf(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
	binary := literalOf(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Tag: "msgpack"}}})
	generic := literalOf(&core.Scalar{Value: &core.Scalar_Generic{Generic: &structpb.Struct{}}})
	dataset := literalOf(&core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{Uri: "s3://x"}}})
	schema := literalOf(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: "s3://x", Type: &core.SchemaType{}}}})
	list := func(items ...*core.Literal) *core.Literal {
		return &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: items}}}
	}
	dict := func(items map[string]*core.Literal) *core.Literal {
		return &core.Literal{Value: &core.Literal_Map{Map: &core.LiteralMap{Literals: items}}}
	}
	intType, stringType := simple(core.SimpleType_INTEGER), simple(core.SimpleType_STRING)
	listOf := func(t *core.LiteralType) *core.LiteralType {
		return &core.LiteralType{Type: &core.LiteralType_CollectionType{CollectionType: t}}
	}
	mapOf := func(t *core.LiteralType) *core.LiteralType {
		return &core.LiteralType{Type: &core.LiteralType_MapValueType{MapValueType: t}}
	}
	optional := &core.LiteralType{Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: []*core.LiteralType{intType, simple(core.SimpleType_NONE)}}}}
	enum := &core.LiteralType{Type: &core.LiteralType_EnumType{EnumType: &core.EnumType{Values: []string{"a", "b"}}}}
	datasetType := &core.LiteralType{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: &core.StructuredDatasetType{
		Columns: []*core.StructuredDatasetType_DatasetColumn{{Name: "c", LiteralType: intType}}}}}
	schemaType := &core.LiteralType{Type: &core.LiteralType_Schema{Schema: &core.SchemaType{}}}
	union := literalOf(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: integer, Type: intType}}})
	for _, tc := range []struct {
		reason string
		l      *core.Literal
		want   *core.LiteralType
		wrong  string
	}{
		{"an integer is one", integer, intType, ""},
		{"a string is no integer", text, intType, "o should be integer, but is string"},
		{"a list of its type", list(integer, integer), listOf(intType), ""},
		{"an empty list has no type of its own", list(), listOf(stringType), ""},
		{"a list with a wrong item", list(integer, text), listOf(intType), "o should be a list of integer"},
		{"a list where one value is due", list(integer), intType, "o should be integer, but is a list of integer"},
		{"a map of its type", dict(map[string]*core.Literal{"k": text}), mapOf(stringType), ""},
		{"a map with a wrong value", dict(map[string]*core.Literal{"k": text}), mapOf(intType), "o should be a map of integer"},
		{"None for an optional", none, optional, ""},
		{"a bare value for an optional", integer, optional, ""},
		{"a union literal for an optional", union, optional, ""},
		{"a string for an optional integer", text, optional, "o should be integer or none, but is string"},
		{"None where a value is due", none, intType, "o should be integer, but is none"},
		{"None where None is due", none, simple(core.SimpleType_NONE), ""},
		{"a dataclass as msgpack", binary, simple(core.SimpleType_STRUCT), ""},
		{"a struct", generic, simple(core.SimpleType_STRUCT), ""},
		{"one of the enum", text, enum, ""},
		{"not one of the enum", prim(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: "c"}}), enum, "o should be one of a, b, but is string"},
		{"a dataset without its columns", dataset, datasetType, ""},
		{"a dataset where a schema is declared", dataset, schemaType, ""},
		{"a schema", schema, schemaType, ""},
		{"a dataset where an integer is due", dataset, intType, "o should be integer, but is a structured dataset"},
		{"nothing at all", nil, intType, "o is missing"},
	} {
		got := mismatch(map[string]*core.Variable{"o": {Type: tc.want}}, map[string]*core.Literal{"o": tc.l})
		if tc.wrong == "" {
			require.Empty(t, got, tc.reason)
		} else {
			require.Contains(t, got, tc.wrong, tc.reason)
		}
	}
	require.Equal(t, "a blob", describeType(&core.LiteralType{Type: &core.LiteralType_Blob{}}))
	require.Equal(t, "nothing", describeType(nil))
}

func TestHopelessPolls(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason string
		e      client.Error
		want   bool
	}{
		{"the service knows no such job", client.Error{Code: codes.NotFound, Class: client.SystemError, FromService: true}, true},
		{"a proxy on the way says not found", client.Error{Code: codes.NotFound, Class: client.SystemError}, false},
		{"the service does not understand the job's id", client.Error{Code: codes.InvalidArgument, Class: client.UserError, FromService: true}, true},
		{"the answer is too large and will stay so", client.Error{Code: codes.ResourceExhausted, TooLarge: true}, true},
		{"the service is in trouble", client.Error{Code: codes.Internal, Class: client.SystemError, FromService: true}, false},
		{"the service is away", client.Error{Code: codes.Unavailable, Class: client.RetryLater}, false},
	} {
		require.Equal(t, tc.want, hopeless(&tc.e), tc.reason)
	}
}

// TestForgottenWorkflows: tasks of workflows that are gone do not pile up.
func TestForgottenWorkflows(t *testing.T) {
	t.Parallel()
	var size int
	ts := newTasks(func(n int) { size = n })
	meta := &mocks.TaskExecutionMetadata{}
	meta.EXPECT().GetOwnerID().Return(types.NamespacedName{Namespace: "ns", Name: "n"})
	now := time.Now()
	old := ts.touch("old", identity{}, meta, now)
	cancelled := false
	old.call = &call{cancel: func() { cancelled = true }, sync: true, done: make(chan struct{})}
	ts.touch("new", identity{}, meta, now.Add(2*forgetAfter))
	require.Nil(t, ts.lookup("old"))
	require.True(t, cancelled)
	require.Equal(t, 1, size)
	require.Equal(t, 1, ts.count())
	require.NotNil(t, ts.lookup("new"))
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	tk := &task{}
	now := time.Now()
	e := &client.Error{Message: "m"}
	require.Equal(t, time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
	require.Equal(t, 2*time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
	require.Equal(t, 3*time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
	require.Equal(t, time.Minute, tk.backOff(&client.Error{RetryAfter: time.Minute}, time.Second, 3*time.Second, now), "the service asked for it")
	require.Equal(t, maxRetryAfter, tk.backOff(&client.Error{RetryAfter: 24 * time.Hour}, time.Second, 3*time.Second, now))
	tk.created()
	require.Equal(t, time.Second, tk.backOff(e, time.Second, 3*time.Second, now))
}

// TestPolling: failures in a row are one outage, and its end is a change.
func TestPolling(t *testing.T) {
	t.Parallel()
	tk := &task{}
	now := time.Now()
	job := &client.Job{Phase: core.TaskExecution_RUNNING}
	bad := &client.Error{Message: "away"}
	require.True(t, tk.polled(job, nil, false, now), "the first answer")
	require.False(t, tk.polled(&client.Job{Phase: core.TaskExecution_RUNNING}, nil, false, now), "the same again")
	tk.waking = true
	require.False(t, tk.settled())
	require.True(t, tk.waking, "there is something to hear of, so the waking goes on")
	require.True(t, tk.polled(nil, bad, false, now))
	require.False(t, tk.polled(nil, bad, false, now.Add(time.Minute)))
	v := tk.view()
	require.Equal(t, 2, v.outage.count)
	require.Equal(t, now, v.outage.since)
	require.Equal(t, job, v.job, "the last known state stays")
	require.True(t, tk.settled())
	require.False(t, tk.waking, "the next change begins a waking of its own")
	require.True(t, tk.polled(job, nil, false, now.Add(2*time.Minute)), "the outage has ended")
	require.False(t, tk.polled(nil, bad, false, now.Add(time.Minute)), "an answer to an older question")
	require.Zero(t, tk.view().outage.count)
	require.True(t, tk.polled(nil, bad, true, now.Add(3*time.Minute)))
	require.False(t, tk.polled(nil, bad, true, now.Add(3*time.Minute)), "it is known already")
}

// TestResting: a job is not polled before its service expects something new, and its state stays known.
func TestResting(t *testing.T) {
	t.Parallel()
	now := time.Now()
	job := &client.Job{Phase: core.TaskExecution_RUNNING, PollAfter: time.Minute}
	tk := &task{}
	rests := func(after time.Duration) bool {
		_, resting := tk.resting(now.Add(after))
		return resting
	}
	require.False(t, rests(0), "nothing is known of it")
	tk.polled(nil, &client.Error{Message: "away"}, false, now)
	require.False(t, rests(0), "nor is anything after an outage")
	tk.polled(job, nil, false, now)
	require.True(t, rests(0))
	got, _ := tk.resting(now)
	require.Same(t, job, got)
	require.True(t, rests(59*time.Second))
	require.False(t, rests(time.Minute))
	tk.polled(&client.Job{Phase: core.TaskExecution_RUNNING}, nil, false, now.Add(time.Minute))
	require.False(t, rests(time.Minute), "the latest answer counts")
	tk.polled(&client.Job{Phase: core.TaskExecution_RUNNING, PollAfter: 24 * time.Hour}, nil, false, now.Add(2*time.Minute))
	require.True(t, rests(2*time.Minute+maxPollAfter-1))
	require.False(t, rests(2*time.Minute+maxPollAfter), "no longer than propeller lets it")
}

func TestErrorsThatAreNoCalls(t *testing.T) {
	t.Parallel()
	e := asCallError(errors.New("the data store is away"))
	require.True(t, e.Transient())
	require.Contains(t, e.Error(), "the data store is away")
	wrapped := fmt.Errorf("x: %w", &client.Error{Class: client.UserError})
	require.Equal(t, client.UserError, asCallError(wrapped).Class)
}

func TestInnerState(t *testing.T) {
	t.Parallel()
	type s struct{ A, B int }
	first := &innerState{}
	require.NoError(t, first.Put(1, &s{1, 2}))
	require.True(t, first.changed)
	second := &innerState{version: 1, old: first.written}
	var got s
	v, err := second.Get(&got)
	require.NoError(t, err)
	require.EqualValues(t, 1, v)
	require.Equal(t, s{1, 2}, got)
	require.NoError(t, second.Put(1, &s{1, 2}))
	require.False(t, second.changed)
	require.NoError(t, second.Put(1, &s{1, 3}))
	require.True(t, second.changed)
	require.NoError(t, second.Reset())
	require.True(t, second.changed)
	require.Nil(t, second.written)
}

// TestMachineryConfig: the section's copy of the machinery's settings has the same keys, and each value arrives.
func TestMachineryConfig(t *testing.T) {
	t.Parallel()
	const text = `{
		"resourceQuotas": {"a": 1, "b": 2},
		"readRateLimiter": {"qps": 3, "burst": 4}, "writeRateLimiter": {"qps": 5, "burst": 6},
		"caching": {"size": 7, "resyncInterval": "8s", "workers": 9, "maxSystemFailures": 10},
		"resourceMeta": "11"
	}`
	var ours config.WebAPIConfig
	require.NoError(t, json.Unmarshal([]byte(text), &ours))
	raw, err := json.Marshal(machineryConfig(ours))
	require.NoError(t, err)
	require.JSONEq(t, text, string(raw), "every key of the machinery's")
	raw, err = json.Marshal(ours)
	require.NoError(t, err)
	require.JSONEq(t, text, string(raw), "and no other")
}

// TestTaskInfoIsPropellers: propeller writes into the links of a map's items, and the job is in the cache for the next look.
func TestTaskInfoIsPropellers(t *testing.T) {
	t.Parallel()
	job := &client.Job{LogLinks: []*core.TaskLog{{Name: "log", Uri: "http://log/1"}}}
	info := taskInfo(job, resourceMeta{id: client.JobID("1")}, pluginscore.PhaseRunning)
	info.Logs[0].Name += "-0"
	info.ExternalResources[0].Logs[0].Name += "-0"
	require.Equal(t, "log-0", info.Logs[0].GetName())
	require.Equal(t, "log-0", info.ExternalResources[0].Logs[0].GetName())
	require.Equal(t, "log", job.LogLinks[0].GetName())
}

// TestRetiredConnection: it is closed once, after the last call that is under way.
func TestRetiredConnection(t *testing.T) {
	t.Parallel()
	closer := &closeCounter{}
	c := &connection{client: panicking{}, closer: closer}
	require.True(t, c.enter())
	require.True(t, c.enter())
	c.retire()
	c.leave()
	require.Zero(t, closer.n)
	c.leave()
	require.Equal(t, 1, closer.n)
	require.False(t, c.enter())
	c.retire()
	c.close()
	require.Equal(t, 1, closer.n)

	idle := &connection{client: panicking{}, closer: closer}
	idle.retire()
	require.Equal(t, 2, closer.n)
}

type closeCounter struct{ n int }

func (c *closeCounter) Close() error { c.n++; return nil }

// TestSilentServiceHoldsAShare of the machinery's workers, until it answers again.
func TestSilentServiceHoldsAShare(t *testing.T) {
	t.Parallel()
	c := &connection{}
	late := &client.Error{Code: codes.DeadlineExceeded}
	for range 100 {
		require.Nil(t, c.beginPoll(100), "a service that answers may have all")
	}
	for range 100 {
		c.endPoll(late)
	}
	for range 25 {
		require.Nil(t, c.beginPoll(100))
	}
	require.Equal(t, late, c.beginPoll(100))
	c.endPoll(&client.Error{Code: codes.DeadlineExceeded, FromService: true})
	require.Nil(t, c.beginPoll(100), "an answer is an answer, whatever it says")
	require.Nil(t, c.beginPoll(100))
	c.endPoll(late)
	require.NotNil(t, c.beginPoll(1))
}

// TestLiteralsThatHoldNothing fit or do not, and never panic: a service's answer may hold any message.
func TestLiteralsThatHoldNothing(t *testing.T) {
	t.Parallel()
	deep := &core.Literal{}
	for range 5 {
		deep = &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: []*core.Literal{deep}}}}
	}
	literals := []*core.Literal{
		nil, {}, deep,
		{Value: &core.Literal_Scalar{}}, literalOf(&core.Scalar{}),
		{Value: &core.Literal_Collection{}}, {Value: &core.Literal_Map{}},
		{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: []*core.Literal{nil, {}}}}},
		{Value: &core.Literal_Map{Map: &core.LiteralMap{Literals: map[string]*core.Literal{"": nil, "a": {}}}}},
		{Value: &core.Literal_OffloadedMetadata{}},
		prim(nil), prim(&core.Primitive{}),
		literalOf(&core.Scalar{Value: &core.Scalar_Blob{}}), literalOf(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Schema{}}), literalOf(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_StructuredDataset{}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Union{}}), literalOf(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: &core.Literal{}}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_NoneType{}}), literalOf(&core.Scalar{Value: &core.Scalar_Binary{}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Generic{}}), literalOf(&core.Scalar{Value: &core.Scalar_Error{}}),
	}
	types := []*core.LiteralType{
		nil, {}, simple(core.SimpleType_INTEGER), simple(core.SimpleType_NONE), simple(99),
		{Type: &core.LiteralType_CollectionType{}}, {Type: &core.LiteralType_MapValueType{}},
		{Type: &core.LiteralType_CollectionType{CollectionType: &core.LiteralType{}}},
		{Type: &core.LiteralType_UnionType{}}, {Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: []*core.LiteralType{nil, {}}}}},
		{Type: &core.LiteralType_EnumType{}}, {Type: &core.LiteralType_Blob{}}, {Type: &core.LiteralType_Blob{Blob: &core.BlobType{}}},
		{Type: &core.LiteralType_Schema{}}, {Type: &core.LiteralType_Schema{Schema: &core.SchemaType{}}},
		{Type: &core.LiteralType_StructuredDatasetType{}},
		{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: &core.StructuredDatasetType{}}},
	}
	for i, l := range literals {
		for j, typ := range types {
			require.NotPanics(t, func() {
				mismatch(map[string]*core.Variable{"o": {Type: typ}}, map[string]*core.Literal{"o": l})
			}, "literal %d, type %d", i, j)
		}
	}
}

package backendplugin_test

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// TestIdempotencyKey: Create gets the caller's key, and gets the same one again when the call is repeated.
func TestIdempotencyKey(t *testing.T) {
	jobs := map[string]string{}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(_ context.Context, r *backendplugin.Request[values]) (string, error) {
			if _, ok := jobs[r.IdempotencyKey]; !ok {
				jobs[r.IdempotencyKey] = "job of " + r.IdempotencyKey
			}
			return jobs[r.IdempotencyKey], nil
		},
	})})
	for _, key := range []string{"k1", "k1", "k2", ""} {
		ctx := w.within()
		if key != "" {
			ctx = with(ctx, keyHeader, key)
		}
		id, err := w.create(ctx, "a", nil)
		require.NoError(t, err)
		require.Equal(t, "job of "+key, string(id))
	}
	require.Len(t, jobs, 3)
}

type batch struct {
	Region string
	Parts  []int
	Since  time.Time
}

// TestJobIDs: what Create gave comes back in Get and Delete, at another replica too.
func TestJobIDs(t *testing.T) {
	t.Run("text travels as it is", func(t *testing.T) { roundTripID(t, "job/7 ä", "job/7 ä") })
	t.Run("so do bytes", func(t *testing.T) { roundTripID(t, []byte{0, 255, 1}, "\x00\xff\x01") })
	t.Run("so does text of a type of its own", func(t *testing.T) { roundTripID(t, colour("red"), "red") })
	t.Run("a struct travels as JSON", func(t *testing.T) {
		roundTripID(t, batch{"eu", []int{1, 2}, time.Unix(0, 0).UTC()}, `{"Region":"eu","Parts":[1,2],"Since":"1970-01-01T00:00:00Z"}`)
	})
	t.Run("a number, and zero is an id", func(t *testing.T) { roundTripID(t, 0, "0") })
	t.Run("a pointer", func(t *testing.T) {
		roundTripID(t, &batch{Region: "eu"}, `{"Region":"eu","Parts":null,"Since":"0001-01-01T00:00:00Z"}`)
	})
}

func roundTripID[ID any](t *testing.T, id ID, wire string) {
	t.Helper()
	var seen []ID
	replica := func() *world {
		return start(t, backendplugin.Plugins{backendplugin.New("a", &fake[values, ID, values]{
			create: func(context.Context, *backendplugin.Request[values]) (ID, error) { return id, nil },
			get: func(_ context.Context, j *backendplugin.Job[ID]) (*backendplugin.Status[values], error) {
				seen = append(seen, j.ID)
				return backendplugin.Running[values]("runs"), nil
			},
			delete: func(_ context.Context, j *backendplugin.Job[ID]) error {
				seen = append(seen, j.ID)
				return nil
			},
		})})
	}
	one, two := replica(), replica()
	raw, err := one.create(one.within(), "a", nil)
	require.NoError(t, err)
	require.Equal(t, wire, string(raw))
	for _, w := range []*world{two, one} {
		r, err := w.get(w.within(), "a", string(raw))
		require.NoError(t, err)
		require.Equal(t, core.TaskExecution_RUNNING, r.GetPhase())
		require.NoError(t, w.delete(w.within(), "a", string(raw)))
	}
	require.Equal(t, []ID{id, id, id, id}, seen)
}

func TestJobIDsThatCannotBe(t *testing.T) {
	id := ""
	w := start(t, backendplugin.Plugins{
		backendplugin.New("text", &simple{create: func(context.Context, *backendplugin.Request[values]) (string, error) { return id, nil }}),
		backendplugin.New("typed", &fake[values, batch, values]{}),
		backendplugin.New("pointer", &fake[values, *batch, values]{create: func(context.Context, *backendplugin.Request[values]) (*batch, error) {
			return nil, nil //nolint:nilnil // it is what must be noticed
		}}),
	})
	_, err := w.create(w.within(), "text", nil)
	require.ErrorContains(t, err, "Internal desc = the plugin gave a job id of 0 bytes; it takes 1 to 65536")
	id = strings.Repeat("x", 64<<10+1)
	_, err = w.create(w.within(), "text", nil)
	require.ErrorContains(t, err, "Internal desc = the plugin gave a job id of 65537 bytes")
	id = id[1:]
	_, err = w.create(w.within(), "text", nil)
	require.NoError(t, err)
	_, err = w.create(w.within(), "pointer", nil)
	require.ErrorContains(t, err, "Internal desc = the plugin gave a job id that is nil")
	_, err = w.get(w.within(), "typed", "no JSON, and secret")
	require.ErrorContains(t, err, "NotFound desc = no such job")
	require.NotContains(t, err.Error()+w.log.String(), "secret")
	require.NoError(t, w.delete(w.within(), "typed", "no JSON"), "a job that cannot be is gone")
	_, err = w.get(w.within(), "typed", "")
	require.ErrorContains(t, err, "InvalidArgument")
}

// TestJobIDsOfOthers: JSON that Create cannot have written is no job, instead of one whose fields are all zero. What another
// version of the plugin wrote is one.
func TestJobIDsOfOthers(t *testing.T) {
	type located struct {
		Zone string `json:"zone,omitempty"`
		Job  batch  `json:"job"`
		Try  *int   `json:"try"`
	}
	type optional struct {
		Name string `json:"name,omitempty"`
	}
	type inside struct{ batch }
	for _, tt := range []struct {
		reason string
		plugin *backendplugin.Plugin
		id     string
		job    bool
	}{
		{"nothing", looksAt[batch](), `{}`, false},
		{"null", looksAt[batch](), `null`, false},
		{"null, for a pointer", looksAt[*batch](), " null\n", false},
		{"null, for a number", looksAt[int](), `null`, false},
		{"a job id of another service", looksAt[batch](), `{"project":"p","job_id":"7"}`, false},
		{"the same, for a pointer", looksAt[*batch](), `{"project":"p","job_id":"7"}`, false},
		{"what follows JSON", looksAt[batch](), `{"Region":"eu"} {}`, false},
		{"a list", looksAt[batch](), `[]`, false},
		{"a field of another type", looksAt[batch](), `{"Region":7}`, false},
		{"only what may be left out", looksAt[located](), `{"zone":"a"}`, false},
		{"one that a version with fewer fields wrote", looksAt[batch](), `{"Region":"eu"}`, true},
		{"one that a version with more fields wrote", looksAt[batch](), `{"Region":"eu","Parts":null,"Since":"1970-01-01T00:00:00Z","More":1}`, true},
		{"a field that is written though it is zero", looksAt[located](), `{"try":null}`, true},
		{"all of them may be left out", looksAt[optional](), `{}`, true},
		{"fields of a struct inside", looksAt[inside](), `{"Region":"eu"}`, true},
		{"none of them", looksAt[inside](), `{"Area":"eu"}`, false},
		{"a map has no fields", looksAt[map[string]string](), `{}`, true},
		{"a type that reads itself", looksAt[time.Time](), `"1970-01-01T00:00:00Z"`, true},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			w := start(t, backendplugin.Plugins{tt.plugin})
			_, err := w.get(w.within(), "a", tt.id)
			if tt.job {
				require.NoError(t, err)
				require.ErrorContains(t, w.delete(w.within(), "a", tt.id), "deleted")
				return
			}
			require.ErrorContains(t, err, "NotFound desc = no such job: its id is none of this plugin's")
			require.NoError(t, w.delete(w.within(), "a", tt.id), "it is not deleted by the plugin")
			require.Contains(t, w.log.String(), "level=WARN msg=\"nothing was deleted: ", "or else a job that goes on would go unnoticed")
		})
	}
}

// looksAt is a plugin that gets any job, and says so when it is to delete one.
func looksAt[ID any]() *backendplugin.Plugin {
	return backendplugin.New("a", &fake[values, ID, values]{
		get: func(context.Context, *backendplugin.Job[ID]) (*backendplugin.Status[values], error) {
			return backendplugin.Running[values]("runs"), nil
		},
		delete: func(context.Context, *backendplugin.Job[ID]) error { return backendplugin.SystemError("deleted") },
	})
}

// TestStatelessness: any of two replicas answers any call about any job.
func TestStatelessness(t *testing.T) {
	replicas := []*world{start(t, testplugins.All()), start(t, testplugins.All())}
	for x := range int64(20) {
		w, other := replicas[x%2], replicas[(x+1)%2]
		id, err := w.create(w.within(), "square", literals(values{"x": x}))
		require.NoError(t, err)
		for _, w := range []*world{other, w, other} {
			r, err := w.get(w.within(), "square", string(id))
			require.NoError(t, err)
			require.Equal(t, x*x, r.GetOutputs().GetLiterals()["o0"].GetScalar().GetPrimitive().GetInteger())
		}
		require.NoError(t, other.delete(other.within(), "square", string(id)))
	}
}

func TestStatuses(t *testing.T) {
	type info struct {
		Done float64 `flyte:"done"`
	}
	for _, tt := range []struct {
		reason string
		status *backendplugin.Status[values]
		want   *admin.Resource
		err    string
	}{
		{
			"everything", &backendplugin.Status[values]{
				Phase: backendplugin.PhaseRunning, Message: "half", Info: info{0.5}, LogLinks: []backendplugin.LogLink{{Name: "log", URI: "http://l"}},
				Outputs: &values{"o0": 1},
			},
			&admin.Resource{Phase: core.TaskExecution_RUNNING, Message: "half", LogLinks: []*core.TaskLog{{Name: "log", Uri: "http://l"}}}, "",
		},
		{"outputs in the answer", backendplugin.Succeeded(values{"o0": 1}), &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: literals(values{"o0": 1})}, ""},
		{"outputs at the output prefix", &backendplugin.Status[values]{Phase: backendplugin.PhaseSucceeded}, &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}, ""},
		{"aborted", &backendplugin.Status[values]{Phase: backendplugin.PhaseAborted}, &admin.Resource{Phase: core.TaskExecution_ABORTED}, ""},
		{"no status", nil, nil, "Internal desc = the plugin gave no status"},
		{"no phase", &backendplugin.Status[values]{}, nil, "Internal desc = the plugin gave a status without a phase"},
		{"a phase of nobody's", &backendplugin.Status[values]{Phase: 99}, nil, "Internal desc = the plugin gave a status with the phase 99, which Flyte does not have"},
		{"outputs that are none", backendplugin.Succeeded(values{"o0": func() {}}), nil, "Internal desc = the plugin's outputs: o0: no literal can be made of a func()"},
		{"info that is none", &backendplugin.Status[values]{Phase: backendplugin.PhaseRunning, Info: 7}, nil, "Internal desc = the plugin's info: a int is no struct and no map"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
				get: func(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
					assert.Equal(t, "s3://b/0", j.OutputPrefix)
					return tt.status, nil
				},
			})})
			r, err := w.async.GetTask(w.within(), &admin.GetTaskRequest{TaskType: "a", ResourceMeta: []byte("j"), OutputPrefix: "s3://b/0"})
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			got := r.GetResource()
			assert.Equal(t, tt.want.GetPhase(), got.GetPhase())
			assert.Equal(t, tt.want.GetMessage(), got.GetMessage())
			assert.True(t, proto.Equal(tt.want.GetOutputs(), got.GetOutputs()), got.GetOutputs())
			require.Len(t, got.GetLogLinks(), len(tt.want.GetLogLinks()))
			if tt.status.Info != nil {
				assert.Equal(t, values{"done": 0.5}, got.GetCustomInfo().AsMap())
				assert.Equal(t, "http://l", got.GetLogLinks()[0].GetUri())
			}
		})
	}
}

func versioned(name string, opts ...backendplugin.PluginOption) *backendplugin.Plugin {
	return backendplugin.New("a", &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) { return name, nil },
	}, opts...)
}

// TestVersions: a call goes to the version that it names, else to the highest; the template's version decides as in propeller.
func TestVersions(t *testing.T) {
	w := start(t, backendplugin.Plugins{
		versioned("v1"), versioned("v9", backendplugin.WithVersion("v9")), versioned("v10", backendplugin.WithVersion("v10")),
		versioned("v2 for 3", backendplugin.WithVersion("v2"), backendplugin.WithTaskTypeVersions(3, 4)),
		versioned("v2 for 5", backendplugin.WithVersion("v2"), backendplugin.WithTaskTypeVersions(5)),
		backendplugin.NewSync("s", &fakeSync[values, values]{}),
	})
	for _, tt := range []struct {
		reason, taskType, version string
		taskTypeVersion           int32
		want, err                 string
	}{
		{"the version that is named", "a", "v1", 0, "v1", ""},
		{"the highest in natural order", "a", "", 0, "v10", ""},
		{"a plugin that names the template's version goes first", "a", "", 3, "v2 for 3", ""},
		{"one version of a plugin may be several", "a", "v2", 5, "v2 for 5", ""},
		{"no plugin of that version", "a", "v3", 0, "", `NotFound desc = this service has no plugin for task type "a" in version v3`},
		{"the version does not take the template", "a", "v2", 0, "", `NotFound desc = the plugin for task type "a" in version v2 does not take this call for task type version 0`},
		{"no such task type", "b", "", 0, "", `NotFound desc = this service has no plugin for task type "b"`},
		{"a synchronous plugin creates nothing", "s", "", 0, "", `NotFound desc = the plugin for task type "s" does not take this call`},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			ctx := w.within()
			if tt.version != "" {
				ctx = with(ctx, versionHeader, tt.version)
			}
			r, err := w.async.CreateTask(ctx, createRequest(&core.TaskTemplate{Type: tt.taskType, TaskTypeVersion: tt.taskTypeVersion}, nil))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(r.GetResourceMeta()))
		})
	}
}

// both is asynchronous and synchronous.
type both struct {
	simple
	fakeSync[values, values]
}

func TestListAgents(t *testing.T) {
	w := start(t, backendplugin.Plugins{
		versioned(""), versioned("", backendplugin.WithVersion("v2"), backendplugin.WithName("A"), backendplugin.WithTaskTypeVersions(3, 4)),
		backendplugin.NewSync("s", &fakeSync[values, values]{}), backendplugin.New("both", &both{}),
		backendplugin.New("at", &simple{}, backendplugin.WithName("me@home")),
	})
	r, err := w.meta.ListAgents(w.within(), &admin.ListAgentsRequest{})
	require.NoError(t, err)
	var got []string
	for _, a := range r.GetAgents() {
		line := a.GetName() + ":"
		for _, c := range a.GetSupportedTaskCategories() {
			line += " " + c.GetName() + strconv.Itoa(int(c.GetVersion()))
		}
		if a.GetIsSync() {
			line += " sync"
		}
		require.NotEmpty(t, a.GetSupportedTaskTypes(), "propellers from before categories read nothing else")
		got = append(got, line)
		one, err := w.meta.GetAgent(w.within(), &admin.GetAgentRequest{Name: a.GetName()})
		require.NoError(t, err)
		require.Equal(t, a.GetName(), one.GetAgent().GetName())
	}
	require.Equal(t, []string{"s: s0 sync", "both: both0 sync", "a: a0", "A@v2: a3 a4", "both: both0", "me@home@v1: at0"}, got)
	_, err = w.meta.GetAgent(w.within(), &admin.GetAgentRequest{Name: "x"})
	require.Equal(t, codes.NotFound, status.Code(err))
}

func TestExecute(t *testing.T) {
	w := start(t, backendplugin.Plugins{backendplugin.NewSync("s", &fakeSync[values, values]{
		execute: func(_ context.Context, r *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
			assert.Equal(t, "s3://b/0", r.OutputPrefix)
			assert.Equal(t, int64(7), r.MaxOutputBytes)
			assert.Equal(t, "k", r.IdempotencyKey)
			if r.Inputs["running"] != nil {
				return backendplugin.Running[values]("still"), nil
			}
			if r.Inputs["fails"] != nil {
				return backendplugin.Failed[values](backendplugin.UserError("no")), nil
			}
			return backendplugin.Succeeded(r.Inputs), nil
		},
	})})
	many := []*admin.ExecuteTaskSyncRequest{header("s")}
	for _, name := range []string{"a", "b", "a"} {
		many = append(many, part(values{name: name}))
	}
	for _, tt := range []struct {
		reason string
		parts  []*admin.ExecuteTaskSyncRequest
		want   values
		phase  core.TaskExecution_Phase
		err    string
	}{
		{"header and inputs", []*admin.ExecuteTaskSyncRequest{header("s"), part(values{"x": 1})}, values{"x": 1}, core.TaskExecution_SUCCEEDED, ""},
		{"no inputs", []*admin.ExecuteTaskSyncRequest{header("s")}, values{}, core.TaskExecution_SUCCEEDED, ""},
		{"inputs in many parts", many, values{"a": "a", "b": "b"}, core.TaskExecution_SUCCEEDED, ""},
		{"a task that fails", []*admin.ExecuteTaskSyncRequest{header("s"), part(values{"fails": 1})}, values{}, core.TaskExecution_FAILED, ""},
		{"a phase that is not final", []*admin.ExecuteTaskSyncRequest{header("s"), part(values{"running": 1})}, nil, 0, "Internal desc = the plugin ended a synchronous task in phase RUNNING"},
		{"an input twice", []*admin.ExecuteTaskSyncRequest{header("s"), part(values{"x": 1}), part(values{"x": 2})}, nil, 0, `InvalidArgument desc = input "x" came twice`},
		{"two headers", []*admin.ExecuteTaskSyncRequest{header("s"), header("s")}, nil, 0, "InvalidArgument desc = the call holds two headers"},
		{"nothing", nil, nil, 0, "InvalidArgument desc = the call ended before its header came"},
		{"no such plugin", []*admin.ExecuteTaskSyncRequest{header("t")}, nil, 0, "NotFound"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			r, err := w.execute(with(w.within(), keyHeader, "k"), tt.parts...)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.phase, r.GetPhase())
			if tt.phase == core.TaskExecution_SUCCEEDED {
				assert.True(t, proto.Equal(literals(tt.want), r.GetOutputs()), r.GetOutputs())
			}
		})
	}
}

// watched can give logs and metrics.
type watched struct {
	simple
	pages atomic.Int32
	query backendplugin.MetricsQuery
}

func (p *watched) Logs(_ context.Context, j *backendplugin.Job[string], q backendplugin.LogQuery) (*backendplugin.LogPage, error) {
	p.pages.Add(1)
	if q.Token == "2" {
		return &backendplugin.LogPage{Lines: []backendplugin.LogLine{{Message: "end\n", System: true}}}, nil
	}
	if q.Token != "" {
		return nil, nil //nolint:nilnil // a plugin's slip
	}
	return &backendplugin.LogPage{Lines: []backendplugin.LogLine{{Time: time.Unix(7, 0), Message: "line of " + j.ID + "\n"}}, Next: "2"}, nil
}

func (p *watched) Metrics(_ context.Context, _ *backendplugin.Job[string], q backendplugin.MetricsQuery) ([]backendplugin.Metric, error) {
	p.query = q
	return []backendplugin.Metric{{Name: "cpu", Data: values{"values": []any{1.5}}}}, nil
}

func TestLogsAndMetrics(t *testing.T) {
	p := &watched{}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", p), backendplugin.New("without", &simple{})})
	read := func(taskType, token string) (next string, lines []*admin.LogLine, err error) {
		stream, err := w.async.GetTaskLogs(w.within(), &admin.GetTaskLogsRequest{
			TaskCategory: &admin.TaskCategory{Name: taskType}, ResourceMeta: []byte("j"), Token: token,
		})
		require.NoError(t, err)
		first, err := stream.Recv()
		if err != nil {
			return "", nil, err
		}
		second, err := stream.Recv()
		return first.GetHeader().GetToken(), second.GetBody().GetStructuredLines(), err
	}
	next, lines, err := read("a", "")
	require.NoError(t, err)
	require.Equal(t, "2", next)
	require.Equal(t, "line of j\n", lines[0].GetMessage())
	require.Equal(t, int64(7), lines[0].GetTimestamp().GetSeconds())
	next, lines, err = read("a", next)
	require.NoError(t, err)
	require.Empty(t, next)
	require.Equal(t, admin.LogLineOriginator_SYSTEM, lines[0].GetOriginator())
	_, _, err = read("a", "3")
	require.ErrorContains(t, err, "Internal desc = the plugin gave no page of the log")
	_, _, err = read("without", "")
	require.Equal(t, codes.Unimplemented, status.Code(err))

	ask := &admin.GetTaskMetricsRequest{
		TaskCategory: &admin.TaskCategory{Name: "a"}, ResourceMeta: []byte("j"), Queries: []string{"cpu"},
		StartTime: timestamppb.New(time.Unix(1, 0)), EndTime: timestamppb.New(time.Unix(2, 0)), Step: durationpb.New(time.Minute),
	}
	m, err := w.async.GetTaskMetrics(w.within(), ask)
	require.NoError(t, err)
	require.Equal(t, "cpu", m.GetResults()[0].GetMetric())
	require.Equal(t, values{"values": []any{1.5}}, m.GetResults()[0].GetData().AsMap())
	require.Equal(t, backendplugin.MetricsQuery{Names: []string{"cpu"}, Start: time.Unix(1, 0).UTC(), End: time.Unix(2, 0).UTC(), Step: time.Minute}, p.query)
	ask.TaskCategory.Name = "without"
	_, err = w.async.GetTaskMetrics(w.within(), ask)
	require.Equal(t, codes.Unimplemented, status.Code(err))
}

// TestRequestHasEverything: secrets and a log are at hand in every call.
func TestRequestHasEverything(t *testing.T) {
	t.Setenv("_FSEC_DB_PASSWORD", "hunter2")
	read := func(s backendplugin.Secrets) error {
		_, err := s.Get("db", "password")
		return err
	}
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(_ context.Context, r *backendplugin.Request[values]) (string, error) {
			r.Log.Info("creating")
			assert.Equal(t, "n", r.Template.GetId().GetName())
			assert.Equal(t, "ns", r.Metadata.GetNamespace())
			assert.Equal(t, "v1", r.PluginVersion)
			return "secret-job", read(r.Secrets)
		},
		get: func(_ context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			j.Log.Info("getting")
			return backendplugin.Succeeded(values{"o0": "secret-output"}), read(j.Secrets)
		},
	})})
	_, err := w.async.CreateTask(with(w.within(), versionHeader, "v1"), &admin.CreateTaskRequest{
		Template: &core.TaskTemplate{Type: "a", Id: &core.Identifier{Name: "n"}}, TaskExecutionMetadata: &admin.TaskExecutionMetadata{Namespace: "ns"},
		Inputs: literals(values{"x": "secret-input"}),
	})
	require.NoError(t, err)
	_, err = w.get(w.within(), "a", "secret-job")
	require.NoError(t, err)
	for _, want := range []string{"msg=creating task_type=a plugin_version=v1", "msg=getting task_type=a", "call=Get code=OK"} {
		require.Contains(t, w.log.String(), want)
	}
	for _, secret := range []string{"hunter2", "secret-"} {
		require.NotContains(t, w.log.String(), secret)
	}
}

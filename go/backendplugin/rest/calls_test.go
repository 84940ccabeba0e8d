package rest_test

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// heard is what a service learned of a call.
type heard struct {
	message proto.Message
	key     []string
	version []string
	trace   []string
	peer    bool
}

// listener is a service that writes down what it hears, and gives the same answers always.
func listener() (*service, func() heard) {
	var mu sync.Mutex
	var last heard
	note := func(ctx context.Context, m proto.Message) {
		mu.Lock()
		defer mu.Unlock()
		p, ok := peer.FromContext(ctx)
		last = heard{
			proto.Clone(m), metadata.ValueFromIncomingContext(ctx, "flyte-backend-idempotency-key"),
			metadata.ValueFromIncomingContext(ctx, "flyte-backend-plugin-version"), metadata.ValueFromIncomingContext(ctx, "traceparent"),
			ok && strings.HasPrefix(p.Addr.String(), "127.0.0.1:"),
		}
	}
	s := &service{
		create: func(ctx context.Context, r *admin.CreateTaskRequest) ([]byte, error) {
			note(ctx, r)
			return []byte("j"), nil
		},
		get: func(ctx context.Context, r *admin.GetTaskRequest) (*admin.Resource, error) {
			note(ctx, r)
			return running("working"), nil
		},
		delete: func(ctx context.Context, r *admin.DeleteTaskRequest) error {
			note(ctx, r)
			return nil
		},
		logs: func(r *admin.GetTaskLogsRequest, stream pb.AsyncAgentService_GetTaskLogsServer) error {
			note(stream.Context(), r)
			return nil
		},
		metrics: func(ctx context.Context, r *admin.GetTaskMetricsRequest) (*admin.GetTaskMetricsResponse, error) {
			note(ctx, r)
			return &admin.GetTaskMetricsResponse{}, nil
		},
		execute: func(stream pb.SyncAgentService_ExecuteTaskSyncServer) error {
			first, err := stream.Recv()
			if err != nil {
				return err
			}
			second, err := stream.Recv()
			if err != nil {
				return err
			}
			if _, err = stream.Recv(); err == nil {
				return status.Error(codes.Internal, "a third message came")
			}
			note(stream.Context(), &admin.CreateTaskRequest{
				Template: first.GetHeader().GetTemplate(), Inputs: second.GetInputs(), OutputPrefix: first.GetHeader().GetOutputPrefix(),
				TaskExecutionMetadata: first.GetHeader().GetTaskExecutionMetadata(),
			})
			return stream.Send(headerWith(running("")))
		},
	}
	return s, func() heard {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

// TestTransportsAgree: the service hears the same of a call over either transport.
func TestTransportsAgree(t *testing.T) {
	t.Parallel()
	s, last := listener()
	w := serve(t, rest.Services{Async: s, Sync: s}, rest.Options{})
	conn := overGRPC(t, s)
	async, sync := pb.NewAsyncAgentServiceClient(conn), pb.NewSyncAgentServiceClient(conn)
	custom, err := structpb.NewStruct(map[string]any{"a": []any{1.5, nil, "b"}})
	require.NoError(t, err)
	task := &admin.CreateTaskRequest{
		Template: &core.TaskTemplate{
			Type: "t", TaskTypeVersion: 3, Custom: custom, Id: &core.Identifier{ResourceType: core.ResourceType_TASK, Name: "n"},
			Target: &core.TaskTemplate_Container{Container: &core.Container{Args: []string{"a", "ü"}}},
		},
		Inputs: literals("x", math.MinInt64), OutputPrefix: "s3://bucket/0",
		TaskExecutionMetadata: &admin.TaskExecutionMetadata{Namespace: "n", Labels: map[string]string{"a": "b"}},
	}
	category := &admin.TaskCategory{Name: "t", Version: 3}
	id := []byte("\xffid")
	start, end := time.Unix(1e9, 5).UTC(), time.Unix(2e9, 0).UTC()
	for _, snake := range []bool{false, true} {
		part := func(m proto.Message) string {
			raw, err := protojson.MarshalOptions{UseProtoNames: snake}.Marshal(m)
			require.NoError(t, err)
			return string(raw)
		}
		body := fmt.Sprintf(`{"template": %s, "inputs": %s, "metadata": %s, "output_prefix": "s3://bucket/0"}`,
			part(task.GetTemplate()), part(task.GetInputs()), part(task.GetTaskExecutionMetadata()))
		const ref, query = `"job_id": "base64:_2lk", "task_type_version": 3`, "?job_id=base64:_2lk&task_type_version=3"
		for _, tt := range []struct {
			call                 string
			grpc                 func(context.Context) error
			method, action, body string
		}{
			{"create", func(ctx context.Context) error { _, err := async.CreateTask(ctx, task); return err }, "PUT", "", body},
			{"get", func(ctx context.Context) error {
				_, err := async.GetTask(ctx, &admin.GetTaskRequest{TaskType: "t", TaskCategory: category, ResourceMeta: id, OutputPrefix: "s3://bucket/0"})
				return err
			}, "GET", query + "&output_prefix=" + url.QueryEscape("s3://bucket/0"), ""},
			{"get by poll", func(ctx context.Context) error {
				_, err := async.GetTask(ctx, &admin.GetTaskRequest{TaskType: "t", TaskCategory: category, ResourceMeta: id, OutputPrefix: "s3://bucket/0"})
				return err
			}, "POST", "/poll", `{"jobs": [{` + ref + `, "output_prefix": "s3://bucket/0"}]}`},
			{"delete", func(ctx context.Context) error {
				_, err := async.DeleteTask(ctx, &admin.DeleteTaskRequest{TaskType: "t", TaskCategory: category, ResourceMeta: id})
				return err
			}, "DELETE", query, ""},
			{"delete by body", func(ctx context.Context) error {
				_, err := async.DeleteTask(ctx, &admin.DeleteTaskRequest{TaskType: "t", TaskCategory: category, ResourceMeta: id})
				return err
			}, "POST", "/delete", `{` + ref + `}`},
			{"logs", func(ctx context.Context) error {
				stream, err := async.GetTaskLogs(ctx, &admin.GetTaskLogsRequest{TaskType: "t", TaskCategory: category, ResourceMeta: id, Lines: 9, Token: "next"})
				if err == nil {
					_, _ = stream.Recv() // there is nothing but the end
				}
				return err
			}, "POST", "/logs", `{` + ref + `, "lines": 9, "token": "next"}`},
			{"metrics", func(ctx context.Context) error {
				_, err := async.GetTaskMetrics(ctx, &admin.GetTaskMetricsRequest{
					TaskType: "t", TaskCategory: category, ResourceMeta: id, Queries: []string{"a", "b"},
					StartTime: timestamppb.New(start), EndTime: timestamppb.New(end), Step: durationpb.New(1500 * time.Millisecond),
				})
				return err
			}, "POST", "/metrics", `{` + ref + `, "queries": ["a", "b"], "start": "2001-09-09T01:46:40.000000005Z", "end": "2033-05-18T05:33:20+02:00", "step_seconds": 1.5}`},
			{"execute", func(ctx context.Context) error {
				stream, err := sync.ExecuteTaskSync(ctx)
				if err != nil {
					return err
				}
				for _, part := range []*admin.ExecuteTaskSyncRequest{
					{Part: &admin.ExecuteTaskSyncRequest_Header{Header: &admin.CreateRequestHeader{
						Template: task.GetTemplate(), OutputPrefix: task.GetOutputPrefix(), TaskExecutionMetadata: task.GetTaskExecutionMetadata(),
					}}},
					{Part: &admin.ExecuteTaskSyncRequest_Inputs{Inputs: task.GetInputs()}},
				} {
					if err := stream.Send(part); err != nil {
						return err
					}
				}
				if err := stream.CloseSend(); err != nil {
					return err
				}
				_, err = stream.Recv()
				return err
			}, "POST", "/execute", body},
		} {
			t.Run(fmt.Sprintf("%s, snake %t", tt.call, snake), func(t *testing.T) {
				ctx := metadata.AppendToOutgoingContext(within(t), "flyte-backend-idempotency-key", "k", "flyte-backend-plugin-version", "v2", "traceparent", "00-a")
				require.NoError(t, tt.grpc(ctx))
				over := last()
				a := w.do(tt.method, "/plugins/v1/t/v2"+tt.action, tt.body, "Idempotency-Key", "k", "traceparent", "00-a")
				require.Equal(t, 200, a.status, a.text)
				got := last()
				require.True(t, proto.Equal(over.message, got.message), "%v\n%v", over.message, got.message)
				over.message, got.message = nil, nil
				require.Equal(t, over, got)
				require.Equal(t, heard{key: []string{"k"}, version: []string{"v2"}, trace: []string{"00-a"}, peer: true}, got)
			})
		}
	}
}

// TestPaths: the task type and the version are what stands escaped in the path, whatever it is.
func TestPaths(t *testing.T) {
	t.Parallel()
	s, last := listener()
	w := serve(t, rest.Services{Async: s}, rest.Options{})
	for _, taskType := range []string{"t", "a/b", "a b", "a+b", "100%", "%2F", "日本", "a?b#c", "..", ".", "../../etc", "a;b=c", "a\\b", "poll", "a&b", ":", "\x00"} {
		path := "/plugins/v1/" + url.PathEscape(taskType) + "/v1.0+x"
		if strings.Trim(taskType, ".") == "" {
			path = "/plugins/v1/" + strings.ReplaceAll(taskType, ".", "%2E") + "/v1.0+x"
		}
		a := w.do("GET", path+"?job_id=j", "")
		require.Equal(t, 200, a.status, a.text)
		got, ok := last().message.(*admin.GetTaskRequest)
		require.True(t, ok)
		require.Equal(t, taskType, got.GetTaskCategory().GetName())
		require.Equal(t, []string{"v1.0+x"}, last().version)
		spec, _ := a.member("job_spec").(map[string]any)
		require.Equal(t, map[string]any{"task_type": taskType, "plugin_version": "v1.0+x"}, spec)
	}
	for _, tt := range []struct {
		reason, path string
		status       int
		says         string
	}{
		{"the root", "/", 404, "there is no path /"},
		{"above", "/plugins", 404, "there is no path"},
		{"another version of the contract", "/plugins/v2", 404, "there is no path"},
		{"a longer name", "/plugins/v1x", 404, "there is no path"},
		{"two slashes", "//plugins/v1", 404, "there is no path"},
		{"a task type alone", "/plugins/v1/t", 404, "there is no path"},
		{"no task type", "/plugins/v1//v1", 404, "there is no path"},
		{"no version", "/plugins/v1/t/", 404, "plugin in version"},
		{"a slash at the end", "/plugins/v1/t/v1/", 404, "there is no path"},
		{"an action that there is not", "/plugins/v1/t/v1/stop", 404, "there is no path"},
		{"an action in capitals", "/plugins/v1/t/v1/POLL", 404, "there is no path"},
		{"a way up", "/plugins/v1/../v1", 404, "no job"},
		{"a way up at the end", "/plugins/v1/t/..", 404, "plugin in version"},
		{"a task type that is no UTF-8", "/plugins/v1/%ff/v1", 400, "the task type in the path is not UTF-8"},
		{"a version with a slash", "/plugins/v1/t/v%2F1", 404, "plugin in version"},
		{"a version that is too long", "/plugins/v1/t/" + strings.Repeat("v", 65), 404, "plugin in version"},
		{"a long path is not sent back", "/" + strings.Repeat("x", 10000), 404, "there is no path /xxx"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			none := serve(t, rest.Services{Async: &service{get: func(context.Context, *admin.GetTaskRequest) (*admin.Resource, error) {
				return nil, status.Error(codes.NotFound, "no job")
			}}}, rest.Options{})
			a := none.do("GET", tt.path+"?job_id=j", "")
			require.Equal(t, tt.status, a.status, a.text)
			require.Contains(t, a.member("message"), tt.says)
			require.Less(t, len(a.text), 500)
			require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
		})
	}
}

// TestQueries: what is wrong in a URL is refused by its name.
func TestQueries(t *testing.T) {
	t.Parallel()
	s, last := listener()
	w := serve(t, rest.Services{Async: s}, rest.Options{})
	for _, tt := range []struct{ reason, query, says string }{
		{"no job", "", "job_id is missing or empty"},
		{"an empty job", "?job_id=", "job_id is missing or empty"},
		{"two jobs", "?job_id=a&job_id=b", "job_id stands in the query more than once"},
		{"a job that is no UTF-8", "?job_id=%ff", "job_id is not UTF-8"},
		{"a job that is not what it says", "?job_id=base64:!!!", "job_id begins with"},
		{"a job for a body", "?job_id=" + strings.Repeat("x", 4096), "job_id has 4096 bytes; over 4095 it goes into the body of POST …/poll or POST …/delete"},
		{"a prefix that is no UTF-8", "?job_id=j&output_prefix=%c3", "output_prefix is not UTF-8"},
		{"two prefixes", "?job_id=j&output_prefix=a&output_prefix=b", "output_prefix stands in the query more than once"},
		{"a version that is a text", "?job_id=j&task_type_version=x", `task_type_version is "x"`},
		{"a version that is empty", "?job_id=j&task_type_version=", `task_type_version is ""`},
		{"a version that is negative", "?job_id=j&task_type_version=-1", `task_type_version is "-1"`},
		{"a version past 32 bits", "?job_id=j&task_type_version=2147483648", "from 0 to 2147483647"},
		{"an escape that is none", "?job_id=%zz", "the query cannot be read"},
		{"a semicolon", "?job_id=j;x=y", "the query cannot be read"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			for _, method := range []string{"GET", "DELETE"} {
				a := w.do(method, "/plugins/v1/t/v1"+tt.query, "")
				require.Equal(t, 400, a.status, a.text)
				require.Contains(t, a.member("message"), tt.says)
			}
		})
	}
	require.Equal(t, 200, w.do("GET", "/plugins/v1/t/v1?job_id="+url.QueryEscape(strings.Repeat("ü", 2047))+"&nobody=knows", "").status)
	got, ok := last().message.(*admin.GetTaskRequest)
	require.True(t, ok)
	require.Len(t, got.GetResourceMeta(), 4094)
}

// TestHeaders: what headers there are, and what is wrong with some.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s, last := listener()
	s.agents = []*admin.Agent{}
	w := serve(t, rest.Services{Async: s, Metadata: s}, rest.Options{})
	const path, body = "/plugins/v1/t/v1", `{"template": {}}`
	for _, tt := range []struct {
		reason string
		header []string
		status int
		says   string
	}{
		{"JSON", []string{"Content-Type", "Application/JSON; Charset=\"UTF-8\""}, 200, ""},
		{"no content type", []string{"Content-Type", ""}, 415, `the body is ""; application/json is due`},
		{"another content type", []string{"Content-Type", "application/json-patch+json"}, 415, "application/json is due"},
		{"another character set", []string{"Content-Type", "application/json; charset=utf-16"}, 415, "application/json is due"},
		{"a content type that is none", []string{"Content-Type", "application/json; charset"}, 415, "application/json is due"},
		{"a body that is packed", []string{"Content-Encoding", "gzip"}, 415, `"gzip"`},
		{"a body that is as it is", []string{"Content-Encoding", "identity"}, 200, ""},
		{"the longest key", []string{"Idempotency-Key", strings.Repeat("~", 64)}, 200, ""},
		{"a key that is too long", []string{"Idempotency-Key", strings.Repeat("k", 65)}, 400, "Idempotency-Key"},
		{"a key that is empty", []string{"Idempotency-Key", ""}, 400, "Idempotency-Key"},
		{"a key with a space", []string{"Idempotency-Key", "a b"}, 400, "Idempotency-Key"},
		{"a key that is no ASCII", []string{"Idempotency-Key", "ä"}, 400, "Idempotency-Key"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			a := w.do("PUT", path, body, tt.header...)
			require.Equal(t, tt.status, a.status, a.text)
			if tt.says != "" {
				require.Contains(t, a.member("message"), tt.says)
				require.Equal(t, "INVALID_ARGUMENT", a.member("error_code"))
			}
		})
	}
	a := w.do("PUT", path, body)
	require.Equal(t, 200, a.status)
	require.Empty(t, last().key, "none came, so none is passed on")
	require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	require.Equal(t, "nosniff", a.header.Get("X-Content-Type-Options"))
	require.Equal(t, fmt.Sprint(len(a.text)), a.header.Get("Content-Length"))
	for path, allow := range map[string]string{
		"/plugins/v1": "GET, HEAD", "/plugins/v1/t/v1": "DELETE, GET, HEAD, PUT", "/plugins/v1/t/v1/poll": "POST",
		"/plugins/v1/t/v1/delete": "POST", "/plugins/v1/t/v1/execute": "POST", "/plugins/v1/t/v1/logs": "POST", "/plugins/v1/t/v1/metrics": "POST",
	} {
		a := w.do("PATCH", path, "")
		require.Equal(t, 405, a.status, path)
		require.Equal(t, allow, a.header.Get("Allow"), path)
		require.Equal(t, "UNIMPLEMENTED", a.member("error_code"))
	}
	get, head := w.do("GET", "/plugins/v1", ""), w.do("HEAD", "/plugins/v1", "")
	require.Equal(t, get.status, head.status)
	require.Empty(t, head.text)
	require.Equal(t, get.header.Get("Content-Length"), head.header.Get("Content-Length"))
}

// TestList: an agent's words become the contract's.
func TestList(t *testing.T) {
	t.Parallel()
	category := func(name string, version int32) *admin.TaskCategory {
		return &admin.TaskCategory{Name: name, Version: version}
	}
	for _, tt := range []struct {
		reason string
		agents []*admin.Agent
		want   string
	}{
		{"none", nil, ``},
		{
			"any task type version", []*admin.Agent{{Name: "a", SupportedTaskCategories: []*admin.TaskCategory{category("t", 0)}}},
			`{"name": "a", "task_type": "t", "plugin_version": "v1", "task_type_versions": [], "mode": "async", "capabilities": []}`,
		},
		{
			"some, and a version of the plugin", []*admin.Agent{{Name: "a@v2", IsSync: true, SupportedTaskCategories: []*admin.TaskCategory{category("t", 1), category("t", 3)}}},
			`{"name": "a", "task_type": "t", "plugin_version": "v2", "task_type_versions": [1, 3], "mode": "sync", "capabilities": []}`,
		},
		{
			"any beside some is any", []*admin.Agent{{Name: "a", SupportedTaskCategories: []*admin.TaskCategory{category("t", 1), category("t", 0), category("t", 2)}}},
			`{"name": "a", "task_type": "t", "plugin_version": "v1", "task_type_versions": [], "mode": "async", "capabilities": []}`,
		},
		{
			"a name with an @ that is no version's", []*admin.Agent{{Name: "me@home there", SupportedTaskCategories: []*admin.TaskCategory{category("t", 0)}}},
			`{"name": "me@home there", "task_type": "t", "plugin_version": "v1", "task_type_versions": [], "mode": "async", "capabilities": []}`,
		},
		{
			"an old service has names alone", []*admin.Agent{{Name: "a", SupportedTaskTypes: []string{"t", "u"}}},
			`{"name": "a", "task_type": "t", "plugin_version": "v1", "task_type_versions": [], "mode": "async", "capabilities": []},
			 {"name": "a", "task_type": "u", "plugin_version": "v1", "task_type_versions": [], "mode": "async", "capabilities": []}`,
		},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			w := serve(t, rest.Services{Metadata: &service{agents: tt.agents}}, rest.Options{})
			a := w.do("GET", "/plugins/v1", "")
			require.Equal(t, 200, a.status)
			require.JSONEq(t, `{"plugins": [`+tt.want+`]}`, a.text)
		})
	}
}

// TestJobStates: a job's state in the contract's words.
func TestJobStates(t *testing.T) {
	t.Parallel()
	var gives *admin.Resource
	w := serve(t, rest.Services{Async: &service{get: func(context.Context, *admin.GetTaskRequest) (*admin.Resource, error) {
		return gives, nil
	}}}, rest.Options{})
	info, err := structpb.NewStruct(map[string]any{"rows": 7, "<a>": nil})
	require.NoError(t, err)
	failed := func(e *admin.AgentError) *admin.Resource {
		return &admin.Resource{Phase: core.TaskExecution_FAILED, AgentError: e}
	}
	const spec = `"job_spec": {"task_type": "t", "plugin_version": "v1"}`
	for _, tt := range []struct {
		reason string
		gives  *admin.Resource
		want   string
	}{
		{"everything", &admin.Resource{
			Phase: core.TaskExecution_SUCCEEDED, Message: "done", Outputs: literals("o0", math.MaxInt64), CustomInfo: info,
			LogLinks: []*core.TaskLog{{Name: "Console", Uri: "https://x/?a=b&c", Ttl: durationpb.New(time.Second)}},
		}, `{` + spec + `, "job_state": "SUCCEEDED", "error_code": "", "message": "done",
			"outputs": {"literals": {"o0": {"scalar": {"primitive": {"integer": "9223372036854775807"}}}}},
			"log_links": [{"name": "Console", "uri": "https://x/?a=b&c", "ttl": "1s"}], "custom_info": {"rows": 7, "<a>": null}}`},
		{"outputs that are none", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: &core.LiteralMap{}}, `{` + spec + `, "job_state": "SUCCEEDED", "error_code": "", "message": "", "outputs": {}}`},
		{"a user's failure", failed(&admin.AgentError{Code: "Bad", Kind: admin.AgentError_NON_RECOVERABLE, Origin: core.ExecutionError_USER}), `{` + spec + `, "job_state": "FAILED", "error_code": "Bad", "error_kind": "USER", "recoverable": false, "message": ""}`},
		{"a system's", failed(&admin.AgentError{Kind: admin.AgentError_RECOVERABLE, Origin: core.ExecutionError_SYSTEM}), `{` + spec + `, "job_state": "FAILED", "error_code": "", "error_kind": "SYSTEM", "recoverable": true, "message": ""}`},
		{"one of a kind that is unknown", failed(&admin.AgentError{Code: "C", Origin: 9}), `{` + spec + `, "job_state": "FAILED", "error_code": "C", "error_kind": "UNKNOWN", "recoverable": false, "message": ""}`},
		{"an old service sets the state alone", &admin.Resource{State: admin.State_SUCCEEDED}, `{` + spec + `, "job_state": "SUCCEEDED", "error_code": "", "message": ""}`},
		{"the phase goes before", &admin.Resource{State: admin.State_SUCCEEDED, Phase: core.TaskExecution_QUEUED}, `{` + spec + `, "job_state": "QUEUED", "error_code": "", "message": ""}`},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			gives = tt.gives
			a := w.do("GET", "/plugins/v1/t/v1?job_id=j", "")
			require.Equal(t, 200, a.status, a.text)
			require.JSONEq(t, tt.want, a.text)
		})
	}
	for _, tt := range []struct {
		reason     string
		gives      *admin.Resource
		code, says string
	}{
		{"nothing", nil, "DATA_LOSS", "phase is not set"},
		{"no phase", &admin.Resource{Message: "working"}, "DATA_LOSS", "phase is not set"},
		{"a phase that there is not", &admin.Resource{Phase: 77}, "DATA_LOSS", "(77)"},
		{"outputs that cannot be written", &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: &core.LiteralMap{Literals: map[string]*core.Literal{"\xff": {}}}}, "INTERNAL", "cannot be written as JSON"},
		{"links that cannot be", &admin.Resource{Phase: core.TaskExecution_RUNNING, LogLinks: []*core.TaskLog{{Name: "\xff"}}}, "INTERNAL", "cannot be written as JSON"},
		{"info that cannot be", &admin.Resource{Phase: core.TaskExecution_RUNNING, CustomInfo: &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(math.NaN())}}}, "INTERNAL", "cannot be written as JSON"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			gives = tt.gives
			a := w.do("GET", "/plugins/v1/t/v1?job_id=j", "")
			require.Equal(t, 500, a.status, a.text)
			require.Equal(t, tt.code, a.member("error_code"))
			require.Contains(t, a.member("message"), tt.says)
		})
	}
}

// TestCreatedIDs: an id that the contract does not take is the service's failure.
func TestCreatedIDs(t *testing.T) {
	t.Parallel()
	var id []byte
	w := serve(t, rest.Services{Async: &service{create: func(context.Context, *admin.CreateTaskRequest) ([]byte, error) { return id, nil }}}, rest.Options{})
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1} {
		id = []byte(strings.Repeat("\xff", size))
		a := w.do("PUT", "/plugins/v1/t/v1", `{"template": {}}`)
		if size > 0 && size <= rest.MaxJobID {
			require.Equal(t, 200, a.status, size)
			require.Equal(t, rest.EncodeJobID(id), a.member("job_id"))
			continue
		}
		require.Equal(t, 500, a.status, size)
		require.Equal(t, fmt.Sprintf("the plugin gave a job id of %d bytes; 1 to 65536 are due", size), a.member("message"))
	}
}

package restclient

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/internal/convert"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

const (
	jobPath = "/plugins/v1/my%20task%2F%C3%BC/v2"
	running = `{"job_state": "RUNNING"}`
)

func TestRequests(t *testing.T) {
	t.Parallel()
	long := ref
	long.ID = client.JobID(strings.Repeat("x", maxURLID+1))
	longest := ref
	longest.ID = long.ID[1:]
	binary := ref
	binary.ID = client.JobID{0xff, 0xfe, 0xfd}
	prefixed := ref
	prefixed.ID = client.JobID("base64:eA")
	get := func(ref client.JobRef) func(context.Context, *Conn) error {
		return func(ctx context.Context, c *Conn) error { _, err := c.Get(ctx, ref); return err }
	}
	del := func(ref client.JobRef) func(context.Context, *Conn) error {
		return func(ctx context.Context, c *Conn) error { return c.Delete(ctx, ref) }
	}
	query := func(id string) map[string][]string {
		return map[string][]string{"job_id": {id}, "task_type_version": {"3"}}
	}
	polled := func(id string) map[string][]string {
		q := query(id)
		q["output_prefix"] = []string{"s3://bucket/out/0"}
		return q
	}
	tests := []struct {
		reason       string
		call         func(context.Context, *Conn) error
		answer       string
		method, path string
		query        map[string][]string
		key          string
		body         bool
		says         string
	}{
		{reason: "list", answer: `{"plugins": []}`, method: "GET", path: "/plugins/v1",
			call: func(ctx context.Context, c *Conn) error { _, err := c.List(ctx); return err }},
		{reason: "create", answer: `{"job_id": "x"}`, method: "PUT", path: jobPath, key: "key-1", body: true,
			call: func(ctx context.Context, c *Conn) error { _, err := c.Create(ctx, newRequest()); return err }},
		{reason: "create without a key and a version", answer: `{"job_id": "x"}`, method: "PUT", path: "/plugins/v1/t/v1", body: true, says: `{"template":{},"metadata":{}}`,
			call: func(ctx context.Context, c *Conn) error {
				_, err := c.Create(ctx, &client.CreateRequest{Target: client.Target{TaskType: "t"}})
				return err
			}},
		{reason: "execute", answer: running, method: "POST", path: jobPath + "/execute", key: "key-1", body: true,
			call: func(ctx context.Context, c *Conn) error { _, err := c.Execute(ctx, newRequest()); return err }},
		{reason: "poll", call: get(ref), answer: running, method: "GET", path: jobPath, query: polled("job/7 &ü")},
		{reason: "poll of the longest id for a URL", call: get(longest), answer: running, method: "GET", path: jobPath, query: polled(string(longest.ID))},
		{reason: "poll of a longer one", call: get(long), answer: `{"results": [{"job": ` + running + `}]}`, method: "POST", path: jobPath + "/poll", body: true,
			says: `{"jobs":[{"job_id":"` + string(long.ID) + `","task_type_version":3,"output_prefix":"s3://bucket/out/0"}]}`},
		{reason: "poll of an id that is no text", call: get(binary), answer: running, method: "GET", path: jobPath, query: polled("base64:__79")},
		{reason: "poll of an id that only looks so", call: get(prefixed), answer: running, method: "GET", path: jobPath, query: polled("base64:YmFzZTY0OmVB")},
		{reason: "delete", call: del(ref), answer: `{}`, method: "DELETE", path: jobPath, query: query("job/7 &ü")},
		{reason: "delete of a long id", call: del(long), answer: `{}`, method: "POST", path: jobPath + "/delete", body: true,
			says: `{"job_id":"` + string(long.ID) + `","task_type_version":3}`},
		{reason: "delete of an id that is no text", call: del(binary), answer: `{}`, method: "DELETE", path: jobPath, query: query("base64:__79")},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			for _, base := range []string{"", "/", "/behind/a path", "/behind/a%2Fpath/"} {
				s, url := serve(t, answering(http.StatusOK, "application/json; charset=utf-8", tt.answer), nil, nil)
				require.NoError(t, tt.call(within(t), connectPlain(t, url+base)))
				require.Equal(t, 1, s.count())
				got := s.last(t)
				assert.Equal(t, tt.method, got.method)
				assert.Equal(t, strings.ReplaceAll(strings.TrimSuffix(base, "/"), " ", "%20")+tt.path, got.path)
				if tt.query == nil {
					tt.query = map[string][]string{}
				}
				assert.Equal(t, tt.query, got.query)
				assert.NotContains(t, got.rawQuery, "+", "not every language takes it for a space")
				if tt.key == "" {
					assert.NotContains(t, got.header, "Idempotency-Key")
				} else {
					assert.Equal(t, []string{tt.key}, got.header["Idempotency-Key"])
				}
				assert.Equal(t, "application/json", got.header.Get("Accept"))
				if tt.body {
					assert.Equal(t, "application/json", got.header.Get("Content-Type"))
					assert.NotEmpty(t, got.body)
				} else {
					assert.Empty(t, got.body)
					assert.NotContains(t, got.header, "Content-Type")
				}
				if tt.says != "" {
					assert.Equal(t, tt.says, got.body)
				}
			}
		})
	}
}

func TestCreateAndExecuteSendEverything(t *testing.T) {
	t.Parallel()
	s, c := to(t, http.StatusOK, `{"job_id": "x", "job_state": "SUCCEEDED"}`)
	check := func(more map[string]bool) {
		t.Helper()
		var body map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(s.last(t).body), &body))
		template, inputs, metadata := &core.TaskTemplate{}, &core.LiteralMap{}, &admin.TaskExecutionMetadata{}
		require.NoError(t, protojson.Unmarshal(body["template"], template))
		require.NoError(t, protojson.Unmarshal(body["inputs"], inputs))
		require.NoError(t, protojson.Unmarshal(body["metadata"], metadata))
		equal(t, newRequest().Template, template)
		equal(t, newRequest().Inputs, inputs)
		equal(t, convert.Metadata(newRequest().Metadata), metadata)
		assert.JSONEq(t, `"s3://bucket/out/0"`, string(body["output_prefix"]))
		assert.Equal(t, more["max_output_bytes"], string(body["max_output_bytes"]) == "6")
		assert.Len(t, body, 4+len(more))
	}
	_, err := c.Create(within(t), newRequest())
	require.NoError(t, err)
	check(nil)
	_, err = c.Execute(within(t), newRequest())
	require.NoError(t, err)
	check(map[string]bool{"max_output_bytes": true})
}

func TestList(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason, answer string
		want           []client.Registration
		broken         string
	}{
		{reason: "none", answer: `{"plugins": []}`},
		{reason: "all there is to tell, and more", answer: `{"plugins": [
			{"name": "a b", "task_type": "a", "plugin_version": "v1", "task_type_versions": [], "mode": "async", "capabilities": ["fly"], "new": 1},
			{"task_type": "b", "plugin_version": "v2", "task_type_versions": [3, 1, 3], "mode": "sync"}], "more": true}`,
			want: []client.Registration{
				{Name: "a b", TaskType: "a", PluginVersion: "v1"},
				{TaskType: "b", PluginVersion: "v2", TaskTypeVersions: []int32{1, 3}, Mode: client.Sync},
			}},
		{reason: "no plugins", answer: `{}`, broken: "it has no plugins"},
		{reason: "plugins that are null", answer: `{"plugins": null}`, broken: "it has no plugins"},
		{reason: "no task type", answer: `{"plugins": [{"plugin_version": "v1", "mode": "async"}]}`, broken: "plugins[0].task_type is empty"},
		{reason: "no version", answer: `{"plugins": [{"task_type": "t", "mode": "async"}]}`, broken: `plugins[0].plugin_version is ""`},
		{reason: "a version that no route can name", answer: `{"plugins": [{"task_type": "t", "plugin_version": "a b", "mode": "async"}]}`, broken: `plugins[0].plugin_version is "a b"`},
		{reason: "no mode", answer: `{"plugins": [{"task_type": "t", "plugin_version": "v1"}]}`, broken: `plugins[0].mode is ""`},
		{reason: "no such task type version", answer: `{"plugins": [{"task_type": "t", "plugin_version": "v1", "mode": "sync", "task_type_versions": [0]}]}`,
			broken: "plugins[0].task_type_versions is [0]"},
		{reason: "other types", answer: `{"plugins": [{"task_type": 7}]}`, broken: "not the JSON that is due"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, c := to(t, http.StatusOK, tt.answer)
			got, err := c.List(within(t))
			if tt.broken != "" {
				breaks(t, err, tt.broken, codes.Internal)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

// breaks says that an answer was refused, for that reason.
func breaks(t *testing.T, err error, what string, code codes.Code) {
	t.Helper()
	e := failed(t, err)
	assert.Contains(t, e.Message, "the answer breaks the contract: ")
	assert.Contains(t, e.Message, what)
	assert.Equal(t, client.SystemError, e.Class)
	assert.Equal(t, code, e.Code)
	assert.True(t, e.FromService)
}

func TestJobIDs(t *testing.T) {
	t.Parallel()
	most := strings.Repeat("x", client.MaxJobID)
	tests := []struct {
		reason, answer, want, broken string
	}{
		{reason: "text", answer: `{"job_id": "eu/ü-7", "error_code": "", "message": ""}`, want: "eu/ü-7"},
		{reason: "bytes that are no text", answer: `{"job_id": "base64:__79"}`, want: "\xff\xfe\xfd"},
		{reason: "text that looks like it", answer: `{"job_id": "base64:YmFzZTY0OmVB"}`, want: "base64:eA"},
		{reason: "the longest", answer: `{"job_id": "` + most + `"}`, want: most},
		{reason: "one byte more", answer: `{"job_id": "` + most + `x"}`, broken: "the job id has 65537 bytes, 1 to 65536 are due"},
		{reason: "none", answer: `{}`, broken: "the job id has 0 bytes"},
		{reason: "an empty one", answer: `{"job_id": ""}`, broken: "the job id has 0 bytes"},
		{reason: "no bytes", answer: `{"job_id": "base64:"}`, broken: "the job id has 0 bytes"},
		{reason: "an error as a success", answer: `{"job_id": "", "error_code": "UNAVAILABLE", "message": "later"}`, broken: `it has error_code "UNAVAILABLE" and no job_id`},
		{reason: "a number", answer: `{"job_id": 7}`, broken: "not the JSON that is due"},
		{reason: "base64 that is none", answer: `{"job_id": "base64:s3cr3t!"}`, broken: "goes on with something else"},
		{reason: "padding", answer: `{"job_id": "base64:eA=="}`, broken: "goes on with something else"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			s, c := to(t, http.StatusOK, tt.answer)
			id, err := c.Create(within(t), newRequest())
			if tt.broken != "" {
				breaks(t, err, tt.broken, codes.Internal)
				assert.NotContains(t, err.Error(), "s3cr3t")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(id))
			// The service gets back what it gave.
			require.NoError(t, c.Delete(within(t), client.JobRef{Target: target, ID: id}))
			var given, back struct {
				JobID string `json:"job_id"`
			}
			require.NoError(t, json.Unmarshal([]byte(tt.answer), &given))
			got := s.last(t)
			if got.method == http.MethodPost {
				require.NoError(t, json.Unmarshal([]byte(got.body), &back))
			} else {
				back.JobID = got.query["job_id"][0]
			}
			assert.Equal(t, given.JobID, back.JobID)
		})
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	info, err := structpb.NewStruct(map[string]any{"rows": 3, "deep": []any{"a", nil}})
	require.NoError(t, err)
	tests := []struct {
		reason, answer string
		want           client.Job
		broken         string
	}{
		{reason: "all there is to tell", answer: `{
			"job_spec": {"task_type": "t", "plugin_version": "v1"}, "job_state": "RUNNING", "error_code": "", "message": "reading",
			"outputs": {"literals": {"o0": {"scalar": {"primitive": {"integer": "1"}}}}, "newer": 1},
			"log_links": [{"name": "console", "uri": "https://example.com", "message_format": "JSON", "newer": 1}],
			"custom_info": {"rows": 3, "deep": ["a", null]}, "poll_after_seconds": 1.5, "newer": {}}`,
			want: client.Job{Phase: core.TaskExecution_RUNNING, Message: "reading", Outputs: literals(map[string]*core.Literal{"o0": number(1)}),
				LogLinks:   []*core.TaskLog{{Name: "console", Uri: "https://example.com", MessageFormat: core.TaskLog_JSON}},
				CustomInfo: info, PollAfter: 1500 * time.Millisecond}},
		{reason: "as little as possible", answer: `{"job_state": "QUEUED"}`, want: client.Job{Phase: core.TaskExecution_QUEUED}},
		{reason: "nulls are nothing", answer: `{"job_state": "INITIALIZING", "outputs": null, "log_links": null, "custom_info": null, "poll_after_seconds": null, "recoverable": null}`,
			want: client.Job{Phase: core.TaskExecution_INITIALIZING}},
		{reason: "no outputs are outputs", answer: `{"job_state": "SUCCEEDED", "outputs": {}}`, want: client.Job{Phase: core.TaskExecution_SUCCEEDED, Outputs: literals(nil)}},
		{reason: "waiting", answer: `{"job_state": "WAITING_FOR_RESOURCES"}`, want: client.Job{Phase: core.TaskExecution_WAITING_FOR_RESOURCES}},
		{reason: "a failure without details has none", answer: `{"job_state": "FAILED", "error_code": "", "error_kind": "UNKNOWN", "message": "m", "recoverable": false}`,
			want: client.Job{Phase: core.TaskExecution_FAILED, Message: "m"}},
		{reason: "a failure with all of them", answer: `{"job_state": "FAILED", "error_code": "Bad", "error_kind": "USER", "recoverable": true}`,
			want: client.Job{Phase: core.TaskExecution_FAILED, Failure: &client.Failure{Code: "Bad", Recoverable: true, Origin: core.ExecutionError_USER}}},
		{reason: "of the system's", answer: `{"job_state": "RETRYABLE_FAILED", "error_kind": "SYSTEM"}`,
			want: client.Job{Phase: core.TaskExecution_RETRYABLE_FAILED, Failure: &client.Failure{Origin: core.ExecutionError_SYSTEM}}},
		{reason: "of unknown origin", answer: `{"job_state": "ABORTED", "error_code": "Gone", "error_kind": "UNKNOWN"}`,
			want: client.Job{Phase: core.TaskExecution_ABORTED, Failure: &client.Failure{Code: "Gone"}}},
		{reason: "a pause cannot be negative", answer: `{"job_state": "RUNNING", "poll_after_seconds": -1}`, want: client.Job{Phase: core.TaskExecution_RUNNING}},
		{reason: "no state", answer: `{}`, broken: "it has no job_state"},
		{reason: "a state nobody knows", answer: `{"job_state": "DONE"}`, broken: `job_state "DONE" is unknown`},
		{reason: "the unset one of flyteidl", answer: `{"job_state": "UNDEFINED"}`, broken: `job_state "UNDEFINED" is unknown`},
		{reason: "outputs that are none", answer: `{"job_state": "SUCCEEDED", "outputs": {"literals": []}}`, broken: "outputs: "},
		{reason: "a link that is none", answer: `{"job_state": "SUCCEEDED", "log_links": [{}, {"uri": 7}]}`, broken: "log_links[1]: "},
		{reason: "custom info that is none", answer: `{"job_state": "SUCCEEDED", "custom_info": [1]}`, broken: "custom_info: "},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, c := to(t, http.StatusOK, tt.answer)
			_, many := to(t, http.StatusOK, `{"results": [{"job": `+tt.answer+`}]}`)
			long := ref
			long.ID = client.JobID(strings.Repeat("x", maxURLID+1))
			calls := map[string]func() (*client.Job, error){
				"get":      func() (*client.Job, error) { return c.Get(within(t), ref) },
				"execute":  func() (*client.Job, error) { return c.Execute(within(t), newRequest()) },
				"get many": func() (*client.Job, error) { return many.Get(within(t), long) },
			}
			for name, call := range calls {
				got, err := call()
				if tt.broken != "" {
					assert.Nil(t, got, name)
					breaks(t, err, tt.broken, codes.DataLoss)
					continue
				}
				require.NoError(t, err, name)
				equal(t, tt.want.Outputs, got.Outputs)
				assert.Equal(t, tt.want.Outputs == nil, got.Outputs == nil)
				equal(t, tt.want.CustomInfo, got.CustomInfo)
				assert.Equal(t, tt.want.CustomInfo == nil, got.CustomInfo == nil)
				require.Len(t, got.LogLinks, len(tt.want.LogLinks))
				for i := range got.LogLinks {
					equal(t, tt.want.LogLinks[i], got.LogLinks[i])
				}
				assert.Equal(t, tt.want.Phase, got.Phase)
				assert.Equal(t, tt.want.Message, got.Message)
				assert.Equal(t, tt.want.Failure, got.Failure)
				assert.Equal(t, tt.want.PollAfter, got.PollAfter)
			}
		})
	}
	for name, phase := range states {
		assert.Equal(t, core.TaskExecution_Phase_value[name], int32(phase))
	}
	assert.Len(t, states, len(core.TaskExecution_Phase_name)-1, "all but the unset one")
}

// TestAnswersThatAreNone: what arrives with 200 is looked at before it is believed.
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	good := `{"plugins": [], "job_id": "x", "job_state": "SUCCEEDED"}`
	tests := []struct {
		reason, contentType, body, broken string
		status                            int
	}{
		{"a page", "text/html", "<html>", `its content type is "text/html", application/json is due`, 200},
		{"JSON that says it is something else", "text/plain", good, "content type", 200},
		{"nothing said of the type", "", good, "content type", 200},
		{"a type that is none", "application/json; =", good, "content type", 200},
		{"nothing", jsonType, "", "not the JSON that is due", 200},
		{"half of it", jsonType, good[:len(good)-1], "not the JSON that is due", 200},
		{"a list", jsonType, "[]", "not the JSON that is due", 200},
		{"garbage", jsonType, "\x00\xff", "not the JSON that is due", 200},
		{"more behind it", jsonType, good + "{}", "not the JSON that is due", 200},
		{"a success of another kind", jsonType, good, "its status is 202 Accepted, 200 is due", 202},
		{"one without a body", jsonType, "", "its status is 204 No Content, 200 is due", 204},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t, answering(tt.status, tt.contentType, tt.body), nil, nil)
			for op, call := range every(connectPlain(t, url)) {
				err := call(within(t))
				breaks(t, err, tt.broken, codes.Internal)
				assert.Equal(t, op, failed(t, err).Op)
			}
		})
	}
}

func TestOneConnectionForEachCallAtOnce(t *testing.T) {
	t.Parallel()
	const workers = 100
	s, url := serve(t, answering(http.StatusOK, jsonType, `{"job_id": "x"}`), nil, nil)
	c := connectPlain(t, url)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range 20 {
				_, err := c.Create(within(t), newRequest())
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Len(t, s.calls, 20*workers)
	assert.LessOrEqual(t, s.conns, 2*workers, "connections are kept; some are dialled while another becomes free")
}

// TestKeptConnectionThatWasClosed: services close connections that nothing came over, at the very moment when something does.
func TestKeptConnectionThatWasClosed(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]bool{}
	_, url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		again := asked[r.Method+r.URL.Path]
		asked[r.Method+r.URL.Path] = true
		mu.Unlock()
		if r.URL.Path != "/plugins/v1" && !again {
			panic(http.ErrAbortHandler) // the connection is closed without an answer
		}
		answering(http.StatusOK, jsonType, `{"plugins": [], "job_id": "x", "job_state": "SUCCEEDED"}`).ServeHTTP(w, r)
	}), nil, nil)
	c := connectPlain(t, url)
	for op, call := range every(c) {
		_, err := c.List(within(t)) // there is a connection to keep
		require.NoError(t, err)
		require.NoError(t, call(within(t)), op)
	}
	_, err := c.List(within(t))
	require.NoError(t, err)
	keyless := newRequest()
	keyless.IdempotencyKey, keyless.Target.TaskType = "", "another"
	_, err = c.Create(within(t), keyless)
	assert.Equal(t, client.RetryLater, failed(t, err).Class, "it would be another job, so it is for the caller to say")
}

func TestDelete(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason, contentType, body string
		status                    int
		fails                     bool
	}{
		{"deleted", jsonType, `{}`, 200, false},
		{"said at length", jsonType, `{"error_code": "", "message": "", "more": 1}`, 200, false},
		{"an unknown job is deleted already", jsonType, `{"error_code": "NOT_FOUND", "message": "no job"}`, 404, false},
		{"a path that nobody serves says nothing of the job", "text/plain", "404 page not found", 404, true},
		{"a page is no answer", "text/html", "<html>", 200, true},
		{"anything else is a failure", jsonType, `{"error_code": "INTERNAL", "message": "no"}`, 500, true},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t, answering(tt.status, tt.contentType, tt.body), nil, nil)
			err := connectPlain(t, url).Delete(within(t), ref)
			if tt.fails {
				assert.Equal(t, config.CallDelete, failed(t, err).Op)
				return
			}
			require.NoError(t, err)
		})
	}
}

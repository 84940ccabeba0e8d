package rest_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// TestMalformedBodies: what is wrong is refused by its name, and never reaches the service.
func TestMalformedBodies(t *testing.T) {
	t.Parallel()
	// No function of the service is set: a call that reaches it is 501.
	w := serve(t, all(&service{}), rest.Options{})
	deep := strings.Repeat("[", 20000) + strings.Repeat("]", 20000)
	for _, tt := range []struct{ reason, action, body, says string }{
		{"no JSON at all", "", "template=x", "the body is not JSON: "},
		{"it breaks off", "", `{"template": {`, "the body is not JSON: unexpected end"},
		{"nothing but space", "", " ", "the body is not JSON: unexpected end"},
		{"something follows", "", `{"template": {}} x`, "the body is not JSON: invalid character 'x' after top-level value"},
		{"a second object follows", "", `{"template": {}}{}`, "the body is not JSON: "},
		{"a comma too many", "", `{"template": {},}`, "the body is not JSON: "},
		{"a comment", "", `{"template": {} /* the task */}`, "the body is not JSON: "},
		{"a byte order mark", "", "\ufeff{}", "the body is not JSON: "},
		{"a list", "", `[{"template": {}}]`, "the body is not a JSON object"},
		{"a text", "", `"template"`, "the body is not a JSON object"},
		{"null", "", `null`, "the body is null"},
		{"half a character", "", "{\"template\": {\"type\": \"\xc3\"}}", "the body is not UTF-8"},
		{"nesting without end", "", `{"template": {"custom": {"a": ` + deep + `}}}`, "exceeded max depth"},
		{"nesting without end of what nobody knows", "", `{"template": {}, "x": ` + deep + `}`, "exceeded max depth"},
		{"the same member twice", "", `{"template": {}, "output_prefix": "a", "output_prefix": "b"}`, `the body has "output_prefix" twice`},
		{"the same member twice, once in escapes", "", `{"template": {}, "templat\u0065": {}}`, `the body has "template" twice`},
		{"the same field of a message twice", "", `{"template": {"type": "t", "type": "t"}}`, `template: (line 1:15): duplicate field "type"`},
		{"the same input twice", "", `{"template": {}, "inputs": {"literals": {"x": {}, "x": {}}}}`, `inputs: (line 1:24): duplicate map key`},
		{"both names of a field", "", `{"template": {"task_type_version": 1, "taskTypeVersion": 2}}`, "template: "},
		{"both members of a oneof", "", `{"template": {}, "inputs": {"literals": {"x": {"scalar": {}, "map": {}}}}}`, "inputs: "},
		{"no template", "", `{}`, "template is missing"},
		{"a template that is null", "", `{"template": null}`, "template: "},
		{"a template that is a list", "", `{"template": []}`, "template: "},
		{"a number for a text", "", `{"template": {"type": 7}}`, "template: (line 1:10): invalid value for string field type: 7"},
		{"a version over 32 bits", "", `{"template": {"taskTypeVersion": 4294967296}}`, "template: "},
		{"half a character in a template", "", `{"template": {"type": "\ud800"}}`, "template: "},
		{"a template of another type", "", `{"template": {"type": "u"}}`, `template: its type is "u", and the path's is "t"`},
		{"inputs that are null", "", `{"template": {}, "inputs": null}`, "inputs: "},
		{"an integer that is none", "", `{"template": {}, "inputs": {"literals": {"x": {"scalar": {"primitive": {"integer": 1.5}}}}}}`, "inputs: "},
		{"metadata that are a text", "", `{"template": {}, "metadata": "x"}`, "metadata: "},
		{"a prefix that is a number", "", `{"template": {}, "output_prefix": 1}`, "output_prefix is not a string"},
		{"a prefix that is null", "", `{"template": {}, "output_prefix": null}`, "output_prefix is not a string"},
		{"half a character in a prefix", "", `{"template": {}, "output_prefix": "s3://\ud800"}`, "output_prefix is not a string"},
		{"a limit that is a text", "execute", `{"template": {}, "max_output_bytes": "1"}`, "max_output_bytes is not a number"},
		{"a limit that is negative", "execute", `{"template": {}, "max_output_bytes": -1}`, "max_output_bytes is -1, which is not from 0"},
		{"one far below", "execute", `{"template": {}, "max_output_bytes": -1e300}`, "which is not from 0"},
		{"a limit with a fraction", "execute", `{"template": {}, "max_output_bytes": 0.5}`, "max_output_bytes is 0.5, which is no integer"},
		{"one past 64 bits", "execute", `{"template": {}, "max_output_bytes": 9223372036854775808}`, "which is not from 0 to 9223372036854775807"},
		{"one past all numbers", "execute", `{"template": {}, "max_output_bytes": 1e999}`, "max_output_bytes is not a number"},
		{"a name without end", "", `{"template": {"id": {"resourceType": "` + strings.Repeat("ü", 100000) + `"}}}`, `template: resource_type is "üüü`},

		{"no jobs", "poll", `{}`, "jobs is missing"},
		{"jobs that are null", "poll", `{"jobs": null}`, "jobs is not an array"},
		{"jobs that are an object", "poll", `{"jobs": {}}`, "jobs is not an array"},
		{"none", "poll", `{"jobs": []}`, "jobs has 0 items; 1 to 1000 are due"},
		{"too many", "poll", `{"jobs": [` + strings.Repeat(`{"job_id": "j"}, `, 1000) + `{"job_id": "j"}]}`, "jobs has 1001 items; 1 to 1000 are due"},
		{"a job that is a text", "poll", `{"jobs": [{"job_id": "j"}, "j"]}`, "jobs[1] is not a JSON object"},
		{"a job that is null", "poll", `{"jobs": [null]}`, "jobs[0] is null"},
		{"a job without an id", "poll", `{"jobs": [{}]}`, "jobs[0]: job_id is missing or empty"},
		{"a job with two ids", "poll", `{"jobs": [{"job_id": "a", "job_id": "b"}]}`, `jobs[0] has "job_id" twice`},
		{"a job with a prefix that is none", "poll", `{"jobs": [{"job_id": "a", "output_prefix": []}]}`, "jobs[0]: output_prefix is not a string"},
		{"an id that is empty", "delete", `{"job_id": ""}`, "job_id is missing or empty"},
		{"an id that is null", "delete", `{"job_id": null}`, "job_id is not a string"},
		{"an id that is a number", "delete", `{"job_id": 7}`, "job_id is not a string"},
		{"half a character in an id", "delete", `{"job_id": "a\udc00"}`, "job_id is not a string"},
		{"an id that is too long", "delete", `{"job_id": "` + strings.Repeat("x", 64<<10+1) + `"}`, "job_id has 65537 bytes; 1 to 65536 are due"},
		{"a version past 32 bits", "delete", `{"job_id": "j", "task_type_version": 2147483648}`, "task_type_version is 2147483648, which is not from 0 to 2147483647"},
		{"a version that is negative", "delete", `{"job_id": "j", "task_type_version": -1}`, "task_type_version is -1"},
		{"lines without end", "logs", `{"job_id": "j", "lines": 1000001}`, "lines is 1000001, which is not from 0 to 1000000"},
		{"a token that is a number", "logs", `{"job_id": "j", "token": 7}`, "token is not a string"},
		{"queries that are a text", "metrics", `{"job_id": "j", "queries": "cpu"}`, "queries is not an array"},
		{"a query that is null", "metrics", `{"job_id": "j", "queries": ["cpu", null]}`, "queries[1] is not a string"},
		{"a time that is a number", "metrics", `{"job_id": "j", "start": 1}`, "start is not a string"},
		{"a time that is empty", "metrics", `{"job_id": "j", "end": ""}`, `end is "", which is no time`},
		{"a day that there is not", "metrics", `{"job_id": "j", "end": "2026-02-30T00:00:00Z"}`, "which is no time as RFC 3339 has it"},
		{"steps that are a text", "metrics", `{"job_id": "j", "step_seconds": "1"}`, "step_seconds is not a number"},
		{"steps without end", "metrics", `{"job_id": "j", "step_seconds": 31536001}`, "step_seconds is 3.1536001e+07"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			method := "POST"
			if tt.action == "" {
				method = "PUT"
			}
			a := w.do(method, strings.TrimSuffix("/plugins/v1/t/v1/"+tt.action, "/"), tt.body)
			require.Equal(t, 400, a.status, a.text)
			require.Equal(t, "INVALID_ARGUMENT", a.member("error_code"))
			require.Contains(t, a.member("message"), tt.says)
			require.Less(t, len(a.text), 2000, "the request is not sent back")
		})
	}
}

// TestEnums: a value that flyteidl does not know is refused, also beside fields that are passed over.
func TestEnums(t *testing.T) {
	t.Parallel()
	var got *admin.CreateTaskRequest
	w := serve(t, rest.Services{Async: &service{create: func(_ context.Context, r *admin.CreateTaskRequest) ([]byte, error) {
		got = r
		return []byte("j"), nil
	}}}, rest.Options{})
	for _, tt := range []struct{ reason, body, says string }{
		{"a name", `{"template": {"id": {"resourceType": "TASKS"}}}`, `template: resource_type is "TASKS"`},
		{"a name in other capitals", `{"template": {"id": {"resource_type": "task"}}}`, `template: resource_type is "task"`},
		{"a name beside a field that is unknown", `{"template": {"x": [{"y": {}}, 1], "id": {"resourceType": "TASKS"}}}`, `template: resource_type is "TASKS"`},
		{"a number", `{"template": {"id": {"resourceType": 99}}}`, "template: resource_type is 99"},
		{"a number beside a field that is unknown", `{"template": {"x": 1, "id": {"resourceType": -1}}}`, "template: resource_type is -1"},
		{"in a map", `{"template": {"interface": {"inputs": {"variables": {"a": {"type": {"simple": "INTEGER"}}, "b": {"type": {"simple": "NUMBER"}}}}}}}`, `simple is "NUMBER"`},
		{"in a list", `{"template": {"container": {"resources": {"requests": [{"name": "CPU"}, {"name": "RAM"}]}}}}`, `name is "RAM"`},
		{"a number in a list", `{"template": {"container": {"resources": {"requests": [{"name": 2}, {"name": 77}]}}}}`, `name is 77`},
		{"in inputs", `{"template": {}, "inputs": {"literals": {"a": {"scalar": {"noneType": {}, "x": 1}}, "b": {"scalar": {"schema": {"type": {"columns": [{"type": "WORD"}]}}}}}}}`, `type is "WORD"`},
		{"in the metadata", `{"template": {}, "metadata": {"taskExecutionId": {"taskId": {"resourceType": "X"}}}}`, `metadata: resource_type is "X"`},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			a := w.do("PUT", "/plugins/v1/t/v1", tt.body)
			require.Equal(t, 400, a.status, a.text)
			require.Contains(t, a.member("message"), tt.says)
		})
	}
	// What looks like an enum's value stands here where there is no enum: in a struct, in a text, and in fields that are unknown.
	a := w.do("PUT", "/plugins/v1/t/v1", `{
		"nobody": {"resourceType": "TASKS"},
		"template": {
			"id": {"resourceType": "TASK", "name": "TASKS", "nobody": {"resourceType": "TASKS"}},
			"custom": {"resourceType": "TASKS", "nothing": null, "list": [1, null, {"simple": "NUMBER"}]},
			"interface": {"inputs": {"variables": {"a": {"type": {"simple": "NONE"}}, "b": {"type": {"simple": 1}}}}, "outputs": null},
			"config": {"simple": "NUMBER"}, "metadata": {"timeout": "1.5s", "nobody": true}
		}}`)
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, "TASKS", got.GetTemplate().GetCustom().GetFields()["resourceType"].GetStringValue())
	require.Equal(t, 1500*time.Millisecond, got.GetTemplate().GetMetadata().GetTimeout().AsDuration())
	require.Len(t, got.GetTemplate().GetInterface().GetInputs().GetVariables(), 2)
}

// TestDeepMessages: what is nested as deeply as JSON may be costs time in proportion to its size, with unknown fields too.
func TestDeepMessages(t *testing.T) {
	t.Parallel()
	var got *admin.CreateTaskRequest
	w := serve(t, rest.Services{Async: &service{create: func(_ context.Context, r *admin.CreateTaskRequest) ([]byte, error) {
		got = r
		return []byte("j"), nil
	}}}, rest.Options{})
	const depth = 2000
	deep := strings.Repeat(`{"collection": {"x": 1, "literals": [`, depth) + `{}` + strings.Repeat(`]}}`, depth)
	a := w.do("PUT", "/plugins/v1/t/v1", `{"template": {}, "inputs": {"literals": {"a": `+deep+`}}}`)
	require.Equal(t, 200, a.status, a.text)
	require.Greater(t, proto.Size(got.GetInputs()), depth)
	const wide = 20000
	flat := strings.TrimSuffix(strings.Repeat(`{"x": 1}, `, wide), ", ")
	a = w.do("PUT", "/plugins/v1/t/v1", `{"template": {}, "inputs": {"literals": {"a": {"collection": {"literals": [`+flat+`]}}}}}`)
	require.Equal(t, 200, a.status, a.text)
	require.Len(t, got.GetInputs().GetLiterals()["a"].GetCollection().GetLiterals(), wide)
}

// TestNumbers: integers arrive to the last digit, however they are written.
func TestNumbers(t *testing.T) {
	t.Parallel()
	var got int64
	w := serve(t, rest.Services{Sync: &service{execute: func(stream pb.SyncAgentService_ExecuteTaskSyncServer) error {
		first, err := stream.Recv()
		got = first.GetHeader().GetMaxDatasetSizeBytes()
		if err != nil {
			return err
		}
		return stream.Send(headerWith(running("")))
	}}}, rest.Options{})
	for written, want := range map[string]int64{
		"0": 0, "-0": 0, "7": 7, "7.0": 7, "7e2": 700, "9007199254740993": 9007199254740993, "9223372036854775807": math.MaxInt64,
	} {
		a := w.do("POST", "/plugins/v1/t/v1/execute", `{"template": {}, "max_output_bytes": `+written+`}`)
		require.Equal(t, 200, a.status, a.text)
		require.Equal(t, want, got, written)
	}
}

package sqlite

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestFlytekitTemplate(t *testing.T) {
	c, _ := start(t, Options{})
	template := templateFile(t)
	prefix := filepath.Join(t.TempDir(), "out")
	for _, tc := range []struct {
		reason, prefix string
	}{
		{"a file uri", "file://" + prefix},
		{"a plain path, with a slash at its end", prefix + "/"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			id := create(t, c, "", &admin.CreateTaskRequest{
				Template:     template,
				Inputs:       &core.LiteralMap{Literals: literals(t, map[string]any{"limit": 3, "ending": "gen"})},
				OutputPrefix: tc.prefix,
			})
			res := until(t, c, id, "finished", finished)
			if res.GetPhase() != core.TaskExecution_SUCCEEDED {
				t.Fatal(res.GetMessage())
			}
			schema := res.GetOutputs().GetLiterals()["results"].GetScalar().GetSchema()
			if want := strings.TrimRight(tc.prefix, "/") + "/" + string(id) + "/results"; schema.GetUri() != want {
				t.Errorf("uri = %s, want %s", schema.GetUri(), want)
			}
			if want := template.GetInterface().GetOutputs().GetVariables()["results"].GetType().GetSchema(); !proto.Equal(schema.GetType(), want) {
				t.Errorf("type = %v, want the declared %v", schema.GetType(), want)
			}
			cols, rows, err := ReadRows(schema.GetUri(), 2)
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"number", "symbol", "name", "atomic_weight", "discovered"}; !reflect.DeepEqual(cols, want) {
				t.Errorf("columns = %v, want %v", cols, want)
			}
			want := [][]any{
				{int64(1), "H", "Hydrogen", 1.008, int64(1766)},
				{int64(7), "N", "Nitrogen", 14.007, int64(1772)},
			}
			if !reflect.DeepEqual(rows, want) {
				t.Errorf("rows = %v, want %v", rows, want)
			}
			if got := res.GetCustomInfo().AsMap(); got["rows"] != 3.0 || got["columns"] != 5.0 || got["runs"] != 1.0 {
				t.Errorf("custom info = %v", got)
			}
			if len(res.GetLogLinks()) != 1 {
				t.Fatalf("log links = %v, want one", res.GetLogLinks())
			}
			log, err := os.ReadFile(strings.TrimPrefix(res.GetLogLinks()[0].GetUri(), "file://"))
			if err != nil || !strings.Contains(string(log), "running the query") {
				t.Errorf("log = %q, %v", log, err)
			}
		})
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	c, s := start(t, Options{})
	req := request(t, "SELECT 1 AS one", map[string]any{"a": 1, "b": "x"}, nil)

	ids := make([]string, 8)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			resp, err := c.CreateTask(ctxFor(t, "key-1"), req)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = string(resp.GetResourceMeta())
		})
	}
	all.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one key made the jobs %v", ids)
		}
	}
	until(t, c, []byte(ids[0]), "finished", finished)

	labelled := proto.CloneOf(req)
	labelled.TaskExecutionMetadata = &admin.TaskExecutionMetadata{Labels: map[string]string{"a": "b"}}
	for _, tc := range []struct {
		reason, key string
		req         *admin.CreateTaskRequest
		code        codes.Code
		same        bool
	}{
		{"the same after the job finished", "key-1", req, codes.OK, true},
		{"labels do not make the job", "key-1", labelled, codes.OK, true},
		{"another query", "key-1", request(t, "SELECT 2 AS two", nil, nil), codes.AlreadyExists, false},
		{"another key is another job", "key-2", req, codes.OK, false},
		{"no key is another job", "", req, codes.OK, false},
		{"64 characters are fine", strings.Repeat("k", 64), req, codes.OK, false},
		{"65 are not", strings.Repeat("k", 65), req, codes.InvalidArgument, false},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			resp, err := c.CreateTask(ctxFor(t, tc.key), tc.req)
			wantCode(t, err, tc.code)
			if err != nil {
				if tc.code == codes.AlreadyExists && !strings.Contains(err.Error(), ids[0]) {
					t.Errorf("the error does not name the job: %v", err)
				}
				return
			}
			if same := string(resp.GetResourceMeta()) == ids[0]; same != tc.same {
				t.Errorf("job %s, the first %s", resp.GetResourceMeta(), ids[0])
			}
		})
	}

	t.Run("a key given twice is no key", func(t *testing.T) {
		_, err := c.CreateTask(metadata.AppendToOutgoingContext(ctxFor(t, "a"), keyHeader, "b"), req)
		wantCode(t, err, codes.InvalidArgument)
	})
	t.Run("a request that encodes in another order is the same", func(t *testing.T) {
		essence := &admin.CreateTaskRequest{Template: req.GetTemplate(), Inputs: req.GetInputs(), OutputPrefix: req.GetOutputPrefix()}
		// Fields may come in any order, so the prefix in front is the same message in other bytes.
		front, _ := proto.Marshal(&admin.CreateTaskRequest{OutputPrefix: req.GetOutputPrefix()})
		back, _ := proto.Marshal(&admin.CreateTaskRequest{Template: req.GetTemplate(), Inputs: req.GetInputs()})
		if _, err := s.store.db.Exec(`UPDATE jobs SET request = ? WHERE id = ?`, append(front, back...), ids[0]); err != nil {
			t.Fatal(err)
		}
		id, fresh, err := s.store.create(t.Context(), "key-1", essence)
		if err != nil || fresh || id != ids[0] {
			t.Errorf("create = %s, %v, %v", id, fresh, err)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	c, _ := start(t, Options{})
	two := request(t, "SELECT 1", nil, schemaOutput())
	two.Template.Interface.Outputs.Variables["more"] = &core.Variable{Type: schemaOutput()}
	named := request(t, "SELECT 1", nil, nil)
	named.Template.Interface.Outputs.Variables["../up"] = &core.Variable{Type: schemaOutput()}
	noCustom := request(t, "SELECT 1", nil, nil)
	noCustom.Template.Custom = nil
	other := request(t, "SELECT 1", nil, nil)
	other.Template.Type = "bigquery"
	listed := &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{}}}
	simple := &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_STRUCT}}

	for _, tc := range []struct {
		reason string
		req    *admin.CreateTaskRequest
		code   codes.Code
		says   string
	}{
		{"nothing at all", &admin.CreateTaskRequest{}, codes.NotFound, "template.type"},
		{"another task type", other, codes.NotFound, "bigquery"},
		{"no custom", noCustom, codes.InvalidArgument, "template.custom"},
		{"no query", withCustom(request(t, "x", nil, nil), "query_template", nil), codes.InvalidArgument, "template.custom.query_template"},
		{"a blank query", request(t, "  ", nil, nil), codes.InvalidArgument, "template.custom.query_template is empty"},
		{"a query of comments", request(t, "-- x", nil, nil), codes.InvalidArgument, "no statement"},
		{"no uri", withCustom(request(t, "SELECT 1", nil, nil), "uri", structpb.NewNumberValue(1)), codes.InvalidArgument, "template.custom.uri"},
		{"a uri that leads nowhere", withCustom(request(t, "SELECT 1", nil, nil), "uri", structpb.NewStringValue("s3://b/k")), codes.InvalidArgument, "template.custom.uri"},
		{"a relative path", withCustom(request(t, "SELECT 1", nil, nil), "uri", structpb.NewStringValue("db.sqlite")), codes.InvalidArgument, "template.custom.uri"},
		{"compressed is a word", withCustom(request(t, "SELECT 1", nil, nil), "compressed", structpb.NewStringValue("yes")), codes.InvalidArgument, "template.custom.compressed"},
		{"an unknown input", request(t, "SELECT {{.inputs.b}}", map[string]any{"a": 1}, nil), codes.InvalidArgument, "inputs.b"},
		{"an unknown input in quotes", request(t, "SELECT '{{.inputs.b}}'", nil, nil), codes.InvalidArgument, "inputs.b"},
		{"a list", request(t, "SELECT {{.inputs.a}}", map[string]any{"a": listed}, nil), codes.InvalidArgument, "inputs.a is a list"},
		{"two outputs", two, codes.InvalidArgument, "template.interface.outputs"},
		{"an output that would leave its folder", named, codes.InvalidArgument, "../up"},
		{"an output that is neither table nor value", request(t, "SELECT 1", nil, simple), codes.InvalidArgument, "results"},
		{"a format we do not write", request(t, "SELECT 1", nil, datasetOutput("csv")), codes.InvalidArgument, "csv"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			_, err := c.CreateTask(ctxFor(t, ""), tc.req)
			wantCode(t, err, tc.code)
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %q does not say %q", err, tc.says)
			}
		})
	}
}

func TestGetUnknown(t *testing.T) {
	c, _ := start(t, Options{})
	for _, tc := range []struct{ reason, id, says string }{
		{"never created", "sqlite-nothing", "sqlite-nothing"},
		{"empty", "", `""`},
		{"garbage", "\x00\xff", `\xff`},
		{"long", strings.Repeat("x", 5000), "..."},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			_, err := c.GetTask(ctxFor(t, ""), &admin.GetTaskRequest{ResourceMeta: []byte(tc.id)})
			wantCode(t, err, codes.NotFound)
			if !strings.Contains(err.Error(), tc.says) || len(err.Error()) > 500 {
				t.Errorf("error = %q", err)
			}
			if _, err := c.DeleteTask(ctxFor(t, ""), &admin.DeleteTaskRequest{ResourceMeta: []byte(tc.id)}); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	wrong := &admin.TaskCategory{Name: "bigquery"}
	_, err := c.GetTask(ctxFor(t, ""), &admin.GetTaskRequest{TaskCategory: wrong})
	wantCode(t, err, codes.NotFound)
	_, err = c.DeleteTask(ctxFor(t, ""), &admin.DeleteTaskRequest{TaskCategory: wrong})
	wantCode(t, err, codes.NotFound)
	_, err = c.GetTaskMetrics(ctxFor(t, ""), &admin.GetTaskMetricsRequest{})
	wantCode(t, err, codes.Unimplemented)
	logs, err := c.GetTaskLogs(ctxFor(t, ""), &admin.GetTaskLogsRequest{})
	if err == nil {
		_, err = logs.Recv()
	}
	wantCode(t, err, codes.Unimplemented)
}

func TestAgents(t *testing.T) {
	c, _ := start(t, Options{})
	resp, err := c.meta.ListAgents(ctxFor(t, ""), &admin.ListAgentsRequest{})
	if err != nil || len(resp.GetAgents()) != 1 {
		t.Fatalf("ListAgents = %v, %v", resp, err)
	}
	got := resp.GetAgents()[0]
	if got.GetName() != "sqlite example@v1" || got.GetIsSync() || len(got.GetSupportedTaskCategories()) != 1 ||
		got.GetSupportedTaskCategories()[0].GetName() != "sqlite" || got.GetSupportedTaskCategories()[0].GetVersion() != 0 {
		t.Errorf("agent = %v", got)
	}
	one, err := c.meta.GetAgent(ctxFor(t, ""), &admin.GetAgentRequest{Name: got.GetName()})
	if err != nil || !proto.Equal(one.GetAgent(), got) {
		t.Errorf("GetAgent = %v, %v", one, err)
	}
	_, err = c.meta.GetAgent(ctxFor(t, ""), &admin.GetAgentRequest{Name: "nobody"})
	wantCode(t, err, codes.NotFound)
}

func TestOnlyItsOwnPluginVersion(t *testing.T) {
	c, _ := start(t, Options{})
	req := request(t, "SELECT * FROM elements", nil, schemaOutput())
	for _, tc := range []struct {
		reason, version string
		want            codes.Code
	}{
		{"the version that is listed", "v1", codes.OK},
		{"a version that is not here", "v2", codes.NotFound},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(ctxFor(t, ""), versionHeader, tc.version)
			_, err := c.CreateTask(ctx, req)
			wantCode(t, err, tc.want)
			_, err = c.DeleteTask(ctx, &admin.DeleteTaskRequest{ResourceMeta: []byte("no such job")})
			wantCode(t, err, tc.want)
		})
	}
}

func TestDelete(t *testing.T) {
	c, s := start(t, Options{Workers: 1})
	req := request(t, "SELECT * FROM elements", nil, schemaOutput())
	gone := func(t *testing.T, id []byte) {
		t.Helper()
		for range 2 { // it may be repeated
			if _, err := c.DeleteTask(ctxFor(t, ""), &admin.DeleteTaskRequest{ResourceMeta: id}); err != nil {
				t.Fatal(err)
			}
			_, err := c.GetTask(ctxFor(t, ""), &admin.GetTaskRequest{ResourceMeta: id})
			wantCode(t, err, codes.NotFound)
		}
		var rows int
		if err := s.store.db.QueryRow(`SELECT count(*) FROM jobs WHERE id = ?`, string(id)).Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d rows are left of the job, %v", rows, err)
		}
		for _, path := range []string{s.logPath(string(id)), filepath.Join(s.opts.Dir, "tmp", string(id))} {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left of the job", path)
			}
		}
	}

	t.Run("finished: the result goes, its neighbours stay", func(t *testing.T) {
		id, other := create(t, c, "k", req), create(t, c, "", req)
		res := until(t, c, id, "finished", finished)
		kept := until(t, c, other, "finished", finished)
		gone(t, id)
		if _, _, err := ReadRows(uriOf(res), 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the result is still there: %v", err)
		}
		if _, rows, err := ReadRows(uriOf(kept), -1); err != nil || len(rows) != 118 {
			t.Errorf("the other job's result has %d rows, %v", len(rows), err)
		}
		if again := create(t, c, "k", req); bytes.Equal(again, id) {
			t.Error("the key of a deleted job leads to the deleted job")
		}
	})
	t.Run("running: the query is cancelled, and so the one worker is free again", func(t *testing.T) {
		id := create(t, c, "", request(t, endless, nil, schemaOutput()))
		queued := create(t, c, "", req)
		until(t, c, id, "running the query", func(r *admin.Resource) bool { return r.GetMessage() == "running the query" })
		if got := get(t, c, queued).GetPhase(); got != core.TaskExecution_QUEUED {
			t.Errorf("phase = %v, want QUEUED behind the running job", got)
		}
		gone(t, id)
		until(t, c, queued, "finished", finished)
	})
	t.Run("queued: it never runs", func(t *testing.T) {
		id := create(t, c, "", request(t, endless, nil, nil))
		until(t, c, id, "running", running)
		queued := create(t, c, "", req)
		gone(t, queued)
		gone(t, id)
	})
	t.Run("an output prefix that nothing was ever written to", func(t *testing.T) {
		far := request(t, "SELECT 1 AS one", nil, schemaOutput())
		far.OutputPrefix = "s3://bucket/prefix"
		id := create(t, c, "", far)
		until(t, c, id, "finished", finished)
		gone(t, id)
	})
}

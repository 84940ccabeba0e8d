package sqlite

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// database makes an SQLite file.
func database(t *testing.T, path string, statements ...string) string {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, st := range statements {
		if _, err := db.Exec(st); err != nil {
			t.Fatalf("%s: %v", st, err)
		}
	}
	return path
}

// on asks for a query on another database.
func on(t *testing.T, uri, query string) *admin.CreateTaskRequest {
	t.Helper()
	return withCustom(request(t, query, nil, schemaOutput()), "uri", structpb.NewStringValue(uri))
}

// wantFailure runs a request that has to fail for a reason of the author's or the service's.
func wantFailure(t *testing.T, c client, req *admin.CreateTaskRequest, code string, kind admin.AgentError_Kind, says string) {
	t.Helper()
	res := outcome(t, c, req)
	e := res.GetAgentError()
	origin := core.ExecutionError_USER
	if kind == admin.AgentError_RECOVERABLE {
		origin = core.ExecutionError_SYSTEM
	}
	if res.GetPhase() != core.TaskExecution_FAILED || e.GetCode() != "sqlite:"+code || e.GetKind() != kind || e.GetOrigin() != origin {
		t.Errorf("outcome = %v, want %s, %v", res, code, kind)
	}
	if !strings.Contains(res.GetMessage(), says) {
		t.Errorf("message = %q, want %q in it", res.GetMessage(), says)
	}
	if res.GetOutputs() != nil {
		t.Errorf("a failed job has outputs: %v", res.GetOutputs())
	}
}

const user = admin.AgentError_NON_RECOVERABLE

func TestInputsAreValues(t *testing.T) {
	c, _ := start(t, Options{})
	evil := "x' UNION SELECT name FROM sqlite_master; DROP TABLE elements; --"
	for _, tc := range []struct {
		reason, query string
		inputs        map[string]any
		want          [][]any
	}{
		{"evil text in the open is text", "SELECT {{.inputs.v}} AS v", map[string]any{"v": evil}, [][]any{{evil}}},
		{"evil text in quotes is text", "SELECT '{{.inputs.v}}' AS v", map[string]any{"v": evil}, [][]any{{evil}}},
		{"evil text finds nothing", "SELECT name FROM elements WHERE name = '{{.inputs.v}}' OR symbol = {{.inputs.v}}", map[string]any{"v": evil}, nil},
		{"a placeholder in a value is text", "SELECT '{{.inputs.v}}' AS v", map[string]any{"v": "{{.inputs.w}}", "w": "secret"}, [][]any{{"{{.inputs.w}}"}}},
		{"a number limits", "SELECT symbol FROM elements ORDER BY number DESC LIMIT {{.inputs.n}}", map[string]any{"n": 2}, [][]any{{"Og"}, {"Ts"}}},
		{"a quoted name picks a column", `SELECT "{{.inputs.c}}" AS c FROM elements WHERE number = 2`, map[string]any{"c": "symbol"}, [][]any{{"He"}}},
		{"an input that the query does not use is no error", "SELECT 1 AS one", map[string]any{"spare": 1}, [][]any{{int64(1)}}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			if _, rows := result(t, c, request(t, tc.query, tc.inputs, schemaOutput())); !reflect.DeepEqual(rows, tc.want) {
				t.Errorf("rows = %v, want %v", rows, tc.want)
			}
		})
	}
	if _, rows := result(t, c, request(t, "SELECT count(*) AS n FROM elements", nil, schemaOutput())); rows[0][0] != int64(118) {
		t.Errorf("elements holds %v rows after all that", rows[0][0])
	}
}

func TestQueriesOnlyRead(t *testing.T) {
	c, s := start(t, Options{})
	dir := t.TempDir()
	path := database(t, filepath.Join(dir, "db"), "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ query, code, says string }{
		{"INSERT INTO t VALUES (2)", "ReadOnly", "writes to t"},
		{"INSERT INTO t VALUES (2) RETURNING a", "ReadOnly", "writes to t"},
		{"WITH x AS (SELECT 1) UPDATE t SET a = 2", "ReadOnly", "writes to t"},
		{"DELETE FROM t", "ReadOnly", "deletes from t"},
		{"DROP TABLE t", "ReadOnly", "may only read"},
		{"CREATE TABLE u (a)", "ReadOnly", "may only read"},
		{"CREATE TEMP TABLE u (a)", "ReadOnly", "may only read"},
		{"CREATE VIEW v AS SELECT 1", "ReadOnly", "may only read"},
		{"ATTACH '" + dir + "/made' AS m", "ReadOnly", "attaches"},
		{"ATTACH '" + s.opts.Dir + "/jobs.sqlite' AS m", "ReadOnly", "attaches"},
		{"VACUUM INTO '" + dir + "/made'", "ReadOnly", "may only read"},
		{"VACUUM", "ReadOnly", ""},
		{"PRAGMA query_only = 0", "ReadOnly", "pragma query_only"},
		{"PRAGMA journal_mode = DELETE", "ReadOnly", "pragma journal_mode"},
		{"SELECT load_extension('x')", "ReadOnly", "load_extension"},
		{"BEGIN", "ReadOnly", "transaction"},
	} {
		t.Run(tc.query, func(t *testing.T) {
			wantFailure(t, c, on(t, path, tc.query), tc.code, user, tc.says)
		})
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the database changed, %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("something was written beside the database: %v", entries)
	}
	t.Run("looking at the structure is reading", func(t *testing.T) {
		_, rows := result(t, c, on(t, path, "SELECT name FROM pragma_table_info('t')"))
		if !reflect.DeepEqual(rows, [][]any{{"a"}}) {
			t.Errorf("rows = %v", rows)
		}
	})
}

func TestQueryFailures(t *testing.T) {
	c, _ := start(t, Options{MaxRows: 1000, MaxResultBytes: 100_000, QueryTimeout: 200 * time.Millisecond})
	many := "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2000) SELECT n FROM c"
	named := request(t, "SELECT * FROM {{.inputs.t}}", map[string]any{"t": "elements"}, nil)
	for _, tc := range []struct {
		reason     string
		req        *admin.CreateTaskRequest
		code, says string
	}{
		{"not SQL", request(t, "SELEC 1", nil, nil), "QueryFailed", "syntax error"},
		{"an unknown table", request(t, "SELECT * FROM nope", nil, nil), "QueryFailed", "nope"},
		{"an input as a table", named, "QueryFailed", "cannot name a table"},
		{"an error in a late row", request(t, "SELECT abs(-9223372036854775808) AS a", nil, nil), "QueryFailed", "overflow"},
		{"two columns of one name", request(t, "SELECT 1 AS a, 2 AS a", nil, nil), "BadColumns", `"a"`},
		{"a column without a name", request(t, `SELECT 1 AS ""`, nil, nil), "BadColumns", "column 1"},
		{"too many rows", request(t, many, nil, nil), "ResultTooLarge", "MaxRows, 1000"},
		{"too many bytes", request(t, "SELECT zeroblob(200000) AS z", nil, nil), "ResultTooLarge", "MaxResultBytes, 100000"},
		{"too long", request(t, endless, nil, nil), "QueryTimeout", "QueryTimeout of 200ms"},
		{"a declared column that is not there", request(t, "SELECT 1 AS a", nil, schemaOutput("a", "b")), "MissingColumns", `"b"`},
		{"a declared column of a dataset", request(t, "SELECT 1 AS a", nil, datasetOutput("", "b")), "MissingColumns", `"b"`},
	} {
		t.Run(tc.reason, func(t *testing.T) { wantFailure(t, c, tc.req, tc.code, user, tc.says) })
	}
}

func TestOutputPrefix(t *testing.T) {
	c, _ := start(t, Options{})
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		reason, prefix, code string
		kind                 admin.AgentError_Kind
		says                 string
	}{
		{"a bucket", "s3://bucket/prefix", "UnsupportedOutput", user, "file:///path"},
		{"a relative path", "out", "UnsupportedOutput", user, "file:///path"},
		{"another machine's file", "file://host/out", "UnsupportedOutput", user, "file:///path"},
		{"none", "", "UnsupportedOutput", user, "file:///path"},
		{"a folder that cannot be made", blocked, "WriteFailed", admin.AgentError_RECOVERABLE, "write the result"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			req := request(t, "SELECT 1 AS one", nil, schemaOutput())
			req.OutputPrefix = tc.prefix
			wantFailure(t, c, req, tc.code, tc.kind, tc.says)
		})
	}
	t.Run("a name in a local data store", func(t *testing.T) {
		store := t.TempDir()
		c, _ := start(t, Options{LocalStore: store})
		req := request(t, "SELECT 1 AS one", nil, datasetOutput("parquet"))
		req.OutputPrefix = "file://container/run/0"
		if got, want := uriOf(outcome(t, c, req)), "file://"+store+"/container/run/0/"; !strings.HasPrefix(got, want) {
			t.Errorf("uri = %q, want one below %q", got, want)
		}
		req.OutputPrefix = "file://../elsewhere"
		wantFailure(t, c, req, "UnsupportedOutput", user, "--local-store")
	})
	t.Run("no output needs no prefix", func(t *testing.T) {
		req := request(t, "SELECT 1 AS one UNION SELECT 2", nil, nil)
		req.OutputPrefix = "s3://bucket/prefix"
		res := outcome(t, c, req)
		if res.GetPhase() != core.TaskExecution_SUCCEEDED || res.GetOutputs() != nil || res.GetCustomInfo().AsMap()["rows"] != 2.0 {
			t.Errorf("outcome = %v", res)
		}
	})
	t.Run("nothing but the result is left", func(t *testing.T) {
		req := request(t, "SELECT 1 AS one", nil, datasetOutput("parquet"))
		res := outcome(t, c, req)
		var files []string
		err := filepath.WalkDir(strings.TrimPrefix(req.GetOutputPrefix(), "file://"), func(p string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, "file://"+p)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if !reflect.DeepEqual(files, []string{uriOf(res)}) {
			t.Errorf("files = %v, want %s", files, uriOf(res))
		}
	})
}

func TestStructuredDataset(t *testing.T) {
	c, _ := start(t, Options{})
	res := outcome(t, c, request(t, "SELECT number, name, atomic_weight, x'00ff' AS b FROM elements WHERE number < 3", nil, datasetOutput("", "name")))
	d := res.GetOutputs().GetLiterals()["results"].GetScalar().GetStructuredDataset()
	typ := d.GetMetadata().GetStructuredDatasetType()
	if typ.GetFormat() != "parquet" || !strings.HasSuffix(d.GetUri(), "/results.parquet") {
		t.Fatalf("dataset = %v", d)
	}
	want := []core.SimpleType{core.SimpleType_INTEGER, core.SimpleType_STRING, core.SimpleType_FLOAT, core.SimpleType_BINARY}
	for i, col := range typ.GetColumns() {
		if col.GetLiteralType().GetSimple() != want[i] {
			t.Errorf("column %s is %v, want %v", col.GetName(), col.GetLiteralType(), want[i])
		}
	}
	_, rows, err := ReadRows(d.GetUri(), 1)
	if err != nil || !reflect.DeepEqual(rows, [][]any{{int64(1), "Hydrogen", 1.008, []byte{0, 0xff}}}) {
		t.Errorf("rows = %v, %v", rows, err)
	}
}

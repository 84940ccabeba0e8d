package sqlite

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestColumnTypes(t *testing.T) {
	c, _ := start(t, Options{})
	path := database(t, filepath.Join(t.TempDir(), "db"),
		`CREATE TABLE t (i INTEGER, r REAL, s TEXT, b BLOB, d DATETIME, day DATE, any)`,
		`INSERT INTO t VALUES (1, 1.5, 'x', x'01', '2024-01-02 03:04:05', '2024-01-02', 1)`,
		`INSERT INTO t VALUES (2, 2.5, 'y', x'02', '2024-01-02T03:04', 'Tuesday', 'z')`,
		`INSERT INTO t VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL)`)
	for _, tc := range []struct {
		reason, query string
		cols          []string
		rows          [][]any
	}{
		{"each its type, nulls in all", "SELECT i, r, s, b FROM t", []string{"i", "r", "s", "b"},
			[][]any{{int64(1), 1.5, "x", []byte{1}}, {int64(2), 2.5, "y", []byte{2}}, {nil, nil, nil, nil}}},
		{"columns keep their order", "SELECT s, i FROM t LIMIT 1", []string{"s", "i"}, [][]any{{"x", int64(1)}}},
		{"times stay as they are written, rows in their order", "SELECT d, day, i FROM t WHERE i > 0 ORDER BY i DESC", []string{"d", "day", "i"},
			[][]any{{"2024-01-02T03:04", "Tuesday", int64(2)}, {"2024-01-02 03:04:05", "2024-01-02", int64(1)}}},
		{"mixed types are strings", "SELECT any FROM t", []string{"any"}, [][]any{{"1"}, {"z"}, {nil}}},
		{"whole and broken numbers are doubles", "SELECT 1 AS n UNION ALL SELECT 2.5", []string{"n"}, [][]any{{1.0}, {2.5}}},
		{"a number too large for that makes strings", "SELECT 9007199254740993 AS n UNION ALL SELECT 2.5", []string{"n"}, [][]any{{"9007199254740993"}, {"2.5"}}},
		{"bytes among text", "SELECT 'a' AS v UNION ALL SELECT x'62' UNION ALL SELECT x'ff00'", []string{"v"}, [][]any{{"a"}, {"b"}, {"X'FF00'"}}},
		{"text that is not UTF-8", "SELECT CAST(x'61ff' AS TEXT) AS v", []string{"v"}, [][]any{{"a\uFFFD"}}},
		{"all null, declared and not", "SELECT i, NULL AS n FROM t WHERE i IS NULL", []string{"i", "n"}, [][]any{{nil, nil}}},
		{"no rows", "SELECT * FROM t WHERE 0", []string{"i", "r", "s", "b", "d", "day", "any"}, nil},
		{"names that Go and Parquet tags do not like", `SELECT 1 AS "a,b", max(2, 1), 3 AS "c.d", 4 AS "A,B", 5 AS "x""y"`,
			[]string{"a,b", "max(2, 1)", "c.d", "A,B", `x"y`}, [][]any{{int64(1), int64(2), int64(3), int64(4), int64(5)}}},
		{"time columns with such names", `SELECT d AS "x""y,z" FROM t LIMIT 1`, []string{`x"y,z`}, [][]any{{"2024-01-02 03:04:05"}}},
		{"empty text and bytes are not null", "SELECT '' AS s, x'' AS b", []string{"s", "b"}, [][]any{{"", []byte{}}}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			cols, rows := result(t, c, on(t, path, tc.query))
			if !reflect.DeepEqual(cols, tc.cols) {
				t.Errorf("columns = %q, want %q", cols, tc.cols)
			}
			if !reflect.DeepEqual(rows, tc.rows) {
				t.Errorf("rows = %#v, want %#v", rows, tc.rows)
			}
		})
	}
	t.Run("the schema of columns without values", func(t *testing.T) {
		res := outcome(t, c, on(t, path, "SELECT i, r, s, b FROM t WHERE 0"))
		want := []core.SchemaType_SchemaColumn_SchemaColumnType{core.SchemaType_SchemaColumn_INTEGER, core.SchemaType_SchemaColumn_FLOAT,
			core.SchemaType_SchemaColumn_STRING, core.SchemaType_SchemaColumn_STRING}
		for i, col := range res.GetOutputs().GetLiterals()["results"].GetScalar().GetSchema().GetType().GetColumns() {
			if col.GetType() != want[i] {
				t.Errorf("column %s is %v, want %v", col.GetName(), col.GetType(), want[i])
			}
		}
	})
}

func TestManyRows(t *testing.T) {
	c, _ := start(t, Options{})
	res := outcome(t, c, request(t, "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000) SELECT n, 'row ' || n AS s FROM c", nil, schemaOutput()))
	for _, n := range []int{0, 1, 63, 64, 65, 20000, 30000, -1} {
		_, rows, err := ReadRows(uriOf(res), n)
		want := n
		if n < 0 || n > 20000 {
			want = 20000
		}
		if err != nil || len(rows) != want {
			t.Errorf("ReadRows(%d) = %d rows, %v", n, len(rows), err)
			continue
		}
		if want > 0 && (rows[want-1][0] != int64(want) || rows[0][1] != "row 1") {
			t.Errorf("ReadRows(%d): first %v, last %v", n, rows[0], rows[want-1])
		}
	}
}

func TestReadRows(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "two [files]*")
	tab := &table{columns: []column{{name: "a"}}, rows: [][]any{{int64(1)}, {int64(2)}}}
	for _, name := range []string{"00000", "00001"} {
		if err := writeFile(filepath.Join(folder, name), tab, tab.kinds()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, ".hidden"), []byte("no Parquet"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), bytes.Repeat([]byte("no Parquet"), 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, rows, err := ReadRows(folder, 3)
	if err != nil || !reflect.DeepEqual(rows, [][]any{{int64(1)}, {int64(2)}, {int64(1)}}) {
		t.Errorf("rows of a folder = %v, %v", rows, err)
	}
	for _, uri := range []string{"s3://bucket/key", filepath.Join(dir, "nope"), filepath.Join(dir, "text"), filepath.Join(dir, "empty")} {
		if _, _, err := ReadRows(uri, 1); err == nil {
			t.Errorf("ReadRows(%s) works", uri)
		}
	}
}

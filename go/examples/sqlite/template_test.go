package sqlite

import (
	"database/sql"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestRender(t *testing.T) {
	none := scalarLiteral(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
	inputs := literals(t, map[string]any{
		"n": 7, "f": 2.0, "g": 1e300, "yes": true, "no": false, "s": "O'Hara", "d": `a"b`, "bracket": "a]b", "tick": "a`b", "zero": "a\x00b",
		"none":  none,
		"maybe": scalarLiteral(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: literals(t, map[string]any{"x": 5})["x"]}}}),
		"time": primitive(&core.Primitive{Value: &core.Primitive_Datetime{Datetime: timestamppb.New(
			time.Date(2024, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600)))}}),
		"span": primitive(&core.Primitive{Value: &core.Primitive_Duration{Duration: durationpb.New(1500 * time.Millisecond)}}),
		"file": scalarLiteral(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{}}}),
		"tab":  scalarLiteral(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{}}}),
		"bin":  scalarLiteral(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{}}}),
		"map":  &core.Literal{Value: &core.Literal_Map{Map: &core.LiteralMap{}}},
		"off":  &core.Literal{Value: &core.Literal_OffloadedMetadata{OffloadedMetadata: &core.LiteralOffloadedMetadata{}}},
		"void": &core.Literal{},
	})
	for _, tc := range []struct {
		reason, template string
		sql              string // blanks squeezed
		args             []any
		fails            string
	}{
		{"in the open: a parameter", "SELECT {{.inputs.n}}", "SELECT :flyte_input_n", []any{sql.Named("flyte_input_n", int64(7))}, ""},
		{"flytekit allows blanks and case", "SELECT {{ .Inputs.n }}", "SELECT :flyte_input_n", []any{sql.Named("flyte_input_n", int64(7))}, ""},
		{"twice the same is one parameter", "SELECT {{.inputs.n}}+{{.inputs.n}}", "SELECT :flyte_input_n + :flyte_input_n", []any{sql.Named("flyte_input_n", int64(7))}, ""},
		{"none is null", "SELECT {{.inputs.none}}", "SELECT :flyte_input_none", []any{sql.Named("flyte_input_none", nil)}, ""},
		{"an optional input is what is in it", "SELECT {{.inputs.maybe}}", "SELECT :flyte_input_maybe", []any{sql.Named("flyte_input_maybe", int64(5))}, ""},
		{"times are UTC text", "SELECT {{.inputs.time}}", "SELECT :flyte_input_time", []any{sql.Named("flyte_input_time", "2024-02-03 03:05:06")}, ""},
		{"durations are seconds", "SELECT {{.inputs.span}}", "SELECT :flyte_input_span", []any{sql.Named("flyte_input_span", 1.5)}, ""},
		{"truth is 1 and 0", "SELECT {{.inputs.no}}, '{{.inputs.yes}}'", "SELECT :flyte_input_no , '1'", []any{sql.Named("flyte_input_no", int64(0))}, ""},
		{"in quotes: escaped", "SELECT '{{.inputs.s}}%'", "SELECT 'O''Hara%'", nil, ""},
		{"in quotes: numbers as SQLite writes them", "SELECT '{{.inputs.n}} {{.inputs.f}} {{.inputs.g}}'", "SELECT '7 2.0 1e+300'", nil, ""},
		{"a doubled quote does not end the literal", "SELECT 'it''s {{.inputs.n}}'", "SELECT 'it''s 7'", nil, ""},
		{"a quoted name", `SELECT "{{.inputs.d}}"`, `SELECT "a""b"`, nil, ""},
		{"a name in backticks", "SELECT `{{.inputs.tick}}`", "SELECT `a``b`", nil, ""},
		{"a name in brackets", "SELECT [{{.inputs.n}}]", "SELECT [7]", nil, ""},
		{"other braces in quotes are text", "SELECT '{{ x }} {'", "SELECT '{{ x }} {'", nil, ""},
		{"a question mark in quotes is text", "SELECT '? :a'", "SELECT '? :a'", nil, ""},
		{"comments go, and what is in them", "SELECT 1 -- {{.inputs.nope}} '\n/* ' {{ */ + 2 /* open", "SELECT 1 + 2", nil, ""},
		{"a final semicolon", "SELECT 1; -- the end", "SELECT 1", nil, ""},
		{"a dollar sign within a name", "SELECT a$b", "SELECT a$b", nil, ""},
		{"a path of JSON", "SELECT a ->> '$.b'", "SELECT a ->> '$.b'", nil, ""},

		{"two statements", "SELECT 1; DROP TABLE elements", "", nil, "more than one statement"},
		{"two statements, the second malformed", "SELECT 1; '", "", nil, "more than one statement"},
		{"a quote without an end", "SELECT 'x", "", nil, "never closed"},
		{"a positional parameter", "SELECT ?1", "", nil, `"?"`},
		{"a named parameter", "SELECT :a", "", nil, `":"`},
		{"a parameter at the start", "$a", "", nil, `"$"`},
		{"braces of something else", "SELECT {{.outputs.a}}", "", nil, "that is not {{.inputs.NAME}}"},
		{"null has no text", "SELECT '{{.inputs.none}}'", "", nil, "its value is none"},
		{"a zero byte would end the statement", "SELECT '{{.inputs.zero}}'", "", nil, "zero byte"},
		{"a bracket in brackets", "SELECT [{{.inputs.bracket}}]", "", nil, "]"},
		{"an unknown name in quotes", "SELECT '{{.inputs.nope}}'", "", nil, "inputs.nope"},
		{"a file", "SELECT {{.inputs.file}}", "", nil, "inputs.file is a file"},
		{"a table", "SELECT {{.inputs.tab}}", "", nil, "inputs.tab is a table"},
		{"bytes", "SELECT {{.inputs.bin}}", "", nil, "inputs.bin is a structured value"},
		{"a map", "SELECT {{.inputs.map}}", "", nil, "inputs.map is a map"},
		{"an offloaded value", "SELECT {{.inputs.off}}", "", nil, "inputs.off is an offloaded value"},
		{"nothing", "SELECT {{.inputs.void}}", "", nil, "inputs.void is empty"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			st, err := render(tc.template, inputs)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Fatalf("error = %v, want %q in it (sql: %s)", err, tc.fails, st.sql)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(st.sql), " "); got != tc.sql {
				t.Errorf("sql = %s, want %s", got, tc.sql)
			}
			if !reflect.DeepEqual(st.args, tc.args) {
				t.Errorf("args = %v, want %v", st.args, tc.args)
			}
		})
	}
}

func TestAsTextOfSpecialNumbers(t *testing.T) {
	for v, want := range map[float64]string{math.Inf(1): "+Inf", -0.5: "-0.5", 1e20: "1e+20"} {
		if got, err := asText(v); err != nil || got != want {
			t.Errorf("asText(%v) = %q, %v; want %q", v, got, err, want)
		}
	}
}

// FuzzQuotedInput: whatever a value holds, inside quotes it comes out as itself and nothing else runs.
func FuzzQuotedInput(f *testing.F) {
	for _, seed := range []string{"", "'", "''", "' OR 1=1 --", `"`, "\\'", "{{.inputs.v}}", "'; DROP TABLE elements; --"} {
		f.Add(seed)
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	f.Fuzz(func(t *testing.T, v string) {
		st, err := render("SELECT '{{.inputs.v}}' AS a, {{.inputs.v}} AS b", literals(t, map[string]any{"v": v}))
		if err != nil {
			if strings.ContainsRune(v, 0) {
				return
			}
			t.Fatal(err)
		}
		var a, b string
		if err := db.QueryRow(st.sql, st.args...).Scan(&a, &b); err != nil || a != v || b != v {
			t.Fatalf("%q came out as %q and %q, %v", v, a, b, err)
		}
	})
}

package sqlite

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func simpleType(s core.SimpleType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_Simple{Simple: s}}
}

func listType(t *core.LiteralType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_CollectionType{CollectionType: t}}
}

func unionType(variants ...*core.LiteralType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: variants}}}
}

var (
	integerType = simpleType(core.SimpleType_INTEGER)
	floatType   = simpleType(core.SimpleType_FLOAT)
	stringType  = simpleType(core.SimpleType_STRING)
	boolType    = simpleType(core.SimpleType_BOOLEAN)
	noneType    = simpleType(core.SimpleType_NONE)
	maybeInt    = unionType(integerType, noneType)
)

// withOutputs declares outputs in place of those that a request has.
func withOutputs(req *admin.CreateTaskRequest, outs map[string]*core.LiteralType) *admin.CreateTaskRequest {
	vars := map[string]*core.Variable{}
	for name, typ := range outs {
		vars[name] = &core.Variable{Type: typ}
	}
	req.Template.Interface.Outputs.Variables = vars
	return req
}

func listLiteral(items ...*core.Literal) *core.Literal {
	return &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: items}}}
}

func unionLiteral(variant *core.LiteralType, value *core.Literal) *core.Literal {
	return scalarLiteral(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Type: variant, Value: value}}})
}

func TestValueOutputs(t *testing.T) {
	c, _ := start(t, Options{})
	lit := func(v any) *core.Literal { return literals(t, map[string]any{"v": v})["v"] }
	none := scalarLiteral(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
	type types = map[string]*core.LiteralType
	type values = map[string]*core.Literal
	for _, tc := range []struct {
		reason, query string
		outs          types
		want          values
	}{
		{"a count", "SELECT count(*) FROM elements", types{"results": integerType}, values{"results": lit(118)}},
		{"a whole number is a float too", "SELECT 2", types{"results": floatType}, values{"results": lit(2.0)}},
		{"a float", "SELECT atomic_weight FROM elements WHERE number = 1", types{"results": floatType}, values{"results": lit(1.008)}},
		{"a text", "SELECT name FROM elements WHERE number = 1", types{"results": stringType}, values{"results": lit("Hydrogen")}},
		{"true", "SELECT 2 > 1", types{"results": boolType}, values{"results": lit(true)}},
		{"false", "SELECT 2 < 1", types{"results": boolType}, values{"results": lit(false)}},
		{"an Optional that is there", "SELECT 3", types{"results": maybeInt}, values{"results": unionLiteral(integerType, lit(3))}},
		{"an Optional that is not", "SELECT NULL", types{"results": maybeInt}, values{"results": unionLiteral(noneType, none)}},
		{"variants in the other order", "SELECT 3", types{"results": unionType(noneType, integerType)}, values{"results": unionLiteral(integerType, lit(3))}},
		{"a column", "SELECT number FROM elements ORDER BY number LIMIT 3", types{"results": listType(integerType)}, values{"results": listLiteral(lit(1), lit(2), lit(3))}},
		{"an empty column", "SELECT number FROM elements WHERE 0", types{"results": listType(integerType)}, values{"results": listLiteral()}},
		{"a column with gaps", "SELECT 1 UNION ALL SELECT NULL", types{"results": listType(maybeInt)}, values{"results": listLiteral(unionLiteral(integerType, lit(1)), unionLiteral(noneType, none))}},
		{
			"several, by the columns' names", "SELECT symbol AS s, number AS n, period FROM elements WHERE number = 8",
			types{"n": integerType, "s": stringType}, values{"n": lit(8), "s": lit("O")},
		},
		{
			"one of several columns", "SELECT symbol, number FROM elements WHERE number = 8",
			types{"number": integerType}, values{"number": lit(8)},
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			req := withOutputs(request(t, tc.query, nil, nil), tc.outs)
			req.OutputPrefix = "s3://bucket/values/need/none" // where a table could not be written
			res := outcome(t, c, req)
			if want := (&core.LiteralMap{Literals: tc.want}); !proto.Equal(res.GetOutputs(), want) {
				t.Errorf("outputs = %v, want %v; %s", res.GetOutputs(), want, res.GetMessage())
			}
		})
	}
}

func TestValueAndTable(t *testing.T) {
	c, _ := start(t, Options{})
	outs := map[string]*core.LiteralType{"results": datasetOutput(""), "number": listType(integerType)}
	res := outcome(t, c, withOutputs(request(t, "SELECT number, name FROM elements ORDER BY number LIMIT 2", nil, nil), outs))
	if n := len(res.GetOutputs().GetLiterals()["number"].GetCollection().GetLiterals()); n != 2 {
		t.Errorf("the list has %d items; %s", n, res.GetMessage())
	}
	if _, rows, err := ReadRows(uriOf(res), -1); err != nil || len(rows) != 2 {
		t.Errorf("the table has %d rows, %v", len(rows), err)
	}
}

// What a workflow does: the result of one query is an input of the next.
func TestValueFeedsTheNextQuery(t *testing.T) {
	c, _ := start(t, Options{})
	first := outcome(t, c, request(t, "SELECT count(*) FROM elements WHERE name LIKE '%gen'", nil, integerType))
	next := request(t, "SELECT symbol FROM elements ORDER BY number LIMIT {{.inputs.n}}", map[string]any{"n": first.GetOutputs().GetLiterals()["results"]}, schemaOutput())
	if _, rows := result(t, c, next); len(rows) != 3 {
		t.Errorf("rows = %v, want 3", rows)
	}
}

func TestValueFailures(t *testing.T) {
	c, _ := start(t, Options{})
	for _, tc := range []struct {
		reason, query string
		out           *core.LiteralType
		code, says    string
	}{
		{"no row", "SELECT 1 AS a WHERE 0", integerType, "NotOneRow", "0 rows"},
		{"two rows", "SELECT number FROM elements LIMIT 2", integerType, "NotOneRow", "2 rows"},
		{"NULL", "SELECT NULL", integerType, "WrongType", "not Optional"},
		{"NULL in a list", "SELECT 1 UNION ALL SELECT NULL", listType(integerType), "WrongType", "row 2: the value is NULL"},
		{"a text for an int", "SELECT '1'", integerType, "WrongType", "a text is no INTEGER"},
		{"a float for an int", "SELECT 1.0", integerType, "WrongType", "the number 1 is no INTEGER"},
		{"a number for a str", "SELECT 1", stringType, "WrongType", "CAST"},
		{"a blob for a str", "SELECT x'00'", stringType, "WrongType", "a blob"},
		{"2 for a bool", "SELECT 2", boolType, "WrongType", "the number 2 is no BOOLEAN"},
		{"no column of that name", "SELECT 1 AS a, 2 AS b", integerType, "MissingColumns", "returns a, b"},
		{"too much", "SELECT printf('%.2000000c', 'x')", stringType, "ResultTooLarge", "1048576 are allowed"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			wantFailure(t, c, request(t, tc.query, nil, tc.out), tc.code, user, tc.says)
		})
	}
}

func TestTypesThatAreNoValues(t *testing.T) {
	for reason, typ := range map[string]*core.LiteralType{
		"none":                 noneType,
		"a time":               simpleType(core.SimpleType_DATETIME),
		"a structure":          simpleType(core.SimpleType_STRUCT),
		"a list of lists":      listType(listType(integerType)),
		"a union of two types": unionType(integerType, stringType),
		"a union of three":     unionType(integerType, stringType, noneType),
		"an Optional list":     unionType(listType(integerType), noneType),
		"a list of tables":     listType(schemaOutput()),
	} {
		t.Run(reason, func(t *testing.T) {
			_, err := parseTask(request(t, "SELECT 1", nil, typ))
			if err == nil || !strings.Contains(err.Error(), "results is of a type that a query does not give") {
				t.Errorf("err = %v", err)
			}
		})
	}
}

// taskTemplates are the tasks of a package in testdata/workflows, as flytekit declares them, by name.
func taskTemplates(t *testing.T, module string) map[string]*core.TaskTemplate {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(workflows.Archive(module)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*core.TaskTemplate{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		raw, readErr := io.ReadAll(r)
		if err := errors.Join(err, readErr); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, "_1.pb") {
			spec := &admin.TaskSpec{}
			if err := proto.Unmarshal(raw, spec); err != nil {
				t.Fatal(err)
			}
			out[spec.GetTemplate().GetId().GetName()] = spec.GetTemplate()
		}
	}
}

// The demo's workflow by hand, its map included.
func TestDemoTasks(t *testing.T) {
	c, _ := start(t, Options{})
	tasks := taskTemplates(t, "demo")
	run := func(name string, inputs map[string]any) *admin.Resource {
		t.Helper()
		res := outcome(t, c, &admin.CreateTaskRequest{
			Template: tasks[name], Inputs: &core.LiteralMap{Literals: literals(t, inputs)}, OutputPrefix: "file://" + t.TempDir(),
		})
		if res.GetPhase() != core.TaskExecution_SUCCEEDED {
			t.Fatalf("%s: %s", name, res.GetMessage())
		}
		return res
	}
	of := func(res *admin.Resource) *core.Literal { return res.GetOutputs().GetLiterals()["results"] }

	year := of(run("demo.latest_year", map[string]any{"ending": "ium"}))
	numbers := of(run("demo.numbers", map[string]any{"ending": "ium", "year": year, "limit": 20})).GetCollection().GetLiterals()
	if len(numbers) != 20 {
		t.Fatalf("there are %d numbers to map over, want 20", len(numbers))
	}
	var lines []string
	for _, n := range numbers {
		lines = append(lines, of(run("demo.describe", map[string]any{"number": n})).GetScalar().GetPrimitive().GetStringValue())
	}
	if want := "Fl, Flerovium, discovered "; !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
		t.Errorf("no line begins with %q: %q", want, lines)
	}
	cols, rows, err := ReadRows(uriOf(run("demo.decades", map[string]any{"year": year})), -1)
	if err != nil || len(cols) != 3 || len(rows) < 20 {
		t.Errorf("a table of %d columns and %d rows, %v", len(cols), len(rows), err)
	}
}

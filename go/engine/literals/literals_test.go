package literals_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shamaton/msgpack/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func typeOf(t *testing.T, text string) *core.LiteralType {
	t.Helper()
	out := &core.LiteralType{}
	require.NoError(t, protojson.Unmarshal([]byte(text), out))
	return out
}

const (
	integerType  = `{"simple": "INTEGER"}`
	floatType    = `{"simple": "FLOAT"}`
	stringType   = `{"simple": "STRING"}`
	booleanType  = `{"simple": "BOOLEAN"}`
	datetimeType = `{"simple": "DATETIME"}`
	durationType = `{"simple": "DURATION"}`
	structType   = `{"simple": "STRUCT"}`
	colourType   = `{"enumType": {"values": ["red", "green"]}}`
	fileType     = `{"blob": {}}`
	csvType      = `{"blob": {"format": "csv"}}`
	folderType   = `{"blob": {"dimensionality": "MULTIPART"}}`
	tableType    = `{"structuredDatasetType": {}}`
	optionalInt  = `{"unionType": {"variants": [{"simple": "INTEGER"}, {"simple": "NONE"}]}}`
	either       = `{"unionType": {"variants": [{"simple": "FLOAT"}, {"simple": "INTEGER"}, {"simple": "STRING"}]}}`
	numbersType  = `{"collectionType": {"simple": "INTEGER"}}`
	pointType    = `{"simple": "STRUCT", "metadata": {"type": "object", "title": "Point", "required": ["x"], "additionalProperties": false, "properties": {
		"x": {"type": "integer"}, "y": {"type": "number"}, "names": {"type": "array", "items": {"type": "string"}},
		"inner": {"anyOf": [{"$ref": "#/definitions/Inner"}, {"type": "null"}]}, "kind": {"enum": ["a", 2]}},
		"definitions": {"Inner": {"type": "object", "properties": {"on": {"type": "boolean"}}}}}}`
)

func TestFrom(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reason, kind, value, want string }{
		{"an integer", integerType, "-7", `{"scalar": {"primitive": {"integer": "-7"}}}`},
		{"all 64 bits", integerType, "9223372036854775807", `{"scalar": {"primitive": {"integer": "9223372036854775807"}}}`},
		{"hexadecimal", integerType, "0x10", `{"scalar": {"primitive": {"integer": "16"}}}`},
		{"a float", floatType, "0.1", `{"scalar": {"primitive": {"floatValue": 0.1}}}`},
		{"an integer is a float too", floatType, "3", `{"scalar": {"primitive": {"floatValue": 3}}}`},
		{"not a number", floatType, ".nan", `{"scalar": {"primitive": {"floatValue": "NaN"}}}`},
		{"a string", stringType, "word", `{"scalar": {"primitive": {"stringValue": "word"}}}`},
		{"text that looks like a time", stringType, "2024-02-29", `{"scalar": {"primitive": {"stringValue": "2024-02-29"}}}`},
		{"quoted digits", stringType, `"5"`, `{"scalar": {"primitive": {"stringValue": "5"}}}`},
		{"an empty string", stringType, `""`, `{"scalar": {"primitive": {"stringValue": ""}}}`},
		{"a boolean", booleanType, "false", `{"scalar": {"primitive": {"boolean": false}}}`},
		{"a time", datetimeType, "2024-02-29T12:30:00.5+01:00", `{"scalar": {"primitive": {"datetime": "2024-02-29T11:30:00.500Z"}}}`},
		{"with a space, in UTC", datetimeType, "2024-02-29 12:30", `{"scalar": {"primitive": {"datetime": "2024-02-29T12:30:00Z"}}}`},
		{"a date", datetimeType, "2024-02-29", `{"scalar": {"primitive": {"datetime": "2024-02-29T00:00:00Z"}}}`},
		{"Go's duration", durationType, "1h0.5s", `{"scalar": {"primitive": {"duration": "3600.500s"}}}`},
		{"with days", durationType, "-2d3h", `{"scalar": {"primitive": {"duration": "-183600s"}}}`},
		{"ISO 8601", durationType, "P1DT2H3M4.5S", `{"scalar": {"primitive": {"duration": "93784.500s"}}}`},
		{"seconds", durationType, "90", `{"scalar": {"primitive": {"duration": "90s"}}}`},
		{"a fraction of a second", durationType, "0.25", `{"scalar": {"primitive": {"duration": "0.250s"}}}`},
		{"longer than Go's", durationType, "P200000D", `{"scalar": {"primitive": {"duration": "17280000000s"}}}`},
		{"an enum", colourType, "green", `{"scalar": {"primitive": {"stringValue": "green"}}}`},
		{"null", `{"simple": "NONE"}`, "null", `{"scalar": {"noneType": {}}}`},
		{"bytes", `{"simple": "BINARY"}`, "!!binary aGk=", `{"scalar": {"binary": {"value": "aGk="}}}`},
		{"a list", numbersType, "[1, 2]", `{"collection": {"literals": [{"scalar": {"primitive": {"integer": "1"}}}, {"scalar": {"primitive": {"integer": "2"}}}]}}`},
		{"an empty list", numbersType, "[]", `{"collection": {}}`},
		{"a mapping, with keys as they are written", `{"mapValueType": {"simple": "INTEGER"}}`, "{on: 1, 2: 2}", `{"map": {"literals": {"on": {"scalar": {"primitive": {"integer": "1"}}}, "2": {"scalar": {"primitive": {"integer": "2"}}}}}}`},
		{"an optional value", optionalInt, "5", `{"scalar": {"union": {"type": {"simple": "INTEGER"}, "value": {"scalar": {"primitive": {"integer": "5"}}}}}}`},
		{"an optional value that is not there", optionalInt, "~", `{"scalar": {"union": {"type": {"simple": "NONE"}, "value": {"scalar": {"noneType": {}}}}}}`},
		{"a union: the value's own kind first", either, "5", `{"scalar": {"union": {"type": {"simple": "INTEGER"}, "value": {"scalar": {"primitive": {"integer": "5"}}}}}}`},
		{"a union: text", either, `"5"`, `{"scalar": {"union": {"type": {"simple": "STRING"}, "value": {"scalar": {"primitive": {"stringValue": "5"}}}}}}`},
		{"a URI of a file", csvType, "s3://b/x.csv", `{"scalar": {"blob": {"uri": "s3://b/x.csv", "metadata": {"type": {"format": "csv"}}}}}`},
		{"a file with its format", fileType, "{uri: s3://b/x, format: csv}", `{"scalar": {"blob": {"uri": "s3://b/x", "metadata": {"type": {"format": "csv"}}}}}`},
		{"a folder", folderType, "{path: gs://b/x}", `{"scalar": {"blob": {"uri": "gs://b/x", "metadata": {"type": {"dimensionality": "MULTIPART"}}}}}`},
		{"a table", tableType, "{uri: s3://b/t, format: csv}", `{"scalar": {"structuredDataset": {"uri": "s3://b/t", "metadata": {"structuredDatasetType": {"format": "csv"}}}}}`},
		{"a schema", `{"schema": {}}`, "s3://b/t", `{"scalar": {"schema": {"uri": "s3://b/t", "type": {}}}}`},
	} {
		value, err := literals.Parse([]byte(tc.value))
		require.NoError(t, err, tc.reason)
		kind := typeOf(t, tc.kind)
		got, err := literals.From("v", kind, value)
		require.NoError(t, err, tc.reason)
		want := &core.Literal{}
		require.NoError(t, protojson.Unmarshal([]byte(tc.want), want), tc.reason)
		require.True(t, proto.Equal(want, got), "%s: %v", tc.reason, got)

		// What is printed can be given again.
		for _, write := range []func(any) ([]byte, error){yaml.Marshal, json.Marshal} {
			out, err := write(literals.Plain(got))
			require.NoError(t, err, tc.reason)
			value, err = literals.Parse(out)
			require.NoError(t, err, tc.reason)
			if strings.Contains(tc.value, "format: csv") && tc.kind == fileType || tc.value == ".nan" {
				continue // a file's format is not printed, and JSON has no such number
			}
			again, err := literals.From("v", kind, value)
			require.NoError(t, err, "%s: %s", tc.reason, out)
			require.True(t, proto.Equal(got, again), "%s: %s", tc.reason, out)
		}
	}
}

func TestFromRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reason, kind, value, want string }{
		{"text for an integer", integerType, "abc", `v: takes an integer, got "abc"`},
		{"no float is cut", integerType, "1.0", "v: takes an integer, got 1.0"},
		{"no exponent either", integerType, "1e3", "v: takes an integer, got 1000.0"},
		{"more than 64 bits", integerType, "9223372036854775808", "v: takes an integer of 64 bits, which 9223372036854775808 is not"},
		{"JSON's true", integerType, "true", "v: takes an integer, got true"},
		{"null", integerType, "", "v: takes an integer, got null"},
		{"an integer that a float cannot hold", floatType, "9007199254740993", "v: takes a float, which cannot hold 9007199254740993 exactly; write 9007199254740993.0 for the nearest one"},
		{"a number for a string", stringType, "5", "v: takes a string, got 5: put it in quotes"},
		{"a list for a string", stringType, "[a]", `v: takes a string, got a list ["a"]`},
		{"YAML 1.1's booleans", booleanType, "yes", `v: takes true or false, got "yes"`},
		{"no time", datetimeType, "yesterday", `v: takes a time such as 2024-02-29T12:30:00Z or 2024-02-29, got "yesterday"`},
		{"a day that is not there", datetimeType, "2023-02-29", `v: takes a time such as 2024-02-29T12:30:00Z or 2024-02-29, got "2023-02-29"`},
		{"no unit", durationType, `"90"`, `v: takes a duration such as 1h30m, PT1H30M or a number of seconds, got "90"`},
		{"nothing behind P", durationType, "P", `v: takes a duration such as 1h30m, PT1H30M or a number of seconds, got "P"`},
		{"too long", durationType, "P99999999W", `v: takes a duration such as 1h30m, PT1H30M or a number of seconds, got "P99999999W"`},
		{"no such value", colourType, "blue", `v: takes one of red, green, got "blue"`},
		{"where in a list", numbersType, "[1, x]", `v[1]: takes an integer, got "x"`},
		{"no list", numbersType, "1", "v: takes a list of integers, got 1"},
		{"where in a mapping", `{"mapValueType": {"simple": "INTEGER"}}`, "{a.b: x}", `v["a.b"]: takes an integer, got "x"`},
		{"no mapping", `{"mapValueType": {"simple": "BOOLEAN"}}`, "[]", "v: takes a mapping of names to booleans, got []"},
		{"no variant", optionalInt, "x", `v: takes an integer or null, got "x"`},
		{"deep in an optional value", `{"unionType": {"variants": [` + numbersType + `, {"simple": "NONE"}]}}`, "[x]", `v[0]: takes an integer, got "x"`},
		{"nothing there", fileType, "nowhere/at/all", "v: takes a file, and there is none at nowhere/at/all"},
		{"a folder for a file", csvType, ".", "v: takes a file of format csv, and . is a folder"},
		{"a file for a folder", folderType, "doc.go", "v: takes a folder, and doc.go is a file"},
		{"another format", csvType, "{uri: s3://x, format: tsv}", `v.format: takes csv, got "tsv"`},
		{"no URI", csvType, "{format: csv}", `v: takes a file of format csv: a path, a URI, or {uri, format}, got a mapping {"format":"csv"}`},
		{"an unknown key", tableType, "{url: x}", `v: has no "url"; it takes uri and format`},
		{"a number for a table", tableType, "1", "v: takes a table: a path, a URI, or {uri, format}, got 1"},
		{"a dict that is none", structType, "[1]", "v: takes a mapping, got a list [1]"},
		{"bytes", `{"simple": "BINARY"}`, "'*'", `v: takes bytes in base64, got "*"`},
		{"a field of a dataclass", pointType, "{x: abc}", `v.x: takes an integer, got "abc"`},
		{"a field that is missing", pointType, "{y: 1}", "v: lacks x"},
		{"a field that is not there", pointType, "{x: 1, z: 1}", `v: has no "z"; it takes inner, kind, names, x, y`},
		{"a list in a dataclass", pointType, "{x: 1, names: [a, 1]}", "v.names[1]: takes a string, got 1: put it in quotes"},
		{"a dataclass in a dataclass", pointType, "{x: 1, inner: {on: 1}}", "v.inner.on: takes true or false, got 1"},
		{"a literal in a dataclass", pointType, "{x: 1, kind: b}", `v.kind: takes one of a, 2, got "b"`},
		{"no dataclass", pointType, "1", "v: takes a mapping (Point), got 1"},
		{"a long value is not all shown", integerType, strings.Repeat("x", 100), `v: takes an integer, got "` + strings.Repeat("x", 59) + "…"},
	} {
		value, err := literals.Parse([]byte(tc.value))
		require.NoError(t, err, tc.reason)
		_, err = literals.From("v", typeOf(t, tc.kind), value)
		require.EqualError(t, err, tc.want, tc.reason)
		var e *literals.Error
		require.ErrorAs(t, err, &e, tc.reason)
	}
}

func TestLocalPathsAreMadeAbsolute(t *testing.T) {
	t.Parallel()
	got, err := literals.From("f", typeOf(t, fileType), "literals_test.go")
	require.NoError(t, err)
	dir, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, "file://"+filepath.Join(dir, "literals_test.go"), got.GetScalar().GetBlob().GetUri())
}

func TestStructuresAreMessagePack(t *testing.T) {
	t.Parallel()
	value, err := literals.Parse([]byte("{x: 1, y: 2, names: [a], inner: {on: true}, kind: 2}"))
	require.NoError(t, err)
	got, err := literals.From("p", typeOf(t, pointType), value)
	require.NoError(t, err)
	require.Equal(t, "msgpack", got.GetScalar().GetBinary().GetTag())
	var back map[string]any
	require.NoError(t, msgpack.Unmarshal(got.GetScalar().GetBinary().GetValue(), &back))
	require.Equal(t, 2.0, back["y"], "a float field gets a float") //nolint:testifylint // exactly
	require.EqualValues(t, 1, back["x"])
	again, err := literals.From("p", typeOf(t, pointType), value)
	require.NoError(t, err)
	require.True(t, proto.Equal(got, again), "the same value has the same bytes")
}

// TestLargeStructures: every form of a length can be read again.
func TestLargeStructures(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 15, 16, 31, 32, 255, 256, 65535, 65536} {
		list, long := make([]any, n), strings.Repeat("x", n)
		for i := range list {
			list[i] = int64(i) - 200
		}
		value := map[string]any{"list": list, "long": long, long + "key": nil, "f": math.Pi, "b": true}
		got, err := literals.From("v", typeOf(t, structType), value)
		require.NoError(t, err)
		plain, err := json.Marshal(literals.Plain(got))
		require.NoError(t, err)
		want, err := json.Marshal(value)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(plain))
	}
}

// TestFlytekitsDefaults: what flytekit made of Python's values comes back as it was by way of what people read.
func TestFlytekitsDefaults(t *testing.T) {
	t.Parallel()
	b, err := bundle.Read("inputs", workflows.Archive("inputs"), bundle.Options{})
	require.NoError(t, err)
	n := 0
	for name, lp := range b.LaunchPlans() {
		for input, p := range lp.GetClosure().GetExpectedInputs().GetParameters() {
			want, ok := p.GetBehavior().(*core.Parameter_Default)
			if !ok {
				continue
			}
			n++
			text, err := yaml.Marshal(literals.Plain(want.Default))
			require.NoError(t, err)
			value, err := literals.Parse(text)
			require.NoError(t, err)
			got, err := literals.From(input, p.GetVar().GetType(), value)
			require.NoError(t, err, "%s %s: %s", name, input, text)
			// flytekit has a dataclass's fields in another order.
			require.Equal(t, literals.Plain(want.Default), literals.Plain(got), "%s %s", name, input)
			if u := want.Default.GetScalar().GetUnion(); u != nil { // flytekit writes a default of None without its union
				require.True(t, proto.Equal(u.GetType(), got.GetScalar().GetUnion().GetType()), "%s %s", name, input)
			}
		}
	}
	require.Greater(t, n, 15)
}

func TestFromText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reason, kind, text, want string }{
		{"text is taken as it stands", stringType, "5", `{"scalar": {"primitive": {"stringValue": "5"}}}`},
		{"quotes too", stringType, `"a`, `{"scalar": {"primitive": {"stringValue": "\"a"}}}`},
		{"a number", integerType, "5", `{"scalar": {"primitive": {"integer": "5"}}}`},
		{"a list", numbersType, "[5]", `{"collection": {"literals": [{"scalar": {"primitive": {"integer": "5"}}}]}}`},
		{"a union that takes text, of what YAML is not", either, "{", `{"scalar": {"union": {"type": {"simple": "STRING"}, "value": {"scalar": {"primitive": {"stringValue": "{"}}}}}}`},
		{"or is", either, "true", `{"scalar": {"union": {"type": {"simple": "STRING"}, "value": {"scalar": {"primitive": {"stringValue": "true"}}}}}}`},
		{"an enum", `{"enumType": {"values": ["true"]}}`, "true", `{"scalar": {"primitive": {"stringValue": "true"}}}`},
	} {
		got, err := literals.FromText("v", typeOf(t, tc.kind), tc.text)
		require.NoError(t, err, tc.reason)
		want := &core.Literal{}
		require.NoError(t, protojson.Unmarshal([]byte(tc.want), want), tc.reason)
		require.True(t, proto.Equal(want, got), "%s: %v", tc.reason, got)
	}
	_, err := literals.FromText("v", typeOf(t, integerType), "{")
	require.ErrorContains(t, err, "v: cannot be read as YAML: ")
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason, text string
		want         any
	}{
		{"nothing", "", nil},
		{"keys as they are written", "{yes: 1, 010: 2}", map[string]any{"yes": int64(1), "010": int64(2)}},
		{"JSON with tabs", "{\n\t\"a\": [1.0, null, \"x\"]\n}", map[string]any{"a": []any{1.0, nil, "x"}}},
		{"JSON's large integers", `{"a": 9007199254740993}`, map[string]any{"a": int64(9007199254740993)}},
		{"anchors and merges", "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", map[string]any{
			"a": map[string]any{"x": int64(1), "y": int64(2)}, "b": map[string]any{"x": int64(1), "y": int64(3)},
		}},
	} {
		got, err := literals.Parse([]byte(tc.text))
		require.NoError(t, err, tc.reason)
		require.Equal(t, tc.want, got, tc.reason)
	}
	endless := ""
	for c := 'b'; c < 'k'; c++ {
		endless += fmt.Sprintf("\n%c: &%c [%s]", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9))
	}
	for _, tc := range []struct{ reason, text, want string }{
		{"a key twice", "a: 1\nb: 2\na: 3", `line 3: "a" is given twice`},
		{"a key twice in JSON", `{"a": 1, "a": 2}`, `"a" is given twice`},
		{"no YAML", "a: [", "did not find expected node content"},
		{"anchors without end", "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]" + endless, "excessive aliasing"},
		{"two documents", "a: 1\n---\nb: 1", "more than one document"},
		{"a list as key", "[1]: 2", "a key is a name"},
		{"a merge of nothing", "<<: 1", "<< takes a mapping"},
	} {
		_, err := literals.Parse([]byte(tc.text))
		require.ErrorContains(t, err, tc.want, tc.reason)
		require.NotContains(t, err.Error(), "\n", tc.reason)
	}
}

// TestParseManyKeys: yaml.v3's own decoder compares every key with every other.
func TestParseManyKeys(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&b, "k%d: v\n", i)
	}
	began := time.Now()
	got, err := literals.Parse([]byte(b.String()))
	require.NoError(t, err)
	require.Len(t, got, 100_000)
	require.Less(t, time.Since(began), 10*time.Second)
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

const (
	yamlPath = "../../../../api/openapi.yaml"
	jsonPath = "../../rest/openapi.json"
)

// contract is the document, and what validates by its schemas.
type contract struct {
	document any
	lock     sync.Mutex
	compiler *jsonschema.Compiler
}

func load(t *testing.T) *contract {
	t.Helper()
	raw, err := os.ReadFile(jsonPath)
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	require.NoError(t, c.AddResource("file:///openapi.json", document))
	return &contract{document: document, compiler: c}
}

// at compiles the schema at a JSON pointer.
func (c *contract) at(t *testing.T, pointer string) *jsonschema.Schema {
	t.Helper()
	c.lock.Lock()
	defer c.lock.Unlock()
	s, err := c.compiler.Compile("file:///openapi.json#" + pointer)
	require.NoError(t, err)
	return s
}

func (c *contract) message(t *testing.T, m proto.Message) *jsonschema.Schema {
	t.Helper()
	return c.at(t, "/components/schemas/"+string(m.ProtoReflect().Descriptor().FullName()))
}

func parse(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err, "%s", text)
	return v
}

// TestCurrent: what is committed is what the generator writes.
func TestCurrent(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(yamlPath)
	require.NoError(t, err)
	document, err := os.ReadFile(jsonPath)
	require.NoError(t, err)
	dir := t.TempDir()
	y, j := filepath.Join(dir, "openapi.yaml"), filepath.Join(dir, "openapi.json")
	above, _, _ := bytes.Cut(text, []byte(marker))
	require.NoError(t, os.WriteFile(y, append(above, marker...), 0o600))
	require.NoError(t, run(y, j))
	got, err := os.ReadFile(y)
	require.NoError(t, err)
	require.True(t, bytes.Equal(text, got), `api/openapi.yaml is out of date: run "make generate"`)
	got, err = os.ReadFile(j)
	require.NoError(t, err)
	require.True(t, bytes.Equal(document, got), `rest/openapi.json is out of date: run "make generate"`)
}

// TestMalformedDocuments: what is wrong in the part that is written by hand.
func TestMalformedDocuments(t *testing.T) {
	t.Parallel()
	for reason, c := range map[string]struct{ text, want string }{
		"no marker":                {"a: 1\n", "the marker is missing"},
		"no YAML":                  {"a: [\n" + marker, "yaml"},
		"no such message":          {"a: {$ref: '#/components/schemas/flyteidl.core.Nothing'}\n" + marker, "flyteidl.core.Nothing"},
		"an enumeration":           {"a: {$ref: '#/components/schemas/flyteidl.core.SimpleType'}\n" + marker, "is no message"},
		"an alias":                 {"a: &x 1\nb: *x\n" + marker, "aliases have no place"},
		"a time, which JSON lacks": {"a: 2020-01-01\n" + marker, "has no place in JSON"},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "openapi.yaml")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			require.ErrorContains(t, run(path, path+".json"), c.want)
		})
	}
}

// TestExamples: every example of the document is valid by the schema that it stands beside.
func TestExamples(t *testing.T) {
	t.Parallel()
	c := load(t)
	count := 0
	c.examples(t, c.document, "", func(where, schema string, example any) {
		count++
		require.NoError(t, c.at(t, schema).Validate(example), where)
	})
	require.Greater(t, count, 40, "the document has more examples than that")
}

// TestEveryStatusHasAnExample: people read examples first.
func TestEveryStatusHasAnExample(t *testing.T) {
	t.Parallel()
	c := load(t)
	paths, ok := c.resolve(t, c.document)["paths"].(map[string]any)
	require.True(t, ok)
	count := 0
	for path, item := range paths {
		for method, operation := range c.resolve(t, item) {
			if method == "parameters" {
				continue
			}
			responses, ok := c.resolve(t, operation)["responses"].(map[string]any)
			require.True(t, ok, "%s %s", method, path)
			for status, response := range responses {
				content, ok := c.resolve(t, response)["content"].(map[string]any)
				require.True(t, ok, "%s %s %s", method, path, status)
				for kind, media := range content {
					require.NotEmpty(t, c.resolve(t, media)["examples"], "%s %s %s as %s", method, path, status, kind)
					count++
				}
			}
		}
	}
	require.Greater(t, count, 80)
}

// examples calls check with every example below a node.
func (c *contract) examples(t *testing.T, node any, pointer string, check func(where, schema string, example any)) {
	t.Helper()
	switch node := node.(type) {
	case []any:
		for i, v := range node {
			c.examples(t, v, fmt.Sprintf("%s/%d", pointer, i), check)
		}
	case map[string]any:
		if example, ok := node["example"]; ok && node["schema"] != nil {
			check(pointer+"/example", pointer+"/schema", example)
		}
		if named, ok := node["examples"].(map[string]any); ok && node["schema"] != nil {
			for name, example := range named {
				at := pointer + "/examples/" + name
				value, ok := c.resolve(t, example)["value"]
				require.True(t, ok, "%s has no value", at)
				check(at, pointer+"/schema", value)
			}
		}
		if listed, ok := node["examples"].([]any); ok { // of a schema
			for _, example := range listed {
				check(pointer+"/examples", pointer, example)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(node)) {
			escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
			c.examples(t, node[name], pointer+"/"+url.PathEscape(escaped), check)
		}
	}
}

// resolve gives what a node refers to, or the node.
func (c *contract) resolve(t *testing.T, node any) map[string]any {
	t.Helper()
	m, _ := node.(map[string]any)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	at := c.document
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		at = at.(map[string]any)[part]
		require.NotNil(t, at, ref)
	}
	return c.resolve(t, at)
}

// TestTemplates: what flytekit makes of tasks.
func TestTemplates(t *testing.T) {
	t.Parallel()
	c := load(t)
	paths, err := filepath.Glob("../../../../testdata/templates/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		template := &core.TaskTemplate{}
		require.NoError(t, protojson.Unmarshal(raw, template))
		require.NoError(t, c.message(t, template).Validate(parse(t, raw)), path)
		body := map[string]any{"template": parse(t, raw)}
		require.NoError(t, c.at(t, "/components/schemas/CreateRequest").Validate(body), path)
	}
}

// TestRandomMessages: whatever a message holds, its JSON is valid.
func TestRandomMessages(t *testing.T) {
	t.Parallel()
	c := load(t)
	for _, m := range []proto.Message{&core.TaskTemplate{}, &core.LiteralMap{}, &core.TaskLog{}, &admin.TaskExecutionMetadata{}} {
		name := string(m.ProtoReflect().Descriptor().FullName())
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			schema := c.message(t, m)
			for seed := range uint64(500) {
				f := filler{rand.New(rand.NewPCG(seed, 1))}
				m := m.ProtoReflect().New()
				f.fill(m, 6)
				raw, err := protojson.Marshal(m.Interface())
				require.NoError(t, err)
				require.NoError(t, schema.Validate(parse(t, raw)), "seed %d: %s", seed, raw)
			}
		})
	}
}

// filler fills messages with anything that they can hold.
type filler struct{ *rand.Rand }

func (f filler) fill(m protoreflect.Message, depth int) {
	switch name := m.Descriptor().FullName(); name {
	case "google.protobuf.Struct":
		proto.Merge(m.Interface(), f.json(depth).GetStructValue())
		return
	case "google.protobuf.Timestamp":
		f.time(m, -62135596800, 253402300799)
		return
	case "google.protobuf.Duration":
		f.time(m, 0, 315576000000)
		return
	}
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		message := fd.Message() != nil && !fd.IsMap()
		if f.IntN(2) == 0 || depth == 0 && (message || fd.IsMap()) {
			continue
		}
		switch {
		case fd.IsMap():
			for range f.IntN(3) {
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString(f.text()).MapKey(), f.value(fd.MapValue(), m.Mutable(fd).Map().NewValue, depth))
			}
		case fd.IsList():
			for range f.IntN(3) {
				m.Mutable(fd).List().Append(f.value(fd, m.Mutable(fd).List().NewElement, depth))
			}
		default:
			m.Set(fd, f.value(fd, func() protoreflect.Value { return m.NewField(fd) }, depth))
		}
	}
}

func (f filler) time(m protoreflect.Message, least, most int64) {
	fields := m.Descriptor().Fields()
	m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(least+f.Int64N(most-least)))
	m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32([]int32{0, 5e8, 1, 999999999}[f.IntN(4)]))
}

func (f filler) text() string {
	return []string{"", "a", "s3://bucket/key", "日本", "null", "7"}[f.IntN(6)]
}

// json is a struct of anything.
func (f filler) json(depth int) *structpb.Value {
	fields := map[string]*structpb.Value{}
	for range f.IntN(4) {
		v := structpb.NewNullValue()
		switch f.IntN(5) {
		case 0:
			v = structpb.NewNumberValue(f.NormFloat64() * 1e20)
		case 1:
			v = structpb.NewStringValue(f.text())
		case 2:
			v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewBoolValue(true), structpb.NewNullValue()}})
		case 3:
			if depth > 0 {
				v = f.json(depth - 1)
			}
		}
		fields[f.text()] = v
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: fields})
}

func (f filler) value(fd protoreflect.FieldDescriptor, empty func() protoreflect.Value, depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(f.IntN(2) == 0)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(f.IntN(values.Len())).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32([]int32{math.MinInt32, math.MaxInt32, 0, f.Int32()}[f.IntN(4)])
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32([]uint32{math.MaxUint32, 0, f.Uint32()}[f.IntN(3)])
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64([]int64{math.MinInt64, math.MaxInt64, 0, f.Int64()}[f.IntN(4)])
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64([]uint64{math.MaxUint64, 0, f.Uint64()}[f.IntN(3)])
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32([]float32{math.MaxFloat32, float32(math.NaN()), float32(math.Inf(-1)), f.Float32()}[f.IntN(4)])
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64([]float64{-math.MaxFloat64, math.NaN(), math.Inf(1), f.NormFloat64()}[f.IntN(4)])
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(f.text())
	case protoreflect.BytesKind:
		raw := make([]byte, f.IntN(9))
		for i := range raw {
			raw[i] = byte(f.IntN(256))
		}
		return protoreflect.ValueOfBytes(raw)
	default:
		v := empty()
		f.fill(v.Message(), depth-1)
		return v
	}
}

// TestLikeProtobuf: the schemas take what protobuf's own reader takes, and nothing else.
func TestLikeProtobuf(t *testing.T) {
	t.Parallel()
	c := load(t)
	primitive := func(name string, values ...string) []string {
		var out []string
		for _, v := range values {
			out = append(out, `{"scalar": {"primitive": {"`+name+`": `+v+`}}}`)
		}
		return out
	}
	for reason, c2 := range map[string]struct {
		of       proto.Message
		yes, not []string
	}{
		"an integer of 64 bits is a number or a string": {
			&core.Literal{},
			primitive("integer", `7`, `"7"`, `-7`, `"-7"`, `7.0`, `0`, `"-0"`, `null`, `9223372036854775807`, `"9223372036854775807"`,
				`-9223372036854775808`, `"-9223372036854775808"`, `"9223372036854775799"`, `"8999999999999999999"`, `"999999999999999999"`),
			primitive("integer", `7.5`, `"7.5"`, `""`, `" 7"`, `"07"`, `"+7"`, `true`, `{}`, `[]`, `9223372036854775808`, `"9223372036854775808"`,
				`"-9223372036854775809"`, `"9300000000000000000"`, `"10000000000000000000"`, `"x"`),
		},
		"an integer without a sign": {
			&core.LiteralOffloadedMetadata{},
			[]string{`{"sizeBytes": "18446744073709551615"}`, `{"sizeBytes": 18446744073709551615}`, `{"sizeBytes": 0}`},
			[]string{`{"sizeBytes": "18446744073709551616"}`, `{"sizeBytes": -1}`, `{"sizeBytes": "-1"}`},
		},
		"an integer of 32 bits": {
			&admin.TaskExecutionMetadata{},
			[]string{`{"maxAttempts": 2147483647}`, `{"maxAttempts": "-2147483648"}`},
			[]string{`{"maxAttempts": 2147483648}`, `{"maxAttempts": "2147483648"}`, `{"maxAttempts": -2147483649}`},
		},
		"a float has values that JSON has not": {
			&core.Literal{},
			primitive("floatValue", `1.5`, `"1.5"`, `"NaN"`, `"-Infinity"`, `"Infinity"`, `1e308`, `"2e10"`, `0`),
			primitive("floatValue", `"nan"`, `"inf"`, `""`, `true`, `"1."`, `"x"`, `1e309`),
		},
		"a string": {&core.Literal{}, primitive("stringValue", `""`, `"日本"`, `null`), primitive("stringValue", `7`, `true`, `{}`, `["a"]`)},
		"a bool":   {&core.Literal{}, primitive("boolean", `true`, `false`, `null`), primitive("boolean", `"true"`, `1`, `{}`)},
		"a time": {
			&core.Literal{},
			primitive("datetime", `"2026-02-03T04:05:06Z"`, `"2026-02-03T04:05:06.123456789Z"`, `"2026-02-03T04:05:06+05:30"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.999999999Z"`),
			primitive("datetime", `"2026-02-03"`, `"2026-02-30T04:05:06Z"`, `"2026-02-03T04:05:06"`, `"2026-02-03t04:05:06z"`, `"2026-02-03T04:05:06.1234567891Z"`,
				`"0000-01-01T00:00:00Z"`, `"2026-02-03T24:00:00Z"`, `"2026-13-03T04:05:06Z"`, `1`, `""`),
		},
		"a duration": {
			&core.Literal{},
			primitive("duration", `"1.5s"`, `"-1.5s"`, `"0s"`, `"0.123456789s"`, `"315576000000s"`, `".5s"`, `"1.s"`, `"+1s"`),
			primitive("duration", `"1.5"`, `"1m"`, `"s"`, `""`, `"01s"`, `"0.1234567891s"`, `"315576000001s"`, `"400000000000s"`, `1`),
		},
		"at most one of a choice, of which null is none": {
			&core.Literal{},
			[]string{`{}`, `{"scalar": null, "map": {}}`, `{"scalar": null}`, `{"hash": "x"}`, `{"map": {"literals": {"a": {"scalar": {"noneType": {}}}}}}`},
			[]string{`{"scalar": {}, "map": {}}`, `{"scalar": {"primitive": {"integer": 1, "boolean": true}}}`, `{"scalar": 1}`},
		},
		"null is nothing for a member, but no item": {
			&core.Container{},
			[]string{`{"args": null}`, `{"args": []}`, `{"env": null}`, `{"resources": null}`, `{"anything": 1}`},
			[]string{`{"args": [null]}`, `{"args": "a"}`, `{"env": [null]}`, `{"env": {}}`, `null`, `[]`, `"x"`},
		},
		"null is no value of a map": {
			&core.LiteralMap{}, []string{`{}`, `{"literals": {}}`, `{"literals": null}`, `{"literals": {"a": {}}}`},
			[]string{`{"literals": {"a": null}}`, `{"literals": []}`, `{"literals": {"a": 1}}`},
		},
		"bytes": {
			&core.Binary{},
			[]string{`{"value": "AAE="}`, `{"value": "AAE"}`, `{"value": "_-8="}`, `{"value": "/+8"}`, `{"value": ""}`, `{"value": "AAAA"}`},
			[]string{`{"value": "A"}`, `{"value": "AAA=="}`, `{"value": "!!!!"}`, `{"value": "_+8="}`, `{"value": 1}`, `{"value": "AAE=A"}`},
		},
		"an enumeration's values are names or numbers": {
			&core.LiteralType{}, []string{`{"simple": "INTEGER"}`, `{"simple": 1}`, `{"simple": 9.0}`, `{"simple": null}`},
			[]string{`{"simple": "integer"}`, `{"simple": "1"}`, `{"simple": true}`, `{"simple": 1.5}`, `{"simple": 2147483648}`, `{"simple": "NEW"}`},
		},
		"a struct is any object": {
			&core.TaskTemplate{}, []string{`{"custom": {"a": [1, null, {"b": {}}]}}`, `{"custom": {}}`, `{"custom": null}`},
			[]string{`{"custom": []}`, `{"custom": "x"}`, `{"custom": 1}`},
		},
		"a wrapper is its value": {
			&core.TaskMetadata{}, []string{`{"generatesDeck": true}`, `{"generatesDeck": null}`}, []string{`{"generatesDeck": {"value": true}}`, `{"generatesDeck": 1}`},
		},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			schema := c.message(t, c2.of)
			check := func(text string, want bool) {
				t.Helper()
				require.True(t, json.Valid([]byte(text)), text)
				m := c2.of.ProtoReflect().New().Interface()
				// Unknown names are passed over by the services, but unknown values are told by this one option too.
				read := protojson.UnmarshalOptions{DiscardUnknown: strings.Contains(text, "anything")}.Unmarshal([]byte(text), m)
				require.Equal(t, want, read == nil, "protobuf, of %s: %v", text, read)
				valid := schema.Validate(parse(t, []byte(text)))
				require.Equal(t, want, valid == nil, "the schema, of %s: %v", text, valid)
			}
			for _, text := range c2.yes {
				check(text, true)
			}
			for _, text := range c2.not {
				check(text, false)
			}
		})
	}
}

// TestJSON: the document as JSON says what it says as YAML.
func TestJSON(t *testing.T) {
	t.Parallel()
	for reason, c := range map[string]struct{ yaml, want string }{
		"order, and what fits on a line": {"b: 1\na: [x, 'y']\n", "{\"b\": 1, \"a\": [\"x\", \"y\"]}\n"},
		"numbers keep their digits":      {"a: 18446744073709551615\nb: 1.7976931348623157e+308\n", "{\"a\": 18446744073709551615, \"b\": 1.7976931348623157e+308}\n"},
		"keys are strings":               {"200: {}\n", "{\"200\": {}}\n"},
		"comments go, text stays":        {"a: '<&>' # why\nb: |\n  two\n  lines\n", "{\"a\": \"<&>\", \"b\": \"two\\nlines\\n\"}\n"},
		"true and null":                  {"[true, null, ~]\n", "[true, null, null]\n"},
		"what does not fit gets lines":   {"a: [" + strings.Repeat("x", 60) + ", " + strings.Repeat("y", 60) + "]\n", "{\n \"a\": [\n  \"" + strings.Repeat("x", 60) + "\",\n  \"" + strings.Repeat("y", 60) + "\"\n ]\n}\n"},
		"empty ones":                     {"a: {}\nb: []\n", "{\"a\": {}, \"b\": []}\n"},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			got, err := toJSON([]byte(c.yaml))
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
		})
	}
}

// TestEnumsAreClosed: protobuf's own reader takes any number, and a service does not.
func TestEnumsAreClosed(t *testing.T) {
	t.Parallel()
	schema := load(t).message(t, &core.TaskTemplate{})
	require.NoError(t, schema.Validate(parse(t, []byte(`{"id": {"resourceType": 1}}`))))
	require.Error(t, schema.Validate(parse(t, []byte(`{"id": {"resourceType": 77}}`))))
}

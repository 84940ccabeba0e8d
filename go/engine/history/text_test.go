package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/shamaton/msgpack/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/engine/history/historytest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func scalar(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func primitive(p *core.Primitive) *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func TestText(t *testing.T) {
	generic, err := structpb.NewStruct(map[string]any{"a": 1.0, "b": []any{"x"}})
	require.NoError(t, err)
	packed, err := msgpack.Marshal(map[string]any{"name": "x", "sizes": []int{1, 2}})
	require.NoError(t, err)
	many := make([]*core.Literal, 100000)
	for i := range many {
		many[i] = historytest.Int(int64(i))
	}
	for _, c := range []struct {
		reason  string
		literal *core.Literal
		limit   int
		want    string
	}{
		{"no literal", nil, 0, "none"},
		{"an int", historytest.Int(-3), 0, "-3"},
		{"a float is not an int", historytest.Float(3), 0, "3.0"},
		{"a small float", historytest.Float(1e-9), 0, "1e-09"},
		{"a text stands alone", historytest.String("a b"), 0, "a b"},
		{"an empty text is seen", historytest.String(""), 0, `""`},
		{"lines stay on one line", historytest.String("a\nb"), 0, `"a\nb"`},
		{"a bool", primitive(&core.Primitive{Value: &core.Primitive_Boolean{Boolean: true}}), 0, "true"},
		{"a datetime", primitive(&core.Primitive{Value: &core.Primitive_Datetime{Datetime: timestamppb.New(start)}}), 0, "2026-11-24T09:30:00Z"},
		{"a duration", primitive(&core.Primitive{Value: &core.Primitive_Duration{Duration: durationpb.New(90 * time.Second)}}), 0, "1m30s"},
		{"a list", historytest.List(historytest.Int(1), historytest.String("a")), 0, `[1, "a"]`},
		{"a map, sorted", &core.Literal{Value: &core.Literal_Map{Map: historytest.Values("b", historytest.Int(1), "a", historytest.Int(2))}}, 0, "{a: 2, b: 1}"},
		{"a dataset", historytest.Dataset("s3://b/k"), 0, "s3://b/k"},
		{"a blob", scalar(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{Uri: "s3://b/f"}}}), 0, "s3://b/f"},
		{"a schema", scalar(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: "s3://b/s"}}}), 0, "s3://b/s"},
		{"none", scalar(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}}), 0, "none"},
		{"a union is its value", scalar(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: historytest.Int(4)}}}), 0, "4"},
		{"a generic", scalar(&core.Scalar{Value: &core.Scalar_Generic{Generic: generic}}), 0, `{"a":1,"b":["x"]}`},
		{"a dataclass", scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: packed, Tag: "msgpack"}}}), 0, `{"name":"x","sizes":[1,2]}`},
		{"broken MessagePack", scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: []byte{0xdf, 1}, Tag: "msgpack"}}}), 0, "msgpack, 2 B: 3wE=…"},
		{"an error", scalar(&core.Scalar{Value: &core.Scalar_Error{Error: &core.Error{Message: "no"}}}), 0, "error: no"},
		{"kept apart", &core.Literal{Value: &core.Literal_OffloadedMetadata{OffloadedMetadata: &core.LiteralOffloadedMetadata{Uri: "s3://b/o", SizeBytes: 3 << 20}}}, 0, "s3://b/o (3.0 MiB, kept apart)"},
		{"cut by characters", historytest.String("äöüßäöü"), 4, "äöü…"},
		{"a long list is not written out first", historytest.List(many...), 12, "[0, 1, 2, 3…"},
		{"a huge text", historytest.String(strings.Repeat("x", 10<<20)), 3, "xx…"},
	} {
		assert.Equal(t, c.want, history.Text(c.literal, c.limit), c.reason)
	}
}

func TestTypeText(t *testing.T) {
	i := &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}
	s := &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_STRING}}
	assert.Equal(t, "list[int]", history.TypeText(&core.LiteralType{Type: &core.LiteralType_CollectionType{CollectionType: i}}))
	assert.Equal(t, "dict[str, str]", history.TypeText(&core.LiteralType{Type: &core.LiteralType_MapValueType{MapValueType: s}}))
	assert.Equal(t, "int | str", history.TypeText(&core.LiteralType{Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: []*core.LiteralType{i, s}}}}))
	assert.Equal(t, "any", history.TypeText(nil))
}

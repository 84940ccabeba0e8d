package backend

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func literalOf(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func prim(p *core.Primitive) *core.Literal {
	return literalOf(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func simple(s core.SimpleType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_Simple{Simple: s}}
}

func TestOutputsFitTheInterface(t *testing.T) {
	t.Parallel()
	integer := prim(&core.Primitive{Value: &core.Primitive_Integer{Integer: 1}})
	text := prim(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: "a"}})
	none := literalOf(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
	binary := literalOf(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Tag: "msgpack"}}})
	generic := literalOf(&core.Scalar{Value: &core.Scalar_Generic{Generic: &structpb.Struct{}}})
	dataset := literalOf(&core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{Uri: "s3://x"}}})
	schema := literalOf(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: "s3://x", Type: &core.SchemaType{}}}})
	list := func(items ...*core.Literal) *core.Literal {
		return &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: items}}}
	}
	dict := func(items map[string]*core.Literal) *core.Literal {
		return &core.Literal{Value: &core.Literal_Map{Map: &core.LiteralMap{Literals: items}}}
	}
	intType, stringType := simple(core.SimpleType_INTEGER), simple(core.SimpleType_STRING)
	listOf := func(t *core.LiteralType) *core.LiteralType {
		return &core.LiteralType{Type: &core.LiteralType_CollectionType{CollectionType: t}}
	}
	mapOf := func(t *core.LiteralType) *core.LiteralType {
		return &core.LiteralType{Type: &core.LiteralType_MapValueType{MapValueType: t}}
	}
	optional := &core.LiteralType{Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: []*core.LiteralType{intType, simple(core.SimpleType_NONE)}}}}
	enum := &core.LiteralType{Type: &core.LiteralType_EnumType{EnumType: &core.EnumType{Values: []string{"a", "b"}}}}
	datasetType := &core.LiteralType{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: &core.StructuredDatasetType{
		Columns: []*core.StructuredDatasetType_DatasetColumn{{Name: "c", LiteralType: intType}}}}}
	schemaType := &core.LiteralType{Type: &core.LiteralType_Schema{Schema: &core.SchemaType{}}}
	union := literalOf(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: integer, Type: intType}}})
	for _, tc := range []struct {
		reason string
		l      *core.Literal
		want   *core.LiteralType
		wrong  string
	}{
		{"an integer is one", integer, intType, ""},
		{"a string is no integer", text, intType, "o should be integer, but is string"},
		{"a list of its type", list(integer, integer), listOf(intType), ""},
		{"an empty list has no type of its own", list(), listOf(stringType), ""},
		{"a list with a wrong item", list(integer, text), listOf(intType), "o should be a list of integer"},
		{"a list where one value is due", list(integer), intType, "o should be integer, but is a list of integer"},
		{"a map of its type", dict(map[string]*core.Literal{"k": text}), mapOf(stringType), ""},
		{"a map with a wrong value", dict(map[string]*core.Literal{"k": text}), mapOf(intType), "o should be a map of integer"},
		{"None for an optional", none, optional, ""},
		{"a bare value for an optional", integer, optional, ""},
		{"a union literal for an optional", union, optional, ""},
		{"a string for an optional integer", text, optional, "o should be integer or none, but is string"},
		{"None where a value is due", none, intType, "o should be integer, but is none"},
		{"None where None is due", none, simple(core.SimpleType_NONE), ""},
		{"a dataclass as msgpack", binary, simple(core.SimpleType_STRUCT), ""},
		{"a struct", generic, simple(core.SimpleType_STRUCT), ""},
		{"one of the enum", text, enum, ""},
		{"not one of the enum", prim(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: "c"}}), enum, "o should be one of a, b, but is string"},
		{"a dataset without its columns", dataset, datasetType, ""},
		{"a dataset where a schema is declared", dataset, schemaType, ""},
		{"a schema", schema, schemaType, ""},
		{"a dataset where an integer is due", dataset, intType, "o should be integer, but is a structured dataset"},
		{"nothing at all", nil, intType, "o is missing"},
	} {
		got := mismatch(map[string]*core.Variable{"o": {Type: tc.want}}, map[string]*core.Literal{"o": tc.l})
		if tc.wrong == "" {
			require.Empty(t, got, tc.reason)
		} else {
			require.Contains(t, got, tc.wrong, tc.reason)
		}
	}
	require.Equal(t, "a blob", describeType(&core.LiteralType{Type: &core.LiteralType_Blob{}}))
	require.Equal(t, "nothing", describeType(nil))
}

// TestLiteralsThatHoldNothing fit or do not, and never panic: a service's answer may hold any message.
func TestLiteralsThatHoldNothing(t *testing.T) {
	t.Parallel()
	deep := &core.Literal{}
	for range 5 {
		deep = &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: []*core.Literal{deep}}}}
	}
	literals := []*core.Literal{
		nil, {}, deep,
		{Value: &core.Literal_Scalar{}}, literalOf(&core.Scalar{}),
		{Value: &core.Literal_Collection{}}, {Value: &core.Literal_Map{}},
		{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: []*core.Literal{nil, {}}}}},
		{Value: &core.Literal_Map{Map: &core.LiteralMap{Literals: map[string]*core.Literal{"": nil, "a": {}}}}},
		{Value: &core.Literal_OffloadedMetadata{}},
		prim(nil), prim(&core.Primitive{}),
		literalOf(&core.Scalar{Value: &core.Scalar_Blob{}}), literalOf(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Schema{}}), literalOf(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_StructuredDataset{}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Union{}}), literalOf(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: &core.Literal{}}}}),
		literalOf(&core.Scalar{Value: &core.Scalar_NoneType{}}), literalOf(&core.Scalar{Value: &core.Scalar_Binary{}}),
		literalOf(&core.Scalar{Value: &core.Scalar_Generic{}}), literalOf(&core.Scalar{Value: &core.Scalar_Error{}}),
	}
	types := []*core.LiteralType{
		nil, {}, simple(core.SimpleType_INTEGER), simple(core.SimpleType_NONE), simple(99),
		{Type: &core.LiteralType_CollectionType{}}, {Type: &core.LiteralType_MapValueType{}},
		{Type: &core.LiteralType_CollectionType{CollectionType: &core.LiteralType{}}},
		{Type: &core.LiteralType_UnionType{}}, {Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: []*core.LiteralType{nil, {}}}}},
		{Type: &core.LiteralType_EnumType{}}, {Type: &core.LiteralType_Blob{}}, {Type: &core.LiteralType_Blob{Blob: &core.BlobType{}}},
		{Type: &core.LiteralType_Schema{}}, {Type: &core.LiteralType_Schema{Schema: &core.SchemaType{}}},
		{Type: &core.LiteralType_StructuredDatasetType{}},
		{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: &core.StructuredDatasetType{}}},
	}
	for i, l := range literals {
		for j, typ := range types {
			require.NotPanics(t, func() {
				mismatch(map[string]*core.Variable{"o": {Type: typ}}, map[string]*core.Literal{"o": l})
			}, "literal %d, type %d", i, j)
		}
	}
}

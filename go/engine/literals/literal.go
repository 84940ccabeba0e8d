package literals

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// From makes a literal of the type from a plain value, as Parse gives it. Local paths of files and folders must exist, and
// are made absolute. name begins the path that an *Error tells.
func From(name string, t *core.LiteralType, value any) (*core.Literal, error) {
	return maker{}.literal(place{name: name}.root(), t, value)
}

// FromText is From for a value on a command line. Where the type takes text, the text is taken as it stands; everywhere else
// it is YAML.
func FromText(name string, t *core.LiteralType, text string) (*core.Literal, error) {
	if verbatim(t, text) {
		return From(name, t, text)
	}
	value, err := Parse([]byte(text))
	if err != nil {
		if takesText(t) {
			return From(name, t, text)
		}
		return nil, &Error{Path: name, Problem: "cannot be read as YAML: " + err.Error()}
	}
	l, err := From(name, t, value)
	if err != nil && takesText(t) {
		if l, err := From(name, t, text); err == nil {
			return l, nil
		}
	}
	return l, err
}

// verbatim says that no other reading than as text can be meant.
func verbatim(t *core.LiteralType, text string) bool {
	switch t.GetType().(type) {
	case *core.LiteralType_EnumType:
		return true
	case *core.LiteralType_Blob, *core.LiteralType_StructuredDatasetType, *core.LiteralType_Schema:
		return !strings.HasPrefix(strings.TrimSpace(text), "{")
	default:
		return t.GetSimple() == core.SimpleType_STRING
	}
}

func takesText(t *core.LiteralType) bool {
	return verbatim(t, "") || slices.ContainsFunc(t.GetUnionType().GetVariants(), takesText)
}

func (p place) root() *place {
	if p.name == "" {
		return nil
	}
	return &p
}

type maker struct {
	// exact refuses an integer where a float is wanted: of a union's variants, the one of the value's own kind comes first.
	exact bool
}

func scalar(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func primitive(p *core.Primitive) *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func text(s string) *core.Literal {
	return primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: s}})
}

func none() *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
}

func (m maker) literal(p *place, t *core.LiteralType, v any) (*core.Literal, error) {
	switch k := t.GetType().(type) {
	case *core.LiteralType_Simple:
		return m.simple(p, t, v)
	case *core.LiteralType_CollectionType:
		list, ok := v.([]any)
		if !ok {
			return nil, p.takes(Describe(t), v)
		}
		c := &core.LiteralCollection{Literals: make([]*core.Literal, 0, len(list))}
		for i, item := range list {
			l, err := m.literal(p.item(i), k.CollectionType, item)
			if err != nil {
				return nil, err
			}
			c.Literals = append(c.Literals, l)
		}
		return &core.Literal{Value: &core.Literal_Collection{Collection: c}}, nil
	case *core.LiteralType_MapValueType:
		entries, ok := v.(map[string]any)
		if !ok {
			return nil, p.takes(Describe(t), v)
		}
		out := &core.LiteralMap{Literals: make(map[string]*core.Literal, len(entries))}
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			l, err := m.literal(p.key(key), k.MapValueType, entries[key])
			if err != nil {
				return nil, err
			}
			out.Literals[key] = l
		}
		return &core.Literal{Value: &core.Literal_Map{Map: out}}, nil
	case *core.LiteralType_UnionType:
		return m.union(p, t, v)
	case *core.LiteralType_EnumType:
		if s, ok := v.(string); ok && slices.Contains(k.EnumType.GetValues(), s) {
			return text(s), nil
		}
		return nil, p.takes(Describe(t), v)
	case *core.LiteralType_Blob:
		return blob(p, k.Blob, v)
	case *core.LiteralType_StructuredDatasetType:
		return dataset(p, k.StructuredDatasetType, v)
	case *core.LiteralType_Schema:
		l, err := locate(p, Describe(t), v)
		if err != nil {
			return nil, err
		}
		if l.format != "" && l.format != "parquet" {
			return nil, p.key("format").takes("parquet", l.format)
		}
		return scalar(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: l.uri, Type: k.Schema}}}), nil
	default:
		return nil, p.errorf("is of a type that cannot be given: %s", Describe(t))
	}
}

func (m maker) simple(p *place, t *core.LiteralType, v any) (*core.Literal, error) {
	wrong := p.takes(Describe(t), v)
	switch t.GetSimple() {
	case core.SimpleType_NONE:
		if v == nil {
			return none(), nil
		}
	case core.SimpleType_INTEGER:
		switch n := v.(type) {
		case int64:
			return primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: n}}), nil
		case *big.Int:
			return nil, p.errorf("takes an integer of 64 bits, which %s is not", show(v))
		}
	case core.SimpleType_FLOAT:
		f, ok := v.(float64)
		if n, isInt := v.(int64); isInt && !m.exact {
			f, ok = float64(n), true
			if int64(f) != n {
				return nil, p.errorf("takes a float, which cannot hold %d exactly; write %d.0 for the nearest one", n, n)
			}
		}
		if ok {
			return primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: f}}), nil
		}
	case core.SimpleType_STRING:
		s, ok := v.(string)
		switch {
		case ok:
			return text(s), nil
		case v != nil && !isNested(v):
			return nil, p.errorf("takes a string, got %s: put it in quotes", show(v))
		}
	case core.SimpleType_BOOLEAN:
		if b, ok := v.(bool); ok {
			return primitive(&core.Primitive{Value: &core.Primitive_Boolean{Boolean: b}}), nil
		}
	case core.SimpleType_DATETIME:
		if s, ok := v.(string); ok {
			if at, err := parseTime(s); err == nil {
				return primitive(&core.Primitive{Value: &core.Primitive_Datetime{Datetime: timestamppb.New(at)}}), nil
			}
		}
	case core.SimpleType_DURATION:
		if d, ok := toDuration(v); ok && (isText(v) || !m.exact) {
			return primitive(&core.Primitive{Value: &core.Primitive_Duration{Duration: d}}), nil
		}
	case core.SimpleType_BINARY:
		if s, ok := v.(string); ok {
			raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
			if err == nil {
				return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: raw}}}), nil
			}
		}
	case core.SimpleType_STRUCT:
		return structure(p, t, v)
	default:
		return nil, p.errorf("is of a type that cannot be given: %s", Describe(t))
	}
	return nil, wrong
}

func isText(v any) bool {
	_, ok := v.(string)
	return ok
}

func isNested(v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return true
	default:
		return false
	}
}

func toDuration(v any) (*durationpb.Duration, bool) {
	r := new(big.Rat)
	switch n := v.(type) {
	case string:
		d, err := parseDuration(n)
		return d, err == nil
	case int64:
		r.SetInt64(n)
	case float64:
		if r.SetFloat64(n) == nil {
			return nil, false
		}
	default:
		return nil, false
	}
	d, err := seconds("", r)
	return d, err == nil
}

// union takes the first variant that fits: first one of the value's own kind, then one that takes it too.
func (m maker) union(p *place, t *core.LiteralType, v any) (*core.Literal, error) {
	variants := t.GetUnionType().GetVariants()
	for _, m := range []maker{{exact: true}, m} {
		for _, variant := range variants {
			l, err := m.literal(p, variant, v)
			if err == nil {
				return scalar(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: l, Type: variant}}}), nil
			}
		}
	}
	// Of an optional value the one real variant knows best what is wrong.
	proper := slices.DeleteFunc(slices.Clone(variants), isNone)
	if len(proper) == 1 && isNested(v) {
		_, err := m.literal(p, proper[0], v)
		return nil, err
	}
	return nil, p.takes(Describe(t), v)
}

func isNone(t *core.LiteralType) bool {
	_, simple := t.GetType().(*core.LiteralType_Simple)
	return simple && t.GetSimple() == core.SimpleType_NONE
}

func blob(p *place, t *core.BlobType, v any) (*core.Literal, error) {
	folder := t.GetDimensionality() == core.BlobType_MULTIPART
	what := Describe(&core.LiteralType{Type: &core.LiteralType_Blob{Blob: t}})
	l, err := locate(p, what, v)
	if err != nil {
		return nil, err
	}
	if l.local != "" && l.folder != folder {
		return nil, p.errorf("takes %s, and %s is a %s", what, l.local, map[bool]string{true: "folder", false: "file"}[l.folder])
	}
	if l.format != "" && t.GetFormat() != "" && l.format != t.GetFormat() {
		return nil, p.key("format").takes(t.GetFormat(), l.format)
	}
	kind := &core.BlobType{Format: t.GetFormat(), Dimensionality: t.GetDimensionality()}
	if kind.Format == "" {
		kind.Format = l.format
	}
	return scalar(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{Uri: l.uri, Metadata: &core.BlobMetadata{Type: kind}}}}), nil
}

func dataset(p *place, t *core.StructuredDatasetType, v any) (*core.Literal, error) {
	l, err := locate(p, Describe(&core.LiteralType{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: t}}), v)
	if err != nil {
		return nil, err
	}
	if l.format != "" && t.GetFormat() != "" && l.format != t.GetFormat() {
		return nil, p.key("format").takes(t.GetFormat(), l.format)
	}
	kind := &core.StructuredDatasetType{
		Columns: t.GetColumns(), Format: t.GetFormat(), ExternalSchemaType: t.GetExternalSchemaType(), ExternalSchemaBytes: t.GetExternalSchemaBytes(),
	}
	if kind.Format == "" {
		kind.Format = l.format
	}
	return scalar(&core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{
		Uri: l.uri, Metadata: &core.StructuredDatasetMetadata{StructuredDatasetType: kind},
	}}}), nil
}

// located is where the data of a file, folder or table is.
type located struct {
	uri, format string
	// local is the path as it was written, if it was one; folder says what is there.
	local  string
	folder bool
}

// locate takes a URI or a local path, or a mapping with uri (or path, as flytekit writes it) and format.
func locate(p *place, what string, v any) (located, error) {
	var l located
	given := v
	if m, ok := v.(map[string]any); ok {
		for key, value := range m {
			s, isString := value.(string)
			switch {
			case key != "uri" && key != "path" && key != "format" && key != "file_format":
				return l, p.errorf("has no %q; it takes uri and format", key)
			case !isString:
				return l, p.key(key).takes("a string", value)
			case key == "format" || key == "file_format":
				l.format = s
			default:
				given = s
			}
		}
	}
	s, ok := given.(string)
	if !ok || s == "" {
		return l, p.takes(what+": a path, a URI, or {uri, format}", v)
	}
	if strings.Contains(s, "://") {
		l.uri = s
		return l, nil
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		return l, p.errorf("path %s cannot be made absolute: %v", s, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return l, p.errorf("takes %s, and there is none at %s", what, s)
	}
	l.uri, l.local, l.folder = filepath.ToSlash(abs), s, info.IsDir() // flytekit takes file URLs for neither local nor remote
	return l, nil
}

// Describe names a type for people, with its article.
func Describe(t *core.LiteralType) string {
	switch k := t.GetType().(type) {
	case *core.LiteralType_CollectionType:
		return "a list of " + plural(k.CollectionType)
	case *core.LiteralType_MapValueType:
		return "a mapping of names to " + plural(k.MapValueType)
	case *core.LiteralType_UnionType:
		parts := make([]string, 0, len(k.UnionType.GetVariants()))
		for _, v := range k.UnionType.GetVariants() {
			parts = append(parts, Describe(v))
		}
		return strings.Join(parts, " or ")
	case *core.LiteralType_EnumType:
		return "one of " + strings.Join(k.EnumType.GetValues(), ", ")
	case *core.LiteralType_Blob:
		kind := map[bool]string{true: "folder", false: "file"}[k.Blob.GetDimensionality() == core.BlobType_MULTIPART]
		if f := k.Blob.GetFormat(); f != "" {
			return fmt.Sprintf("a %s of format %s", kind, f)
		}
		return "a " + kind
	case *core.LiteralType_StructuredDatasetType, *core.LiteralType_Schema:
		return "a table"
	case *core.LiteralType_Simple:
		return describeSimple(t)
	default:
		return "something else"
	}
}

func describeSimple(t *core.LiteralType) string {
	switch t.GetSimple() {
	case core.SimpleType_NONE:
		return "null"
	case core.SimpleType_INTEGER:
		return "an integer"
	case core.SimpleType_FLOAT:
		return "a float"
	case core.SimpleType_STRING:
		return "a string"
	case core.SimpleType_BOOLEAN:
		return "true or false"
	case core.SimpleType_DATETIME:
		return wantsTime
	case core.SimpleType_DURATION:
		return wantsDuration
	case core.SimpleType_BINARY:
		return "bytes in base64"
	case core.SimpleType_STRUCT:
		if title := t.GetMetadata().GetFields()["title"].GetStringValue(); title != "" {
			return "a mapping (" + title + ")"
		}
		return "a mapping"
	default:
		return strings.ToLower(t.GetSimple().String())
	}
}

func plural(t *core.LiteralType) string {
	if _, simple := t.GetType().(*core.LiteralType_Simple); simple {
		switch t.GetSimple() {
		case core.SimpleType_INTEGER, core.SimpleType_FLOAT, core.SimpleType_STRING:
			_, name, _ := strings.Cut(Describe(t), " ")
			return name + "s"
		case core.SimpleType_BOOLEAN:
			return "booleans"
		case core.SimpleType_DATETIME:
			return "times"
		case core.SimpleType_DURATION:
			return "durations"
		default:
		}
	}
	switch t.GetType().(type) {
	case *core.LiteralType_CollectionType, *core.LiteralType_MapValueType, *core.LiteralType_Blob:
		_, rest, _ := strings.Cut(Describe(t), " ")
		noun, rest, more := strings.Cut(rest, " ")
		if noun += "s"; more {
			noun += " " + rest
		}
		return noun
	case *core.LiteralType_StructuredDatasetType, *core.LiteralType_Schema:
		return "tables"
	default:
		return Describe(t)
	}
}

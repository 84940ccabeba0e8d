package backendplugin

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Blob is a file or folder that is stored somewhere.
type Blob struct {
	URI    string
	Format string
	Folder bool
}

// Dataset is a table that is stored somewhere.
type Dataset struct {
	URI     string
	Format  string
	Columns []Column
}

// Column is a column of a Dataset.
type Column struct {
	Name string
	Type *core.LiteralType
}

// Schema is a table of flytekit's older kind.
type Schema struct {
	URI  string
	Type *core.SchemaType
}

// Binary is bytes with a tag that says what is in them.
type Binary struct {
	Tag   string
	Value []byte
}

// TaskFailure is an error that is a value, as a failure node takes it.
type TaskFailure struct{ FailedNode, Message string }

var (
	literalMapType = reflect.TypeFor[*core.LiteralMap]()
	literalType    = reflect.TypeFor[*core.Literal]()
	timeType       = reflect.TypeFor[time.Time]()
	durationType   = reflect.TypeFor[time.Duration]()
	blobType       = reflect.TypeFor[Blob]()
	datasetType    = reflect.TypeFor[Dataset]()
	schemaType     = reflect.TypeFor[Schema]()
	binaryType     = reflect.TypeFor[Binary]()
	failureType    = reflect.TypeFor[TaskFailure]()
)

// stored are the types that are literals of their own and no part of a structure.
var stored = map[reflect.Type]bool{blobType: true, datasetType: true, schemaType: true, binaryType: true, failureType: true, literalType: true}

// tagMsgpack marks a binary literal that holds a structure.
const tagMsgpack = "msgpack"

// field is a field that has a value in Flyte.
type field struct {
	index    int
	name     string
	optional bool
}

func fieldsOf(t reflect.Type) ([]field, error) {
	var out []field
	seen := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return nil, fmt.Errorf("%s embeds %s; give it a name", t, f.Type)
		}
		name, flags, _ := strings.Cut(f.Tag.Get("flyte"), ",")
		switch {
		case name == "-":
			continue
		case !f.IsExported() && f.Tag.Get("flyte") == "":
			continue
		case !f.IsExported():
			return nil, fmt.Errorf("field %s of %s has a tag and is not exported", f.Name, t)
		case flags != "" && flags != "optional":
			return nil, fmt.Errorf("field %s of %s has the tag option %q; there is optional and no other", f.Name, t, flags)
		case name == "":
			name = f.Name
		}
		if seen[name] {
			return nil, fmt.Errorf("%s has two fields called %q", t, name)
		}
		seen[name] = true
		out = append(out, field{i, name, flags == "optional" || f.Type.Kind() == reflect.Pointer})
	}
	return out, nil
}

// checkValues says whether T can be inputs or outputs.
func checkValues[T any]() error {
	t := reflect.TypeFor[T]()
	switch {
	case t == literalMapType:
		return nil
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		return checkType(t.Elem(), map[reflect.Type]bool{})
	case t.Kind() == reflect.Struct && !stored[t] && t != timeType:
		fields, err := fieldsOf(t)
		if err != nil {
			return err
		}
		for _, f := range fields {
			if err := checkType(t.Field(f.index).Type, map[reflect.Type]bool{}); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		return nil
	default:
		return fmt.Errorf("%s is no struct, no map by name and no *core.LiteralMap", t)
	}
}

func checkType(t reflect.Type, seen map[reflect.Type]bool) error {
	if stored[t] || t == timeType || seen[t] {
		return nil
	}
	seen[t] = true // a type may lead to itself
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return nil
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return nil
		}
	case reflect.Pointer, reflect.Slice:
		return checkType(t.Elem(), seen)
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return checkType(t.Elem(), seen)
		}
		return fmt.Errorf("%s has keys that are no strings", t)
	case reflect.Struct:
		fields, err := fieldsOf(t)
		if err != nil {
			return err
		}
		for _, f := range fields {
			if err := checkType(t.Field(f.index).Type, seen); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		return nil
	}
	return fmt.Errorf("no literal can become a %s", t)
}

// DecodeInputs fills a struct, map[string]T or *core.LiteralMap that into points to with the literals, as requests' inputs are.
// Its errors name the input, what is wrong, and nothing of the values.
func DecodeInputs(m *core.LiteralMap, into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("%T is no pointer", into)
	}
	v = v.Elem()
	switch {
	case v.Type() == literalMapType:
		if m == nil {
			m = &core.LiteralMap{}
		}
		v.Set(reflect.ValueOf(m))
		return nil
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		return decodeMap(m.GetLiterals(), v)
	case v.Kind() == reflect.Struct:
		fields, err := fieldsOf(v.Type())
		if err != nil {
			return err
		}
		for _, f := range fields {
			l, ok := m.GetLiterals()[f.name]
			if !ok && f.optional {
				continue
			}
			if !ok {
				return fmt.Errorf("there is no %q", f.name)
			}
			if err := decode(l, v.Field(f.index)); err != nil {
				return at(f.name, err)
			}
		}
		return nil
	default:
		return fmt.Errorf("%s is no struct, no map by name and no *core.LiteralMap", v.Type())
	}
}

// at says where an error is.
func at(place string, err error) error { return fmt.Errorf("%s: %w", place, err) }

func decodeMap(literals map[string]*core.Literal, v reflect.Value) error {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(literals)))
	for name, l := range literals {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := decode(l, item); err != nil {
			return at(name, err)
		}
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), item)
	}
	return nil
}

// decode sets v to the literal's value.
func decode(l *core.Literal, v reflect.Value) error {
	if v.Type() == literalType {
		v.Set(reflect.ValueOf(l))
		return nil
	}
	for l.GetScalar().GetUnion() != nil {
		l = l.GetScalar().GetUnion().GetValue()
	}
	if l.GetOffloadedMetadata() != nil {
		return fmt.Errorf("it is stored at %s; take it as a *core.Literal and read it from there", l.GetOffloadedMetadata().GetUri())
	}
	if isNone(l) {
		return decodeNone(v)
	}
	if v.Kind() == reflect.Pointer {
		target := reflect.New(v.Type().Elem())
		v.Set(target)
		return decode(l, target.Elem())
	}
	if v.Kind() == reflect.Interface {
		x, err := plain(l)
		if err == nil {
			v.Set(reflect.ValueOf(&x).Elem())
		}
		return err
	}
	// What is a structure in Flyte fills structs, maps and lists alike.
	if s := l.GetScalar(); v.Type() != binaryType && (s.GetGeneric() != nil || s.GetBinary().GetTag() == tagMsgpack) {
		x, err := plain(l)
		if err != nil {
			return err
		}
		return assign(x, v)
	}
	switch v.Kind() {
	case reflect.Slice:
		if l.GetCollection() != nil {
			return decodeList(l.GetCollection().GetLiterals(), v)
		}
	case reflect.Map:
		if l.GetMap() == nil {
			return mismatch(l, v)
		}
		return decodeMap(l.GetMap().GetLiterals(), v)
	}
	x, err := plain(l)
	if err != nil {
		return err
	}
	if _, list := x.([]any); list {
		return mismatch(l, v)
	}
	if t := reflect.TypeOf(x); t == v.Type() {
		v.Set(reflect.ValueOf(x))
		return nil
	}
	if !alike(x, v) || assign(x, v) != nil {
		return mismatch(l, v)
	}
	return nil
}

// alike keeps a literal from becoming a value of another kind, as a time would become text.
func alike(x any, v reflect.Value) bool {
	switch x.(type) {
	case int64:
		return v.CanInt() && v.Type() != durationType || v.CanUint() || v.CanFloat()
	case float64:
		return v.CanFloat()
	case string:
		return v.Kind() == reflect.String
	case bool:
		return v.Kind() == reflect.Bool
	case []byte:
		return v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8
	default:
		return false
	}
}

func decodeList(list []*core.Literal, v reflect.Value) error {
	v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
	for i, l := range list {
		if err := decode(l, v.Index(i)); err != nil {
			return at(fmt.Sprintf("[%d]", i), err)
		}
	}
	return nil
}

func decodeNone(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		v.SetZero()
		return nil
	default:
		return fmt.Errorf("it is None, which a %s cannot be; a *%s can", v.Type(), v.Type())
	}
}

func isNone(l *core.Literal) bool { return l.GetScalar().GetNoneType() != nil }

func mismatch(l *core.Literal, v reflect.Value) error {
	return fmt.Errorf("%s does not fit into %s", kindOf(l), v.Type())
}

func kindOf(l *core.Literal) string {
	switch s := l.GetScalar(); {
	case l.GetCollection() != nil:
		return "a list"
	case l.GetMap() != nil:
		return "a map"
	case s.GetPrimitive() != nil:
		name := fmt.Sprintf("%T", s.GetPrimitive().GetValue())
		return "a literal of kind " + strings.ToLower(name[strings.LastIndex(name, "_")+1:])
	case s != nil:
		name := fmt.Sprintf("%T", s.GetValue())
		return "a literal of kind " + strings.ToLower(name[strings.LastIndex(name, "_")+1:])
	default:
		return "an empty literal"
	}
}

// plain gives a literal as an any takes it.
func plain(l *core.Literal) (any, error) {
	switch k := l.GetValue().(type) {
	case *core.Literal_Collection:
		out := []any{}
		err := decodeList(k.Collection.GetLiterals(), reflect.ValueOf(&out).Elem())
		return out, err
	case *core.Literal_Map:
		out := map[string]any{}
		err := decodeMap(k.Map.GetLiterals(), reflect.ValueOf(&out).Elem())
		return out, err
	case *core.Literal_Scalar:
		return plainScalar(k.Scalar)
	default:
		return nil, errors.New("it is an empty literal")
	}
}

func plainScalar(s *core.Scalar) (any, error) {
	switch k := s.GetValue().(type) {
	case *core.Scalar_Primitive:
		return plainPrimitive(k.Primitive)
	case *core.Scalar_Blob:
		t := k.Blob.GetMetadata().GetType()
		return Blob{k.Blob.GetUri(), t.GetFormat(), t.GetDimensionality() == core.BlobType_MULTIPART}, nil
	case *core.Scalar_StructuredDataset:
		t := k.StructuredDataset.GetMetadata().GetStructuredDatasetType()
		d := Dataset{URI: k.StructuredDataset.GetUri(), Format: t.GetFormat()}
		for _, c := range t.GetColumns() {
			d.Columns = append(d.Columns, Column{c.GetName(), c.GetLiteralType()})
		}
		return d, nil
	case *core.Scalar_Schema:
		return Schema{k.Schema.GetUri(), k.Schema.GetType()}, nil
	case *core.Scalar_Binary:
		switch k.Binary.GetTag() {
		case "":
			return append([]byte{}, k.Binary.GetValue()...), nil // empty is not nil
		case tagMsgpack:
			return unpack(k.Binary.GetValue())
		default:
			return Binary{k.Binary.GetTag(), k.Binary.GetValue()}, nil
		}
	case *core.Scalar_Generic:
		return wholes(k.Generic.AsMap()), nil
	case *core.Scalar_Error:
		return TaskFailure{k.Error.GetFailedNodeId(), k.Error.GetMessage()}, nil
	default:
		return nil, errors.New("it is an empty literal")
	}
}

func plainPrimitive(p *core.Primitive) (any, error) {
	switch k := p.GetValue().(type) {
	case *core.Primitive_Integer:
		return k.Integer, nil
	case *core.Primitive_FloatValue:
		return k.FloatValue, nil
	case *core.Primitive_StringValue:
		return k.StringValue, nil
	case *core.Primitive_Boolean:
		return k.Boolean, nil
	case *core.Primitive_Datetime:
		if err := k.Datetime.CheckValid(); err != nil {
			return nil, errors.New("it is no valid time")
		}
		return k.Datetime.AsTime(), nil
	case *core.Primitive_Duration:
		d := k.Duration.AsDuration()
		if k.Duration.CheckValid() != nil || durationpb.New(d).GetSeconds() != k.Duration.GetSeconds() {
			return nil, errors.New("it is a duration of more than 292 years, which a time.Duration cannot hold")
		}
		return d, nil
	default:
		return nil, errors.New("it is an empty literal")
	}
}

// EncodeOutputs makes literals of a struct, map[string]T or *core.LiteralMap, as the outputs of a job are.
func EncodeOutputs(outputs any) (*core.LiteralMap, error) {
	v := reflect.ValueOf(outputs)
	out := &core.LiteralMap{Literals: map[string]*core.Literal{}}
	switch {
	case !v.IsValid():
		return out, nil
	case v.Type() == literalMapType:
		if v.IsNil() {
			return out, nil
		}
		m, _ := outputs.(*core.LiteralMap)
		return m, nil
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		for it := v.MapRange(); it.Next(); {
			l, err := encode(it.Value())
			if err != nil {
				return nil, at(it.Key().String(), err)
			}
			out.Literals[it.Key().String()] = l
		}
		return out, nil
	case v.Kind() == reflect.Struct:
		fields, err := fieldsOf(v.Type())
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			if out.Literals[f.name], err = encode(v.Field(f.index)); err != nil {
				return nil, at(f.name, err)
			}
		}
		return out, nil
	default:
		return nil, fmt.Errorf("%s is no struct, no map by name and no *core.LiteralMap", v.Type())
	}
}

func scalar(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func primitive(p *core.Primitive) (*core.Literal, error) {
	return scalar(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}}), nil
}

func none() *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
}

// encode makes the literal of a value.
func encode(v reflect.Value) (*core.Literal, error) {
	if !v.IsValid() {
		return none(), nil
	}
	if v.Type() == timeType || stored[v.Type()] {
		return encodeStored(v.Interface())
	}
	if v.Type() == durationType {
		return primitive(&core.Primitive{Value: &core.Primitive_Duration{Duration: durationpb.New(time.Duration(v.Int()))}})
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return none(), nil
		}
		return encode(v.Elem())
	case reflect.Bool:
		return primitive(&core.Primitive{Value: &core.Primitive_Boolean{Boolean: v.Bool()}})
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return nil, errors.New("it is a string that is not UTF-8")
		}
		return primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: v.String()}})
	case reflect.Float32, reflect.Float64:
		return primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: v.Float()}})
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: v.Bytes()}}}), nil
		}
		c := &core.LiteralCollection{Literals: make([]*core.Literal, v.Len())}
		for i := range v.Len() {
			var err error
			if c.Literals[i], err = encode(v.Index(i)); err != nil {
				return nil, at(fmt.Sprintf("[%d]", i), err)
			}
		}
		return &core.Literal{Value: &core.Literal_Collection{Collection: c}}, nil
	case reflect.Map:
		if v.Type().Elem().Kind() == reflect.Interface {
			return encodeStructure(v) // a dict
		}
		m, err := EncodeOutputs(v.Interface())
		return &core.Literal{Value: &core.Literal_Map{Map: m}}, err
	case reflect.Struct:
		return encodeStructure(v) // a dataclass
	default:
		n, err := integer(v)
		if err != nil {
			return nil, err
		}
		return primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: n}})
	}
}

func integer(v reflect.Value) (int64, error) {
	switch {
	case v.CanInt():
		return v.Int(), nil
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint()), nil //nolint:gosec // checked
	case v.CanUint():
		return 0, errors.New("it is an integer of more than 63 bits")
	default:
		return 0, fmt.Errorf("no literal can be made of a %s", v.Type())
	}
}

func encodeStored(x any) (*core.Literal, error) {
	switch x := x.(type) {
	case *core.Literal:
		if x == nil {
			return none(), nil
		}
		return x, nil
	case time.Time:
		ts := timestamppb.New(x)
		if ts.CheckValid() != nil {
			return nil, errors.New("it is a time outside the years 1 to 9999")
		}
		return primitive(&core.Primitive{Value: &core.Primitive_Datetime{Datetime: ts}})
	case Blob:
		t := &core.BlobType{Format: x.Format}
		if x.Folder {
			t.Dimensionality = core.BlobType_MULTIPART
		}
		return scalar(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{Uri: x.URI, Metadata: &core.BlobMetadata{Type: t}}}}), nil
	case Dataset:
		t := &core.StructuredDatasetType{Format: x.Format}
		for _, c := range x.Columns {
			t.Columns = append(t.Columns, &core.StructuredDatasetType_DatasetColumn{Name: c.Name, LiteralType: c.Type})
		}
		return scalar(&core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{
			Uri: x.URI, Metadata: &core.StructuredDatasetMetadata{StructuredDatasetType: t},
		}}}), nil
	case Schema:
		return scalar(&core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: x.URI, Type: x.Type}}}), nil
	case Binary:
		return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Tag: x.Tag, Value: x.Value}}}), nil
	case TaskFailure:
		return scalar(&core.Scalar{Value: &core.Scalar_Error{Error: &core.Error{FailedNodeId: x.FailedNode, Message: x.Message}}}), nil
	default:
		return nil, fmt.Errorf("no literal can be made of a %T", x)
	}
}

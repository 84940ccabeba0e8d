package backendplugin

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

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
				return fmt.Errorf("there is no %q%s", f.name, among(m.GetLiterals()))
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

// among tells which inputs there are, so that one that is called otherwise is found.
func among(literals map[string]*core.Literal) string {
	const most = 20
	names := slices.Sorted(maps.Keys(literals))
	switch {
	case len(names) == 0:
		return "; the task gives none"
	case len(names) > most:
		return fmt.Sprintf(" among the %d that the task gives", len(names))
	}
	return fmt.Sprintf("; the task gives %q", names)
}

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
		return "a literal of kind " + kindName(s.GetPrimitive().GetValue())
	case s != nil:
		return "a literal of kind " + kindName(s.GetValue())
	default:
		return "an empty literal"
	}
}

// kindName is what protobuf calls the member of a oneof: *core.Primitive_FloatValue is a float.
func kindName(member any) string {
	name := fmt.Sprintf("%T", member)
	return strings.TrimSuffix(strings.ToLower(name[strings.LastIndex(name, "_")+1:]), "value")
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

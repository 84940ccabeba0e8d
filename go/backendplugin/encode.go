package backendplugin

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// EncodeOutputs makes literals of a struct, map[string]T or *core.LiteralMap, as the outputs of a job are. Its errors name the
// output and what is wrong with it.
func EncodeOutputs(outputs any) (*core.LiteralMap, error) {
	v := reflect.ValueOf(outputs)
	switch {
	case !v.IsValid():
		return &core.LiteralMap{Literals: map[string]*core.Literal{}}, nil
	case v.Type() == literalMapType:
		if v.IsNil() {
			return &core.LiteralMap{Literals: map[string]*core.Literal{}}, nil
		}
		m, _ := outputs.(*core.LiteralMap)
		return m, nil
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		return encodeMap(v, 0)
	case v.Kind() == reflect.Struct:
		out := &core.LiteralMap{Literals: map[string]*core.Literal{}}
		fields, err := fieldsOf(v.Type())
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			if out.Literals[f.name], err = encode(v.Field(f.index), 0); err != nil {
				return nil, at(f.name, err)
			}
		}
		return out, nil
	default:
		return nil, fmt.Errorf("%s is no struct, no map by name and no *core.LiteralMap", v.Type())
	}
}

func encodeMap(v reflect.Value, depth int) (*core.LiteralMap, error) {
	if v.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("%s has keys that are no strings", v.Type())
	}
	out := &core.LiteralMap{Literals: make(map[string]*core.Literal, v.Len())}
	for it := v.MapRange(); it.Next(); {
		l, err := encode(it.Value(), depth)
		if err != nil {
			return nil, at(it.Key().String(), err)
		}
		out.Literals[it.Key().String()] = l
	}
	return out, nil
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

// encode makes the literal of a value. Values that lead to themselves have no end, and Go's stack cannot be caught when it
// overflows: so depth is bounded.
func encode(v reflect.Value, depth int) (*core.Literal, error) {
	if !v.IsValid() {
		return none(), nil
	}
	if depth > maxDepth {
		return nil, errTooDeep
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
		return encode(v.Elem(), depth+1)
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
			if c.Literals[i], err = encode(v.Index(i), depth+1); err != nil {
				return nil, at(fmt.Sprintf("[%d]", i), err)
			}
		}
		return &core.Literal{Value: &core.Literal_Collection{Collection: c}}, nil
	case reflect.Map:
		if v.Type().Elem().Kind() == reflect.Interface {
			return encodeStructure(v) // a dict
		}
		m, err := encodeMap(v, depth+1)
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

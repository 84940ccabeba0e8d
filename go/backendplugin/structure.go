package backendplugin

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// A structure is a dataclass, pydantic model or dict: one literal, MessagePack since flytekit 1.14 and protobuf's Struct before.
// Between its bytes and Go types it is plain: nil, bool, int64, float64, string, []byte, []any and map[string]any.

// maxDepth bounds how deep structures nest, so that one that leads to itself is an error.
const maxDepth = 100

var errTooDeep = errors.New("it nests too deep")

// decodeStructure fills what into points to from a plain value.
func decodeStructure(x any, into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("%T is no pointer", into)
	}
	return assign(wholes(x), v.Elem())
}

// assign sets v to a plain value.
func assign(x any, v reflect.Value) error {
	if x == nil {
		switch v.Kind() {
		case reflect.Pointer, reflect.Interface, reflect.Slice, reflect.Map:
			v.SetZero()
			return nil
		default:
			return decodeNone(v)
		}
	}
	wrong := fmt.Errorf("%s does not fit into %s", plainKind(x), v.Type())
	switch {
	case v.Type() == timeType:
		s, ok := x.(string)
		t, err := time.Parse(time.RFC3339Nano, s)
		if !ok || err != nil {
			return wrong
		}
		v.Set(reflect.ValueOf(t.UTC()))
		return nil
	case v.Type() == durationType:
		f, ok := float(x)
		if f *= float64(time.Second); !ok || !(math.Abs(f) < math.MaxInt64) {
			return wrong
		}
		v.SetInt(int64(math.Round(f)))
		return nil
	case stored[v.Type()]:
		return notInStructure(v.Type())
	}
	switch v.Kind() {
	case reflect.Interface:
		v.Set(reflect.ValueOf(x))
		return nil
	case reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		v.Set(target)
		return assign(x, target.Elem())
	case reflect.Float32, reflect.Float64:
		if f, ok := float(x); ok && !v.OverflowFloat(f) {
			v.SetFloat(f)
			return nil
		}
	case reflect.String:
		if s, ok := x.(string); ok {
			v.SetString(s)
			return nil
		}
	case reflect.Bool:
		if b, ok := x.(bool); ok {
			v.SetBool(b)
			return nil
		}
	case reflect.Slice:
		return assignSlice(x, v, wrong)
	case reflect.Map:
		m, ok := x.(map[string]any)
		if !ok || v.Type().Key().Kind() != reflect.String {
			return wrong
		}
		v.Set(reflect.MakeMapWithSize(v.Type(), len(m)))
		for key, item := range m {
			target := reflect.New(v.Type().Elem()).Elem()
			if err := assign(item, target); err != nil {
				return at(key, err)
			}
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), target)
		}
		return nil
	case reflect.Struct:
		return assignStruct(x, v, wrong)
	default:
		if n, ok := x.(int64); ok && v.CanInt() && !v.OverflowInt(n) {
			v.SetInt(n)
			return nil
		} else if ok && v.CanUint() && n >= 0 && !v.OverflowUint(uint64(n)) {
			v.SetUint(uint64(n))
			return nil
		}
	}
	return wrong
}

// plainKind names the kind of a plain value as Python does.
func plainKind(x any) string {
	switch x.(type) {
	case bool:
		return "a bool"
	case int64, uint64:
		return "an int"
	case float64:
		return "a float"
	case string:
		return "a string"
	case []byte:
		return "bytes"
	case []any:
		return "a list"
	default:
		return "a dict"
	}
}

func assignSlice(x any, v reflect.Value, wrong error) error {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		switch x := x.(type) {
		case []byte:
			v.SetBytes(x)
			return nil
		case string: // as JSON has bytes
			raw, err := base64.StdEncoding.DecodeString(x)
			if err != nil {
				return wrong
			}
			v.SetBytes(raw)
			return nil
		}
	}
	list, ok := x.([]any)
	if !ok {
		return wrong
	}
	v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
	for i, item := range list {
		if err := assign(item, v.Index(i)); err != nil {
			return at(fmt.Sprintf("[%d]", i), err)
		}
	}
	return nil
}

func assignStruct(x any, v reflect.Value, wrong error) error {
	m, ok := x.(map[string]any)
	if !ok {
		return wrong
	}
	fields, err := fieldsOf(v.Type())
	if err != nil {
		return err
	}
	for _, f := range fields {
		if item, ok := m[f.name]; ok {
			if err := assign(item, v.Field(f.index)); err != nil {
				return at(f.name, err)
			}
		}
	}
	return nil
}

func float(x any) (float64, bool) {
	switch x := x.(type) {
	case float64:
		return x, true
	case int64:
		return float64(x), true
	default:
		return 0, false
	}
}

// flatten makes a value plain.
func flatten(v reflect.Value, depth int) (any, error) {
	switch {
	case depth > maxDepth:
		return nil, errTooDeep
	case !v.IsValid():
		return nil, nil //nolint:nilnil // null is a value
	case v.Type() == timeType:
		t, _ := v.Interface().(time.Time)
		return t.UTC().Format(time.RFC3339Nano), nil
	case v.Type() == durationType:
		return time.Duration(v.Int()).Seconds(), nil
	case stored[v.Type()]:
		return nil, notInStructure(v.Type())
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil, nil //nolint:nilnil // null is a value
		}
		return flatten(v.Elem(), depth+1)
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Float32, reflect.Float64:
		return v.Float(), nil
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return nil, errors.New("it is a string that is not UTF-8")
		}
		return v.String(), nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Bytes(), nil
		}
		out := make([]any, v.Len())
		for i := range v.Len() {
			var err error
			if out[i], err = flatten(v.Index(i), depth+1); err != nil {
				return nil, at(fmt.Sprintf("[%d]", i), err)
			}
		}
		return out, nil
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String {
			return nil, fmt.Errorf("%s has keys that are no strings", v.Type())
		}
		out := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			item, err := flatten(it.Value(), depth+1)
			if err != nil {
				return nil, at(it.Key().String(), err)
			}
			out[it.Key().String()] = item
		}
		return out, nil
	case reflect.Struct:
		fields, err := fieldsOf(v.Type())
		if err != nil {
			return nil, err
		}
		out := make(map[string]any, len(fields))
		for _, f := range fields {
			if out[f.name], err = flatten(v.Field(f.index), depth+1); err != nil {
				return nil, at(f.name, err)
			}
		}
		return out, nil
	default:
		return integer(v)
	}
}

func encodeStructure(v reflect.Value) (*core.Literal, error) {
	x, err := flatten(v, 0)
	if err != nil {
		return nil, err
	}
	return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Tag: tagMsgpack, Value: pack(nil, x)}}}), nil
}

// encodeStruct makes protobuf's Struct of a struct or map. It is there to be shown, as JSON, which has no NaN and no infinity: they
// become text, as protobuf writes them elsewhere.
func encodeStruct(info any) (*structpb.Struct, error) {
	x, err := flatten(reflect.ValueOf(info), 0)
	if err != nil {
		return nil, err
	}
	m, ok := x.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a %T is no struct and no map", info)
	}
	spell(m)
	return structpb.NewStruct(m)
}

func spell(x any) any {
	switch x := x.(type) {
	case map[string]any:
		for k, item := range x {
			x[k] = spell(item)
		}
	case []any:
		for i, item := range x {
			x[i] = spell(item)
		}
	case float64:
		switch {
		case math.IsNaN(x):
			return "NaN"
		case math.IsInf(x, 1):
			return "Infinity"
		case math.IsInf(x, -1):
			return "-Infinity"
		}
	}
	return x
}

// wholes gives whole numbers as integers: protobuf's Struct has floats only, and does not tell.
func wholes(x any) any {
	switch x := x.(type) {
	case map[string]any:
		for k, item := range x {
			x[k] = wholes(item)
		}
	case []any:
		for i, item := range x {
			x[i] = wholes(item)
		}
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return int64(x)
		}
	}
	return x
}

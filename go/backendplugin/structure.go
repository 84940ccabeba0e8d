package backendplugin

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/shamaton/msgpack/v2"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// A structure is a dataclass, pydantic model or dict: one literal, MessagePack since flytekit 1.14 and protobuf's Struct before.
// Between its bytes and Go types it is plain: nil, bool, int64, float64, string, []byte, []any and map[string]any.

// maxDepth bounds how deep structures nest, so that one that leads to itself is an error.
const maxDepth = 100

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
	wrong := fmt.Errorf("a %T does not fit into %s", x, v.Type())
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
		return fmt.Errorf("a %s is no part of a structure", v.Type())
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
		if f, ok := float(x); ok {
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
		return nil, errors.New("it nests too deep")
	case !v.IsValid():
		return nil, nil //nolint:nilnil // null is a value
	case v.Type() == timeType:
		t, _ := v.Interface().(time.Time)
		return t.UTC().Format(time.RFC3339Nano), nil
	case v.Type() == durationType:
		return time.Duration(v.Int()).Seconds(), nil
	case stored[v.Type()]:
		return nil, fmt.Errorf("a %s is no part of a structure", v.Type())
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
	var b bytes.Buffer
	if err := pack(&b, x); err != nil {
		return nil, err
	}
	return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Tag: tagMsgpack, Value: b.Bytes()}}}), nil
}

// encodeStruct makes protobuf's Struct of a struct or map.
func encodeStruct(info any) (*structpb.Struct, error) {
	x, err := flatten(reflect.ValueOf(info), 0)
	if err != nil {
		return nil, err
	}
	m, ok := x.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a %T is no struct and no map", info)
	}
	return structpb.NewStruct(m)
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

// pack writes MessagePack with the keys of maps sorted, so that the same value has the same bytes: Flyte's cache goes by them.
func pack(b *bytes.Buffer, x any) error {
	switch x := x.(type) {
	case map[string]any:
		head(b, len(x), 0x80, 15, 0, 0xde, 0xdf)
		for _, k := range slices.Sorted(maps.Keys(x)) {
			if err := pack(b, k); err != nil {
				return err
			}
			if err := pack(b, x[k]); err != nil {
				return err
			}
		}
	case []any:
		head(b, len(x), 0x90, 15, 0, 0xdc, 0xdd)
		for _, item := range x {
			if err := pack(b, item); err != nil {
				return err
			}
		}
	case string:
		head(b, len(x), 0xa0, 31, 0xd9, 0xda, 0xdb)
		b.WriteString(x)
	default:
		raw, err := msgpack.Marshal(x)
		if err != nil {
			return err
		}
		b.Write(raw)
	}
	return nil
}

// head writes the kind and length of what follows, in the shortest form; one of no 8-bit form has none.
func head(b *bytes.Buffer, n int, fix byte, fits int, bits8, bits16, bits32 byte) {
	switch {
	case n <= fits:
		b.WriteByte(fix | byte(n)) //nolint:gosec // at most 31
	case n <= math.MaxUint8 && bits8 != 0:
		b.Write([]byte{bits8, byte(n)}) //nolint:gosec // checked
	case n <= math.MaxUint16:
		b.Write(binary.BigEndian.AppendUint16([]byte{bits16}, uint16(n))) //nolint:gosec // checked
	default:
		b.Write(binary.BigEndian.AppendUint32([]byte{bits32}, uint32(n))) //nolint:gosec // memory would not hold more
	}
}

func unpack(raw []byte) (any, error) {
	var x any
	if err := msgpack.Unmarshal(raw, &x); err != nil {
		return nil, errors.New("it is no valid MessagePack")
	}
	return tidy(x), nil
}

// tidy makes plain what the MessagePack reader gives.
func tidy(x any) any {
	switch x := x.(type) {
	case map[any]any:
		out := make(map[string]any, len(x))
		for k, item := range x {
			out[fmt.Sprint(k)] = tidy(item)
		}
		return out
	case map[string]any:
		for k, item := range x {
			x[k] = tidy(item)
		}
		return x
	case []any:
		for i, item := range x {
			x[i] = tidy(item)
		}
		return x
	case time.Time:
		return x.UTC().Format(time.RFC3339Nano)
	case float32:
		return float64(x)
	}
	switch v := reflect.ValueOf(x); {
	case v.CanInt():
		return v.Int()
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint()) //nolint:gosec // checked
	default:
		return x
	}
}

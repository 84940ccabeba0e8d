package literals

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/shamaton/msgpack/v2"
)

// packed is MessagePack with the keys of mappings sorted, so that the same value has the same bytes: Flyte's cache goes by
// them. A library would take them as they come.
func packed(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := pack(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func pack(b *bytes.Buffer, v any) error {
	switch v := v.(type) {
	case map[string]any:
		head(b, len(v), 0x80, 15, 0, 0xde, 0xdf)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			_ = pack(b, k) // a string can be packed
			if err := pack(b, v[k]); err != nil {
				return err
			}
		}
	case []any:
		head(b, len(v), 0x90, 15, 0, 0xdc, 0xdd)
		for _, item := range v {
			if err := pack(b, item); err != nil {
				return err
			}
		}
	case string:
		head(b, len(v), 0xa0, 31, 0xd9, 0xda, 0xdb)
		b.WriteString(v)
	case float64:
		b.WriteByte(0xcb)
		b.Write(binary.BigEndian.AppendUint64(nil, math.Float64bits(v)))
	case nil, bool, int64:
		raw, err := msgpack.Marshal(v)
		if err != nil {
			return err
		}
		b.Write(raw)
	default:
		return fmt.Errorf("%s cannot be part of a structure", show(v))
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

// unpacked gives plain values.
func unpacked(raw []byte) (any, error) {
	var v any
	if err := msgpack.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	return plainOf(v), nil
}

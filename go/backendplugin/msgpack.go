package backendplugin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// pack appends MessagePack of a plain value, in the shortest form, as Python's msgpack writes it, and with the keys of maps
// sorted, so that the same value has the same bytes: Flyte's cache goes by them.
func pack(b []byte, x any) []byte {
	switch x := x.(type) {
	case nil:
		return append(b, 0xc0)
	case bool:
		if x {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case int64:
		return packInteger(b, x)
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(x))
	case string:
		return append(head(b, len(x), 0xa0, 32, 0xd9, 0xda, 0xdb), x...)
	case []byte:
		return append(head(b, len(x), 0, 0, 0xc4, 0xc5, 0xc6), x...)
	case []any:
		b = head(b, len(x), 0x90, 16, 0, 0xdc, 0xdd)
		for _, item := range x {
			b = pack(b, item)
		}
		return b
	case map[string]any:
		b = head(b, len(x), 0x80, 16, 0, 0xde, 0xdf)
		for _, k := range slices.Sorted(maps.Keys(x)) {
			b = pack(pack(b, k), x[k])
		}
		return b
	default:
		panic(fmt.Sprintf("a %T is not plain", x)) // flatten gives no other
	}
}

//nolint:gosec // every conversion is in a case that checks it
func packInteger(b []byte, n int64) []byte {
	switch {
	case n >= -32 && n <= math.MaxInt8:
		return append(b, byte(n))
	case n >= 0 && n <= math.MaxUint8:
		return append(b, 0xcc, byte(n))
	case n >= 0 && n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(n))
	case n >= 0 && n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
	case n >= 0:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), uint64(n))
	case n >= math.MinInt8:
		return append(b, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
	}
}

// head appends the kind and length of what follows: in one byte when it is below fits, and in an 8-bit form if there is one.
//
//nolint:gosec // every conversion is in a case that checks it
func head(b []byte, n int, fix byte, fits int, bits8, bits16, bits32 byte) []byte {
	switch {
	case n < fits:
		return append(b, fix|byte(n))
	case n <= math.MaxUint8 && bits8 != 0:
		return append(b, bits8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, bits16), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(b, bits32), uint32(n))
	}
}

var errMsgpack = errors.New("it is no valid MessagePack")

// unpack gives the plain value of MessagePack. It comes over the network, so what it says of lengths is not believed, and how
// deep it nests is bounded: Go's stack cannot be caught when it overflows.
func unpack(raw []byte) (any, error) {
	r := reader{raw}
	x, err := r.value(0)
	if err == nil && len(r.rest) > 0 {
		err = errMsgpack
	}
	return x, err
}

type reader struct{ rest []byte }

func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || n > len(r.rest) {
		return nil, errMsgpack
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b, nil
}

// number reads a big-endian number of 1, 2, 4 or 8 bytes.
func (r *reader) number(bytes int) (uint64, error) {
	b, err := r.take(bytes)
	n := uint64(0)
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n, err
}

// sized reads a length of so many bytes, then as many bytes as it says, and extra ones.
func (r *reader) sized(bytes, extra int) ([]byte, error) {
	n, err := r.number(bytes)
	if err != nil {
		return nil, err
	}
	return r.take(int(n) + extra) //nolint:gosec // at most 32 bits
}

//nolint:gosec // the conversions are what the format means: a number's sign is in its kind
func (r *reader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	first, err := r.take(1)
	if err != nil {
		return nil, err
	}
	switch c := first[0]; {
	case c <= 0x7f || c >= 0xe0:
		return int64(int8(c)), nil
	case c <= 0x8f:
		return r.mapping(int(c&0x0f), depth)
	case c <= 0x9f:
		return r.list(int(c&0x0f), depth)
	case c <= 0xbf:
		b, err := r.take(int(c & 0x1f))
		return string(b), err
	case c == 0xc0:
		return nil, nil //nolint:nilnil // null is a value
	case c == 0xc2 || c == 0xc3:
		return c == 0xc3, nil
	case c >= 0xc4 && c <= 0xc6:
		b, err := r.sized(1<<(c-0xc4), 0)
		return append([]byte{}, b...), err
	case c >= 0xc7 && c <= 0xc9:
		b, err := r.sized(1<<(c-0xc7), 1)
		return extension(b, err)
	case c == 0xca:
		n, err := r.number(4)
		return float64(math.Float32frombits(uint32(n))), err
	case c == 0xcb:
		n, err := r.number(8)
		return math.Float64frombits(n), err
	case c >= 0xcc && c <= 0xcf:
		n, err := r.number(1 << (c - 0xcc))
		if n > math.MaxInt64 {
			return n, err
		}
		return int64(n), err
	case c >= 0xd0 && c <= 0xd3:
		bytes := 1 << (c - 0xd0)
		n, err := r.number(bytes)
		unused := 64 - 8*bytes
		return int64(n<<unused) >> unused, err
	case c >= 0xd4 && c <= 0xd8:
		b, err := r.take(1<<(c-0xd4) + 1)
		return extension(b, err)
	case c >= 0xd9 && c <= 0xdb:
		b, err := r.sized(1<<(c-0xd9), 0)
		return string(b), err
	case c == 0xdc || c == 0xdd:
		n, err := r.number(2 << (c - 0xdc))
		if err != nil {
			return nil, err
		}
		return r.list(int(n), depth)
	case c == 0xde || c == 0xdf:
		n, err := r.number(2 << (c - 0xde))
		if err != nil {
			return nil, err
		}
		return r.mapping(int(n), depth)
	default:
		return nil, errMsgpack
	}
}

func (r *reader) list(n, depth int) (any, error) {
	if n > len(r.rest) { // an item takes a byte at least
		return nil, errMsgpack
	}
	out := make([]any, n)
	for i := range out {
		var err error
		if out[i], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mapping makes keys text, as they are in a dict of a workflow that other languages can read.
func (r *reader) mapping(n, depth int) (any, error) {
	if n > len(r.rest)/2 {
		return nil, errMsgpack
	}
	out := make(map[string]any, n)
	for range n {
		key, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if out[fmt.Sprint(key)], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// extension reads the one that MessagePack defines, a time (-1), as text; b is its kind and its content.
//
//nolint:gosec // the conversions are what the format means
func extension(b []byte, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if len(b) == 0 || b[0] != 0xff {
		return nil, errors.New("it has a MessagePack extension that is no time")
	}
	var t time.Time
	switch b := b[1:]; len(b) {
	case 4:
		t = time.Unix(int64(binary.BigEndian.Uint32(b)), 0)
	case 8:
		n := binary.BigEndian.Uint64(b)
		t = time.Unix(int64(n&(1<<34-1)), int64(n>>34))
	case 12:
		t = time.Unix(int64(binary.BigEndian.Uint64(b[4:])), int64(binary.BigEndian.Uint32(b)))
	default:
		return nil, errMsgpack
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

package sqlite

import (
	"encoding/hex"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// kindOf is what a column is in Parquet. Every column may hold nulls.
type kindOf int

const (
	kindString kindOf = iota
	kindInteger
	kindDouble
	kindBytes
)

func (k kindOf) node() parquet.Node {
	switch k {
	case kindInteger:
		return parquet.Optional(parquet.Leaf(parquet.Int64Type))
	case kindDouble:
		return parquet.Optional(parquet.Leaf(parquet.DoubleType))
	case kindBytes:
		return parquet.Optional(parquet.Leaf(parquet.ByteArrayType))
	default: // kindString, which has room for every value
		return parquet.Optional(parquet.String())
	}
}

func (k kindOf) schemaType() core.SchemaType_SchemaColumn_SchemaColumnType {
	switch k {
	case kindInteger:
		return core.SchemaType_SchemaColumn_INTEGER
	case kindDouble:
		return core.SchemaType_SchemaColumn_FLOAT
	default: // kindString, and kindBytes, for which there is none
		return core.SchemaType_SchemaColumn_STRING
	}
}

func (k kindOf) simpleType() core.SimpleType {
	switch k {
	case kindInteger:
		return core.SimpleType_INTEGER
	case kindDouble:
		return core.SimpleType_FLOAT
	case kindBytes:
		return core.SimpleType_BINARY
	default: // kindString, which has room for every value
		return core.SimpleType_STRING
	}
}

// kinds decides each column's type: that of its values if they agree, double for whole and broken numbers together
// (as long as no whole number is too large for a double), else string. A column without values has the type that
// SQLite's rules of affinity give its declaration.
func (t *table) kinds() []kindOf {
	kinds := make([]kindOf, len(t.columns))
	for i, c := range t.columns {
		var ints, bigInts, doubles, strs, blobs bool
		for _, row := range t.rows {
			switch v := row[i].(type) {
			case int64:
				ints = true
				bigInts = bigInts || v > 1<<53 || v < -1<<53
			case float64:
				doubles = true
			case string:
				strs = true
			case []byte:
				blobs = true
			}
		}
		switch {
		case !ints && !doubles && !strs && !blobs:
			kinds[i] = affinity(c.declared)
		case ints && !doubles && !strs && !blobs:
			kinds[i] = kindInteger
		case doubles && !bigInts && !strs && !blobs:
			kinds[i] = kindDouble
		case blobs && !ints && !doubles && !strs:
			kinds[i] = kindBytes
		}
	}
	return kinds
}

func affinity(declared string) kindOf {
	has := func(part string) bool { return strings.Contains(declared, part) }
	switch {
	case has("INT"):
		return kindInteger
	case has("BLOB"):
		return kindBytes
	case has("REAL"), has("FLOA"), has("DOUB"):
		return kindDouble
	}
	return kindString
}

// value writes a value as a column of kind k has it.
func (k kindOf) value(v any) parquet.Value {
	switch v := v.(type) {
	case nil:
		return parquet.NullValue()
	case int64:
		switch k {
		case kindInteger:
			return parquet.Int64Value(v)
		case kindDouble:
			return parquet.DoubleValue(float64(v))
		default: // kindString: its text, below; kindBytes has no numbers, see kinds
		}
	case float64:
		if k == kindDouble {
			return parquet.DoubleValue(v)
		}
	case []byte:
		if k == kindBytes {
			return parquet.ByteArrayValue(v)
		}
	}
	return parquet.ByteArrayValue([]byte(text(v)))
}

// text is a value in a column of strings. Parquet's strings are UTF-8, and SQLite's need not be.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return strings.ToValidUTF8(v, "\uFFFD")
	case []byte:
		if utf8.Valid(v) {
			return string(v)
		}
		return "X'" + strings.ToUpper(hex.EncodeToString(v)) + "'"
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return strconv.FormatFloat(v.(float64), 'g', -1, 64)
}

// ordered is a group that keeps its columns' order; parquet.Group sorts them by name.
type ordered struct {
	parquet.Group
	fields []parquet.Field
}

func (o ordered) Fields() []parquet.Field { return o.fields }

type field struct {
	parquet.Node
	name string
}

func (f field) Name() string { return f.name }

// Value is for writers of Go structs; rows of values, which we write, never ask for it.
func (f field) Value(base reflect.Value) reflect.Value { return base }

func writeParquet(w io.Writer, t *table, kinds []kindOf) error {
	root := ordered{Group: parquet.Group{}}
	for i, c := range t.columns {
		root.fields = append(root.fields, field{kinds[i].node(), c.name})
	}
	config, err := parquet.NewWriterConfig(parquet.NewSchema("result", root), parquet.Compression(&parquet.Snappy),
		parquet.CreatedBy("flyte-backend sqlite example", "v1", ""))
	if err != nil {
		return fmt.Errorf("set up the writer: %w", err)
	}
	pw := parquet.NewGenericWriter[any](w, config)
	row := make(parquet.Row, len(t.columns))
	for _, values := range t.rows {
		for i, v := range values {
			defined := 1
			if v == nil {
				defined = 0
			}
			row[i] = kinds[i].value(v).Level(0, defined, i)
		}
		if _, err := pw.WriteRows([]parquet.Row{row}); err != nil {
			return fmt.Errorf("write a row: %w", err)
		}
	}
	if err := pw.Close(); err != nil {
		return fmt.Errorf("finish the file: %w", err)
	}
	return nil
}

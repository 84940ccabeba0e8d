package history

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shamaton/msgpack/v2"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Text writes a literal for people, on one line of at most limit characters; a limit of 0 or less is none. What was cut
// off ends in an ellipsis.
func Text(l *core.Literal, limit int) string {
	w := writer{limit: limit}
	w.literal(l, 0)
	return w.done()
}

// CustomText writes a plugin's custom info for people, as Text does.
func CustomText(s *structpb.Struct, limit int) string {
	w := writer{limit: limit}
	w.json(s.AsMap())
	return w.done()
}

// writer stops early: a literal may hold a million numbers.
type writer struct {
	b     strings.Builder
	limit int
	runes int
}

func (w *writer) full() bool { return w.limit > 0 && w.runes > w.limit }

func (w *writer) put(s string) {
	if w.full() {
		return
	}
	if w.limit > 0 && len(s) > 4*(w.limit+1) {
		s = s[:4*(w.limit+1)] // enough for the limit, whatever the characters; done cleans up a split one
	}
	w.runes += utf8.RuneCountInString(s)
	w.b.WriteString(s)
}

func (w *writer) done() string { return Shorten(w.b.String(), w.limit) }

// Shorten cuts a text to at most limit characters, the last of which is then an ellipsis.
func Shorten(s string, limit int) string {
	s = strings.ToValidUTF8(s, "�")
	if limit <= 0 || utf8.RuneCountInString(s) <= limit {
		return s
	}
	n := 0
	for i := range s {
		if n++; n == limit {
			return s[:i] + "…"
		}
	}
	return s
}

func (w *writer) literal(l *core.Literal, depth int) {
	switch v := l.GetValue().(type) {
	case *core.Literal_Scalar:
		w.scalar(v.Scalar, depth)
	case *core.Literal_Collection:
		w.put("[")
		for i, e := range v.Collection.GetLiterals() {
			if w.full() {
				return
			}
			if i > 0 {
				w.put(", ")
			}
			w.literal(e, depth+1)
		}
		w.put("]")
	case *core.Literal_Map:
		w.put("{")
		for i, k := range slices.Sorted(maps.Keys(v.Map.GetLiterals())) {
			if w.full() {
				return
			}
			if i > 0 {
				w.put(", ")
			}
			w.put(k + ": ")
			w.literal(v.Map.GetLiterals()[k], depth+1)
		}
		w.put("}")
	case *core.Literal_OffloadedMetadata:
		w.put(fmt.Sprintf("%s (%s, kept apart)", v.OffloadedMetadata.GetUri(), bytesText(v.OffloadedMetadata.GetSizeBytes())))
	default:
		w.put("none")
	}
}

func (w *writer) scalar(s *core.Scalar, depth int) {
	switch v := s.GetValue().(type) {
	case *core.Scalar_Primitive:
		w.primitive(v.Primitive, depth)
	case *core.Scalar_Blob:
		w.uri(v.Blob.GetUri())
	case *core.Scalar_Schema:
		w.uri(v.Schema.GetUri())
	case *core.Scalar_StructuredDataset:
		w.uri(v.StructuredDataset.GetUri())
	case *core.Scalar_Union:
		w.literal(v.Union.GetValue(), depth)
	case *core.Scalar_Generic:
		w.json(v.Generic.AsMap())
	case *core.Scalar_Binary:
		w.binary(v.Binary)
	case *core.Scalar_Error:
		w.put("error: " + v.Error.GetMessage())
	default:
		w.put("none")
	}
}

func (w *writer) uri(s string) {
	if s == "" {
		s = "(no address)"
	}
	w.put(s)
}

func (w *writer) primitive(p *core.Primitive, depth int) {
	switch v := p.GetValue().(type) {
	case *core.Primitive_Integer:
		w.put(strconv.FormatInt(v.Integer, 10))
	case *core.Primitive_FloatValue:
		w.put(floatText(v.FloatValue))
	case *core.Primitive_StringValue:
		// A text by itself is shown as it is; between others its ends must be seen.
		if depth == 0 && v.StringValue != "" && !strings.ContainsAny(v.StringValue, "\n\r\t") {
			w.put(v.StringValue)
			return
		}
		text := v.StringValue
		if w.limit > 0 {
			text = Shorten(text, 2*w.limit)
		}
		w.put(strconv.Quote(text))
	case *core.Primitive_Boolean:
		w.put(strconv.FormatBool(v.Boolean))
	case *core.Primitive_Datetime:
		w.put(v.Datetime.AsTime().UTC().Format(time.RFC3339Nano))
	case *core.Primitive_Duration:
		w.put(v.Duration.AsDuration().String())
	default:
		w.put("none")
	}
}

// floatText keeps the point, so that a float is not taken for an int.
func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if math.Abs(f) < 1e15 && math.Abs(f) >= 1e-4 || f == 0 {
		s = strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
	}
	return s
}

func (w *writer) json(v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		w.put(fmt.Sprint(v))
		return
	}
	w.put(string(raw))
}

// maxBinary bounds what is decoded only to be looked at.
const maxBinary = 64 << 10

// binary shows flytekit's dataclasses and dicts, which travel as MessagePack.
func (w *writer) binary(b *core.Binary) {
	if b.GetTag() == "msgpack" && len(b.GetValue()) <= maxBinary {
		var v any
		if err := msgpack.Unmarshal(b.GetValue(), &v); err == nil {
			w.json(jsonable(v, 0))
			return
		}
	}
	kind := b.GetTag()
	if kind == "" {
		kind = "binary"
	}
	head := b.GetValue()
	if len(head) > 12 {
		head = head[:12]
	}
	w.put(fmt.Sprintf("%s, %s: %s…", kind, bytesText(uint64(len(b.GetValue()))), base64.StdEncoding.EncodeToString(head)))
}

// jsonable turns maps with any keys into maps that JSON can have.
func jsonable(v any, depth int) any {
	if depth > maxDepth {
		return "…"
	}
	switch v := v.(type) {
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[fmt.Sprint(k)] = jsonable(e, depth+1)
		}
		return out
	case []any:
		for i := range v {
			v[i] = jsonable(v[i], depth+1)
		}
		return v
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
		return v
	default:
		return v
	}
}

func bytesText(n uint64) string {
	switch {
	case n < 1024:
		return strconv.FormatUint(n, 10) + " B"
	case n < 1024*1024:
		return strconv.FormatFloat(float64(n)/1024, 'f', 1, 64) + " KiB"
	default:
		return strconv.FormatFloat(float64(n)/(1024*1024), 'f', 1, 64) + " MiB"
	}
}

var simpleTypes = map[core.SimpleType]string{
	core.SimpleType_NONE: "none", core.SimpleType_INTEGER: "int", core.SimpleType_FLOAT: "float", core.SimpleType_STRING: "str",
	core.SimpleType_BOOLEAN: "bool", core.SimpleType_DATETIME: "datetime", core.SimpleType_DURATION: "timedelta",
	core.SimpleType_BINARY: "binary", core.SimpleType_ERROR: "error", core.SimpleType_STRUCT: "dict",
}

// TypeText names a type as Python does.
func TypeText(t *core.LiteralType) string {
	switch v := t.GetType().(type) {
	case *core.LiteralType_Simple:
		return simpleTypes[v.Simple]
	case *core.LiteralType_CollectionType:
		return "list[" + TypeText(v.CollectionType) + "]"
	case *core.LiteralType_MapValueType:
		return "dict[str, " + TypeText(v.MapValueType) + "]"
	case *core.LiteralType_UnionType:
		var names []string
		for _, u := range v.UnionType.GetVariants() {
			names = append(names, TypeText(u))
		}
		return strings.Join(names, " | ")
	case *core.LiteralType_EnumType:
		return "one of " + strings.Join(v.EnumType.GetValues(), ", ")
	case *core.LiteralType_StructuredDatasetType:
		return "dataset"
	case *core.LiteralType_Schema:
		return "schema"
	case *core.LiteralType_Blob:
		return "file"
	default:
		return "any"
	}
}

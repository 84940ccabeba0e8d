package literals

import (
	"encoding/base64"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"gopkg.in/yaml.v3"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Float is a float64 that is written so that it can be told from an integer.
type Float float64

// MarshalJSON writes a number, or text for what JSON has no number for.
func (f Float) MarshalJSON() ([]byte, error) {
	if v := float64(f); math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte(`"` + formatFloat(v) + `"`), nil
	}
	return []byte(formatFloat(float64(f))), nil
}

// MarshalYAML writes a number.
func (f Float) MarshalYAML() (any, error) {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: formatFloat(float64(f))}, nil
}

// PlainMap is Plain for each of the literals.
func PlainMap(m *core.LiteralMap) map[string]any {
	out := make(map[string]any, len(m.GetLiterals()))
	for name, l := range m.GetLiterals() {
		out[name] = Plain(l)
	}
	return out
}

// Plain gives a literal as a value that YAML and JSON can write, and that From reads again: files, folders and tables are
// their URIs, times and durations text.
func Plain(l *core.Literal) any {
	switch v := l.GetValue().(type) {
	case *core.Literal_Collection:
		out := make([]any, 0, len(v.Collection.GetLiterals()))
		for _, item := range v.Collection.GetLiterals() {
			out = append(out, Plain(item))
		}
		return out
	case *core.Literal_Map:
		return PlainMap(v.Map)
	case *core.Literal_OffloadedMetadata:
		return map[string]any{"uri": v.OffloadedMetadata.GetUri(), "bytes": v.OffloadedMetadata.GetSizeBytes()}
	}
	switch s := l.GetScalar().GetValue().(type) {
	case *core.Scalar_Primitive:
		return plainPrimitive(s.Primitive)
	case *core.Scalar_Union:
		return Plain(s.Union.GetValue())
	case *core.Scalar_Blob:
		return s.Blob.GetUri()
	case *core.Scalar_Schema:
		return s.Schema.GetUri()
	case *core.Scalar_StructuredDataset:
		t := s.StructuredDataset.GetMetadata().GetStructuredDatasetType()
		if f := t.GetFormat(); f != "" && f != "parquet" {
			return map[string]any{"uri": s.StructuredDataset.GetUri(), "format": f}
		}
		return s.StructuredDataset.GetUri()
	case *core.Scalar_Binary:
		if s.Binary.GetTag() == tagMsgpack {
			if v, err := unpacked(s.Binary.GetValue()); err == nil {
				return v
			}
		}
		return base64.StdEncoding.EncodeToString(s.Binary.GetValue())
	case *core.Scalar_Generic:
		return plainStruct(s.Generic)
	case *core.Scalar_Error:
		return map[string]any{"message": s.Error.GetMessage(), "failedNode": s.Error.GetFailedNodeId()}
	default:
		return nil
	}
}

func plainPrimitive(p *core.Primitive) any {
	switch v := p.GetValue().(type) {
	case *core.Primitive_Integer:
		return v.Integer
	case *core.Primitive_FloatValue:
		return Float(v.FloatValue)
	case *core.Primitive_StringValue:
		return v.StringValue
	case *core.Primitive_Boolean:
		return v.Boolean
	case *core.Primitive_Datetime:
		return v.Datetime.AsTime().Format(time.RFC3339Nano)
	case *core.Primitive_Duration:
		return formatDuration(v.Duration)
	default:
		return nil
	}
}

// plainStruct gives whole numbers as integers: protobuf has floats only, and JSON, which it stands for, does not tell.
func plainStruct(s *structpb.Struct) any {
	return wholes(s.AsMap())
}

func wholes(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			v[k] = wholes(item)
		}
	case []any:
		for i, item := range v {
			v[i] = wholes(item)
		}
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v)
		}
		return Float(v)
	}
	return v
}

// plainOf cleans up what the MessagePack reader gives.
func plainOf(v any) any {
	switch v := v.(type) {
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[fmt.Sprint(k)] = plainOf(item)
		}
		return out
	case map[string]any:
		for k, item := range v {
			v[k] = plainOf(item)
		}
		return v
	case []any:
		for i, item := range v {
			v[i] = plainOf(item)
		}
		return v
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case float64:
		return Float(v)
	case float32:
		return Float(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	default:
		return v
	}
}

package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// mismatch says how outputs do not fit the declared variables; empty when they do.
func mismatch(declared map[string]*core.Variable, outputs map[string]*core.Literal) string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		l, want := outputs[name], declared[name].GetType()
		switch {
		case l == nil:
			wrong = append(wrong, name+" is missing")
		case !fits(l, want):
			wrong = append(wrong, fmt.Sprintf("%s is {%s}, which is no %s", name, short(l.String()), short(want.String())))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		if declared[name] == nil {
			wrong = append(wrong, name+" is not declared")
		}
	}
	return strings.Join(wrong, "; ")
}

// fits says whether a value can be of a type. Only what propeller refuses for certain does not: what a literal does not show of its
// type, such as a dataclass in binary, may be of any.
func fits(l *core.Literal, want *core.LiteralType) bool {
	switch t := want.GetType().(type) {
	case *core.LiteralType_CollectionType:
		return l.GetScalar() == nil && l.GetMap() == nil &&
			!slices.ContainsFunc(l.GetCollection().GetLiterals(), func(item *core.Literal) bool { return !fits(item, t.CollectionType) })
	case *core.LiteralType_MapValueType:
		for _, item := range l.GetMap().GetLiterals() {
			if !fits(item, t.MapValueType) {
				return false
			}
		}
		return l.GetScalar() == nil && l.GetCollection() == nil
	case *core.LiteralType_Simple:
		return l.GetCollection() == nil && l.GetMap() == nil && isSimple(l.GetScalar(), t.Simple)
	}
	return true
}

func isSimple(s *core.Scalar, want core.SimpleType) bool {
	var is core.SimpleType
	switch s.GetPrimitive().GetValue().(type) {
	case *core.Primitive_Integer:
		is = core.SimpleType_INTEGER
	case *core.Primitive_FloatValue:
		is = core.SimpleType_FLOAT
	case *core.Primitive_StringValue:
		is = core.SimpleType_STRING
	case *core.Primitive_Boolean:
		is = core.SimpleType_BOOLEAN
	case *core.Primitive_Datetime:
		is = core.SimpleType_DATETIME
	case *core.Primitive_Duration:
		is = core.SimpleType_DURATION
	default:
		return true
	}
	return is == want
}

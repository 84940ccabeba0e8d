package sqlite

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// timeLayout is how SQLite's own functions write a time; it is always in UTC, as theirs is.
const timeLayout = "2006-01-02 15:04:05.999999"

// scalar turns an input into what SQLite stores: nil, int64, float64 or string. A truth value is 1 or 0, a time is
// text as SQLite's datetime() writes it, and a duration is a number of seconds.
func scalar(name string, inputs map[string]*core.Literal) (any, error) {
	lit, ok := inputs[name]
	if !ok {
		return nil, fmt.Errorf("inputs.%s: the query uses it and there is no such input; there is %s", name, list(slices.Sorted(maps.Keys(inputs))))
	}
	// An optional input arrives as a union round the value.
	for lit.GetScalar().GetUnion() != nil {
		lit = lit.GetScalar().GetUnion().GetValue()
	}
	if lit.GetScalar().GetNoneType() != nil {
		return nil, nil //nolint:nilnil // nil is the value: it is how Go's database drivers write NULL
	}
	switch v := lit.GetScalar().GetPrimitive().GetValue().(type) {
	case *core.Primitive_Integer:
		return v.Integer, nil
	case *core.Primitive_FloatValue:
		return v.FloatValue, nil
	case *core.Primitive_StringValue:
		return v.StringValue, nil
	case *core.Primitive_Boolean:
		if v.Boolean {
			return int64(1), nil
		}
		return int64(0), nil
	case *core.Primitive_Datetime:
		return v.Datetime.AsTime().UTC().Format(timeLayout), nil
	case *core.Primitive_Duration:
		return v.Duration.AsDuration().Seconds(), nil
	}
	return nil, fmt.Errorf("inputs.%s is %s; a query takes numbers, strings, truth values, times, durations and none", name, kind(lit))
}

// asText writes a value as text. A float keeps a sign of being one, so that it reads back as what it was.
func asText(v any) (string, error) {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".eEIN") {
			s += ".0"
		}
		return s, nil
	case string:
		if strings.ContainsRune(v, 0) {
			// SQLite takes a statement's text to end there.
			return "", errors.New("its value holds a zero byte; use the placeholder outside quotes")
		}
		return v, nil
	}
	return "", errors.New("its value is none, which has no text; use the placeholder outside quotes")
}

func kind(l *core.Literal) string {
	switch {
	case l.GetCollection() != nil:
		return "a list"
	case l.GetMap() != nil:
		return "a map"
	case l.GetOffloadedMetadata() != nil:
		return "an offloaded value"
	case l.GetScalar().GetBlob() != nil:
		return "a file or folder"
	case l.GetScalar().GetSchema() != nil, l.GetScalar().GetStructuredDataset() != nil:
		return "a table"
	case l.GetScalar().GetBinary() != nil, l.GetScalar().GetGeneric() != nil:
		return "a structured value"
	}
	return "empty"
}

// list names things in a message.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// seconds rounds a duration for a message.
func seconds(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }

package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// TestFits: what propeller refuses does not fit, and what does not show its type does.
func TestFits(t *testing.T) {
	t.Parallel()
	const (
		seven  = `scalar { primitive { integer: 7 } }`
		text   = `scalar { primitive { string_value: "x" } }`
		binary = `scalar { binary { tag: "msgpack" } }`
	)
	for _, row := range []struct {
		literal, kind string
		fits          bool
	}{
		{seven, `simple: INTEGER`, true},
		{seven, `simple: FLOAT`, false},
		{text, `simple: INTEGER`, false},
		{`scalar { primitive { float_value: 1 } }`, `simple: FLOAT`, true},
		{`scalar { primitive { boolean: true } }`, `simple: BOOLEAN`, true},
		{`scalar { primitive { datetime {} } }`, `simple: DATETIME`, true},
		{`scalar { primitive { duration {} } }`, `simple: DATETIME`, false},
		{binary, `simple: STRUCT`, true},
		{`scalar { none_type {} }`, `simple: NONE`, true},
		{`collection { literals { ` + seven + ` } }`, `collection_type { simple: INTEGER }`, true},
		{`collection { literals { ` + text + ` } }`, `collection_type { simple: INTEGER }`, false},
		{`collection {}`, `collection_type { simple: INTEGER }`, true},
		{seven, `collection_type { simple: INTEGER }`, false},
		{`collection {}`, `simple: INTEGER`, false},
		{`map { literals { key: "k" value { ` + seven + ` } } }`, `map_value_type { simple: INTEGER }`, true},
		{`map { literals { key: "k" value { ` + text + ` } } }`, `map_value_type { simple: INTEGER }`, false},
		{text, `map_value_type { simple: INTEGER }`, false},
		{seven, `union_type { variants { simple: INTEGER } }`, true},
		{text, `enum_type { values: "x" }`, true},
	} {
		var l core.Literal
		var want core.LiteralType
		require.NoError(t, prototext.Unmarshal([]byte(row.literal), &l), row.literal)
		require.NoError(t, prototext.Unmarshal([]byte(row.kind), &want), row.kind)
		require.Equal(t, row.fits, fits(&l, &want), "%s as %s", row.literal, row.kind)
	}
}

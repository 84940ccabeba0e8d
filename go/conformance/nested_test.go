package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// TestNested: the bytes are a message, as deep as was asked for.
func TestNested(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{0, 1, 2, 1000} {
		var r admin.CreateTaskRequest
		require.NoError(t, proto.Unmarshal(nested(depth), &r))
		l := r.GetInputs().GetLiterals()["conformance_nested"]
		for range depth {
			require.Len(t, l.GetCollection().GetLiterals(), 1)
			l = l.GetCollection().GetLiterals()[0]
		}
		require.True(t, proto.Equal(&core.Literal{}, l))
	}
}

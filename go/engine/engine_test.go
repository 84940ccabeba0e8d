package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const childEnv = "FLYTE_BACKEND_ENGINE_TEST_CHILD"

var children = map[string]func(){}

func TestChains(t *testing.T) {
	t.Parallel()
	out := run(t, "chains", "chain", map[string]any{"x": 1})
	require.Equal(t, int64(112), integer(out["o0"]))
}

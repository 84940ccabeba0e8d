package backend

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestIsRegistered(t *testing.T) {
	t.Parallel()
	const name = "gate_test_failure"
	require.False(t, isRegistered(name))
	require.False(t, isRegistered(name), "looking changes nothing")
	require.NoError(t, prometheus.Register(prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "Task failed"}, []string{"domain"})))
	require.True(t, isRegistered(name))
}

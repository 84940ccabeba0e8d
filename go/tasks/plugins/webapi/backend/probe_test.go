package backend

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// registered numbers the metrics of this test, which stay registered for as long as the process runs.
var registered atomic.Int32

func TestIsRegistered(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("gate_test%d_failure", registered.Add(1))
	require.False(t, isRegistered(name))
	require.False(t, isRegistered(name), "looking changes nothing")
	require.NoError(t, prometheus.Register(prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "Task failed"}, []string{"domain"})))
	require.True(t, isRegistered(name))
}

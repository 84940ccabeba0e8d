package grpcclient

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
)

// After an outage however long the service is found again within seconds, not within grpc's own two minutes.
func TestRecoversSoonAfterAnOutage(t *testing.T) {
	t.Parallel()
	b, c := backend(t, backendtest.Plugin{TaskType: "a"})
	list := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.List(ctx)
		return err
	}
	require.NoError(t, list())
	b.Kill()
	// Long enough for grpc's pause between dials to have grown to its bound: 0.1 s * 1.6^7 is over 2 s.
	down := time.Now()
	for time.Since(down) < 4*time.Second {
		if err := list(); assert.Error(t, err) {
			e := failure(t, err)
			assert.True(t, e.Transient(), e)
			assert.False(t, e.FromService, e)
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.NoError(t, b.Start())
	up := time.Now()
	until(t, func() bool { return list() == nil })
	assert.Less(t, time.Since(up), 3*time.Second)
	assert.Equal(t, 2, b.Connections())
}

func TestServiceThatStartsAfterUs(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "a"})
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	b.Kill()
	c := connectPlain(t, b.Endpoint())
	_, err := c.List(within(t))
	assert.Contains(t, failure(t, err).Advice, "nothing listens")
	require.NoError(t, b.Start())
	until(t, func() bool { _, err := c.List(within(t)); return err == nil })
}

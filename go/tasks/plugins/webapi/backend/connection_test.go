package backend

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// TestPanicInACall ends the call and nothing else: calls run where a panic would end the process.
func TestPanicInACall(t *testing.T) {
	t.Parallel()
	p := &pool{timeout: func(*config.Deployment, string) time.Duration { return time.Minute }, metrics: func() *metrics { return nil }}
	conn := &connection{client: nil}
	d := &deployment{name: "d", cfg: &config.Deployment{Endpoint: "e"}, conn: conn, pool: p}
	_, err := d.Get(t.Context(), client.JobRef{})
	require.Equal(t, codes.Canceled, client.AsError(err).Code, "there is no connection")
	conn.client = panicking{}
	_, err = d.Get(t.Context(), client.JobRef{})
	require.Equal(t, client.SystemError, client.AsError(err).Class)
	require.ErrorContains(t, err, "oh no")
	require.Zero(t, conn.calls)
}

type panicking struct{ client.Client }

func (panicking) Get(context.Context, client.JobRef) (*client.Job, error) { panic("oh no") }

// TestRetiredConnection: it is closed once, after the last call that is under way.
func TestRetiredConnection(t *testing.T) {
	t.Parallel()
	closer := &closeCounter{}
	c := &connection{client: panicking{}, closer: closer}
	require.True(t, c.enter())
	require.True(t, c.enter())
	c.retire()
	c.leave()
	require.Zero(t, closer.n)
	c.leave()
	require.Equal(t, 1, closer.n)
	require.False(t, c.enter())
	c.retire()
	c.close()
	require.Equal(t, 1, closer.n)

	idle := &connection{client: panicking{}, closer: closer}
	idle.retire()
	require.Equal(t, 2, closer.n)
}

type closeCounter struct{ n int }

func (c *closeCounter) Close() error { c.n++; return nil }

// TestSilentServiceHoldsAShare of the machinery's workers, until it answers again.
func TestSilentServiceHoldsAShare(t *testing.T) {
	t.Parallel()
	c := &connection{}
	late := &client.Error{Code: codes.DeadlineExceeded}
	for range 100 {
		require.Nil(t, c.beginPoll(100), "a service that answers may have all")
	}
	for range 100 {
		c.endPoll(late)
	}
	for range 25 {
		require.Nil(t, c.beginPoll(100))
	}
	require.Equal(t, late, c.beginPoll(100))
	c.endPoll(&client.Error{Code: codes.DeadlineExceeded, FromService: true})
	require.Nil(t, c.beginPoll(100), "an answer is an answer, whatever it says")
	require.Nil(t, c.beginPoll(100))
	c.endPoll(late)
	require.NotNil(t, c.beginPoll(1))
}

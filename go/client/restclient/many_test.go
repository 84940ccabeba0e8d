package restclient

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func TestBatches(t *testing.T) {
	t.Parallel()
	s, c := to(t, http.StatusOK, `{"results": [
		{"job": {"job_state": "SUCCEEDED", "message": "one"}},
		{"error": {"status": 404, "error_code": "NOT_FOUND", "message": "two"}},
		{"error": {"status": 503, "error_code": "UNAVAILABLE", "message": "three", "retry_after_seconds": 2.5}},
		{"error": {"status": 413, "error_code": "RESOURCE_EXHAUSTED", "message": "four"}},
		{"error": {"status": 500, "error_code": "WHAT", "message": "five"}},
		{"job": {"job_state": "DONE"}},
		{"job": {"job_state": "RUNNING"}, "error": {"status": 500, "error_code": "INTERNAL", "message": ""}},
		{}]}`)
	const n = 8
	results, err := single{c}.GetMany(within(t), make([]client.JobRef, n))
	require.NoError(t, err)
	require.Len(t, results, n)
	assert.Equal(t, "one", results[0].Job.Message)
	e := func(i int) *client.Error { return failed(t, results[i].Err) }
	assert.Equal(t, codes.NotFound, e(1).Code)
	assert.Equal(t, client.SystemError, e(1).Class)
	assert.Equal(t, "two", e(1).Message)
	assert.Equal(t, 2500*time.Millisecond, e(2).RetryAfter)
	assert.Equal(t, client.RetryLater, e(2).Class)
	assert.True(t, e(2).FromService)
	assert.True(t, e(3).TooLarge)
	assert.Equal(t, client.UserError, e(3).Class)
	breaks(t, results[4].Err, `error_code of a job's error is "WHAT"`, codes.Internal)
	breaks(t, results[5].Err, `job_state "DONE" is unknown`, codes.DataLoss)
	breaks(t, results[6].Err, "either job or error", codes.Internal)
	breaks(t, results[7].Err, "either job or error", codes.Internal)
	assert.Equal(t, "/plugins/v1//v1/poll", s.last(t).path)

	_, c = to(t, http.StatusOK, `{}`)
	_, err = single{c}.GetMany(within(t), make([]client.JobRef, n))
	breaks(t, err, "it has no results", codes.Internal)
}

// TestServicesWithoutBatches: a service that has no such route is polled one job at a time.
func TestServicesWithoutBatches(t *testing.T) {
	t.Parallel()
	notFound := `{"error_code": "NOT_FOUND", "message": "no such plugin"}`
	unimplemented := `{"error_code": "UNIMPLEMENTED", "message": "not here"}`
	for _, tt := range []struct {
		reason string
		answer http.Handler
	}{
		{"no route", answering(404, "text/plain", "404 page not found")},
		{"a route for other methods", answering(405, "text/plain", "Method Not Allowed")},
		{"a framework's JSON", answering(404, jsonType, `{"detail": "Not Found"}`)},
		{"said in so many words", answering(501, jsonType, unimplemented)},
		{"something on the way that lets no others through", answering(403, "text/html", "<html>")},
		{"by something on the way", answering(501, "text/html", "<html>")},
		{"no such plugin, which a single poll tells as well", answering(404, jsonType, notFound)},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			var first sync.Once
			release := make(chan struct{})
			arrived := make(chan struct{})
			s, url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					tt.answer.ServeHTTP(w, r)
					return
				}
				first.Do(func() {
					close(arrived)
					<-release
				})
				answering(http.StatusOK, jsonType, running).ServeHTTP(w, r)
			}), nil, nil)
			c := connectPlain(t, url)
			var wg sync.WaitGroup
			get := func() {
				job, err := c.Get(within(t), ref)
				assert.NoError(t, err)
				assert.Equal(t, core.TaskExecution_RUNNING, job.Phase)
			}
			wg.Go(get)
			<-arrived
			wg.Go(get)
			wg.Go(get)
			// The poll under way is slow, so that those that wait for it try to go together.
			until(t, func() bool { return s.count() >= 2 })
			close(release)
			wg.Wait()
			before := s.count()
			for range 5 {
				wg.Go(get)
			}
			wg.Wait()
			posts := 0
			for _, got := range s.calls[:before] {
				if got.method == http.MethodPost {
					posts++
				}
			}
			assert.Contains(t, []int{1, 2}, posts, "the second poll may have gone before the first came back")
			assert.Equal(t, 3, before-posts)
			for _, got := range s.calls[before:] {
				assert.Equal(t, http.MethodGet, got.method, "it is remembered")
			}
			assert.Len(t, s.calls, before+5)
		})
	}
}

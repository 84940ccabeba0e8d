package restclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/client"
)

// BenchmarkPollsOf10000Jobs polls 10,000 jobs with as many workers as the machinery has by default, once as the Conn does it,
// in batches, and once with a call for each; the service takes 2 ms for a call. It reports the requests that each takes, and
// how many times as long single polls take.
func BenchmarkPollsOf10000Jobs(b *testing.B) {
	const jobs, workers, takes = 10_000, 100, 2 * time.Millisecond
	var requests atomic.Int64
	_, url := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-time.After(takes)
		w.Header().Set("Content-Type", jsonType)
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, running)
			return
		}
		var body pollRequest
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			b.Error(err)
		}
		_, _ = io.WriteString(w, `{"results": [`+strings.TrimSuffix(strings.Repeat(`{"job": `+running+`},`, len(body.Jobs)), ",")+`]}`)
	}), nil, nil)
	c := connectPlain(b, url)
	poll := func(get func(context.Context, client.JobRef) (*client.Job, error)) (took time.Duration, calls int64) {
		queue := make(chan client.JobRef, jobs)
		for i := range jobs {
			queue <- client.JobRef{Target: target, ID: client.JobID(fmt.Sprintf("job-%d", i)), OutputPrefix: "s3://bucket/metadata/e/n0/data/0"}
		}
		close(queue)
		requests.Store(0)
		begin := time.Now()
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for ref := range queue {
					ctx, cancel := context.WithTimeout(b.Context(), limit)
					if _, err := get(ctx, ref); err != nil {
						b.Error(err)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		return time.Since(begin), requests.Load()
	}
	var alone, batched, singles, batches float64
	for b.Loop() {
		took, calls := poll(single{c}.Get)
		alone, singles = alone+took.Seconds(), float64(calls)
		took, calls = poll(c.Get)
		batched, batches = batched+took.Seconds(), float64(calls)
		require.Less(b, calls, int64(jobs/10))
	}
	b.ReportMetric(singles, "requests-single")
	b.ReportMetric(batches, "requests-batched")
	b.ReportMetric(alone/batched, "times-as-long-single")
}

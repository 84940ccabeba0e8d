package backend_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/taskrunner"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/connector"
)

// BenchmarkDefaultsFor10000Tasks runs 10,000 tasks on the default settings and reports how often each was polled in one
// resync interval: 1 or more means that the defaults hold them. Beside it stands what the shipped defaults of the connector
// plugin allow for, by its own rate limit: (burst is spent on the first round).
func BenchmarkDefaultsFor10000Tasks(b *testing.B) {
	b.Run(overGRPC, defaultsFor10000Tasks)
	b.Run(overREST, defaultsFor10000Tasks)
}

func defaultsFor10000Tasks(b *testing.B) {
	const tasks, workers = 10_000, 64
	for b.Loop() {
		service := startBackend(b, backendtest.Plugin{TaskType: myTask})
		service.Script(backendtest.Step{Resource: running("working")})
		w := newWorld(b, func(c *config.Config) { c.WebAPI, c.Poll = config.Default().WebAPI, config.Default().Poll }, service)
		runs := make(chan *taskrunner.Run)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for run := range runs {
					for range 2 { // create, then watch
						if _, err := run.Round(w.ctx); err != nil {
							b.Error(err)
						}
					}
				}
			})
		}
		for i := range tasks {
			run, err := w.runner.Start(w.ctx, taskrunner.Task{Template: template(myTask), Execution: fmt.Sprintf("e%d", i)})
			require.NoError(b, err)
			runs <- run
		}
		close(runs)
		wg.Wait()
		require.Len(b, service.Jobs(), tasks)
		interval := w.cfg.WebAPI.Caching.ResyncInterval.Duration
		// The first polls come with creation, and early ones for an interval; two whole intervals from then on are the steady
		// state.
		time.Sleep(interval)
		before, batches := service.Calls(backendtest.Get), service.Batches()
		time.Sleep(2 * interval) // what is measured is a rate
		polls := float64(service.Calls(backendtest.Get)-before) / 2 / tasks
		b.ReportMetric(polls, "polls/task/interval")
		b.ReportMetric(float64(service.Batches()-batches)/2, "batches/interval")
		peer := connector.GetConfig().WebAPI
		b.ReportMetric(peer.ReadRateLimiter.QPS*peer.Caching.ResyncInterval.Seconds()/tasks, "connector-polls/task/interval")
		w.stop()
	}
}

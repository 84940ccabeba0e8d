package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
)

var batchCases = []Case{
	{ID: "batch/a-result-each", Level: Must, Contract: secJobs, Protocols: both, scope: async,
		Purpose: "A poll of many jobs gives a result for each, in the order of the request, also for one that stands in it twice.",
		run: func(p *probe) {
			f := p.polled()
			jobs := []job{f.job, p.nobodys(), f.job, p.nobodys(), p.nobodys()}
			r := p.batch(jobs...)
			p.must(r.ok(), &r, "OK: what is wrong with one job is that job's result")
			if !p.say(len(r.results) == len(jobs), r.sent, fmt.Sprintf("%d results", len(r.results)), fmt.Sprintf("%d results", len(jobs))) {
				return
			}
			for i := range jobs {
				one := &r.results[i]
				one.sent = fmt.Sprintf("%s, of which this is number %d", r.sent, i+1)
				if jobs[i].id != nil && bytes.Equal(jobs[i].id, f.job.id) {
					p.check(one.ok(), one, "the state of the job that was asked for there")
				} else {
					p.check(one.code != codes.OK && one.broken == "", one, "an error: there is no such job")
				}
			}
		}},
	{ID: "batch/as-a-single-poll", Level: Must, Contract: secJobs, Protocols: both, scope: async,
		Purpose: "A poll of many jobs says of a job what a poll of it alone says.",
		run: func(p *probe) {
			f := p.polled()
			r := p.batch(f.job)
			if !r.ok() || len(r.results) != 1 {
				p.skip("there is no result to compare (batch/a-result-each says more)")
			}
			one := &r.results[0]
			one.sent = r.sent
			p.sameEnd(&f.last, one)
		}},
	{ID: "batch/unknown-job", Level: Must, Contract: secJobs, Protocols: both, scope: async,
		Purpose: "In a poll of many jobs, an unknown one is NOT_FOUND, and the error has a message.",
		run: func(p *probe) {
			p.hasBatch()
			r := p.batch(p.nobodys())
			if !r.ok() || len(r.results) != 1 {
				p.skip("there is no result to look at (batch/a-result-each says more)")
			}
			one := &r.results[0]
			one.sent = r.sent
			if p.refused(one, "there is no such job", codes.NotFound) {
				p.check(one.message != "", one, "a message that says so")
			}
		}},
	{ID: "batch/none", Level: Should, Contract: secJobs, Protocols: both, scope: any1,
		Purpose: "A poll of no job is INVALID_ARGUMENT.",
		run: func(p *probe) {
			p.hasBatch()
			r := p.batch()
			p.refused(&r, "a poll names 1 to 1000 jobs", codes.InvalidArgument)
		}},
	{ID: "batch/too-many", Level: Should, Contract: secJobs, Protocols: both, scope: any1,
		Purpose: "A poll of more than 1000 jobs is INVALID_ARGUMENT.",
		run: func(p *probe) {
			p.hasBatch()
			r := p.batch(slices.Repeat([]job{p.nobodys()}, 1001)...)
			p.refused(&r, "a poll names 1 to 1000 jobs", codes.InvalidArgument)
		}},
	{ID: "batch/a-thousand", Level: Must, Contract: secJobs, Protocols: both, scope: any1,
		Purpose: "A poll of 1000 jobs gives 1000 results.",
		run: func(p *probe) {
			f := p.polled()
			jobs := slices.Repeat([]job{f.job}, 1000)
			if len(jobs)*len(f.job.id) > 256<<10 { // they need not be taken: the request is to stay below a mebibyte
				jobs = append(jobs[:1], slices.Repeat([]job{p.nobodys()}, 999)...)
			}
			r := p.batch(jobs...)
			p.must(r.ok(), &r, "OK with 1000 results")
			p.say(len(r.results) == 1000, r.sent, fmt.Sprintf("%d results", len(r.results)), "1000 results")
		}},
}

func (p *probe) batch(jobs ...job) reply {
	return p.ask(func(ctx context.Context) reply {
		if d, ok := p.d.(*restDriver); ok {
			return d.batchOf(ctx, p.plugin, jobs)
		}
		return p.d.batch(ctx, jobs)
	})
}

// hasBatch skips the case when the service polls one job at a time.
func (p *probe) hasBatch() {
	one := p.done().job // with one that is not there, 404 could be about the job
	ctx, cancel := p.bounded()
	defer cancel()
	r := p.d.batch(ctx, []job{one})
	if !r.lost && (r.code == codes.Unimplemented || r.code == codes.NotFound && p.o.Protocol == REST) {
		p.skip("the service polls one job at a time (%s)", r.got())
	}
}

// polled gives a job that has ended, for cases of the batch.
func (p *probe) polled() *finishedJob {
	p.hasBatch()
	f := p.done()
	if !f.last.ok() || !f.last.state.final() {
		p.skip("no job ended (poll/job-succeeds says more): %s", f.last.got())
	}
	return f
}

var watchCases = []Case{
	{ID: "watch/state-at-once", Level: Must, Contract: secJobs, Protocols: onlyGRPC, scope: async,
		Purpose: "A stream of news begins with the state of each job that is followed.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() || !f.last.state.final() {
				p.skip("no job ended (poll/job-succeeds says more): %s", f.last.got())
			}
			w := p.watch()
			w.follow(7, f.job)
			r, id := w.news()
			p.must(r.ok(), &r, "the job's state")
			p.say(id == 7, r.sent, fmt.Sprintf("news of watch id %d", id), "watch id 7, as in the request")
			p.sameEnd(&f.last, &r)
		}},
	{ID: "watch/end", Level: Must, Contract: secJobs, Protocols: onlyGRPC, scope: async,
		Purpose: "The news that a job has ended comes without being asked for.",
		run: func(p *probe) {
			p.succeeded()
			w := p.watch()
			w.follow(1, p.start(p.newCall()))
			for {
				r, _ := w.news()
				p.must(r.ok(), &r, "news of the job until it has ended")
				if r.state.final() {
					p.check(r.state.phase == "SUCCEEDED", &r, "phase SUCCEEDED")
					return
				}
			}
		}},
	{ID: "watch/unknown-job", Level: Must, Contract: secJobs, Protocols: onlyGRPC, scope: async,
		Purpose: "Following an unknown job gives NOT_FOUND for that job, and the stream goes on.",
		run: func(p *probe) {
			f := p.done()
			w := p.watch()
			w.follow(1, p.nobodys())
			r, _ := w.news()
			p.refused(&r, "there is no such job", codes.NotFound)
			w.follow(2, f.job)
			r, id := w.news()
			p.must(!r.lost, &r, "news of the next job on the same stream")
			p.say(id == 2, r.sent, fmt.Sprintf("news of watch id %d", id), "watch id 2")
		}},
	{ID: "watch/unfollow", Level: Must, Contract: secJobs, Protocols: onlyGRPC, scope: async,
		Purpose: "Unfollowing a watch id that nobody follows is passed over, and the stream goes on.",
		run: func(p *probe) {
			f := p.done()
			w := p.watch()
			w.send("WatchTasks(unfollow 99)", &flytebackendv1.WatchTasksRequest{Unfollow: []uint64{99}})
			w.follow(3, f.job)
			r, _ := w.news()
			p.check(!r.lost, &r, "news of the job that is followed")
		}},
}

// watcher is an open stream of news.
type watcher struct {
	p      *probe
	stream flytebackendv1.BackendService_WatchTasksClient
	sent   string
}

// watch opens a stream, and skips the case when the service or the plugin has none.
func (p *probe) watch() *watcher {
	open := func() *watcher {
		ctx, cancel := context.WithTimeout(p.ctx, p.o.JobTimeout)
		context.AfterFunc(p.ctx, cancel)
		stream, err := flytebackendv1.NewBackendServiceClient(p.grpc().cc).WatchTasks(ctx)
		if err != nil {
			p.skip("no stream: %v", err)
		}
		return &watcher{p: p, stream: stream}
	}
	w := open()
	w.follow(1, p.nobodys())
	if r, _ := w.news(); r.code == codes.Unimplemented {
		p.skip("the service gives no news of its jobs (%s)", r.got())
	}
	_ = w.stream.CloseSend()
	return open()
}

func (w *watcher) follow(id uint64, j job) {
	w.send("WatchTasks(follow "+j.show()+")", &flytebackendv1.WatchTasksRequest{
		Follow: []*flytebackendv1.WatchedTask{{WatchId: id, Task: taskRefs([]job{j})[0]}},
	})
}

func (w *watcher) send(says string, r *flytebackendv1.WatchTasksRequest) {
	w.sent = says
	_ = w.stream.Send(r) // why not comes with news
}

// news waits for what the service says next.
func (w *watcher) news() (reply, uint64) {
	var out *flytebackendv1.WatchTasksResponse
	r := (&grpcDriver{}).do(w.p.ctx, w.sent, "", "", func(context.Context, *reply) error {
		var err error
		out, err = w.stream.Recv()
		return err
	})
	if out == nil { // whoever ended the stream, there is no news
		if r.message == io.EOF.Error() {
			r.message = "the stream ended"
		}
		r.lost = r.code != codes.Unimplemented
		return r, 0
	}
	one := resultOf(out.GetResult())
	one.sent = r.sent
	return one, out.GetWatchId()
}

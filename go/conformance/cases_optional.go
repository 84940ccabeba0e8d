package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

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
			r := p.batch(slices.Repeat([]job{f.job}, 1000)...)
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

var extraCases = []Case{
	{ID: "logs/page", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "A plugin gives a page of a job's log, and its pages come to an end, or says UNIMPLEMENTED.",
		run: func(p *probe) {
			f := p.succeeded()
			token := ""
			for page := range 1000 {
				r := p.ask(func(ctx context.Context) reply { return p.d.logs(ctx, f.job, 100, token) })
				if !r.lost && r.code == codes.Unimplemented {
					p.skip("the plugin gives no logs (%s)", r.got())
				}
				p.must(r.ok(), &r, "OK with a page, or UNIMPLEMENTED")
				if r.next == "" {
					return
				}
				p.must(r.next != token || page == 0, &r, "another token than that of the page before")
				token = r.next
			}
			p.say(false, "a page after the other, 1000 times", "always one more", "an end")
		}},
	{ID: "logs/unknown-job", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "The log of an unknown job is NOT_FOUND, or UNIMPLEMENTED where there are no logs.",
		run: func(p *probe) {
			r := p.ask(func(ctx context.Context) reply { return p.d.logs(ctx, p.nobodys(), 10, "") })
			p.refused(&r, "there is no such job, or no such ability", codes.NotFound, codes.Unimplemented)
		}},
	{ID: "metrics/series", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "A plugin gives a job's metrics, or says UNIMPLEMENTED.",
		run: func(p *probe) {
			f := p.succeeded()
			r := p.ask(func(ctx context.Context) reply {
				return p.d.metrics(ctx, f.job, []string{"EXECUTION_METRIC_USED_CPU_AVG"})
			})
			if !r.lost && r.code == codes.Unimplemented {
				p.skip("the plugin gives no metrics (%s)", r.got())
			}
			p.must(r.ok(), &r, "OK with the metrics, or UNIMPLEMENTED")
			for _, name := range r.series {
				p.check(name != "", &r, "a name for every metric")
			}
		}},
	{ID: "metrics/unknown-job", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "The metrics of an unknown job are NOT_FOUND, or UNIMPLEMENTED where there are none.",
		run: func(p *probe) {
			r := p.ask(func(ctx context.Context) reply {
				return p.d.metrics(ctx, p.nobodys(), []string{"EXECUTION_METRIC_USED_CPU_AVG"})
			})
			p.refused(&r, "there is no such job, or no such ability", codes.NotFound, codes.Unimplemented)
		}},
	{ID: "operations/health", Level: Should, Contract: secOptional, Protocols: onlyGRPC, scope: once,
		Purpose: "gRPC's health service says SERVING.",
		run: func(p *probe) {
			var status healthpb.HealthCheckResponse_ServingStatus
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().do(ctx, "grpc.health.v1.Health/Check", "", "", func(ctx context.Context, _ *reply) error {
					res, err := healthpb.NewHealthClient(p.grpc().cc).Check(ctx, &healthpb.HealthCheckRequest{})
					status = res.GetStatus()
					return err
				})
			})
			if !r.lost && r.code == codes.Unimplemented {
				p.skip("the service has no health service (%s)", r.got())
			}
			p.must(r.ok(), &r, "OK")
			p.say(status == healthpb.HealthCheckResponse_SERVING, r.sent, status.String(), "SERVING, since the service answers calls")
		}},
	{ID: "operations/reflection", Level: Should, Contract: secOptional, Protocols: onlyGRPC, scope: once,
		Purpose: "gRPC's reflection, v1 or v1alpha, lists flyteidl's services.",
		run: func(p *probe) {
			r, names := p.reflect("v1")
			if !r.lost && r.code == codes.Unimplemented {
				r, names = p.reflect("v1alpha") // older, and all that some libraries have, Python's among them
			}
			if !r.lost && r.code == codes.Unimplemented {
				p.skip("the service has no reflection, neither v1 nor v1alpha (%s)", r.got())
			}
			p.must(r.ok(), &r, "OK")
			p.say(slices.Contains(names, "flyteidl.service.AgentMetadataService"), r.sent, fmt.Sprintf("%q", names), "flyteidl.service.AgentMetadataService among them")
		}},
	{ID: "operations/healthz", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /healthz is 200 with a status, as JSON.",
		run:     func(p *probe) { p.healthPage("/healthz") }},
	{ID: "operations/readyz", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /readyz is 200 with a status, as JSON, while the service takes calls.",
		run:     func(p *probe) { p.healthPage("/readyz") }},
	{ID: "operations/metrics", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /metrics is in Prometheus's text form.",
		run: func(p *probe) {
			r := p.hasPage("/metrics")
			p.check(strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || strings.HasPrefix(r.header.Get("Content-Type"), "application/openmetrics-text"), &r, "Content-Type text/plain")
			for _, line := range strings.Split(string(r.body), "\n") {
				if line != "" && !strings.HasPrefix(line, "#") && len(strings.Fields(line)) < 2 {
					p.say(false, r.sent, "the line "+short(line), "a name and a value")
					return
				}
			}
		}},
	{ID: "operations/openapi", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /openapi.json is an OpenAPI document that has the path /plugins/v1.",
		run: func(p *probe) {
			r := p.hasPage("/openapi.json")
			var doc struct {
				OpenAPI string                     `json:"openapi"`
				Paths   map[string]json.RawMessage `json:"paths"`
			}
			if !r.read(&doc) {
				p.check(false, &r, "JSON")
				return
			}
			p.say(strings.HasPrefix(doc.OpenAPI, "3.") && doc.Paths["/plugins/v1"] != nil, r.sent, fmt.Sprintf("openapi %q with %d paths", doc.OpenAPI, len(doc.Paths)), "openapi 3 with the path /plugins/v1")
		}},
}

// reflect asks a version of gRPC's reflection for the names of services. The messages of both versions are the same.
func (p *probe) reflect(version string) (reply, []string) {
	var res reflectionpb.ServerReflectionResponse
	name := "grpc.reflection." + version + ".ServerReflection"
	r := p.ask(func(ctx context.Context) reply {
		return p.grpc().do(ctx, name+"(list_services)", "", "", func(ctx context.Context, _ *reply) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := p.grpc().cc.NewStream(ctx, &reflectionpb.ServerReflection_ServiceDesc.Streams[0], "/"+name+"/ServerReflectionInfo")
			if err != nil {
				return err
			}
			err = stream.SendMsg(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{ListServices: "*"}})
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			return stream.RecvMsg(&res)
		})
	})
	var names []string
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return r, names
}

// hasPage gets a page, and skips the case when there is none.
func (p *probe) hasPage(path string) reply {
	r := p.ask(func(ctx context.Context) reply { return p.rest().page(ctx, path) })
	if r.status == 404 || r.status == 501 {
		p.skip("the service has no %s (HTTP %d)", path, r.status)
	}
	p.must(r.status == 200, &r, "HTTP 200")
	return r
}

func (p *probe) healthPage(path string) {
	r := p.hasPage(path)
	var body struct {
		Status string `json:"status"`
	}
	p.must(r.read(&body), &r, "JSON with a status")
	p.check(body.Status != "", &r, "a status")
}

var replicaCases = []Case{
	{ID: "replicas/same-list", Level: Must, Contract: secStay, Protocols: both, scope: once,
		Purpose: "Another replica lists the same plugins.",
		run: func(p *probe) {
			d := p.replica()
			defer d.close()
			r := p.ask(d.list)
			if p.success(&r, "the list of plugins") {
				p.say(describe(r.plugins) == describe(p.listed.plugins), r.sent+" at the replica", describe(r.plugins), "the same as at the endpoint: "+describe(p.listed.plugins))
			}
		}},
	{ID: "replicas/poll", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job that one replica created is known to another, which tells the same of it.",
		run: func(p *probe) {
			d := p.replica()
			defer d.close()
			j := p.start(p.newCall())
			there := p.await(d, j)
			p.must(there.ok(), &there, "OK: the replica finds the job by its id alone")
			here := p.await(p.d, j)
			p.must(here.ok(), &here, "OK: the job's state")
			p.check(there.state.phase == here.state.phase, &there, "phase %s, as the first replica says", here.state.phase)
		}},
	{ID: "replicas/delete", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job that one replica created is ended by another.",
		run: func(p *probe) {
			d := p.replica()
			defer d.close()
			j := p.running()
			r := p.deleteBy(d, j)
			p.must(r.ok(), &r, "OK: the replica finds the job by its id alone")
			end := time.Now().Add(p.o.JobTimeout)
			for {
				r = p.get(j)
				over := r.code == codes.NotFound && !r.lost || r.ok() && r.state.final() && r.state.phase != "SUCCEEDED"
				if over || time.Now().After(end) || p.ctx.Err() != nil {
					p.check(over, &r, "NOT_FOUND, ABORTED or a failure, since another replica was told to end the job")
					return
				}
				wait(p.ctx, p.o.PollInterval)
			}
		}},
	{ID: "replicas/same-key", Level: Should, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A create that is repeated at another replica answers with the first job.",
		run: func(p *probe) {
			d := p.replica()
			defer d.close()
			c := p.honoured()
			first := p.create(c)
			r := p.createBy(d, c)
			p.must(r.ok(), &r, "OK with the first job")
			p.check(bytes.Equal(first.id, r.id), &r, "the id of the first job, %s", show(string(first.id)))
		}},
}

func (p *probe) replica() driver {
	if p.o.Replica == "" {
		p.skip("there is no other replica to try this with; give Replica (--replica)")
	}
	d, err := p.dial(p.o.Replica)
	if err != nil {
		p.skip("the replica: %v", err)
	}
	return d
}

var restartCases = []Case{
	{ID: "restarts/same-list", Level: Must, Contract: secStay, Protocols: both, scope: once,
		Purpose: "After a restart, the service lists the same plugins.",
		run: func(p *probe) {
			p.restart()
			r := p.ask(p.d.list)
			if p.success(&r, "the list of plugins") {
				p.say(describe(r.plugins) == describe(p.listed.plugins), r.sent+" after a restart", describe(r.plugins), "the same as before: "+describe(p.listed.plugins))
			}
		}},
	{ID: "restarts/in-mid-job", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job is known after a restart of the service, and ends.",
		run: func(p *probe) {
			p.succeeded()
			j := p.start(p.newCall())
			p.restart()
			r := p.await(p.d, j)
			p.must(r.ok(), &r, "OK: the job is found by its id alone")
			p.check(r.state.phase == "SUCCEEDED", &r, "phase SUCCEEDED within %s", p.o.JobTimeout)
		}},
	{ID: "restarts/result-stays", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job that had ended before a restart is as it ended.",
		run: func(p *probe) {
			f := p.succeeded()
			p.restart()
			r := p.get(f.job)
			p.sameEnd(&f.last, &r)
		}},
	{ID: "restarts/delete", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job that runs can be ended after a restart.",
		run: func(p *probe) {
			j := p.running()
			p.restart()
			r := p.delete(j)
			p.must(r.ok(), &r, "OK: the job is found by its id alone")
			r = p.await(p.d, j)
			p.check(r.code == codes.NotFound && !r.lost || r.ok() && r.state.final() && r.state.phase != "SUCCEEDED", &r, "NOT_FOUND, ABORTED or a failure")
		}},
	{ID: "restarts/same-key", Level: Should, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A create that is repeated with its key after a restart answers with the first job.",
		run: func(p *probe) {
			c := p.honoured()
			first := p.create(c)
			p.restart()
			r := p.create(c)
			p.must(r.ok(), &r, "OK with the first job")
			p.check(bytes.Equal(first.id, r.id), &r, "the id of the first job, %s", show(string(first.id)))
		}},
}

// restart restarts the service, and waits for it.
func (p *probe) restart() {
	if p.o.Restart == nil {
		p.skip("the suite cannot restart the service; give Restart (--restart-command)")
	}
	if err := p.o.Restart(p.ctx); err != nil {
		p.skip("the service could not be restarted: %v", err)
	}
	r := p.reach(p.ctx)
	p.redial()
	p.must(!r.lost, &r, "an answer within %s after the restart", p.o.RecoverTimeout)
}

package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
)

var loadCases = []Case{
	{ID: "load/creates", Level: Must, Contract: secMany, Protocols: both, scope: async,
		Purpose: "Many creates at once give as many ids, or are put off, and each job can be polled.",
		run: func(p *probe) {
			p.start(p.newCall())
			calls := make([]call, p.o.Concurrency)
			for i := range calls {
				calls[i] = p.newCall()
			}
			replies := atOnce(len(calls), func(i int) reply { return p.create(calls[i]) })
			var jobs []job
			for i := range replies {
				r := &replies[i]
				r.sent = fmt.Sprintf("%d creates at once, of which this is one", len(calls))
				if r.ok() && len(r.id) > 0 {
					jobs = append(jobs, job{p.plugin, r.id, calls[i].prefix})
				} else if !p.check(retryable(r), r, "OK with an id, or an error that is retried: UNAVAILABLE, RESOURCE_EXHAUSTED or ABORTED") {
					return // one tells enough
				}
			}
			for few := range slices.Chunk(jobs, 4) { // many at once are another case
				for _, r := range atOnce(len(few), func(i int) reply { return p.get(few[i]) }) {
					p.must(r.ok() || retryable(&r), &r, "OK: each of the jobs is there")
				}
			}
		}},
	{ID: "load/polls", Level: Must, Contract: secMany, Protocols: both, scope: async,
		Purpose: "Many polls of a job at once say the same.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() || !f.last.state.final() {
				p.skip("no job ended (poll/job-succeeds says more): %s", f.last.got())
			}
			replies := atOnce(p.o.Concurrency, func(int) reply { return p.get(f.job) })
			for i := range replies {
				r := &replies[i]
				r.sent = fmt.Sprintf("%d polls at once, of which this is one", len(replies))
				if retryable(r) {
					continue
				}
				p.must(r.ok() && r.state.phase == f.last.state.phase, r, "phase %s, as one poll says", f.last.state.phase)
			}
		}},
	{ID: "load/deletes", Level: Must, Contract: secMany, Protocols: both, scope: async,
		Purpose: "Many deletions of a job at once succeed.",
		run: func(p *probe) {
			j := p.start(p.newCall())
			replies := atOnce(p.o.Concurrency, func(int) reply { return p.delete(j) })
			for i := range replies {
				r := &replies[i]
				r.sent = fmt.Sprintf("%d deletions of one job at once, of which this is one", len(replies))
				p.must(r.ok() || retryable(r), r, "OK: who comes second finds the job deleted")
			}
		}},
	{ID: "load/connections", Level: Must, Contract: secMany, Protocols: both, scope: once,
		Purpose: "Many connections at once are served.",
		run: func(p *probe) {
			drivers := make([]driver, p.o.Concurrency)
			for i := range drivers {
				drivers[i] = p.fresh()
			}
			replies := atOnce(len(drivers), func(i int) reply { return p.ask(drivers[i].list) })
			for _, d := range drivers {
				d.close()
			}
			for i := range replies {
				r := &replies[i]
				r.sent += fmt.Sprintf(" over each of %d connections at once", len(replies))
				p.must(r.ok() || retryable(r), r, "OK: the list of plugins")
			}
		}},
}

var sizeCases = []Case{
	{ID: "size/a-megabyte", Level: Must, Contract: secMany, Protocols: both, scope: any1,
		Purpose: "A create of a mebibyte is taken.",
		run: func(p *probe) {
			p.start(p.newCall())
			r := p.create(p.bulky(1 << 20))
			r.sent = "a create with an annotation of 1 MiB"
			p.success(&r, "the id of a new job")
		}},
	{ID: "size/too-large", Level: Must, Contract: secMany, Protocols: both, scope: any1,
		Purpose: "A create over the service's limit is RESOURCE_EXHAUSTED (over REST, 413); one within it is taken.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.bulky(p.o.Oversize)
			var r reply
			if d, ok := p.d.(*restDriver); ok {
				r = p.creating(c, func(ctx context.Context) reply { return p.large(ctx, d, c) })
				r.sent = fmt.Sprintf("a create of %d MiB", p.o.Oversize>>20)
				p.check(r.ok() || r.status == 413, &r, "HTTP 413, or OK if the limit is higher")
			} else {
				r = p.askOnce(func(ctx context.Context) reply { return p.d.create(ctx, c) }) // the same code as of a service that is busy
				p.keepCreated(c, &r)
				r.sent = fmt.Sprintf("a create of %d MiB", p.o.Oversize>>20)
				p.check(r.ok() || !r.lost && r.code == codes.ResourceExhausted, &r, "RESOURCE_EXHAUSTED, or OK if the limit is higher")
			}
		}},
}

// bulky is a create of about a size, which changes nothing of the job.
func (p *probe) bulky(size int) call {
	c := p.newCall()
	c.metadata.Annotations = map[string]string{"conformance": strings.Repeat("x", size)}
	return c
}

// large sends a request over a connection of its own and reads the answer while it is still sending, as a service may answer
// before it has read everything, and then hang up.
func (p *probe) large(ctx context.Context, d *restDriver, c call) reply {
	r := reply{sent: "a large create"}
	conn := p.tcp()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	body := asJSON(createBody(c))
	go func() {
		_, err := fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: conformance\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n%s\r\n",
			d.target(pluginPath(c.plugin)), keyHeader, c.key, len(body), p.headerLines())
		if err == nil {
			_, _ = conn.Write(body) // what is wrong shows in the answer
		}
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.lost, r.code, r.message = true, codes.Unavailable, err.Error()
		return r
	}
	defer res.Body.Close()
	r.body, _ = io.ReadAll(io.LimitReader(res.Body, maxBody)) // an answer that breaks off is judged by what is there
	r.status, r.header = res.StatusCode, res.Header
	r.judge()
	var created struct {
		JobID string `json:"job_id"`
	}
	if r.read(&created) {
		r.id = []byte(created.JobID)
	}
	return r
}

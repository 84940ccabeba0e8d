package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// probe is a case that runs. What has a context of its own may be called from many goroutines.
type probe struct {
	*runner
	ctx    context.Context
	c      *Case
	plugin plugin

	problems []Problem
	skipped  string
}

// stop ends a case.
type stop struct{}

// run runs the case, whose stop is a panic: it ends the case from any depth, as in package testing.
func (p *probe) run() {
	defer func() {
		if e := recover(); e != nil {
			if _, ok := e.(stop); !ok {
				panic(e)
			}
		}
	}()
	p.c.run(p)
}

func link(anchor string) string { return "docs/contract.md#" + anchor }

// skip ends the case as one that cannot be tried.
func (p *probe) skip(format string, args ...any) {
	p.skipped = fmt.Sprintf(format, args...)
	panic(stop{})
}

// check writes down a problem unless ok, and gives ok.
func (p *probe) check(ok bool, r *reply, due string, args ...any) bool {
	if !ok {
		p.problem(Problem{Sent: r.sent, Got: r.got(), Due: fmt.Sprintf(due, args...), Contract: link(p.c.Contract)})
	}
	return ok
}

func (p *probe) problem(one Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = append(p.problems, one)
}

// say is check with another text of what came.
func (p *probe) say(ok bool, sent, got, due string) bool {
	if !ok {
		p.problem(Problem{Sent: sent, Got: got, Due: due, Contract: link(p.c.Contract)})
	}
	return ok
}

// must is check, and ends the case.
func (p *probe) must(ok bool, r *reply, due string, args ...any) {
	if !p.check(ok, r, due, args...) {
		panic(stop{})
	}
}

// success checks that a call succeeded.
func (p *probe) success(r *reply, why string) bool {
	return p.check(r.ok(), r, "OK: %s", why)
}

// refused checks that the service answered with one of the codes.
func (p *probe) refused(r *reply, why string, want ...codes.Code) bool {
	names := make([]string, len(want))
	for i, c := range want {
		names[i] = codeName(c)
	}
	return p.check(!r.lost && slices.Contains(want, r.code), r, "%s: %s", strings.Join(names, " or "), why)
}

// note keeps an error of the service to be judged by the cases of area errors.
func (r *runner) note(replies ...reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range replies {
		if !one.lost && one.code != codes.OK && len(r.seen) < maxSeen {
			r.seen = append(r.seen, one)
		}
	}
}

// bounded gives the context of one call.
func (p *probe) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.ctx, p.o.CallTimeout)
}

// ask makes a call of any kind, again while the service has no capacity for it.
func (p *probe) ask(fn func(ctx context.Context) reply) reply {
	return p.patient(p.ctx, p.o.CallTimeout, fn)
}

// askOnce makes a call of any kind.
func (p *probe) askOnce(fn func(ctx context.Context) reply) reply {
	ctx, cancel := p.bounded()
	defer cancel()
	r := fn(ctx)
	p.note(r)
	return r
}

func randomHex(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// newKey makes an idempotency key as propeller does.
func newKey() string { return randomHex(64) }

// newCall is a call that starts a job that succeeds.
func (p *probe) newCall() call { return p.callFor(p.plugin) }

func (p *probe) callFor(pl plugin) call {
	return p.callOf(pl, p.o.Template, p.o.Inputs)
}

func (p *probe) callOf(pl plugin, template *core.TaskTemplate, inputs *core.LiteralMap) call {
	if template == nil {
		template = &core.TaskTemplate{
			Id:        &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "conformance", Domain: "development", Name: "conformance.minimal", Version: "v1"},
			Metadata:  &core.TaskMetadata{Runtime: &core.RuntimeMetadata{Type: core.RuntimeMetadata_FLYTE_SDK, Version: "1.16.8", Flavor: "conformance"}},
			Interface: &core.TypedInterface{Inputs: &core.VariableMap{}, Outputs: &core.VariableMap{}},
		}
	}
	template, _ = proto.Clone(template).(*core.TaskTemplate)
	template.Type = pl.taskType
	if template.GetTaskTypeVersion() == 0 || !slices.Contains(pl.taskTypeVersions, template.GetTaskTypeVersion()) && len(pl.taskTypeVersions) > 0 {
		template.TaskTypeVersion = pl.taskTypeVersion()
	}
	if inputs == nil {
		inputs = &core.LiteralMap{Literals: map[string]*core.Literal{}}
	}
	prefix := p.o.OutputPrefix
	if prefix == "" {
		prefix = "/tmp/flyte-backend-conformance/" + randomHex(16)
	}
	execution := &core.WorkflowExecutionIdentifier{Project: "conformance", Domain: "development", Name: "c" + randomHex(18)}
	return call{
		plugin: pl, template: template, inputs: inputs, key: newKey(), prefix: prefix,
		metadata: &admin.TaskExecutionMetadata{
			Namespace: "conformance-development",
			TaskExecutionId: &core.TaskExecutionIdentifier{
				TaskId: template.GetId(), NodeExecutionId: &core.NodeExecutionIdentifier{NodeId: "n0", ExecutionId: execution},
			},
		},
	}
}

// keep remembers a job, so that it is deleted at the end.
func (r *runner) keep(j job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := j.plugin.String() + "\x00" + string(j.id)
	if r.jobs[name] == nil {
		r.order = append(r.order, name)
	}
	r.jobs[name] = &made{job: j}
}

// gone says that a job was deleted.
func (r *runner) gone(j job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.jobs[j.plugin.String()+"\x00"+string(j.id)]; m != nil {
		m.gone = true
	}
}

// maxID is the longest id that propeller keeps.
const maxID = 64 << 10

// creating is ask for a call that may make a job, which is deleted at the end. An interruption waits for its answer: nothing else
// names the job.
func (p *probe) creating(c call, fn func(ctx context.Context) reply) reply {
	r := p.ask(func(ctx context.Context) reply {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.o.CallTimeout)
		defer cancel()
		return fn(ctx)
	})
	p.keepCreated(c, &r)
	if r.lost {
		p.mayBeLeft(c, "creates were not answered, so jobs may run that nobody can name")
	}
	return r
}

// createBy makes a job with a driver.
func (p *probe) createBy(d driver, c call) reply {
	return p.creating(c, func(ctx context.Context) reply { return d.create(ctx, c) })
}

func (p *probe) keepCreated(c call, r *reply) {
	if r.ok() && len(r.id) > 0 && len(r.id) <= maxID {
		p.keep(job{c.plugin, r.id, c.prefix})
	}
}

func (p *probe) create(c call) reply { return p.createBy(p.d, c) }

func (p *probe) getBy(d driver, j job) reply {
	return p.ask(func(ctx context.Context) reply { return d.get(ctx, j) })
}

func (p *probe) get(j job) reply { return p.getBy(p.d, j) }

func (p *probe) deleteBy(d driver, j job) reply {
	r := p.ask(func(ctx context.Context) reply { return d.delete(ctx, j) })
	if r.ok() {
		p.gone(j)
	}
	return r
}

func (p *probe) delete(j job) reply { return p.deleteBy(p.d, j) }

// minimal says that no template was given, so that a plugin may well refuse the one that is sent.
func (p *probe) minimal() bool { return p.o.Template == nil }

// start makes a job, and skips the case when there is none to be had: that is what create/gives-an-id is about.
func (p *probe) start(c call) job {
	j, r := p.tryStart(c)
	if r.ok() && len(r.id) > 0 && len(r.id) <= maxID {
		return j
	}
	p.noJob(r)
	return job{}
}

func (p *probe) tryStart(c call) (job, reply) {
	r := p.create(c)
	return job{c.plugin, r.id, c.prefix}, r
}

// noJob skips a case that cannot be tried without a job.
func (p *probe) noJob(r reply) {
	if p.minimal() && refusesTemplate(&r) {
		p.skip("the plugin refuses the minimal template, so there is no job to try this with; give a template and inputs that make one (it says: %s)", short(r.message))
	}
	p.skip("no job could be made (create/gives-an-id says more): %s", r.got())
}

func refusesTemplate(r *reply) bool {
	return !r.lost && (r.code == codes.InvalidArgument || r.code == codes.FailedPrecondition || r.code == codes.OutOfRange || r.code == codes.PermissionDenied)
}

// await polls a job until it has ended, or until JobTimeout is over.
func (p *probe) await(d driver, j job) reply {
	end := time.Now().Add(p.o.JobTimeout)
	for {
		r := p.getBy(d, j)
		retry := r.lost || r.code == codes.Unavailable || r.code == codes.ResourceExhausted || r.code == codes.Aborted || r.code == codes.DeadlineExceeded
		if r.ok() && r.state.final() || !r.ok() && !retry || r.ok() && !phases[r.state.phase] || time.Now().After(end) || p.ctx.Err() != nil {
			return r
		}
		wait(p.ctx, p.o.PollInterval)
	}
}

// done gives a job that has ended, one for each plugin; cases do not delete it.
func (p *probe) done() *finishedJob {
	if f := p.finished[p.plugin.String()]; f != nil {
		return f
	}
	c := p.newCall()
	j := p.start(c)
	f := &finishedJob{job: j, last: p.await(p.d, j)}
	p.finished[p.plugin.String()] = f
	return f
}

// succeeded is done, for cases that need a job that succeeded.
func (p *probe) succeeded() *finishedJob {
	f := p.done()
	if !f.last.ok() || f.last.state.phase != "SUCCEEDED" {
		p.skip("no job succeeded (poll/job-succeeds says more): %s", f.last.got())
	}
	return f
}

// nobodys is an id that no job has.
func (p *probe) nobodys() job {
	return job{plugin: p.plugin, id: []byte("conformance-no-such-job-" + randomHex(16))}
}

// atOnce calls fn n times at once, and gives the replies.
func atOnce(n int, fn func(i int) reply) []reply {
	out := make([]reply, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { out[i] = fn(i) })
	}
	all.Wait()
	return out
}

// client says that the code blames the request or asks to come again, rather than telling of a fault of the service.
func unfaulty(r *reply) bool {
	return !r.lost && r.broken == "" && r.code != codes.Internal && r.code != codes.Unknown && r.code != codes.DataLoss && codeNames[r.code] != ""
}

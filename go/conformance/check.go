package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
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

// OptionsError says that nothing was sent, because the options are wrong.
type OptionsError struct{ Err error }

func (e *OptionsError) Error() string { return e.Err.Error() }

// Unwrap gives what is wrong.
func (e *OptionsError) Unwrap() error { return e.Err }

// ErrNoService says that nothing answers at the endpoint.
var ErrNoService = errors.New("no service answers there")

// cleanUpTimeout bounds the deletion of what was made; an interrupted run waits no longer.
const cleanUpTimeout = 30 * time.Second

// Check runs the cases and calls each, unless it is nil, with every result as it comes, from one goroutine. It blocks until all
// jobs that it made are deleted, also when ctx ends before; the report then says that it was interrupted. Its error is an
// [*OptionsError], or wraps [ErrNoService].
func Check(ctx context.Context, o Options, each func(Result)) (Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Report{}, &OptionsError{err}
	}
	r := &runner{
		o: o, jobs: map[string]*made{}, finished: map[string]*finishedJob{}, secrets: map[string]string{}, each: each,
		report: Report{Endpoint: o.Endpoint, Protocol: o.Protocol, Strict: o.Strict},
	}
	for name, value := range o.Headers {
		if len(value) >= 8 { // a shorter one is found in any text
			r.secrets["header "+name] = value
		}
	}
	if r.d, err = r.dial(o.Endpoint); err != nil {
		return Report{}, &OptionsError{err}
	}
	defer func() { r.d.close() }()
	if first := r.reach(ctx); first.lost {
		return r.report, fmt.Errorf("conformance: %s: %w: %s", o.Endpoint, ErrNoService, short(first.message))
	}
	r.listed = r.list(ctx)
	r.choose()
	r.cases(ctx)
	r.cleanUp(ctx)
	r.report.Interrupted = ctx.Err() != nil
	return r.report, nil
}

// made is a job that is to be deleted at the end.
type made struct {
	job
	gone bool
}

// finishedJob is a job that was brought to its end for the cases that need one.
type finishedJob struct {
	job  job
	last reply
}

// runner runs the cases, one after the other.
type runner struct {
	o      Options
	d      driver
	each   func(Result)
	report Report
	listed reply
	// chosen are the plugins that are tried, the asynchronous ones first.
	chosen   []plugin
	finished map[string]*finishedJob
	secrets  map[string]string
	dead     string

	mu    sync.Mutex
	jobs  map[string]*made
	order []string
	seen  []reply // errors of the service
}

// maxSeen bounds how many errors are kept to be judged.
const maxSeen = 2000

func (r *runner) dial(endpoint string) (driver, error) { return dial(r.o, endpoint) }

func dial(o Options, endpoint string) (driver, error) {
	if o.Protocol == REST {
		d, err := dialREST(o, endpoint)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	d, err := dialGRPC(o, endpoint)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// fresh makes another connection to the service; dial has succeeded before, so it does again.
func (r *runner) fresh() driver {
	d, err := r.dial(r.o.Endpoint)
	if err != nil {
		return r.d
	}
	return d
}

// reach waits until the service answers, for RecoverTimeout.
func (r *runner) reach(ctx context.Context) reply {
	ctx, cancel := context.WithTimeout(ctx, r.o.RecoverTimeout)
	defer cancel()
	var before *reply // that time is up says less than why it had not worked before
	for {
		d := r.fresh()
		now := r.listBy(ctx, d)
		if d != r.d {
			d.close()
		}
		switch {
		case !now.lost:
			return now
		case ctx.Err() == nil:
			before = &now
		case before != nil:
			return *before
		default:
			return now
		}
		wait(ctx, 50*time.Millisecond)
	}
}

func (r *runner) listBy(ctx context.Context, d driver) reply {
	ctx, cancel := context.WithTimeout(ctx, r.o.CallTimeout)
	defer cancel()
	return d.list(ctx)
}

func (r *runner) list(ctx context.Context) reply { return r.listBy(ctx, r.d) }

// wait waits, for no longer than ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// choose finds the plugins that are to be tried.
func (r *runner) choose() {
	for _, p := range r.listed.plugins {
		if p.taskType == "" || r.o.TaskType != "" && p.taskType != r.o.TaskType || r.o.PluginVersion != "" && p.version != r.o.PluginVersion {
			continue
		}
		if !slices.ContainsFunc(r.chosen, func(q plugin) bool { return q.String() == p.String() }) {
			r.chosen = append(r.chosen, p)
		}
	}
	slices.SortStableFunc(r.chosen, func(a, b plugin) int {
		switch {
		case a.sync == b.sync:
			return 0
		case b.sync:
			return -1
		default:
			return 1
		}
	})
}

func (r *runner) plugins(sync bool) []plugin {
	var out []plugin
	for _, p := range r.chosen {
		if p.sync == sync {
			out = append(out, p)
		}
	}
	return out
}

// cases runs all of them.
func (r *runner) cases(ctx context.Context) {
	for i := range suite {
		c := &suite[i]
		if !slices.Contains(c.Protocols, r.o.Protocol) || r.o.Run != nil && !r.o.Run.MatchString(c.ID) {
			continue
		}
		var plugins []plugin
		none := ""
		switch c.scope {
		case once:
			plugins = []plugin{{}}
		case any1, async:
			plugins = r.plugins(false)
			none = "the service lists no asynchronous plugin"
			if c.scope == any1 && len(plugins) > 1 {
				plugins = plugins[:1]
			}
		case sync1:
			plugins = r.plugins(true)
			none = "the service lists no synchronous plugin"
		}
		if r.o.TaskType != "" {
			none += fmt.Sprintf(" for task type %q", r.o.TaskType)
		}
		if len(plugins) == 0 {
			r.tell(Result{Case: c.ID, Area: c.Area(), Level: c.Level, Purpose: c.Purpose, Outcome: Skipped, Reason: none})
		}
		for _, p := range plugins {
			if ctx.Err() != nil {
				return
			}
			r.try(ctx, c, p)
		}
	}
}

func (r *runner) tell(res Result) {
	r.report.Results = append(r.report.Results, res)
	if r.each != nil {
		r.each(res)
	}
}

// try runs one case with one plugin, and then looks whether the service is still there.
func (r *runner) try(ctx context.Context, c *Case, p plugin) {
	res := Result{Case: c.ID, Area: c.Area(), Level: c.Level, Purpose: c.Purpose, Outcome: Passed}
	if p.taskType != "" {
		res.Plugin = p.String()
	}
	if r.dead != "" {
		res.Outcome, res.Reason = Skipped, r.dead
		r.tell(res)
		return
	}
	pr := &probe{runner: r, ctx: ctx, c: c, plugin: p}
	begin := time.Now()
	pr.run()
	if ctx.Err() != nil {
		return // what failed may have failed for that
	}
	pr.alive()
	res.Duration = time.Since(begin)
	switch {
	case len(pr.problems) > 0:
		res.Outcome, res.Problems = Failed, pr.problems
	case pr.skipped != "":
		res.Outcome, res.Reason = Skipped, pr.skipped
	}
	r.tell(res)
}

// alive checks that the service answers after a case; if it does not, it is waited for, and restarted if that can be done.
func (p *probe) alive() {
	p.redial()
	after := p.list(p.ctx)
	if !after.lost || p.ctx.Err() != nil {
		return
	}
	p.problems = append(p.problems, Problem{
		Sent: "what this case sends, and then " + after.sent, Got: after.got(),
		Due: "an answer: whatever is sent, the service stays", Contract: link(secBad),
	})
	if p.reach(p.ctx).lost && p.o.Restart != nil && p.o.Restart(p.ctx) == nil {
		p.reach(p.ctx)
	}
	p.redial()
	if after = p.list(p.ctx); after.lost {
		p.dead = "the service does not answer any more since " + p.c.ID
	}
}

// redial replaces the connection, which may be waiting to be made again, or be broken by now.
func (r *runner) redial() {
	r.d.close()
	if d, err := r.dial(r.o.Endpoint); err == nil {
		r.d = d
	}
}

// cleanUp deletes what was made, also after an interruption.
func (r *runner) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	r.redial()
	for _, name := range r.order {
		m := r.jobs[name]
		switch {
		case m.gone:
			continue
		case r.dead != "":
			r.report.Left = append(r.report.Left, Left{m.plugin.String(), m.show(), r.dead})
			continue
		}
		var last reply
		for range 3 {
			one, end := context.WithTimeout(ctx, r.o.CallTimeout)
			last = r.d.delete(one, m.job)
			end()
			if last.code == codes.OK && !last.lost || last.code == codes.NotFound {
				m.gone = true
				break
			}
			wait(ctx, 100*time.Millisecond)
		}
		if !m.gone {
			r.report.Left = append(r.report.Left, Left{m.plugin.String(), m.show(), "its deletion gave " + last.got()})
		}
	}
}

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

// ask makes a call of any kind.
func (p *probe) ask(fn func(ctx context.Context) reply) reply {
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

// create makes a job with a driver; the job is deleted at the end.
func (p *probe) createBy(d driver, c call) reply {
	r := p.ask(func(ctx context.Context) reply { return d.create(ctx, c) })
	p.keepCreated(c, &r)
	return r
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

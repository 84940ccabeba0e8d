package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// OptionsError says that nothing was sent, because the options are wrong.
type OptionsError struct{ Err error }

func (e *OptionsError) Error() string { return e.Err.Error() }

// Unwrap gives what is wrong.
func (e *OptionsError) Unwrap() error { return e.Err }

// ErrNoService says that nothing answers at the endpoint.
var ErrNoService = errors.New("no service answers there")

// cleanUpTimeout is how long the deletion of what was made goes on without getting anywhere.
const cleanUpTimeout = 30 * time.Second

// Check runs the cases and calls each, unless it is nil, with every result as it comes, from one goroutine. It blocks until all
// jobs that it made are deleted, also when ctx ends before; the report then says that it was interrupted. Its error is an
// [*OptionsError], or wraps [ErrNoService].
func Check(ctx context.Context, o Options, each func(Result)) (Report, error) {
	return check(ctx, o, func(_ *Result, run func() *Result) {
		if res := run(); res != nil && each != nil {
			each(*res)
		}
	})
}

// check is Check, where around runs each case by run, or does not. It is told what will be run; what comes of it is nil when the run
// was interrupted.
func check(ctx context.Context, o Options, around func(named *Result, run func() *Result)) (Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Report{}, &OptionsError{err}
	}
	r := &runner{
		o: o, jobs: map[string]*made{}, finished: map[string]*finishedJob{}, around: around,
		report: Report{Endpoint: o.Endpoint, Protocol: o.Protocol, Strict: o.Strict},
	}
	for name, value := range o.Headers {
		for _, secret := range []string{value, value[strings.LastIndex(value, " ")+1:]} { // as in "Bearer token"
			if len(secret) >= 8 && !slices.Contains(r.secrets, secret) { // a shorter one is found in any text
				r.secrets = append(r.secrets, secret)
				r.hide = append(r.hide, secret, "(the value of header "+name+")")
			}
		}
	}
	if r.d, err = r.dial(o.Endpoint); err != nil {
		return Report{}, &OptionsError{err}
	}
	defer func() { r.d.close() }()
	if first := r.reach(ctx, true); first.lost {
		said := short(first.message)
		if advice, _ := adviceOn(first.message); advice != "" {
			said += "; " + advice
		}
		return r.report, fmt.Errorf("conformance: %s: %w: %s", o.Endpoint, ErrNoService, r.hidden(said))
	}
	r.listed = r.patient(ctx, o.CallTimeout, r.d.list)
	r.choose()
	func() {
		defer r.cleanUp(ctx) // also when a case or each panics, or each ends a test
		r.cases(ctx)
	}()
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
	around func(*Result, func() *Result)
	report Report
	listed reply
	// chosen are the plugins that are tried, the asynchronous ones first.
	chosen   []plugin
	finished map[string]*finishedJob
	// secrets are the credentials of the options; hide has what stands for each in a report.
	secrets, hide []string
	dead          string
	provoked      bool

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

// adviceOn says what would be right where something answers and speaks otherwise. If sure, waiting is in vain.
func adviceOn(message string) (advice string, sure bool) {
	for _, one := range []struct {
		sign, advice string
		sure         bool
	}{
		{"malformed HTTP response", "what answers speaks no HTTP/1.1; is it gRPC?", true},
		{"http2: frame too large", "what answers speaks no HTTP/2; is it REST?", true},
		{"error reading server preface", "what answers speaks no gRPC, or wants TLS", false},
		{"server gave HTTP response to HTTPS client", "what answers speaks no TLS", true},
		{"does not look like a TLS handshake", "what answers speaks no TLS", true},
		{"failed to verify certificate", "its certificate must be for this name, and of an authority that is trusted", true},
		{"certificate required", "it wants a client certificate", true},
	} {
		if strings.Contains(message, one.sign) {
			return one.advice, one.sure
		}
	}
	return "", false
}

// reach waits until the service answers, for RecoverTimeout; at first not if it never will.
func (r *runner) reach(ctx context.Context, first bool) reply {
	ctx, cancel := context.WithTimeout(ctx, r.o.RecoverTimeout)
	defer cancel()
	var before *reply // that time is up says less than why it had not worked before
	for {
		d := r.fresh()
		now := r.listBy(ctx, d)
		_, inVain := adviceOn(now.message)
		if d != r.d {
			d.close()
		}
		switch {
		case !now.lost || first && inVain:
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

// retryable says that the service has no capacity for the call. What is too large will be so the next time.
func retryable(r *reply) bool {
	return !r.lost && r.status != http.StatusRequestEntityTooLarge && (r.code == codes.Unavailable || r.code == codes.ResourceExhausted || r.code == codes.Aborted)
}

// The pauses before a call is made again for which the service had no capacity and asked for no pause of its own.
var pauses = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second}

// patient makes a call of at most limit. One that the service has no capacity for is made again, as propeller would: after the
// pause that it asks for, as long as all pauses are within CallTimeout, and otherwise a few times.
func (r *runner) patient(ctx context.Context, limit time.Duration, fn func(ctx context.Context) reply) reply {
	left := r.o.CallTimeout
	for try := 0; ; try++ {
		one, cancel := context.WithTimeout(ctx, limit)
		got := fn(one)
		cancel()
		r.note(got)
		pause := got.pause
		if !got.hasRetry || got.badRetry {
			pause = left + 1
			if try < len(pauses) {
				pause = pauses[try]
			}
		}
		if !retryable(&got) || pause > left || ctx.Err() != nil {
			if try > 0 {
				got.sent += fmt.Sprintf(", %d times, since the service had no capacity for it", try+1)
			}
			return got
		}
		pause = max(pause, time.Millisecond) // a service that asks for no pause at all
		left -= pause
		wait(ctx, pause)
	}
}

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
		if !r.o.runs(c) {
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
		if !r.listed.ok() {
			none = "the service gave no list of plugins: " + r.listed.got()
		}
		named := Result{Case: c.ID, Area: c.Area(), Level: c.Level, Purpose: c.Purpose}
		if len(plugins) == 0 {
			r.around(&named, func() *Result {
				named.Outcome, named.Reason = Skipped, none
				return r.tell(&named)
			})
		}
		for _, p := range plugins {
			if ctx.Err() != nil {
				return
			}
			one := named
			if p.taskType != "" {
				one.Plugin = p.String()
			}
			r.around(&one, func() *Result { return r.try(ctx, c, p, &one) })
		}
	}
}

// tell adds a result to the report. A service that shows secrets is no reason to show them once more.
func (r *runner) tell(res *Result) *Result {
	res.Reason = r.hidden(res.Reason)
	for i, one := range res.Problems {
		res.Problems[i] = Problem{r.hidden(one.Sent), r.hidden(one.Got), r.hidden(one.Due), one.Contract}
	}
	r.report.Results = append(r.report.Results, *res)
	return res
}

func (r *runner) hidden(text string) string { return strings.NewReplacer(r.hide...).Replace(text) }

// try runs one case with one plugin, and then looks whether the service is still there. It gives nil when it was interrupted.
func (r *runner) try(ctx context.Context, c *Case, p plugin, res *Result) *Result {
	if r.dead != "" {
		res.Outcome, res.Reason = Skipped, r.dead
		return r.tell(res)
	}
	pr := &probe{runner: r, ctx: ctx, c: c, plugin: p}
	begin := time.Now()
	pr.run()
	if ctx.Err() != nil {
		return nil // what failed may have failed for that
	}
	pr.alive()
	res.Duration = time.Since(begin)
	switch {
	case len(pr.problems) > 0:
		res.Outcome, res.Problems = Failed, pr.problems
	case pr.skipped != "":
		res.Outcome, res.Reason = Skipped, pr.skipped
	default:
		res.Outcome = Passed
	}
	return r.tell(res)
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
	if p.reach(p.ctx, false).lost && p.o.Restart != nil && p.o.Restart(p.ctx) == nil {
		p.reach(p.ctx, false)
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

// cleanUp deletes what was made, also after an interruption. Eight at a time are no load, and are quick enough with a slow service.
func (r *runner) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stuck := time.AfterFunc(cleanUpTimeout, cancel)
	defer stuck.Stop()
	r.redial()
	var left []*made
	for _, name := range r.order {
		if m := r.jobs[name]; !m.gone {
			left = append(left, m)
		}
	}
	why := make([]string, len(left)) // for each that stays
	turns := make(chan struct{}, 8)
	var all sync.WaitGroup
	for i, m := range left {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			if why[i] = r.remove(ctx, m.job); why[i] == "" {
				stuck.Reset(cleanUpTimeout)
			}
		})
	}
	all.Wait()
	for i, m := range left {
		if why[i] != "" {
			r.report.Left = append(r.report.Left, Left{m.plugin.String(), m.show(), r.hidden(why[i])})
		}
	}
}

// remove deletes a job, and says why it could not.
func (r *runner) remove(ctx context.Context, j job) string {
	if r.dead != "" {
		return r.dead
	}
	var last reply
	for range 3 {
		last = r.patient(ctx, r.o.CallTimeout, func(ctx context.Context) reply { return r.d.delete(ctx, j) })
		if last.ok() || last.code == codes.NotFound && !last.lost {
			return ""
		}
		wait(ctx, 100*time.Millisecond)
	}
	return "its deletion gave " + last.got()
}

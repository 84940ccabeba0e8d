package conformance

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

var pollCases = []Case{
	{ID: "poll/phase-is-set", Level: Must, Contract: secGet, Protocols: both, scope: async,
		Purpose: "A poll gives one of the eight phases.",
		run: func(p *probe) {
			j := p.start(p.newCall())
			r := p.get(j)
			p.must(r.ok(), &r, "OK: the job's state")
			p.check(phases[r.state.phase], &r, "one of %s", strings.Join(slices.Sorted(maps.Keys(phases)), ", "))
		}},
	{ID: "poll/job-succeeds", Level: Must, Contract: secGet, Protocols: both, scope: async,
		Purpose: "The job that the template and inputs describe succeeds.",
		run: func(p *probe) {
			f := p.done()
			if p.minimal() && f.last.ok() && f.last.state.final() && f.last.state.phase != "SUCCEEDED" {
				p.skip("the job of the minimal template fails (%s); give a template and inputs of one that succeeds", f.last.got())
			}
			if f.last.ok() && !phases[f.last.state.phase] {
				p.skip("its phase is not set (poll/phase-is-set says more)")
			}
			p.must(f.last.ok(), &f.last, "OK: the job's state")
			p.check(f.last.state.phase == "SUCCEEDED", &f.last, "phase SUCCEEDED within %s", p.o.JobTimeout)
		}},
	{ID: "poll/outputs-fit", Level: Must, Contract: secGet, Protocols: both, scope: async,
		Purpose: "The outputs in the answer are those that the template's interface declares.",
		run: func(p *probe) {
			f := p.succeeded()
			p.outputsFit(&f.last)
		}},
	{ID: "poll/repeats", Level: Must, Contract: secGet, Protocols: both, scope: async,
		Purpose: "A job that has ended stays as it ended, however often it is polled, over whichever connection.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() || !f.last.state.final() {
				p.skip("no job ended (poll/job-succeeds says more): %s", f.last.got())
			}
			d := p.fresh()
			defer d.close()
			for _, d := range []driver{p.d, p.d, d} {
				r := p.getBy(d, f.job)
				p.sameEnd(&f.last, &r)
			}
		}},
	{ID: "poll/unknown-job", Level: Must, Contract: secGet, Protocols: both, scope: async,
		Purpose: "A poll of a job that was never created is NOT_FOUND.",
		run: func(p *probe) {
			for range 2 {
				r := p.get(p.nobodys())
				p.refused(&r, "there is no such job", codes.NotFound)
			}
		}},
	{ID: "poll/unknown-task-type", Level: Must, Contract: secGet, Protocols: both, scope: once,
		Purpose: "A poll for a task type that the service does not have is NOT_FOUND.",
		run: func(p *probe) {
			r := p.get(job{plugin: plugin{taskType: "conformance_no_such_type", version: "v1"}, id: []byte("some-job")})
			p.refused(&r, "the service has no such plugin", codes.NotFound)
		}},
	{ID: "poll/log-links", Level: Should, Contract: secGet, Protocols: both, scope: async,
		Purpose: "Log links have a name and an absolute URI.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() {
				p.skip("no job could be polled: %s", f.last.got())
			}
			if len(f.last.state.links) == 0 {
				p.skip("the job has no log links")
			}
			for _, l := range f.last.state.links {
				u, err := url.Parse(l.GetUri())
				p.say(l.GetName() != "" && err == nil && u.IsAbs(), f.last.sent, fmt.Sprintf("log link %q to %q", l.GetName(), l.GetUri()), "a name and an absolute URI")
			}
		}},
	{ID: "poll/job-fails", Level: Must, Contract: secGet, Protocols: both, scope: async,
		Purpose: "A job that cannot succeed ends as failed, or its create is refused as the user's error.",
		run: func(p *probe) {
			r := p.failing()
			if refusesTemplate(&r) {
				return
			}
			p.must(r.ok(), &r, "OK: the job's state")
			if !phases[r.state.phase] {
				p.skip("its phase is not set (poll/phase-is-set says more)")
			}
			p.check(r.state.phase == "FAILED" || r.state.phase == "RETRYABLE_FAILED", &r, "phase FAILED or RETRYABLE_FAILED")
		}},
	{ID: "poll/failure-says-why", Level: Should, Contract: secGet, Protocols: both, scope: async,
		Purpose: "A job that failed says why: a message, and an error code.",
		run: func(p *probe) {
			r := p.failing()
			if !r.ok() || !r.state.final() || r.state.phase == "SUCCEEDED" {
				p.skip("no job failed: %s", r.got())
			}
			p.check(r.state.message != "", &r, "a message that says why the job failed")
			p.say(r.state.hasError && r.state.code != "", r.sent, fmt.Sprintf("error code %q", r.state.code), "an error code (over gRPC, agent_error.code)")
		}},
}

// failing makes a job that fails, and gives how it ended, or how its create was refused.
func (p *probe) failing() reply {
	if p.o.FailingInputs == nil && p.o.FailingTemplate == nil {
		p.skip("there is no job that fails to try this with; give FailingInputs (--failing-inputs)")
	}
	template, inputs := p.o.FailingTemplate, p.o.FailingInputs
	if template == nil {
		template = p.o.Template
	}
	j, r := p.tryStart(p.callOf(p.plugin, template, inputs))
	if refusesTemplate(&r) {
		return r
	}
	if !r.ok() || len(r.id) == 0 || len(r.id) > maxID {
		p.noJob(r)
	}
	return p.await(p.d, j)
}

// outputsFit checks the names and types of outputs that stand in an answer; a job may have written them to its prefix instead.
func (p *probe) outputsFit(r *reply) {
	if p.minimal() {
		p.skip("the minimal template declares no outputs, and a plugin may give some all the same")
	}
	declared := p.o.Template.GetInterface().GetOutputs().GetVariables()
	if r.state.outputs == nil {
		if len(declared) > 0 {
			p.skip("the outputs are not in the answer; they may be at the output prefix")
		}
		return
	}
	given := r.state.outputs.GetLiterals()
	wrong := mismatch(declared, given)
	p.say(wrong == "", r.sent, fmt.Sprintf("outputs %q: %s", slices.Sorted(maps.Keys(given)), wrong),
		fmt.Sprintf("outputs %q, of the types that the template's interface declares", slices.Sorted(maps.Keys(declared))))
}

// sameEnd checks that a job is as it ended.
func (p *probe) sameEnd(want, got *reply) {
	if !p.success(got, "the state of a job that has ended") {
		return
	}
	if p.check(got.state.phase == want.state.phase, got, "phase %s, in which the job ended", want.state.phase) {
		p.say(proto.Equal(want.state.outputs, got.state.outputs), got.sent, "outputs "+short(got.state.outputs.String()), "outputs "+short(want.state.outputs.String())+", with which the job ended")
	}
}

var deleteCases = []Case{
	{ID: "delete/finished", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job that has ended succeeds.",
		run: func(p *probe) {
			j := p.start(p.newCall())
			p.await(p.d, j)
			r := p.delete(j)
			p.success(&r, "the job has ended")
		}},
	{ID: "delete/twice", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job again succeeds.",
		run: func(p *probe) {
			j := p.start(p.newCall())
			if first := p.delete(j); !first.ok() {
				p.skip("the first deletion failed (delete/finished says more): %s", first.got())
			}
			for range 2 {
				r := p.delete(j)
				r.sent += ", again"
				p.success(&r, "the job is gone already")
			}
		}},
	{ID: "delete/unknown", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job that was never created succeeds.",
		run: func(p *probe) {
			r := p.delete(p.nobodys())
			p.success(&r, "what is not there is deleted")
		}},
	{ID: "delete/then-poll", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "A poll of a deleted job gives NOT_FOUND or a state, and no fault of the service.",
		run: func(p *probe) {
			j := p.start(p.newCall())
			p.delete(j)
			r := p.get(j)
			r.sent += " after the job's deletion"
			if !r.ok() {
				p.refused(&r, "the job is deleted", codes.NotFound)
			}
		}},
	{ID: "delete/leaves-others-alone", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job leaves another one of the same task as it is.",
		run: func(p *probe) {
			f := p.succeeded()
			other := p.start(p.newCall())
			if bytes.Equal(other.id, f.job.id) {
				p.skip("the plugin gives all jobs of a task the same id")
			}
			p.delete(other)
			r := p.get(f.job)
			r.sent += " after the deletion of " + other.show()
			p.sameEnd(&f.last, &r)
		}},
	{ID: "delete/in-mid-job", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job that runs ends it: soon, a poll gives NOT_FOUND or a final phase, and not that it succeeded.",
		run: func(p *probe) {
			j := p.running()
			r := p.delete(j)
			p.must(r.ok(), &r, "OK: the job is ended")
			p.ended(j, " after the job's deletion")
		}},
	{ID: "delete/in-mid-job-twice", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job that runs again, and many times at once, succeeds.",
		run: func(p *probe) {
			j := p.running()
			if first := p.delete(j); !first.ok() {
				p.skip("the first deletion failed (delete/in-mid-job says more): %s", first.got())
			}
			replies := atOnce(8, func(int) reply { return p.delete(j) })
			for i := range replies {
				p.success(&replies[i], "the job is being deleted already")
			}
		}},
}

// ended checks that a job that was deleted while it ran is ended by that.
func (p *probe) ended(j job, after string) {
	r := p.await(p.d, j)
	r.sent += after
	over := r.code == codes.NotFound && !r.lost || r.ok() && r.state.final() && r.state.phase != "SUCCEEDED"
	p.check(over, &r, "NOT_FOUND, ABORTED or a failure, within %s: the job is told to end", p.o.JobTimeout)
}

// running gives a job that runs.
func (p *probe) running() job {
	j := p.startLong()
	if r := p.get(j); !r.ok() || r.state.final() {
		p.skip("LongInputs make a job that does not last (create/does-not-wait says more): %s", r.got())
	}
	return j
}

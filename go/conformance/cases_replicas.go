package conformance

import (
	"bytes"
)

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
			there.sent += " at the replica"
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
			r.sent += " at the replica"
			p.must(r.ok(), &r, "OK: the replica finds the job by its id alone")
			p.ended(j, " after its deletion at the replica")
		}},
	{ID: "replicas/same-key", Level: Should, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A create that is repeated at another replica answers with the first job.",
		run: func(p *probe) {
			d := p.replica()
			defer d.close()
			c := p.honoured()
			first := p.create(c)
			r := p.createBy(d, c)
			r.sent += ", at the replica"
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
			r.sent += " after a restart"
			p.must(r.ok(), &r, "OK: the job is found by its id alone")
			p.check(r.state.phase == "SUCCEEDED", &r, "phase SUCCEEDED within %s", p.o.JobTimeout)
		}},
	{ID: "restarts/result-stays", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job that had ended before a restart is as it ended.",
		run: func(p *probe) {
			f := p.succeeded()
			p.restart()
			r := p.get(f.job)
			r.sent += " after a restart"
			p.sameEnd(&f.last, &r)
		}},
	{ID: "restarts/delete", Level: Must, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A job that runs can be ended after a restart.",
		run: func(p *probe) {
			j := p.running()
			p.restart()
			r := p.delete(j)
			r.sent += " after a restart"
			p.must(r.ok(), &r, "OK: the job is found by its id alone")
			p.ended(j, " after a restart and the job's deletion")
		}},
	{ID: "restarts/same-key", Level: Should, Contract: secStay, Protocols: both, scope: async,
		Purpose: "A create that is repeated with its key after a restart answers with the first job.",
		run: func(p *probe) {
			c := p.honoured()
			first := p.create(c)
			p.restart()
			r := p.create(c)
			r.sent += ", after a restart"
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
	r := p.reach(p.ctx, false)
	p.redial()
	p.must(!r.lost, &r, "an answer within %s after the restart", p.o.RecoverTimeout)
}

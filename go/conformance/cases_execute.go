package conformance

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

var executeCases = []Case{
	{ID: "execute/ends", Level: Must, Contract: secExecute, Protocols: both, scope: sync1,
		Purpose: "A task of a synchronous plugin is answered with a final phase.",
		run: func(p *probe) {
			r := p.executeOK(p.newCall())
			p.check(r.state.final(), &r, "SUCCEEDED, FAILED, RETRYABLE_FAILED or ABORTED")
		}},
	{ID: "execute/succeeds", Level: Must, Contract: secExecute, Protocols: both, scope: sync1,
		Purpose: "The task that the template and inputs describe succeeds, with the outputs that its interface declares.",
		run: func(p *probe) {
			r := p.executeOK(p.newCall())
			if !r.state.final() {
				p.skip("it did not end (execute/ends says more)")
			}
			if p.minimal() && r.state.phase != "SUCCEEDED" {
				p.skip("the minimal template fails (%s); give a template and inputs that succeed", r.got())
			}
			p.must(r.state.phase == "SUCCEEDED", &r, "phase SUCCEEDED")
			if !p.minimal() {
				p.outputsFit(&r)
			}
		}},
	{ID: "execute/repeats", Level: Must, Contract: secExecute, Protocols: both, scope: sync1,
		Purpose: "A call that is repeated with its key, because the answer was lost, is answered again in the same way.",
		run: func(p *probe) {
			c := p.newCall()
			first := p.executeOK(c)
			again := p.execute(c)
			if p.success(&again, "the same call again") {
				p.check(again.state.phase == first.state.phase, &again, "phase %s, as at first", first.state.phase)
			}
		}},
	{ID: "execute/unknown-task-type", Level: Must, Contract: secExecute, Protocols: both, scope: sync1,
		Purpose: "A synchronous call for a task type that the service does not have is NOT_FOUND.",
		run: func(p *probe) {
			r := p.execute(p.callFor(plugin{taskType: "conformance_no_such_type", version: "v1", sync: true}))
			p.refused(&r, "the service has no such plugin", codes.NotFound)
		}},
	{ID: "execute/without-header", Level: Must, Contract: secExecute, Protocols: onlyGRPC, scope: sync1,
		Purpose: "A synchronous call whose stream has inputs and no header is refused.",
		run: func(p *probe) {
			c := p.newCall()
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().stream(ctx, c, "ExecuteTaskSync with inputs and no header", inputsPart(c.inputs))
			})
			p.check(!r.lost && r.code != codes.OK && unfaulty(&r), &r, "INVALID_ARGUMENT: the header is missing")
		}},
	{ID: "execute/inputs-in-parts", Level: Should, Contract: secExecute, Protocols: onlyGRPC, scope: sync1,
		Purpose: "Inputs that come in one message each are put together.",
		run: func(p *probe) {
			c := p.newCall()
			whole := p.executeOK(c)
			parts := []*admin.ExecuteTaskSyncRequest{header(c)}
			for _, name := range slices.Sorted(maps.Keys(c.inputs.GetLiterals())) {
				parts = append(parts, inputsPart(&core.LiteralMap{Literals: map[string]*core.Literal{name: c.inputs.GetLiterals()[name]}}))
			}
			if len(parts) < 2 {
				p.skip("the task has no inputs")
			}
			parts = append(parts, inputsPart(&core.LiteralMap{}))
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().stream(ctx, c, "ExecuteTaskSync with each input in a message of its own, and an empty one", parts...)
			})
			if p.success(&r, "the inputs are complete") {
				p.check(r.state.phase == whole.state.phase, &r, "phase %s, as with all inputs in one message", whole.state.phase)
			}
		}},
	{ID: "execute/hung-up", Level: Must, Contract: secBroken, Protocols: both, scope: sync1,
		Purpose: "A synchronous call whose caller hangs up harms no other.",
		run: func(p *probe) {
			c := p.newCall()
			usual := p.executeOK(c).took
			for _, after := range moments(usual) {
				ctx, cancel := context.WithTimeout(p.ctx, after)
				p.d.execute(ctx, c)
				cancel()
			}
			r := p.execute(c)
			p.success(&r, "the same call, made again")
		}},
}

func (p *probe) execute(c call) reply {
	return p.patient(p.ctx, p.o.JobTimeout, func(ctx context.Context) reply { return p.d.execute(ctx, c) })
}

// executeOK makes a synchronous call that succeeds; a plugin may refuse the minimal template.
func (p *probe) executeOK(c call) reply {
	r := p.execute(c)
	if p.minimal() && refusesTemplate(&r) {
		p.skip("the plugin refuses the minimal template; give a template and inputs (it says: %s)", short(r.message))
	}
	if p.c.ID != "execute/ends" && (!r.ok() || r.state == nil) {
		p.skip("no such call succeeds (execute/ends says more): %s", r.got())
	}
	p.must(r.ok() && r.state != nil, &r, "OK with how the task ended")
	return r
}

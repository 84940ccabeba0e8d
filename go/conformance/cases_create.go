package conformance

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

var createCases = []Case{
	{ID: "create/gives-an-id", Level: Must, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create succeeds, and answers with an id of 1 byte to 64 KiB.",
		run: func(p *probe) {
			_, r := p.tryStart(p.newCall())
			if p.minimal() && refusesTemplate(&r) {
				p.noJob(r)
			}
			if refusesTemplate(&r) {
				p.must(false, &r, "OK with the id of a new job: the template and inputs of this run are to make one that succeeds, so they are wrong or the service is")
			}
			p.must(r.ok(), &r, "OK with the id of a new job")
			p.say(len(r.id) > 0 && len(r.id) <= maxID, r.sent, fmt.Sprintf("an id of %d bytes", len(r.id)), "an id of 1 to 65536 bytes")
		}},
	{ID: "create/does-not-wait", Level: Must, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create answers while its job has not ended.",
		run: func(p *probe) {
			j := p.startLong()
			r := p.get(j)
			p.must(r.ok(), &r, "OK: the job's state")
			p.check(!r.state.final(), &r, "a phase that is not final: LongInputs make a job that lasts")
			p.delete(j)
		}},
	{ID: "create/without-key", Level: Must, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create without an idempotency key succeeds: the connector plugin that ships with Flyte sends none.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			c.key = ""
			r := p.create(c)
			p.success(&r, "the id of a new job")
		}},
	{ID: "create/all-of-a-task", Level: Must, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create with labels, annotations, environment variables and an identity, as propeller sends them, succeeds.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			c.with = " with labels, annotations, environment variables, a service account and an identity"
			m := c.metadata
			m.Labels = map[string]string{"team": "søren", "flyte.org/node": "n0"}
			m.Annotations = map[string]string{"note": "line 1\nline 2 \"quoted\" 任务"}
			m.EnvironmentVariables = map[string]string{"FLYTE_K8S_ARRAY_INDEX": "3", "EMPTY": ""}
			m.K8SServiceAccount, m.MaxAttempts, m.Interruptible = "default", 3, true
			m.Identity = &core.Identity{K8SServiceAccount: "default"}
			r := p.create(c)
			p.success(&r, "the id of a new job")
		}},
	{ID: "create/unknown-fields", Level: Must, Contract: secBad, Protocols: both, scope: async,
		Purpose: "Fields that the service does not know are passed over, so that both sides can be renewed one after the other.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			var r reply
			if p.o.Protocol == REST {
				body := createBody(c)
				body["conformance_unknown"] = map[string]any{"deep": []any{1, "x", nil}}
				r = p.creating(c, func(ctx context.Context) reply {
					return p.rest().created(ctx, request{method: "PUT", path: pluginPath(c.plugin), body: asJSON(body), header: map[string]string{keyHeader: c.key}, says: "a create with the unknown field conformance_unknown"})
				})
			} else {
				raw := protowire.AppendVarint(protowire.AppendTag(p.wire(c), 1999, protowire.VarintType), 7)
				raw = protowire.AppendString(protowire.AppendTag(raw, 2000, protowire.BytesType), "unknown")
				r = p.creating(c, func(ctx context.Context) reply {
					return p.grpc().raw(ctx, "the unknown fields 1999 and 2000", methodCreate, c.plugin.version, raw)
				})
			}
			p.success(&r, "the id of a new job")
		}},
	{ID: "create/unknown-task-type", Level: Must, Contract: secCreate, Protocols: both, scope: once,
		Purpose: "A create for a task type that the service does not have is NOT_FOUND.",
		run: func(p *probe) {
			r := p.create(p.callFor(plugin{taskType: "conformance_no_such_type", version: "v1"}))
			p.refused(&r, "the service has no such plugin", codes.NotFound)
		}},
	{ID: "create/empty", Level: Must, Contract: secBad, Protocols: both, scope: any1,
		Purpose: "A create without a template is refused.",
		run: func(p *probe) {
			var r reply
			if p.o.Protocol == REST {
				r = p.creating(call{plugin: p.plugin}, func(ctx context.Context) reply {
					return p.rest().created(ctx, request{method: "PUT", path: pluginPath(p.plugin), body: []byte("{}")})
				})
			} else {
				r = p.creating(call{plugin: p.plugin}, func(ctx context.Context) reply {
					return p.grpc().raw(ctx, "an empty message", methodCreate, p.plugin.version, nil)
				})
			}
			p.refused(&r, "the request has no template", codes.InvalidArgument, codes.NotFound)
		}},
	{ID: "create/same-key-same-job", Level: Should, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create that is repeated with its key answers with the first job.",
		run: func(p *probe) {
			c := p.newCall()
			first := p.start(c)
			for range 2 {
				again := p.create(c)
				again.sent += ", again"
				p.success(&again, "the same create again")
				if again.ok() {
					p.check(bytes.Equal(first.id, again.id), &again, "the id of the first job, %s", first.show())
				}
			}
		}},
	{ID: "create/same-key-other-task", Level: Should, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create with the key of another request is ALREADY_EXISTS.",
		run: func(p *probe) {
			c := p.honoured()
			other := c
			other.template, _ = proto.Clone(c.template).(*core.TaskTemplate)
			other.template.Id = &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "conformance", Domain: "development", Name: "conformance.other", Version: "v2"}
			other.prefix = c.prefix + "/other"
			other.with = ", with which another task was created before"
			r := p.create(other)
			p.refused(&r, "the key was used for another request", codes.AlreadyExists)
		}},
	{ID: "create/same-key-at-once", Level: Should, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "Creates with one key that arrive at once give one job.",
		run: func(p *probe) {
			p.honoured()
			c := p.newCall()
			replies := atOnce(16, func(int) reply { return p.create(c) })
			ids := map[string]bool{}
			for i := range replies {
				r := &replies[i]
				if r.ok() {
					ids[string(r.id)] = true
				} else {
					p.check(retryable(r), r, "OK with the one job, or an error that is retried: UNAVAILABLE, RESOURCE_EXHAUSTED or ABORTED")
				}
			}
			p.say(len(ids) == 1, "16 creates with one key at once", fmt.Sprintf("%d jobs", len(ids)), "one job")
		}},
}

// wire is a create as bytes.
func (p *probe) wire(c call) []byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(createRequest(c))
	if err != nil {
		p.skip("the template cannot be sent: %v", err)
	}
	return raw
}

// honoured gives a create that was sent with its key, and skips the case when the service ignores keys.
func (p *probe) honoured() call {
	c := p.newCall()
	first := p.start(c)
	again := p.create(c)
	if !again.ok() || !bytes.Equal(first.id, again.id) {
		p.skip("the service does not honour keys (create/same-key-same-job says more)")
	}
	if other := p.create(p.newCall()); other.ok() && bytes.Equal(first.id, other.id) {
		p.skip("the plugin gives all jobs of a task the same id, so its keys cannot be told from it")
	}
	return c
}

// startLong makes a job that lasts.
func (p *probe) startLong() job {
	if p.o.LongInputs == nil && p.o.LongTemplate == nil {
		p.skip("there is no job that lasts to try this with; give LongInputs (--long-inputs)")
	}
	template, inputs := p.o.LongTemplate, p.o.LongInputs
	if template == nil {
		template = p.o.Template
	}
	return p.start(p.callOf(p.plugin, template, inputs))
}

package conformance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

var metadataCases = []Case{
	{ID: "metadata/lists-plugins", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "The service lists at least one plugin.",
		run: func(p *probe) {
			r := p.ask(p.d.list)
			p.must(r.ok(), &r, "OK: the list of plugins")
			p.say(len(r.plugins) > 0, r.sent, "an empty list", "at least one plugin")
		}},
	{ID: "metadata/serves-what-is-asked", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "The task type and plugin version that the options name are listed.",
		run: func(p *probe) {
			if p.o.TaskType == "" && p.o.PluginVersion == "" {
				p.skip("the options name no task type and no plugin version")
			}
			p.say(len(p.chosen) > 0, p.listed.sent, describe(p.listed.plugins), fmt.Sprintf("task type %q, plugin version %q (empty means any)", p.o.TaskType, p.o.PluginVersion))
		}},
	{ID: "metadata/task-types-have-names", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "Every plugin that is listed has a task type.",
		run: func(p *probe) {
			r := p.listing()
			for _, a := range r.agents {
				p.say(a.categories+a.oldTypes > 0, r.sent, fmt.Sprintf("agent %q without task types", a.name), "supported_task_categories")
			}
			for _, one := range r.plugins {
				p.say(one.taskType != "", r.sent, fmt.Sprintf("plugin %q with an empty task type", one.name), "the task type of the templates that it takes")
			}
		}},
	{ID: "metadata/categories", Level: Should, Contract: secListing, Protocols: onlyGRPC, scope: once,
		Purpose: "Agents list supported_task_categories, not only the deprecated supported_task_types.",
		run: func(p *probe) {
			r := p.listing()
			for _, a := range r.agents {
				p.say(a.categories > 0 || a.oldTypes == 0, r.sent, fmt.Sprintf("agent %q has supported_task_types alone", a.name), "supported_task_categories")
			}
		}},
	{ID: "metadata/plugin-versions", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "Plugin versions are 1 to 64 letters, digits and . _ + -, and begin with a letter or digit.",
		run: func(p *probe) {
			r := p.listing()
			for _, one := range r.plugins {
				p.say(versionForm.MatchString(one.version), r.sent, fmt.Sprintf("plugin version %q of task type %q", one.version, one.taskType), "a plugin version of the form "+versionForm.String())
			}
		}},
	{ID: "metadata/task-type-versions", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "Task type versions are positive numbers, or there are none, which means any.",
		run: func(p *probe) {
			r := p.listing()
			for _, one := range r.plugins {
				for _, v := range one.taskTypeVersions {
					p.say(v > 0, r.sent, fmt.Sprintf("task type version %d of %s", v, one), "a positive number; over gRPC, 0 for any")
				}
			}
		}},
	{ID: "metadata/no-doubles", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "No two plugins are listed for the same task type, task type version, plugin version and mode.",
		run: func(p *probe) {
			r := p.listing()
			seen := map[string]bool{}
			for _, one := range r.plugins {
				versions := one.taskTypeVersions
				if len(versions) == 0 {
					versions = []int32{0}
				}
				for _, v := range versions {
					name := fmt.Sprintf("%s for task type version %d", one, v)
					p.say(!seen[name], r.sent, name+" twice", "each once: propeller could not tell them apart")
					seen[name] = true
				}
			}
		}},
	{ID: "metadata/list-repeats", Level: Must, Contract: secListing, Protocols: both, scope: once,
		Purpose: "Listing again, and over another connection, gives the same.",
		run: func(p *probe) {
			first := p.listing()
			d := p.fresh()
			defer d.close()
			for _, d := range []driver{p.d, d} {
				again := p.ask(d.list)
				if p.success(&again, "the list of plugins, again") {
					p.say(describe(first.plugins) == describe(again.plugins), again.sent+" again", describe(again.plugins), "the same as before: "+describe(first.plugins))
				}
			}
		}},
	{ID: "metadata/get-agent", Level: Should, Contract: secListing, Protocols: onlyGRPC, scope: once,
		Purpose: "GetAgent gives each agent that is listed, by its name.",
		run: func(p *probe) {
			for _, a := range p.listing().agents {
				r := p.ask(func(ctx context.Context) reply { return p.grpc().getAgent(ctx, a.name) })
				if p.success(&r, "the agent") {
					p.say(r.agents[0].name == a.name, r.sent, fmt.Sprintf("agent %q", r.agents[0].name), "the agent of that name")
				}
			}
		}},
	{ID: "metadata/get-unknown-agent", Level: Should, Contract: secListing, Protocols: onlyGRPC, scope: once,
		Purpose: "GetAgent of a name that nobody has is NOT_FOUND.",
		run: func(p *probe) {
			r := p.ask(func(ctx context.Context) reply { return p.grpc().getAgent(ctx, "conformance-no-such-agent") })
			p.refused(&r, "there is no such agent", codes.NotFound)
		}},
	{ID: "metadata/rest-document", Level: Must, Contract: secREST, Protocols: onlyREST, scope: once,
		Purpose: "The list is application/json, and each plugin has the mode async or sync.",
		run: func(p *probe) {
			r := p.listing()
			p.check(r.isJSON(), &r, "Content-Type application/json")
			var body struct {
				Plugins []struct {
					Type string `json:"task_type"`
					Mode string `json:"mode"`
				} `json:"plugins"`
			}
			r.read(&body)
			for _, one := range body.Plugins {
				p.say(one.Mode == "async" || one.Mode == "sync", r.sent, fmt.Sprintf("mode %q of task type %q", one.Mode, one.Type), "async or sync")
			}
		}},
}

// listing gives the list, for cases that look at what stands in it.
func (p *probe) listing() reply {
	r := p.ask(p.d.list)
	if !r.ok() || len(r.plugins)+len(r.agents) == 0 {
		p.skip("nothing is listed (metadata/lists-plugins says more)")
	}
	return r
}

func describe(plugins []plugin) string {
	var names []string
	for _, one := range plugins {
		name := one.String()
		if len(one.taskTypeVersions) > 0 {
			name += fmt.Sprint(" for ", one.taskTypeVersions)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

func (p *probe) grpc() *grpcDriver {
	d, ok := p.d.(*grpcDriver)
	if !ok {
		p.skip("this is about gRPC")
	}
	return d
}

func (p *probe) rest() *restDriver {
	d, ok := p.d.(*restDriver)
	if !ok {
		p.skip("this is about REST")
	}
	return d
}

var createCases = []Case{
	{ID: "create/gives-an-id", Level: Must, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create succeeds, and answers with an id of 1 byte to 64 KiB.",
		run: func(p *probe) {
			_, r := p.tryStart(p.newCall())
			if p.minimal() && refusesTemplate(&r) {
				p.noJob(r)
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
				r = p.ask(func(ctx context.Context) reply {
					return p.rest().created(ctx, request{method: "PUT", path: pluginPath(c.plugin), body: asJSON(body), header: map[string]string{keyHeader: c.key}, says: "a create with the unknown field conformance_unknown"})
				})
			} else {
				raw := protowire.AppendVarint(protowire.AppendTag(p.wire(c), 1999, protowire.VarintType), 7)
				raw = protowire.AppendString(protowire.AppendTag(raw, 2000, protowire.BytesType), "unknown")
				r = p.ask(func(ctx context.Context) reply {
					return p.grpc().raw(ctx, "the unknown fields 1999 and 2000", methodCreate, c.plugin.version, raw)
				})
			}
			p.keepCreated(c, &r)
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
				r = p.ask(func(ctx context.Context) reply {
					return p.rest().created(ctx, request{method: "PUT", path: pluginPath(p.plugin), body: []byte("{}")})
				})
			} else {
				r = p.ask(func(ctx context.Context) reply {
					return p.grpc().raw(ctx, "an empty message", methodCreate, p.plugin.version, nil)
				})
			}
			p.keepCreated(call{plugin: p.plugin}, &r)
			p.refused(&r, "the request has no template", codes.InvalidArgument, codes.NotFound)
		}},
	{ID: "create/same-key-same-job", Level: Should, Contract: secCreate, Protocols: both, scope: async,
		Purpose: "A create that is repeated with its key answers with the first job.",
		run: func(p *probe) {
			c := p.newCall()
			first := p.start(c)
			for range 2 {
				again := p.create(c)
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

func retryable(r *reply) bool {
	return !r.lost && (r.code == codes.Unavailable || r.code == codes.ResourceExhausted || r.code == codes.Aborted)
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

// outputsFit checks the names of outputs that stand in an answer; a job may have written them to its prefix instead.
func (p *probe) outputsFit(r *reply) {
	if p.minimal() {
		p.skip("the minimal template declares no outputs, and a plugin may give some all the same")
	}
	declared := slices.Sorted(maps.Keys(p.o.Template.GetInterface().GetOutputs().GetVariables()))
	if r.state.outputs == nil {
		if len(declared) > 0 {
			p.skip("the outputs are not in the answer; they may be at the output prefix")
		}
		return
	}
	given := slices.Sorted(maps.Keys(r.state.outputs.GetLiterals()))
	p.say(slices.Equal(declared, given), r.sent, fmt.Sprintf("outputs %q", given), fmt.Sprintf("outputs %q, as the interface declares", declared))
}

// sameEnd checks that a job is as it ended.
func (p *probe) sameEnd(want, got *reply) {
	if !p.success(got, "the state of a job that has ended") {
		return
	}
	if p.check(got.state.phase == want.state.phase, got, "phase %s, in which the job ended", want.state.phase) {
		p.say(proto.Equal(want.state.outputs, got.state.outputs), got.sent, "other outputs than before", "the outputs with which the job ended")
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
			p.sameEnd(&f.last, &r)
		}},
	{ID: "delete/in-mid-job", Level: Must, Contract: secDelete, Protocols: both, scope: async,
		Purpose: "Deleting a job that runs ends it: soon, a poll gives NOT_FOUND or a final phase, and not that it succeeded.",
		run: func(p *probe) {
			j := p.running()
			r := p.delete(j)
			p.must(r.ok(), &r, "OK: the job is ended")
			end := time.Now().Add(p.o.JobTimeout)
			for {
				r = p.get(j)
				over := r.code == codes.NotFound && !r.lost || r.ok() && r.state.final() && r.state.phase != "SUCCEEDED"
				if over || time.Now().After(end) || p.ctx.Err() != nil || r.ok() && r.state.final() {
					p.check(over, &r, "NOT_FOUND, ABORTED or a failure within %s after the deletion", p.o.JobTimeout)
					return
				}
				wait(p.ctx, p.o.PollInterval)
			}
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

// running gives a job that runs.
func (p *probe) running() job {
	j := p.startLong()
	if r := p.get(j); !r.ok() || r.state.final() {
		p.skip("LongInputs make a job that does not last (create/does-not-wait says more): %s", r.got())
	}
	return j
}

// oddIDs are ids that no plugin gives, with what is odd about them.
var oddIDs = []struct{ name, what, id string }{
	{"unicode", "Unicode, and characters that mean something in a URL", "задача/任务 🙂?&=#%2F+;\\"},
	{"not-utf8", "bytes that are no UTF-8", "\xff\xfe\x00\x80\xc3("},
	{"control-characters", "control characters, line ends among them", "a\x01\r\nX-Injected: 1\r\n\r\n\x7f"},
	{"traversal", "a path to a file of the system", "../../../../../../etc/passwd"},
	{"sql", "a piece of SQL", "x'; DROP TABLE jobs; --"},
	{"json", "JSON of another kind than any id", `[[[{"__class__": "x"}]], 1e400]`},
	{"64-kib", "64 KiB, the longest id there may be", strings.Repeat("0123456789abcdef", maxID/16)},
}

var idCases = func() []Case {
	var out []Case
	for _, odd := range oddIDs {
		out = append(out, Case{
			ID: "ids/" + odd.name, Level: Must, Contract: secIDs, Protocols: both, scope: any1,
			Purpose: "A job id of " + odd.what + " is unknown: polls say so, deletions succeed.",
			run: func(p *probe) {
				j := job{plugin: p.plugin, id: []byte(odd.id)}
				for range 2 {
					r := p.get(j)
					p.refused(&r, "there is no such job", codes.NotFound, codes.InvalidArgument)
					p.say(!strings.Contains(r.message, "root:"), r.sent, "the text of a file of the system", "nothing of any file")
				}
				r := p.delete(j)
				p.check(r.ok() || !r.lost && (r.code == codes.NotFound || r.code == codes.InvalidArgument), &r, "OK, NOT_FOUND or INVALID_ARGUMENT: there is no such job")
			},
		})
	}
	return append(out,
		Case{ID: "ids/empty", Level: Must, Contract: secIDs, Protocols: both, scope: any1,
			Purpose: "A poll with an empty job id is refused.",
			run: func(p *probe) {
				r := p.get(job{plugin: p.plugin})
				p.refused(&r, "the call names no job", codes.InvalidArgument, codes.NotFound)
				r = p.delete(job{plugin: p.plugin})
				p.check(unfaulty(&r), &r, "OK, INVALID_ARGUMENT or NOT_FOUND: the call names no job")
			}},
		Case{ID: "ids/too-long", Level: Should, Contract: secIDs, Protocols: both, scope: any1,
			Purpose: "A job id of more than 64 KiB is refused.",
			run: func(p *probe) {
				r := p.get(job{plugin: p.plugin, id: bytes.Repeat([]byte("x"), maxID+1)})
				p.refused(&r, "no id is longer than 64 KiB", codes.InvalidArgument, codes.NotFound, codes.ResourceExhausted)
			}},
		Case{ID: "ids/not-its-own", Level: Must, Contract: secIDs, Protocols: both, scope: async,
			Purpose: "The id of a job with its last byte cut off, or with one more, is no job's, or the same job's: never a fault of the service.",
			run: func(p *probe) {
				j := p.start(p.newCall())
				for _, id := range [][]byte{j.id[:len(j.id)-1], append(slices.Clone(j.id), '!')} {
					if len(id) == 0 || len(id) > maxID {
						continue
					}
					r := p.get(job{plugin: p.plugin, id: id, prefix: j.prefix})
					p.check(unfaulty(&r), &r, "NOT_FOUND: there is no such job")
				}
			}},
		Case{ID: "ids/base64", Level: Should, Contract: secREST, Protocols: onlyREST, scope: any1,
			Purpose: "A job id that begins with base64: and is none is refused.",
			run: func(p *probe) {
				r := p.ask(func(ctx context.Context) reply {
					return p.rest().do(ctx, request{method: "GET", path: pluginPath(p.plugin) + "?job_id=base64:!!!"})
				})
				p.refused(&r, "that is no id", codes.InvalidArgument, codes.NotFound)
			}},
	)
}()

var versionCases = []Case{
	{ID: "versions/unknown-plugin-version", Level: Must, Contract: secVersions, Protocols: both, scope: async,
		Purpose: "A create for a plugin version that the service does not have is NOT_FOUND, and not done by another version.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			c.plugin.version = "conformance-0.0.1"
			r := p.create(c)
			p.refused(&r, "the service has no such version", codes.NotFound)
		}},
	{ID: "versions/poll-unknown-plugin-version", Level: Should, Contract: secVersions, Protocols: both, scope: async,
		Purpose: "A poll for a plugin version that the service does not have is NOT_FOUND.",
		run: func(p *probe) {
			j := p.done().job
			j.plugin.version = "conformance-0.0.1"
			r := p.get(j)
			p.refused(&r, "the service has no such version", codes.NotFound)
		}},
	{ID: "versions/none-named", Level: Must, Contract: secVersions, Protocols: onlyGRPC, scope: async,
		Purpose: "A create that names no plugin version succeeds: the connector plugin that ships with Flyte names none.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			c.noVersion = true
			r := p.create(c)
			p.success(&r, "the id of a new job, of the version that new tasks get")
		}},
	{ID: "versions/any-task-type-version", Level: Must, Contract: secVersions, Protocols: both, scope: async,
		Purpose: "A plugin that is listed for any task type version takes any.",
		run: func(p *probe) {
			if len(p.plugin.taskTypeVersions) > 0 {
				p.skip("the plugin is listed for the task type versions %v", p.plugin.taskTypeVersions)
			}
			p.start(p.newCall())
			c := p.newCall()
			c.template.TaskTypeVersion = 4711
			r := p.create(c)
			p.success(&r, "the id of a new job")
		}},
	{ID: "versions/unlisted-task-type-version", Level: Must, Contract: secVersions, Protocols: both, scope: async,
		Purpose: "A plugin that is listed for some task type versions refuses a template of another one.",
		run: func(p *probe) {
			if len(p.plugin.taskTypeVersions) == 0 {
				p.skip("the plugin is listed for any task type version")
			}
			if slices.ContainsFunc(p.listed.plugins, func(q plugin) bool {
				return q.taskType == p.plugin.taskType && q.version == p.plugin.version && len(q.taskTypeVersions) == 0 && q.sync == p.plugin.sync
			}) {
				p.skip("another plugin for the task type takes any version")
			}
			c := p.newCall()
			c.template.TaskTypeVersion = slices.Max(p.plugin.taskTypeVersions) + 1000
			r := p.create(c)
			p.refused(&r, "no plugin takes that task type version", codes.NotFound, codes.InvalidArgument)
		}},
}

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
	ctx, cancel := context.WithTimeout(p.ctx, p.o.JobTimeout)
	defer cancel()
	r := p.d.execute(ctx, c)
	p.note(r)
	return r
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

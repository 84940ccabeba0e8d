package conformance

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
)

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
					p.byBody(j, &r)
					p.refused(&r, "there is no such job", codes.NotFound, codes.InvalidArgument)
					p.say(!strings.Contains(r.message, "root:"), r.sent, "the text of a file of the system", "nothing of any file")
				}
				r := p.delete(j)
				p.byBody(j, &r)
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
				j := job{plugin: p.plugin, id: bytes.Repeat([]byte("x"), maxID+1)}
				r := p.get(j)
				p.byBody(j, &r)
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

// byBody skips the case when its id is too long for a URL, and the service has no call that takes it in a body: that is needed
// only by those whose own ids are as long.
func (p *probe) byBody(j job, r *reply) {
	if p.o.Protocol == REST && len(jobID(j.id)) >= longID && !r.lost && r.code == codes.Unimplemented {
		p.skip("the service takes no id of %d bytes or more (%s: %s)", longID, r.sent, r.got())
	}
}

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

package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
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

package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

var extraCases = []Case{
	{ID: "logs/page", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "A plugin gives a page of a job's log, and its pages come to an end, or says UNIMPLEMENTED.",
		run: func(p *probe) {
			f := p.succeeded()
			token := ""
			for page := range 1000 {
				r := p.ask(func(ctx context.Context) reply { return p.d.logs(ctx, f.job, 100, token) })
				if !r.lost && r.code == codes.Unimplemented {
					p.skip("the plugin gives no logs (%s)", r.got())
				}
				p.must(r.ok(), &r, "OK with a page, or UNIMPLEMENTED")
				if r.next == "" {
					return
				}
				p.must(r.next != token || page == 0, &r, "another token than that of the page before")
				token = r.next
			}
			p.say(false, "a page after the other, 1000 times", "always one more", "an end")
		}},
	{ID: "logs/unknown-job", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "The log of an unknown job is NOT_FOUND, or UNIMPLEMENTED where there are no logs.",
		run: func(p *probe) {
			r := p.ask(func(ctx context.Context) reply { return p.d.logs(ctx, p.nobodys(), 10, "") })
			p.refused(&r, "there is no such job, or no such ability", codes.NotFound, codes.Unimplemented)
		}},
	{ID: "metrics/series", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "A plugin gives a job's metrics, or says UNIMPLEMENTED.",
		run: func(p *probe) {
			f := p.succeeded()
			r := p.ask(func(ctx context.Context) reply {
				return p.d.metrics(ctx, f.job, []string{"EXECUTION_METRIC_USED_CPU_AVG"})
			})
			if !r.lost && r.code == codes.Unimplemented {
				p.skip("the plugin gives no metrics (%s)", r.got())
			}
			p.must(r.ok(), &r, "OK with the metrics, or UNIMPLEMENTED")
			for _, name := range r.series {
				p.check(name != "", &r, "a name for every metric")
			}
		}},
	{ID: "metrics/unknown-job", Level: Must, Contract: secOptional, Protocols: both, scope: async,
		Purpose: "The metrics of an unknown job are NOT_FOUND, or UNIMPLEMENTED where there are none.",
		run: func(p *probe) {
			r := p.ask(func(ctx context.Context) reply {
				return p.d.metrics(ctx, p.nobodys(), []string{"EXECUTION_METRIC_USED_CPU_AVG"})
			})
			p.refused(&r, "there is no such job, or no such ability", codes.NotFound, codes.Unimplemented)
		}},
	{ID: "operations/health", Level: Should, Contract: secOptional, Protocols: onlyGRPC, scope: once,
		Purpose: "gRPC's health service says SERVING.",
		run: func(p *probe) {
			var status healthpb.HealthCheckResponse_ServingStatus
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().do(ctx, "grpc.health.v1.Health/Check", "", "", func(ctx context.Context, _ *reply) error {
					res, err := healthpb.NewHealthClient(p.grpc().cc).Check(ctx, &healthpb.HealthCheckRequest{})
					status = res.GetStatus()
					return err
				})
			})
			if !r.lost && r.code == codes.Unimplemented {
				p.skip("the service has no health service (%s)", r.got())
			}
			p.must(r.ok(), &r, "OK")
			p.say(status == healthpb.HealthCheckResponse_SERVING, r.sent, status.String(), "SERVING, since the service answers calls")
		}},
	{ID: "operations/reflection", Level: Should, Contract: secOptional, Protocols: onlyGRPC, scope: once,
		Purpose: "gRPC's reflection, v1 or v1alpha, lists flyteidl's services.",
		run: func(p *probe) {
			r, names := p.reflect("v1")
			if !r.lost && r.code == codes.Unimplemented {
				r, names = p.reflect("v1alpha") // older, and all that some libraries have, Python's among them
			}
			if !r.lost && r.code == codes.Unimplemented {
				p.skip("the service has no reflection, neither v1 nor v1alpha (%s)", r.got())
			}
			p.must(r.ok(), &r, "OK")
			p.say(slices.Contains(names, "flyteidl.service.AgentMetadataService"), r.sent, fmt.Sprintf("%q", names), "flyteidl.service.AgentMetadataService among them")
		}},
	{ID: "operations/healthz", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /healthz is 200 with a status, as JSON.",
		run:     func(p *probe) { p.healthPage("/healthz") }},
	{ID: "operations/readyz", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /readyz is 200 with a status, as JSON, while the service takes calls.",
		run:     func(p *probe) { p.healthPage("/readyz") }},
	{ID: "operations/metrics", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /metrics is in Prometheus's text form.",
		run: func(p *probe) {
			r := p.hasPage("/metrics")
			p.check(strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || strings.HasPrefix(r.header.Get("Content-Type"), "application/openmetrics-text"), &r, "Content-Type text/plain")
			for _, line := range strings.Split(string(r.body), "\n") {
				if line != "" && !strings.HasPrefix(line, "#") && len(strings.Fields(line)) < 2 {
					p.say(false, r.sent, "the line "+short(line), "a name and a value")
					return
				}
			}
		}},
	{ID: "operations/openapi", Level: Should, Contract: secOptional, Protocols: onlyREST, scope: once,
		Purpose: "GET /openapi.json is an OpenAPI document that has the path /plugins/v1.",
		run: func(p *probe) {
			r := p.hasPage("/openapi.json")
			var doc struct {
				OpenAPI string                     `json:"openapi"`
				Paths   map[string]json.RawMessage `json:"paths"`
			}
			if !r.read(&doc) {
				p.check(false, &r, "JSON")
				return
			}
			p.say(strings.HasPrefix(doc.OpenAPI, "3.") && doc.Paths["/plugins/v1"] != nil, r.sent, fmt.Sprintf("openapi %q with %d paths", doc.OpenAPI, len(doc.Paths)), "openapi 3 with the path /plugins/v1")
		}},
}

// reflect asks a version of gRPC's reflection for the names of services. The messages of both versions are the same.
func (p *probe) reflect(version string) (reply, []string) {
	var res reflectionpb.ServerReflectionResponse
	name := "grpc.reflection." + version + ".ServerReflection"
	r := p.ask(func(ctx context.Context) reply {
		return p.grpc().do(ctx, name+"(list_services)", "", "", func(ctx context.Context, _ *reply) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := p.grpc().cc.NewStream(ctx, &reflectionpb.ServerReflection_ServiceDesc.Streams[0], "/"+name+"/ServerReflectionInfo")
			if err != nil {
				return err
			}
			err = stream.SendMsg(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{ListServices: "*"}})
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			return stream.RecvMsg(&res)
		})
	})
	var names []string
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return r, names
}

// hasPage gets a page, and skips the case when there is none.
func (p *probe) hasPage(path string) reply {
	r := p.ask(func(ctx context.Context) reply { return p.rest().page(ctx, path) })
	if r.status == 404 || r.status == 501 {
		p.skip("the service has no %s (HTTP %d)", path, r.status)
	}
	p.must(r.status == 200, &r, "HTTP 200")
	return r
}

func (p *probe) healthPage(path string) {
	r := p.hasPage(path)
	var body struct {
		Status string `json:"status"`
	}
	p.must(r.read(&body), &r, "JSON with a status")
	p.check(body.Status != "", &r, "a status")
}

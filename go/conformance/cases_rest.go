package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// put sends a create whose body is what it is.
func (p *probe) put(says string, body []byte, header map[string]string) reply {
	with := map[string]string{keyHeader: newKey()}
	maps.Copy(with, header)
	r := p.creating(call{plugin: p.plugin}, func(ctx context.Context) reply {
		return p.rest().created(ctx, request{method: http.MethodPut, path: pluginPath(p.plugin), body: body, says: "a create " + says, header: with, noType: header["Content-Type"] != ""})
	})
	return r
}

// malformed is a case of a body that is refused.
func malformed(id string, level Level, purpose, says, why string, body func(p *probe) []byte) Case {
	return Case{ID: id, Level: level, Contract: secBad, Protocols: onlyREST, scope: any1, Purpose: purpose, run: func(p *probe) {
		r := p.put(says, body(p), nil)
		p.check(r.status == 400 && r.code == codes.InvalidArgument, &r, "HTTP 400 with error_code INVALID_ARGUMENT: %s", why)
	}}
}

// accepted is a case of a create that is written in another way.
func accepted(id, purpose, says string, body func(c call) ([]byte, map[string]string)) Case {
	return Case{ID: id, Level: Must, Contract: secREST, Protocols: onlyREST, scope: any1, Purpose: purpose, run: func(p *probe) {
		p.start(p.newCall())
		raw, header := body(p.newCall())
		r := p.put(says, raw, header)
		p.success(&r, "the id of a new job")
	}}
}

var restCases = []Case{
	malformed("rest/garbage", Must, "A body that is no JSON is 400.", "whose body is no JSON", "that is no JSON",
		func(*probe) []byte { return []byte("\x00\x01not json<") }),
	malformed("rest/truncated", Must, "A body whose JSON breaks off is 400.", "whose JSON breaks off", "the JSON is incomplete",
		func(p *probe) []byte { raw := asJSON(createBody(p.newCall())); return raw[:len(raw)/2] }),
	malformed("rest/empty-body", Must, "A create without a body is 400.", "with an empty body", "the body is empty",
		func(*probe) []byte { return []byte{} }),
	malformed("rest/array-body", Must, "A body that is an array is 400.", "whose body is an array", "the body is an object",
		func(*probe) []byte { return []byte(`[1, 2, 3]`) }),
	malformed("rest/wrong-kind", Must, "A template that is a text is 400.", `with the template "text"`, "a template is an object",
		func(*probe) []byte { return []byte(`{"template": "text"}`) }),
	malformed("rest/wrong-field", Must, "A field of flyteidl with a value of the wrong kind is 400.", "whose inputs are a number", "inputs are an object",
		func(p *probe) []byte { body := createBody(p.newCall()); body["inputs"] = 7; return asJSON(body) }),
	malformed("rest/trailing-data", Should, "Something behind the JSON is 400.", "with something behind its JSON", "a body is one object",
		func(p *probe) []byte { return append(asJSON(createBody(p.newCall())), "{}]"...) }),
	malformed("rest/invalid-utf8", Should, "Text that is no UTF-8 is 400.", "with text that is no UTF-8", "JSON is UTF-8",
		func(p *probe) []byte {
			body := createBody(p.newCall())
			body["output_prefix"] = "CONFORMANCE"
			return bytes.ReplaceAll(asJSON(body), []byte("CONFORMANCE"), []byte("/tmp/\xff\xfe"))
		}),
	accepted("rest/snake-case", "flyteidl's names in snake_case are taken as those in camelCase are.", "in snake_case", func(c call) ([]byte, map[string]string) {
		body := createBody(c)
		snake := protojson.MarshalOptions{UseProtoNames: true}
		for name, m := range map[string]proto.Message{"template": c.template, "inputs": c.inputs, "metadata": c.metadata} {
			raw, err := snake.Marshal(m)
			if err == nil {
				body[name] = json.RawMessage(raw)
			}
		}
		return asJSON(body), nil
	}),
	accepted("rest/charset", "Content-Type may name the charset.", "with Content-Type application/json; charset=UTF-8", func(c call) ([]byte, map[string]string) {
		return asJSON(createBody(c)), map[string]string{"Content-Type": "application/json; charset=UTF-8"}
	}),
	accepted("rest/odd-headers", "Headers that nobody knows are passed over.", "with unknown headers, one of them 4 KiB", func(c call) ([]byte, map[string]string) {
		return asJSON(createBody(c)), map[string]string{
			"X-Conformance": strings.Repeat("x", 4<<10), "X-Forwarded-For": "999.0.0.1, \"", "X-HTTP-Method-Override": "DELETE", "Traceparent": "garbage", "Accept": "text/html",
		}
	}),
	{ID: "rest/chunked", Level: Must, Contract: secREST, Protocols: onlyREST, scope: any1,
		Purpose: "A body of unknown length (Transfer-Encoding: chunked) is taken.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			r := p.creating(c, func(ctx context.Context) reply {
				return p.rest().created(ctx, request{method: http.MethodPut, path: pluginPath(p.plugin), body: asJSON(createBody(c)), header: map[string]string{keyHeader: c.key}, chunked: true, says: "a create in chunks"})
			})
			p.success(&r, "the id of a new job")
		}},
	{ID: "rest/content-type", Level: Must, Contract: secREST, Protocols: onlyREST, scope: any1,
		Purpose: "A body that says that it is no JSON is 415.",
		run: func(p *probe) {
			for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded"} {
				r := p.put("with Content-Type "+kind, asJSON(createBody(p.newCall())), map[string]string{"Content-Type": kind})
				p.check(r.status == 415, &r, "HTTP 415: the body is application/json")
			}
		}},
	{ID: "rest/duplicate-keys", Level: Must, Contract: secBad, Protocols: onlyREST, scope: any1,
		Purpose: "A key that stands twice in the JSON takes or refuses the call, and is no fault of the service.",
		run: func(p *probe) {
			p.start(p.newCall())
			raw := asJSON(createBody(p.newCall()))
			r := p.put("with output_prefix twice", append([]byte(`{"output_prefix": "/tmp/first",`), raw[1:]...), nil)
			p.check(unfaulty(&r), &r, "OK or HTTP 400")
		}},
	{ID: "rest/deep-nesting", Level: Must, Contract: secBad, Protocols: onlyREST, scope: any1,
		Purpose: "JSON of lists in lists, thousands deep, takes or refuses the call, and is no fault of the service.",
		run: func(p *probe) {
			p.start(p.newCall())
			raw := asJSON(createBody(p.newCall()))
			deep := []byte(`{"conformance_unknown": ` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `,`)
			r := p.put("with a list 20000 deep in an unknown field", append(deep, raw[1:]...), nil)
			p.check(unfaulty(&r), &r, "OK or HTTP 400")
		}},
	{ID: "rest/paths", Level: Must, Contract: secBad, Protocols: onlyREST, scope: any1,
		Purpose: "A path that goes up, holds a NUL or a line end, or is very long, reaches nothing, and is no fault of the service.",
		run: func(p *probe) {
			for _, path := range []string{
				"/plugins/v1/../../../../etc/passwd?job_id=x", "/plugins/v1/%2e%2e%2f%2e%2e%2fetc%2fpasswd/v1?job_id=x", "/plugins/v1/..%5c..%5cwindows/v1?job_id=x",
				"/plugins/v1/%00/v1?job_id=x", "/plugins/v1/a%0d%0aX-Injected:%201/v1?job_id=x", "/plugins/v1/" + strings.Repeat("a", 7000) + "/v1?job_id=x",
				"/plugins/v1/%ff%fe/v1?job_id=x", "/plugins/v1//v1?job_id=x",
			} {
				r := p.ask(func(ctx context.Context) reply { return p.rest().page(ctx, path) })
				p.check(!r.lost && r.status >= 300 && r.status < 500, &r, "HTTP 404 or another error that blames the request")
				p.say(r.lost || r.header.Get("X-Injected") == "", r.sent, "a header of the answer that stood in the path", "nothing of the path in the headers")
			}
		}},
	{ID: "rest/no-job-id", Level: Must, Contract: secREST, Protocols: onlyREST, scope: any1,
		Purpose: "A poll and a deletion without job_id are 400.",
		run: func(p *probe) {
			for _, method := range []string{http.MethodGet, http.MethodDelete} {
				r := p.ask(func(ctx context.Context) reply {
					return p.rest().do(ctx, request{method: method, path: pluginPath(p.plugin)})
				})
				p.check(r.status == 400, &r, "HTTP 400: job_id is missing")
			}
		}},
	{ID: "rest/bad-query", Level: Should, Contract: secREST, Protocols: onlyREST, scope: any1,
		Purpose: "A task_type_version that is no number is 400.",
		run: func(p *probe) {
			for _, v := range []string{"one", "-1", "99999999999999999999"} {
				r := p.ask(func(ctx context.Context) reply {
					return p.rest().do(ctx, request{method: http.MethodGet, path: pluginPath(p.plugin) + "?job_id=x&task_type_version=" + v})
				})
				p.check(r.status == 400, &r, "HTTP 400: that is no task type version")
			}
		}},
	{ID: "rest/bad-key", Level: Should, Contract: secREST, Protocols: onlyREST, scope: any1,
		Purpose: "An idempotency key of more than 64 characters is 400.",
		run: func(p *probe) {
			r := p.put("with a key of 65 characters", asJSON(createBody(p.newCall())), map[string]string{keyHeader: strings.Repeat("k", 65)})
			p.check(r.status == 400, &r, "HTTP 400: a key has 1 to 64 characters")
		}},
	{ID: "rest/big-header", Level: Must, Contract: secBad, Protocols: onlyREST, scope: once,
		Purpose: "A header of 2 MiB is refused, or its connection closed, and nothing else.",
		run: func(p *probe) {
			ctx, cancel := p.bounded()
			defer cancel()
			// Not by ask: it is the HTTP library that refuses this, in a form of its own.
			p.rest().do(ctx, request{method: http.MethodGet, path: "/plugins/v1", header: map[string]string{"X-Conformance": strings.Repeat("x", 2<<20)}})
			r := p.ask(p.d.list)
			r.sent += " after a request with a header of 2 MiB"
			p.success(&r, "the list of plugins")
		}},
	{ID: "rest/not-http", Level: Must, Contract: secBad, Protocols: onlyREST, scope: once,
		Purpose: "Bytes that are no HTTP end their own connection alone.",
		run: func(p *probe) {
			for _, text := range []string{"\x00\x00\x00\x00\x00garbage\r\n\r\n", "GET /plugins/v1 HTTP/9.9\r\n\r\n", "PUT / HTTP/1.1\r\nHost: c\r\nContent-Length: -5\r\n\r\n", "PUT / HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"} {
				p.garbage(text)
			}
			r := p.ask(p.d.list)
			r.sent += " after connections that sent no HTTP"
			p.success(&r, "the list of plugins")
		}},
	{ID: "rest/keeps-connections", Level: Should, Contract: secREST, Protocols: onlyREST, scope: once,
		Purpose: "A connection is kept for the next call.",
		run: func(p *probe) {
			conn := p.tcp()
			defer conn.Close()
			in := bufio.NewReader(conn)
			for i := range 2 {
				_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: conformance\r\n%s\r\n", p.rest().target("/plugins/v1"), p.headerLines())
				res, err := http.ReadResponse(in, nil)
				got := "the connection was closed"
				if err == nil {
					got = fmt.Sprintf("HTTP %d, Connection: %s", res.StatusCode, res.Header.Get("Connection"))
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				if !p.say(err == nil && !res.Close, fmt.Sprintf("GET /plugins/v1, call %d over one connection", i+1), got, "an answer that leaves the connection open") {
					return
				}
			}
		}},
}

// headerLines are the headers of the options, for a request that is written by hand.
func (p *probe) headerLines() string {
	var b strings.Builder
	for k, v := range p.o.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", k, v)
	}
	return b.String()
}

package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

var loadCases = []Case{
	{ID: "load/creates", Level: Must, Contract: secMany, Protocols: both, scope: async,
		Purpose: "Many creates at once give as many ids, or are put off, and each job can be polled.",
		run: func(p *probe) {
			p.start(p.newCall())
			calls := make([]call, p.o.Concurrency)
			for i := range calls {
				calls[i] = p.newCall()
			}
			replies := atOnce(len(calls), func(i int) reply { return p.create(calls[i]) })
			var jobs []job
			for i := range replies {
				r := &replies[i]
				r.sent = fmt.Sprintf("%d creates at once, of which this is one", len(calls))
				if r.ok() && len(r.id) > 0 {
					jobs = append(jobs, job{p.plugin, r.id, calls[i].prefix})
				} else if !p.check(retryable(r), r, "OK with an id, or an error that is retried: UNAVAILABLE, RESOURCE_EXHAUSTED or ABORTED") {
					return // one tells enough
				}
			}
			for _, j := range jobs {
				r := p.get(j)
				p.must(r.ok(), &r, "OK: each of the jobs is there")
			}
		}},
	{ID: "load/polls", Level: Must, Contract: secMany, Protocols: both, scope: async,
		Purpose: "Many polls of a job at once say the same.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() || !f.last.state.final() {
				p.skip("no job ended (poll/job-succeeds says more): %s", f.last.got())
			}
			replies := atOnce(p.o.Concurrency, func(int) reply { return p.get(f.job) })
			for i := range replies {
				r := &replies[i]
				r.sent = fmt.Sprintf("%d polls at once, of which this is one", len(replies))
				if retryable(r) {
					continue
				}
				p.must(r.ok() && r.state.phase == f.last.state.phase, r, "phase %s, as one poll says", f.last.state.phase)
			}
		}},
	{ID: "load/deletes", Level: Must, Contract: secMany, Protocols: both, scope: async,
		Purpose: "Many deletions of a job at once succeed.",
		run: func(p *probe) {
			j := p.start(p.newCall())
			replies := atOnce(p.o.Concurrency, func(int) reply { return p.delete(j) })
			for i := range replies {
				r := &replies[i]
				r.sent = fmt.Sprintf("%d deletions of one job at once, of which this is one", len(replies))
				p.must(r.ok() || retryable(r), r, "OK: who comes second finds the job deleted")
			}
		}},
	{ID: "load/connections", Level: Must, Contract: secMany, Protocols: both, scope: once,
		Purpose: "Many connections at once are served.",
		run: func(p *probe) {
			drivers := make([]driver, p.o.Concurrency)
			for i := range drivers {
				drivers[i] = p.fresh()
			}
			replies := atOnce(len(drivers), func(i int) reply { return p.ask(drivers[i].list) })
			for _, d := range drivers {
				d.close()
			}
			for i := range replies {
				r := &replies[i]
				r.sent += fmt.Sprintf(" over each of %d connections at once", len(replies))
				p.must(r.ok(), r, "OK: the list of plugins")
			}
		}},
}

// address is where the service listens, and whether it speaks TLS there.
func (p *probe) address() (network, address string, secure bool) {
	if p.o.Protocol == REST {
		u, err := url.Parse(p.o.Endpoint)
		if err != nil {
			p.skip("%v", err)
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		return "tcp", net.JoinHostPort(u.Hostname(), port), u.Scheme == "https"
	}
	if path, ok := strings.CutPrefix(p.o.Endpoint, "unix:"); ok {
		return "unix", strings.TrimPrefix(path, "//"), !p.o.Insecure
	}
	return "tcp", p.o.Endpoint[strings.LastIndex(p.o.Endpoint, "/")+1:], !p.o.Insecure
}

// tcp opens a connection for bytes that no client library would send.
func (p *probe) tcp() net.Conn {
	network, address, secure := p.address()
	ctx, cancel := p.bounded()
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		p.skip("no connection for bytes: %v", err)
	}
	if secure {
		c, err := tlsConfig(p.o)
		if err != nil {
			p.skip("%v", err)
		}
		if c.ServerName == "" {
			c.ServerName, _, _ = net.SplitHostPort(address)
		}
		if p.o.Protocol == GRPC {
			c.NextProtos = []string{"h2"}
		}
		conn = tls.Client(conn, c)
	}
	_ = conn.SetDeadline(time.Now().Add(p.o.CallTimeout)) // a connection that cannot have one is closed by the peer
	return conn
}

// preface is how a connection of gRPC begins: HTTP/2's preface and an empty SETTINGS frame.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

var breakCases = []Case{
	{ID: "broken/create-hung-up", Level: Must, Contract: secBroken, Protocols: both, scope: any1,
		Purpose: "A create whose caller hangs up, at any moment, can be made again with its key.",
		run: func(p *probe) {
			begin := time.Now()
			p.start(p.newCall())
			for _, after := range moments(time.Since(begin)) {
				c := p.newCall()
				d := p.fresh()
				p.listBy(p.ctx, d) // so that the connection stands, and it is the create that is broken off
				ctx, cancel := context.WithTimeout(p.ctx, after)
				first := d.create(ctx, c)
				cancel()
				d.close()
				r := p.create(c)
				if p.success(&r, "the create, made again") && first.lost {
					if again := p.create(c); !bytes.Equal(r.id, again.id) {
						p.mayBeLeft(c)
					}
				}
			}
		}},
	{ID: "broken/poll-hung-up", Level: Must, Contract: secBroken, Protocols: both, scope: any1,
		Purpose: "Polls whose callers hang up, many at once, harm no other.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() {
				p.skip("no job could be polled: %s", f.last.got())
			}
			usual := p.get(f.job).took
			atOnce(p.o.Concurrency, func(i int) reply {
				ctx, cancel := context.WithTimeout(p.ctx, time.Duration(i+1)*usual/time.Duration(p.o.Concurrency))
				defer cancel()
				return p.d.get(ctx, f.job)
			})
			p.redial()
			r := p.get(f.job)
			p.success(&r, "the job's state, for a caller that waits")
		}},
	{ID: "broken/connection-cut", Level: Must, Contract: secBroken, Protocols: both, scope: any1,
		Purpose: "A connection that is cut in the middle of a request harms no other.",
		run: func(p *probe) {
			for range 4 {
				conn := p.tcp()
				if p.o.Protocol == REST {
					_, _ = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: conformance\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"template\": {", p.rest().target(pluginPath(p.plugin)))
				} else {
					_, _ = io.WriteString(conn, preface+"\x00\x00\x40\x01\x04\x00\x00\x00\x01\x83\x86") // the beginning of HEADERS
				}
				_ = conn.Close()
			}
			r := p.ask(p.d.list)
			r.sent += " after connections that were cut in the middle of a request"
			p.success(&r, "the list of plugins")
		}},
	{ID: "broken/idle-connections", Level: Must, Contract: secBroken, Protocols: both, scope: once,
		Purpose: "Connections over which nothing comes, or half a request, keep no other waiting.",
		run: func(p *probe) {
			for i := range 32 {
				conn := p.tcp()
				defer conn.Close()
				if i%2 == 0 {
					if p.o.Protocol == REST {
						_, _ = io.WriteString(conn, "GET /plugins/v1 HTT")
					} else {
						_, _ = io.WriteString(conn, preface[:12])
					}
				}
			}
			d := p.fresh()
			defer d.close()
			r := p.ask(d.list)
			r.sent += " while 32 other connections are silent"
			p.success(&r, "the list of plugins")
		}},
	{ID: "time/poll-is-quick", Level: Should, Contract: secTime, Protocols: both, scope: async,
		Purpose: "A poll does not take long: propeller makes thousands of them.",
		run: func(p *probe) {
			f := p.done()
			if !f.last.ok() {
				p.skip("no job could be polled: %s", f.last.got())
			}
			var times []time.Duration
			var r reply
			for range 5 {
				r = p.get(f.job)
				times = append(times, r.took)
			}
			slices.Sort(times)
			p.say(times[2] <= p.o.QuickPoll, r.sent+", five times", fmt.Sprintf("answers after %s, the median of five", times[2].Round(time.Millisecond)), fmt.Sprintf("answers within %s", p.o.QuickPoll))
		}},
	{ID: "time/list-is-quick", Level: Should, Contract: secTime, Protocols: both, scope: once,
		Purpose: "A listing takes less than three seconds, for which propeller's start waits.",
		run: func(p *probe) {
			r := p.listing()
			p.say(r.took < 3*time.Second, r.sent, fmt.Sprintf("an answer after %s", r.took.Round(time.Millisecond)), "an answer within three seconds")
		}},
}

// moments are times after which a caller hangs up on a call that usually takes as long: at once, and while it is under way.
func moments(usual time.Duration) []time.Duration {
	return []time.Duration{0, usual / 8, usual / 4, usual / 2, usual * 3 / 4}
}

// mayBeLeft says that a job may be there that nobody can name.
func (r *runner) mayBeLeft(c call) {
	r.report.Left = append(r.report.Left, Left{c.plugin.String(), "(unknown)", "a create was broken off on purpose, and the service does not honour keys, so a job may run that no answer named"})
}

// target is a path below the endpoint's own.
func (d *restDriver) target(path string) string {
	u, err := url.Parse(d.base)
	if err != nil {
		return path
	}
	return strings.TrimSuffix(u.Path, "/") + path
}

// stands checks that there is an answer.
func (p *probe) stands(r *reply) { p.check(!r.lost, r, "an answer, whatever it says") }

// refusedRaw checks the answer to a message that nobody can read. What gRPC's libraries answer themselves is INTERNAL mostly.
func (p *probe) refusedRaw(r *reply, why string) {
	p.check(!r.lost && r.code != codes.OK, r, "an error: %s", why)
}

var grpcCases = []Case{
	{ID: "grpc/garbage", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "Bytes that are no message are an error of that call alone.",
		run: func(p *probe) {
			for _, method := range []string{methodCreate, methodGet, methodDelete} {
				for _, raw := range [][]byte{{0xff}, bytes.Repeat([]byte{0xff, 0x07, 0x80}, 40), []byte("{\"json\": true}")} {
					r := p.ask(func(ctx context.Context) reply {
						return p.grpc().raw(ctx, fmt.Sprintf("%d bytes of garbage", len(raw)), method, p.plugin.version, raw)
					})
					p.keepCreated(call{plugin: p.plugin}, &r)
					p.refusedRaw(&r, "that is no message")
				}
			}
		}},
	{ID: "grpc/truncated", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "A message that lacks its last bytes is an error of that call alone.",
		run: func(p *probe) {
			c := p.newCall()
			raw := p.wire(c)
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "a create without its last 3 bytes", methodCreate, c.plugin.version, raw[:len(raw)-3])
			})
			p.keepCreated(c, &r)
			p.refusedRaw(&r, "the message is incomplete")
		}},
	{ID: "grpc/repeated-fields", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "A field that comes twice counts as protobuf says: the last of a scalar, the union of messages.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			raw := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), "/tmp/first-prefix")
			raw = append(raw, p.wire(c)...)
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "output_prefix twice", methodCreate, c.plugin.version, raw)
			})
			p.keepCreated(c, &r)
			p.success(&r, "the id of a new job")
		}},
	{ID: "grpc/invalid-utf8", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "Text that is no UTF-8 is an error of that call alone.",
		run: func(p *probe) {
			c := p.newCall()
			raw := protowire.AppendString(protowire.AppendTag(p.wire(c), 3, protowire.BytesType), "/tmp/\xff\xfe")
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "an output_prefix that is no UTF-8", methodCreate, c.plugin.version, raw)
			})
			p.keepCreated(c, &r)
			p.refusedRaw(&r, "text is UTF-8")
		}},
	{ID: "grpc/unknown-method", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: once,
		Purpose: "A method or a service that is not there is UNIMPLEMENTED.",
		run: func(p *probe) {
			for _, method := range []string{"/flyteidl.service.AsyncAgentService/NoSuchMethod", "/conformance.v1.NoSuchService/Call"} {
				r := p.ask(func(ctx context.Context) reply { return p.grpc().raw(ctx, "no such method", method, "", nil) })
				p.refused(&r, "there is no such method", codes.Unimplemented)
			}
		}},
	{ID: "grpc/deep-nesting", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "An input of lists in lists, thousands deep, takes or refuses the call, and nothing else.",
		run: func(p *probe) {
			c := p.newCall()
			r := p.ask(func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "an input of lists 5000 deep", methodCreate, c.plugin.version, append(p.wire(c), nested(5000)...))
			})
			p.keepCreated(c, &r)
			p.stands(&r)
		}},
	{ID: "grpc/odd-metadata", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "Metadata that is large, binary, doubled or unknown takes or refuses the call, and nothing else.",
		run: func(p *probe) {
			j := p.nobodys()
			plain := p.get(j)
			for _, kv := range [][]string{
				{"x-conformance-large", strings.Repeat("x", 6<<10)},
				{"x-conformance-bin", "\x00\xff\x80"},
				{versionMetadata, "v1", versionMetadata, "v2"},
				{keyMetadata, strings.Repeat("k", 2000)},
				{versionMetadata, "../../../etc/passwd"},
			} {
				r := p.ask(func(ctx context.Context) reply {
					r := p.d.get(metadata.AppendToOutgoingContext(ctx, kv...), j)
					r.sent = fmt.Sprintf("GetTask with the metadata %s: %s", kv[0], show(kv[1]))
					return r
				})
				p.check(unfaulty(&r) || !r.lost && r.code == plain.code, &r, "%s, as without, or another error that blames the request", codeName(plain.code))
			}
		}},
	{ID: "grpc/not-http2", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: once,
		Purpose: "Bytes that are no HTTP/2 end their own connection alone.",
		run: func(p *probe) {
			for _, text := range []string{"GET / HTTP/1.1\r\nHost: conformance\r\n\r\n", "\x16\x03\x01\x00\x05hello", preface + strings.Repeat("\xff", 64)} {
				conn := p.tcp()
				_, _ = io.WriteString(conn, text)
				_ = conn.SetReadDeadline(time.Now().Add(min(time.Second, p.o.CallTimeout)))
				_, _ = io.ReadAll(io.LimitReader(conn, 1<<20)) // until the service hangs up, or is given up
				_ = conn.Close()
			}
			r := p.ask(p.d.list)
			r.sent += " after connections that sent no HTTP/2"
			p.success(&r, "the list of plugins")
		}},
}

// nested is field inputs of a create, with a literal that is lists in lists.
func nested(depth int) []byte {
	field := func(number protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), content)
	}
	var literal []byte
	for range depth {
		literal = field(2, field(1, literal)) // Literal.collection, LiteralCollection.literals
	}
	entry := append(field(1, []byte("conformance_nested")), field(2, literal)...)
	return field(1, field(1, entry)) // CreateTaskRequest.inputs, LiteralMap.literals
}

// put sends a create whose body is what it is.
func (p *probe) put(says string, body []byte, header map[string]string) reply {
	with := map[string]string{keyHeader: newKey()}
	maps.Copy(with, header)
	r := p.ask(func(ctx context.Context) reply {
		return p.rest().created(ctx, request{method: http.MethodPut, path: pluginPath(p.plugin), body: body, says: "a create " + says, header: with, noType: header["Content-Type"] != ""})
	})
	p.keepCreated(call{plugin: p.plugin}, &r)
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
			r := p.ask(func(ctx context.Context) reply {
				return p.rest().created(ctx, request{method: http.MethodPut, path: pluginPath(p.plugin), body: asJSON(createBody(c)), header: map[string]string{keyHeader: c.key}, chunked: true, says: "a create in chunks"})
			})
			p.keepCreated(c, &r)
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
				conn := p.tcp()
				_, _ = io.WriteString(conn, text)
				_ = conn.SetReadDeadline(time.Now().Add(min(time.Second, p.o.CallTimeout)))
				_, _ = io.ReadAll(io.LimitReader(conn, 1<<20)) // until the service hangs up, or is given up
				_ = conn.Close()
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

var sizeCases = []Case{
	{ID: "size/a-megabyte", Level: Must, Contract: secMany, Protocols: both, scope: any1,
		Purpose: "A create of a mebibyte is taken.",
		run: func(p *probe) {
			p.start(p.newCall())
			r := p.create(p.bulky(1 << 20))
			r.sent = "a create with an annotation of 1 MiB"
			p.success(&r, "the id of a new job")
		}},
	{ID: "size/too-large", Level: Must, Contract: secMany, Protocols: both, scope: any1,
		Purpose: "A create over the service's limit is RESOURCE_EXHAUSTED (over REST, 413); one within it is taken.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.bulky(p.o.Oversize)
			var r reply
			if d, ok := p.d.(*restDriver); ok {
				r = p.ask(func(ctx context.Context) reply { return p.large(ctx, d, c) })
				p.keepCreated(c, &r)
				r.sent = fmt.Sprintf("a create of %d MiB", p.o.Oversize>>20)
				p.check(r.ok() || r.status == 413, &r, "HTTP 413, or OK if the limit is higher")
			} else {
				r = p.create(c)
				r.sent = fmt.Sprintf("a create of %d MiB", p.o.Oversize>>20)
				p.check(r.ok() || !r.lost && r.code == codes.ResourceExhausted, &r, "RESOURCE_EXHAUSTED, or OK if the limit is higher")
			}
		}},
}

// bulky is a create of about a size, which changes nothing of the job.
func (p *probe) bulky(size int) call {
	c := p.newCall()
	c.metadata.Annotations = map[string]string{"conformance": strings.Repeat("x", size)}
	return c
}

// large sends a request over a connection of its own and reads the answer while it is still sending, as a service may answer
// before it has read everything, and then hang up.
func (p *probe) large(ctx context.Context, d *restDriver, c call) reply {
	r := reply{sent: "a large create"}
	conn := p.tcp()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	body := asJSON(createBody(c))
	go func() {
		_, err := fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: conformance\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n%s\r\n",
			d.target(pluginPath(c.plugin)), keyHeader, c.key, len(body), p.headerLines())
		if err == nil {
			_, _ = conn.Write(body) // what is wrong shows in the answer
		}
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.lost, r.code, r.message = true, codes.Unavailable, err.Error()
		return r
	}
	defer res.Body.Close()
	r.body, _ = io.ReadAll(io.LimitReader(res.Body, maxBody)) // an answer that breaks off is judged by what is there
	r.status, r.header = res.StatusCode, res.Header
	r.judge()
	var created struct {
		JobID string `json:"job_id"`
	}
	if r.read(&created) {
		r.id = []byte(created.JobID)
	}
	return r
}

var errorCases = []Case{
	{ID: "errors/have-a-message", Level: Must, Contract: secForm, Protocols: both, scope: once,
		Purpose: "Every error says what went wrong.",
		run: func(p *probe) {
			p.each(func(r *reply) bool {
				return r.message != "" || r.status != 0 && !r.isJSON()
			}, "a message for people")
		}},
	{ID: "errors/codes", Level: Must, Contract: secErrors, Protocols: onlyGRPC, scope: once,
		Purpose: "Every error has one of the codes of the table.",
		run: func(p *probe) {
			p.each(func(r *reply) bool {
				_, known := codeNames[r.code]
				return known
			}, "one of gRPC's codes")
		}},
	{ID: "errors/no-stack-trace", Level: Must, Contract: secForm, Protocols: both, scope: once,
		Purpose: "No error holds a stack trace: it is shown to people who cannot use it, and may tell what is secret.",
		run: func(p *probe) {
			p.each(func(r *reply) bool { return hasTrace([]byte(r.message+"\n"+r.details+"\n"+string(r.body))) == "" }, "no stack trace")
		}},
	{ID: "errors/no-secrets", Level: Must, Contract: secForm, Protocols: both, scope: once,
		Purpose: "No error holds the caller's credentials.",
		run: func(p *probe) {
			const credential = "conformance-credential-3f9a1c" //nolint:gosec // nobody's, made up to be looked for
			pl := plugin{taskType: "conformance_no_such_type", version: "v1"}
			if own := p.plugins(false); len(own) > 0 {
				pl = own[0]
			}
			headers := map[string]string{"authorization": "Bearer " + credential, "x-conformance-token": credential, "cookie": "session=" + credential}
			for k, v := range p.o.Headers {
				headers[k] = v
			}
			with := p.o
			with.Headers = headers
			d, err := dial(with, p.o.Endpoint)
			if err != nil {
				p.skip("%v", err)
			}
			defer d.close()
			p.getBy(d, job{plugin: pl, id: []byte("conformance-no-such-job")})
			p.getBy(d, job{plugin: pl, id: []byte("\xff\xfe")})
			p.createBy(d, p.callFor(plugin{taskType: "conformance_no_such_type", version: "v1"}))
			if g, ok := d.(*grpcDriver); ok {
				p.ask(func(ctx context.Context) reply { return g.raw(ctx, "garbage", methodCreate, "", []byte{0xff}) })
			} else if h, ok := d.(*restDriver); ok {
				p.ask(func(ctx context.Context) reply {
					return h.do(ctx, request{method: "PUT", path: pluginPath(pl), body: []byte("{")})
				})
				p.ask(func(ctx context.Context) reply { return h.page(ctx, "/conformance/no-such-path") })
			}
			p.each(func(r *reply) bool {
				text := r.message + "\n" + r.details + "\n" + string(r.body)
				for _, secret := range p.secrets {
					if strings.Contains(text, secret) {
						return false
					}
				}
				return !strings.Contains(text, credential)
			}, "nothing of the request's credentials")
		}},
	{ID: "errors/are-short", Level: Should, Contract: secForm, Protocols: both, scope: once,
		Purpose: "An error is at most 16 KiB, however long what it is about is: it is kept with the task.",
		run: func(p *probe) {
			p.each(func(r *reply) bool { return len(r.message) <= 16<<10 && len(r.details) <= 16<<10 }, "at most 16 KiB")
		}},
	{ID: "errors/retry-after", Level: Must, Contract: secForm, Protocols: both, scope: once,
		Purpose: "A pause that an error asks for is RetryInfo that is not negative; over REST, Retry-After in whole seconds.",
		run: func(p *probe) {
			p.provoke()
			found := false
			p.each(func(r *reply) bool {
				found = found || r.hasRetry
				return !r.badRetry
			}, "google.rpc.RetryInfo with a duration of 0 or more; over REST, Retry-After in whole seconds")
			if !found {
				p.skip("no error of this run asked for a pause")
			}
		}},
	{ID: "errors/json", Level: Must, Contract: secREST, Protocols: onlyREST, scope: once,
		Purpose: "Every error is application/json with error_code and message.",
		run: func(p *probe) {
			p.each(func(r *reply) bool {
				var body struct {
					Code    *string `json:"error_code"`
					Message *string `json:"message"`
				}
				return r.status == 0 || r.isJSON() && json.Unmarshal(r.body, &body) == nil && body.Code != nil && body.Message != nil && codeNames[codeByName[*body.Code]] == *body.Code
			}, "application/json with a gRPC code as error_code, and message")
		}},
	{ID: "errors/status-agrees", Level: Must, Contract: secREST, Protocols: onlyREST, scope: once,
		Purpose: "The HTTP status of an error is that of its error_code.",
		run: func(p *probe) {
			p.each(func(r *reply) bool {
				return r.status == 0 || r.errorCode == "" || slices.Contains(statusesOf[r.code], r.status)
			}, "the status that belongs to the error_code, such as 404 to NOT_FOUND")
		}},
	{ID: "errors/unknown-path", Level: Must, Contract: secREST, Protocols: onlyREST, scope: once,
		Purpose: "A path that is not there is 404.",
		run: func(p *probe) {
			for _, path := range []string{"/conformance/no-such-path", "/plugins/v2", "/plugins/v1/a/b/c/d"} {
				r := p.ask(func(ctx context.Context) reply { return p.rest().page(ctx, path) })
				p.check(r.status == 404, &r, "HTTP 404: there is no such path")
			}
		}},
	{ID: "errors/method", Level: Must, Contract: secREST, Protocols: onlyREST, scope: any1,
		Purpose: "A method that a path does not have is 405, with Allow.",
		run: func(p *probe) {
			for method, path := range map[string]string{
				http.MethodPost: "/plugins/v1", http.MethodPatch: pluginPath(p.plugin),
			} {
				r := p.ask(func(ctx context.Context) reply { return p.rest().do(ctx, request{method: method, path: path}) })
				if p.check(r.status == 405, &r, "HTTP 405: the path does not have that method") {
					p.check(r.header.Get("Allow") != "", &r, "the header Allow, which names the methods that there are")
				}
			}
		}},
}

// provoke makes the errors that every service can be made to give, so that there is something to judge.
func (p *probe) provoke() {
	nobody := plugin{taskType: "conformance_no_such_type", version: "v1"}
	p.get(job{plugin: nobody, id: []byte("x")})
	p.create(p.callFor(nobody))
	for i, pl := range p.plugins(false) {
		if i > 0 {
			break
		}
		p.get(job{plugin: pl, id: []byte("conformance-no-such-job")})
		p.get(job{plugin: pl, id: bytes.Repeat([]byte("y"), maxID)})
		if g, ok := p.d.(*grpcDriver); ok {
			p.ask(func(ctx context.Context) reply { return g.raw(ctx, "garbage", methodGet, "", []byte{0xff}) })
		}
		if h, ok := p.d.(*restDriver); ok {
			p.ask(func(ctx context.Context) reply {
				return h.do(ctx, request{method: "PUT", path: pluginPath(pl), body: []byte("{")})
			})
			p.ask(func(ctx context.Context) reply { return h.page(ctx, "/conformance/no-such-path") })
			p.ask(func(ctx context.Context) reply {
				return h.do(ctx, request{method: http.MethodPatch, path: pluginPath(pl)})
			})
		}
	}
}

// each judges every error that was seen in this run, and tells of the first three of a kind.
func (p *probe) each(good func(*reply) bool, due string) {
	p.provoke()
	p.mu.Lock()
	seen := slices.Clone(p.seen)
	p.mu.Unlock()
	if len(seen) == 0 {
		p.skip("no call of this run was an error")
	}
	told := 0
	for i := range seen {
		if !good(&seen[i]) && told < 3 {
			told++
			p.check(false, &seen[i], "%s", due)
		}
	}
}

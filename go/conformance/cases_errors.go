package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

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
				headers[strings.ToLower(k)] = v // the options' own go before those that are made up
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
			p.eachDue(func(r *reply) string {
				right := statusesOf[r.code]
				switch {
				case r.status == 0 || r.errorCode == "" || slices.Contains(right, r.status):
					return ""
				case len(right) == 0:
					return "an error_code that says what is wrong"
				}
				return fmt.Sprintf("HTTP %d, which belongs to %s", right[0], codeName(r.code))
			})
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
	if p.provoked {
		return
	}
	p.provoked = true
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
	p.eachDue(func(r *reply) string {
		if good(r) {
			return ""
		}
		return due
	})
}

// eachDue is each where what was due is different for every error; it is empty for one that is right.
func (p *probe) eachDue(judge func(*reply) string) {
	p.provoke()
	p.mu.Lock()
	seen := slices.Clone(p.seen)
	p.mu.Unlock()
	if len(seen) == 0 {
		p.skip("no call of this run was an error")
	}
	told := 0
	for i := range seen {
		if due := judge(&seen[i]); due != "" && told < 3 {
			told++
			p.check(false, &seen[i], "%s", due)
		}
	}
}

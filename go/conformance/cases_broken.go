package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

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

// garbage sends bytes on a connection of their own, and waits until the service hangs up, or for a second.
func (p *probe) garbage(text string) {
	conn := p.tcp()
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	_ = conn.SetReadDeadline(time.Now().Add(min(time.Second, p.o.CallTimeout)))
	_, _ = io.ReadAll(io.LimitReader(conn, 1<<20))
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
				r.sent += fmt.Sprintf(", after the same call was broken off after %s", after.Round(time.Microsecond))
				if p.success(&r, "the create, made again") && first.lost {
					if again := p.create(c); !bytes.Equal(r.id, again.id) {
						p.mayBeLeft(c, "creates were broken off on purpose, and the service does not honour keys, so jobs may run that nobody can name")
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

// mayBeLeft says that jobs may be there that nobody can name.
func (r *runner) mayBeLeft(c call, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := Left{c.plugin.String(), "(unknown)", why}
	if !slices.Contains(r.report.Left, one) {
		r.report.Left = append(r.report.Left, one)
	}
}

package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

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
					r := p.creating(call{plugin: p.plugin}, func(ctx context.Context) reply {
						return p.grpc().raw(ctx, fmt.Sprintf("%d bytes of garbage", len(raw)), method, p.plugin.version, raw)
					})
					p.refusedRaw(&r, "that is no message")
				}
			}
		}},
	{ID: "grpc/truncated", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "A message that lacks its last bytes is an error of that call alone.",
		run: func(p *probe) {
			c := p.newCall()
			raw := p.wire(c)
			r := p.creating(c, func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "a create without its last 3 bytes", methodCreate, c.plugin.version, raw[:len(raw)-3])
			})
			p.refusedRaw(&r, "the message is incomplete")
		}},
	{ID: "grpc/repeated-fields", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "A field that comes twice counts as protobuf says: the last of a scalar, the union of messages.",
		run: func(p *probe) {
			p.start(p.newCall())
			c := p.newCall()
			raw := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), "/tmp/first-prefix")
			raw = append(raw, p.wire(c)...)
			r := p.creating(c, func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "output_prefix twice", methodCreate, c.plugin.version, raw)
			})
			p.success(&r, "the id of a new job")
		}},
	{ID: "grpc/invalid-utf8", Level: Must, Contract: secBad, Protocols: onlyGRPC, scope: any1,
		Purpose: "Text that is no UTF-8 is an error of that call alone.",
		run: func(p *probe) {
			c := p.newCall()
			raw := protowire.AppendString(protowire.AppendTag(p.wire(c), 3, protowire.BytesType), "/tmp/\xff\xfe")
			r := p.creating(c, func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "an output_prefix that is no UTF-8", methodCreate, c.plugin.version, raw)
			})
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
			raw := append(p.wire(c), nested(5000)...)
			r := p.creating(c, func(ctx context.Context) reply {
				return p.grpc().raw(ctx, "an input of lists 5000 deep", methodCreate, c.plugin.version, raw)
			})
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
				p.garbage(text)
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
	// Of each field inside another one there is only its beginning, whose length is known from the inside out.
	lengths, n := make([]int, 0, 2*depth), 0
	for range 2 * depth {
		lengths = append(lengths, n)
		n += protowire.SizeTag(1) + protowire.SizeVarint(uint64(n))
	}
	var literal []byte
	for i, length := range slices.Backward(lengths) {
		number := protowire.Number(1 + i%2)                                                                         // Literal.collection is 2, LiteralCollection.literals 1
		literal = protowire.AppendVarint(protowire.AppendTag(literal, number, protowire.BytesType), uint64(length)) //nolint:gosec // a length
	}
	entry := append(field(1, []byte("conformance_nested")), field(2, literal)...)
	return field(1, field(1, entry)) // CreateTaskRequest.inputs, LiteralMap.literals
}

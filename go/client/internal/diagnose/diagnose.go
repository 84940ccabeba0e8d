// Package diagnose recognises wrong set-ups by what the network says of them, for every transport alike.
package diagnose

import (
	"fmt"
	"strings"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// MaxMessage bounds what is kept of a service's error message: it ends up in events and in etcd.
const MaxMessage = 2048

// Bounded keeps a message readable: services send whole tracebacks.
func Bounded(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "\uFFFD")
	if len(s) > MaxMessage {
		return strings.ToValidUTF8(s[:MaxMessage], "") + "…"
	}
	return s
}

// Case is a wrong set-up that can be told by what a transport says of it.
type Case struct {
	// Says are the fragments, any of which marks the case; they are the words of grpc-go, net/http and crypto/tls.
	Says []string
	// Speaks limits the case to deployments of one kind.
	Speaks Speech
	// Advice is what an operator would do.
	Advice string
}

// Speech is what a deployment is configured to speak.
type Speech uint8

// The kinds of deployments that a case may be limited to.
const (
	Anything Speech = iota
	PlainText
	TLS
)

// NoName comes before other cases, because a name server that refuses is also a "connection refused".
var NoName = Case{
	Says:   []string{"no such host", "produced zero addresses", "no children to pick from", "record lookup error", "server misbehaving"},
	Advice: "the endpoint's host name does not resolve",
}

// Certificates are the cases of TLS that was spoken and not agreed upon.
var Certificates = []Case{
	{[]string{"unknown authority", "signed by unknown"}, TLS, "set tls.caFile to the CA that signed the service's certificate"},
	{[]string{"certificate is valid for", "doesn't contain any IP SANs", "not valid for any names"}, TLS,
		"set tls.serverName to a name in the service's certificate"},
	{[]string{"certificate has expired or is not yet valid"}, TLS, "the service's certificate has to be renewed, or a clock is wrong"},
	{[]string{"tls: unknown certificate authority", "tls: expired certificate"}, TLS,
		"the service does not accept the client certificate in tls.certFile: it has expired, or the service trusts another CA"},
	{[]string{"certificate required", "bad certificate"}, TLS, "the service wants a client certificate: set tls.certFile and tls.keyFile"},
}

// Refused is the case of an address without a service.
var Refused = Case{Says: []string{"connection refused", "connect: no such file or directory"}, Advice: "nothing listens at this address"}

// Proxy is the advice for a proxy that cannot be reached, or makes no connection.
const Proxy = "calls go through the proxy that the environment names: set HTTPS_PROXY or HTTP_PROXY right, or name the endpoint's host in NO_PROXY"

// Swallowed is the advice for an address that does not even refuse.
const Swallowed = "no connection was made in time: the address may be wrong, or something on the way, such as a network policy, swallows what is sent"

// Advise gives the advice of the first case that fits.
func Advise(cases []Case, insecure bool, message string) (advice string, found bool) {
	for _, c := range cases {
		if c.Speaks == PlainText && !insecure || c.Speaks == TLS && insecure {
			continue
		}
		for _, s := range c.Says {
			if strings.Contains(message, s) {
				return c.Advice, true
			}
		}
	}
	return "", false
}

// TooLarge makes e the error of a message over a limit. It is not a matter of waiting: the same message stays too large.
func TooLarge(e *client.Error, d *config.Deployment) {
	e.TooLarge, e.Class = true, client.UserError
	e.Advice = fmt.Sprintf("the limit on this side is %d bytes, plugins.backend.deployments.%s.maxMessageSizeBytes; the service has a limit of its own",
		d.MaxMessageSize(), e.Deployment)
}

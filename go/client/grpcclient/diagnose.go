package grpcclient

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// maxMessage bounds what of a service's error message is kept: it ends up in events and in etcd.
const maxMessage = 2048

// bounded keeps a message readable: services send whole tracebacks.
func bounded(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "\uFFFD")
	if len(s) > maxMessage {
		return strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// retryAfter reads the google.rpc.RetryInfo detail.
func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}

// diagnosis recognises a wrong set-up by what grpc says of it.
type diagnosis struct {
	// says are the fragments, any of which marks the case; they are grpc-go's and crypto/tls's own words.
	says []string
	// insecure limits the row to deployments that speak plain text (true) or TLS (false).
	insecure *bool
	advice   string
}

var yes, no = true, false

var diagnoses = []diagnosis{
	// First, because a name server that refuses is also a "connection refused".
	{[]string{"no such host", "produced zero addresses", "no children to pick from", "record lookup error"}, nil, "the endpoint's host name does not resolve"},
	{[]string{"first record does not look like a TLS handshake"}, &no,
		"the endpoint speaks plain text, this deployment is configured for TLS: set insecure: true, or give the service a certificate"},
	{[]string{"error reading server preface", "server preface received", "frame too large", "malformed HTTP"}, &yes,
		"the endpoint does not speak plain-text gRPC: if it speaks TLS, set insecure: false; if it is a REST service, it is not a gRPC endpoint"},
	{[]string{"unknown authority", "signed by unknown"}, &no, "set tls.caFile to the CA that signed the service's certificate"},
	{[]string{"certificate is valid for", "doesn't contain any IP SANs", "not valid for any names"}, &no, "set tls.serverName to a name in the service's certificate"},
	{[]string{"certificate has expired or is not yet valid"}, &no, "the service's certificate has to be renewed, or a clock is wrong"},
	{[]string{"tls: unknown certificate authority", "tls: expired certificate"}, &no,
		"the service does not accept the client certificate in tls.certFile: it has expired, or the service trusts another CA"},
	{[]string{"certificate required", "bad certificate"}, &no, "the service wants a client certificate: set tls.certFile and tls.keyFile"},
	{[]string{"no application protocol", "missing selected ALPN property"}, &no, "the endpoint speaks TLS but not HTTP/2, so it is not a gRPC service"},
	{[]string{"unexpected HTTP status code", "unexpected content-type"}, nil, "the endpoint speaks HTTP but is not a gRPC service"},
	{[]string{"connection refused"}, nil, "nothing listens at this address"},
	{[]string{"waiting for connections to become ready"}, nil,
		"no connection was made in time: the address may be wrong, or something on the way, such as a network policy, swallows what is sent"},
}

// receivedTooLarge says that it was this side which refused a message. A service with the same limit never has to refuse
// one of ours in these words, since it would not have been sent.
func receivedTooLarge(message string, limit int) bool {
	return strings.Contains(message, "received message") && strings.Contains(message, "larger than max") &&
		strings.Contains(message, fmt.Sprintf("vs. %d)", limit))
}

// advise adds what an operator would do, and corrects the class where grpc's code hides the cause.
func advise(e *client.Error, d *config.Deployment, message string) {
	if e.Code == codes.ResourceExhausted && (strings.Contains(message, "larger than max") || strings.Contains(message, "exceeds maximum size")) {
		// Not a matter of waiting: the same message stays too large. (The second wording is grpc-java's.)
		e.TooLarge, e.Class = true, client.UserError
		e.Advice = fmt.Sprintf("the limit on this side is %d bytes, plugins.backend.deployments.%s.maxMessageSizeBytes; the service has a limit of its own",
			d.MaxMessageSize(), e.Deployment)
		return
	}
	if e.Code == codes.Unimplemented && e.FromService {
		e.Advice = "the endpoint is a gRPC service but does not serve this call of flyteidl.service: is it a backend plugin service?"
		return
	}
	if e.FromService {
		// The same words in a service's own answer are about what lies behind it, such as a database that refuses.
		return
	}
	for _, row := range diagnoses {
		if row.insecure != nil && *row.insecure != d.Insecure {
			continue
		}
		for _, s := range row.says {
			if strings.Contains(message, s) {
				e.Advice = row.advice
				// Whatever code grpc chose, no plugin service has answered: somebody has to repair the set-up.
				if e.Class != client.RetryNow {
					e.Class = client.RetryLater
				}
				return
			}
		}
	}
}

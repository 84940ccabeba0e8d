package grpcclient

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/internal/diagnose"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// retryAfter reads the google.rpc.RetryInfo detail.
func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}

// diagnoses are the wrong set-ups that grpc-go's words tell.
var diagnoses = slices.Concat(
	[]diagnose.Case{
		diagnose.NoName,
		{Says: []string{"failed to do connect handshake"}, Advice: diagnose.Proxy},
		{Says: []string{"first record does not look like a TLS handshake"}, Speaks: diagnose.TLS,
			Advice: "the endpoint speaks plain text, this deployment is configured for TLS: set insecure: true, or give the service a certificate"},
		{Says: []string{"error reading server preface", "server preface received", "frame too large", "malformed HTTP"}, Speaks: diagnose.PlainText,
			Advice: "the endpoint does not speak plain-text gRPC: if it speaks TLS, set insecure: false; if it is a REST service, it is not a gRPC endpoint: set protocol: rest"},
	},
	diagnose.Certificates,
	[]diagnose.Case{
		{Says: []string{"no application protocol", "missing selected ALPN property"}, Speaks: diagnose.TLS,
			Advice: "the endpoint speaks TLS but not HTTP/2, so it is not a gRPC service"},
		{Says: []string{"unexpected HTTP status code", "unexpected content-type"},
			Advice: "the endpoint speaks HTTP but is not a gRPC service; if it is a REST service, set protocol: rest"},
		diagnose.Refused,
		{Says: []string{"waiting for connections to become ready"}, Advice: diagnose.Swallowed},
	},
)

// receivedTooLarge says that it was this side which refused a message. A service with the same limit never has to refuse
// one of ours in these words, since it would not have been sent.
func receivedTooLarge(message string, limit int) bool {
	return strings.Contains(message, "received message") && strings.Contains(message, "larger than max") &&
		strings.Contains(message, fmt.Sprintf("vs. %d)", limit))
}

// advise adds what an operator would do, and corrects the class where grpc's code hides the cause.
func advise(e *client.Error, d *config.Deployment, message string) {
	if e.Code == codes.ResourceExhausted && (strings.Contains(message, "larger than max") || strings.Contains(message, "exceeds maximum size")) {
		diagnose.TooLarge(e, d) // (the second wording is grpc-java's)
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
	advice, found := diagnose.Advise(diagnoses, d.Insecure, message)
	e.Advice = advice
	if found && e.Class != client.RetryNow {
		// Whatever code grpc chose, no plugin service has answered: somebody has to repair the set-up.
		e.Class = client.RetryLater
	}
}

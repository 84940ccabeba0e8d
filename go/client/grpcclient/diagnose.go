package grpcclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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
			return info.GetRetryDelay().AsDuration()
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
	{[]string{"first record does not look like a TLS handshake"}, &no,
		"the endpoint speaks plain text, this deployment is configured for TLS: set insecure: true, or give the service a certificate"},
	{[]string{"error reading server preface", "server preface received", "frame too large", "malformed HTTP"}, &yes,
		"the endpoint does not speak plain-text gRPC: if it speaks TLS, set insecure: false; if it is a REST service, it is not a gRPC endpoint"},
	{[]string{"unknown authority", "signed by unknown"}, &no, "set tls.caFile to the CA that signed the service's certificate"},
	{[]string{"certificate is valid for", "doesn't contain any IP SANs", "not valid for any names"}, &no, "set tls.serverName to a name in the service's certificate"},
	{[]string{"certificate required", "bad certificate"}, &no, "the service wants a client certificate: set tls.certFile and tls.keyFile"},
	{[]string{"unexpected HTTP status code", "unexpected content-type"}, nil, "the endpoint speaks HTTP but is not a gRPC service"},
	{[]string{"connection refused"}, nil, "nothing listens at this address"},
	{[]string{"no such host", "produced zero addresses"}, nil, "the endpoint's host name does not resolve"},
}

// advise adds what an operator would do, and corrects the class where grpc's code hides the cause.
func advise(e *client.Error, d *config.Deployment, message string) {
	if e.Code == codes.ResourceExhausted && strings.Contains(message, "larger than max") {
		// Not a matter of waiting: the same message stays too large.
		e.TooLarge, e.Class = true, client.UserError
		e.Advice = fmt.Sprintf("the limit on this side is %d bytes, plugins.backend.deployments.%s.maxMessageSizeBytes; the service has a limit of its own",
			d.MaxMessageSize(), e.Deployment)
		return
	}
	if e.Code == codes.Unimplemented && e.FromService {
		e.Advice = "the endpoint is a gRPC service but does not serve this call of flyteidl.service: is it a backend plugin service?"
		return
	}
	for _, row := range diagnoses {
		if row.insecure != nil && *row.insecure != d.Insecure {
			continue
		}
		for _, s := range row.says {
			if strings.Contains(message, s) {
				e.Advice, e.FromService = row.advice, false
				// Whatever code grpc chose, no plugin service has answered: somebody has to repair the set-up.
				if e.Class != client.RetryNow {
					e.Class = client.RetryLater
				}
				return
			}
		}
	}
}

// tlsCredentials reads the CA now and the client certificate at every handshake, so that a renewed one is used.
func tlsCredentials(t config.TLS) (credentials.TransportCredentials, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("caFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("caFile %s: no PEM certificate in it", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("certFile and keyFile go together")
	}
	if t.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("certFile %s, keyFile %s: %w", t.CertFile, t.KeyFile, err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return credentials.NewTLS(cfg), nil
}

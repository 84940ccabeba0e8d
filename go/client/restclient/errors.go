package restclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/internal/diagnose"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// diagnoses are the wrong set-ups that net/http's words tell.
var diagnoses = slices.Concat(
	[]diagnose.Case{
		{Says: []string{"first record does not look like a TLS handshake"}, Speaks: diagnose.TLS,
			Advice: "the endpoint speaks plain text: write http:// and insecure: true, or give the service a certificate"},
		{Says: []string{`malformed HTTP response "\x15\x03`}, Speaks: diagnose.PlainText,
			Advice: "the endpoint speaks TLS: write https:// and insecure: false"},
		// net/http says the second of a server that speaks first, as gRPC's does, before the request is on its way.
		{Says: []string{"malformed HTTP", "readLoopPeekFailLocked"}, Speaks: diagnose.PlainText,
			Advice: "the endpoint does not speak HTTP/1.1: if it is a gRPC service, set protocol: grpc"},
	},
	diagnose.Certificates,
	[]diagnose.Case{diagnose.Refused},
)

const (
	adviceGRPC   = "the endpoint is a gRPC service: set protocol: grpc"
	adviceTLS    = "the endpoint speaks TLS: write https:// and insecure: false"
	adviceClosed = "the connection was closed without an answer: if that goes on and the endpoint speaks TLS, write https:// and insecure: false"
	adviceProxy  = "a proxy or load balancer on the way has answered: it does not reach the service, or the service is starting"
	adviceOther  = "what answered is no backend plugin service, or something on the way to it refused the call"
)

// networkError is the error of a call that the service did not answer.
func (c *Conn) networkError(ctx context.Context, op string, err error, connected bool) *client.Error {
	e := &client.Error{Op: op, Deployment: c.name, Endpoint: c.d.Endpoint, Code: codes.Unavailable, Message: diagnose.Bounded(err.Error())}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, context.DeadlineExceeded):
		e.Code = codes.DeadlineExceeded
	case cause != nil:
		e.Code, e.Message = codes.Canceled, cause.Error()
	}
	e.Class = client.ClassOf(e.Code)
	if e.Class == client.RetryNow {
		return e
	}
	if isProxy(err) {
		e.Advice = diagnose.Proxy // what else is said here is about the proxy, not about the endpoint
		return e
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		e.Advice = diagnose.NoName.Advice // whatever the name server's words are
		return e
	}
	e.Advice, _ = diagnose.Advise(diagnoses, c.d.Insecure, err.Error())
	if e.Advice == "" && c.d.Insecure && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		e.Advice = adviceClosed // a service that is killed does the same, once
	}
	if e.Advice == "" && !connected && (e.Code == codes.DeadlineExceeded || isTimeout(err)) {
		e.Advice = diagnose.Swallowed
	}
	return e
}

// errProxy marks what a proxy answers in place of a connection.
var errProxy = errors.New("the proxy made no connection")

// refusedByProxy is the error of a connection through a proxy, unless the proxy has made it. net/http's own holds the status's
// words alone.
func refusedByProxy(_ context.Context, proxy *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("%w: %s answered HTTP %s", errProxy, proxy.Host, describe(res.StatusCode))
}

// isProxy says whether a proxy could not be reached, or made no connection.
func isProxy(err error) bool {
	var op *net.OpError
	return errors.Is(err, errProxy) || errors.As(err, &op) && op.Op == "proxyconnect"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// answerError is the error of an answer that is no success: the service's, if it is what the contract says an error is; or
// else that of whatever stands at the endpoint or on the way to it.
func (c *Conn) answerError(op string, res *http.Response) *client.Error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxFailureBody)) // what has arrived has to do
	e := &client.Error{Op: op, Deployment: c.name, Endpoint: c.d.Endpoint, RetryAfter: retryAfter(res.Header.Get("Retry-After"), time.Now())}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var f failure
	if kind == jsonType && json.Unmarshal(body, &f) == nil {
		if code, known := codeNamed(f.ErrorCode); known && res.StatusCode >= http.StatusBadRequest {
			e.Code, e.Class, e.FromService, e.Message = code, client.ClassOf(code), true, diagnose.Bounded(f.Message)
			c.correct(e, res.StatusCode)
			return e
		}
	}
	if res.StatusCode < http.StatusMultipleChoices {
		return c.broken(op, fmt.Errorf("its status is %s, 200 is due", describe(res.StatusCode)))
	}
	e.Code, e.Class = codeOf(res.StatusCode), client.RetryLater
	e.Message = "HTTP " + describe(res.StatusCode)
	if text := diagnose.Bounded(string(body)); text != "" && (kind == jsonType || kind == "text/plain") {
		e.Message = diagnose.Bounded(e.Message + ": " + text)
	}
	switch {
	case strings.HasPrefix(kind, "application/grpc") || res.Header.Get("Grpc-Status") != "":
		e.Advice = adviceGRPC
	case res.StatusCode < http.StatusBadRequest:
		if to, err := res.Location(); err == nil {
			e.Message = diagnose.Bounded(e.Message + " to " + (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String())
		}
		e.Advice = "redirects are not followed, because a request could lose its meaning on the way: set endpoint to where the service is"
	case res.StatusCode == http.StatusBadRequest && c.d.Insecure && strings.Contains(string(body), "HTTPS"):
		e.Advice = adviceTLS
	case res.StatusCode == http.StatusRequestEntityTooLarge:
		diagnose.TooLarge(e, c.d)
		e.Advice += "; and so has what is on the way to it, which has answered here"
	case res.StatusCode == http.StatusProxyAuthRequired:
		e.Advice = diagnose.Proxy
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed || res.StatusCode == http.StatusNotImplemented:
		e.Advice = fmt.Sprintf("nothing at this endpoint answers below %s: is it a backend plugin service for REST, and is the path of the endpoint right?", c.base)
	case res.StatusCode >= http.StatusInternalServerError:
		e.Advice = adviceProxy
	default:
		e.Advice = adviceOther
	}
	return e
}

// correct mends what a code alone does not tell of a service's own error.
func (c *Conn) correct(e *client.Error, status int) {
	switch {
	case status == http.StatusRequestEntityTooLarge:
		diagnose.TooLarge(e, c.d)
	case e.Code == codes.Unimplemented:
		e.Advice = "the endpoint is a backend plugin service but does not serve this call"
	}
}

// jobError is the error of one job of many.
func (c *Conn) jobError(f *jobError) *client.Error {
	code, known := codeNamed(f.ErrorCode)
	if !known {
		return c.broken(config.CallGet, fmt.Errorf("the error_code of a job's error is %q, a gRPC status code is due", f.ErrorCode))
	}
	e := &client.Error{
		Op: config.CallGet, Deployment: c.name, Endpoint: c.d.Endpoint, Code: code, Class: client.ClassOf(code), FromService: true,
		RetryAfter: seconds(f.RetryAfterSeconds), Message: diagnose.Bounded(f.Message),
	}
	c.correct(e, f.Status)
	return e
}

// codeOf gives the code for a status that came without one.
func codeOf(status int) codes.Code {
	switch status {
	case http.StatusMethodNotAllowed:
		return codes.Unimplemented
	case http.StatusRequestTimeout:
		return codes.DeadlineExceeded
	case http.StatusConflict:
		return codes.Aborted
	case http.StatusRequestEntityTooLarge:
		return codes.ResourceExhausted
	case http.StatusBadGateway:
		return codes.Unavailable
	case http.StatusInternalServerError:
		return codes.Internal
	}
	for _, r := range client.Table {
		if r.Status == status {
			return r.Code
		}
	}
	switch {
	case status < http.StatusBadRequest:
		return codes.Unavailable
	case status < http.StatusInternalServerError:
		return codes.Unknown
	default:
		return codes.Internal
	}
}

func describe(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// retryAfter reads a number of seconds or a date.
func retryAfter(header string, now time.Time) time.Duration {
	if n, err := strconv.ParseFloat(strings.TrimSpace(header), 64); err == nil {
		return seconds(n)
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// broken is an answer that breaks the contract.
func (c *Conn) broken(op string, what error) *client.Error {
	return client.ContractBroken(op, c.name, c.d.Endpoint, diagnose.Bounded(what.Error()))
}

// unsendable is a request that never can be sent.
func (c *Conn) unsendable(op string, err error) *client.Error {
	return &client.Error{
		Op: op, Deployment: c.name, Endpoint: c.d.Endpoint, Code: codes.Internal, Class: client.UserError,
		Message: diagnose.Bounded("the request cannot be written as JSON: " + err.Error()),
	}
}

// tooLarge is a message over the limit of this side.
func (c *Conn) tooLarge(op, message string) *client.Error {
	e := &client.Error{Op: op, Deployment: c.name, Endpoint: c.d.Endpoint, Code: codes.ResourceExhausted, Message: message}
	diagnose.TooLarge(e, c.d)
	return e
}

// Package restclient is the REST transport of package client. It speaks what api/openapi.yaml describes, over net/http.
package restclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/batch"
	"github.com/flyte-backend/flyte-backend/go/client/tlsfiles"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

const (
	root     = "/plugins/v1"
	jsonType = "application/json"
	// maxIdle is more than the machinery has workers, so that none of them has to dial anew.
	maxIdle = 256
	// connectTimeout bounds a dial with its handshake.
	connectTimeout = 10 * time.Second
	// A connection of HTTP/2 that answers no ping is given up: all calls share it, and would wait for their time limits.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
	// maxFailureBody bounds what is read of an answer that is no success.
	maxFailureBody = 1 << 20
)

// errClosed is why calls end that a Close finds under way.
var errClosed = errors.New("the connection was closed")

// Conn is the connections to a deployment. It implements client.Client.
type Conn struct {
	name string
	d    *config.Deployment
	base string
	// http is no http.Client, which would go after redirects and put URLs, with job ids in them, into errors.
	http  *http.Transport
	polls *batch.Poller
	// closed ends with the first Close.
	closed context.Context //nolint:containedctx // it is no call's
	end    context.CancelFunc
}

var _ client.Client = (*Conn)(nil)

// Dial prepares the connection to deployment d, called name in messages. It reads the TLS files and does not wait for the
// service. Close it once; calls under way then fail as Canceled.
func Dial(name string, d *config.Deployment) (*Conn, error) {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: refusedByProxy,
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		// Connections that are made without a handshake of our own, through a proxy, go by TLSClientConfig.
		TLSHandshakeTimeout: connectTimeout,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxIdleConnsPerHost: maxIdle,
		IdleConnTimeout:     90 * time.Second,
	}
	if !d.Insecure {
		var err error
		if transport.TLSClientConfig, err = tlsfiles.Config(d.TLS); err != nil {
			return nil, fmt.Errorf("plugins.backend.deployments.%s.tls: %w", name, err)
		}
		transport.DialTLSContext = dialTLS(d.TLS)
	}
	u, err := url.Parse(d.Endpoint)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("plugins.backend.deployments.%s.endpoint: a URL such as https://host:port is due", name)
	}
	c := &Conn{
		// A path that is not escaped would undo the escapes of what comes behind it.
		name: name, d: d, base: u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/") + root, http: transport,
	}
	c.polls = batch.New(single{c}, name, d.Endpoint)
	c.closed, c.end = context.WithCancel(context.Background())
	return c, nil
}

// dialTLS makes connections for which the files are read anew, so that renewed ones are used without a restart.
func dialTLS(files config.TLS) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		cfg, err := tlsfiles.Config(files)
		if err != nil {
			return nil, err
		}
		cfg.NextProtos = []string{"h2", "http/1.1"}
		return (&tls.Dialer{Config: cfg}).DialContext(ctx, network, address) // it fills in the server's name
	}
}

// Close ends the connections and the calls that are under way.
func (c *Conn) Close() error {
	c.end()
	c.http.CloseIdleConnections()
	return nil
}

// List asks which plugins are registered.
func (c *Conn) List(ctx context.Context) ([]client.Registration, error) {
	var list pluginList
	if err := c.call(ctx, request{op: config.CallList, method: http.MethodGet, url: c.base}, &list); err != nil {
		return nil, err
	}
	out, err := list.registrations()
	if err != nil {
		return nil, c.broken(config.CallList, err)
	}
	return out, nil
}

// Create puts a job.
func (c *Conn) Create(ctx context.Context, req *client.CreateRequest) (client.JobID, error) {
	body, err := newCreateRequest(req, 0)
	if err != nil {
		return nil, c.unsendable(config.CallCreate, err)
	}
	var out created
	if err := c.call(ctx, request{
		op: config.CallCreate, method: http.MethodPut, url: c.path(req.Target), key: req.IdempotencyKey, body: body,
	}, &out); err != nil {
		return nil, err
	}
	if out.JobID == "" && out.ErrorCode != "" { // so a service means to fail whose author took the status for another thing
		return nil, c.broken(config.CallCreate, fmt.Errorf("it has error_code %q and no job_id; an error has the status of its code, not 200", out.ErrorCode))
	}
	id, err := decodeID(out.JobID)
	if err != nil {
		return nil, c.broken(config.CallCreate, err)
	}
	if len(id) == 0 || len(id) > client.MaxJobID {
		return nil, c.broken(config.CallCreate, fmt.Errorf("the job id has %d bytes, 1 to %d are due", len(id), client.MaxJobID))
	}
	return id, nil
}

// Get polls a job, together with others that are polled at about the same time if the service serves that.
func (c *Conn) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	return c.polls.Get(ctx, ref)
}

// single is a Conn whose polls are calls of their own. It implements batch.Transport.
type single struct{ *Conn }

// Get polls one job: by its id in the URL, or in a body when it is too long for one.
func (c single) Get(ctx context.Context, ref client.JobRef) (*client.Job, error) {
	wire := refOf(ref)
	if len(wire.JobID) > maxURLID {
		results, err := c.GetMany(ctx, []client.JobRef{ref})
		switch {
		case err != nil:
			return nil, client.AsError(err)
		case len(results) != 1:
			return nil, c.broken(config.CallGet, fmt.Errorf("1 job was polled and %d results came", len(results)))
		case results[0].Err != nil:
			return nil, results[0].Err
		}
		return results[0].Job, nil
	}
	query := c.query(wire)
	if wire.OutputPrefix != "" {
		query.Set("output_prefix", wire.OutputPrefix)
	}
	var status jobStatus
	if err := c.call(ctx, request{op: config.CallGet, method: http.MethodGet, url: c.path(ref.Target) + encoded(query)}, &status); err != nil {
		return nil, err
	}
	return c.job(config.CallGet, &status)
}

// GetMany polls jobs of one plugin in one call.
func (c single) GetMany(ctx context.Context, refs []client.JobRef) ([]batch.Result, error) {
	var body pollRequest
	for _, ref := range refs {
		body.Jobs = append(body.Jobs, refOf(ref))
	}
	var reply pollReply
	if err := c.call(ctx, request{op: config.CallGet, method: http.MethodPost, url: c.path(refs[0].Target) + "/poll", body: body}, &reply); err != nil {
		switch client.AsError(err).Code {
		case codes.Unimplemented, codes.NotFound, codes.PermissionDenied:
			// There is no such route, or no such plugin, or something on the way lets only those through that it knows: polls of
			// single jobs find out.
			return nil, errors.Join(batch.ErrNotServed, err)
		default:
			return nil, err
		}
	}
	if reply.Results == nil {
		return nil, c.broken(config.CallGet, errors.New("it has no results"))
	}
	out := make([]batch.Result, 0, len(*reply.Results))
	for _, r := range *reply.Results {
		out = append(out, c.result(r))
	}
	return out, nil
}

// result checks and converts what a batch poll tells of one job.
func (c *Conn) result(r pollResult) batch.Result {
	switch {
	case (r.Job == nil) == (r.Error == nil):
		return batch.Result{Err: c.broken(config.CallGet, errors.New("the result of a job has to hold either job or error"))}
	case r.Error != nil:
		return batch.Result{Err: c.jobError(r.Error)}
	}
	job, err := c.job(config.CallGet, r.Job)
	if err != nil {
		return batch.Result{Err: client.AsError(err)}
	}
	return batch.Result{Job: job}
}

// Delete deletes a job. One that the service does not know is deleted already.
func (c *Conn) Delete(ctx context.Context, ref client.JobRef) error {
	wire := refOf(ref)
	r := request{op: config.CallDelete, method: http.MethodDelete, url: c.path(ref.Target) + encoded(c.query(wire))}
	if len(wire.JobID) > maxURLID {
		wire.OutputPrefix = ""
		r = request{op: config.CallDelete, method: http.MethodPost, url: c.path(ref.Target) + "/delete", body: wire}
	}
	var out struct{}
	err := c.call(ctx, r, &out)
	if e := (*client.Error)(nil); errors.As(err, &e) && e.Code == codes.NotFound && e.FromService {
		return nil
	}
	return err
}

// Execute runs a task to its end.
func (c *Conn) Execute(ctx context.Context, req *client.CreateRequest) (*client.Job, error) {
	body, err := newCreateRequest(req, req.Metadata.MaxDatasetSizeBytes)
	if err != nil {
		return nil, c.unsendable(config.CallExecute, err)
	}
	var status jobStatus
	if err := c.call(ctx, request{
		op: config.CallExecute, method: http.MethodPost, url: c.path(req.Target) + "/execute", key: req.IdempotencyKey, body: body,
	}, &status); err != nil {
		return nil, err
	}
	return c.job(config.CallExecute, &status)
}

// path is where a plugin's jobs are.
func (c *Conn) path(t client.Target) string {
	return c.base + "/" + url.PathEscape(t.TaskType) + "/" + url.PathEscape(cmp.Or(t.PluginVersion, config.DefaultPluginVersion))
}

func (c *Conn) query(wire jobRef) url.Values {
	return url.Values{"job_id": {wire.JobID}, "task_type_version": {strconv.Itoa(int(wire.TaskTypeVersion))}}
}

// encoded is a query as a URL has it. A plus for a space is for forms only, and not every language reads it back.
func encoded(query url.Values) string { return "?" + strings.ReplaceAll(query.Encode(), "+", "%20") }

func (c *Conn) job(op string, s *jobStatus) (*client.Job, error) {
	job, err := s.job()
	if err != nil {
		e := c.broken(op, err)
		e.Code = codes.DataLoss // no answer of the same service will be better
		return nil, e
	}
	return job, nil
}

// request is a call before it is made.
type request struct {
	op, method, url, key string
	// body is sent as JSON unless it is nil.
	body any
}

// call makes a call and decodes its answer into out. It gives nothing but a *client.Error.
func (c *Conn) call(ctx context.Context, r request, out any) error {
	payload, err := c.roundTrip(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, out); err != nil {
		return c.broken(r.op, fmt.Errorf("it is not the JSON that is due: %w", err))
	}
	return nil
}

// roundTrip makes a call and gives the body of a success.
func (c *Conn) roundTrip(ctx context.Context, r request) ([]byte, error) {
	var body io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, c.unsendable(r.op, err)
		}
		if len(b) > c.d.MaxMessageSize() {
			return nil, c.tooLarge(r.op, fmt.Sprintf("trying to send a request of %d bytes, larger than max %d", len(b), c.d.MaxMessageSize()))
		}
		body = bytes.NewReader(b)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.closed, func() { cancel(errClosed) })()
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(traced, r.method, r.url, body)
	if err != nil {
		return nil, c.unsendable(r.op, errors.New("the endpoint and the task type make no URL"))
	}
	req.Header.Set("Accept", jsonType)
	req.Header.Set("User-Agent", "flyte-backend")
	if body != nil {
		req.Header.Set("Content-Type", jsonType)
	}
	// net/http repeats a call by itself when a connection that it had kept turns out to be closed, if the key tells that this may
	// be done. A key without a value is not sent: polls, deletes and lists may be repeated without one.
	switch {
	case r.key != "":
		req.Header.Set("Idempotency-Key", r.key)
	case r.op != config.CallCreate && r.op != config.CallExecute:
		req.Header["Idempotency-Key"] = nil
	}
	res, err := c.http.RoundTrip(req)
	if err != nil {
		return nil, c.networkError(ctx, r.op, err, connected.Load())
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, c.answerError(r.op, res)
	}
	limit := int64(c.d.MaxMessageSize())
	payload, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case int64(len(payload)) > limit:
		return nil, c.tooLarge(r.op, fmt.Sprintf("received an answer larger than max %d%s", limit, ofSize(res.ContentLength)))
	case err != nil:
		return nil, c.networkError(ctx, r.op, err, true)
	}
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != jsonType {
		return nil, c.broken(r.op, fmt.Errorf("its content type is %q, %s is due", res.Header.Get("Content-Type"), jsonType))
	}
	return payload, nil
}

func ofSize(n int64) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprintf(": it has %d bytes", n)
}

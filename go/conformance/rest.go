package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

const (
	keyHeader = "Idempotency-Key"
	// longID is from where on an id travels in a body.
	longID = 4096
	// maxBody bounds what is read of an answer.
	maxBody = 64 << 20
)

// restDriver speaks REST with net/http, and nothing of what net/http sends is left to its taste.
type restDriver struct {
	base    string
	headers map[string]string
	client  *http.Client
}

func dialREST(o Options, endpoint string) (*restDriver, error) {
	c, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: c, ForceAttemptHTTP2: false, DisableCompression: true, MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute,
		ExpectContinueTimeout: time.Second,
	}
	return &restDriver{endpoint, o.Headers, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (d *restDriver) close() { d.client.CloseIdleConnections() }

// request is one request, to the letter.
type request struct {
	method, path string // the path as it goes over the wire
	header       map[string]string
	body         []byte
	noType       bool // leaves out Content-Type
	chunked      bool
	says         string // for reports; empty means method and path
}

func (q *request) describe() string {
	if q.says != "" {
		return q.says
	}
	s := q.method + " " + short(q.path)
	if len(q.body) > 0 && len(q.body) < 200 {
		s += " " + short(string(q.body))
	}
	return s
}

// do sends a request and writes down what came.
func (d *restDriver) do(ctx context.Context, q request) reply {
	r := reply{sent: q.describe()}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
		if q.chunked {
			body = io.MultiReader(body) // a reader whose length net/http cannot know
		}
	}
	begin := time.Now()
	lost := func(err error) reply {
		if of := (*url.Error)(nil); errors.As(err, &of) {
			err = of.Err // its URL is no help
		}
		r.lost, r.code, r.message = true, codes.Unavailable, err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			r.message = nothingCame(begin)
		}
		return r
	}
	req, err := http.NewRequestWithContext(ctx, q.method, d.base+"/", body)
	if err != nil {
		return lost(err)
	}
	path, query, _ := strings.Cut(q.path, "?")
	target := strings.TrimSuffix(req.URL.Path, "/") + path
	if strings.HasPrefix(target, "//") { // net/http takes it for a host otherwise
		target = "//" + req.URL.Host + target
	}
	req.URL.Opaque, req.URL.RawQuery = target, query // as it is, escapes and dots included
	if q.body != nil && !q.noType {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, headers := range []map[string]string{d.headers, q.header} {
		for k, v := range headers {
			req.Header.Set(k, v)
		}
	}
	begin = time.Now()
	res, err := d.client.Do(req)
	if err != nil {
		return lost(err)
	}
	defer res.Body.Close()
	r.body, err = io.ReadAll(io.LimitReader(res.Body, maxBody))
	r.took = time.Since(begin)
	if err != nil {
		return lost(err)
	}
	r.status, r.header = res.StatusCode, res.Header
	r.judge()
	return r
}

// statusCodes is what a status means when the body does not say.
var statusCodes = map[int]codes.Code{
	400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound, 405: codes.Unimplemented,
	409: codes.Aborted, 413: codes.ResourceExhausted, 415: codes.InvalidArgument, 429: codes.ResourceExhausted, 431: codes.InvalidArgument,
	499: codes.Canceled, 500: codes.Internal, 501: codes.Unimplemented, 503: codes.Unavailable, 504: codes.DeadlineExceeded,
}

// statusesOf are the statuses that may go with a code.
var statusesOf = map[codes.Code][]int{
	codes.Canceled: {499}, codes.Unknown: {500}, codes.InvalidArgument: {400, 415, 405, 411, 414, 431}, codes.DeadlineExceeded: {504}, codes.NotFound: {404},
	codes.AlreadyExists: {409}, codes.PermissionDenied: {403}, codes.ResourceExhausted: {429, 413}, codes.FailedPrecondition: {400},
	codes.Aborted: {409}, codes.OutOfRange: {400}, codes.Unimplemented: {501, 405, 404}, codes.Internal: {500}, codes.Unavailable: {503},
	codes.DataLoss: {500}, codes.Unauthenticated: {401},
}

// judge makes a code of status and body.
func (r *reply) judge() {
	if v, ok := r.header["Retry-After"]; ok {
		r.hasRetry, r.retry = true, strings.Join(v, ", ")
		seconds, err := strconv.ParseUint(r.retry, 10, 32)
		r.pause, r.badRetry = time.Duration(seconds)*time.Second, err != nil
	}
	if r.status == http.StatusOK {
		return
	}
	var e struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if r.isJSON() && json.Unmarshal(r.body, &e) == nil {
		r.errorCode, r.message = e.Code, e.Message
	}
	code, known := codeByName[r.errorCode]
	if !known {
		code = codes.Unknown
		if c, ok := statusCodes[r.status]; ok {
			code = c
		}
	}
	r.code = code
}

func (r *reply) isJSON() bool {
	media, _, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	return err == nil && media == "application/json"
}

// read takes the body of a success apart.
func (r *reply) read(into any) bool {
	if r.lost || r.code != codes.OK {
		return false
	}
	if err := json.Unmarshal(r.body, into); err != nil {
		why := err.Error()
		if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) {
			why = fmt.Sprintf("%s is of the wrong kind, %s", kind.Field, kind.Value)
		}
		r.broken = fmt.Sprintf("the body is no such JSON as api/openapi.yaml says (%s): %s", why, short(string(r.body)))
		return false
	}
	return true
}

func (d *restDriver) list(ctx context.Context) reply {
	r := d.do(ctx, request{method: http.MethodGet, path: "/plugins/v1"})
	var body struct {
		Plugins []struct {
			Name     string  `json:"name"`
			TaskType string  `json:"task_type"`
			Version  string  `json:"plugin_version"`
			Versions []int32 `json:"task_type_versions"`
			Mode     string  `json:"mode"`
		} `json:"plugins"`
	}
	if r.read(&body) {
		for _, p := range body.Plugins {
			r.plugins = append(r.plugins, plugin{name: p.Name, taskType: p.TaskType, version: p.Version, taskTypeVersions: p.Versions, sync: p.Mode == "sync"})
		}
	}
	return r
}

func pluginPath(p plugin) string {
	return "/plugins/v1/" + url.PathEscape(p.taskType) + "/" + url.PathEscape(p.version)
}

// jobID writes an id as REST does.
func jobID(id []byte) string {
	if !utf8.Valid(id) || bytes.HasPrefix(id, []byte("base64:")) {
		return "base64:" + base64.RawURLEncoding.EncodeToString(id)
	}
	return string(id)
}

func message(m proto.Message) json.RawMessage {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return json.RawMessage(`null`)
	}
	return raw
}

// createBody is the body of a create.
func createBody(c call) map[string]any {
	body := map[string]any{"template": message(c.template), "output_prefix": c.prefix}
	if c.inputs != nil {
		body["inputs"] = message(c.inputs)
	}
	if c.metadata != nil {
		body["metadata"] = message(c.metadata)
	}
	return body
}

func asJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("conformance: a request is no JSON: %v", err)) // it is made here, of values that are
	}
	return raw
}

func (d *restDriver) create(ctx context.Context, c call) reply {
	q := request{method: http.MethodPut, path: pluginPath(c.plugin), body: asJSON(createBody(c)), says: c.says("PUT " + pluginPath(c.plugin))}
	if c.key != "" {
		q.header = map[string]string{keyHeader: c.key}
	}
	return d.created(ctx, q)
}

// created sends a request that is to create a job.
func (d *restDriver) created(ctx context.Context, q request) reply {
	r := d.do(ctx, q)
	var body struct {
		JobID *string `json:"job_id"`
	}
	if !r.read(&body) {
		return r
	}
	if body.JobID == nil {
		r.broken = "the body has no job_id: " + short(string(r.body))
		return r
	}
	r.id = []byte(*body.JobID)
	if rest, ok := strings.CutPrefix(*body.JobID, "base64:"); ok {
		id, err := base64.RawURLEncoding.DecodeString(rest)
		if err != nil {
			r.broken = "the job_id begins with base64: and is none: " + err.Error()
			return r
		}
		r.id = id
	}
	return r
}

type jobStatus struct {
	State   string            `json:"job_state"`
	Code    string            `json:"error_code"`
	Message string            `json:"message"`
	Outputs json.RawMessage   `json:"outputs"`
	Links   []json.RawMessage `json:"log_links"`
}

// state turns REST's words into ours.
func (s *jobStatus) state() (*state, error) {
	out := &state{phase: s.State, message: s.Message, code: s.Code, hasError: s.Code != ""}
	loose := protojson.UnmarshalOptions{DiscardUnknown: true}
	if len(s.Outputs) > 0 && string(s.Outputs) != "null" {
		out.outputs = &core.LiteralMap{}
		if err := loose.Unmarshal(s.Outputs, out.outputs); err != nil {
			return nil, fmt.Errorf("outputs: %w", err)
		}
	}
	for _, raw := range s.Links {
		link := &core.TaskLog{}
		if err := loose.Unmarshal(raw, link); err != nil {
			return nil, fmt.Errorf("log_links: %w", err)
		}
		out.links = append(out.links, link)
	}
	return out, nil
}

func (r *reply) readState() {
	var s jobStatus
	if !r.read(&s) {
		return
	}
	st, err := s.state()
	if err != nil {
		r.broken = err.Error()
		return
	}
	r.state = st
}

func query(j job) string {
	q := url.Values{"job_id": {jobID(j.id)}}
	if v := j.plugin.taskTypeVersion(); v != 0 {
		q.Set("task_type_version", strconv.Itoa(int(v)))
	}
	return q.Encode()
}

func (d *restDriver) get(ctx context.Context, j job) reply {
	if len(jobID(j.id)) >= longID { // it travels in a body
		r := d.batch(ctx, []job{j})
		if !r.ok() {
			return r
		}
		if len(r.results) != 1 {
			r.broken = fmt.Sprintf("%d results for one job", len(r.results))
			return r
		}
		one := r.results[0]
		one.sent = "POST …/poll of " + j.show()
		return one
	}
	path := pluginPath(j.plugin) + "?" + query(j)
	if j.prefix != "" {
		path += "&output_prefix=" + url.QueryEscape(j.prefix)
	}
	r := d.do(ctx, request{method: http.MethodGet, path: path})
	r.readState()
	return r
}

func ref(j job) map[string]any {
	m := map[string]any{"job_id": jobID(j.id)}
	if v := j.plugin.taskTypeVersion(); v != 0 {
		m["task_type_version"] = v
	}
	if j.prefix != "" {
		m["output_prefix"] = j.prefix
	}
	return m
}

func (d *restDriver) delete(ctx context.Context, j job) reply {
	if len(jobID(j.id)) >= longID {
		return d.do(ctx, request{
			method: http.MethodPost, path: pluginPath(j.plugin) + "/delete", body: asJSON(ref(j)), says: "POST " + pluginPath(j.plugin) + "/delete of " + j.show(),
		})
	}
	return d.do(ctx, request{method: http.MethodDelete, path: pluginPath(j.plugin) + "?" + query(j)})
}

func (d *restDriver) execute(ctx context.Context, c call) reply {
	path := pluginPath(c.plugin) + "/execute"
	r := d.do(ctx, request{method: http.MethodPost, path: path, body: asJSON(createBody(c)), header: map[string]string{keyHeader: c.key}, says: c.says("POST " + path)})
	r.readState()
	return r
}

func (d *restDriver) batch(ctx context.Context, jobs []job) reply {
	var p plugin
	if len(jobs) > 0 {
		p = jobs[0].plugin
	}
	return d.batchOf(ctx, p, jobs)
}

func (d *restDriver) batchOf(ctx context.Context, p plugin, jobs []job) reply {
	refs := make([]any, len(jobs))
	for i, j := range jobs {
		refs[i] = ref(j)
	}
	path := pluginPath(p) + "/poll"
	r := d.do(ctx, request{method: http.MethodPost, path: path, body: asJSON(map[string]any{"jobs": refs}), says: fmt.Sprintf("POST %s of %d jobs", path, len(jobs))})
	var body struct {
		Results []struct {
			Job   *jobStatus `json:"job"`
			Error *struct {
				Status  int    `json:"status"`
				Code    string `json:"error_code"`
				Message string `json:"message"`
			} `json:"error"`
		} `json:"results"`
	}
	if !r.read(&body) {
		return r
	}
	for _, one := range body.Results {
		var out reply
		switch {
		case one.Job != nil:
			st, err := one.Job.state()
			if err != nil {
				out.broken = err.Error()
			}
			out.state = st
		case one.Error != nil:
			out.message = one.Error.Message
			code, known := codeByName[one.Error.Code]
			if !known || code == codes.OK {
				out.broken = fmt.Sprintf("a result with error_code %q", one.Error.Code)
			}
			out.code = code
		default:
			out.broken = "a result with neither job nor error"
		}
		r.results = append(r.results, out)
	}
	return r
}

func (d *restDriver) logs(ctx context.Context, j job, lines uint64, token string) reply {
	body := ref(j)
	body["lines"], body["token"] = lines, token
	r := d.do(ctx, request{method: http.MethodPost, path: pluginPath(j.plugin) + "/logs", body: asJSON(body), says: "POST " + pluginPath(j.plugin) + "/logs of " + j.show()})
	var page struct {
		Lines []struct {
			Message *string `json:"message"`
		} `json:"lines"`
		Next string `json:"next"`
	}
	if r.read(&page) {
		if page.Lines == nil {
			r.broken = "the page has no lines: " + short(string(r.body))
		}
		for _, l := range page.Lines {
			if l.Message == nil {
				r.broken = "a line without a message"
				break
			}
			r.lines = append(r.lines, *l.Message)
		}
		r.next = page.Next
	}
	return r
}

func (d *restDriver) metrics(ctx context.Context, j job, queries []string) reply {
	body := ref(j)
	body["queries"], body["step_seconds"] = queries, 60
	body["start"], body["end"] = time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339)
	r := d.do(ctx, request{method: http.MethodPost, path: pluginPath(j.plugin) + "/metrics", body: asJSON(body), says: "POST " + pluginPath(j.plugin) + "/metrics of " + j.show()})
	var reply struct {
		Metrics []struct {
			Name string `json:"name"`
		} `json:"metrics"`
	}
	if r.read(&reply) {
		for _, m := range reply.Metrics {
			r.series = append(r.series, m.Name)
		}
	}
	return r
}

// page gets one of the service's own pages.
func (d *restDriver) page(ctx context.Context, path string) reply {
	return d.do(ctx, request{method: http.MethodGet, path: path})
}

// target is a path below the endpoint's own.
func (d *restDriver) target(path string) string {
	u, err := url.Parse(d.base)
	if err != nil {
		return path
	}
	return strings.TrimSuffix(u.Path, "/") + path
}

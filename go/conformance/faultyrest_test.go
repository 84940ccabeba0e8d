package conformance_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

type object = map[string]any

var httpStatus = map[codes.Code]int{
	codes.InvalidArgument: 400, codes.NotFound: 404, codes.AlreadyExists: 409, codes.ResourceExhausted: 429, codes.FailedPrecondition: 400,
	codes.Unimplemented: 501, codes.Internal: 500, codes.Unknown: 500, codes.Canceled: 499, codes.Unavailable: 503,
}

var codeName = map[codes.Code]string{
	codes.InvalidArgument: "INVALID_ARGUMENT", codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL", codes.Unknown: "UNKNOWN",
	codes.Canceled: "CANCELLED", codes.Unavailable: "UNAVAILABLE", 99: "WEIRD",
}

// overREST is a faulty service over REST.
type overREST struct{ f *faulty }

func (f *faulty) serveREST(lis net.Listener) func() {
	s := &http.Server{Handler: overREST{f}, MaxHeaderBytes: 3 << 20, ErrorLog: log.New(io.Discard, "", 0)} //nolint:gosec // silent connections are what is tried
	s.SetKeepAlivesEnabled(!f.is("connections are not kept"))
	go func() { _ = s.Serve(lis) }()
	return func() { _ = s.Close() }
}

func (o overREST) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (o overREST) fail(w http.ResponseWriter, e *ferr) {
	status := httpStatus[e.code]
	if e.code == 99 {
		status = 404
	}
	if e.retry != "" {
		w.Header().Set("Retry-After", "soon")
	}
	if e.pause {
		w.Header().Set("Retry-After", "0")
	}
	if status == 404 && o.f.is("errors in HTML") {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html>404</html>")
		return
	}
	if e.message == "there is no such job" && o.f.is("a status of its own") {
		status = 400
	}
	if e.message == "too large" || strings.Contains(e.message, "the limit here") {
		status = 413
	}
	o.answer(w, status, object{"error_code": codeName[e.code], "message": e.message})
}

func (o overREST) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := o.f
	if f.is("dies of large headers") && len(r.Header.Get("X-Conformance")) > 1<<20 {
		f.die()
		return
	}
	if len(r.Header.Get("X-Conformance")) > 1<<20 {
		o.answer(w, 431, object{"error_code": "INVALID_ARGUMENT", "message": "a header is too large"})
		return
	}
	if f.is("odd headers are refused") && r.Header.Get("Traceparent") == "garbage" {
		o.fail(w, fail(codes.InvalidArgument, "traceparent"))
		return
	}
	if f.is("paths are a fault") && strings.Contains(r.URL.EscapedPath(), "%00") {
		o.fail(w, fail(codes.Internal, "ValueError: embedded null byte"))
		return
	}
	if e := f.full(); e != nil {
		o.fail(w, e)
		return
	}
	switch r.URL.Path {
	case "/plugins/v1":
		if o.method(w, r, "GET") {
			o.list(w)
		}
		return
	case "/healthz", "/readyz":
		switch {
		case f.is(bare):
			o.unknownPath(w)
		case f.is(r.URL.Path + " is broken"):
			_, _ = io.WriteString(w, "up")
		default:
			o.answer(w, 200, object{"status": "up"})
		}
		return
	case "/metrics":
		if f.is(bare) {
			o.unknownPath(w)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		if f.is("/metrics is broken") {
			w.Header().Set("Content-Type", "text/html")
		}
		_, _ = io.WriteString(w, "# HELP x y\nx 1\n")
		return
	case "/openapi.json":
		switch {
		case f.is(bare):
			o.unknownPath(w)
		case f.is("/openapi.json is broken"):
			o.answer(w, 200, object{"openapi": "3.1.0"})
		default:
			o.answer(w, 200, object{"openapi": "3.1.0", "paths": object{"/plugins/v1": object{}}})
		}
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/plugins/v1/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 2 || len(parts) > 3 || strings.Contains(r.URL.Path, "..") || parts[0] == "" {
		o.unknownPath(w)
		return
	}
	q := &frequest{taskType: parts[0], version: parts[1], key: r.Header.Get("Idempotency-Key"), single: true, echo: r.Header.Get("Authorization")}
	if len(parts) == 2 {
		switch {
		case !o.method(w, r, "GET", "PUT", "DELETE"):
		case r.Method == http.MethodPut:
			o.create(w, r, q)
		default:
			o.job(w, r, q)
		}
		return
	}
	known := []string{"poll", "delete", "execute", "logs", "metrics"}
	if !slices.Contains(known, parts[2]) || parts[2] == "poll" && f.is(bare) {
		o.unknownPath(w)
		return
	}
	if !o.method(w, r, "POST") {
		return
	}
	if f.is(shortIDs) && (parts[2] == "poll" || parts[2] == "delete") {
		o.fail(w, fail(codes.Unimplemented, "there is nothing that this could be about"))
		return
	}
	switch parts[2] {
	case "execute":
		o.execute(w, r, q)
	case "poll":
		o.poll(w, r, q)
	default:
		o.byBody(w, r, q, parts[2])
	}
}

func (o overREST) unknownPath(w http.ResponseWriter) {
	if o.f.is("unknown paths are 400") {
		o.fail(w, fail(codes.InvalidArgument, "no such path"))
		return
	}
	o.fail(w, fail(codes.NotFound, "no such path"))
}

func (o overREST) method(w http.ResponseWriter, r *http.Request, allowed ...string) bool {
	if slices.Contains(allowed, r.Method) {
		return true
	}
	if !o.f.is("no Allow") {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
	}
	o.answer(w, 405, object{"error_code": "UNIMPLEMENTED", "message": "no such method"})
	return false
}

func (o overREST) list(w http.ResponseWriter) {
	o.f.beforeList()
	plugins := []object{}
	for _, p := range o.f.plugins() {
		mode := map[bool]string{true: "sync", false: "async"}[p.sync]
		if o.f.is("a mode of its own") && p.taskType == "work" {
			mode = "Async"
		}
		versions := p.versions
		if versions == nil {
			versions = []int32{}
		}
		plugins = append(plugins, object{"name": p.name, "task_type": p.taskType, "plugin_version": p.version, "task_type_versions": versions, "mode": mode})
	}
	o.answer(w, 200, object{"plugins": plugins})
}

// body reads a JSON object.
func (o overREST) body(w http.ResponseWriter, r *http.Request) (map[string]json.RawMessage, []byte, bool) {
	f := o.f
	media, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media != "application/json" && !f.is("any content type") {
		o.answer(w, 415, object{"error_code": "INVALID_ARGUMENT", "message": "application/json is due"})
		return nil, nil, false
	}
	if f.is("charset is refused") && len(params) > 0 {
		o.fail(w, fail(codes.InvalidArgument, "charset"))
		return nil, nil, false
	}
	if f.is("chunks are refused") && r.ContentLength < 0 {
		o.answer(w, 411, object{"error_code": "INVALID_ARGUMENT", "message": "no length"})
		return nil, nil, false
	}
	raw, err := io.ReadAll(r.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) && f.is("dies of a cut connection") {
		f.die()
	}
	if err != nil {
		return nil, nil, false
	}
	if len(raw) > 8<<20 {
		o.fail(w, fail(codes.ResourceExhausted, "too large"))
		return nil, nil, false
	}
	has := func(s string) bool { return bytes.Contains(raw, []byte(s)) }
	kind := ""
	switch {
	case has("not json<"):
		kind = "garbage"
	case len(raw) == 0:
		kind = "empty-body"
	case raw[0] == '[':
		kind = "array-body"
	case string(raw) == `{"template": "text"}`:
		kind = "wrong-kind"
	case has(`"inputs":7`):
		kind = "wrong-field"
	case has("}{}]"):
		kind = "trailing-data"
	case !utf8.Valid(raw):
		kind = "invalid-utf8"
	case has(`"/tmp/first"`):
		kind = "duplicate-keys"
	case has("[[[["):
		kind = "deep-nesting"
	case len(raw) > 2 && !json.Valid(raw):
		kind = "truncated"
	case has(`"resource_type"`):
		kind = "snake-case"
	}
	switch {
	case kind != "" && f.is("fault at rest/"+kind):
		o.fail(w, fail(codes.Internal, "Traceback, in short"))
		return nil, nil, false
	case kind == "snake-case" && f.is("snake_case is refused"):
		o.fail(w, fail(codes.InvalidArgument, "unknown field"))
		return nil, nil, false
	case !utf8.Valid(raw):
		o.fail(w, fail(codes.InvalidArgument, "no UTF-8"))
		return nil, nil, false
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(raw, &body); err != nil {
		o.fail(w, fail(codes.InvalidArgument, "no JSON object: %v", err))
		return nil, nil, false
	}
	return body, raw, true
}

// task reads what create and execute have.
func (o overREST) task(w http.ResponseWriter, r *http.Request, q *frequest) bool {
	body, _, ok := o.body(w, r)
	if !ok {
		return false
	}
	if len(q.key) > 64 && !o.f.is("keys of any length") {
		o.fail(w, fail(codes.InvalidArgument, "the key is too long"))
		return false
	}
	q.template, q.inputs, q.metadata = &core.TaskTemplate{}, &core.LiteralMap{}, &admin.TaskExecutionMetadata{}
	for name, m := range map[string]proto.Message{"template": q.template, "inputs": q.inputs, "metadata": q.metadata} {
		if raw := body[name]; raw != nil {
			if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m); err != nil {
				o.fail(w, fail(codes.InvalidArgument, "%s: wrong", name))
				return false
			}
		}
	}
	if body["template"] == nil {
		q.template = nil
	}
	_ = json.Unmarshal(body["output_prefix"], &q.prefix)
	q.taskTypeVersion, q.unknownFields = q.template.GetTaskTypeVersion(), bytes.Contains(body["conformance_unknown"], []byte("deep"))
	return true
}

func (o overREST) create(w http.ResponseWriter, r *http.Request, q *frequest) {
	if !o.task(w, r, q) {
		return
	}
	id, e := o.f.create(r.Context(), q)
	if e != nil {
		o.fail(w, e)
		return
	}
	o.answer(w, 200, object{"job_id": id, "error_code": "", "message": ""})
}

func (o overREST) execute(w http.ResponseWriter, r *http.Request, q *frequest) {
	if !o.task(w, r, q) {
		return
	}
	s, e := o.f.execute(r.Context(), q)
	if e != nil {
		o.fail(w, e)
		return
	}
	o.answer(w, 200, statusOf(s))
}

func statusOf(s *fstate) object {
	out := object{"job_state": s.phase, "message": s.message, "error_code": s.errorCode}
	if s.outputs != nil {
		raw, _ := protojson.Marshal(s.outputs)
		out["outputs"] = json.RawMessage(raw)
	}
	links := []json.RawMessage{}
	for _, l := range s.links {
		raw, _ := protojson.Marshal(l)
		links = append(links, raw)
	}
	out["log_links"] = links
	return out
}

func (o overREST) id(w http.ResponseWriter, text string) ([]byte, bool) {
	rest, ok := strings.CutPrefix(text, "base64:")
	if !ok {
		return []byte(text), true
	}
	id, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil {
		code := codes.InvalidArgument
		if o.f.is("base64 is a fault") {
			code = codes.Internal
		}
		o.fail(w, fail(code, "job_id is no base64"))
		return nil, false
	}
	return id, true
}

func (o overREST) job(w http.ResponseWriter, r *http.Request, q *frequest) {
	if !r.URL.Query().Has("job_id") && !o.f.is("a poll needs no job_id") {
		o.fail(w, fail(codes.InvalidArgument, "job_id is missing"))
		return
	}
	if v := r.URL.Query().Get("task_type_version"); v != "" && !o.f.is("any query is taken") {
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || n < 0 {
			o.fail(w, fail(codes.InvalidArgument, "task_type_version %q", v))
			return
		}
	}
	var ok bool
	if q.id, ok = o.id(w, r.URL.Query().Get("job_id")); !ok {
		return
	}
	if r.Method == http.MethodDelete {
		if !r.URL.Query().Has("job_id") {
			o.answer(w, 200, object{})
			return
		}
		o.deleted(w, r, q)
		return
	}
	if !r.URL.Query().Has("job_id") {
		o.answer(w, 200, object{"job_state": "RUNNING"})
		return
	}
	s, e := o.f.get(r.Context(), q)
	if e != nil {
		o.fail(w, e)
		return
	}
	o.answer(w, 200, statusOf(s))
}

func (o overREST) deleted(w http.ResponseWriter, r *http.Request, q *frequest) {
	if e := o.f.delete(r.Context(), q); e != nil {
		o.fail(w, e)
		return
	}
	o.answer(w, 200, object{"error_code": "", "message": ""})
}

func (o overREST) byBody(w http.ResponseWriter, r *http.Request, q *frequest, what string) {
	body, _, ok := o.body(w, r)
	if !ok {
		return
	}
	var id string
	_ = json.Unmarshal(body["job_id"], &id)
	if q.id, ok = o.id(w, id); !ok {
		return
	}
	switch what {
	case "delete":
		o.deleted(w, r, q)
	case "logs":
		next, e := o.f.logs(string(q.id))
		if e != nil {
			o.fail(w, e)
			return
		}
		o.answer(w, 200, object{"lines": []object{{"message": "a line\n"}}, "next": next})
	case "metrics":
		name, e := o.f.metrics(string(q.id))
		if e != nil {
			o.fail(w, e)
			return
		}
		o.answer(w, 200, object{"metrics": []object{{"name": name}}})
	}
}

func (o overREST) poll(w http.ResponseWriter, r *http.Request, q *frequest) {
	body, _, ok := o.body(w, r)
	if !ok {
		return
	}
	var jobs []struct {
		ID string `json:"job_id"`
	}
	_ = json.Unmarshal(body["jobs"], &jobs)
	if e := o.f.checkBatch(len(jobs)); e != nil {
		o.fail(w, e)
		return
	}
	results := []object{}
	for _, j := range jobs {
		one := *q
		one.single = false
		if one.id, ok = o.id(w, j.ID); !ok {
			return
		}
		s, e := o.f.get(r.Context(), &one)
		switch {
		case e != nil && o.f.is("one wrong job fails all"):
			o.fail(w, e)
			return
		case e != nil:
			if o.f.is("errors of a batch without a message") {
				e.message = ""
			}
			results = append(results, object{"error": object{"status": httpStatus[e.code], "error_code": codeName[e.code], "message": e.message}})
		default:
			results = append(results, object{"job": statusOf(s)})
		}
	}
	o.answer(w, 200, object{"results": shapeBatch(o.f, results)})
}

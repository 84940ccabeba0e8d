package rest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/transport"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Root is the path below which the handler serves.
const Root = "/plugins/v1"

// DefaultMaxBodyBytes is how large a request may be, unless Options say otherwise: as large as a gRPC message of the SDK's.
const DefaultMaxBodyBytes = 16 << 20

// DefaultBodyTimeout is how long a request's body may take to arrive, unless Options say otherwise.
const DefaultBodyTimeout = time.Minute

// Services are what the handler calls. A nil one is answered with 501.
type Services struct {
	Async    pb.AsyncAgentServiceServer
	Sync     pb.SyncAgentServiceServer
	Metadata pb.AgentMetadataServiceServer
	// Batch polls many jobs at once. Without it the handler asks Async for one after the other, a few at once.
	Batch flytebackendv1.BackendServiceServer
	// Capabilities tells what the plugin of a task type and version can do beside its mode's own calls; it may be nil.
	Capabilities func(taskType, pluginVersion, mode string) []string
}

// Options change how requests are taken.
type Options struct {
	// MaxBodyBytes limits a request's body, and what a service may stream as one answer; more is 413. 0 means
	// [DefaultMaxBodyBytes].
	MaxBodyBytes int64
	// BodyTimeout limits how long a request's body may take to arrive; 0 means [DefaultBodyTimeout].
	BodyTimeout time.Duration
	// Log hears of services that panic; nil means slog.Default.
	Log *slog.Logger
}

// handler serves the contract.
type handler struct {
	svc         Services
	maxBody     int64
	bodyTimeout time.Duration
	log         *slog.Logger
}

// NewHandler gives the handler of everything below [Root]. It answers what it does not know with 404 in the contract's form, so
// that it can also be the handler of a whole server.
func NewHandler(svc Services, opts Options) http.Handler {
	if opts.MaxBodyBytes <= 0 {
		opts.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if opts.BodyTimeout <= 0 {
		opts.BodyTimeout = DefaultBodyTimeout
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	return &handler{svc: svc, maxBody: opts.MaxBodyBytes, bodyTimeout: opts.BodyTimeout, log: opts.Log}
}

// request is a call on its way to a service.
type request struct {
	http     *http.Request
	taskType string
	version  string
	query    url.Values
	body     fields
}

type route func(*handler, context.Context, *request) (any, error)

// routes are the calls by what follows the plugin in the path, and by method.
var routes = map[string]map[string]route{
	"":        {http.MethodPut: (*handler).create, http.MethodGet: (*handler).get, http.MethodDelete: (*handler).delete},
	"poll":    {http.MethodPost: (*handler).poll},
	"delete":  {http.MethodPost: (*handler).deleteByBody},
	"execute": {http.MethodPost: (*handler).execute},
	"logs":    {http.MethodPost: (*handler).logs},
	"metrics": {http.MethodPost: (*handler).metrics},
}

var root = map[string]route{http.MethodGet: (*handler).list}

// idempotencyKey is what a key can be.
var idempotencyKey = regexp.MustCompile(`^[[:graph:]]{1,64}$`)

// ServeHTTP answers one call.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // it is thrown as it is
			panic(p)
		}
		WriteError(w, h.panicked(r.Context(), r, p))
	}()
	if r.ContentLength != 0 {
		// A deadline for the whole request would end calls that take long. This one ends with the body, and with the request
		// where nobody reads the body: net/http reads on after an answer.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.bodyTimeout))
	}
	methods, req, err := find(r)
	if err != nil {
		st := status.Convert(err)
		code := Status(st.Code())
		if st.Code() == codes.Unimplemented {
			code = http.StatusNotFound
		}
		writeError(w, code, st)
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	call, ok := methods[method]
	if !ok {
		allow(w, r, methods)
		return
	}
	if method == http.MethodPut || method == http.MethodPost {
		if refused, code := h.readBody(w, r, req); refused != nil {
			writeError(w, code, refused)
			return
		}
	}
	ctx, err := incoming(r, req.version)
	if err != nil {
		WriteError(w, status.Convert(err))
		return
	}
	answer, err := call(h, ctx, req)
	if err != nil {
		var e *tooLarge
		if errors.As(err, &e) {
			writeError(w, http.StatusRequestEntityTooLarge, status.New(codes.ResourceExhausted, e.Error()))
			return
		}
		WriteError(w, statusOf(err))
		return
	}
	WriteJSON(w, http.StatusOK, answer)
}

// panicked logs a panic, and gives its answer. What was thrown may hold anything, so it goes to the log and no further.
func (h *handler) panicked(ctx context.Context, r *http.Request, p any) *status.Status {
	h.log.ErrorContext(ctx, "the service panicked", "method", r.Method, "panic", p, "stack", string(debug.Stack()))
	return status.New(codes.Internal, "the service panicked; its log has the details")
}

// allow answers a method that the path does not have.
func allow(w http.ResponseWriter, r *http.Request, methods map[string]route) {
	has := slices.Collect(maps.Keys(methods))
	if methods[http.MethodGet] != nil {
		has = append(has, http.MethodHead)
	}
	slices.Sort(has)
	w.Header().Set("Allow", strings.Join(has, ", "))
	writeError(w, http.StatusMethodNotAllowed, status.Newf(codes.Unimplemented, "%.200s has %s, not %.20q", r.URL.Path, strings.Join(has, ", "), r.Method))
}

// find finds the calls of a path. It looks at the path as it was sent, in which a task type's own slashes are escaped.
func find(r *http.Request) (map[string]route, *request, error) {
	req := &request{http: r}
	var err error
	if req.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, nil, malformed("the query cannot be read: %v", err)
	}
	path, below := strings.CutPrefix(r.URL.EscapedPath(), Root)
	if !below {
		return nil, nil, noSuchPath(r)
	}
	if path == "" || path == "/" {
		return root, req, nil
	}
	parts := strings.Split(path, "/") // the first one is empty
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "" {
		return nil, nil, noSuchPath(r)
	}
	action := ""
	if len(parts) == 4 {
		action = parts[3]
	}
	methods, ok := routes[action]
	if !ok || len(parts) == 4 && action == "" {
		return nil, nil, noSuchPath(r)
	}
	if req.taskType, err = url.PathUnescape(parts[1]); err != nil || req.taskType == "" {
		return nil, nil, noSuchPath(r)
	}
	if !utf8.ValidString(req.taskType) {
		return nil, nil, malformed("the task type in the path is not UTF-8")
	}
	if req.version, err = url.PathUnescape(parts[2]); err != nil || !pluginversion.Valid(req.version) {
		return nil, nil, status.Errorf(codes.NotFound, "this service has no plugin in version %.100q", parts[2])
	}
	return methods, req, nil
}

// noSuchPath is about the address that a caller has, not about a plugin or a job: NOT_FOUND would tell it that its job is gone.
func noSuchPath(r *http.Request) error {
	return status.Errorf(codes.Unimplemented, "there is no path %.200s; the plugins are below %s", r.URL.Path, Root)
}

// readBody reads the JSON object that is the body. It gives the answer when it cannot.
func (h *handler) readBody(w http.ResponseWriter, r *http.Request, req *request) (*status.Status, int) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	if err != nil || kind != "application/json" || charset != "" && charset != "utf-8" {
		return status.Newf(codes.InvalidArgument, "the body is %q; application/json is due", r.Header.Get("Content-Type")), http.StatusUnsupportedMediaType
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return status.Newf(codes.InvalidArgument, "the body is encoded as %q, which this service does not read", e), http.StatusUnsupportedMediaType
	}
	var large *http.MaxBytesError
	var raw []byte
	if r.ContentLength <= h.maxBody {
		raw, err = io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBody))
	}
	switch {
	case r.ContentLength > h.maxBody || errors.As(err, &large):
		return status.Newf(codes.ResourceExhausted, "the request is larger than %d bytes, the limit of this service (in the Go SDK, WithMaxMessageSize)",
			h.maxBody), http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded): // the caller's line is slow; its request may be right
		return status.New(codes.DeadlineExceeded, "the body was too slow to arrive"), http.StatusGatewayTimeout
	case err != nil:
		return status.New(codes.InvalidArgument, "the body broke off"), http.StatusBadRequest
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if req.body, err = object(raw, "the body"); err != nil {
		return status.Convert(err), http.StatusBadRequest
	}
	return nil, 0
}

// passed are the headers that reach the service as metadata.
var passed = []string{"traceparent", "tracestate", "baggage", "authorization"}

// incoming is the call's context as gRPC would have made it.
func incoming(r *http.Request, version string) (context.Context, error) {
	md := metadata.MD{}
	if version != "" {
		md.Set("flyte-backend-plugin-version", version)
	}
	for _, name := range passed {
		if v := r.Header.Values(name); len(v) > 0 {
			md.Set(name, v...)
		}
	}
	if keys := r.Header.Values("Idempotency-Key"); len(keys) > 0 {
		if len(keys) > 1 || !idempotencyKey.MatchString(keys[0]) {
			return nil, malformed("Idempotency-Key is not 1 to 64 visible ASCII characters")
		}
		md.Set("flyte-backend-idempotency-key", keys[0])
	}
	caller := &peer.Peer{Addr: address(r.RemoteAddr)}
	if r.TLS != nil {
		caller.AuthInfo = credentials.TLSInfo{State: *r.TLS, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	ctx := metadata.NewIncomingContext(r.Context(), md)
	return transport.With(peer.NewContext(ctx, caller), transport.REST), nil
}

type address string

var _ net.Addr = address("")

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// statusOf is the status of a service's error, as gRPC would have made it.
func statusOf(err error) *status.Status {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	if st.Code() == codes.OK { // an error that says that there is none
		return status.New(codes.Unknown, err.Error())
	}
	return st
}

func internal(format string, args ...any) error {
	return status.Errorf(codes.Internal, format, args...)
}

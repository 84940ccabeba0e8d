package backendplugin

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
)

// DefaultRESTAddress is where services listen for REST by convention.
const DefaultRESTAddress = ":8080"

// WithREST serves REST too, as api/openapi.yaml has it: the same plugins, TLS files and limits, in the same process. With the
// plugins it serves /healthz, /readyz, /metrics, /openapi.json and /docs. Where [WithClientCA] asks for client certificates,
// health, readiness and metrics are answered without one, so that kubelet and Prometheus can ask; everything else is 401.
// In plain text it speaks HTTP/1.1 and HTTP/2 without negotiation, with TLS what the caller prefers. An empty address is no REST.
func WithREST(address string) Option { return func(o *options) { o.restAddress = address } }

// WithRESTListener is WithREST for a listener that is open already; the server closes it.
func WithRESTListener(lis net.Listener) Option { return func(o *options) { o.restListener = lis } }

// httpServer is the part of a [Server] that speaks HTTP.
type httpServer struct {
	server *http.Server
	tls    bool
	// ready is the answer to /readyz.
	ready atomic.Pointer[string]
}

// What /readyz says.
var (
	starting, ready, notReady, draining = "starting", "ready", "not ready", "draining"
)

// newHTTPServer makes the server, which does not listen yet.
func newHTTPServer(o *options, plugins Plugins, svc rest.Services, metrics http.Handler) (*httpServer, error) {
	h := &httpServer{}
	h.ready.Store(&starting)
	if metrics == nil {
		metrics = answering(func(w http.ResponseWriter) {
			rest.WriteError(w, status.New(codes.NotFound, "this service has no metrics"))
		})
	}
	forAll := map[string]http.Handler{ // with or without a certificate
		"/healthz": answering(func(w http.ResponseWriter) { rest.WriteJSON(w, http.StatusOK, map[string]string{"status": "up"}) }),
		"/readyz":  answering(h.serveReady),
		"/metrics": metrics,
	}
	pages := map[string]http.Handler{"/openapi.json": answering(serveOpenAPI), "/docs": answering(servePage(plugins))}
	calls := rest.NewHandler(svc, rest.Options{MaxBodyBytes: int64(o.maxMessageSize), Log: o.log})
	needsCertificate := o.clientCA != ""
	h.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength != 0 { // calls look after their own body; nobody reads any other, and net/http would wait for its end
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(rest.DefaultBodyTimeout))
			}
			op, isForAll := forAll[r.URL.Path]
			page, isPage := pages[r.URL.Path]
			switch {
			case isForAll:
				getOnly(w, r, op)
			case needsCertificate && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0):
				rest.WriteError(w, status.New(codes.Unauthenticated, "this service wants a client certificate"))
			case isPage:
				getOnly(w, r, page)
			default:
				calls.ServeHTTP(w, r)
			}
		}),
		ReadHeaderTimeout: cmp.Or(o.headerTimeout, 10*time.Second),
		IdleTimeout:       5 * time.Minute, // longer than propeller's own, so that it is never hung up on while it sends
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(o.log.Handler(), slog.LevelDebug), // scanners that hang up, and the like
		Protocols:         &http.Protocols{},
	}
	h.server.Protocols.SetHTTP1(true)
	if o.plainText {
		h.server.Protocols.SetUnencryptedHTTP2(true)
		return h, nil
	}
	h.server.Protocols.SetHTTP2(true)
	h.tls = true
	var err error
	h.server.TLSConfig, err = o.tls.httpConfig()
	return h, err
}

// httpConfig asks for client certificates and does without: who needs one is a matter of the path.
func (c *certificates) httpConfig() (*tls.Config, error) {
	config, err := c.serverConfig()
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{"h2", "http/1.1"}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now, err := c.current()
		if err != nil {
			return nil, err
		}
		now = now.Clone()
		now.NextProtos = []string{"h2", "http/1.1"}
		if now.ClientCAs != nil {
			now.ClientAuth = tls.VerifyClientCertIfGiven
		}
		return now, nil
	}
	return config, nil
}

// serve blocks until the server is shut down, which is not an error.
func (h *httpServer) serve(lis net.Listener) error {
	var err error
	if h.tls {
		err = h.server.ServeTLS(lis, "", "")
	} else {
		err = h.server.Serve(lis)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// stop ends it when calls under way have ended, or with ctx: then they are cut off.
func (h *httpServer) stop(ctx context.Context) {
	if h.server.Shutdown(ctx) != nil {
		_ = h.server.Close()
	}
}

// getOnly answers methods that a page does not have. A caller that does not read the page is not waited for without end.
func getOnly(w http.ResponseWriter, r *http.Request, page http.Handler) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute))
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		page.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Allow", "GET, HEAD")
	rest.WriteJSON(w, http.StatusMethodNotAllowed, map[string]string{
		"error_code": rest.CodeName(codes.Unimplemented), "message": fmt.Sprintf("%s has GET, HEAD, not %.20q", r.URL.Path, r.Method),
	})
}

func answering(f func(http.ResponseWriter)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { f(w) })
}

func (h *httpServer) serveReady(w http.ResponseWriter) {
	now := *h.ready.Load()
	code := http.StatusOK
	if now != ready {
		code = http.StatusServiceUnavailable
	}
	rest.WriteJSON(w, code, map[string]string{"status": now})
}

func serveOpenAPI(w http.ResponseWriter) {
	rest.Write(w, http.StatusOK, "application/json; charset=utf-8", rest.OpenAPI)
}

//go:embed docs.tmpl
var pageText string

var page = template.Must(template.New("docs").Parse(pageText))

// servePage makes the page once: plugins do not change.
func servePage(plugins Plugins) func(http.ResponseWriter) {
	type row struct{ TaskType, Version, Versions, Mode, Can string }
	var rows []row
	for _, p := range plugins {
		r := row{TaskType: p.taskType, Version: p.version, Versions: "any", Can: strings.Join(p.capabilities(), ", ")}
		if len(p.taskTypeVersions) > 0 {
			r.Versions = strings.Trim(fmt.Sprint(p.taskTypeVersions), "[]")
		}
		switch {
		case p.create == nil:
			r.Mode = "sync"
		case p.execute == nil:
			r.Mode = "async"
		default:
			r.Mode = "async, sync"
		}
		rows = append(rows, r)
	}
	var text strings.Builder
	err := page.Execute(&text, rows)
	return func(w http.ResponseWriter) {
		if err != nil { // the template is fixed, so a test finds it
			rest.WriteError(w, status.New(codes.Internal, err.Error()))
			return
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		rest.Write(w, http.StatusOK, "text/html; charset=utf-8", []byte(text.String()))
	}
}

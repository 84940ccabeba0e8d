package backendtest

import (
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
)

// serveREST serves with the SDK's handler.
func (b *Backend) serveREST(lis net.Listener) (stop func()) {
	services := rest.Services{Async: asyncServer{b: b}, Sync: syncServer{b: b}, Metadata: metadataServer{b: b}, Batch: manyServer{b: b}}
	quiet := slog.New(slog.DiscardHandler) // failures are ordered here
	handler := b.garbleREST(rest.NewHandler(services, rest.Options{Log: quiet}))
	if b.OneByOne {
		handler = withoutPoll(handler)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(quiet.Handler(), slog.LevelError)}
	go func() {
		// Serve ends when Kill stops the server.
		_ = server.Serve(lis)
	}()
	return func() { _ = server.Close() }
}

// withoutPoll leaves out polls of many jobs, as a service that does not have them.
func withoutPoll(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && restMethod(r) == Get {
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

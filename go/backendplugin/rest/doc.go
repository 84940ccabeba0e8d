// Package rest serves the REST contract of a backend plugin service, api/openapi.yaml, on top of flyteidl's gRPC services: what
// implements those has REST for nothing.
//
//	h := rest.NewHandler(rest.Services{Async: svc, Metadata: svc}, rest.Options{})
//	http.ListenAndServeTLS(":8080", "tls.crt", "tls.key", h)
//
// The handler calls the services in process. Idempotency key, plugin version, traceparent, tracestate, baggage and
// authorization reach them as incoming gRPC metadata, and the caller's address and certificate as the gRPC peer, so that a
// service need not know how it was called.
package rest

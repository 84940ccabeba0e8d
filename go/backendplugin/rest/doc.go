// Package rest serves the REST contract of a backend plugin service, api/openapi.yaml, on top of flyteidl's gRPC services: what
// implements those has REST for nothing.
//
//	h := rest.NewHandler(rest.Services{Async: svc, Metadata: svc}, rest.Options{})
//	http.ListenAndServeTLS(":8080", "tls.crt", "tls.key", h)
//
// The handler calls the services in process. Idempotency key, plugin version, traceparent, tracestate, baggage and
// authorization reach them as incoming gRPC metadata, and the caller's address and certificate as the gRPC peer, so that a
// service need not know how it was called. An error of a service is answered with the status of its gRPC code ([Status]).
//
// What is not as the contract has it never reaches a service: it is answered with 400 and the name of the field, 404, 405, 413 or
// 415. Fields that are not known are passed over; values of flyteidl's enums that are not known are not, since the task would
// then run with another value than its author's.
//
// A streamed answer is put together, up to [Options].MaxBodyBytes. A caller has [Options].BodyTimeout for its body and a minute
// to take the answer; the headers are the http.Server's ReadHeaderTimeout to limit. A call itself takes as long as the service
// lets it, and ends when the caller hangs up.
package rest

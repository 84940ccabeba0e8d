// Package backendplugin makes a Go type with the methods Create, Get and Delete a backend plugin service for Flyte: a service
// that FlytePropeller calls, over gRPC or REST, to start, watch and end the jobs of a task type.
//
//	err := backendplugin.Serve(ctx, backendplugin.Plugins{backendplugin.New("my_task_type", myPlugin{})},
//		backendplugin.WithTLS("tls.crt", "tls.key"))
//
// [Async] says what such a type is, [Sync] what one whose tasks are a single call is. Inputs and outputs are Go values
// ("Values" below), a job id is any value that the SDK encodes, and an error says by its constructor what propeller does about
// it: [UserError], [SystemError], [Retry] and the rest.
//
// A plugin holds no state between calls: what it needs to find a job again is in the job id, so that any replica can answer
// any call. Its methods are called by any number of goroutines at once.
//
// What else a plugin can do is served when the method is there: [BatchGetter] looks at many jobs in one call, [Watcher] notices
// changes sooner than polls do, [LogReader] and [MetricsReader] tell of a job, and [Prober] of the service. Each call is counted
// ([WithMetrics]), is a span of the caller's trace ([WithTracerProvider]), and is logged ([WithLogger]).
//
// # Values
//
// Inputs and outputs are a struct with a field for each, a map[string]T, or the literals themselves (*core.LiteralMap). A
// field is called what its tag says, `flyte:"name"`, or as in Go. An input that is not there is the task author's error,
// unless the field is a pointer or its tag says optional, `flyte:"name,optional"`; an input without a field is passed over.
//
//	Flyte                        Go
//	int                          int64 and the other integers, as far as the number fits
//	float                        float64, float32
//	str, enum                    string
//	bool                         bool
//	datetime, timedelta          time.Time (UTC), time.Duration
//	bytes                        []byte
//	List[T]                      []T
//	Dict[str, T]                 map[string]T
//	Optional[T]                  *T
//	Union                        any
//	dataclass, pydantic model    a struct with the same tags
//	dict                         map[string]any
//	FlyteFile, FlyteDirectory    Blob
//	StructuredDataset            Dataset
//	FlyteSchema                  Schema
//	tagged bytes                 Binary
//	error                        TaskFailure
//	anything                     any, or *core.Literal for the literal as it is
//
// An any takes nil, bool, int64, float64, string, time.Time, time.Duration, []byte, []any, map[string]any, or one of this
// package's types, and gives the same literal back, except that a Dict[str, T] becomes a dict. Inside a dataclass or dict, times are RFC 3339 text and durations seconds,
// as flytekit writes them.
package backendplugin

//go:generate ../../tools/proto.sh generate
//go:generate go run ./internal/genapi ../../api/openapi.yaml rest/openapi.json
//go:generate cp rest/openapi.json ../../python/src/flyte_backend/openapi.json

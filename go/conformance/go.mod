module github.com/flyte-backend/flyte-backend/go/conformance

go 1.26.0

require (
	github.com/flyte-backend/flyte-backend/go/backendplugin v0.0.0-00010101000000-000000000000
	github.com/flyteorg/flyte/flyteidl v1.16.8
	github.com/stretchr/testify v1.11.1
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260401024825-9d38bb4040a9
	google.golang.org/grpc v1.80.0
	google.golang.org/protobuf v1.36.11
)

require (
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.28.0 // indirect
	github.com/kr/text v0.2.0 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	golang.org/x/net v0.54.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
	golang.org/x/text v0.37.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260401024825-9d38bb4040a9 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)

// For work on both here. A replace line holds in a main module only: whoever requires this module gets the version that is
// required above, which a release sets. Until then it is lower than any real one, so that a real one wins.
replace github.com/flyte-backend/flyte-backend/go/backendplugin => ../backendplugin

package rest

import _ "embed"

// OpenAPI is the contract, api/openapi.yaml, as JSON.
//
//go:embed openapi.json
var OpenAPI []byte

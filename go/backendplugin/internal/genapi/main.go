// Command genapi completes the REST contract, as `go generate` runs it:
//
//	genapi OPENAPI_YAML OPENAPI_JSON
//
// It writes what follows the marker in OPENAPI_YAML anew: JSON Schemas of the messages of flyteidl that the part above refers to,
// and of all that these reach, in their protobuf JSON form. OPENAPI_JSON becomes the whole document as JSON.
package main

import (
	"fmt"
	"os"

	// The messages of the contract register themselves.
	_ "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	_ "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: genapi OPENAPI_YAML OPENAPI_JSON")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "genapi:", err)
		os.Exit(1)
	}
}

func run(yamlPath, jsonPath string) error {
	old, err := os.ReadFile(yamlPath) //nolint:gosec // which file is the caller's to say
	if err != nil {
		return err
	}
	text, err := complete(old)
	if err != nil {
		return fmt.Errorf("%s: %w", yamlPath, err)
	}
	document, err := toJSON(text)
	if err != nil {
		return fmt.Errorf("%s: %w", yamlPath, err)
	}
	if err := os.WriteFile(yamlPath, text, 0o644); err != nil { //nolint:gosec // a document of the repository, for everybody
		return err
	}
	return os.WriteFile(jsonPath, document, 0o644) //nolint:gosec // likewise
}

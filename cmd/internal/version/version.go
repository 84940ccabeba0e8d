// Package version is the command that tells what was built.
package version

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
)

// info is what the command prints.
type info struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// The protocols: flyteidl's module, our package of protobuf beside it, and info.version of api/openapi.yaml.
	Flyteidl     string `json:"flyteidl"`
	Flytebackend string `json:"flytebackend"`
	REST         string `json:"rest"`
}

const flyteidl = "github.com/flyteorg/flyte/flyteidl"

// read takes it from the program's own build information.
func read() info {
	out := info{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Flyteidl: "unknown"}
	out.Flytebackend = strings.TrimPrefix(string(flytebackendv1.File_flytebackend_v1_backend_proto.Package()), "flytebackend.")
	out.REST = contract()
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	if b.Main.Version != "" {
		out.Version = b.Main.Version
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			out.Revision = s.Value
		case "vcs.modified":
			out.Modified = s.Value == "true"
		}
	}
	for _, d := range b.Deps {
		if d.Path != flyteidl {
			continue
		}
		out.Flyteidl = d.Version
		if d.Replace != nil {
			out.Flyteidl = d.Replace.Version
		}
	}
	return out
}

// contract reads the version of the REST contract from the contract itself.
func contract() string {
	var doc struct {
		Info struct {
			Version string `json:"version"`
		} `json:"info"`
	}
	if err := json.Unmarshal(rest.OpenAPI, &doc); err != nil {
		panic(err) // it is compiled in
	}
	return doc.Info.Version
}

// New makes the command `version`.
func New() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Tell which version this is, and which versions of the protocols it speaks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := read()
			switch output {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(v)
			case "text":
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "flyte-backend %s (%s, %s), flyteidl %s, flytebackend %s, REST %s\n",
					v.Version, v.Go, v.Platform, v.Flyteidl, v.Flytebackend, v.REST)
				return err
			default:
				return exit.BadInputf("--output takes text or json, got %q", output)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "how it is printed: `FORMAT` text or json")
	return cmd
}

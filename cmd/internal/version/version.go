// Package version is the command that tells what was built.
package version

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
)

// info is what the command prints.
type info struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Flyteidl string `json:"flyteidl"`
}

const flyteidl = "github.com/flyteorg/flyte/flyteidl"

// read takes it from the program's own build information.
func read() info {
	out := info{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Flyteidl: "unknown"}
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

// New makes the command `version`.
func New() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Tell which version this is, and which version of Flyte's protocol it speaks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := read()
			switch output {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(v)
			case "text":
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "flyte-backend %s (%s, %s), flyteidl %s\n", v.Version, v.Go, v.Platform, v.Flyteidl)
				return err
			default:
				return exit.BadInputf("--output takes text or json, got %q", output)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "how it is printed: `FORMAT` text or json")
	return cmd
}

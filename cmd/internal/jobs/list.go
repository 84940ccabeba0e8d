// Package jobs is the commands that call a backend plugin service as propeller does: list, run, get and delete.
package jobs

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
)

// entry is what list prints of a plugin.
type entry struct {
	TaskType         string  `json:"taskType"`
	PluginVersion    string  `json:"pluginVersion"`
	TaskTypeVersions []int32 `json:"taskTypeVersions"`
	Mode             string  `json:"mode"`
	Name             string  `json:"name"`
}

// NewList makes the command `list`.
func NewList() *cobra.Command {
	var flags endpoint.Flags
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the plugins that a service offers",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			s, err := flags.Dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			regs, err := s.Registrations(cmd.Context())
			if err != nil {
				return err
			}
			all := make([]entry, 0, len(regs))
			for _, r := range regs {
				e := entry{TaskType: r.TaskType, PluginVersion: r.PluginVersion, TaskTypeVersions: r.TaskTypeVersions, Mode: r.Mode.String(), Name: r.Name}
				if e.TaskTypeVersions == nil {
					e.TaskTypeVersions = []int32{}
				}
				all = append(all, e)
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "TASK TYPE\tPLUGIN VERSION\tTASK TYPE VERSIONS\tMODE\tNAME")
			for _, e := range all {
				versions := "any"
				if len(e.TaskTypeVersions) > 0 {
					versions = strings.Trim(fmt.Sprint(e.TaskTypeVersions), "[]")
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", e.TaskType, e.PluginVersion, versions, e.Mode, e.Name)
			}
			return table.Flush()
		},
	}
	flags.Register(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "how it is printed: `FORMAT` text or json")
	return cmd
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return exit.BadInputf("takes no arguments; got %q", args[0])
	}
	return nil
}

func oneOf(flag, got string, allowed ...string) error {
	for _, a := range allowed {
		if got == a {
			return nil
		}
	}
	return exit.BadInputf("--%s takes %s, got %q", flag, strings.Join(allowed, " or "), got)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // links are to be copied
	e.SetIndent("", "  ")
	return e.Encode(v)
}

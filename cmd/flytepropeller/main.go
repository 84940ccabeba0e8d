// Flytepropeller is Flyte's workflow engine with the backend plugin system compiled in: upstream's own main with the
// plugins imported one by one, and ours beside them. It takes upstream's flags, commands and configuration.
//
// Ours does nothing until plugins.backend.enable_backend_flytekit_plugin_system is true. The one plugin of upstream's list
// that is missing here is spark, whose operator module cannot be had everywhere; CONTRIBUTING.md says how to add it.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/cmd/internal/explain"
	"github.com/flyte-backend/flyte-backend/go/tasks/plugins/webapi/backend"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/array/awsbatch"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/array/k8s"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/dask"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/kfoperators/mpi"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/kfoperators/pytorch"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/kfoperators/tensorflow"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/ray"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/athena"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/bigquery"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/databricks"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/webapi/snowflake"
	"github.com/flyteorg/flyte/flytepropeller/cmd/controller/cmd"
)

func main() {
	if isExplain(os.Args[1:]) {
		os.Exit(explainMain())
	}
	cmd.Execute()
	// flytestdlib lets no section refuse its value, so its "config validate" passes what would stop propeller's start.
	if err := backend.ConfigError(); err != nil && slices.Contains(os.Args, "validate") {
		fmt.Fprintln(os.Stderr, "flytepropeller:", err)
		os.Exit(1)
	}
}

// isExplain says whether the command, or its completion, is asked for.
func isExplain(args []string) bool {
	if len(args) > 1 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd) {
		args = args[1:]
	}
	return len(args) > 0 && args[0] == "explain"
}

// explainMain is the command of flyte-backend that needs the plugins which are compiled in here.
func explainMain() int {
	pflag.CommandLine = pflag.NewFlagSet("", pflag.ContinueOnError)                       // has flags of propeller's, which cobra would take for the command's
	root := &cobra.Command{Use: "flyte-backend", SilenceErrors: true, SilenceUsage: true} // what the user has called
	root.AddCommand(explain.New())
	exit.Usage(root)
	if err := root.ExecuteContext(context.Background()); err != nil {
		return exit.Report(os.Stderr, err)
	}
	return 0
}

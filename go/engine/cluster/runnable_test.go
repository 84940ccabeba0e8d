package cluster_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	v1 "k8s.io/api/core/v1"

	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/k8s"
)

// operated registers a plugin of an operator, as propeller's own are, once for the process: what it is of does not matter.
// Engines of other tests must not load it.
var operated = sync.OnceFunc(func() {
	pluginmachinery.PluginRegistry().RegisterK8sPlugin(k8s.PluginEntry{
		ID: "operated", RegisteredTaskTypes: []string{"operated"}, ResourceToWatch: &v1.ConfigMap{}, Plugin: nothing{},
	})
})

func TestRunnable(t *testing.T) {
	operated()
	some, with := &cluster.Processes{}, &cluster.Processes{Python: cluster.Python{Path: "/x/bin/python", Scripts: "/x/bin"}}
	const python = `"container": {"image": "i", "args": ["pyflyte-execute", "--inputs", "{{.input}}"]}`
	for _, c := range []struct {
		why, taskType, target string
		processes             *cluster.Processes
		python                bool
		err                   string
	}{
		{why: "not allowed", target: python, python: true, err: "it is a container, there is no Kubernetes here, and running it as a local process has not been allowed"},
		{why: "no Python", target: python, python: true, processes: some, err: "it runs pyflyte-execute, and no Python with flytekit was given (pip install flytekit==1.16.31)"},
		{why: "a Python", target: python, python: true, processes: with},
		{why: "a command that is here", target: `"container": {"command": ["sh", "-c", "true"]}`, processes: some},
		{
			why: "a command that is in the image", target: `"container": {"command": ["in-the-image"]}`, processes: some,
			err: "command in-the-image is not on this machine's PATH; a local process cannot use what is in the task's image",
		},
		{
			why: "an image's own command", target: `"container": {"image": "i"}`, processes: some,
			err: "its container names no command, and its image, which would, is not used by a local process; give the task a command",
		},
		{
			why: "files by copilot", target: `"interface": {"inputs": {"variables": {"x": {}}}}, "container": {"command": ["sh"], "dataConfig": {"enabled": true, "inputPath": "/var/inputs", "outputPath": "/var/outputs"}}`,
			processes: some, err: "its inputs and outputs are files in /var/inputs and /var/outputs that flyte-copilot brings in a pod, and a local process has none",
		},
		{
			why: "a pod", taskType: "sidecar", processes: with, python: true,
			target: `"config": {"primary_container_name": "main"}, "k8sPod": {"podSpec": {"containers": [{"name": "main", "args": ["pyflyte-execute"]}]}}`,
		},
		{
			why: "a pod with a sidecar", taskType: "sidecar", processes: with,
			target: `"config": {"primary_container_name": "main"}, "k8sPod": {"podSpec": {"containers": [{"name": "main", "args": ["pyflyte-execute"]}, {"name": "db"}]}}`,
			err:    "container db beside the task's own cannot run as a local process; only a pod's one container can",
		},
		{
			why: "a pod with an init container", taskType: "sidecar", processes: with,
			target: `"config": {"primary_container_name": "main"}, "k8sPod": {"podSpec": {"initContainers": [{"name": "first"}], "containers": [{"name": "main"}]}}`,
			err:    "init container first of the pod cannot run as a local process; only a pod's one container can",
		},
		{why: "an operator's", taskType: "operated", target: python, python: true, processes: with, err: "it needs the operator of plugin operated in a Kubernetes cluster, and there is none here"},
		{why: "no container", target: `"sql": {"statement": "select 1"}`, processes: with, err: "it has no container that could run as a local process"},
	} {
		t.Run(c.why, func(t *testing.T) {
			if c.taskType == "" {
				c.taskType = "python-task"
			}
			task := &core.TaskTemplate{}
			require.NoError(t, protojson.Unmarshal([]byte(`{"id": {"name": "m.t"}, "type": "`+c.taskType+`", `+c.target+`}`), task))
			assert.Equal(t, c.python, cluster.NeedsPython(task))
			err := cluster.Runnable(task, c.processes)
			if c.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, "task m.t (type "+c.taskType+") cannot run: "+c.err)
		})
	}
}

type nothing struct{ k8s.Plugin }

package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/flytek8s"
	"github.com/flyteorg/flyte/flytestdlib/utils"
)

// NeedsPython tells whether a task of propeller's built-in plugins runs a command of flytekit's.
func NeedsPython(t *core.TaskTemplate) bool {
	c, err := container(t)
	return err == nil && strings.HasPrefix(program(c), "pyflyte-")
}

// Runnable tells whether a task that one of propeller's built-in plugins handles can run here, before anything runs. p is
// what Options.Processes would be. The error is one line that names the task, and what is missing.
func Runnable(t *core.TaskTemplate, p *Processes) error {
	if err := runnable(t, p); err != nil {
		return fmt.Errorf("task %s (type %s) cannot run: %w", t.GetId().GetName(), t.GetType(), err)
	}
	return nil
}

func runnable(t *core.TaskTemplate, p *Processes) error {
	for _, e := range pluginmachinery.PluginRegistry().GetK8sPlugins() {
		if _, pods := e.ResourceToWatch.(*v1.Pod); !pods && slices.Contains(e.RegisteredTaskTypes, t.GetType()) {
			return fmt.Errorf("it needs the operator of plugin %s in a Kubernetes cluster, and there is none here", e.ID)
		}
	}
	c, err := container(t)
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("it is a container, there is no Kubernetes here, and running it as a local process has not been allowed")
	}
	name := program(c)
	if name == "" {
		return errors.New("its container names no command, and its image, which would, is not used by a local process; give the task a command")
	}
	if d := dataConfig(t); d.GetEnabled() && len(t.GetInterface().GetInputs().GetVariables())+len(t.GetInterface().GetOutputs().GetVariables()) > 0 {
		return fmt.Errorf("its inputs and outputs are files in %s and %s that flyte-copilot brings in a pod, and a local process has none", d.GetInputPath(), d.GetOutputPath())
	}
	if NeedsPython(t) {
		if p.Python.Path == "" {
			return fmt.Errorf("it runs %s, and no Python with flytekit was given (pip install flytekit==%s)", name, FlytekitVersion)
		}
		return nil
	}
	path := p.environment(nil, p.Source)["PATH"]
	_, err = lookPath(name, path, p.Source)
	return err
}

// program is what a container runs; empty means what its image says. Like flytekit, it takes arguments without a command for
// a command: the images that flytekit makes have no entry point.
func program(c *v1.Container) string {
	if argv := slices.Concat(c.Command, c.Args); len(argv) > 0 {
		return argv[0]
	}
	return ""
}

func dataConfig(t *core.TaskTemplate) *core.DataLoadingConfig {
	if d := t.GetK8SPod().GetDataConfig(); d != nil {
		return d
	}
	return t.GetContainer().GetDataConfig()
}

// container gives the one container of a task.
func container(t *core.TaskTemplate) (*v1.Container, error) {
	if c := t.GetContainer(); c != nil {
		return &v1.Container{Command: c.GetCommand(), Args: c.GetArgs()}, nil
	}
	spec := &v1.PodSpec{}
	switch {
	case t.GetK8SPod().GetPodSpec() != nil:
		if err := utils.UnmarshalStructToObj(t.GetK8SPod().GetPodSpec(), &spec); err != nil {
			return nil, fmt.Errorf("its pod cannot be read: %w", err)
		}
	default:
		return nil, errors.New("it has no container that could run as a local process")
	}
	return primary(spec, map[string]string{flytek8s.PrimaryContainerKey: t.GetConfig()[flytek8s.PrimaryContainerKey]})
}

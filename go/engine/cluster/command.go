package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/flytek8s"
)

// primary gives the container that is the task. A pod whose other containers do part of the work cannot run here.
func primary(spec *v1.PodSpec, annotations map[string]string) (*v1.Container, error) {
	if len(spec.InitContainers) > 0 {
		return nil, fmt.Errorf("init container %s of the pod cannot run as a local process; only a pod's one container can", spec.InitContainers[0].Name)
	}
	if len(spec.Containers) == 0 {
		return nil, errors.New("the pod has no container")
	}
	name := annotations[flytek8s.PrimaryContainerKey]
	if len(spec.Containers) > 1 {
		other := slices.IndexFunc(spec.Containers, func(c v1.Container) bool { return c.Name != name })
		return nil, fmt.Errorf("container %s beside the task's own cannot run as a local process; only a pod's one container can", spec.Containers[other].Name)
	}
	if c := &spec.Containers[0]; name == "" || c.Name == name {
		return c, nil
	}
	return nil, fmt.Errorf("the pod's primary container %s is not among its containers", name)
}

// command makes the container's process, in the folder with the sources or else in scratch.
func (p *Processes) command(pod *v1.Pod, c *v1.Container, scratch string) (*exec.Cmd, error) {
	argv := slices.Concat(c.Command, c.Args)
	if len(argv) == 0 {
		return nil, errors.New("the container names no command, and its image, which would, is not used here")
	}
	declared, err := declaredEnv(pod, c)
	if err != nil {
		return nil, err
	}
	for i, a := range argv {
		argv[i] = expand(a, declared)
	}
	argv, source, err := p.fast(argv, scratch)
	if err != nil {
		return nil, err
	}
	env := p.environment(declared, source)
	dir := source
	if dir == "" {
		dir = scratch
	}
	path, err := lookPath(argv[0], env["PATH"], dir)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, argv[1:]...) //nolint:gosec,noctx // running what the pod names is what this is for; see process.wait
	cmd.Args[0] = argv[0]
	cmd.Dir = dir
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	slices.Sort(cmd.Env)
	return cmd, nil
}

const fastExecute = "pyflyte-fast-execute"

// fast changes a fast-registered task's command: the distribution, which a container unpacks over its own sources, is
// unpacked in scratch. When no distribution has been uploaded, the task runs from the folder with the sources.
func (p *Processes) fast(argv []string, scratch string) (changed []string, source string, err error) {
	if filepath.Base(argv[0]) != fastExecute {
		return argv, p.Source, nil
	}
	distribution := ""
	for i := 1; i < len(argv); i++ {
		name, value, joined := strings.Cut(argv[i], "=")
		switch name {
		case "--additional-distribution", "--dest-dir":
			if !joined {
				if i++; i == len(argv) {
					return nil, "", fmt.Errorf("%s: %s without a value", fastExecute, name)
				}
				value = argv[i]
			}
			if name == "--additional-distribution" {
				distribution = value
			}
		default:
			inner := argv[i:]
			if inner[0] == "--" {
				inner = inner[1:]
			}
			if len(inner) == 0 {
				return nil, "", fmt.Errorf("%s without a command", fastExecute)
			}
			if distribution == "" || strings.Contains(distribution, "{{") {
				return inner, p.Source, nil
			}
			return append([]string{argv[0], "--additional-distribution", distribution, "--dest-dir", scratch, "--"}, inner...), "", nil
		}
	}
	return nil, "", fmt.Errorf("%s without a command", fastExecute)
}

// declaredEnv is what the pod sets.
func declaredEnv(pod *v1.Pod, c *v1.Container) (map[string]string, error) {
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		optional := from.ConfigMapRef != nil && from.ConfigMapRef.Optional != nil && *from.ConfigMapRef.Optional ||
			from.SecretRef != nil && from.SecretRef.Optional != nil && *from.SecretRef.Optional
		if !optional {
			return nil, errors.New("the container takes its environment from a config map or secret of Kubernetes, and there is none")
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			env[e.Name] = expand(e.Value, env)
			continue
		}
		value, ok := "", false
		if f := e.ValueFrom.FieldRef; f != nil {
			value, ok = field(pod, f.FieldPath)
		}
		switch {
		case ok:
			env[e.Name] = value
		case e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Optional != nil && *e.ValueFrom.SecretKeyRef.Optional,
			e.ValueFrom.ConfigMapKeyRef != nil && e.ValueFrom.ConfigMapKeyRef.Optional != nil && *e.ValueFrom.ConfigMapKeyRef.Optional:
		default:
			return nil, fmt.Errorf("environment variable %s comes from Kubernetes, and there is none; set its value in the task", e.Name)
		}
	}
	return env, nil
}

func field(pod *v1.Pod, path string) (string, bool) {
	switch path {
	case "metadata.name":
		return pod.Name, true
	case "metadata.namespace":
		return pod.Namespace, true
	case "metadata.uid":
		return string(pod.UID), true
	case "spec.nodeName":
		host, err := os.Hostname()
		return host, err == nil
	case "status.podIP", "status.hostIP":
		return "127.0.0.1", true
	}
	for prefix, m := range map[string]map[string]string{"metadata.labels": pod.Labels, "metadata.annotations": pod.Annotations} {
		if key, ok := strings.CutPrefix(path, prefix+"['"); ok {
			return m[strings.TrimSuffix(key, "']")], true
		}
	}
	return "", false
}

// expand replaces $(NAME) as Kubernetes does: names that are not set stay, and $$ is one $.
func expand(s string, env map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		s = s[i:]
		end := strings.IndexByte(s, ')')
		switch {
		case s[1] == '$':
			b.WriteByte('$')
			s = s[2:]
		case s[1] == '(' && end > 0:
			if v, ok := env[s[2:end]]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[:end+1])
			}
			s = s[end+1:]
		default:
			b.WriteByte('$')
			s = s[1:]
		}
	}
}

// environment is what the process gets: what it inherits, then what the pod sets, then the places of Python and sources.
func (p *Processes) environment(declared map[string]string, source string) map[string]string {
	env := map[string]string{
		// Lines are to be seen when they are written.
		"PYTHONUNBUFFERED": "1",
	}
	inherited := p.Environ
	if inherited == nil {
		inherited = os.Environ()
	}
	for _, kv := range inherited {
		k, v, _ := strings.Cut(kv, "=")
		// What tells a process about its own task must not come from the task that started all this.
		if !strings.HasPrefix(k, "FLYTE_INTERNAL_") && !strings.HasPrefix(k, "PYVENV_LAUNCHER") && k != "PYTHONHOME" {
			env[k] = v
		}
	}
	for k, v := range declared {
		env[k] = v
	}
	if p.Python.Path != "" {
		for _, dir := range []string{filepath.Dir(p.Python.Path), p.Python.Scripts} {
			env["PATH"] = prepend(dir, env["PATH"])
		}
	}
	if source != "" {
		env["PYTHONPATH"] = prepend(source, env["PYTHONPATH"])
		env["PWD"] = source
	}
	return env
}

func prepend(dir, list string) string {
	switch {
	case dir == "":
		return list
	case list == "":
		return dir
	default:
		return dir + string(os.PathListSeparator) + list
	}
}

// lookPath finds a command as execvp does, in the PATH and folder that the process will have.
func lookPath(name, path, dir string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		full := name
		if !filepath.IsAbs(full) {
			full = filepath.Join(dir, name)
		}
		if executable(full) {
			return full, nil
		}
		return "", fmt.Errorf("command %s is not on this machine; a local process cannot use what is in the task's image", name)
	}
	for _, d := range filepath.SplitList(path) {
		if full := filepath.Join(d, name); filepath.IsAbs(full) && executable(full) {
			return full, nil
		}
	}
	if strings.HasPrefix(name, "pyflyte-") {
		return "", fmt.Errorf("command %s is not on PATH: it takes a Python with flytekit (pip install flytekit==%s)", name, FlytekitVersion)
	}
	return "", fmt.Errorf("command %s is not on this machine's PATH; a local process cannot use what is in the task's image", name)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

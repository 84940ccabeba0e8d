package cluster

import (
	"runtime"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Processes says how pods run as local processes. Resource limits, images, volumes and secrets of Kubernetes count for
// nothing; a process may do what its user may do.
type Processes struct {
	// Python is where pyflyte-execute comes from. Its folder stands first on the processes' PATH. The zero value leaves PATH
	// as it is.
	Python Python
	// Source is the folder that the user's modules are imported from: working directory, and first on PYTHONPATH. Empty means
	// an empty folder for each pod, which is removed with the process.
	Source string
	// Concurrency is how many processes run at once; the other pods are pending. 0 means the number of CPUs.
	Concurrency int
	// Grace is how long a process may take to end after SIGTERM, before SIGKILL; 0 means five seconds.
	Grace time.Duration
	// LogDir is the folder that gets a file for each pod, with all that it writes; empty means no files.
	LogDir string
	// Environ is what processes inherit, as os.Environ gives it; nil means the environment of this process. What the pod sets
	// counts for more.
	Environ []string
	// OnLine hears of each line that a process writes, before the pod's status tells of its end. Calls for one pod come one
	// after the other, those for different pods at once. A slow one holds up the process.
	OnLine func(Line)
}

// Pod says whose process it is.
type Pod struct {
	Namespace, Name string
	// Execution, Node and Task are what propeller's labels and environment variables tell, as far as they do.
	Execution, Node, Task string
	// Attempt counts from 0.
	Attempt string
	// LogFile is empty when there is none.
	LogFile string
}

// Line is one line of output, without its end. Lines of more than 64 KiB come in pieces. It is valid UTF-8.
type Line struct {
	Pod    Pod
	Stderr bool
	Text   string
}

func (p Processes) withDefaults() Processes {
	if p.Concurrency <= 0 {
		p.Concurrency = runtime.NumCPU()
	}
	if p.Grace <= 0 {
		p.Grace = 5 * time.Second
	}
	if p.OnLine == nil {
		p.OnLine = func(Line) {}
	}
	return p
}

func identify(pod *v1.Pod) Pod {
	id := Pod{
		Namespace: pod.Namespace, Name: pod.Name,
		Execution: pod.Labels["execution-id"], Node: pod.Labels["node-id"], Task: pod.Labels["task-name"],
	}
	for _, c := range pod.Spec.Containers {
		for _, e := range c.Env {
			switch e.Name {
			case "FLYTE_INTERNAL_TASK_NAME":
				id.Task = e.Value // the label is shortened
			case "FLYTE_ATTEMPT_NUMBER":
				id.Attempt = e.Value
			}
		}
	}
	return id
}

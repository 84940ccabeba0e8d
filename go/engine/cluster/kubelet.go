package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flyteorg/flyte/flytestdlib/logger"
)

// Reasons in statuses, as propeller shows them.
const (
	// ReasonWaiting: as many processes run as may.
	ReasonWaiting = "WaitingForProcess"
	// ReasonStartError: the process did not start.
	ReasonStartError = "StartError"
	// ReasonError: the process ended with an exit code other than 0. A kubelet leaves the pod's own reason empty then, which
	// propeller takes for a failure of the system.
	ReasonError = "Error"
	// ReasonOOMKilled: the process was killed while the system was killing for want of memory.
	ReasonOOMKilled = "OOMKilled"
)

// kubelet runs pods.
type kubelet struct {
	opts     Processes
	api      *api
	launcher *launcher

	mu      sync.Mutex
	pods    map[types.UID]*podRun
	queue   []*podRun
	running int
	closed  bool
	all     sync.WaitGroup
}

// podRun is one pod on its way.
type podRun struct {
	pod  *v1.Pod
	id   Pod
	stop chan struct{} // closed when the pod is deleted, or the cluster closed
	// gone says that stop is closed; it is guarded by the kubelet's mutex.
	gone bool
}

func newKubelet(o Processes, a *api) (*kubelet, error) {
	o = o.withDefaults()
	for what, dir := range map[string]*string{"folder of sources": &o.Source, "folder for logs": &o.LogDir} {
		if *dir == "" {
			continue
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", what, *dir, err)
		}
		*dir = abs
	}
	if o.LogDir != "" {
		if err := os.MkdirAll(o.LogDir, 0o750); err != nil {
			return nil, fmt.Errorf("cannot make the folder for the processes' output: %w", err)
		}
	}
	if o.Source != "" {
		info, err := os.Stat(o.Source)
		if err != nil {
			return nil, fmt.Errorf("the folder of the tasks' sources: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("the folder of the tasks' sources, %s, is a file", o.Source)
		}
	}
	l, err := newLauncher(o.Grace)
	if err != nil {
		return nil, err
	}
	return &kubelet{opts: o, api: a, launcher: l, pods: map[types.UID]*podRun{}}, nil
}

// admit takes note of a pod that is about to be created.
func (k *kubelet) admit(pod *v1.Pod) error {
	r := &podRun{pod: pod.DeepCopy(), id: identify(pod), stop: make(chan struct{})}
	if k.opts.LogDir != "" {
		r.id.LogFile = filepath.Join(k.opts.LogDir, pod.Namespace+"_"+pod.Name+".log")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return ErrClosed
	}
	k.pods[pod.UID] = r
	return nil
}

// forget takes admit back: there is no such pod.
func (k *kubelet) forget(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pods, uid)
}

// created starts the pod, or lines it up.
func (k *kubelet) created(ctx context.Context, uid types.UID) {
	k.mu.Lock()
	r := k.pods[uid]
	full := k.running+len(k.queue) >= k.opts.Concurrency
	k.mu.Unlock()
	if r == nil {
		return // it is deleted already
	}
	k.status(ctx, r, func(s *v1.PodStatus) {
		s.Phase = v1.PodPending
		if full {
			s.Conditions = []v1.PodCondition{{
				Type: v1.PodScheduled, Status: v1.ConditionFalse, LastTransitionTime: metav1.Now(), Reason: ReasonWaiting,
				Message: fmt.Sprintf("as many local processes run as may at once (%d)", k.opts.Concurrency),
			}}
		}
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	if !r.gone {
		k.queue = append(k.queue, r)
		k.next()
	}
}

// next starts what there is room for. The mutex is held.
func (k *kubelet) next() {
	for !k.closed && k.running < k.opts.Concurrency && len(k.queue) > 0 {
		r := k.queue[0]
		k.queue = k.queue[1:]
		k.running++
		k.all.Add(1)
		go func() {
			defer k.all.Done()
			k.run(r)
			k.mu.Lock()
			defer k.mu.Unlock()
			k.running--
			delete(k.pods, r.pod.UID)
			k.next()
		}()
	}
}

// deleted ends the pod's process, if it has one.
func (k *kubelet) deleted(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.pods[uid]; r != nil {
		k.end(r)
	}
}

// end has the pod's process end, or not begin. The mutex is held.
func (k *kubelet) end(r *podRun) {
	if r.gone {
		return
	}
	r.gone = true
	close(r.stop)
	if i := slices.Index(k.queue, r); i >= 0 {
		k.queue = slices.Delete(k.queue, i, i+1)
		delete(k.pods, r.pod.UID)
	}
}

func (k *kubelet) close() {
	k.mu.Lock()
	k.closed = true
	for _, r := range k.pods {
		k.end(r)
	}
	k.mu.Unlock()
	k.all.Wait()
	k.launcher.close()
}

// status writes the pod's status, unless the cluster is closed: what is then told is not the task's doing.
func (k *kubelet) status(ctx context.Context, r *podRun, change func(*v1.PodStatus)) {
	k.mu.Lock()
	closed := k.closed
	k.mu.Unlock()
	if closed {
		return
	}
	key := types.NamespacedName{Namespace: r.pod.Namespace, Name: r.pod.Name}
	if err := k.api.setStatus(ctx, key, r.pod.UID, change); err != nil {
		logger.Errorf(ctx, "Cannot write the status of pod [%v]: %v", key, err)
	}
}

// run runs the pod's process from its start to its end.
func (k *kubelet) run(r *podRun) {
	ctx := context.Background()
	select {
	case <-r.stop:
		return
	default:
	}
	started := metav1.Now()
	end, container := k.process(r, func(container *v1.Container) {
		k.status(ctx, r, func(s *v1.PodStatus) {
			s.Phase, s.StartTime, s.Message, s.Reason = v1.PodRunning, &started, "", ""
			s.Conditions = conditions(started, v1.ConditionTrue, "", "")
			s.ContainerStatuses = []v1.ContainerStatus{{
				Name: container.Name, Image: container.Image, Ready: true, Started: new(true),
				State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: started}},
			}}
		})
	})
	k.status(ctx, r, func(s *v1.PodStatus) {
		finished := metav1.Now()
		s.Phase, s.StartTime = v1.PodSucceeded, &started
		reason := "PodCompleted"
		if end.Code != 0 {
			s.Phase, s.Reason, s.Message = v1.PodFailed, end.Reason, end.summary()
			reason = "PodFailed"
		}
		s.Conditions = conditions(finished, v1.ConditionFalse, reason, s.Message)
		s.ContainerStatuses = []v1.ContainerStatus{{
			Name: container.Name, Image: container.Image, Started: new(false),
			State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
				ExitCode: end.Code, Signal: end.Signal, Reason: end.Reason, Message: end.Message,
				StartedAt: started, FinishedAt: finished,
			}},
		}}
	})
}

func conditions(at metav1.Time, ready v1.ConditionStatus, reason, message string) []v1.PodCondition {
	return []v1.PodCondition{
		{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: at},
		{Type: v1.PodInitialized, Status: v1.ConditionTrue, LastTransitionTime: at},
		{Type: v1.ContainersReady, Status: ready, LastTransitionTime: at, Reason: reason, Message: message},
		{Type: v1.PodReady, Status: ready, LastTransitionTime: at, Reason: reason, Message: message},
	}
}

// ending is how a process ended.
type ending struct {
	Code, Signal    int32
	Reason, Message string
}

func (e ending) summary() string {
	switch {
	case e.Reason == ReasonStartError:
		return "The local process did not start."
	case e.Signal != 0:
		return fmt.Sprintf("The local process was killed by signal %d.", e.Signal)
	default:
		return fmt.Sprintf("The local process ended with exit code %d.", e.Code)
	}
}

// process runs the process, and calls began once it is there.
func (k *kubelet) process(r *podRun, began func(*v1.Container)) (ending, *v1.Container) {
	container, err := primary(&r.pod.Spec, r.pod.Annotations)
	if err != nil {
		return startError(err), &r.pod.Spec.Containers[0]
	}
	scratch, err := os.MkdirTemp("", "flyte-pod-")
	if err != nil {
		return startError(err), container
	}
	defer os.RemoveAll(scratch)
	cmd, err := k.opts.command(r.pod, container, scratch)
	if err != nil {
		return startError(err), container
	}
	out, err := newOutput(r.id, k.opts.OnLine)
	if err != nil {
		return startError(err), container
	}
	defer out.close()
	p, err := k.launcher.start(cmd, out)
	if err != nil {
		return startError(fmt.Errorf("%s does not start: %w", cmd.Path, err)), container
	}
	began(container)
	return p.wait(r.stop), container
}

func startError(err error) ending {
	return ending{Code: 128, Reason: ReasonStartError, Message: err.Error()}
}

// waitFor waits for ch, at most for d.
func waitFor(ch <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ch:
		return true
	case <-t.C:
		return false
	}
}

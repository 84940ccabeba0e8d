package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/flytek8s"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod"
)

// childEnv has the test binary be a parent of processes, which a test then kills; its value is the folder for their ids.
const childEnv = "CLUSTER_TEST_CHILD"

func TestMain(m *testing.M) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	c, err := cluster.New(cluster.Options{Processes: &cluster.Processes{Concurrency: 3, Grace: time.Millisecond}})
	if err != nil {
		panic(err)
	}
	for i := range 3 {
		p := shell(fmt.Sprintf("p%d", i), fmt.Sprintf("trap '' TERM; sleep 1000 & echo $$ > %s/%d; wait; wait", dir, i))
		if err := c.Client().GetClient().Create(context.Background(), p); err != nil {
			panic(err)
		}
		for p.Status.Phase != v1.PodRunning {
			if err := c.Client().GetClient().Get(context.Background(), client.ObjectKeyFromObject(p), p); err != nil {
				panic(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "all"), []byte("3\n"), 0o600); err != nil {
		panic(err)
	}
	select {}
}

const wait, tick = time.Minute, 5 * time.Millisecond

// world is a cluster, what its processes wrote, and the changes that its informer told.
type world struct {
	*cluster.Cluster
	kube client.Client

	mu      sync.Mutex
	lines   []cluster.Line
	changes map[string][]v1.PodPhase
}

func newWorld(t *testing.T, p *cluster.Processes) *world {
	t.Helper()
	w := &world{changes: map[string][]v1.PodPhase{}}
	if p != nil {
		p.OnLine = func(l cluster.Line) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lines = append(w.lines, l)
		}
	}
	var err error
	w.Cluster, err = cluster.New(cluster.Options{Processes: p})
	require.NoError(t, err)
	t.Cleanup(w.Close)
	w.kube = w.Client().GetClient()
	informer, err := w.Client().GetCache().GetInformer(t.Context(), &v1.Pod{})
	require.NoError(t, err)
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, now any) {
			w.mu.Lock()
			defer w.mu.Unlock()
			p := now.(*v1.Pod)
			w.changes[p.Name] = append(w.changes[p.Name], p.Status.Phase)
		},
		DeleteFunc: func(old any) {
			w.mu.Lock()
			defer w.mu.Unlock()
			p := old.(*v1.Pod)
			w.changes[p.Name] = append(w.changes[p.Name], "deleted")
		},
	})
	require.NoError(t, err)
	return w
}

func (w *world) told(name string) []v1.PodPhase {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]v1.PodPhase{}, w.changes[name]...)
}

func (w *world) text() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, l := range w.lines {
		out = append(out, l.Text)
	}
	return out
}

func shell(name, script string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "p-d", Annotations: map[string]string{flytek8s.PrimaryContainerKey: "main"},
			Labels: map[string]string{"execution-id": "e1", "node-id": "n0", "task-name": "short"},
		},
		Spec: v1.PodSpec{Containers: []v1.Container{{
			Name: "main", Image: "none",
			// Kubernetes makes one $ of two.
			Command: []string{"/bin/sh", "-c", strings.ReplaceAll(script, "$$", "$$$$")},
			Env:     []v1.EnvVar{{Name: "FLYTE_INTERNAL_TASK_NAME", Value: "module.task"}, {Name: "FLYTE_ATTEMPT_NUMBER", Value: "2"}},
		}}},
	}
}

func (w *world) create(t *testing.T, p *v1.Pod) {
	t.Helper()
	require.NoError(t, w.kube.Create(t.Context(), p))
}

func (w *world) get(t *testing.T, name string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	require.NoError(t, w.kube.Get(t.Context(), client.ObjectKey{Namespace: "p-d", Name: name}, p))
	return p
}

func (w *world) until(t *testing.T, name string, phases ...v1.PodPhase) *v1.Pod {
	t.Helper()
	var p *v1.Pod
	require.Eventually(t, func() bool {
		p = w.get(t, name)
		for _, phase := range phases {
			if p.Status.Phase == phase {
				return true
			}
		}
		return false
	}, wait, tick, "pod %s did not come to %v", name, phases)
	return p
}

// pidFrom waits until the process has written its id to the file.
func pidFrom(t *testing.T, file string) int {
	t.Helper()
	var pid int
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		n, err := fmt.Sscanln(string(b), &pid)
		return n == 1 && err == nil
	}, wait, tick)
	return pid
}

// members are the processes of a group that have not ended: whoever adopts an orphan may leave it unwaited for.
func members(t *testing.T, group int) []string {
	t.Helper()
	if stats, _ := filepath.Glob("/proc/[0-9]*/stat"); len(stats) > 0 {
		var found []string
		for _, file := range stats {
			b, err := os.ReadFile(file)
			if err != nil {
				continue // it has just ended
			}
			// 123 (name) state parent group ...
			f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
			if f[2] == strconv.Itoa(group) && f[0] != "Z" && f[0] != "X" {
				found = append(found, string(b))
			}
		}
		return found
	}
	out, err := exec.Command("ps", "-A", "-o", "pgid=,stat=,args=").Output()
	require.NoError(t, err)
	var found []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); f[0] == strconv.Itoa(group) && !strings.HasPrefix(f[1], "Z") {
			found = append(found, line)
		}
	}
	return found
}

func TestPodsStayWithoutProcesses(t *testing.T) {
	w := newWorld(t, nil)
	mark := filepath.Join(t.TempDir(), "mark")
	w.create(t, shell("a", "echo > "+mark))
	p := w.get(t, "a")
	assert.Empty(t, p.Status.Phase)
	assert.NotEmpty(t, p.UID)
	assert.False(t, p.CreationTimestamp.IsZero())
	w.Close()
	assert.NoFileExists(t, mark)
	assert.Equal(t, p.ResourceVersion, w.get(t, "a").ResourceVersion)
	w.create(t, shell("b", "true"))
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		why, script string
		change      func(*v1.Pod)
		code        int32
		reason      string
		message     string
		phase       pluginscore.Phase
		errCode     string
	}{
		{why: "success", script: "echo out; echo err >&2", reason: "Completed", phase: pluginscore.PhaseSuccess},
		{
			why: "the task's own failure", script: "echo out; echo why >&2; exit 3", code: 3, reason: "Error", message: "why",
			phase: pluginscore.PhaseRetryableFailure, errCode: "Error",
		},
		{
			why: "what it printed explains when it wrote no errors", script: "echo only this; exit 1", code: 1, reason: "Error",
			message: "only this", phase: pluginscore.PhaseRetryableFailure, errCode: "Error",
		},
		{
			why: "killed by somebody is the system's failure", script: "kill -KILL $$", code: 137, reason: "Error",
			phase: pluginscore.PhaseRetryableFailure, errCode: "Interrupted",
		},
		{
			why: "another signal", script: "kill -ABRT $$", code: 134, reason: "Error",
			phase: pluginscore.PhaseRetryableFailure, errCode: "Error",
		},
		{
			why: "no such command", change: func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"no-such-command"} },
			code: 128, reason: "StartError",
			message: "command no-such-command is not on this machine's PATH; a local process cannot use what is in the task's image",
			phase:   pluginscore.PhaseRetryableFailure, errCode: "StartError",
		},
		{
			why: "not executable as it is", change: func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/etc/passwd"} },
			code: 128, reason: "StartError",
			message: "command /etc/passwd is not on this machine; a local process cannot use what is in the task's image",
			phase:   pluginscore.PhaseRetryableFailure, errCode: "StartError",
		},
		{
			why: "part of the work is another container's", change: func(p *v1.Pod) {
				p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "database", Command: []string{"true"}})
			},
			code: 128, reason: "StartError",
			message: "container database beside the task's own cannot run as a local process; only a pod's one container can",
			phase:   pluginscore.PhaseRetryableFailure, errCode: "StartError",
		},
		{
			why: "a secret of Kubernetes", change: func(p *v1.Pod) {
				p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "TOKEN", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{Key: "k"}}}}
			},
			code: 128, reason: "StartError",
			message: "environment variable TOKEN comes from Kubernetes, and there is none; set its value in the task",
			phase:   pluginscore.PhaseRetryableFailure, errCode: "StartError",
		},
		{
			why: "a message that is no UTF-8 would break the event", script: `printf 'a\377b\n' >&2; exit 1`, code: 1, reason: "Error",
			message: "a\uFFFDb", phase: pluginscore.PhaseRetryableFailure, errCode: "Error",
		},
		{
			why: "the end of long output explains", script: "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done >&2; exit 1",
			code: 1, reason: "Error", message: "line 999", phase: pluginscore.PhaseRetryableFailure, errCode: "Error",
		},
		{
			why: "what is left behind does not hold up the end", script: "sleep 1000 & exit 0", reason: "Completed", phase: pluginscore.PhaseSuccess,
		},
	} {
		t.Run(c.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, &cluster.Processes{})
			p := shell("a", c.script)
			if c.change != nil {
				c.change(p)
			}
			w.create(t, p)
			p = w.until(t, "a", v1.PodSucceeded, v1.PodFailed)
			terminated := p.Status.ContainerStatuses[0].State.Terminated
			require.NotNil(t, terminated)
			assert.Equal(t, c.code, terminated.ExitCode)
			assert.Equal(t, c.reason, terminated.Reason)
			if c.message == "line 999" {
				assert.True(t, strings.HasSuffix(terminated.Message, c.message), terminated.Message)
				assert.LessOrEqual(t, len(terminated.Message), 2048)
			} else {
				assert.Equal(t, c.message, terminated.Message)
			}
			info, err := pod.DemystifyPodStatus(t.Context(), p, pluginscore.TaskInfo{})
			require.NoError(t, err)
			assert.Equal(t, c.phase, info.Phase())
			assert.Equal(t, c.errCode, info.Err().GetCode())
			assert.Contains(t, info.Err().GetMessage(), terminated.Message)
			want := []v1.PodPhase{v1.PodPending, v1.PodRunning, p.Status.Phase}
			if c.reason == "StartError" {
				want = []v1.PodPhase{v1.PodPending, p.Status.Phase}
			}
			assert.Eventually(t, func() bool { return len(w.told("a")) == len(want) }, wait, tick)
			assert.Equal(t, want, w.told("a"))
		})
	}
}

func TestRunningAsPropellerSeesIt(t *testing.T) {
	w := newWorld(t, &cluster.Processes{})
	w.create(t, shell("a", "sleep 1000"))
	info, err := pod.DemystifyPodStatus(t.Context(), w.until(t, "a", v1.PodRunning), pluginscore.TaskInfo{})
	require.NoError(t, err)
	assert.Equal(t, pluginscore.PhaseRunning, info.Phase())
}

func TestLines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	w := newWorld(t, &cluster.Processes{LogDir: dir})
	w.create(t, shell("a", `echo one; echo two >&2; printf 'no end'`))
	w.until(t, "a", v1.PodSucceeded)
	// The pod's end is told after its last line.
	assert.ElementsMatch(t, []string{"one", "two", "no end"}, w.text())
	for _, l := range w.lines {
		assert.Equal(t, cluster.Pod{
			Namespace: "p-d", Name: "a", Execution: "e1", Node: "n0", Task: "module.task", Attempt: "2", LogFile: filepath.Join(dir, "p-d_a.log"),
		}, l.Pod)
		assert.Equal(t, l.Text == "two", l.Stderr)
	}
	b, err := os.ReadFile(filepath.Join(dir, "p-d_a.log"))
	require.NoError(t, err)
	assert.Len(t, b, len("one\ntwo\nno end"))
}

func TestBigOutput(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, &cluster.Processes{LogDir: dir})
	const lines, long = 100_000, 300_000
	w.create(t, shell("a", fmt.Sprintf("seq %d; head -c %d /dev/zero | tr '\\0' x", lines, long)))
	w.until(t, "a", v1.PodSucceeded)
	text := w.text()
	assert.Equal(t, "1", text[0])
	assert.Equal(t, fmt.Sprint(lines), text[lines-1])
	assert.Len(t, strings.Join(text[lines:], ""), long)
	info, err := os.Stat(filepath.Join(dir, "p-d_a.log"))
	require.NoError(t, err)
	assert.Greater(t, info.Size(), int64(800_000))
}

func TestConcurrencyIsBounded(t *testing.T) {
	dir, start := t.TempDir(), filepath.Join(t.TempDir(), "start")
	w := newWorld(t, &cluster.Processes{Concurrency: 2})
	// Each says how many run while it does. None ends before the last one is seen to wait.
	script := fmt.Sprintf("mkdir %s/$NAME; ls %s | wc -l; while [ ! -e %s ]; do sleep 0.01; done; sleep 0.05; rmdir %s/$NAME", dir, dir, start, dir)
	for i := range 20 {
		p := shell(fmt.Sprintf("p%d", i), script)
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "NAME", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
		w.create(t, p)
	}
	waiting := w.get(t, "p19")
	info, err := pod.DemystifyPodStatus(t.Context(), waiting, pluginscore.TaskInfo{})
	require.NoError(t, err)
	assert.Equal(t, pluginscore.PhaseQueued, info.Phase())
	assert.Equal(t, "WaitingForProcess:as many local processes run as may at once (2)", info.Reason())
	require.NoError(t, os.WriteFile(start, nil, 0o600))
	for i := range 20 {
		w.until(t, fmt.Sprintf("p%d", i), v1.PodSucceeded)
	}
	for _, n := range w.text() {
		assert.Contains(t, []string{"1", "2"}, strings.TrimSpace(n))
	}
}

func TestDelete(t *testing.T) {
	const trap = `trap 'echo term; exit 0' TERM; `
	for _, c := range []struct {
		why, script string
		finalizer   bool
		grace       time.Duration
		wants       []string
	}{
		{why: "it ends by itself", script: trap, grace: wait, wants: []string{"term"}},
		{why: "it is made to end", script: `trap '' TERM; `, grace: 200 * time.Millisecond},
		{why: "the object stays for its finalizer", script: trap, finalizer: true, grace: wait, wants: []string{"term"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			w := newWorld(t, &cluster.Processes{Grace: c.grace})
			p := shell("a", c.script+"sleep 1000 & echo $$ > "+file+"; while :; do wait; done")
			if c.finalizer {
				controllerutil.AddFinalizer(p, "flyte.org/finalizer-k8s")
			}
			w.create(t, p)
			group := pidFrom(t, file)
			w.until(t, "a", v1.PodRunning)
			require.NoError(t, w.kube.Delete(t.Context(), shell("a", "")))
			if c.finalizer {
				p = w.until(t, "a", v1.PodSucceeded)
				assert.NotNil(t, p.DeletionTimestamp)
				// As propeller's plugin manager does it.
				original := p.DeepCopy()
				controllerutil.RemoveFinalizer(p, "flyte.org/finalizer-k8s")
				require.NoError(t, w.kube.Patch(t.Context(), p, client.MergeFrom(original)))
			}
			assert.Eventually(t, func() bool { return len(members(t, group)) == 0 }, wait, tick)
			err := w.kube.Get(t.Context(), client.ObjectKeyFromObject(p), p)
			assert.True(t, apierrors.IsNotFound(err), "%v", err)
			assert.Eventually(t, func() bool { told := w.told("a"); return told[len(told)-1] == "deleted" }, wait, tick)
			w.Close()
			assert.Equal(t, c.wants, w.text())
		})
	}
}

func TestDeletedWhileWaiting(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, &cluster.Processes{Concurrency: 1})
	w.create(t, shell("first", "while [ ! -e "+dir+"/go ]; do sleep 0.01; done"))
	w.create(t, shell("second", "echo > "+dir+"/second"))
	w.create(t, shell("third", "echo > "+dir+"/third"))
	require.NoError(t, w.kube.Delete(t.Context(), shell("second", "")))
	require.NoError(t, os.WriteFile(dir+"/go", nil, 0o600))
	w.until(t, "third", v1.PodSucceeded)
	assert.NoFileExists(t, dir+"/second")
}

func TestCloseLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, &cluster.Processes{Concurrency: 5, Grace: 100 * time.Millisecond})
	var groups []int
	for i := range 10 {
		w.create(t, shell(fmt.Sprintf("p%d", i), fmt.Sprintf("trap '' TERM; sleep 1000 & echo $$ > %s/%d; wait; wait", dir, i)))
	}
	for i := range 5 {
		groups = append(groups, pidFrom(t, fmt.Sprintf("%s/%d", dir, i)))
	}
	w.until(t, "p0", v1.PodRunning)
	w.Close()
	for _, pid := range groups {
		// They are killed; the system may take a moment to end those that are nobody's children any more.
		assert.Eventually(t, func() bool { return len(members(t, pid)) == 0 }, wait, tick)
	}
	assert.Equal(t, v1.PodRunning, w.get(t, "p0").Status.Phase, "the end of the cluster is not the task's failure")
	assert.Equal(t, v1.PodPending, w.get(t, "p9").Status.Phase)
	require.ErrorIs(t, w.kube.Create(t.Context(), shell("late", "true")), cluster.ErrClosed)
}

func TestNothingOutlivesItsParent(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	require.NoError(t, cmd.Start())
	pidFrom(t, dir+"/all")
	var groups []int
	for i := range 3 {
		groups = append(groups, pidFrom(t, fmt.Sprintf("%s/%d", dir, i)))
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, g := range groups {
		// Of each, the shell and its child, which ignore SIGTERM.
		assert.Eventually(t, func() bool { return len(members(t, g)) == 0 }, wait, 50*time.Millisecond)
	}
}

func TestEnvironment(t *testing.T) {
	source := t.TempDir()
	w := newWorld(t, &cluster.Processes{
		Python: cluster.Python{Path: "/venv/bin/python", Scripts: "/scripts"}, Source: source,
		Environ: []string{"PATH=/usr/bin:/bin", "PYTHONPATH=/theirs", "KEPT=kept", "SET=outer", "FLYTE_INTERNAL_EXECUTION_ID=outer"},
	})
	p := shell("a", `echo $PATH; echo $PYTHONPATH; echo $KEPT; echo $SET; echo "<$FLYTE_INTERNAL_EXECUTION_ID>"; pwd; echo "$0 $1"; echo $LABEL`)
	c := &p.Spec.Containers[0]
	c.Env = append(c.Env, v1.EnvVar{Name: "SET", Value: "by the pod"}, v1.EnvVar{
		Name: "LABEL", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['node-id']"}},
	})
	c.Args = []string{"$(SET)", "$(UNSET) 1$ $$(SET)"}
	w.create(t, p)
	w.until(t, "a", v1.PodSucceeded)
	assert.Equal(t, []string{
		"/scripts:/venv/bin:/usr/bin:/bin", source + ":/theirs", "kept", "by the pod", "<>", source, "by the pod $(UNSET) 1$ $(SET)", "n0",
	}, w.text())
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		why, err string
		p        cluster.Processes
	}{
		{why: "sources are a file", p: cluster.Processes{Source: file}, err: "the folder of the tasks' sources, " + file + ", is a file"},
		{why: "no sources", p: cluster.Processes{Source: file + "-none"}, err: "the folder of the tasks' sources: stat " + file + "-none: no such file or directory"},
		{why: "logs are a file", p: cluster.Processes{LogDir: file}, err: "cannot make the folder for the processes' output: mkdir " + file + ": not a directory"},
	} {
		t.Run(c.why, func(t *testing.T) {
			_, err := cluster.New(cluster.Options{Processes: &c.p})
			require.EqualError(t, err, c.err)
		})
	}
}

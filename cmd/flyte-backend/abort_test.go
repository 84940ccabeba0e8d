package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
)

// process is the command while it runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
}

// Write takes what it says on standard error.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: start(t, args...), done: make(chan struct{})}
	p.cmd.Stderr = p
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	return p
}

func (p *process) until(what string, condition func() bool) {
	p.t.Helper()
	require.Eventually(p.t, condition, limit, 10*time.Millisecond, "%s: %s", what, p.said())
}

func (p *process) saying(what string) func() bool {
	return func() bool { return strings.Contains(p.said(), what) }
}

func (p *process) interrupt() { _ = p.cmd.Process.Signal(syscall.SIGINT) }

// left says what the command says of the job's folder, which is still there.
func (p *process) left() string {
	m := regexp.MustCompile(`the job may write into (\S+), which stays\n`).FindStringSubmatch(p.said())
	require.NotNil(p.t, m, p.said())
	require.DirExists(p.t, m[1])
	return m[1]
}

// insist interrupts until the process gives in.
func (p *process) insist() {
	for {
		select {
		case <-p.done:
			return
		case <-time.After(50 * time.Millisecond):
			p.interrupt()
		}
	}
}

// TestRunAborts: Ctrl-C leaves no job behind, whatever the run is at; a second one does not wait for that, and says what may be left.
func TestRunAborts(t *testing.T) {
	t.Parallel()
	busy := status.Error(codes.Unavailable, "starting")
	hold := func(m backendtest.Method) func(*backendtest.Backend) func() {
		return func(b *backendtest.Backend) func() { return b.Hold(m) }
	}
	for _, tt := range []struct {
		reason string
		// before the run the service is made to misbehave; release ends that.
		before func(b *backendtest.Backend) (release func())
		act    func(p *process, b *backendtest.Backend, release func())
		says   []string
		// jobs and deletes are what the service has seen in the end.
		jobs, deletes int
		// lives: a job may go on, and so its folder stays.
		lives bool
	}{
		{
			reason: "a job that runs is deleted",
			act: func(p *process, _ *backendtest.Backend, _ func()) {
				p.until("the job runs", p.saying("RUNNING"))
				p.interrupt()
			},
			says: []string{"deleting the job; once more does not wait for it\n", "flyte-backend: aborted: the job is deleted\n"}, jobs: 1, deletes: 1,
		},
		{
			reason: "timeout(1) sends a signal twice",
			act: func(p *process, _ *backendtest.Backend, _ func()) {
				p.until("the job runs", p.saying("RUNNING"))
				p.interrupt()
				p.interrupt()
			},
			says: []string{"flyte-backend: aborted: the job is deleted\n"}, jobs: 1, deletes: 1,
		},
		{
			reason: "the terminal is closed",
			act: func(p *process, _ *backendtest.Backend, _ func()) {
				p.until("the job runs", p.saying("RUNNING"))
				_ = p.cmd.Process.Signal(syscall.SIGHUP)
			},
			says: []string{"flyte-backend: aborted: the job is deleted\n"}, jobs: 1, deletes: 1,
		},
		{
			reason: "a service that takes no jobs for now is not asked again",
			before: func(b *backendtest.Backend) func() {
				b.Fail(backendtest.Create, 1000, busy)
				return func() {}
			},
			act: func(p *process, _ *backendtest.Backend, _ func()) {
				p.until("a create fails", p.saying("create: starting; once more in"))
				p.interrupt()
			},
			says: []string{"flyte-backend: aborted: no job was created\n"},
		},
		{
			reason: "a create that is under way is waited for: its answer names the job to delete",
			before: hold(backendtest.Create),
			act: func(p *process, b *backendtest.Backend, release func()) {
				p.until("the create has arrived", func() bool { return b.Calls(backendtest.Create) == 1 })
				p.interrupt()
				release()
			},
			says: []string{"flyte-backend: aborted: the job is deleted\n"}, jobs: 1, deletes: 1,
		},
		{
			reason: "nobody has to wait for a create that hangs",
			before: hold(backendtest.Create),
			act: func(p *process, b *backendtest.Backend, _ func()) {
				p.until("the create has arrived", func() bool { return b.Calls(backendtest.Create) == 1 })
				p.insist()
			},
			says: []string{"flyte-backend: aborted: the create had no answer, and may have started a job\nhint: with --idempotency-key "}, lives: true,
		},
		{
			reason: "a deletion that fails for now is made again",
			act: func(p *process, b *backendtest.Backend, _ func()) {
				p.until("the job runs", p.saying("RUNNING"))
				b.Fail(backendtest.Delete, 2, busy)
				p.interrupt()
			},
			says: []string{"delete: starting; once more in", "flyte-backend: aborted: the job is deleted\n"}, jobs: 1, deletes: 1,
		},
		{
			reason: "a deletion that fails for good is told, with what finds the job",
			act: func(p *process, b *backendtest.Backend, _ func()) {
				p.until("the job runs", p.saying("RUNNING"))
				b.Fail(backendtest.Delete, 1000, status.Error(codes.PermissionDenied, "not yours"))
				p.interrupt()
			},
			says: []string{"aborted: the job could not be deleted, and may go on: not yours\nhint: `delete` takes --job-id \""}, jobs: 1, lives: true,
		},
		{
			reason: "nobody has to wait for a deletion that hangs",
			before: hold(backendtest.Delete),
			act: func(p *process, b *backendtest.Backend, _ func()) {
				p.until("the job runs", p.saying("RUNNING"))
				p.interrupt()
				p.until("the deletion has arrived", func() bool { return b.Calls(backendtest.Delete) == 1 })
				p.insist()
			},
			says: []string{"flyte-backend: aborted: the job may go on\nhint: `delete` takes --job-id \""}, jobs: 1, lives: true,
		},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b, flags := serving(t)
			release := func() {}
			if tt.before != nil {
				release = tt.before(b)
			}
			t.Cleanup(release)
			file := templateFile(t, "job", map[string]any{"seconds": 3600})
			p := startProcess(t, append([]string{"run", "--template", file, "--input", "x=1"}, flags...)...)
			tt.act(p, b, release)
			<-p.done
			said := p.said()
			require.Equal(t, 3, p.cmd.ProcessState.ExitCode(), said)
			for _, want := range tt.says {
				require.Contains(t, said, want)
			}
			if tt.lives {
				require.NoError(t, os.Remove(p.left()))
			} else {
				require.NotContains(t, said, "stays")
			}
			jobs := b.Jobs()
			require.Len(t, jobs, tt.jobs)
			for _, j := range jobs {
				require.Equal(t, tt.deletes, j.Deletes)
			}
		})
	}
}

// TestRunOutlivesItsReader: a job is not left behind because nobody reads what the run says of it.
func TestRunOutlivesItsReader(t *testing.T) {
	t.Parallel()
	b, flags := serving(t)
	cmd := start(t, append([]string{"run", "--template", templateFile(t, "job", map[string]any{"seconds": 3600}), "--input", "x=1"}, flags...)...)
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(b.Jobs()) == 1 }, limit, 10*time.Millisecond)
	require.NoError(t, said.Close())
	polls := b.Calls(backendtest.Get)
	require.Eventually(t, func() bool { return b.Calls(backendtest.Get) > polls+2 }, limit, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM)) // to this it says that it deletes the job
	_ = cmd.Wait()
	require.Equal(t, 3, cmd.ProcessState.ExitCode())
	require.Equal(t, 1, b.Jobs()[0].Deletes)
}

// TestDetach: a job that nobody waits for keeps the folder that it was told to write into, and its id is not lost.
func TestDetach(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, b *backendtest.Backend, flags []string) {
		t.Helper()
		args := append([]string{"run", "--detach", "--template", templateFile(t, "job", map[string]any{"seconds": 3600}), "--input", "x=1"}, flags...)
		folderOf := func(uri string) string {
			folder := strings.TrimPrefix(uri, "file://")
			require.DirExists(t, folder)
			t.Cleanup(func() { _ = os.RemoveAll(folder) })
			return folder
		}

		id, said, code := run(t, "", args...)
		require.Zero(t, code, said)
		require.Contains(t, said, "the job may write into "+folderOf(b.Jobs()[0].Request.GetOutputPrefix())+", which stays\n")
		_, said, code = run(t, "", append([]string{"get", "job", "--job-id", strings.TrimSuffix(id, "\n")}, flags...)...)
		require.Zero(t, code, said)

		out, said, code := run(t, "", append(args, "-o", "json")...)
		require.Zero(t, code, said)
		var printed struct{ JobID, OutputPrefix string }
		require.NoError(t, json.Unmarshal([]byte(out), &printed))
		folderOf(printed.OutputPrefix)
		_, said, code = run(t, "", append([]string{"delete", "job", "--job-id", printed.JobID}, flags...)...)
		require.Zero(t, code, said)

		mine := "file://" + t.TempDir()
		_, said, code = run(t, "", append(args, "--output-prefix", mine)...)
		require.Zero(t, code, said)
		require.NotContains(t, said, "stays", "a place that the user named is the user's")

		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		require.NoError(t, err)
		t.Cleanup(func() { _ = full.Close() })
		cmd := start(t, append(args, "--output-prefix", mine)...)
		var told bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &told
		_ = cmd.Run()
		require.Equal(t, 4, cmd.ProcessState.ExitCode())
		require.Regexp(t, "hint: the job goes on: `get` and `delete` take --job-id \"\\S+\"\n$", told.String())
	})
}

// TestCreateWithoutAnswer: it may have started a job, so that this is no bad input, with which nothing runs.
func TestCreateWithoutAnswer(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, b *backendtest.Backend, flags []string) {
		t.Helper()
		t.Cleanup(b.Hold(backendtest.Create))
		_, said, code := run(t, "", append([]string{"run", "--template", templateFile(t, "job", nil), "--input", "x=1", "--timeout", "1s"}, flags...)...)
		require.Equal(t, 4, code, said)
		require.Contains(t, said, "flyte-backend: the create had no answer, and may have started a job: create at "+b.Endpoint()+" failed: DeadlineExceeded: ")
		require.Contains(t, said, "\nhint: with --idempotency-key ")
		m := regexp.MustCompile(`the job may write into (\S+), which stays`).FindStringSubmatch(said)
		require.NotNil(t, m, said)
		require.NoError(t, os.Remove(m[1]))
	})
}

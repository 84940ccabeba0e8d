package main

import (
	"bytes"
	"os/exec"
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
			says: []string{"flyte-backend: aborted: the create had no answer, and may have started a job\nhint: with --idempotency-key "},
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
			says: []string{"aborted: the job could not be deleted, and may go on: not yours\nhint: `delete` takes --job-id \""}, jobs: 1,
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
			says: []string{"flyte-backend: aborted: the job may go on\nhint: `delete` takes --job-id \""}, jobs: 1,
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
			jobs := b.Jobs()
			require.Len(t, jobs, tt.jobs)
			for _, j := range jobs {
				require.Equal(t, tt.deletes, j.Deletes)
			}
		})
	}
}

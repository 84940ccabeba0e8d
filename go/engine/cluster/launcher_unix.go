//go:build linux || darwin

package cluster

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// launcher starts processes, each the leader of a session and so of a process group of its own. It sees to it that none
// outlives this process, however that ends:
//
//   - A shell, in a session of its own, is told of each group that starts and ends. When its standard input ends, because
//     this process has, it ends the groups that are left: SIGTERM, after the grace period SIGKILL.
//   - On Linux, a process also gets SIGKILL as soon as the thread that started it is no more (Pdeathsig). The thread, not the
//     process: Go ends a thread when a goroutine that has locked it returns. So all processes are started from one goroutine
//     that has locked its thread and keeps it for as long as any of them lives.
//
// Two things are not ended: what a task's process itself puts into another session, and, when this process is killed in the
// millisecond between a start and the shell's hearing of it, what the new process has started by then (not on Linux: and
// itself). Nothing short of a container would do that.
type launcher struct {
	grace    time.Duration
	requests chan startRequest
	stopped  chan struct{}

	mu       sync.Mutex
	watchdog *exec.Cmd
	tell     io.WriteCloser
}

type startRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// watchdog reads lines "+ group" and "- group".
const watchdog = `
trap '' INT TERM HUP
groups=
while read -r op group; do
	case $op in
	+) groups="$groups $group" ;;
	-)
		left=
		for g in $groups; do
			if [ "$g" != "$group" ]; then left="$left $g"; fi
		done
		groups=$left
		;;
	esac
done
if [ -n "$groups" ]; then
	for g in $groups; do kill -TERM -"$g" 2>/dev/null; done
	sleep "$1"
	for g in $groups; do kill -KILL -"$g" 2>/dev/null; done
fi
`

func newLauncher(grace time.Duration) (*launcher, error) {
	l := &launcher{grace: grace, requests: make(chan startRequest), stopped: make(chan struct{})}
	seconds := fmt.Sprint(int(math.Ceil(grace.Seconds())))
	l.watchdog = exec.Command("/bin/sh", "-c", watchdog, "flyte-watchdog", seconds) //nolint:gosec,noctx // a constant; it ends with its input
	l.watchdog.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	l.watchdog.Dir = "/"
	var err error
	if l.tell, err = l.watchdog.StdinPipe(); err != nil {
		return nil, err
	}
	if err := l.watchdog.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the shell that watches over local processes: %w", err)
	}
	go l.serve()
	return l, nil
}

func (l *launcher) serve() {
	defer close(l.stopped)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for r := range l.requests {
		r.done <- r.cmd.Start()
	}
}

// close is called when no process is left.
func (l *launcher) close() {
	close(l.requests)
	<-l.stopped
	_ = l.tell.Close()
	_ = l.watchdog.Wait() // what it did not do, nobody else can
}

// note tells the watchdog. When it is gone, processes still end with Close, and on Linux with this process.
func (l *launcher) note(op string, group int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = fmt.Fprintln(l.tell, op, group)
}

// process is a process that was started.
type process struct {
	l       *launcher
	cmd     *exec.Cmd
	out     *output
	read    chan struct{} // closed when all output has been read
	pipes   []*os.File
	oomKill uint64
}

func (l *launcher) start(cmd *exec.Cmd, out *output) (*process, error) {
	p := &process{l: l, cmd: cmd, out: out, read: make(chan struct{}), oomKill: oomKills()}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	for _, to := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			p.closePipes()
			return nil, err
		}
		p.pipes, theirs, *to = append(p.pipes, r), append(theirs, w), w
	}
	cmd.SysProcAttr = sysProcAttr()
	request := startRequest{cmd, make(chan error, 1)}
	l.requests <- request
	if err := <-request.done; err != nil {
		p.closePipes()
		return nil, err
	}
	l.note("+", cmd.Process.Pid)
	var readers sync.WaitGroup
	for i, r := range p.pipes {
		readers.Go(func() { out.read(r, i == 1) })
	}
	go func() {
		readers.Wait()
		close(p.read)
	}()
	return p, nil
}

func (p *process) closePipes() {
	for _, f := range p.pipes {
		_ = f.Close()
	}
}

// leftBehind is how long output is waited for after a process and its group have ended, when something that left the group
// still holds it.
const leftBehind = time.Second

// wait gives how the process ended, after all of its output. When stop is closed, it ends the process.
func (p *process) wait(stop <-chan struct{}) ending {
	group := p.cmd.Process.Pid
	exited := make(chan struct{})
	var state *os.ProcessState
	var err error
	go func() {
		state, err = p.cmd.Process.Wait()
		close(exited)
	}()
	select {
	case <-exited:
	case <-stop:
		_ = syscall.Kill(-group, syscall.SIGTERM) // it may have ended just now
		if !waitFor(exited, p.l.grace) {
			_ = syscall.Kill(-group, syscall.SIGKILL)
			<-exited
		}
	}
	// As in a container, nothing outlives the first process.
	_ = syscall.Kill(-group, syscall.SIGKILL)
	p.l.note("-", group)
	if !waitFor(p.read, leftBehind) {
		p.closePipes()
		<-p.read
	} else {
		p.closePipes()
	}
	if err != nil {
		return ending{Code: 255, Reason: ReasonError, Message: fmt.Sprintf("cannot tell how the process ended: %v", err)}
	}
	return p.ending(state)
}

func (p *process) ending(state *os.ProcessState) ending {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		signal := int32(status.Signal()) //nolint:gosec // a signal's number is small
		e := ending{Code: 128 + signal, Signal: signal, Reason: ReasonError, Message: p.out.explain()}
		if status.Signal() == syscall.SIGKILL && oomKills() > p.oomKill {
			e.Reason = ReasonOOMKilled
		}
		return e
	case state.Success():
		return ending{Reason: "Completed"}
	default:
		code := int32(state.ExitCode()) //nolint:gosec // an exit code is at most 255
		return ending{Code: code, Reason: ReasonError, Message: p.out.explain()}
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// serviceProcess is a service as a process of its own, so that it can be killed.
type serviceProcess struct {
	// name is that of its log, in dir, and in what is said of it.
	name, dir string
	// addr is where it listens, again and again (keptPort).
	addr string
	// program is started with args, and with env added to this process's own environment.
	program   string
	args, env []string
	// serves says of a line of its output that it is the one that tells that calls are answered.
	serves func(line string) bool

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// startLimit bounds the start of a service.
const startLimit = 20 * time.Second

// start runs the service and waits until it answers calls.
func (s *serviceProcess) start(ctx context.Context) error {
	logFile, err := os.OpenFile(filepath.Join(s.dir, s.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the log of service %s: %w", s.name, err)
	}
	out := &output{log: logFile, serves: s.serves, serving: make(chan struct{})}
	// Not CommandContext: the demo kills it when it is time.
	cmd := exec.Command(s.program, s.args...) //nolint:gosec,noctx // this program itself, or the one that --python names
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // a process below it may keep its output open
	if err := cmd.Start(); err != nil {
		_ = logFile.Close() // nothing was written
		return fmt.Errorf("cannot start service %s: %w", s.name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // "signal: killed" is what was ordered; any other end is told of by its output
		_ = logFile.Close()
	}()
	s.cmd, s.ended = cmd, ended
	select {
	case <-out.serving:
		return nil
	case <-ended:
		return fmt.Errorf("service %s did not start: %s (its log is %s)", s.name, out.lastLine(), logFile.Name())
	case <-time.After(startLimit):
		s.kill()
		return fmt.Errorf("service %s does not answer calls after %v (its log is %s)", s.name, startLimit, logFile.Name())
	case <-ctx.Done():
		s.kill()
		return ctx.Err()
	}
}

// kill ends the process as kill -9 does. It may be repeated.
func (s *serviceProcess) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
	s.cmd = nil
}

// output takes what a service prints: it goes to the log, and one line of it tells that calls are answered.
type output struct {
	log     *os.File
	serves  func(line string) bool
	serving chan struct{} // closed by that line

	mu   sync.Mutex
	told bool
	rest []byte // of a line that has not come to its end
	last string // line that has something in it
}

// Write is for one process, which writes one piece after the other. It never fails: the service is not to end for its log.
func (o *output) Write(p []byte) (int, error) {
	_, _ = o.log.Write(p) // see above
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rest = append(o.rest, p...)
	for {
		line, rest, ok := bytes.Cut(o.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		o.rest = rest
		if line = bytes.TrimSpace(line); len(line) > 0 {
			o.last = string(line)
		}
		if !o.told && o.serves(string(line)) {
			o.told = true
			close(o.serving)
		}
	}
}

// lastLine is the last thing that was said.
func (o *output) lastLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch rest := bytes.TrimSpace(o.rest); {
	case len(rest) > 0:
		return string(rest)
	case o.last != "":
		return o.last
	}
	return "it said nothing"
}

// keptPort finds an address that stays free while the service is away: below the ports that the system gives out by itself,
// one of which could go to somebody else in that time.
func keptPort() (string, error) {
	const first, ports = 22000, 1000
	var err error
	for range 100 {
		var lis net.Listener
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports)) //nolint:gosec // any will do
		if lis, err = net.Listen("tcp", addr); err == nil {         //nolint:noctx // nothing to cancel on loopback
			return addr, lis.Close()
		}
	}
	return "", fmt.Errorf("no free port for the service: %w", err)
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/cmd/internal/example"
)

// serviceProcess is the example service as a process of its own, so that it can be killed.
type serviceProcess struct {
	dir     string
	program string   // flyte-backend itself
	env     []string // added to this process's own
	addr    string   // set by the first start, and kept
	cmd     *exec.Cmd
}

// jobs is the folder where the service keeps its jobs.
func (s *serviceProcess) jobs() string { return filepath.Join(s.dir, "jobs") }

// start runs the service and waits until it listens.
func (s *serviceProcess) start(ctx context.Context) error {
	addr := s.addr
	if addr == "" {
		var err error
		if addr, err = keptPort(); err != nil {
			return err
		}
	}
	logFile, err := os.OpenFile(filepath.Join(s.dir, "service.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the service's log: %w", err)
	}
	defer func() { _ = logFile.Close() }() // the child has a descriptor of its own
	// Not CommandContext: the demo kills it when it is time.
	s.cmd = exec.Command(s.program, "serve", "--insecure", "--listen", addr, "--dir", s.jobs(), "--min-job-time", "1s", "--workers", "8") //nolint:gosec,noctx // this program itself
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stderr = logFile
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the service: %w", err)
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		addr, ok := strings.CutPrefix(strings.TrimSpace(text), example.Listening)
		if !ok {
			s.kill()
			return fmt.Errorf("the service did not start; its log is %s", logFile.Name())
		}
		s.addr = addr
		return nil
	case <-time.After(20 * time.Second):
		s.kill()
		return errors.New("the service does not listen after 20 s")
	case <-ctx.Done():
		s.kill()
		return ctx.Err()
	}
}

// keptPort finds an address that stays free while the service is away: below the ports that the system gives out by itself,
// one of which could go to somebody else in that time.
func keptPort() (string, error) {
	const first, ports = 15000, 15000
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

// kill ends the process as kill -9 does. It may be repeated.
func (s *serviceProcess) kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	_ = s.cmd.Wait()         // "signal: killed" is what was ordered
	s.cmd = nil
}

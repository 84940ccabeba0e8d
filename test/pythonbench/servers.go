package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	oursREST      = "flyte-backend REST"
	oursGRPC      = "flyte-backend gRPC"
	peerFastAPI   = "FastAPI"
	peerStarlette = "Starlette"
	peerGRPC      = "grpc.aio"
	peerFlytekit  = "flytekit connector"
)

// server is a process that is measured.
type server struct {
	name    string
	command []string // {port} stands for its port, {other} for another one that is free
	dial    func(address string) (*client, error)

	address string
	cmd     *exec.Cmd
	said    bytes.Buffer
}

func servers(o options) []*server {
	all := allServers(o)
	return slices.DeleteFunc(all, func(s *server) bool { return !o.only.MatchString(s.name) })
}

func allServers(o options) []*server {
	python := filepath.Join(o.python, "bin", "python")
	ours := []string{python, "-m", "flyte_backend._serve", "--insecure", "--plugins", "constant", "--log-format", "json"}
	return []*server{
		{name: oursREST, command: append(ours[:len(ours):len(ours)], "--port", "{port}"), dial: dialREST},
		{name: peerFastAPI, command: []string{python, "peers.py", "fastapi", "{port}"}, dial: dialREST},
		{name: peerStarlette, command: []string{python, "peers.py", "starlette", "{port}"}, dial: dialREST},
		{name: oursGRPC, command: append(ours[:len(ours):len(ours)], "--port", "{other}", "--grpc-port", "{port}"), dial: dialGRPC},
		{name: peerGRPC, command: []string{python, "peers.py", "grpc", "{port}"}, dial: dialGRPC},
		{name: peerFlytekit, dial: dialGRPC, command: []string{
			filepath.Join(o.connector, "bin", "pyflyte"), "serve", "connector", "--port", "{port}", "--prometheus_port", "{other}", "--modules", "connector",
		}},
	}
}

// start gives how long the server took to listen.
func (s *server) start(ctx context.Context) (time.Duration, error) {
	port, err := freePort(ctx)
	if err != nil {
		return 0, err
	}
	other, err := freePort(ctx)
	if err != nil {
		return 0, err
	}
	s.address = "127.0.0.1:" + port
	command := []string{"taskset", "-c", "0"}
	for _, word := range s.command {
		command = append(command, strings.NewReplacer("{port}", port, "{other}", other).Replace(word))
	}
	s.cmd = exec.CommandContext(ctx, command[0], command[1:]...)
	s.cmd.Dir = "python/bench"
	s.cmd.Env = append(os.Environ(), "PYTHONPATH=.", "FLYTE_SDK_LOGGING_LEVEL=50")
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return 0, err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < time.Minute {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
		if err == nil {
			return time.Since(began), conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, fmt.Errorf("it did not listen within a minute: %s", s.said.String())
}

func (s *server) pid() int { return s.cmd.Process.Pid } // taskset becomes the server

func (s *server) end() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// memory is what the process has in memory, in bytes.
func (s *server) memory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.pid()))
	if err != nil {
		return 0
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		return 0
	}
	return pages * os.Getpagesize()
}

// cpuTime is what a process has used so far, all its threads together.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, ok := strings.Cut(string(text), ") ") // the name may have spaces
	fields := strings.Fields(after)
	if !ok || len(fields) < 13 {
		return 0, errors.New("/proc has another form than expected")
	}
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100
}

func freePort(ctx context.Context) (string, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(lis.Addr().String())
	return port, errors.Join(err, lis.Close())
}

// pinClient keeps this process on the second core, if there is one.
func pinClient(ctx context.Context) {
	_ = exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", "1", strconv.Itoa(os.Getpid())).Run() //nolint:gosec // its own process
}

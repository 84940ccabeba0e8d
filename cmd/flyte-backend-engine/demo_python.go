package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/examples/python"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// What the workflow of the act is due to do: see testdata/workflows/squares.py.
const (
	pythonJobs  = 8
	pythonChain = 81
)

var pythonSquares = []int64{1, 4, 9, 16, 25, 36}

// pythonServe is the command of the package flyte-backend.
const pythonServe = "flyte-backend-serve"

// pythonHint says how to have it.
const pythonHint = "pip install flyte-backend has it; --python names the virtual environment where that was done"

// findPython gives the program that serves plugins in Python: that of a virtual environment, or without one that on PATH. If
// there is none on PATH, without says why the act is left out.
func findPython(ctx context.Context, venv string) (program, without string, err error) {
	if venv == "" {
		if program, err = exec.LookPath(pythonServe); err != nil {
			return "", "no " + pythonServe + " on PATH; " + pythonHint, nil //nolint:nilerr // that there is none is an answer
		}
		if err := tryPython(ctx, program); err != nil {
			return "", fmt.Sprintf("%v; %s", err, pythonHint), nil
		}
		return program, "", nil
	}
	switch info, err := os.Stat(venv); {
	case err != nil:
		return "", "", exit.BadInputf("--python %s: there is no such folder; a virtual environment is due", venv)
	case !info.IsDir():
		return "", "", exit.BadInputf("--python %s: it is no folder; a virtual environment is due", venv)
	}
	if program, err = filepath.Abs(filepath.Join(venv, "bin", pythonServe)); err != nil {
		return "", "", err
	}
	if _, err := os.Stat(program); err != nil {
		err := exit.BadInputf("--python %s: flyte-backend is not installed there: it has no bin/%s", venv, pythonServe)
		return "", "", exit.Hint(err, "%s", filepath.Join(venv, "bin", "python")+" -m pip install flyte-backend")
	}
	if err := tryPython(ctx, program); err != nil {
		return "", "", exit.BadInputf("--python %s: %w", venv, err)
	}
	return program, "", nil
}

// tryPython runs the program once. What is on PATH may be left over from a Python that is gone.
func tryPython(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.HasPrefix(out, []byte("flyte-backend ")) {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	said := lines[len(lines)-1]
	switch {
	case err != nil && said != "":
		return fmt.Errorf("%s --version fails: %s (%w)", program, said, err)
	case err != nil:
		return fmt.Errorf("%s --version fails: %w", program, err)
	}
	return fmt.Errorf("%s is another program: --version was due to say flyte-backend, and says %q", program, said)
}

// pythonAct runs jobs of the example in Python. The service keeps nothing: all of a job is in its id.
func pythonAct(dir, program string) (*act, error) {
	addr, err := keptPort()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	code := filepath.Join(dir, "python")
	if err := os.Mkdir(code, 0o700); err != nil {
		return nil, fmt.Errorf("cannot write the plugin in Python: %w", err)
	}
	if err := os.WriteFile(filepath.Join(code, python.Module+".py"), python.Source, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write the plugin in Python: %w", err)
	}
	return &act{
		title:  "Jobs of a plugin in Python, over REST",
		module: "squares", workflow: "squares",
		deployment: "python", config: fmt.Sprintf("{endpoint: %q, protocol: rest, insecure: true}", "http://"+addr),
		service: &serviceProcess{
			name: "python", dir: dir, addr: addr, program: program,
			args:   []string{"--plugins", python.Module, "--insecure", "--port", port, "--log-format", "json"},
			env:    []string{"PYTHONPATH=" + code},
			serves: pythonServes,
		},
		judge: func(ctx context.Context, s seen) (verdict, error) {
			created, err := pythonCreated(ctx, addr)
			return &pythonSeen{seen: s, created: created}, err
		},
	}, nil
}

// pythonServes knows the line of the service's log that says that calls are answered.
func pythonServes(line string) bool {
	var entry struct{ Message string }
	return json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "serving"
}

var createdCalls = regexp.MustCompile(`(?m)^flyte_backend_plugin_calls_total\{[^}]*call="Create"[^}]*\} (\d+)`)

// pythonCreated asks the service how many jobs its process has created.
func pythonCreated(ctx context.Context, addr string) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("cannot read the metrics of the service in Python: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("cannot read the metrics of the service in Python: %w", err)
	}
	for _, m := range createdCalls.FindAllSubmatch(text, -1) {
		calls, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return 0, err
		}
		n += calls
	}
	return n, nil
}

// pythonSeen is what came of the act.
type pythonSeen struct {
	seen
	created int // by the process that came after the kill
}

func (s *pythonSeen) unexpected() []string {
	out := s.seen.unexpected()
	chain := s.output("o0").GetScalar().GetPrimitive().GetInteger()
	out.due(chain == pythonChain, "the chain came to %d, %d was due", chain, pythonChain)
	squares := integers(s.output("o1"))
	out.due(slices.Equal(squares, pythonSquares), "the squares %v came, %v were due", squares, pythonSquares)
	owners := strings.Join(s.owners(), "\n")
	out.due(owners == `task type "square" to deployment "python": registered by python`, "type square was due to go to the service in Python: %s", owners)
	out.due(len(s.decided) == pythonJobs, "%d tasks ran, %d were due", len(s.decided), pythonJobs) // each is decided about once
	out.due(s.created > 0, "no job was created after the kill; the second of the chain was due to be")
	out.due(s.created <= pythonJobs-s.killed, "%d jobs were created after the kill, so some of the %d that ran then were created again", s.created, s.killed)
	return out
}

func (s *pythonSeen) tell(out io.Writer) {
	s.seen.tell(out)
	_, _ = fmt.Fprintf(out, "cost       %d of %d jobs were begun by one process and ended by the next, which knew nothing but their ids; attempts beyond the first: %d\n",
		pythonJobs-s.created, pythonJobs, s.attempts())
	_, _ = fmt.Fprintf(out, "outputs    %v and %v\n", literals.Plain(s.output("o0")), literals.Plain(s.output("o1")))
}

func integers(l *core.Literal) []int64 {
	var out []int64
	for _, item := range l.GetCollection().GetLiterals() {
		out = append(out, item.GetScalar().GetPrimitive().GetInteger())
	}
	return out
}

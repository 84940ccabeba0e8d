// Package typescript_test runs the service of examples/typescript: its own tests, the conformance suite, and the commands of the
// guide.
package typescript_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

const folder = "../../examples/typescript"

// build builds the service, unless it is built.
func build(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(folder, "serve.sh"), "build").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// TestOwnTests are those that `npm test` runs.
func TestOwnTests(t *testing.T) {
	t.Parallel()
	build(t)
	cmd := exec.CommandContext(t.Context(), "node", "--test", "dist/")
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?m)^# pass [1-9]`, string(out))
}

// service is the service as a process, which can be killed and started again at the same address.
type service struct {
	port, jobs string
	cmd        *exec.Cmd
}

var listening = regexp.MustCompile(`port: ([0-9]+)`)

func (s *service) start(ctx context.Context) error {
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), "node", filepath.Join(folder, "dist", "wordcount.js"))
	s.cmd.Env = append(os.Environ(), "PORT="+s.port, "JOBS_DIR="+s.jobs)
	s.cmd.Stderr = os.Stderr
	said, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			s.port = m[1]
			return nil
		}
	}
	return errors.New("the service ended before it listened")
}

func (s *service) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *service) endpoint() string { return "http://127.0.0.1:" + s.port }

func template(t *testing.T, wordsPerSecond float64) *core.TaskTemplate {
	t.Helper()
	custom, err := structpb.NewStruct(map[string]any{"words_per_second": wordsPerSecond})
	require.NoError(t, err)
	variable := func(simple core.SimpleType) *core.Variable {
		return &core.Variable{Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: simple}}}
	}
	return &core.TaskTemplate{
		Id:   &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "p", Domain: "d", Name: "count", Version: "v"},
		Type: "wordcount", Custom: custom,
		Interface: &core.TypedInterface{
			Inputs:  &core.VariableMap{Variables: map[string]*core.Variable{"text": variable(core.SimpleType_STRING)}},
			Outputs: &core.VariableMap{Variables: map[string]*core.Variable{"words": variable(core.SimpleType_INTEGER)}},
		},
	}
}

func inputs(t *testing.T, text string) *core.LiteralMap {
	t.Helper()
	m, err := coreutils.MakeLiteralMap(map[string]any{"text": text})
	require.NoError(t, err)
	return m
}

// TestConformance: two services on one folder, of which one is killed in mid-job, pass every case that is about what they have.
func TestConformance(t *testing.T) {
	t.Parallel()
	build(t)
	jobs := t.TempDir()
	one, other := &service{port: "0", jobs: jobs}, &service{port: "0", jobs: jobs}
	for _, s := range []*service{one, other} {
		require.NoError(t, s.start(t.Context()))
		t.Cleanup(s.kill)
	}
	report, err := conformance.Check(t.Context(), conformance.Options{
		Endpoint: one.endpoint(), Replica: other.endpoint(), Protocol: conformance.REST, Insecure: true, Strict: true,
		Template: template(t, 100), Inputs: inputs(t, "one two three"),
		LongTemplate: template(t, 0.001), LongInputs: inputs(t, "one two three"),
		FailingInputs: inputs(t, " "),
		Restart: func(ctx context.Context) error {
			one.kill()
			return one.start(ctx)
		},
		PollInterval: 20 * time.Millisecond,
	}, nil)
	require.NoError(t, err)
	ran := 0
	for _, r := range report.Results {
		require.NotEqual(t, conformance.Failed, r.Outcome, "%s: %s", r.Case, r.Text())
		if r.Outcome == conformance.Passed {
			ran++
			continue
		}
		require.Regexp(t, `^(poll/log-links|execute/|logs/|metrics/|operations/(metrics|openapi)|versions/unlisted|errors/retry-after)`, r.Case, "%s", r.Reason)
	}
	require.True(t, report.Conforms())
	require.Empty(t, report.Left)
	require.Greater(t, ran, 100)
}

// TestGuideRuns runs the commands of docs/write-a-plugin.md's section about REST, one after another in one shell; a block of text is
// what the commands before it print.
func TestGuideRuns(t *testing.T) {
	t.Parallel()
	build(t) // the first of the commands would, too, and there is a limit to how long it is waited for
	raw, err := os.ReadFile("../../docs/write-a-plugin.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(raw), "\n## In any language, by REST\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(lis.Addr().String())
	require.NoError(t, err)
	require.NoError(t, lis.Close())
	dir := t.TempDir()
	examples, err := filepath.Abs("../../examples")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(examples, filepath.Join(dir, "examples")))

	var script strings.Builder
	script.WriteString("set -euo pipefail\nset -m\ntrap 'for job in $(jobs -p); do kill -- -$job || true; done; wait' EXIT\n")
	var want []string
	for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(section, -1) {
		text := strings.ReplaceAll(m[2], "8080", port)
		switch m[1] {
		case "sh":
			text = strings.Replace(text, " &\n", fmt.Sprintf(
				" >/dev/null &\nfor i in {1..600}; do (exec 3<>/dev/tcp/127.0.0.1/%s) 2>/dev/null && break; sleep 0.1; done\n", port), 1)
			want = append(want, "")
			fmt.Fprintf(&script, "{\n%s} > out%d\n", text, len(want))
		case "text":
			want[len(want)-1] = text
		default:
			t.Fatalf("a block of language %q is not run", m[1])
		}
	}
	require.Greater(t, len(want), 4)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script.String(), out)
	for i, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("out%d", i+1)))
		require.NoError(t, err)
		require.Equal(t, text, string(got), "block %d", i+1)
	}
}

package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/cmd/internal/conformance"
	"github.com/flyte-backend/flyte-backend/cmd/internal/example"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/backendtest"
)

// asCommand makes this test binary the command line, with the commands that are needed here.
const asCommand = "FLYTE_BACKEND_TEST_AS_COMMAND"

// limit is far longer than anything here takes.
const limit = time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), exit.Signals()...)
	defer stop()
	root := &cobra.Command{Use: "flyte-backend", SilenceUsage: true, SilenceErrors: true}
	exit.Usage(root)
	root.AddCommand(conformance.New(), example.New())
	if err := root.ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(exit.Report(os.Stderr, err)) //nolint:gocritic // stop has been called
	}
}

// start prepares the command as a process.
func start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// run is the command as a process: its output, what it said on standard error, and its exit code.
func run(t *testing.T, args ...string) (out, said string, code int) {
	t.Helper()
	cmd := start(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

const template = "../../../testdata/templates/sqlite_elements.json"

// suiteOf are the cases of these tests, which the test backend passes: not all do, since it answers much without looking.
const suiteOf = "^(metadata|delete)/"

// checked runs the command against a test backend that serves the task type of the template.
func checked(t *testing.T, prepare func(*backendtest.Backend), args ...string) (out, said string, code int) {
	t.Helper()
	b := backendtest.New(backendtest.Plugin{TaskType: "sqlite"})
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	if prepare != nil {
		prepare(b)
	}
	args = append([]string{
		"conformance", "--endpoint", b.Endpoint(), "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen", "--run", suiteOf,
	}, args...)
	return run(t, args...)
}

func failDeletes(b *backendtest.Backend) {
	b.Fail(backendtest.Delete, -1, status.Error(codes.FailedPrecondition, "jobs stay here"))
}

// TestConformanceConforms: marks, reasons, a summary, and exit code 0.
func TestConformanceConforms(t *testing.T) {
	t.Parallel()
	out, said, code := checked(t, nil)
	require.Equal(t, 0, code, "%s%s", out, said)
	require.Empty(t, said)
	require.Contains(t, out, "metadata\n  ✓ lists-plugins\n")
	require.Contains(t, out, "  ✓ unknown (sqlite v1)\n")
	require.Contains(t, out, "  – in-mid-job (sqlite v1): there is no job that lasts to try this with; give LongInputs (--long-inputs)\n")
	require.Contains(t, out, "The service conforms.\n")
	require.NotContains(t, out, "\x1b", "no colours and no progress where there is no terminal")
}

// TestConformanceFails: what was sent, what came, what was due and where that stands; exit code 1; what is left behind is named.
func TestConformanceFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "report.xml")
	out, said, code := checked(t, failDeletes, "--junit", file)
	require.Equal(t, 1, code)
	require.Contains(t, said, "does not conform")
	require.Contains(t, out, "  ✗ unknown (sqlite v1), which it must\n      Deleting a job that was never created succeeds.\n      sent: DeleteTask(\"conformance-no-such-job-")
	require.Contains(t, out, "       got: FAILED_PRECONDITION: jobs stay here\n       due: OK: what is not there is deleted\n       see: docs/contract.md#deletetask\n")
	require.Contains(t, out, "left behind: job \"job-")
	require.Contains(t, out, "The service does not conform.\n")

	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var junit struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	require.NoError(t, xml.Unmarshal(raw, &junit))
	require.Greater(t, junit.Tests, 10)
	failures := 0
	for _, s := range junit.Suites {
		for _, c := range s.Cases {
			if c.Failure != nil {
				failures++
				require.Contains(t, c.Failure.Text, "got: FAILED_PRECONDITION: jobs stay here", c.Name)
			}
		}
	}
	require.Positive(t, failures)
	require.Equal(t, junit.Failures, failures)
}

// TestConformanceJSON: the report is JSON alone, whether the service conforms or not.
func TestConformanceJSON(t *testing.T) {
	t.Parallel()
	for conforms, prepare := range map[bool]func(*backendtest.Backend){true: nil, false: failDeletes} {
		out, _, code := checked(t, prepare, "-o", "json")
		require.Equal(t, map[bool]int{true: 0, false: 1}[conforms], code)
		var report struct {
			Conforms bool `json:"conforms"`
			Passed   int  `json:"passed"`
			Failed   int  `json:"failed"`
			Results  []struct {
				Case, Outcome, Purpose string
				Problems               []struct{ Sent, Got, Due, Contract string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(out), &report), out)
		require.Equal(t, conforms, report.Conforms)
		require.True(t, conforms || report.Failed > 0)
		require.Positive(t, report.Passed)
		for _, r := range report.Results {
			require.NotEmpty(t, r.Purpose)
			require.Equal(t, r.Outcome == "failed", len(r.Problems) > 0, "%+v", r)
		}
	}
}

// TestConformanceShouldAndStrict: to honour keys is something that a service only should do.
func TestConformanceShouldAndStrict(t *testing.T) {
	t.Parallel()
	fail := func(b *backendtest.Backend) { b.IgnoreKeys = true }
	out, _, code := checked(t, fail, "--run", "^create/(gives-an-id|same-key-same-job)$")
	require.Equal(t, 0, code, out)
	require.Contains(t, out, "✗ same-key-same-job (sqlite v1), which it should\n")
	require.Contains(t, out, "1 failed (0 must, 1 should)")
	_, _, code = checked(t, fail, "--run", "^create/(gives-an-id|same-key-same-job)$", "--strict")
	require.Equal(t, 1, code)
}

// TestConformanceBadInput: nothing runs, one line says what is wrong, and the exit code is 2.
func TestConformanceBadInput(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "no", "such")
	for want, args := range map[string][]string{
		"no service is named":                    {},
		"--output yaml: takes text or json":      {"-o", "yaml"},
		"takes no arguments":                     {"there"},
		"inputs need a template":                 {"--endpoint", "127.0.0.1:1", "--insecure", "--input", "x=1"},
		"long.yaml: inputs need a template":      {"--endpoint", "127.0.0.1:1", "--insecure", "--long-inputs", "long.yaml"},
		"cannot read the template":               {"--endpoint", "127.0.0.1:1", "--insecure", "--template", missing},
		"--run: error parsing regexp":            {"--endpoint", "127.0.0.1:1", "--insecure", "--run", "("},
		"--header token: takes NAME=VALUE":       {"--endpoint", "127.0.0.1:1", "--insecure", "--header", "token"},
		"--header token: open":                   {"--endpoint", "127.0.0.1:1", "--insecure", "--header", "token=@" + missing},
		"--junit: open":                          {"--endpoint", "127.0.0.1:1", "--insecure", "--junit", missing},
		"no service answers there":               {"--endpoint", "127.0.0.1:1", "--insecure", "--timeout", "1s"},
		"is no URL; REST takes http://host:port": {"--endpoint", "http://127.0.0.1:1", "--insecure", "--replica", "127.0.0.1:2"},
		"unknown flag: --templat":                {"--templat", "x"},
		"for grpc has an id that matches":        {"--endpoint", "127.0.0.1:1", "--insecure", "--run", "^nothing/"},
	} {
		_, said, code := run(t, append([]string{"conformance"}, args...)...)
		require.Equal(t, 2, code, "%s: %s", want, said)
		require.Contains(t, said, want)
	}
	out, said, code := checked(t, nil, "--run", "^delete/in-mid-job$")
	require.Equal(t, 2, code)
	require.Contains(t, said, "no case was tried: all 1 were skipped")
	require.Contains(t, out, "Nothing was tried.")
	require.NotContains(t, out, "conform")
}

// TestConformanceOfSomethingElse: what speaks otherwise is told so at once, and in the file for the CI server as well.
func TestConformanceOfSomethingElse(t *testing.T) {
	t.Parallel()
	overGRPC, overREST := backendtest.New(), backendtest.New()
	overREST.REST = true
	for _, b := range []*backendtest.Backend{overGRPC, overREST} {
		require.NoError(t, b.Start())
		t.Cleanup(b.Kill)
	}
	_, address, ok := strings.Cut(overREST.Endpoint(), "://")
	require.True(t, ok)
	for _, row := range []struct {
		want string
		args []string
	}{
		{"speaks no HTTP/1.1; is it gRPC?", []string{"--endpoint", "http://" + overGRPC.Endpoint(), "--insecure"}},
		{"speaks no HTTP/2; is it REST?", []string{"--endpoint", address, "--insecure"}},
		{"speaks no TLS", []string{"--endpoint", overGRPC.Endpoint()}},
		{"speaks no TLS", []string{"--endpoint", "https://" + address}},
	} {
		file := filepath.Join(t.TempDir(), "report.xml")
		begin := time.Now()
		out, said, code := run(t, append([]string{"conformance", "--timeout", "20s", "--junit", file}, row.args...)...)
		require.Equal(t, 2, code, "%s%s", out, said)
		require.Contains(t, said, row.want)
		require.Less(t, time.Since(begin), 10*time.Second, "a service that never comes is waited for in vain")
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var junit struct {
			Failures int `xml:"failures,attr"`
		}
		require.NoError(t, xml.Unmarshal(raw, &junit), "%s", raw)
		require.Equal(t, 1, junit.Failures)
		require.Contains(t, string(raw), row.want)
	}
}

// TestConformanceInterrupted: Ctrl-C ends the run, deletes what it made, and the exit code is 3.
func TestConformanceInterrupted(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "sqlite"})
	b.Script() // a job that never ends
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	cmd := start(t, "conformance", "--endpoint", b.Endpoint(), "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen", "--run", "^poll/job-succeeds$")
	var out strings.Builder
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return b.Calls(backendtest.Get) > 2 }, limit, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 3, cmd.ProcessState.ExitCode())
	require.Contains(t, out.String(), "The run was interrupted.")
	require.Contains(t, said.String(), "interrupted; the jobs that were made are being deleted, and once more does not wait for that\n")
	for _, j := range b.Jobs() {
		require.Positive(t, j.Deletes)
	}
}

// TestConformanceOutlivesItsReader: nobody reads the report, as behind `head`, and no job is left all the same.
func TestConformanceOutlivesItsReader(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "sqlite"})
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	cmd := start(t, "conformance", "--endpoint", b.Endpoint(), "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen", "--run", "^create/")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, out.Close())
	require.Error(t, cmd.Wait())
	require.Equal(t, 4, cmd.ProcessState.ExitCode())
	require.NotEmpty(t, b.Jobs())
	for _, j := range b.Jobs() {
		require.Positive(t, j.Deletes)
	}
}

// TestConformanceInterruptedTwice: a second Ctrl-C does not wait for deletions that take for ever, nor does the first one for a
// service that is not there.
func TestConformanceInterruptedTwice(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "sqlite"})
	b.Script() // a job that never ends
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	t.Cleanup(b.Hold(backendtest.Delete))
	cmd := start(t, "conformance", "--endpoint", b.Endpoint(), "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen", "--run", "^poll/job-succeeds$", "--timeout", "50s")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return b.Calls(backendtest.Get) > 2 }, limit, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Eventually(t, func() bool { return b.Calls(backendtest.Delete) > 0 }, limit, 5*time.Millisecond)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for again := true; again; {
		select {
		case err := <-ended:
			require.Error(t, err)
			again = false
		case <-time.After(100 * time.Millisecond): // one that comes too soon counts as the first one
			_ = cmd.Process.Signal(syscall.SIGINT)
		}
	}
	require.Equal(t, 3, cmd.ProcessState.ExitCode())

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	cmd = start(t, "conformance", "--endpoint", silent.Addr().String(), "--insecure", "--timeout", "50s")
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	conn, err := silent.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	text, err := io.ReadAll(said)
	require.NoError(t, err)
	require.Error(t, cmd.Wait())
	require.Equal(t, 3, cmd.ProcessState.ExitCode(), "%s", text)
	require.Contains(t, string(text), "interrupted before the service answered")
}

// TestConformanceRestarts: --restart-command is what restarts the service; it may leave the service running behind it.
func TestConformanceRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// While the service is down nobody else may get its port: this one looks where the system gives none away.
	b := backendtest.New()
	require.NoError(t, b.Start())
	address := b.Endpoint()
	b.Kill()
	restart := filepath.Join(dir, "restart.sh")
	require.NoError(t, os.WriteFile(restart, []byte(fmt.Sprintf(`set -e
cd %q
if [ -e pid ]; then kill -9 $(cat pid); fi
while (exec 3<>/dev/tcp/%s) 2>/dev/null; do sleep 0.01; done # it still has the port for a moment
%s=1 %q serve --insecure --listen %s --dir jobs &
echo $! >pid
`, dir, strings.Replace(address, ":", "/", 1), asCommand, os.Args[0], address)), 0o600))
	t.Cleanup(func() {
		_ = exec.Command("sh", "-c", "kill -9 $(cat "+filepath.Join(dir, "pid")+")").Run()
	})
	require.NoError(t, exec.CommandContext(t.Context(), "sh", "-c", "bash "+restart+" >/dev/null 2>&1").Run())
	out, said, code := run(t, "conformance", "--endpoint", address, "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen",
		"--restart-command", "bash "+restart, "--run", "^restarts/")
	require.Equal(t, 0, code, "%s%s", out, said)
	require.Contains(t, out, "✓ in-mid-job (sqlite v1)")
	out, said, _ = run(t, "conformance", "--endpoint", address, "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen",
		"--restart-command", "echo no way; exit 7", "--run", "^(metadata/lists-plugins|restarts/same-list)$")
	require.Contains(t, out, "– same-list: the service could not be restarted: --restart-command: exit status 7: no way", said)
}

// TestConformanceOverREST: the protocol is that of the address.
func TestConformanceOverREST(t *testing.T) {
	t.Parallel()
	b := backendtest.New(backendtest.Plugin{TaskType: "sqlite"})
	b.REST = true
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("Bearer secret\n"), 0o600))
	out, said, code := run(t, "conformance", "--endpoint", b.Endpoint(), "--insecure", "--template", template, "--input", "limit=3", "--input", "ending=gen",
		"--run", "^(metadata|delete)/", "--header", "Authorization=@"+token, "-o", "json")
	require.Equal(t, 0, code, "%s%s", out, said)
	require.Contains(t, out, `"protocol": "rest"`)
	require.NotContains(t, out, "secret")
}

// TestConformanceDocRuns runs the commands of docs/conformance.md in one shell; text ends what the commands before it print.
func TestConformanceDocRuns(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../../docs/conformance.md")
	require.NoError(t, err)
	testdata, err := filepath.Abs("../../../testdata")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(testdata, filepath.Join(dir, "testdata")))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := lis.Addr().String()
	require.NoError(t, lis.Close())
	var script strings.Builder
	fmt.Fprintf(&script, "set -euo pipefail\nset -m\ntrap 'for job in $(jobs -p); do kill -- -$job || true; done; wait' EXIT\nflyte-backend() { %s=1 %q \"$@\"; }\n", asCommand, os.Args[0])
	var want []string
	for _, m := range regexp.MustCompile("(?s)```(sh|text)\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		text := strings.ReplaceAll(m[2], "127.0.0.1:8000", address)
		if m[1] == "text" {
			want[len(want)-1] = text
			continue
		}
		host, port, _ := strings.Cut(address, ":")
		text = regexp.MustCompile(`(?m)&$`).ReplaceAllString(text, fmt.Sprintf(
			">/dev/null 2>&1 &\nfor i in {1..600}; do (exec 3<>/dev/tcp/%s/%s) 2>/dev/null && break; sleep 0.1; done", host, port))
		want = append(want, "")
		fmt.Fprintf(&script, "{\n%s} > out%d\n", text, len(want))
	}
	require.GreaterOrEqual(t, len(want), 2)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script.String(), out)
	for i, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("out%d", i+1)))
		require.NoError(t, err)
		require.NotEmpty(t, text)
		require.True(t, strings.HasSuffix(string(got), text), "block %d: %s", i+1, got)
	}
}

// TestConformanceDocHasAllFlags: each flag of the command is told of.
func TestConformanceDocHasAllFlags(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../../docs/conformance.md")
	require.NoError(t, err)
	shared := map[string]bool{"cert-file": true, "key-file": true, "server-name": true, "config": true, "deployment": true} // "and so on"
	conformance.New().Flags().VisitAll(func(f *pflag.Flag) {
		name := "--" + f.Name
		if f.Name == "output" {
			name = "-o"
		}
		if !shared[f.Name] {
			require.Contains(t, string(doc), "`"+name, f.Name)
		}
	})
}

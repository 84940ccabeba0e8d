package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/backendtest/pki"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// limit is far longer than anything here takes.
const limit = time.Minute

// run is the command as a process; its output, what it said on standard error, and its exit code.
func run(t *testing.T, stdin string, args ...string) (out, said string, code int) {
	t.Helper()
	cmd := start(t, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// serving runs a service, over gRPC, of jobs that do what their task's custom says.
func serving(t *testing.T, plugins ...backendtest.Plugin) (b *backendtest.Backend, flags []string) {
	t.Helper()
	b = backendtest.NewJobs(plugins...)
	return b, serve(t, b)
}

// serve gives the flags that name the service.
func serve(t *testing.T, b *backendtest.Backend) []string {
	t.Helper()
	require.NoError(t, b.Start())
	t.Cleanup(b.Kill)
	return []string{"--endpoint", b.Endpoint(), "--insecure"}
}

// templateFile is a task that adds up x and what its custom says.
func templateFile(t *testing.T, taskType string, custom map[string]any) string {
	t.Helper()
	return templateOf(t, taskType, custom, core.SimpleType_INTEGER)
}

// templateOf has an x of another type.
func templateOf(t *testing.T, taskType string, custom map[string]any, x core.SimpleType) string {
	t.Helper()
	integer := &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}
	c, err := structpb.NewStruct(custom)
	require.NoError(t, err)
	raw, err := protojson.Marshal(&core.TaskTemplate{
		Id: &core.Identifier{Project: "p", Domain: "d", Name: "sums.add", Version: "1"}, Type: taskType, Custom: c,
		Interface: &core.TypedInterface{
			Inputs:  &core.VariableMap{Variables: map[string]*core.Variable{"x": {Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: x}}}}},
			Outputs: &core.VariableMap{Variables: map[string]*core.Variable{"o0": {Type: integer}}},
		},
	})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "template.json")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	return file
}

func TestList(t *testing.T) {
	t.Parallel()
	_, flags := serving(t, backendtest.Plugin{TaskType: "job"}, backendtest.Plugin{TaskType: "sums", Sync: true})
	out, _, code := run(t, "", append([]string{"list"}, flags...)...)
	require.Zero(t, code)
	require.Regexp(t, `(?m)^TASK TYPE +PLUGIN VERSION +TASK TYPE VERSIONS +MODE +NAME$`, out)
	require.Regexp(t, `(?m)^job +v1 +any +async `, out)
	require.Regexp(t, `(?m)^sums +v1 +any +sync `, out)
	out, _, code = run(t, "", append([]string{"list", "-o", "json"}, flags...)...)
	require.Zero(t, code)
	var all []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	require.Len(t, all, 2)
	out, _, code = run(t, "", append([]string{"__complete", "get"}, append(flags, "")...)...)
	require.Zero(t, code)
	require.Equal(t, "job\n:4\n", out, "completion asks the service")
	out, _, code = run(t, "", append([]string{"__complete", "run"}, append(flags, "--task-type", "")...)...)
	require.Zero(t, code)
	require.Equal(t, "job\nsums\n:4\n", out)
	out, _, code = run(t, "", "__complete", "get", "--endpoint", "127.0.0.1:1", "--insecure", "")
	require.Zero(t, code)
	require.Equal(t, ":4\n", out, "a service that is not there completes nothing, and is no error")
}

// overBoth runs a test with a service over gRPC and one over REST.
func overBoth(t *testing.T, test func(t *testing.T, b *backendtest.Backend, flags []string)) {
	t.Helper()
	for name, rest := range map[string]bool{"grpc": false, "rest": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backendtest.NewJobs()
			b.REST = rest
			test(t, b, serve(t, b))
		})
	}
}

// TestRun: outputs on standard output, all else on standard error.
func TestRun(t *testing.T) {
	t.Parallel()
	overBoth(t, testRun)
}

func testRun(t *testing.T, b *backendtest.Backend, flags []string) {
	t.Helper()
	file := templateFile(t, "job", map[string]any{"add": 5, "seconds": 0.3, "progress": 2})
	out, said, code := run(t, "x: 1\n", append([]string{"run", "--template", file, "--inputs", "-", "--input", "x=37"}, flags...)...)
	require.Zero(t, code, said)
	require.Equal(t, "o0: 42\n", out)
	require.Regexp(t, `task type job, plugin version v1, idempotency key [0-9a-f]{64}\n`, said)
	require.Contains(t, said, "RUNNING")
	require.Contains(t, said, "SUCCEEDED")
	jobs := b.Jobs()
	require.Len(t, jobs, 1)
	require.Len(t, jobs[0].Key, 64)

	out, _, code = run(t, "", append([]string{"run", "--template", file, "--input", "x=1", "-o", "json", "--idempotency-key", "mine"}, flags...)...)
	require.Zero(t, code)
	var s map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, "SUCCEEDED", s["phase"])
	require.Equal(t, map[string]any{"o0": 6.0}, s["outputs"])
	for range 2 {
		_, _, code = run(t, "", append([]string{"run", "--template", file, "--input", "x=1", "--idempotency-key", "mine"}, flags...)...)
		require.Zero(t, code)
	}
	require.Len(t, b.Jobs(), 2, "the same key finds the same job")

	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	tmpl := &core.TaskTemplate{}
	require.NoError(t, protojson.Unmarshal(raw, tmpl))
	tmpl.Type = ""
	binary, err := proto.Marshal(tmpl)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, binary, 0o600))
	out, said, code = run(t, "", append([]string{"run", "--template", file, "--input", "x=2", "--task-type", "job_sync"}, flags...)...)
	require.Zero(t, code, said)
	require.Equal(t, "o0: 7\n", out, "a synchronous task, from a binary template")
}

// TestRunFails: what the job says is the error, and its code is 1.
func TestRunFails(t *testing.T) {
	t.Parallel()
	_, flags := serving(t)
	file := templateFile(t, "job", map[string]any{"fail": map[string]any{"code": "Broken", "message": "no such table"}})
	out, said, code := run(t, "", append([]string{"run", "--template", file, "--input", "x=1"}, flags...)...)
	require.Equal(t, 1, code)
	require.Empty(t, out)
	require.Contains(t, said, "flyte-backend: the job ended in phase FAILED: Broken: no such table\n")
}

// TestRunReadsWhatTheJobWrote: an error at the output prefix counts when it counts for propeller.
func TestRunReadsWhatTheJobWrote(t *testing.T) {
	t.Parallel()
	undeclared := filepath.Join(t.TempDir(), "template.json")
	require.NoError(t, os.WriteFile(undeclared, []byte(`{"type": "job", "id": {"name": "t"}}`), 0o600))
	declares := templateFile(t, "job", nil)
	file, err := proto.Marshal(&core.ErrorDocument{Error: &core.ContainerError{
		Code: "USER:ValueError", Message: "no such column", Kind: core.ContainerError_RECOVERABLE, Origin: core.ExecutionError_USER,
	}})
	require.NoError(t, err)
	written := "flyte-backend: the job ended in phase FAILED: USER:ValueError: no such column\n"
	one := &core.LiteralMap{Literals: map[string]*core.Literal{"o0": {Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: 1}}}}}}}}
	for _, tt := range []struct {
		reason   string
		template []string
		file     []byte
		answer   *admin.Resource
		code     int
		says     string
	}{
		{"a failure without a code", []string{declares, "--input", "x=1"}, file, &admin.Resource{Phase: core.TaskExecution_FAILED, Message: "exit code 1"}, 1, written},
		{"a success of a task without outputs", []string{undeclared}, file, &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}, 1, written},
		{"a success without its outputs", []string{declares, "--input", "x=1"}, file, &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}, 1, written},
		{"a failure with a code says why itself", []string{undeclared}, file, &admin.Resource{Phase: core.TaskExecution_FAILED, Message: "no capacity",
			AgentError: &admin.AgentError{Code: "Busy"}}, 1, "in phase FAILED: Busy: no capacity\n"},
		{"a success with its outputs is one", []string{declares, "--input", "x=1"}, file, &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: one}, 0, "SUCCEEDED\n"},
		{"a damaged file", []string{undeclared}, []byte("\xff"), &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}, 1, "the job's error.pb is damaged: "},
		{"an empty file", []string{undeclared}, nil, &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}, 1, "the job's error.pb is damaged: it holds no error"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b := backendtest.New(backendtest.Plugin{TaskType: "job"})
			b.Script(backendtest.Step{Resource: &admin.Resource{Phase: core.TaskExecution_RUNNING}})
			flags := serve(t, b)
			cmd := start(t, slices.Concat([]string{"run", "--template"}, tt.template, flags)...)
			var said bytes.Buffer
			cmd.Stderr = &said
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool { return len(b.Jobs()) == 1 }, limit, 10*time.Millisecond)
			folder := strings.TrimPrefix(b.Jobs()[0].Request.GetOutputPrefix(), "file://")
			t.Cleanup(func() { _ = os.RemoveAll(folder) })
			require.NoError(t, os.WriteFile(filepath.Join(folder, "error.pb"), tt.file, 0o600))
			b.SetJob("", tt.answer)
			_ = cmd.Wait()
			require.Equal(t, tt.code, cmd.ProcessState.ExitCode(), said.String())
			require.Contains(t, said.String(), tt.says)
		})
	}
}

// TestWhatServicesSay: a service's words stay on their line and leave the terminal alone; in JSON they are as they came.
func TestWhatServicesSay(t *testing.T) {
	t.Parallel()
	for name, rest := range map[string]bool{"grpc": false, "rest": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backendtest.New(backendtest.Plugin{TaskType: "job"})
			b.REST = rest
			testWhatServicesSay(t, b, serve(t, b))
		})
	}
}

func testWhatServicesSay(t *testing.T, b *backendtest.Backend, flags []string) {
	t.Helper()
	said := func(phase core.TaskExecution_Phase, message string) *admin.Resource {
		return &admin.Resource{Phase: phase, Message: message, LogLinks: []*core.TaskLog{{Name: "Log", Uri: "https://logs.example/?job=1&from=<0>"}}}
	}
	b.Script(backendtest.Step{Resource: said(core.TaskExecution_RUNNING, "step 1\r\n  \x1b[2Jof 2\n")},
		backendtest.Step{After: 300 * time.Millisecond, Resource: said(core.TaskExecution_FAILED, "no such table\n\tin line 1\u202e")})
	args := append([]string{"run", "--template", templateFile(t, "job", nil), "--input", "x=1", "-o", "json"}, flags...)
	out, shown, code := run(t, "", args...)
	require.Equal(t, 1, code, shown)
	lines := strings.Split(strings.TrimSuffix(shown, "\n"), "\n")
	require.Len(t, lines, 4)
	const link = " [Log https://logs.example/?job=1&from=<0>]"
	require.Equal(t, "RUNNING: step 1; [2Jof 2"+link, lines[1][len("15:04:05 "):])
	require.Equal(t, "FAILED: no such table; in line 1"+link, lines[2][len("15:04:05 "):])
	require.Equal(t, "flyte-backend: the job ended in phase FAILED: no such table; in line 1", lines[3])
	require.Contains(t, out, `"uri": "https://logs.example/?job=1&from=<0>"`)
	var s map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, "no such table\n\tin line 1\u202e", s["message"])
}

// TestRunOutlivesOutages: calls that fail in a way that may pass are made again, with the same key.
func TestRunOutlivesOutages(t *testing.T) {
	t.Parallel()
	overBoth(t, testRunOutlivesOutages)
}

func testRunOutlivesOutages(t *testing.T, b *backendtest.Backend, flags []string) {
	t.Helper()
	busy := status.Error(codes.Unavailable, "starting")
	b.Fail(backendtest.Create, 2, busy)
	b.Fail(backendtest.Get, 2, busy)
	out, said, code := run(t, "", append([]string{"run", "--template", templateFile(t, "job", nil), "--input", "x=1"}, flags...)...)
	require.Zero(t, code, said)
	require.Equal(t, "o0: 1\n", out)
	require.Contains(t, said, "create: starting; once more in 250ms")
	require.Contains(t, said, "get: starting; once more in 250ms")
	require.Len(t, b.Jobs(), 1)
}

// TestJobs: a job that is let go is found again by its id, whatever bytes that is.
func TestJobs(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"plain ", "\xff\xfe", "base64:"} {
		for _, rest := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q over REST %t", prefix, rest), func(t *testing.T) {
				t.Parallel()
				b := backendtest.NewJobs()
				b.JobPrefix, b.REST = prefix, rest
				testJob(t, b, serve(t, b))
			})
		}
	}
}

func testJob(t *testing.T, b *backendtest.Backend, flags []string) {
	t.Helper()
	file := templateFile(t, "job", map[string]any{"seconds": 3600})
	id, said, code := run(t, "", append([]string{"run", "--template", file, "--input", "x=1", "--detach"}, flags...)...)
	require.Zero(t, code, said)
	out, said, code := run(t, id, append([]string{"get", "job", "--job-id-file", "-", "-o", "json"}, flags...)...)
	require.Zero(t, code, said)
	require.Contains(t, out, `"phase": "RUNNING"`)
	out, said, code = run(t, "", append([]string{"get", "job", "--job-id", strings.TrimSuffix(id, "\n"), "--plugin-version", "v1"}, flags...)...)
	require.Zero(t, code, said)
	require.Contains(t, out, "phase: RUNNING\n")
	for range 2 {
		_, said, code = run(t, id, append([]string{"delete", "job", "--job-id-file", "-"}, flags...)...)
		require.Zero(t, code, said)
		require.Equal(t, "deleted\n", said)
	}
	for _, j := range b.Jobs() {
		require.Equal(t, 2, j.Deletes)
	}
}

// TestConfig: a deployment of propeller's configuration is called as propeller calls it.
func TestConfig(t *testing.T) {
	t.Parallel()
	b, _ := serving(t)
	file := filepath.Join(t.TempDir(), "propeller.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
plugins:
  backend:
    deployments:
      Big: {endpoint: %q, insecure: true}
      other: {endpoint: "127.0.0.1:1", insecure: true}
`, b.Endpoint()), 0o600))
	out, said, code := run(t, "", "list", "--config", file, "--deployment", "BIG")
	require.Zero(t, code, said)
	require.Contains(t, out, "job_sync")
	out, _, code = run(t, "", "__complete", "list", "--config", file, "--deployment", "")
	require.Zero(t, code)
	require.Equal(t, "big\nother\n:4\n", out)
	out, said, code = run(t, "", "list", "--config", filepath.Join(filepath.Dir(file), "*.yaml"), "--deployment", "big")
	require.Zero(t, code, said)
	require.Contains(t, out, "job_sync", "a pattern, as propeller takes it")
	_, said, code = run(t, "", "list", "--config", file)
	require.Equal(t, 2, code)
	require.Contains(t, said, `--deployment "": the configuration has big, other`)
}

// TestBadInput: one line says what is wrong, perhaps a second one what would help, and nothing has run.
func TestBadInput(t *testing.T) {
	t.Parallel()
	b, flags := serving(t)
	file := templateFile(t, "job", nil)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	authority := pki.New(t)
	server := authority.Issue("server", pki.InAnHour(), "127.0.0.1")
	secure := backendtest.NewJobs()
	secure.ServerOptions = []grpc.ServerOption{grpc.Creds(credentials.NewServerTLSFromCert(&server.Certificate))}
	require.NoError(t, secure.Start())
	t.Cleanup(secure.Kill)
	web := backendtest.NewJobs()
	web.REST = true
	require.NoError(t, web.Start())
	t.Cleanup(web.Kill)
	shy, _ := serving(t)
	shy.Fail(backendtest.List, 1000, status.Error(codes.Unauthenticated, "who are you?"))
	mutual := backendtest.NewJobs()
	mutual.ServerOptions = []grpc.ServerOption{grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{server.Certificate}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12,
	}))}
	require.NoError(t, mutual.Start())
	t.Cleanup(mutual.Kill)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts what the system has
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	words := templateOf(t, "job", nil, core.SimpleType_STRING)
	for _, tt := range []struct {
		reason string
		args   []string
		code   int
		says   string
	}{
		{"no service", []string{"list"}, 2, "no service is named\nhint: give its address with --endpoint"},
		{"a dead service", []string{"list", "--endpoint", "127.0.0.1:1", "--insecure"}, 2, "hint: nothing listens at this address"},
		{"TLS to plain text", []string{"list", "--endpoint", b.Endpoint()}, 2, "give --insecure"},
		{"plain text to TLS", []string{"list", "--endpoint", secure.Endpoint(), "--insecure"}, 2, "leave out --insecure"},
		{"an authority that is not trusted", []string{"list", "--endpoint", secure.Endpoint()}, 2, "give --ca-file, with the CA that signed"},
		{"gRPC to REST", []string{"list", "--endpoint", strings.TrimPrefix(web.Endpoint(), "http://"), "--insecure"}, 2, "it is not a gRPC endpoint: give its URL\n"},
		{"REST to gRPC", []string{"list", "--endpoint", "http://" + b.Endpoint(), "--insecure"}, 2, "if it is a gRPC service, give its host:port\n"},
		{"TLS to plain REST", []string{"list", "--endpoint", strings.Replace(web.Endpoint(), "http:", "https:", 1)}, 2, "write http:// and give --insecure"},
		{"a URL of plain text", []string{"list", "--endpoint", web.Endpoint()}, 2, "is plain text; write https://, or give --insecure"},
		{"a service that wants credentials", []string{"list", "--endpoint", shy.Endpoint(), "--insecure"}, 4, "by a client certificate, give --cert-file and --key-file"},
		{"a service that wants a certificate", []string{"list", "--endpoint", mutual.Endpoint(), "--ca-file", authority.File}, 2, "give --cert-file and --key-file"},
		{"a service that hangs", []string{"list", "--endpoint", "http://" + silent.Addr().String(), "--insecure", "--timeout", "300ms"}, 2, "hint: something listens at this address, and does not answer in time"},
		{"no port", []string{"list", "--endpoint", "localhost"}, 2, "--endpoint: "},
		{"two ways", []string{"list", "--endpoint", "a:1", "--config", "x"}, 2, "exclude each other"},
		{"a file that is not there", []string{"list", "--endpoint", "a:1", "--ca-file", "nope"}, 2, `--ca-file: "nope"`},
		{"half a certificate", []string{"list", "--endpoint", "a:1", "--cert-file", file}, 2, "--key-file"},
		{"a protocol that is none", []string{"list", "--endpoint", "a:1", "--protocol", "soap"}, 2, `--protocol: "soap"`},
		{"a format that is none", append([]string{"list", "-o", "xml"}, flags...), 2, "--output takes text or json"},
		{"a flag that is none", []string{"list", "--endpiont", "x"}, 2, "unknown flag: --endpiont"},
		{"too many arguments", append([]string{"list", "x"}, flags...), 2, `takes no arguments; got "x"`},
		{"no template", append([]string{"run"}, flags...), 2, "--template is missing"},
		{"a template that is not there", append([]string{"run", "--template", "nope"}, flags...), 2, "cannot read the template"},
		{"a folder", append([]string{"run", "--template", dir}, flags...), 2, "cannot read the template"},
		{"an empty template", append([]string{"run", "--template", write("empty", "")}, flags...), 2, "is empty"},
		{"a broken template", append([]string{"run", "--template", write("broken.json", `{"type": `)}, flags...), 2, "is no TaskTemplate in JSON"},
		{"a text", append([]string{"run", "--template", write("text", "hello, world")}, flags...), 2, "neither in JSON nor in binary"},
		{"no input", append([]string{"run", "--template", file}, flags...), 2, "sums.add needs input x, an integer\nhint: "},
		{"another input", append([]string{"run", "--template", file, "--input", "y=1"}, flags...), 2, "y: is no input of sums.add; it takes x"},
		{"an input of another type", append([]string{"run", "--template", file, "--input", "x=one"}, flags...), 2, "x: "},
		{"inputs that are no YAML", append([]string{"run", "--template", file, "--inputs", write("in.yaml", "x: [")}, flags...), 2, "cannot be read as YAML"},
		{"inputs that are no UTF-8", append([]string{"run", "--template", file, "--inputs", write("in2.yaml", "x: \xff\xfe")}, flags...), 2, "cannot be read as YAML"},
		{"no such task type", append([]string{"run", "--template", file, "--input", "x=1", "--task-type", "none"}, flags...), 2, `no plugin for task type "none"; it has job (v1`},
		{"no such version", append([]string{"run", "--template", file, "--input", "x=1", "--plugin-version", "v9"}, flags...), 2, `no plugin for task type "job" in version v9`},
		{"no such mode", append([]string{"run", "--template", file, "--input", "x=1", "--mode", "batch"}, flags...), 2, "--mode takes async or sync"},
		{"a mode that the plugin has not", append([]string{"run", "--template", file, "--input", "x=1", "--mode", "sync"}, flags...), 2, "in mode sync"},
		{"a key that is none", append([]string{"run", "--template", file, "--input", "x=1", "--idempotency-key", "a b"}, flags...), 2, "--idempotency-key takes 1 to 64"},
		{"a template that the service refuses", append([]string{"run", "--template", templateFile(t, "job", map[string]any{"secs": 1}), "--input", "x=1"}, flags...), 2, "the service answered InvalidArgument"},
		{"inputs that are too large", append([]string{"run", "--template", words, "--inputs", write("large.yaml", "x: "+strings.Repeat("a", 17<<20))}, flags...), 2, "larger than max"},
		{"inputs that are too large for the service", append([]string{"run", "--template", words, "--inputs", write("larger.yaml", "x: "+strings.Repeat("a", 5<<20))}, flags...), 2, "the service answered ResourceExhausted"},
		{"inputs in a folder", append([]string{"run", "--template", file, "--inputs", dir}, flags...), 2, "cannot read the inputs"},
		{"inputs that are a list", append([]string{"run", "--template", file, "--inputs", write("list.yaml", "[1]")}, flags...), 2, "takes a mapping of inputs' names to values"},
		{"a template that is no UTF-8", append([]string{"run", "--template", write("latin.json", "{\"type\": \"\xe4\"}")}, flags...), 2, "is no TaskTemplate in JSON"},
		{"a job id file that is empty", append([]string{"get", "job", "--job-id-file", write("empty-id", "")}, flags...), 2, "holds no job id"},
		{"a time limit that is none", append([]string{"list", "--timeout", "-3s"}, flags...), 2, "--timeout: -3s: must be from 100ms to 1h"},
		{"no task type to get", append([]string{"get", "--job-id", "x"}, flags...), 2, "takes TASK_TYPE"},
		{"no job id", append([]string{"get", "job"}, flags...), 2, "takes one of --job-id and --job-id-file"},
		{"a job id that is none", append([]string{"get", "job", "--job-id", "base64:!"}, flags...), 2, "base64"},
		{"a job that is not there", append([]string{"get", "job", "--job-id", "nobody"}, flags...), 2, "the service answered NotFound"},
		{"no configuration to migrate", []string{"migrate"}, 2, "--config is missing"},
		{"a service in plain text that nobody asked for", []string{"serve"}, 2, "say so with --insecure"},
		{"a service without a folder", []string{"serve", "--insecure"}, 2, "--dir is missing"},
		{"a service at another's address", []string{"serve", "--insecure", "--dir", dir, "--listen", b.Endpoint()}, 2, "cannot listen at " + b.Endpoint()},
		{"a service with its jobs in a file", []string{"serve", "--insecure", "--dir", file, "--listen", "127.0.0.1:0"}, 2, "make the jobs folder"},
		{"a shell that is none", []string{"completion", "basch"}, 2, `unknown command "basch" for "flyte-backend completion"`},
		{"a version in XML", []string{"version", "-o", "xml"}, 2, "--output takes text or json"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			out, said, code := run(t, "", tt.args...)
			require.Equal(t, tt.code, code, said)
			require.Empty(t, out)
			require.Contains(t, said, tt.says)
			said = regexp.MustCompile(`(?m)^\S+ task type job, plugin version v1, idempotency key \S+\n`).ReplaceAllString(said, "")
			require.True(t, strings.HasPrefix(said, "flyte-backend: "), said)
			require.LessOrEqual(t, strings.Count(said, "\n"), 2, said)
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	out, _, code := run(t, "", "version")
	require.Zero(t, code)
	var api struct{ Info struct{ Version string } }
	text, err := os.ReadFile(filepath.Join("..", "..", "api", "openapi.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &api))
	require.NotEmpty(t, api.Info.Version)
	require.Regexp(t, `^flyte-backend \S+ \(go1\.\S+, \w+/\w+\), flyteidl v1\.16\.8, flytebackend v1, REST `+regexp.QuoteMeta(api.Info.Version)+`\n$`, out)
	out, _, code = run(t, "", "version", "-o", "json")
	require.Zero(t, code)
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.Equal(t, "v1.16.8", v["flyteidl"])
	require.Equal(t, "v1", v["flytebackend"])
	require.Equal(t, api.Info.Version, v["rest"])
	out, _, code = run(t, "", "completion", "bash")
	require.Zero(t, code)
	require.Contains(t, out, "complete")
}

// TestServe: the example over gRPC and REST, from one process, with the same jobs; it ends on SIGTERM.
func TestServe(t *testing.T) {
	t.Parallel()
	cmd := start(t, "serve", "--insecure", "--listen", "127.0.0.1:0", "--rest", "127.0.0.1:0", "--dir", t.TempDir())
	said, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(said)
	addresses := make([]string, 2)
	for i := range addresses {
		require.True(t, lines.Scan())
		address, ok := strings.CutPrefix(lines.Text(), "listening on ")
		require.True(t, ok, lines.Text())
		addresses[i] = strings.TrimSuffix(address, " for REST")
	}
	template := filepath.Join("..", "..", "testdata", "templates", "sqlite_elements.json")
	id, told, code := run(t, "", "run", "--endpoint", addresses[0], "--insecure", "--template", template, "--input", "limit=2", "--input", "ending=gen", "--detach")
	require.Zero(t, code, told)
	out, told, code := run(t, id, "get", "sqlite", "--endpoint", "http://"+addresses[1], "--insecure", "--job-id-file", "-")
	require.Zero(t, code, told)
	require.Contains(t, out, "phase: ")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}

package conformance_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// program is the SDK's own test service as a process, which can be killed and started again.
type program struct {
	path       string
	grpc, rest string

	mu  sync.Mutex
	cmd *exec.Cmd
}

// freePort gives a port that nobody else gets for as long as the program is away.
func freePort(t *testing.T) string {
	t.Helper()
	f := &faulty{protocol: conformance.REST, store: newStore()} // it knows where to look
	require.NoError(t, f.start())
	f.die()
	f.stop()
	return f.address
}

func (p *program) start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.path, "-listen", p.grpc, "-rest", p.rest)
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.mu.Lock()
	p.cmd = cmd
	p.mu.Unlock()
	go func() {
		lines := bufio.NewScanner(log)
		for lines.Scan() { // so that it never waits for a reader
			continue
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); ; {
		up := true
		for _, address := range []string{p.grpc, p.rest} {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				up = false
				break
			}
			_ = conn.Close()
		}
		if up {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen", p.path)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// testservice builds the SDK's test service and starts it twice.
func testservice(t *testing.T) (one, other *program) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "testservice")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./internal/testservice")
	build.Dir = filepath.Join("..", "backendplugin")
	build.Env = append(os.Environ(), "GOWORK=off")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	programs := make([]*program, 2)
	for i := range programs {
		programs[i] = &program{path: path, grpc: freePort(t), rest: freePort(t)}
		require.NoError(t, programs[i].start(t.Context()))
		t.Cleanup(programs[i].kill)
	}
	return programs[0], programs[1]
}

// TestSDK: a service that is made with the SDK conforms, over both protocols, killed and restarted, with another replica.
func TestSDK(t *testing.T) {
	t.Parallel()
	x := func(n int64) *core.LiteralMap {
		return &core.LiteralMap{Literals: map[string]*core.Literal{"x": {Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
			Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
		}}}}}}
	}
	for _, protocol := range protocols {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			one, other := testservice(t)
			for _, taskType := range []string{"square", "square_sync", "rich"} {
				o := conformance.Options{
					Endpoint: one.grpc, Replica: other.grpc, Insecure: true, Protocol: protocol, TaskType: taskType,
					Restart: func(ctx context.Context) error {
						one.kill()
						return one.start(ctx)
					},
					PollInterval: 5 * time.Millisecond,
				}
				if protocol == conformance.REST {
					o.Endpoint, o.Replica, o.Insecure = "http://"+one.rest, "http://"+other.rest, false
				}
				if taskType != "rich" {
					o.Template = &core.TaskTemplate{Interface: &core.TypedInterface{Inputs: variables("x", core.SimpleType_INTEGER), Outputs: variables("o0", core.SimpleType_INTEGER)}}
					o.Inputs = x(7)
				}
				if taskType == "square" {
					o.FailingTemplate, _ = proto.Clone(o.Template).(*core.TaskTemplate)
					o.FailingTemplate.Custom = &structpb.Struct{Fields: map[string]*structpb.Value{"reject": structpb.NewStringValue("no")}}
					o.FailingInputs = x(7)
				}
				report, err := conformance.Check(t.Context(), o, nil)
				require.NoError(t, err)
				require.Empty(t, failed(&report), "%s:\n%s", taskType, texts(&report))
				require.True(t, report.Conforms())
				require.Empty(t, report.Left)
				require.Greater(t, report.Count(conformance.Passed, ""), 20)
			}
		})
	}
}

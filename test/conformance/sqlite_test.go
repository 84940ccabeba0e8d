package conformance_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyte-backend/flyte-backend/go/examples/sqlite"
	"github.com/flyte-backend/flyte-backend/testdata/templates"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// example makes this test binary the SQLite example, at an address and with a folder.
const example = "FLYTE_BACKEND_CONFORMANCE_EXAMPLE"

func TestMain(m *testing.M) {
	if address, dir, ok := strings.Cut(os.Getenv(example), " "); ok {
		serveExample(address, dir)
		return
	}
	os.Exit(m.Run())
}

// serveExample is a process of its own, so that it can be killed.
func serveExample(address, dir string) {
	s := must(sqlite.New(sqlite.Options{Dir: dir, Lease: 300 * time.Millisecond, MinJobTime: 20 * time.Millisecond, Workers: 8, Log: slog.New(slog.DiscardHandler)}))
	lis := must(net.Listen("tcp", address))
	if err := sqlite.Serve(context.Background(), lis, s); err != nil {
		panic(err)
	}
}

// exampleService is the example as a process.
type exampleService struct {
	address, dir string
	cmd          *exec.Cmd
}

func (s *exampleService) start(ctx context.Context) error {
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), os.Args[0])
	s.cmd.Env = append(os.Environ(), example+"="+s.address+" "+s.dir)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the example does not listen: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *exampleService) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// TestSQLiteExample: the example conforms, with two services on one folder, of which one is killed in mid-job.
func TestSQLiteExample(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	services := []*exampleService{{address: fmt.Sprintf("127.0.0.1:%d", freePort(t)), dir: dir}, {address: fmt.Sprintf("127.0.0.1:%d", freePort(t)), dir: dir}}
	for _, s := range services {
		require.NoError(t, s.start(t.Context()))
		t.Cleanup(s.kill)
	}
	template := &core.TaskTemplate{}
	require.NoError(t, proto.Unmarshal(templates.SQLiteElements, template))
	query := func(text string) *core.TaskTemplate {
		other, _ := proto.Clone(template).(*core.TaskTemplate)
		other.Custom.Fields["query_template"] = structpb.NewStringValue(text)
		return other
	}
	inputs := must(coreutils.MakeLiteralMap(map[string]any{"limit": 3, "ending": "gen"}))
	report, err := conformance.Check(t.Context(), conformance.Options{
		Endpoint: services[0].address, Replica: services[1].address, Insecure: true, Strict: true,
		Template: template, Inputs: inputs, OutputPrefix: t.TempDir(),
		LongTemplate:    query("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) AS number FROM c"),
		LongInputs:      inputs,
		FailingTemplate: query("SELECT nothing FROM nowhere"),
		FailingInputs:   inputs,
		Restart: func(ctx context.Context) error {
			services[0].kill()
			return services[0].start(ctx)
		},
		PollInterval: 20 * time.Millisecond,
	}, nil)
	require.NoError(t, err)
	skipped := 0
	for _, r := range report.Results {
		require.NotEqual(t, conformance.Failed, r.Outcome, "%s: %s", r.Case, r.Text())
		if r.Outcome == conformance.Skipped {
			skipped++
			require.Regexp(t, `^(metadata/|batch/|watch/|execute/|logs/|metrics/|operations/reflection|versions/unlisted|errors/retry-after)`, r.Case, "%s", r.Reason)
		}
	}
	require.True(t, report.Conforms())
	require.Empty(t, report.Left)
	require.Greater(t, len(report.Results)-skipped, 80)
}

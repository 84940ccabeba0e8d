package sqlite

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// spawn runs this test binary as a service in a process of its own.
func spawn(t *testing.T, dir string) (client, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the service did not start: %v", err)
	}
	return dial(t, strings.TrimSpace(addr)), cmd
}

// TestKill kills a service with SIGKILL in the middle of one job, with another one waiting.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jobs")
	before, cmd := spawn(t, dir)
	req := request(t, "SELECT symbol FROM elements ORDER BY number", nil, schemaOutput())
	ids := [][]byte{create(t, before, "k", req), create(t, before, "", req), create(t, before, "", req)}
	until(t, before, ids[0], "running", running)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()

	after, _ := start(t, Options{Dir: dir})
	if id := create(t, after, "k", req); !bytes.Equal(id, ids[0]) {
		t.Errorf("after the kill, the same key made another job: %s, not %s", id, ids[0])
	}
	for i, id := range ids {
		res := until(t, after, id, "finished", finished)
		if _, rows, err := ReadRows(uriOf(res), -1); err != nil || len(rows) != 118 {
			t.Errorf("job %d: %d rows, %v (%s)", i, len(rows), err, res.GetMessage())
		}
		if i == 0 && res.GetCustomInfo().AsMap()["runs"] != 2.0 {
			t.Errorf("the killed job says %v, want 2 runs", res.GetCustomInfo())
		}
	}
}

// TestClose: a service that is told to stop hands its job over at once, without the wait for its lease.
func TestClose(t *testing.T) {
	opts := Options{Dir: filepath.Join(t.TempDir(), "jobs"), MinJobTime: time.Hour, Lease: time.Hour}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := s.store.create(t.Context(), "", request(t, "SELECT 1 AS one", nil, schemaOutput()))
	if err != nil {
		t.Fatal(err)
	}
	s.nudge()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if j, err := s.store.get(t.Context(), id); err != nil || time.Now().After(deadline) {
			t.Fatalf("the job does not start: %v, %v", j, err)
		} else if j.phase == phaseRunning {
			break
		}
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := start(t, Options{Dir: opts.Dir})
	res := until(t, c, []byte(id), "finished", finished)
	if res.GetPhase() != core.TaskExecution_SUCCEEDED || res.GetCustomInfo().AsMap()["runs"] != 1.0 {
		t.Errorf("outcome = %v", res)
	}
}

// TestTwoServices share a folder: either answers for all jobs, and a deletion reaches the one that runs the job.
func TestTwoServices(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jobs")
	a, sa := start(t, Options{Dir: dir, Workers: 1, Lease: 500 * time.Millisecond})
	b, sb := start(t, Options{Dir: dir, Workers: 1, Lease: 500 * time.Millisecond})
	id := create(t, a, "k", request(t, endless, nil, schemaOutput()))
	until(t, b, id, "running", running)
	if _, err := a.CreateTask(ctxFor(t, "k"), request(t, "SELECT 1", nil, nil)); err == nil {
		t.Error("the key is free again")
	}
	runs := func() int {
		n := 0
		for _, s := range []*Service{sa, sb} {
			s.mu.Lock()
			n += len(s.runs)
			s.mu.Unlock()
		}
		return n
	}
	for deadline := time.Now().Add(patience); runs() != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the job runs nowhere")
		}
	}
	// Delete by way of the service that does not run it.
	other := a
	sa.mu.Lock()
	if len(sa.runs) == 1 {
		other = b
	}
	sa.mu.Unlock()
	if _, err := other.DeleteTask(ctxFor(t, ""), &admin.DeleteTaskRequest{ResourceMeta: id}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); runs() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the query of a deleted job goes on")
		}
	}
}

// TestLostLease: a service that was too slow to renew throws its outcome away, and leaves the other's result alone.
func TestLostLease(t *testing.T) {
	c, s := start(t, Options{Workers: 1, MinJobTime: time.Hour, Lease: time.Second})
	id := create(t, c, "", request(t, "SELECT 1 AS one", nil, schemaOutput()))
	until(t, c, id, "running", running)
	if _, err := s.store.db.Exec(`UPDATE jobs SET owner = 'other', lease = ?`, time.Now().Add(time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		n := len(s.runs)
		s.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the run goes on although the job is another service's")
		}
	}
	if got := get(t, c, id).GetPhase(); got != core.TaskExecution_RUNNING {
		t.Errorf("phase = %v, want the other service's RUNNING", got)
	}
}

// TestLeftovers are rows that no service of this version leaves behind while it lives.
func TestLeftovers(t *testing.T) {
	c, s := start(t, Options{KeepFinished: time.Hour})
	req := request(t, "SELECT 1 AS one", nil, schemaOutput())
	raw, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	insert := func(id, phase string, request []byte, runs int) {
		t.Helper()
		if _, err := s.store.db.Exec(`INSERT INTO jobs (id, request, phase, message, created, runs) VALUES (?, ?, ?, '', 0, ?)`, id, request, phase, runs); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(id string) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			var n int
			if err := s.store.db.QueryRow(`SELECT count(*) FROM jobs WHERE id = ?`, id).Scan(&n); err != nil || time.Now().After(deadline) {
				t.Fatalf("the row of %s stays: %v", id, err)
			}
			if n == 0 {
				return
			}
		}
	}
	insert("tombstone", phaseDeleted, raw, 1)
	gone("tombstone")

	insert("killer", phaseRunning, raw, maxRuns)
	insert("unreadable", phaseQueued, []byte{0xff}, 0)
	insert("invalid", phaseQueued, []byte{}, 0)
	for id, code := range map[string]string{"killer": "sqlite:TooManyRuns", "unreadable": "sqlite:Internal", "invalid": "sqlite:BadTask"} {
		if res := until(t, c, []byte(id), "finished", finished); res.GetAgentError().GetCode() != code {
			t.Errorf("%s: outcome = %v, want %s", id, res, code)
		}
	}

	insert("strange", "NEW", raw, 0)
	_, err = c.GetTask(ctxFor(t, ""), &admin.GetTaskRequest{ResourceMeta: []byte("strange")})
	wantCode(t, err, codes.Internal)

	insert("stuck", phaseDeleted, []byte{0xff}, 0)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var lease int64
		if err := s.store.db.QueryRow(`SELECT lease FROM jobs WHERE id = 'stuck'`).Scan(&lease); err != nil || time.Now().After(deadline) {
			t.Fatalf("a clean-up that fails is not postponed: %v", err)
		}
		if lease > time.Now().Add(30*time.Second).UnixMilli() {
			break
		}
	}

	if _, err := s.store.db.Exec(`UPDATE jobs SET finished = 1 WHERE id = 'killer'`); err != nil {
		t.Fatal(err)
	}
	if err := s.store.expire(t.Context(), s.opts.KeepFinished, s.removeLog); err != nil {
		t.Fatal(err)
	}
	gone("killer")
	get(t, c, []byte("invalid")) // finished just now, so it is kept
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken")
	if err := os.MkdirAll(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "jobs.sqlite"), []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		reason string
		opts   Options
		says   string
	}{
		{"no folder", Options{}, "Options.Dir"},
		{"a negative time", Options{Dir: dir, Lease: -1}, "Options.Lease"},
		{"a negative size", Options{Dir: dir, MaxDatabaseBytes: -1}, "Options.MaxDatabaseBytes"},
		{"a negative number", Options{Dir: dir, Workers: -1}, "Options.Workers"},
		{"a folder that is a file", Options{Dir: file}, "jobs folder"},
		{"jobs that are none", Options{Dir: broken}, "not a database"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			s, err := New(tc.opts)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %q does not say %q", err, tc.says)
			}
		})
	}
}

func TestServe(t *testing.T) {
	s, err := New(Options{Dir: filepath.Join(t.TempDir(), "jobs"), DrainTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, lis, s) }()
	c := dial(t, lis.Addr().String())
	watch, err := healthpb.NewHealthClient(c.conn).Watch(ctxFor(t, ""), &healthpb.HealthCheckRequest{Service: "flyteidl.service.AsyncAgentService"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		got, err := watch.Recv()
		if err != nil || got.GetStatus() != want {
			t.Fatalf("health = %v, %v; want %v", got.GetStatus(), err, want)
		}
		cancel() // the watcher stays, and must not keep the service from stopping
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the service does not stop while a client watches")
	}

	t.Run("a listener that fails is an error, and the service is closed", func(t *testing.T) {
		if err := Serve(t.Context(), lis, s); err == nil {
			t.Error("no error")
		}
	})
	t.Run("a closed folder is a trouble that may pass", func(t *testing.T) {
		srv := &agentServer{s: s}
		_, err := srv.CreateTask(t.Context(), request(t, "SELECT 1", nil, nil))
		wantCode(t, err, codes.Unavailable)
		_, err = srv.GetTask(t.Context(), &admin.GetTaskRequest{})
		wantCode(t, err, codes.Unavailable)
		_, err = srv.DeleteTask(t.Context(), &admin.DeleteTaskRequest{})
		wantCode(t, err, codes.Unavailable)
		over, stop := context.WithCancel(t.Context())
		stop()
		_, err = srv.GetTask(over, &admin.GetTaskRequest{})
		wantCode(t, err, codes.Canceled)
	})
}

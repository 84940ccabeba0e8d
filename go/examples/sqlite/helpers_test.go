package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// childDir makes the test binary a service of its own on that folder, for a test that kills it.
const childDir = "SQLITE_EXAMPLE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

func child(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	// Long enough to be killed in; the test does not wait for it.
	s, err := New(Options{Dir: dir, MinJobTime: time.Hour})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(lis.Addr())
	if err := Serve(ctx, lis, s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// patience is how long a test waits for what has to happen; nothing is ever expected to take that long.
const patience = 30 * time.Second

type client struct {
	service.AsyncAgentServiceClient
	meta service.AgentMetadataServiceClient
	conn *grpc.ClientConn
}

func dial(t *testing.T, addr string) client {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client{service.NewAsyncAgentServiceClient(conn), service.NewAgentMetadataServiceClient(conn), conn}
}

// start opens a service on opts.Dir (a new folder when empty) and serves it until the test ends.
func start(t *testing.T, opts Options) (client, *Service) {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = filepath.Join(t.TempDir(), "jobs")
	}
	opts.Log = slog.New(slog.DiscardHandler)
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), lis, s) }()
	t.Cleanup(func() { // by then the test's context has ended
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return dial(t, lis.Addr().String()), s
}

func ctxFor(t *testing.T, key string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, keyHeader, key)
	}
	return ctx
}

// templateFile is the template that flytekit made, see testdata/templates/make_sqlite.py.
func templateFile(t *testing.T) *core.TaskTemplate {
	t.Helper()
	raw, err := os.ReadFile("../../../testdata/templates/sqlite_elements.pb")
	if err != nil {
		t.Fatal(err)
	}
	template := &core.TaskTemplate{}
	if err := proto.Unmarshal(raw, template); err != nil {
		t.Fatal(err)
	}
	return template
}

func schemaOutput(cols ...string) *core.LiteralType {
	s := &core.SchemaType{}
	for _, c := range cols {
		s.Columns = append(s.Columns, &core.SchemaType_SchemaColumn{Name: c})
	}
	return &core.LiteralType{Type: &core.LiteralType_Schema{Schema: s}}
}

func datasetOutput(format string, cols ...string) *core.LiteralType {
	d := &core.StructuredDatasetType{Format: format}
	for _, c := range cols {
		d.Columns = append(d.Columns, &core.StructuredDatasetType_DatasetColumn{Name: c})
	}
	return &core.LiteralType{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: d}}
}

// request asks for a query over elements, with one output of type out if that is not nil.
func request(t *testing.T, query string, inputs map[string]any, out *core.LiteralType) *admin.CreateTaskRequest {
	t.Helper()
	custom, err := structpb.NewStruct(map[string]any{"query_template": query, "uri": embeddedElements, "compressed": false})
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]*core.Variable{}
	if out != nil {
		vars["results"] = &core.Variable{Type: out}
	}
	return &admin.CreateTaskRequest{
		Template: &core.TaskTemplate{
			Type:      taskType,
			Custom:    custom,
			Interface: &core.TypedInterface{Outputs: &core.VariableMap{Variables: vars}},
		},
		Inputs:       &core.LiteralMap{Literals: literals(t, inputs)},
		OutputPrefix: "file://" + filepath.Join(t.TempDir(), "out"),
	}
}

func withCustom(req *admin.CreateTaskRequest, name string, v *structpb.Value) *admin.CreateTaskRequest {
	req.Template.Custom.Fields[name] = v
	return req
}

func literals(t *testing.T, inputs map[string]any) map[string]*core.Literal {
	t.Helper()
	lits := map[string]*core.Literal{}
	for name, v := range inputs {
		switch v := v.(type) {
		case *core.Literal:
			lits[name] = v
		case int:
			lits[name] = primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: int64(v)}})
		case float64:
			lits[name] = primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: v}})
		case bool:
			lits[name] = primitive(&core.Primitive{Value: &core.Primitive_Boolean{Boolean: v}})
		case string:
			lits[name] = primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: v}})
		default:
			t.Fatalf("input %s: no literal for %T", name, v)
		}
	}
	return lits
}

func primitive(p *core.Primitive) *core.Literal {
	return scalarLiteral(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func scalarLiteral(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func create(t *testing.T, c client, key string, req *admin.CreateTaskRequest) []byte {
	t.Helper()
	resp, err := c.CreateTask(ctxFor(t, key), req)
	if err != nil {
		t.Fatalf("CreateTask: %v", err)
	}
	return resp.GetResourceMeta()
}

func get(t *testing.T, c client, id []byte) *admin.Resource {
	t.Helper()
	resp, err := c.GetTask(ctxFor(t, ""), &admin.GetTaskRequest{ResourceMeta: id})
	if err != nil {
		t.Fatalf("GetTask: %v", err)
	}
	return resp.GetResource()
}

// until polls a job until ok, and fails when that does not come.
func until(t *testing.T, c client, id []byte, what string, ok func(*admin.Resource) bool) *admin.Resource {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		res := get(t, c, id)
		if ok(res) {
			return res
		}
		if time.Now().After(deadline) {
			t.Fatalf("job %s is not %s after %v: %v", id, what, patience, res)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func finished(r *admin.Resource) bool {
	return r.GetPhase() == core.TaskExecution_SUCCEEDED || r.GetPhase() == core.TaskExecution_FAILED
}

func running(r *admin.Resource) bool { return r.GetPhase() == core.TaskExecution_RUNNING }

// outcome runs a request to its end.
func outcome(t *testing.T, c client, req *admin.CreateTaskRequest) *admin.Resource {
	t.Helper()
	return until(t, c, create(t, c, "", req), "finished", finished)
}

// result runs a request that has to succeed and reads what it wrote.
func result(t *testing.T, c client, req *admin.CreateTaskRequest) ([]string, [][]any) {
	t.Helper()
	res := outcome(t, c, req)
	if res.GetPhase() != core.TaskExecution_SUCCEEDED {
		t.Fatalf("the job failed: %s", res.GetMessage())
	}
	cols, rows, err := ReadRows(uriOf(res), -1)
	if err != nil {
		t.Fatal(err)
	}
	return cols, rows
}

func uriOf(res *admin.Resource) string {
	s := res.GetOutputs().GetLiterals()["results"].GetScalar()
	return s.GetSchema().GetUri() + s.GetStructuredDataset().GetUri()
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Fatalf("code = %v, want %v (error: %v)", got, want, err)
	}
}

// endless is a query that never ends by itself and, unlike a slow one, returns no row in between.
const endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) AS m FROM c"

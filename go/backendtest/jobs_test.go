package backendtest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

type custom = map[string]any

func simple(t core.SimpleType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_Simple{Simple: t}}
}

func listOf(t *core.LiteralType) *core.LiteralType {
	return &core.LiteralType{Type: &core.LiteralType_CollectionType{CollectionType: t}}
}

// jobRequest asks for a job of the node n0 of an execution, with the outputs that are declared.
func jobRequest(t *testing.T, execution string, c custom, inputs map[string]any, outputs map[string]*core.LiteralType) *client.CreateRequest {
	t.Helper()
	s, err := structpb.NewStruct(c)
	require.NoError(t, err)
	m, err := coreutils.MakeLiteralMap(inputs)
	require.NoError(t, err)
	vars := map[string]*core.Variable{}
	for name, typ := range outputs {
		vars[name] = &core.Variable{Type: typ}
	}
	return &client.CreateRequest{
		Template: &core.TaskTemplate{
			Id: &core.Identifier{Name: "task"}, Type: backendtest.TypeJob, Custom: s,
			Interface: &core.TypedInterface{Outputs: &core.VariableMap{Variables: vars}},
		},
		Inputs: m, OutputPrefix: "s3://bucket/out",
		Metadata: client.Metadata{TaskExecutionID: &core.TaskExecutionIdentifier{
			NodeExecutionId: &core.NodeExecutionIdentifier{NodeId: "n0", ExecutionId: &core.WorkflowExecutionIdentifier{Name: execution}},
		}},
	}
}

// end creates a job and gives its last state; it has to have one at once.
func end(t *testing.T, c client.Client, req *client.CreateRequest) *client.Job {
	t.Helper()
	id, err := c.Create(within(t), req)
	require.NoError(t, err)
	job, err := c.Get(within(t), client.JobRef{ID: id})
	require.NoError(t, err)
	return job
}

func TestJobOutputs(t *testing.T) {
	t.Parallel()
	c := run(t, backendtest.NewJobs())
	integer, text := simple(core.SimpleType_INTEGER), simple(core.SimpleType_STRING)
	enum := &core.LiteralType{Type: &core.LiteralType_EnumType{EnumType: &core.EnumType{Values: []string{"red", "green"}}}}
	union := &core.LiteralType{Type: &core.LiteralType_UnionType{UnionType: &core.UnionType{Variants: []*core.LiteralType{integer, text}}}}
	blob := &core.LiteralType{Type: &core.LiteralType_Blob{Blob: &core.BlobType{}}}
	table := &core.LiteralType{Type: &core.LiteralType_StructuredDatasetType{StructuredDatasetType: &core.StructuredDatasetType{}}}
	schema := &core.LiteralType{Type: &core.LiteralType_Schema{Schema: &core.SchemaType{}}}
	tests := []struct {
		reason string
		custom custom
		inputs map[string]any
		output *core.LiteralType
		want   string // in the text form of the literal
	}{
		{"an int is a sum", custom{"add": 10}, map[string]any{"b": 2, "a": 1}, integer, "integer:13"},
		{"of lists too", nil, map[string]any{"b": []any{2, []any{3}}, "a": 1}, integer, "integer:6"},
		{"of nothing", custom{"add": 7}, nil, integer, "integer:7"},
		{"a float is a sum of all numbers", nil, map[string]any{"b": 0.5, "a": 1}, simple(core.SimpleType_FLOAT), "float_value:1.5"},
		{"strings are joined by the inputs' names", nil, map[string]any{"b": "two", "a": "one", "n": 1}, text, `string_value:"onetwo"`},
		{"a bool is true", nil, nil, simple(core.SimpleType_BOOLEAN), "boolean:true"},
		{"a time is the first one", nil, nil, simple(core.SimpleType_DATETIME), "datetime:{}"},
		{"a duration is none", nil, nil, simple(core.SimpleType_DURATION), "duration:{}"},
		{"a list is empty", nil, map[string]any{"a": 1}, listOf(integer), "collection:{}"},
		{"a list that grows", custom{"items": 2}, map[string]any{"a": 1}, listOf(integer), "integer:2"},
		{"a map is empty", nil, nil, &core.LiteralType{Type: &core.LiteralType_MapValueType{MapValueType: integer}}, "map:{}"},
		{"an enum is its first value", nil, nil, enum, `string_value:"red"`},
		{"a union is its first variant", nil, map[string]any{"a": 5}, union, "integer:5"},
		{"a file is below the output prefix", nil, nil, blob, `uri:"s3://bucket/out/o"`},
		{"a table too", nil, nil, table, `uri:"s3://bucket/out/o"`},
		{"a schema too", nil, nil, schema, `uri:"s3://bucket/out/o"`},
		{"a structure is empty", nil, nil, simple(core.SimpleType_STRUCT), "generic:{}"},
		{"bytes are none", nil, nil, simple(core.SimpleType_BINARY), "binary:{}"},
		{"an error is empty", nil, nil, simple(core.SimpleType_ERROR), "error:{}"},
		{"none is none", nil, nil, simple(core.SimpleType_NONE), "none_type:{}"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			job := end(t, c, jobRequest(t, "e", tt.custom, tt.inputs, map[string]*core.LiteralType{"o": tt.output}))
			assert.Equal(t, core.TaskExecution_SUCCEEDED, job.Phase)
			// The text form puts one or two blanks between fields, at random.
			assert.Contains(t, strings.ReplaceAll(job.Outputs.GetLiterals()["o"].String(), "  ", " "), tt.want)
		})
	}
	assert.Nil(t, end(t, c, jobRequest(t, "e", nil, nil, nil)).Outputs, "none are declared")
}

func TestJobInputsInMapsAndUnions(t *testing.T) {
	t.Parallel()
	c := run(t, backendtest.NewJobs())
	req := jobRequest(t, "e", nil, map[string]any{"a": 1}, map[string]*core.LiteralType{"o": simple(core.SimpleType_INTEGER)})
	two := proto.CloneOf(req.Inputs.GetLiterals()["a"])
	two.GetScalar().GetPrimitive().Value = &core.Primitive_Integer{Integer: 2}
	req.Inputs.Literals["b"] = &core.Literal{Value: &core.Literal_Map{Map: &core.LiteralMap{Literals: map[string]*core.Literal{"k": two}}}}
	req.Inputs.Literals["c"] = &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: two}}}}}
	assert.EqualValues(t, 5, end(t, c, req).Outputs.GetLiterals()["o"].GetScalar().GetPrimitive().GetInteger())
}

func TestJobFailures(t *testing.T) {
	t.Parallel()
	const ok, failed = core.TaskExecution_SUCCEEDED, core.TaskExecution_FAILED
	tests := []struct {
		reason string
		fail   custom
		x      []int // of jobs in a row
		want   []core.TaskExecution_Phase
		how    client.Failure
	}{
		{"always", custom{}, []int{1, 1}, []core.TaskExecution_Phase{failed, failed}, client.Failure{Code: "JobFailed", Origin: core.ExecutionError_USER}},
		{
			"a user's error, twice", custom{"kind": "user", "code": "C", "times": 2, "recoverable": true},
			[]int{1, 1, 1}, []core.TaskExecution_Phase{failed, failed, ok},
			client.Failure{Code: "C", Origin: core.ExecutionError_USER, Recoverable: true},
		},
		{
			"a system's error, once for each input", custom{"kind": "system", "times": 1},
			[]int{1, 2, 1, 2}, []core.TaskExecution_Phase{failed, failed, ok, ok},
			client.Failure{Code: "JobFailed", Origin: core.ExecutionError_SYSTEM},
		},
		{
			"some inputs", custom{"only_inputs": []any{2, 4}},
			[]int{1, 2, 3, 4}, []core.TaskExecution_Phase{ok, failed, ok, failed},
			client.Failure{Code: "JobFailed", Origin: core.ExecutionError_USER},
		},
	}
	c := run(t, backendtest.NewJobs())
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			for i, x := range tt.x {
				job := end(t, c, jobRequest(t, tt.reason, custom{"fail": tt.fail}, map[string]any{"x": x}, nil))
				assert.Equal(t, tt.want[i], job.Phase, i)
				if tt.want[i] == failed && assert.NotNil(t, job.Failure) {
					assert.Equal(t, tt.how, *job.Failure)
					assert.NotEmpty(t, job.Message)
				}
			}
		})
	}
	once := custom{"fail": custom{"times": 1, "message": "just once"}}
	assert.Equal(t, "just once", end(t, c, jobRequest(t, "a", once, nil, nil)).Message)
	assert.Equal(t, failed, end(t, c, jobRequest(t, "b", once, nil, nil)).Phase, "executions are counted apart")
	other := jobRequest(t, "a", once, nil, nil)
	other.Metadata.TaskExecutionID.NodeExecutionId.NodeId = "n1"
	assert.Equal(t, failed, end(t, c, other).Phase, "nodes are counted apart")
}

func TestBadCustom(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	for says, bad := range map[string]custom{
		"secnods":           {"secnods": 1},
		"cannot be neg":     {"seconds": -1},
		"fail.kind":         {"fail": custom{"kind": "nobody"}},
		"fail.times":        {"fail": custom{"times": -1}},
		"cannot unmarshal ": {"add": "one"},
	} {
		_, err := c.Create(within(t), jobRequest(t, "e", bad, nil, nil))
		assert.Equal(t, codes.InvalidArgument, client.AsError(err).Code)
		assert.ErrorContains(t, err, says)
	}
	assert.Empty(t, b.Jobs())
}

func TestJobProgress(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	// Far longer than the test looks on, so that no delay between two polls can miss it all.
	id, err := c.Create(within(t), jobRequest(t, "e", custom{"seconds": 60, "progress": 600}, nil, nil))
	require.NoError(t, err)
	last := 0.0
	require.Eventually(t, func() bool {
		job, err := c.Get(within(t), client.JobRef{ID: id})
		if !assert.NoError(t, err) || !assert.Equal(t, core.TaskExecution_RUNNING, job.Phase) {
			return true
		}
		step := job.CustomInfo.GetFields()["step"].GetNumberValue()
		assert.GreaterOrEqual(t, step, last)
		last = step
		assert.Equal(t, fmt.Sprintf("step %v of 600", step), job.Message)
		if assert.Len(t, job.LogLinks, 2) {
			assert.Equal(t, fmt.Sprintf("step %v", step), job.LogLinks[1].GetName())
		}
		return last >= 3
	}, limit, 5*time.Millisecond)
	b.Finish("")
	assert.Equal(t, core.TaskExecution_SUCCEEDED, phase(t, c, client.JobRef{ID: id}))
}

func TestFinish(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	long := jobRequest(t, "e", custom{"seconds": 3600}, map[string]any{"x": 1}, map[string]*core.LiteralType{"o": simple(core.SimpleType_INTEGER)})
	one, err := c.Create(within(t), long)
	require.NoError(t, err)
	two, err := c.Create(within(t), long)
	require.NoError(t, err)
	b.Finish(string(one))
	assert.Equal(t, core.TaskExecution_RUNNING, phase(t, c, client.JobRef{ID: two}))
	job, err := c.Get(within(t), client.JobRef{ID: one})
	require.NoError(t, err)
	assert.Equal(t, core.TaskExecution_SUCCEEDED, job.Phase)
	assert.EqualValues(t, 1, job.Outputs.GetLiterals()["o"].GetScalar().GetPrimitive().GetInteger())
	b.Finish("")
	assert.Equal(t, core.TaskExecution_SUCCEEDED, phase(t, c, client.JobRef{ID: two}))
}

func TestJobsAreFound(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	for _, key := range []string{"a", "b", "a"} {
		req := jobRequest(t, "mine", nil, nil, nil)
		req.IdempotencyKey = key
		req.Metadata.TaskExecutionID.RetryAttempt = 2
		end(t, c, req)
	}
	end(t, c, jobRequest(t, "other", nil, nil, nil))
	b.Kill()
	require.NoError(t, b.Start(), "jobs stay")

	mine := b.JobsOf("mine")
	require.Len(t, mine, 2)
	assert.Equal(t, []string{"a", "b"}, []string{mine[0].Key, mine[1].Key})
	assert.Equal(t, 2, mine[0].Creates)
	assert.Equal(t, []any{"mine", "n0", "task", uint32(2)}, []any{mine[0].Execution(), mine[0].Node(), mine[0].Task(), mine[0].Attempt()})
	assert.Empty(t, b.JobsOf("nobody's"))
	j, ok := b.JobWithKey("b")
	assert.True(t, ok)
	assert.Equal(t, mine[1].ID, j.ID)
	_, ok = b.JobWithKey("c")
	assert.False(t, ok)
	_, ok = b.JobWithKey("")
	assert.False(t, ok)
}

func TestMostAtOnce(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	end(t, c, jobRequest(t, "e", nil, nil, nil))
	assert.Equal(t, 0, backendtest.MostAtOnce(b.Jobs()), "a job that takes no time")
	for range 2 {
		end(t, c, jobRequest(t, "e", custom{"seconds": 60}, nil, nil))
	}
	assert.Equal(t, 2, backendtest.MostAtOnce(b.Jobs()))
}

func TestSyncJobs(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	regs, err := c.List(within(t))
	require.NoError(t, err)
	modes := map[string]client.Mode{}
	for _, r := range regs {
		modes[r.TaskType] = r.Mode
	}
	assert.Equal(t, map[string]client.Mode{"job": client.Async, "job_b": client.Async, "job_sync": client.Sync}, modes)

	req := jobRequest(t, "e", custom{"seconds": 0.05, "add": 1}, map[string]any{"x": 1}, map[string]*core.LiteralType{"o": simple(core.SimpleType_INTEGER)})
	begin := time.Now()
	job, err := c.Execute(within(t), req)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)
	assert.EqualValues(t, 2, job.Outputs.GetLiterals()["o"].GetScalar().GetPrimitive().GetInteger())
	assert.Len(t, b.JobsOf("e"), 1)

	failing := jobRequest(t, "e", custom{"fail": custom{"times": 1}}, nil, nil)
	for _, want := range []core.TaskExecution_Phase{core.TaskExecution_FAILED, core.TaskExecution_SUCCEEDED} {
		job, err := c.Execute(within(t), failing)
		require.NoError(t, err)
		assert.Equal(t, want, job.Phase)
	}
	_, err = c.Execute(within(t), jobRequest(t, "e", custom{"wrong": 1}, nil, nil))
	assert.Equal(t, codes.InvalidArgument, client.AsError(err).Code)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Execute(ctx, jobRequest(t, "e", custom{"seconds": 3600}, nil, nil))
	assert.Equal(t, codes.DeadlineExceeded, client.AsError(err).Code)
}

func TestThousandJobs(t *testing.T) {
	t.Parallel()
	b := backendtest.NewJobs()
	c := run(t, b)
	ctx := within(t)
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			for i := range 100 {
				req := jobRequest(t, fmt.Sprintf("e%d", w), custom{"add": 1, "fail": custom{"times": 1}}, map[string]any{"x": i / 2}, nil)
				id, err := c.Create(ctx, req)
				if !assert.NoError(t, err) {
					return
				}
				_, err = c.Get(ctx, client.JobRef{ID: id})
				assert.NoError(t, err)
			}
			assert.Len(t, b.JobsOf(fmt.Sprintf("e%d", w)), 100)
		})
	}
	wg.Wait()
	assert.Len(t, b.Jobs(), 1000)
}

package grpcclient

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

func header(r *admin.Resource) *admin.ExecuteTaskSyncResponse {
	return &admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{Resource: r}}}
}

func outputs(kv map[string]*core.Literal) *admin.ExecuteTaskSyncResponse {
	return &admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Outputs{Outputs: literals(kv)}}
}

// answering reads the request to its end and then sends the parts and ends with err.
func answering(err error, parts ...*admin.ExecuteTaskSyncResponse) *fake {
	return &fake{execute: func(s service.SyncAgentService_ExecuteTaskSyncServer) error {
		for {
			if _, err := s.Recv(); err != nil {
				break
			}
		}
		for _, p := range parts {
			if err := s.Send(p); err != nil {
				return err
			}
		}
		return err
	}}
}

func TestExecuteSendsEverything(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var parts []*admin.ExecuteTaskSyncRequest
	var md metadata.MD
	_, address := serve(t, &fake{execute: func(s service.SyncAgentService_ExecuteTaskSyncServer) error {
		mu.Lock()
		defer mu.Unlock()
		md, _ = metadata.FromIncomingContext(s.Context())
		for {
			p, err := s.Recv()
			if err != nil {
				break
			}
			parts = append(parts, p)
		}
		return s.Send(header(&admin.Resource{Phase: core.TaskExecution_SUCCEEDED}))
	}})
	job, err := connectPlain(t, address).Execute(within(t), request())
	require.NoError(t, err)
	assert.Equal(t, core.TaskExecution_SUCCEEDED, job.Phase)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, parts, 2)
	equal(t, &admin.CreateRequestHeader{
		Template: request().Template, OutputPrefix: "s3://bucket/out/0", TaskExecutionMetadata: metadataSent(), MaxDatasetSizeBytes: 6,
	}, parts[0].GetHeader())
	assertAllSet(t, parts[0].GetHeader().ProtoReflect())
	equal(t, request().Inputs, parts[1].GetInputs())
	assert.Equal(t, []string{"key-1"}, md.Get(client.MetadataIdempotencyKey))
	assert.Equal(t, []string{"v2"}, md.Get(client.MetadataPluginVersion))
}

func TestExecuteMergesOutputs(t *testing.T) {
	t.Parallel()
	done := &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Message: "done"}
	withOutputs := &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: literals(map[string]*core.Literal{"a": number(1)})}
	tests := []struct {
		reason string
		parts  []*admin.ExecuteTaskSyncResponse
		want   map[string]*core.Literal
		breach string // what is wrong with the answer
	}{
		{reason: "outputs in the header", parts: []*admin.ExecuteTaskSyncResponse{header(withOutputs)}, want: map[string]*core.Literal{"a": number(1)}},
		{reason: "no outputs", parts: []*admin.ExecuteTaskSyncResponse{header(done)}},
		{reason: "outputs behind the header", parts: []*admin.ExecuteTaskSyncResponse{header(done), outputs(map[string]*core.Literal{"b": number(2)})},
			want: map[string]*core.Literal{"b": number(2)}},
		{reason: "everywhere", parts: []*admin.ExecuteTaskSyncResponse{
			header(withOutputs), outputs(map[string]*core.Literal{"b": number(2)}), outputs(map[string]*core.Literal{"c": number(3), "a": number(1)}),
		}, want: map[string]*core.Literal{"a": number(1), "b": number(2), "c": number(3)}},
		{reason: "before the header", parts: []*admin.ExecuteTaskSyncResponse{outputs(map[string]*core.Literal{"b": number(2)}), header(done)},
			want: map[string]*core.Literal{"b": number(2)}},
		{reason: "two values in two messages", parts: []*admin.ExecuteTaskSyncResponse{
			header(done), outputs(map[string]*core.Literal{"b": number(2)}), outputs(map[string]*core.Literal{"b": number(3)}),
		}, breach: `output "b" came twice with different values`},
		{reason: "one value in the header and another in a message", parts: []*admin.ExecuteTaskSyncResponse{
			header(withOutputs), outputs(map[string]*core.Literal{"a": number(2)}),
		}, breach: `output "a" came twice with different values`},
		{reason: "no header", parts: []*admin.ExecuteTaskSyncResponse{outputs(map[string]*core.Literal{"a": number(2)})}, breach: "holds no header"},
		{reason: "nothing at all", breach: "holds no header"},
		{reason: "a header without a resource", parts: []*admin.ExecuteTaskSyncResponse{header(nil)}, breach: "holds no header with a resource"},
		{reason: "two headers", parts: []*admin.ExecuteTaskSyncResponse{header(done), header(done)}, breach: "holds two headers"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, answering(nil, tt.parts...))
			job, err := connectPlain(t, address).Execute(within(t), request())
			if tt.breach != "" {
				assert.Nil(t, job)
				e := failure(t, err)
				assert.Contains(t, e.Message, "the answer breaks the contract: ")
				assert.Contains(t, e.Message, tt.breach)
				assert.Equal(t, client.SystemError, e.Class)
				assert.True(t, e.FromService)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, core.TaskExecution_SUCCEEDED, job.Phase)
			if tt.want == nil {
				assert.Nil(t, job.Outputs)
				return
			}
			equal(t, literals(tt.want), job.Outputs)
		})
	}
}

func TestExecuteEndedByTheService(t *testing.T) {
	t.Parallel()
	// Larger than the stream's window, so that the service's end meets a client that still sends.
	large := request()
	large.Inputs = literals(map[string]*core.Literal{"s": text(strings.Repeat("x", 4<<20))})
	refuse := status.Error(codes.FailedPrecondition, "no warehouse")
	tests := []struct {
		reason  string
		service *fake
		req     *client.CreateRequest
	}{
		{"before it read anything", &fake{execute: func(service.SyncAgentService_ExecuteTaskSyncServer) error { return refuse }}, request()},
		{"while the inputs were on their way", &fake{execute: func(service.SyncAgentService_ExecuteTaskSyncServer) error { return refuse }}, large},
		{"after the request", answering(refuse), request()},
		{"after its header", answering(refuse, header(&admin.Resource{Phase: core.TaskExecution_SUCCEEDED})), request()},
		{"after outputs", answering(refuse, header(&admin.Resource{}), outputs(map[string]*core.Literal{"a": number(1)})), request()},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, tt.service)
			job, err := connectPlain(t, address).Execute(within(t), tt.req)
			assert.Nil(t, job, "half an answer is none")
			e := failure(t, err)
			assert.Equal(t, codes.FailedPrecondition, e.Code)
			assert.Equal(t, client.UserError, e.Class)
			assert.Equal(t, "no warehouse", e.Message)
			assert.True(t, e.FromService)
			assert.Equal(t, "execute", e.Op)
		})
	}
}

// The stream must not outlive the call, whatever the service still has to say.
func TestExecuteLeavesNoStreamBehind(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	_, address := serve(t, &fake{execute: func(s service.SyncAgentService_ExecuteTaskSyncServer) error {
		defer close(ended)
		twice := header(&admin.Resource{Phase: core.TaskExecution_SUCCEEDED})
		if err := s.Send(twice); err != nil {
			return err
		}
		if err := s.Send(twice); err != nil {
			return err
		}
		<-s.Context().Done()
		return nil
	}})
	_, err := connectPlain(t, address).Execute(within(t), request())
	_ = failure(t, err) // it checks by itself
	select {
	case <-ended:
	case <-within(t).Done():
		t.Fatal("the service still streams")
	}
}

func TestExecuteWithoutConnection(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, address := serve(t, answering(nil))
	_, err := connectPlain(t, address).Execute(ctx, request())
	e := failure(t, err)
	assert.Equal(t, codes.Canceled, e.Code)
	assert.False(t, e.FromService)
}

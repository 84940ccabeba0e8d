package grpcclient

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Every code that a service can send, by every call that has one, is known as the service's.
func TestErrorsFromTheService(t *testing.T) {
	t.Parallel()
	b, c := backend(t)
	calls := map[backendtest.Method]func(context.Context) error{
		backendtest.List:    func(ctx context.Context) error { _, err := c.List(ctx); return err },
		backendtest.Create:  func(ctx context.Context) error { _, err := c.Create(ctx, request()); return err },
		backendtest.Get:     func(ctx context.Context) error { _, err := c.Get(ctx, ref); return err },
		backendtest.Delete:  func(ctx context.Context) error { return c.Delete(ctx, ref) },
		backendtest.Execute: func(ctx context.Context) error { _, err := c.Execute(ctx, request()); return err },
	}
	for _, row := range client.Table {
		for method, call := range calls {
			if row.Code == codes.NotFound && method == backendtest.Delete {
				continue // no error at all
			}
			t.Run(fmt.Sprintf("%s of %s", row.Code, method), func(t *testing.T) {
				b.Fail(method, 1, status.Error(row.Code, "because"))
				e := failure(t, call(within(t)))
				assert.Equal(t, row.Code, e.Code)
				assert.Equal(t, row.Class, e.Class)
				assert.Equal(t, "because", e.Message)
				assert.Equal(t, string(method), e.Op)
				assert.True(t, e.FromService)
				assert.Contains(t, e.Error(), fmt.Sprintf("%s at backend deployment \"big\" (%s) failed: the service answered %s: because", method, b.Endpoint(), row.Code))
			})
		}
	}
}

// A service's words about what lies behind it are not a diagnosis of the way to it.
func TestServicesOwnWordsAreNotDiagnosed(t *testing.T) {
	t.Parallel()
	for _, row := range diagnoses {
		for _, words := range row.Says {
			b, c := backend(t)
			b.Fail(backendtest.Create, 1, status.Error(codes.InvalidArgument, "cannot reach the warehouse: "+words))
			_, err := c.Create(within(t), request())
			e := failure(t, err)
			assert.True(t, e.FromService, words)
			assert.Equal(t, client.UserError, e.Class, words)
			assert.Empty(t, e.Advice, words)
		}
	}
}

func TestErrorsOfTheNetwork(t *testing.T) {
	t.Parallel()
	// arrived tells that a call has reached the service, which then neither answers nor ends.
	hanging := func(arrived chan<- struct{}, first func(service.SyncAgentService_ExecuteTaskSyncServer)) *fake {
		return &fake{
			get: func(ctx context.Context, _ *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
				_ = grpc.SendHeader(ctx, metadata.Pairs("k", "v"))
				close(arrived)
				<-ctx.Done()
				return nil, ctx.Err()
			},
			execute: func(s service.SyncAgentService_ExecuteTaskSyncServer) error {
				first(s)
				close(arrived)
				<-s.Context().Done()
				return s.Context().Err()
			},
		}
	}
	get := func(ctx context.Context, c *Conn) error { _, err := c.Get(ctx, ref); return err }
	execute := func(ctx context.Context, c *Conn) error { _, err := c.Execute(ctx, request()); return err }
	tests := []struct {
		reason string
		call   func(context.Context, *Conn) error
		first  func(service.SyncAgentService_ExecuteTaskSyncServer)
	}{
		{"the service is killed while it works, its headers sent", get, nil},
		{"while it executes", execute, func(service.SyncAgentService_ExecuteTaskSyncServer) {}},
		{"after it sent a part of the answer", execute, func(s service.SyncAgentService_ExecuteTaskSyncServer) {
			_ = s.Send(header(&admin.Resource{Phase: core.TaskExecution_SUCCEEDED}))
			// More than the stream's window, so that the first of it has arrived when the last is sent.
			for range 8 {
				_ = s.Send(outputs(map[string]*core.Literal{"s": text(strings.Repeat("x", 128<<10))}))
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan struct{})
			server, address := serve(t, hanging(arrived, tt.first))
			c := connectPlain(t, address)
			go func() {
				<-arrived
				server.Stop()
			}()
			e := failure(t, tt.call(within(t), c))
			assert.False(t, e.FromService, e)
			assert.True(t, e.Transient(), e)
		})
	}

	t.Run("the caller's time is up", func(t *testing.T) {
		t.Parallel()
		_, address := serve(t, hanging(make(chan struct{}), nil))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		e := failure(t, get(ctx, connectPlain(t, address)))
		assert.Equal(t, codes.DeadlineExceeded, e.Code)
		assert.Equal(t, client.RetryLater, e.Class)
		assert.False(t, e.FromService)
	})

	t.Run("the connection was closed", func(t *testing.T) {
		t.Parallel()
		_, address := serve(t, &fake{})
		c, err := Dial("big", &config.Deployment{Endpoint: address, Insecure: true})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		e := failure(t, get(within(t), c))
		assert.Equal(t, client.RetryNow, e.Class)
		assert.False(t, e.FromService)
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason  string
		details []protoadapt.MessageV1
		want    time.Duration
	}{
		{"none", nil, 0},
		{"asked for", []protoadapt.MessageV1{&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)}}, 3 * time.Second},
		{"among other details", []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: "busy"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)}}, time.Second},
		{"without its delay", []protoadapt.MessageV1{&errdetails.RetryInfo{}}, 0},
		{"a pause cannot be negative", []protoadapt.MessageV1{&errdetails.RetryInfo{RetryDelay: durationpb.New(-time.Second)}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			b, c := backend(t)
			st, err := status.New(codes.ResourceExhausted, "slow down").WithDetails(tt.details...)
			require.NoError(t, err)
			b.Fail(backendtest.Create, 1, st.Err())
			_, err = c.Create(within(t), request())
			e := failure(t, err)
			assert.Equal(t, tt.want, e.RetryAfter)
			assert.Equal(t, client.RetryLater, e.Class)
			assert.False(t, e.TooLarge)
		})
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	const least = 64 << 10
	large := request()
	large.Inputs = literals(map[string]*core.Literal{"s": text(strings.Repeat("x", 2*least))})
	answer := &fake{
		create: func(context.Context, *admin.CreateTaskRequest) (*admin.CreateTaskResponse, error) {
			return &admin.CreateTaskResponse{}, nil
		},
		get: func(context.Context, *admin.GetTaskRequest) (*admin.GetTaskResponse, error) {
			return &admin.GetTaskResponse{Resource: &admin.Resource{Outputs: large.Inputs}}, nil
		},
		execute: func(s service.SyncAgentService_ExecuteTaskSyncServer) error {
			for {
				if _, err := s.Recv(); err != nil {
					break
				}
			}
			return s.Send(header(&admin.Resource{Outputs: large.Inputs}))
		},
		list: func(context.Context) (*admin.ListAgentsResponse, error) {
			return nil, status.Error(codes.ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000")
		},
	}
	create := func(ctx context.Context, c *Conn) error { _, err := c.Create(ctx, large); return err }
	tests := []struct {
		reason  string
		limit   int
		options []grpc.ServerOption
		call    func(context.Context, *Conn) error
		size    string
		service bool
	}{
		{reason: "a create over this side's limit is not sent", limit: least, call: create, size: "(131"},
		{reason: "an execute neither", limit: least, call: func(ctx context.Context, c *Conn) error { _, err := c.Execute(ctx, large); return err }, size: "(131"},
		{reason: "an answer over this side's limit is not taken", limit: least,
			call: func(ctx context.Context, c *Conn) error { _, err := c.Get(ctx, ref); return err }, size: "(131"},
		{reason: "nor a streamed one", limit: least,
			call: func(ctx context.Context, c *Conn) error { _, err := c.Execute(ctx, request()); return err }, size: "(131"},
		{reason: "a create over the service's limit", limit: 1 << 20, options: []grpc.ServerOption{grpc.MaxRecvMsgSize(1000)}, call: create, size: "vs. 1000)", service: true},
		{reason: "an answer over the service's limit", limit: 1 << 20, options: []grpc.ServerOption{grpc.MaxSendMsgSize(1000)},
			call: func(ctx context.Context, c *Conn) error { _, err := c.Get(ctx, ref); return err }, size: "vs. 1000)", service: true},
		{reason: "in grpc-java's words", limit: 1 << 20, call: func(ctx context.Context, c *Conn) error { _, err := c.List(ctx); return err }, size: "5000000", service: true},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, answer, tt.options...)
			c := connect(t, &config.Deployment{Endpoint: address, Insecure: true, MaxMessageSizeBytes: tt.limit})
			e := failure(t, tt.call(within(t), c))
			assert.True(t, e.TooLarge)
			assert.Equal(t, client.UserError, e.Class)
			assert.Equal(t, tt.service, e.FromService)
			assert.Contains(t, e.Error(), tt.size)
			assert.Contains(t, e.Error(), fmt.Sprintf("%d bytes", tt.limit))
			assert.Contains(t, e.Error(), "plugins.backend.deployments.big.maxMessageSizeBytes")
		})
	}
}

func TestUnsendable(t *testing.T) {
	t.Parallel()
	_, c := backend(t)
	bad := request()
	bad.OutputPrefix = "\xff"
	_, err := c.Create(within(t), bad)
	e := failure(t, err)
	assert.Equal(t, client.UserError, e.Class, "it never will be sent: %v", e)
	assert.False(t, e.FromService)
}

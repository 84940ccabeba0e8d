package rest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pb "github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

type executeStream = pb.SyncAgentService_ExecuteTaskSyncServer

func headerWith(r *admin.Resource) *admin.ExecuteTaskSyncResponse {
	return &admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{Resource: r}}}
}

func outputsWith(m *core.LiteralMap) *admin.ExecuteTaskSyncResponse {
	return &admin.ExecuteTaskSyncResponse{Res: &admin.ExecuteTaskSyncResponse_Outputs{Outputs: m}}
}

func succeeded(outputs *core.LiteralMap) *admin.Resource {
	return &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Outputs: outputs}
}

// TestExecuteAnswers: an answer that comes in parts is put together, and one that contradicts itself is the service's failure.
func TestExecuteAnswers(t *testing.T) {
	t.Parallel()
	var sends []*admin.ExecuteTaskSyncResponse
	var fails error
	w := serve(t, rest.Services{Sync: &service{execute: func(stream executeStream) error {
		if err := errors.Join(stream.SetHeader(metadata.MD{}), stream.SendHeader(metadata.MD{})); err != nil {
			return err
		}
		stream.SetTrailer(metadata.MD{})
		for _, m := range sends {
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
		return fails
	}}}, rest.Options{})
	const x1, y2 = `"x": {"scalar": {"primitive": {"integer": "1"}}}`, `"y": {"scalar": {"primitive": {"integer": "2"}}}`
	for _, tt := range []struct {
		reason string
		sends  []*admin.ExecuteTaskSyncResponse
		fails  error
		status int
		want   string
	}{
		{"one message", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(literals("x", 1)))}, nil, 200, `{"literals": {` + x1 + `}}`},
		{"outputs behind it", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(nil)), outputsWith(literals("x", 1)), outputsWith(literals("y", 2))}, nil, 200, `{"literals": {` + x1 + `, ` + y2 + `}}`},
		{"outputs in both", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(literals("x", 1))), outputsWith(literals("y", 2))}, nil, 200, `{"literals": {` + x1 + `, ` + y2 + `}}`},
		{"outputs before it", []*admin.ExecuteTaskSyncResponse{outputsWith(literals("x", 1)), headerWith(succeeded(nil))}, nil, 200, `{"literals": {` + x1 + `}}`},
		{"the same twice", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(literals("x", 1))), outputsWith(literals("x", 1))}, nil, 200, `{"literals": {` + x1 + `}}`},
		{"no outputs", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(nil))}, nil, 200, `null`},
		{"a name with two values", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(literals("x", 1))), outputsWith(literals("x", 2))}, nil, 500, `output "x" came twice`},
		{"two headers", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(nil)), headerWith(succeeded(nil))}, nil, 500, "answered twice"},
		{"no header", []*admin.ExecuteTaskSyncResponse{outputsWith(literals("x", 1))}, nil, 500, "gave no result"},
		{"nothing", nil, nil, 500, "gave no result"},
		{"a header without a resource", []*admin.ExecuteTaskSyncResponse{headerWith(nil)}, nil, 500, "gave no result"},
		{"no phase", []*admin.ExecuteTaskSyncResponse{headerWith(&admin.Resource{Message: "x"})}, nil, 500, "phase is not set"},
		{"an error behind an answer", []*admin.ExecuteTaskSyncResponse{headerWith(succeeded(nil))}, status.Error(codes.Aborted, "after all"), 409, "after all"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			sends, fails = tt.sends, tt.fails
			a := w.do("POST", "/plugins/v1/t/v1/execute", `{"template": {}}`)
			require.Equal(t, tt.status, a.status, a.text)
			if tt.status != 200 {
				require.Contains(t, a.member("message"), tt.want)
				return
			}
			require.Equal(t, "SUCCEEDED", a.member("job_state"))
			require.JSONEq(t, tt.want, jsonOf(t, a.member("outputs")))
		})
	}
}

// TestStreamsAreBounded: a service that streams without end is stopped, whatever it makes of that.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	line := &admin.GetTaskLogsResponse{Part: &admin.GetTaskLogsResponse_Body{Body: &admin.GetTaskLogsResponseBody{Results: []string{strings.Repeat("x", 100)}}}}
	for _, ignores := range []bool{false, true} {
		s := &service{
			logs: func(_ *admin.GetTaskLogsRequest, stream pb.AsyncAgentService_GetTaskLogsServer) error {
				for {
					if err := stream.Send(line); err != nil {
						if ignores {
							return nil
						}
						if status.Code(err) != codes.ResourceExhausted {
							return errors.New("the service does not see why")
						}
						return errors.New("something else")
					}
				}
			},
			execute: func(stream executeStream) error {
				for {
					if err := stream.Send(headerWith(running(strings.Repeat("x", 100)))); err != nil {
						if ignores {
							return nil
						}
						return err
					}
				}
			},
		}
		w := serve(t, all(s), rest.Options{MaxBodyBytes: 10000})
		for _, a := range []answer{
			w.do("POST", "/plugins/v1/t/v1/logs", `{"job_id": "j"}`), w.do("POST", "/plugins/v1/t/v1/execute", `{"template": {}}`),
		} {
			require.Equal(t, 413, a.status)
			require.Equal(t, "RESOURCE_EXHAUSTED", a.member("error_code"))
			require.Contains(t, a.member("message"), "larger than 10000 bytes")
		}
	}
}

// TestStreamsByMessage: a service may send and receive whatever is of the stream's type, and is told when it is not.
func TestStreamsByMessage(t *testing.T) {
	t.Parallel()
	w := serve(t, rest.Services{Sync: &service{execute: func(stream executeStream) error {
		first := &admin.ExecuteTaskSyncRequest{Part: &admin.ExecuteTaskSyncRequest_Inputs{}}
		if err := stream.RecvMsg(first); err != nil {
			return err
		}
		for _, err := range []error{stream.RecvMsg(&admin.Resource{}), stream.RecvMsg(nil), stream.SendMsg(&admin.Resource{})} {
			if status.Code(err) != codes.Internal {
				return status.Errorf(codes.DataLoss, "another message was taken: %v", err)
			}
		}
		var second admin.ExecuteTaskSyncRequest
		if err := stream.RecvMsg(&second); err != nil {
			return err
		}
		if err := stream.RecvMsg(&second); !errors.Is(err, io.EOF) {
			return err
		}
		return stream.SendMsg(headerWith(running(fmt.Sprint(first.GetHeader().GetOutputPrefix(), len(second.GetInputs().GetLiterals())))))
	}}}, rest.Options{})
	a := w.do("POST", "/plugins/v1/t/v1/execute", `{"template": {}, "output_prefix": "p", "inputs": {"literals": {"x": {}}}}`)
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, "p1", a.member("message"))
}

// TestStreamsEndWithTheirCaller: a stream says so when its caller has gone.
func TestStreamsEndWithTheirCaller(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	sent, received := make(chan error, 1), make(chan error, 1)
	w := serve(t, rest.Services{Sync: &service{execute: func(stream executeStream) error {
		close(entered)
		<-stream.Context().Done()
		sent <- stream.Send(headerWith(running("")))
		_, err := stream.Recv()
		received <- err
		return err
	}}}, rest.Options{})
	conn := w.dial()
	_, err := fmt.Fprint(conn, "POST /plugins/v1/t/v1/execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"template\": {}}")
	require.NoError(t, err)
	<-entered
	require.NoError(t, conn.Close())
	require.Equal(t, codes.Canceled, status.Code(<-sent))
	require.Equal(t, codes.Canceled, status.Code(<-received))
}

// TestLogs: a page that comes in parts is one page.
func TestLogs(t *testing.T) {
	t.Parallel()
	body := func(b *admin.GetTaskLogsResponseBody) *admin.GetTaskLogsResponse {
		return &admin.GetTaskLogsResponse{Part: &admin.GetTaskLogsResponse_Body{Body: b}}
	}
	head := func(token string) *admin.GetTaskLogsResponse {
		return &admin.GetTaskLogsResponse{Part: &admin.GetTaskLogsResponse_Header{Header: &admin.GetTaskLogsResponseHeader{Token: token}}}
	}
	structured := &admin.GetTaskLogsResponseBody{Results: []string{"one\n", "two\n"}, StructuredLines: []*admin.LogLine{
		{Timestamp: timestamppb.New(time.Unix(1e9, 5)), Message: "one\n", Originator: admin.LogLineOriginator_SYSTEM}, {Message: "two\n"},
	}}
	for _, tt := range []struct {
		reason string
		sends  []*admin.GetTaskLogsResponse
		want   string
	}{
		{"nothing", nil, `{"lines": [], "next": ""}`},
		{"lines with a time", []*admin.GetTaskLogsResponse{head("n"), body(structured)}, `{"lines": [{"time": "2001-09-09T01:46:40.000000005Z", "message": "one\n", "system": true}, {"message": "two\n", "system": false}], "next": "n"}`},
		{"parts, and an old service's texts", []*admin.GetTaskLogsResponse{body(&admin.GetTaskLogsResponseBody{Results: []string{"a"}}), body(&admin.GetTaskLogsResponseBody{Results: []string{"b"}}), head("m")}, `{"lines": [{"message": "a", "system": false}, {"message": "b", "system": false}], "next": "m"}`},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			w := serve(t, rest.Services{Async: &service{logs: func(_ *admin.GetTaskLogsRequest, stream pb.AsyncAgentService_GetTaskLogsServer) error {
				for _, m := range tt.sends {
					if err := stream.Send(m); err != nil {
						return err
					}
				}
				return nil
			}}}, rest.Options{})
			a := w.do("POST", "/plugins/v1/t/v1/logs", `{"job_id": "j"}`)
			require.Equal(t, 200, a.status, a.text)
			require.JSONEq(t, tt.want, a.text)
		})
	}
}

// TestMetrics: each metric with its data, as protobuf's JSON has it.
func TestMetrics(t *testing.T) {
	t.Parallel()
	data, err := structpb.NewStruct(map[string]any{"resultType": "matrix"})
	require.NoError(t, err)
	w := serve(t, rest.Services{Async: &service{metrics: func(context.Context, *admin.GetTaskMetricsRequest) (*admin.GetTaskMetricsResponse, error) {
		return &admin.GetTaskMetricsResponse{Results: []*core.ExecutionMetricResult{{Metric: "cpu", Data: data}, {Metric: "none"}}}, nil
	}}}, rest.Options{})
	a := w.do("POST", "/plugins/v1/t/v1/metrics", `{"job_id": "j"}`)
	require.Equal(t, 200, a.status, a.text)
	require.JSONEq(t, `{"metrics": [{"name": "cpu", "data": {"resultType": "matrix"}}, {"name": "none"}]}`, a.text)
}

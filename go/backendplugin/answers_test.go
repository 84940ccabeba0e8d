package backendplugin_test

import (
	"context"
	"errors"
	"math"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// odd is a plugin whose answers are what its job's id asks for.
type odd struct {
	simple
	answer func(ctx context.Context, what string) (*backendplugin.Status[values], error)
}

func newOdd(answer func(context.Context, string) (*backendplugin.Status[values], error)) *odd {
	o := &odd{answer: answer}
	o.create = func(context.Context, *backendplugin.Request[values]) (string, error) { return "j", nil }
	o.get = func(ctx context.Context, j *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
		return answer(ctx, j.ID)
	}
	o.delete = func(ctx context.Context, j *backendplugin.Job[string]) error {
		_, err := answer(ctx, j.ID)
		return err
	}
	return o
}

func (o *odd) Execute(ctx context.Context, r *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
	what, _ := r.Inputs["what"].(string)
	return o.answer(ctx, what)
}

func (o *odd) Logs(ctx context.Context, j *backendplugin.Job[string], _ backendplugin.LogQuery) (*backendplugin.LogPage, error) {
	s, err := o.answer(ctx, j.ID)
	if err != nil {
		return nil, err
	}
	page := &backendplugin.LogPage{}
	for _, l := range s.LogLinks {
		page.Lines = append(page.Lines, backendplugin.LogLine{Message: l.Name})
	}
	if s.Outputs != nil {
		text, _ := (*s.Outputs)["o0"].(string)
		page.Lines = append(page.Lines, backendplugin.LogLine{Message: text})
	}
	return page, nil
}

func (o *odd) Metrics(ctx context.Context, j *backendplugin.Job[string], _ backendplugin.MetricsQuery) ([]backendplugin.Metric, error) {
	page, err := o.Logs(ctx, j, backendplugin.LogQuery{})
	if err != nil {
		return nil, err
	}
	return []backendplugin.Metric{{Name: page.Lines[0].Message, Data: values{}}}, nil
}

// TestAnswersThatCannotBeSent: what gRPC or JSON would give up is found out before, so that it is counted and logged as the failure
// that the caller sees, and is the same over both transports.
func TestAnswersThatCannotBeSent(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	for _, tt := range []struct {
		reason, message string
		code            codes.Code
		status          int
		answer          func(context.Context, string) (*backendplugin.Status[values], error)
	}{
		{
			"it is too large, and to wait is no use", "is larger than max (", codes.ResourceExhausted, 413,
			func(context.Context, string) (*backendplugin.Status[values], error) {
				return backendplugin.Succeeded(values{"o0": strings.Repeat("x", size)}), nil
			},
		},
		{
			"it holds text that is not UTF-8", "the plugin's answer cannot be sent: ", codes.Internal, 500,
			func(context.Context, string) (*backendplugin.Status[values], error) {
				return &backendplugin.Status[values]{Phase: backendplugin.PhaseFailed, LogLinks: []backendplugin.LogLink{{Name: "\xff"}}}, nil
			},
		},
		{
			"its error is a book", "vendor says", codes.Unavailable, 503,
			func(context.Context, string) (*backendplugin.Status[values], error) {
				return nil, backendplugin.Retry(0, "the vendor says: %s\xff", strings.Repeat("ä", 1<<20))
			},
		},
		{
			"the plugin ends its goroutine", "the plugin ended its goroutine", codes.Internal, 500,
			func(context.Context, string) (*backendplugin.Status[values], error) {
				runtime.Goexit()
				return nil, errors.New("not reached")
			},
		},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			w := startREST(t, backendplugin.Plugins{backendplugin.New("a", newOdd(tt.answer))}, backendplugin.WithMaxMessageSize(size))
			check := func(call string, err error) {
				t.Helper()
				st := status.Convert(err)
				assert.Equal(t, tt.code, st.Code(), "%s: %.200v", call, err)
				assert.Contains(t, st.Message(), tt.message, call)
				assert.LessOrEqual(t, len(st.Message()), 16<<10, call)
			}
			_, err := w.get(w.within(), "a", "x")
			check("GetTask", err)
			_, err = w.execute(w.within(), header("a"), part(values{"what": "x"}))
			check("ExecuteTaskSync", err)
			logs, err := w.async.GetTaskLogs(w.within(), &admin.GetTaskLogsRequest{TaskCategory: &admin.TaskCategory{Name: "a"}, ResourceMeta: []byte("x")})
			require.NoError(t, err)
			_, err = logs.Recv()
			check("GetTaskLogs", err)
			_, err = w.async.GetTaskMetrics(w.within(), &admin.GetTaskMetricsRequest{TaskCategory: &admin.TaskCategory{Name: "a"}, ResourceMeta: []byte("x")})
			check("GetTaskMetrics", err)
			tasks, err := flytebackendv1.NewBackendServiceClient(w.conn).GetTasks(w.within(), &flytebackendv1.GetTasksRequest{Tasks: []*flytebackendv1.TaskRef{
				{TaskCategory: &admin.TaskCategory{Name: "a"}, ResourceMeta: []byte("x")},
			}})
			require.NoError(t, err)
			e := tasks.GetResults()[0].GetError()
			check("GetTasks", status.Error(codes.Code(max(e.GetCode(), 0)), e.GetMessage()))
			counted := w.do("GET", "/metrics", "").text
			for _, call := range []string{"Get", "Execute", "Logs", "Metrics"} {
				assert.Contains(t, counted, `calls_total{call="`+call+`",code="`+tt.code.String()+`"`)
				assert.NotContains(t, counted, `calls_total{call="`+call+`",code="OK"`)
				assert.Contains(t, w.log.String(), "call="+call+" code="+tt.code.String())
			}

			for _, r := range [][2]string{
				{"GET", "?job_id=x"}, {"POST", "/logs"}, {"POST", "/metrics"}, {"POST", "/execute"}, {"POST", "/poll"},
			} {
				body := map[string]string{
					"/logs": `{"job_id": "x"}`, "/metrics": `{"job_id": "x"}`, "/execute": `{"template": {}}`, "/poll": `{"jobs": [{"job_id": "x"}]}`,
				}[r[1]]
				a := w.do(r[0], "/plugins/v1/a/v1"+r[1], body)
				if r[1] == "/poll" {
					require.Equal(t, 200, a.status)
					one, _ := a.body["results"].([]any)
					result, _ := one[0].(map[string]any)
					a.body, _ = result["error"].(map[string]any)
					number, _ := a.body["status"].(float64)
					a.status = int(number)
				}
				assert.Equal(t, tt.status, a.status, "%v: %.300s", r, a.text)
				assert.Equal(t, rest.CodeName(tt.code), a.body["error_code"], r)
				assert.Contains(t, a.body["message"], tt.message, r)
			}
		})
	}
}

// TestNamesThatAreNotHere: what callers send for a task type stays out of metrics, and neither log nor answer repeats all of it.
func TestNamesThatAreNotHere(t *testing.T) {
	t.Parallel()
	w := startREST(t, backendplugin.Plugins{versioned("")})
	long := strings.Repeat("ü", 1<<19)
	for _, name := range []string{"nothing", long} {
		_, err := w.create(w.within(), name, nil)
		require.Equal(t, codes.NotFound, status.Code(err))
		require.Less(t, len(err.Error()), 1000)
		_, err = w.get(with(w.within(), versionHeader, strings.Repeat("v", 5000)), name, "x")
		require.Equal(t, codes.NotFound, status.Code(err))
		require.Less(t, len(err.Error()), 1000)
	}
	require.Equal(t, 404, w.do("GET", "/plugins/v1/"+url.PathEscape(long[:20000])+"/v1?job_id=x", "").status)
	require.Less(t, len(w.log.String()), 10_000)
	counted := w.do("GET", "/metrics", "").text
	require.Contains(t, counted, `task_type="(none)"`)
	require.NotContains(t, counted, "nothing")
	require.NotContains(t, counted, "ü")
}

// TestInfoThatIsNoNumber: a measurement that went wrong does not end the poll of its job, and looks the same over both transports.
func TestInfoThatIsNoNumber(t *testing.T) {
	t.Parallel()
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", newOdd(func(context.Context, string) (*backendplugin.Status[values], error) {
		s := backendplugin.Running[values]("training")
		s.Info = values{"loss": math.NaN(), "all": []float64{math.Inf(1), math.Inf(-1), 1.5}}
		return s, nil
	}))})
	want := map[string]any{"loss": "NaN", "all": []any{"Infinity", "-Infinity", 1.5}}
	r, err := w.get(w.within(), "a", "x")
	require.NoError(t, err)
	require.Equal(t, want, r.GetCustomInfo().AsMap())
	require.Equal(t, want, w.do("GET", "/plugins/v1/a/v1?job_id=x", "").body["custom_info"])
}

// TestWhoseTime: an error about time says whose it was, and which option gives more of it.
func TestWhoseTime(t *testing.T) {
	t.Parallel()
	waiting := func(ctx context.Context, what string) (*backendplugin.Status[values], error) {
		if what == "stubborn" {
			select {}
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w := startREST(t, backendplugin.Plugins{backendplugin.New("a", newOdd(waiting))}, backendplugin.WithTimeout(50*time.Millisecond),
		backendplugin.WithExecuteTimeout(60*time.Millisecond))
	patient := startREST(t, backendplugin.Plugins{backendplugin.New("a", newOdd(waiting))})
	for _, what := range []string{"x", "stubborn"} {
		own := "Get did not end within 50ms, the limit of this service (in the Go SDK, WithTimeout)"
		_, err := w.get(w.within(), "a", what)
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		require.ErrorContains(t, err, own)
		a := w.do("GET", "/plugins/v1/a/v1?job_id="+what, "")
		require.Equal(t, 504, a.status)
		require.Contains(t, a.text, own)
		_, err = w.execute(w.within(), header("a"), part(values{"what": what}))
		require.ErrorContains(t, err, "Execute did not end within 60ms, the limit of this service (in the Go SDK, WithExecuteTimeout)")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // of which the poll of many leaves a part
		require.Contains(t, patient.tasks(ctx, what)[0], "DeadlineExceeded: Get did not end by its caller's deadline: ")
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err = patient.get(ctx, "a", what)
		require.Equal(t, codes.Canceled, status.Code(err))
	}
	require.Eventually(t, func() bool { return strings.Count(patient.log.String(), "Get was cancelled before it ended") == 2 }, limit, time.Millisecond)
}

package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func notServed(what string) error {
	return status.Errorf(codes.Unimplemented, "this service does not serve %s", what)
}

// list answers GET /plugins/v1.
func (h *handler) list(ctx context.Context, _ *request) (any, error) {
	if h.svc.Metadata == nil {
		return nil, notServed("the list of its plugins")
	}
	r, err := h.svc.Metadata.ListAgents(ctx, &admin.ListAgentsRequest{})
	if err != nil {
		return nil, err
	}
	out := pluginList{Plugins: []plugin{}}
	for _, a := range r.GetAgents() {
		out.Plugins = append(out.Plugins, h.plugins(a)...)
	}
	return out, nil
}

// plugins are an agent's task types. flyteidl has no plugin version: it is what follows the last "@" in the agent's name.
func (h *handler) plugins(a *admin.Agent) []plugin {
	name, version, mode := a.GetName(), "v1", "async"
	if i := strings.LastIndex(name, "@"); i >= 0 && pluginversion.Valid(name[i+1:]) {
		name, version = name[:i], name[i+1:]
	}
	if a.GetIsSync() {
		mode = "sync"
	}
	categories := a.GetSupportedTaskCategories()
	if len(categories) == 0 {
		for _, t := range a.GetSupportedTaskTypes() { // services of older flytekit versions have nothing else
			categories = append(categories, &admin.TaskCategory{Name: t})
		}
	}
	var out []plugin
	at := map[string]int{}
	takesAny := map[string]bool{}
	for _, c := range categories {
		takesAny[c.GetName()] = takesAny[c.GetName()] || c.GetVersion() == 0
	}
	for _, c := range categories {
		i, seen := at[c.GetName()]
		if !seen {
			i = len(out)
			at[c.GetName()] = i
			out = append(out, plugin{
				Name: name, TaskType: c.GetName(), PluginVersion: version, Mode: mode, TaskTypeVersions: []int32{}, Capabilities: []string{},
			})
			if h.svc.Capabilities != nil {
				out[i].Capabilities = append(out[i].Capabilities, h.svc.Capabilities(c.GetName(), version, mode)...)
			}
		}
		if c.GetVersion() > 0 && !takesAny[c.GetName()] {
			out[i].TaskTypeVersions = append(out[i].TaskTypeVersions, c.GetVersion())
		}
	}
	return out
}

// task is the body of create and execute.
func task(req *request) (*admin.CreateTaskRequest, int64, error) {
	out := &admin.CreateTaskRequest{Template: &core.TaskTemplate{}}
	has, err := req.body.message("template", out.Template)
	if err != nil {
		return nil, 0, err
	}
	switch t := out.Template; {
	case !has:
		return nil, 0, malformed("template is missing")
	case t.GetType() == "":
		t.Type = req.taskType
	case t.GetType() != req.taskType:
		return nil, 0, malformed("template: its type is %q, and the path's is %q", t.GetType(), req.taskType)
	}
	inputs, meta := &core.LiteralMap{}, &admin.TaskExecutionMetadata{}
	if has, err = req.body.message("inputs", inputs); err != nil {
		return nil, 0, err
	} else if has {
		out.Inputs = inputs
	}
	if has, err = req.body.message("metadata", meta); err != nil {
		return nil, 0, err
	} else if has {
		out.TaskExecutionMetadata = meta
	}
	if out.OutputPrefix, err = req.body.text("output_prefix"); err != nil {
		return nil, 0, err
	}
	limit, err := req.body.whole("max_output_bytes", math.MaxInt64)
	return out, limit, err
}

// create answers PUT /plugins/v1/{task_type}/{version}.
func (h *handler) create(ctx context.Context, req *request) (any, error) {
	if h.svc.Async == nil {
		return nil, notServed("jobs")
	}
	in, _, err := task(req)
	if err != nil {
		return nil, err
	}
	r, err := h.svc.Async.CreateTask(ctx, in)
	if err != nil {
		return nil, err
	}
	if n := len(r.GetResourceMeta()); n == 0 || n > MaxJobID {
		return nil, internal("the plugin gave a job id of %d bytes; 1 to %d are due", n, MaxJobID)
	}
	return created{JobID: EncodeJobID(r.GetResourceMeta())}, nil
}

// execute answers POST …/execute.
func (h *handler) execute(ctx context.Context, req *request) (any, error) {
	if h.svc.Sync == nil {
		return nil, notServed("synchronous tasks")
	}
	in, limit, err := task(req)
	if err != nil {
		return nil, err
	}
	s := &stream[admin.ExecuteTaskSyncRequest, admin.ExecuteTaskSyncResponse]{ctx: ctx, limit: h.maxBody, received: []*admin.ExecuteTaskSyncRequest{
		{Part: &admin.ExecuteTaskSyncRequest_Header{Header: &admin.CreateRequestHeader{
			Template: in.GetTemplate(), OutputPrefix: in.GetOutputPrefix(), TaskExecutionMetadata: in.GetTaskExecutionMetadata(), MaxDatasetSizeBytes: limit,
		}}},
		{Part: &admin.ExecuteTaskSyncRequest_Inputs{Inputs: in.GetInputs()}},
	}}
	if err := s.over(h.svc.Sync.ExecuteTaskSync(s)); err != nil {
		return nil, err
	}
	resource, err := executed(s.sent)
	if err != nil {
		return nil, err
	}
	return jobStatusOf(jobSpec{req.taskType, req.version}, resource, 0)
}

// ref is a job of a request.
type ref struct {
	id              []byte
	taskTypeVersion int32
	outputPrefix    string
}

// queried is the job that a URL names.
func (req *request) queried() (ref, error) {
	for _, name := range []string{"job_id", "output_prefix", "task_type_version"} {
		if len(req.query[name]) > 1 {
			return ref{}, malformed("%s stands in the query more than once", name)
		}
	}
	for _, name := range []string{"output_prefix", "task_type_version"} {
		if !utf8.ValidString(req.query.Get(name)) {
			return ref{}, malformed("%s is not UTF-8", name)
		}
	}
	s := req.query.Get("job_id")
	switch {
	case s == "":
		return ref{}, malformed("job_id is missing or empty")
	case len(s) > MaxJobIDInURL:
		return ref{}, malformed("job_id has %d bytes; over %d it goes into the body of POST …/poll or POST …/delete", len(s), MaxJobIDInURL)
	}
	id, err := DecodeJobID(s)
	if err != nil {
		return ref{}, malformed("job_id %v", err)
	}
	out := ref{id: id, outputPrefix: req.query.Get("output_prefix")}
	if v, given := req.query["task_type_version"]; given {
		n, err := strconv.ParseInt(v[0], 10, 32)
		if err != nil || n < 0 {
			return ref{}, malformed("task_type_version is %q, which is not an integer from 0 to %d", v[0], maxVersion)
		}
		out.taskTypeVersion = int32(n)
	}
	return out, nil
}

func (f fields) ref() (ref, error) {
	id, err := f.jobID()
	if err != nil {
		return ref{}, err
	}
	out := ref{id: id}
	if out.taskTypeVersion, err = f.taskTypeVersion(); err != nil {
		return ref{}, err
	}
	out.outputPrefix, err = f.text("output_prefix")
	return out, err
}

func (req *request) category(r ref) *admin.TaskCategory {
	return &admin.TaskCategory{Name: req.taskType, Version: r.taskTypeVersion}
}

// get answers GET /plugins/v1/{task_type}/{version}.
func (h *handler) get(ctx context.Context, req *request) (any, error) {
	if h.svc.Async == nil {
		return nil, notServed("jobs")
	}
	job, err := req.queried()
	if err != nil {
		return nil, err
	}
	results, err := h.look(ctx, req, []ref{job})
	if err != nil {
		return nil, err
	}
	return results[0].job, results[0].err
}

// maxJobsInPoll bounds a batch poll.
const maxJobsInPoll = 1000

// poll answers POST …/poll.
func (h *handler) poll(ctx context.Context, req *request) (any, error) {
	if h.svc.Async == nil {
		return nil, notServed("jobs")
	}
	var items []json.RawMessage
	if has, err := req.body.read("jobs", "an array", &items); err != nil {
		return nil, err
	} else if !has {
		return nil, malformed("jobs is missing")
	}
	if len(items) == 0 || len(items) > maxJobsInPoll {
		return nil, malformed("jobs has %d items; 1 to %d are due", len(items), maxJobsInPoll)
	}
	jobs := make([]ref, len(items))
	for i, raw := range items {
		f, err := object(raw, fmt.Sprintf("jobs[%d]", i))
		if err != nil {
			return nil, err
		}
		if jobs[i], err = f.ref(); err != nil {
			return nil, malformed("jobs[%d]: %s", i, status.Convert(err).Message())
		}
	}
	looked, err := h.look(ctx, req, jobs)
	if err != nil {
		return nil, err
	}
	out := pollReply{Results: make([]pollResult, len(looked))}
	for i, l := range looked {
		out.Results[i].Job = l.job
		if l.err != nil {
			out.Results[i].Error = pollErrorOf(statusOf(l.err))
		}
	}
	return out, nil
}

// looked is what there is to tell of one job.
type looked struct {
	job *jobStatus
	err error
}

// look polls jobs, and gives a result for each of them.
func (h *handler) look(ctx context.Context, req *request, jobs []ref) ([]looked, error) {
	if h.svc.Batch != nil {
		out, err := h.lookAtOnce(ctx, req, jobs)
		if status.Code(err) != codes.Unimplemented {
			return out, err
		} // as flytebackend.v1 has it, the service does without
	}
	out := make([]looked, len(jobs))
	const atOnce = 16
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, job := range jobs {
		slots <- struct{}{}
		if err := ctx.Err(); err != nil {
			out[i].err = err // the caller is gone
			<-slots
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer func() {
				if p := recover(); p != nil { // in a goroutine of its own a panic would end the process
					out[i] = looked{err: h.panicked(ctx, req.http, p).Err()}
				}
			}()
			r, err := h.svc.Async.GetTask(ctx, &admin.GetTaskRequest{
				TaskType: req.taskType, TaskCategory: req.category(job), ResourceMeta: job.id, OutputPrefix: job.outputPrefix,
			})
			if err == nil {
				out[i].job, err = jobStatusOf(jobSpec{req.taskType, req.version}, r.GetResource(), 0)
			}
			out[i].err = err
		})
	}
	wg.Wait()
	return out, nil
}

func (h *handler) lookAtOnce(ctx context.Context, req *request, jobs []ref) ([]looked, error) {
	in := &flytebackendv1.GetTasksRequest{}
	for _, job := range jobs {
		in.Tasks = append(in.Tasks, &flytebackendv1.TaskRef{
			TaskCategory: req.category(job), PluginVersion: req.version, ResourceMeta: job.id, OutputPrefix: job.outputPrefix,
		})
	}
	r, err := h.svc.Batch.GetTasks(ctx, in)
	if err != nil {
		return nil, err
	}
	if len(r.GetResults()) != len(jobs) {
		return nil, internal("the service gave %d results for %d jobs", len(r.GetResults()), len(jobs))
	}
	out := make([]looked, len(jobs))
	for i, result := range r.GetResults() {
		if e := result.GetError(); e != nil {
			out[i].err = errorOf(e).Err()
			continue
		}
		t := result.GetTask()
		out[i].job, out[i].err = jobStatusOf(jobSpec{req.taskType, req.version}, t.GetResource(), t.GetPollAfter().AsDuration())
	}
	return out, nil
}

// delete answers DELETE /plugins/v1/{task_type}/{version}.
func (h *handler) delete(ctx context.Context, req *request) (any, error) {
	job, err := req.queried()
	if err != nil {
		return nil, err
	}
	return h.deleteJob(ctx, req, job)
}

// deleteByBody answers POST …/delete.
func (h *handler) deleteByBody(ctx context.Context, req *request) (any, error) {
	job, err := req.body.ref()
	if err != nil {
		return nil, err
	}
	return h.deleteJob(ctx, req, job)
}

func (h *handler) deleteJob(ctx context.Context, req *request, job ref) (any, error) {
	if h.svc.Async == nil {
		return nil, notServed("jobs")
	}
	_, err := h.svc.Async.DeleteTask(ctx, &admin.DeleteTaskRequest{TaskType: req.taskType, TaskCategory: req.category(job), ResourceMeta: job.id})
	return deleted{}, err
}

// logs answers POST …/logs.
func (h *handler) logs(ctx context.Context, req *request) (any, error) {
	if h.svc.Async == nil {
		return nil, notServed("jobs")
	}
	job, err := req.body.ref()
	if err != nil {
		return nil, err
	}
	const most = 1e6
	lines, err := req.body.whole("lines", most)
	if err != nil {
		return nil, err
	}
	token, err := req.body.text("token")
	if err != nil {
		return nil, err
	}
	s := &stream[admin.GetTaskLogsRequest, admin.GetTaskLogsResponse]{ctx: ctx, limit: h.maxBody}
	err = h.svc.Async.GetTaskLogs(&admin.GetTaskLogsRequest{
		TaskType: req.taskType, TaskCategory: req.category(job), ResourceMeta: job.id, Lines: uint64(lines), Token: token, //nolint:gosec // not negative
	}, s)
	if err := s.over(err); err != nil {
		return nil, err
	}
	return logged(s.sent), nil
}

// metrics answers POST …/metrics.
func (h *handler) metrics(ctx context.Context, req *request) (any, error) {
	if h.svc.Async == nil {
		return nil, notServed("jobs")
	}
	job, err := req.body.ref()
	if err != nil {
		return nil, err
	}
	in := &admin.GetTaskMetricsRequest{TaskType: req.taskType, TaskCategory: req.category(job), ResourceMeta: job.id}
	var queries []json.RawMessage
	if _, err := req.body.read("queries", "an array", &queries); err != nil {
		return nil, err
	}
	for i, raw := range queries {
		q, err := text(raw, fmt.Sprintf("queries[%d]", i))
		if err != nil {
			return nil, err
		}
		in.Queries = append(in.Queries, q)
	}
	start, err := req.body.time("start")
	if err != nil {
		return nil, err
	}
	end, err := req.body.time("end")
	if err != nil {
		return nil, err
	}
	const year = 365 * 24 * time.Hour
	step, err := req.body.number("step_seconds", year.Seconds())
	if err != nil {
		return nil, err
	}
	if !start.IsZero() {
		in.StartTime = timestamppb.New(start)
	}
	if !end.IsZero() {
		in.EndTime = timestamppb.New(end)
	}
	if step > 0 {
		in.Step = durationpb.New(time.Duration(step * float64(time.Second)))
	}
	r, err := h.svc.Async.GetTaskMetrics(ctx, in)
	if err != nil {
		return nil, err
	}
	out := metricsReply{Metrics: []metric{}}
	for _, m := range r.GetResults() {
		one := metric{Name: m.GetMetric()}
		if m.GetData() != nil {
			if one.Data, err = marshal(m.GetData()); err != nil {
				return nil, err
			}
		}
		out.Metrics = append(out.Metrics, one)
	}
	return out, nil
}

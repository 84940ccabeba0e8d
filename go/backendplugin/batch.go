package backendplugin

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// BatchGetter is an optional ability of an [Async] plugin: it looks at many jobs at once, by whatever its vendor has for that.
// Without it, a poll of many jobs is one Get for each. It may be repeated.
type BatchGetter[ID, Out any] interface {
	// GetMany is Get for up to 1000 jobs, and gives a result for each of them, in their order. Its own error is every job's.
	GetMany(ctx context.Context, jobs []*Job[ID]) ([]Result[Out], error)
}

// Result is what Get would give for one job: a status, or an error about the call.
type Result[Out any] struct {
	Status *Status[Out]
	Err    error
}

// state is a job's state in flyteidl's words, with what flyteidl has no words for.
type state struct {
	resource  *admin.Resource
	pollAfter time.Duration
}

// looked is a state, or why there is none.
type looked struct {
	state *state
	err   error
}

// getManyOf asks for all jobs whose ids can be read; the others cannot be the plugin's.
func getManyOf[ID, Out any](impl BatchGetter[ID, Out]) func(context.Context, []*call) ([]looked, error) {
	return func(ctx context.Context, calls []*call) ([]looked, error) {
		out := make([]looked, len(calls))
		jobs, at := make([]*Job[ID], 0, len(calls)), make([]int, 0, len(calls))
		for i, c := range calls {
			job, err := jobOf[ID](c)
			if err != nil {
				out[i].err = err
				continue
			}
			jobs, at = append(jobs, job), append(at, i)
		}
		if len(jobs) == 0 {
			return out, nil
		}
		results, err := impl.GetMany(ctx, jobs)
		if err != nil {
			return nil, err
		}
		if len(results) != len(jobs) {
			return nil, SystemError("the plugin gave %d results for %d jobs", len(results), len(jobs))
		}
		for i, r := range results {
			s, err := stateOf(r.Status, r.Err)
			if err != nil {
				err = spoken(ctx, err) // here, where a panic of it is caught
			}
			out[at[i]] = looked{s, err}
		}
		return out, nil
	}
}

const (
	// maxJobsInPoll bounds a call of GetTasks, as the contract says.
	maxJobsInPoll = 1000
	// getsAtOnce bounds how many jobs of one call are looked at at once by a plugin that cannot look at many.
	getsAtOnce = 16
)

// GetTasks implements flytebackend.v1.BackendService.
func (s *service) GetTasks(ctx context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
	n := len(r.GetTasks())
	if n == 0 || n > maxJobsInPoll {
		return nil, status.Errorf(codes.InvalidArgument, "the call names %d jobs; 1 to %d are due", n, maxJobsInPoll)
	}
	out := make([]looked, n)
	groups := map[*Plugin][]int{}
	calls := make([]*call, n)
	for i, t := range r.GetTasks() {
		p, c, err := s.taskRef(ctx, "Get", t)
		if err != nil {
			out[i].err = err
			continue
		}
		calls[i] = c
		groups[p] = append(groups[p], i)
	}
	var wg sync.WaitGroup
	for p, at := range groups {
		wg.Go(func() {
			if p.getMany != nil {
				s.getMany(ctx, p, at, calls, out)
			} else {
				s.getEach(ctx, p, at, calls, out)
			}
		})
	}
	wg.Wait()
	res := &flytebackendv1.GetTasksResponse{Results: make([]*flytebackendv1.TaskResult, n)}
	for i, l := range out {
		res.Results[i] = l.result(ctx)
	}
	return res, nil
}

// taskRef begins a call for a job that a message names.
func (s *service) taskRef(ctx context.Context, op string, t *flytebackendv1.TaskRef) (*Plugin, *call, error) {
	c := t.GetTaskCategory()
	p, call, err := s.openFor(ctx, op, c.GetName(), c.GetVersion(), t.GetPluginVersion(), true, async)
	if err != nil {
		return nil, nil, err
	}
	call.id, call.outputPrefix = t.GetResourceMeta(), t.GetOutputPrefix()
	return p, call, nil
}

func (s *service) getMany(ctx context.Context, p *Plugin, at []int, calls []*call, out []looked) {
	group := make([]*call, len(at))
	for i, job := range at {
		group[i] = calls[job]
	}
	whole := *group[0] // of its own, since it is read when the plugin's code, which has the others, is not over in time
	results, err := guarded(ctx, s, "GetMany", &whole, s.timeout, func(ctx context.Context, whole *call) ([]looked, error) {
		for _, c := range group {
			c.log = whole.log
		}
		return p.getMany(ctx, group)
	})
	for i, job := range at {
		if err != nil {
			out[job].err = err
			continue
		}
		out[job] = results[i]
	}
}

func (s *service) getEach(ctx context.Context, p *Plugin, at []int, calls []*call, out []looked) {
	slots := make(chan struct{}, getsAtOnce)
	var wg sync.WaitGroup
	for _, job := range at {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[job].state, out[job].err = guarded(ctx, s, "Get", calls[job], s.timeout, p.get)
		})
	}
	wg.Wait()
}

// result is it in the extension's words.
func (l looked) result(ctx context.Context) *flytebackendv1.TaskResult {
	if l.err != nil {
		st, ok := status.FromError(l.err)
		if _, wrapped := errors.AsType[*Error](l.err); !ok || wrapped {
			st = asError(ctx, l.err).GRPCStatus()
		}
		out := &flytebackendv1.Error{Code: int32(st.Code()), Message: st.Message()} //nolint:gosec // at most 16
		if pause := retryAfter(st); pause > 0 {
			out.RetryAfter = durationpb.New(pause)
		}
		return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Error{Error: out}}
	}
	task := &flytebackendv1.Task{Resource: l.state.resource}
	if l.state.pollAfter > 0 {
		task.PollAfter = durationpb.New(l.state.pollAfter)
	}
	return &flytebackendv1.TaskResult{Result: &flytebackendv1.TaskResult_Task{Task: task}}
}

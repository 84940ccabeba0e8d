package backendplugin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// BatchGetter is an optional ability of an [Async] plugin: it looks at many jobs at once, by whatever its vendor has for that.
// Without it, a poll of many jobs is one Get for each. It may be repeated.
type BatchGetter[ID, Out any] interface {
	// GetMany is Get for up to 1000 jobs, no two of which are the same, and gives a result for each of them, in their order. Its
	// own error is every job's. It has the time of one call ([WithTimeout]); a job that is polled alone is asked for by Get.
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

// getManyOf asks for all jobs whose ids can be read; the others cannot be the plugin's. A job that the caller named twice is
// asked for once.
func getManyOf[ID, Out any](impl BatchGetter[ID, Out]) func(context.Context, []*call) ([]looked, error) {
	type name struct{ id, outputPrefix string }
	return func(ctx context.Context, calls []*call) ([]looked, error) {
		out := make([]looked, len(calls))
		jobs, at := make([]*Job[ID], 0, len(calls)), make([][]int, 0, len(calls))
		known := make(map[name]int, len(calls))
		for i, c := range calls {
			n := name{string(c.id), c.outputPrefix}
			if j, twice := known[n]; twice {
				at[j] = append(at[j], i)
				continue
			}
			job, err := jobOf[ID](c)
			if err != nil {
				out[i].err = err
				continue
			}
			known[n] = len(jobs)
			jobs, at = append(jobs, job), append(at, []int{i})
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
				err = spoken(ctx, aboutJob(err)) // here, where a panic of it is caught
			}
			for _, place := range at[i] {
				out[place] = looked{s, err}
			}
		}
		return out, nil
	}
}

const (
	// maxJobsInPoll bounds a call of GetTasks, as the contract says.
	maxJobsInPoll = 1000
	// callsAtOnce bounds how many calls of plugins' code one call of GetTasks makes at once.
	callsAtOnce = 32
)

// GetTasks implements flytebackend.v1.BackendService.
func (s *service) GetTasks(ctx context.Context, r *flytebackendv1.GetTasksRequest) (*flytebackendv1.GetTasksResponse, error) {
	n := len(r.GetTasks())
	if n == 0 || n > maxJobsInPoll {
		return nil, status.Errorf(codes.InvalidArgument, "the call names %d jobs; 1 to %d are due", n, maxJobsInPoll)
	}
	ctx, cancel := early(ctx, s.timeout)
	defer cancel()
	out := make([]looked, n)
	work := s.divide(ctx, r.GetTasks(), out)
	var next atomic.Int64
	var lanes sync.WaitGroup
	for range min(len(work), callsAtOnce, cap(s.slots)) { // more than may run at once would turn each other away
		lanes.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(work)); i = next.Add(1) - 1 {
				work[i]()
			}
		})
	}
	lanes.Wait()
	res := &flytebackendv1.GetTasksResponse{Results: make([]*flytebackendv1.TaskResult, n)}
	for i, l := range out {
		res.Results[i] = l.result(ctx)
	}
	fit(ctx, res.GetResults(), s.maxMessageSize)
	return res, nil
}

// early ends a context somewhat before its caller stops waiting, so that what is known by then still reaches it: one job that
// takes too long must not hide the others. A batch has no more time than a call.
func early(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		left -= min(left/10, time.Second)
		if limit == 0 || left < limit {
			return context.WithTimeout(ctx, left)
		}
	} else if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, errOwnLimit)
}

// divide makes the calls of plugins' code that the tasks take, which put what they see into out. What no plugin is to be asked
// for is there at once.
func (s *service) divide(ctx context.Context, tasks []*flytebackendv1.TaskRef, out []looked) []func() {
	type kind struct {
		taskType, pluginVersion string
		taskTypeVersion         int32
	}
	type opened struct {
		plugin *Plugin
		call   *call
		err    error
	}
	type group struct {
		calls []*call
		at    []int
	}
	kinds, groups := map[kind]opened{}, map[*Plugin]*group{}
	for i, t := range tasks {
		k := kind{t.GetTaskCategory().GetName(), t.GetPluginVersion(), t.GetTaskCategory().GetVersion()}
		o, seen := kinds[k]
		if !seen { // one that is not here is logged once
			o.plugin, o.call, o.err = s.taskRef(ctx, "Get", t)
			kinds[k] = o
		}
		if o.err != nil {
			out[i].err = o.err
			continue
		}
		c := *o.call
		c.id, c.outputPrefix = t.GetResourceMeta(), t.GetOutputPrefix()
		g := groups[o.plugin]
		if g == nil {
			g = &group{}
			groups[o.plugin] = g
		}
		g.calls, g.at = append(g.calls, &c), append(g.at, i)
	}
	var batches, singles []func()
	for p, g := range groups {
		if p.getMany != nil && len(g.at) > 1 {
			batches = append(batches, func() { s.getMany(ctx, p, g.calls, g.at, out) })
			continue
		}
		for n, i := range g.at {
			singles = append(singles, func() { out[i] = s.getOne(ctx, p, g.calls[n]) })
		}
	}
	// When there is not the time for all, it should not be the same ones each time that are left out.
	rand.Shuffle(len(singles), func(i, j int) { singles[i], singles[j] = singles[j], singles[i] }) //nolint:gosec // nobody gains by guessing it
	return append(batches, singles...)
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

func (s *service) getMany(ctx context.Context, p *Plugin, calls []*call, at []int, out []looked) {
	whole := *calls[0] // of its own, since it is read when the plugin's code, which has the others, is not over in time
	whole.jobs = len(calls)
	results, err := guarded(ctx, s, "GetMany", &whole, s.timeout, func(ctx context.Context, whole *call) ([]looked, error) {
		for _, c := range calls {
			c.log = whole.log
		}
		results, err := p.getMany(ctx, calls)
		for i, r := range results {
			if r.err != nil || r.state == nil {
				continue
			}
			if err := s.sendable(r.state.resource); err != nil {
				results[i].err = spoken(ctx, err)
			}
		}
		return results, err
	})
	for n, i := range at {
		if err != nil {
			out[i].err = err
			continue
		}
		out[i] = results[n]
	}
}

func (s *service) getOne(ctx context.Context, p *Plugin, c *call) looked {
	if err := ctx.Err(); err != nil {
		return looked{err: fmt.Errorf("the poll's time was over before this job's turn: %w", err)}
	}
	state, err := guarded(ctx, s, "Get", c, s.timeout, s.get(p))
	return looked{state, err}
}

// fit replaces results that make the whole answer larger than a message may be. Each of them would fit alone.
func fit(ctx context.Context, results []*flytebackendv1.TaskResult, most int) {
	const reserved = 256 // a result that says so takes less
	room := most - reserved*len(results)
	for i := range results {
		size := proto.Size(results[i]) + 24 // with what is round it
		if size-reserved <= room {
			room -= max(0, size-reserved)
			continue
		}
		err := Overloaded(0, "there was no room for this job's %d bytes beside the others' in an answer of %d", size, most)
		results[i] = looked{err: err}.result(ctx)
	}
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

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// settleTimeout bounds the last words to the jobs table, which have to be said although the service is stopping.
const settleTimeout = 10 * time.Second

// work is one worker: it takes jobs until the service closes.
func (s *Service) work() {
	// Jobs of a service that died are nobody's to announce, so look for them as well.
	tick := time.NewTicker(max(s.opts.Lease/4, 10*time.Millisecond))
	defer tick.Stop()
	for s.ctx.Err() == nil {
		j, err := s.store.claim(s.ctx)
		switch {
		case err == nil:
			s.nudge() // there may be more, and another worker may be idle
			s.execute(j)
			continue
		case !errors.Is(err, errNoJob) && s.ctx.Err() == nil:
			s.opts.Log.Error("sqlite: no job could be claimed", "error", err)
		}
		select {
		case <-s.ctx.Done():
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// execute runs a claimed job and stores how it ended.
func (s *Service) execute(j *job) {
	if j.phase == phaseDeleted {
		s.purge(s.ctx, j)
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	here := &run{cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.runs[j.id] = here
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.runs, j.id)
		s.mu.Unlock()
		close(here.done)
	}()

	log := s.opts.Log.With("job", j.id, "run", j.runs)
	var message atomic.Pointer[string]
	report := func(m string) { message.Store(&m) }
	report(j.message)
	jobLog := s.openLog(j)
	defer jobLog.close()

	beat := make(chan struct{})
	go func() {
		defer close(beat)
		s.heartbeat(ctx, j.id, &message, cancel)
	}()
	started := time.Now()
	res, err := s.perform(ctx, j, func(m string) { report(m); jobLog.line(m) })
	if err != nil {
		res = failed(err)
	}
	// A run that was told to stop has no outcome of its own, whatever perform made of it.
	stopped, cause := ctx.Err() != nil, context.Cause(ctx)
	cancel(nil)
	<-beat

	// From here on the service may be closing; what is said to the table has to be said all the same.
	last, done := context.WithTimeout(context.WithoutCancel(s.ctx), settleTimeout)
	defer done()
	if stopped && !errors.Is(cause, errDeleted) && !errors.Is(cause, errLost) {
		if err := s.store.release(last, j.id); err != nil {
			log.Error("sqlite: the job was not put back; it runs again when its lease is over", "error", err)
		}
		jobLog.line("put back into the queue: the service stops")
		return
	}
	if !stopped {
		raw, err := proto.Marshal(res)
		if err != nil {
			log.Error("sqlite: the outcome cannot be stored", "error", err)
			return
		}
		kept, err := s.store.finish(last, j.id, raw)
		if err != nil {
			log.Error("sqlite: the outcome was not stored; the job runs again when its lease is over", "error", err)
			return
		}
		if kept {
			jobLog.line(res.GetPhase().String() + ": " + res.GetMessage())
			log.Info("sqlite: job finished", "phase", res.GetPhase().String(), "took", seconds(time.Since(started)), "message", res.GetMessage())
			return
		}
	}
	// Somebody else decided. If the job is gone, so must be what it wrote; if another service has it, its result is at
	// the same place and must stay.
	if _, err := s.store.get(last, j.id); errors.Is(err, errNoJob) {
		jobLog.close()
		s.purge(last, j)
	}
	log.Info("sqlite: job abandoned", "cause", cause)
}

// heartbeat renews the lease and passes on the progress, until ctx ends or the job is not this service's any more.
func (s *Service) heartbeat(ctx context.Context, id string, message *atomic.Pointer[string], cancel context.CancelCauseFunc) {
	tick := time.NewTicker(max(s.opts.Lease/10, 5*time.Millisecond))
	defer tick.Stop()
	for {
		mine, err := s.store.renew(ctx, id, *message.Load())
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.opts.Log.Warn("sqlite: lease not renewed", "job", id, "error", err)
		case !mine:
			cancel(errLost)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// perform does the job. It may be repeated at any point, by this service or another one.
func (s *Service) perform(ctx context.Context, j *job, report func(string)) (*admin.Resource, error) {
	started := time.Now()
	if j.runs > maxRuns {
		return nil, systemError("TooManyRuns", fmt.Errorf("the job was started %d times and the service died each time", maxRuns))
	}
	req, err := decodeRequest(j)
	if err != nil {
		return nil, systemError("Internal", err)
	}
	t, err := parseTask(req)
	if err != nil {
		return nil, userError("BadTask", err)
	}
	var dest destination
	if t.output != nil { // before the query, because a query whose rows have nowhere to go is a waste
		if dest, err = destinationFor(s.absolute(req.GetOutputPrefix()), j.id, t.output); err != nil {
			return nil, err
		}
	}
	tmp := filepath.Join(s.opts.Dir, "tmp", j.id)
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
		return nil, systemError("JobsFolder", err)
	}
	defer os.RemoveAll(tmp)

	report("opening the database")
	src, err := s.locate(ctx, t, tmp, report)
	if err != nil {
		return nil, err
	}
	report("running the query")
	result, err := s.query(ctx, src, t.query, func(n int) { report(fmt.Sprintf("running the query: %d rows so far", n)) })
	if err != nil {
		return nil, err
	}
	err = wait(ctx, started, s.opts.MinJobTime, func(left time.Duration) {
		report(fmt.Sprintf("%d rows read; this service takes %v for every job, %s to go", len(result.rows), s.opts.MinJobTime, seconds(left)))
	})
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	info, err := structpb.NewStruct(map[string]any{"rows": len(result.rows), "columns": len(result.columns), "runs": j.runs})
	if err != nil {
		return nil, systemError("Internal", err)
	}
	res := &admin.Resource{
		Phase:      core.TaskExecution_SUCCEEDED,
		Message:    fmt.Sprintf("%d rows of %d columns", len(result.rows), len(result.columns)),
		CustomInfo: info,
	}
	if t.output == nil && len(t.values) == 0 {
		return res, nil
	}
	if res.Outputs, err = valuesOf(t.values, result); err != nil {
		return nil, err
	}
	if t.output != nil {
		report(fmt.Sprintf("writing %d rows to %s", len(result.rows), dest.uri))
		if res.Outputs.Literals[t.output.name], err = dest.write(result); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// purge removes what a deleted job wrote, then its row. When that does not work, the row stays and it is tried again.
func (s *Service) purge(ctx context.Context, j *job) {
	err := s.removeOutput(j)
	if err == nil {
		s.removeLog(j.id)
		err = s.store.forget(ctx, j.id)
	}
	if err == nil {
		return
	}
	s.opts.Log.Error("sqlite: a deleted job left something behind; trying again in a minute", "job", j.id, "error", err)
	if err := s.store.postpone(context.WithoutCancel(ctx), j.id, time.Minute); err != nil {
		s.opts.Log.Error("sqlite: the clean-up was not postponed", "job", j.id, "error", err)
	}
}

func (s *Service) removeOutput(j *job) error {
	req, err := decodeRequest(j)
	if err != nil {
		return err
	}
	folder, ok := jobFolder(s.absolute(req.GetOutputPrefix()), j.id)
	if !ok {
		return nil // such a job wrote nothing
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove the result: %w", err)
	}
	return nil
}

func decodeRequest(j *job) (*admin.CreateTaskRequest, error) {
	req := &admin.CreateTaskRequest{}
	if err := proto.Unmarshal(j.request, req); err != nil {
		return nil, fmt.Errorf("the stored request cannot be read: %w", err)
	}
	return req, nil
}

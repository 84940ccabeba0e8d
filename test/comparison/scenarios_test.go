package comparison_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// finding is what a side did.
type finding struct {
	// Good says whether what a user wants happened.
	Good bool
	Text string
	// Value is what sides are compared by in a scenario that is only measured; less is better.
	Value float64
}

func good(ok bool, format string, args ...any) finding {
	return finding{Good: ok, Text: fmt.Sprintf(format, args...)}
}

// scenario is one row of the table.
type scenario struct {
	name string
	// what happens, in the words of the table.
	what string
	// test shows the same with a single task: the test's name in go/tasks/plugins/webapi/backend.
	test string
	// long scenarios begin first.
	long bool
	// measured scenarios have no good or bad; ours has to be better than upstream's.
	measured bool
	play     func(w *world) finding
}

var scenarios = []scenario{
	{
		name: "outage", long: true, test: "TestFaultPollFailuresCountForEver",
		what: "A service is away for 38 s while a job runs, and the job succeeds meanwhile (polled every 5 s)",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			x := w.start(submission{workflow: "chains.one", edit: forever})
			w.untilRunning(x.Execution)
			s.Kill()
			time.Sleep(38 * time.Second) // more than six polls, and then one
			s.Finish("")
			back := time.Now()
			must(s.Start())
			const patience = 20 * time.Second
			out, ended := x.finishWithin(patience)
			if !ended {
				return good(false, "still RUNNING %s after the service is back, and polled %d times since", seconds(patience), len(s.pollsSince(back)))
			}
			return good(out.Phase == core.WorkflowExecution_SUCCEEDED, "%s %s after the service is back", out.Phase, seconds(time.Since(back)))
		},
	},
	{
		name: "unavailable", test: "TestFaultUnavailableOnCreateFailsTheTask",
		what: "One create is answered with UNAVAILABLE, as in a rolling restart; the task has no retries",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			s.Fail(backendtest.Create, 1, status.Error(codes.Unavailable, "shutting down"))
			return ending(w.start(submission{workflow: "chains.one"}).finish())
		},
	},
	{
		name: "same-name", test: "TestFaultSameNameInTwoDomains",
		what: "Executions of one name in two domains at once: x + 2 for x = 1 in development and x = 100 in production",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			start := func(domain string, x int) *run {
				return w.start(submission{workflow: "chains.slow_chain", domain: domain, name: "nightly", inputs: map[string]any{"x": x}})
			}
			dev, prod := start("development", 1), start("production", 100)
			got := func(r *run) int64 { return integer(r.finish().Outputs.GetLiterals()["o0"]) }
			d, p := got(dev), got(prod)
			return good(d == 3 && p == 102, "development got %d, production %d", d, p)
		},
	},
	{
		name: "killed", test: "TestFaultRepeatedCreateIsASecondJob",
		what: "Propeller is killed (kill -9) between the service's taking a create and its reply, and started again",
		play: func(w *world) finding {
			s := newService()
			taken, first := make(chan struct{}), true
			s.taken = func() {
				if first { // creates come one after another here
					first = false
					close(taken)
					time.Sleep(2 * time.Second) // propeller is killed meanwhile
				}
			}
			s.started()
			one := w.spawn(setup{poll: "5s"}, s, "chains.one")
			<-taken
			must(one.Process.Kill())
			_ = one.Wait() // it was killed
			must(w.spawn(setup{poll: "5s"}, s, "chains.one").Wait())
			n := len(s.Jobs())
			return good(n == 1, "%s for one task", count(n, "job"))
		},
	},
	{
		name: "many", long: true, test: "BenchmarkDefaultsFor10000Tasks",
		what: "500 tasks run at once, everything as shipped; from 20 s after the last create",
		play: many,
	},
	{
		name: "chain-shipped", long: true, measured: true, test: "TestShortJobsEndSoon",
		what: "Wall time of a workflow of two tasks, one after the other, whose jobs take 1 s each; everything as shipped",
		play: func(w *world) finding { return wallTime(w, setup{}, whole) },
	},
	{
		name: "chain-5s", long: true, measured: true,
		what: "The same, polled every 5 s, the least that propeller's plugin machinery allows",
		play: func(w *world) finding { return wallTime(w, setup{poll: "5s"}, whole) },
	},
	{
		name: "wake", long: true, measured: true, test: "TestFaultCompletionWaits",
		what: "In that workflow, from the poll that shows the last job's end to the workflow's end",
		play: func(w *world) finding { return wallTime(w, setup{poll: "5s"}, sinceLastPoll) },
	},
	{
		name: "progress", long: true, test: "TestFaultUpdatesWhileRunningAreLost",
		what: "Message, log links and custom info of a running job change in five steps, every 6 s (polled every 5 s)",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			x := w.start(submission{workflow: "chains.progress", edit: custom("seconds", 30)})
			x.finish()
			var steps []float64
			for _, e := range w.taskEvents(x.Execution) {
				step := e.Task.GetCustomInfo().GetFields()["step"].GetNumberValue()
				if e.Task.GetPhase() == core.TaskExecution_RUNNING && step > 0 && !slices.Contains(steps, step) {
					steps = append(steps, step)
				}
			}
			return good(len(steps) >= 3, "%d of 5 steps reach the console while the job runs", len(steps))
		},
	},
	{
		name: "versions", test: "TestFaultVersionsOfATypeAreLost",
		what: "A service beside the default one lists versions 1 and 2 of a task type; a task of each version runs",
		play: func(w *world) finding {
			standard := newService(backendtest.Plugin{TaskType: backendtest.TypeJobB}).started()
			special := newService(backendtest.Plugin{TaskType: backendtest.TypeJob, Versions: []int32{1, 2}}).started()
			w.open(setup{poll: "5s"}, standard, special)
			var runs []*run
			for v := range int32(2) {
				runs = append(runs, w.start(submission{workflow: "chains.one", edit: func(t *core.TaskTemplate) { t.TaskTypeVersion = v + 1 }}))
			}
			right := 0
			for _, x := range runs {
				x.finish()
				right += len(special.JobsOf(x.ID().GetName()))
			}
			return good(right == 2, "%d of 2 tasks reach the service that lists them, %d the default one", right, len(standard.Jobs()))
		},
	},
	{
		name: "list-fails", long: true, test: "TestFaultFailedListDropsTypes",
		what: "A service beside the default one fails to list its task types for a while, but works otherwise",
		play: listFails,
	},
	{
		name: "connections", long: true, test: "TestFaultRedials",
		what: "Connections that propeller makes to one service in 45 s",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{}, s, nil)
			time.Sleep(45 * time.Second)
			n := s.Connections()
			return good(n == 1, "%d", n)
		},
	},
	{
		name: "error", test: "TestEndsOfJobs",
		what: "A job fails with an error code of its own, `Broken`",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			out := w.start(submission{workflow: "retries.permanent"}).finish()
			return good(out.Error.GetCode() == "Broken", "the workflow's error code is `%s`", out.Error.GetCode())
		},
	},
	{
		name: "system-error", test: "TestEndsOfJobs",
		what: "Two jobs fail for the system's reasons, recoverably, as their error says; the task has no retries of its own",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			x := w.start(submission{workflow: "retries.system"})
			return ending(x.finish())
		},
	},
	{
		name: "aborted", test: "TestEndsOfJobs",
		what: "A job is aborted outside Flyte, with the message `cancelled by the operator`",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			s.answer = func(r *admin.GetTaskResponse) {
				r.Resource = &admin.Resource{Phase: core.TaskExecution_ABORTED, Message: "cancelled by the operator"}
			}
			out := w.start(submission{workflow: "chains.one"}).finish()
			return good(strings.Contains(out.Error.GetMessage(), "cancelled by the operator"), "%s", failure(out.Error))
		},
	},
	{
		name: "unset", test: "TestEndsOfJobs",
		what: "A service answers polls with a job whose phase it has not set; the task has two retries",
		play: func(w *world) finding {
			s := newService().started()
			s.answer = func(r *admin.GetTaskResponse) { r.Resource = &admin.Resource{} }
			w.open(setup{poll: "5s"}, s, nil)
			x := w.start(submission{workflow: "chains.one", edit: func(t *core.TaskTemplate) {
				t.Metadata.Retries = &core.RetryStrategy{Retries: 2}
			}})
			e := x.finish().Error
			return good(strings.Contains(e.GetMessage(), "phase"), "after %s: %s", count(len(s.Jobs()), "job"), failure(e))
		},
	},
	{
		name: "sync", test: "TestSyncTasks",
		what: "Four synchronous tasks of 8 s run while propeller has two workers; from another workflow's submission to its first job",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s", workers: 2}, s, nil)
			for range 4 {
				w.start(submission{workflow: "chains.one", edit: both(custom("seconds", 8), synchronous)})
			}
			until("two synchronous calls have come", func() bool { return s.Calls(backendtest.Execute) >= 2 })
			x := w.start(submission{workflow: "chains.one"})
			until("the other workflow's job is there", func() bool { return len(s.JobsOf(x.ID().GetName())) > 0 })
			waited := time.Since(x.began)
			return good(waited < 8*time.Second, "%s", seconds(waited)) // for none of those calls
		},
	},
	{
		name: "slow-create", test: "TestSlowCreateHoldsNoWorker",
		what: "Four creates take 6 s each while propeller has two workers; from another service's workflow's submission to its first job",
		play: func(w *world) finding {
			slow := newService(backendtest.Plugin{TaskType: backendtest.TypeJob}).started()
			quick := newService(backendtest.Plugin{TaskType: backendtest.TypeJobB}).started()
			w.open(setup{poll: "5s", workers: 2}, slow, quick)
			slow.Delay(backendtest.Create, 6*time.Second)
			for range 4 {
				w.start(submission{workflow: "chains.one"})
			}
			until("two creates have come", func() bool { return slow.Calls(backendtest.Create) >= 2 })
			began := time.Now()
			w.start(submission{workflow: "chains.one", edit: func(t *core.TaskTemplate) { t.Type = backendtest.TypeJobB }})
			until("the other workflow's job is there", func() bool { return len(quick.Jobs()) > 0 })
			waited := time.Since(began)
			return good(waited < 6*time.Second, "%s", seconds(waited)) // for none of those calls
		},
	},
	{
		name: "long-sync", test: "TestSyncTasks",
		what: "A synchronous task takes 12 s; everything as shipped",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{}, s, nil)
			return ending(w.start(submission{workflow: "chains.one", edit: both(custom("seconds", 12), synchronous)}).finish())
		},
	},
	{
		name: "streamed", test: "TestSyncTasks",
		what: "A synchronous task's service streams the outputs after the header, as flyteidl lets it",
		play: func(w *world) finding {
			s := newService()
			s.OnExecute = func(context.Context, *admin.CreateRequestHeader, *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
				return []*admin.ExecuteTaskSyncResponse{
					{Res: &admin.ExecuteTaskSyncResponse_Header{Header: &admin.ExecuteTaskSyncResponseHeader{
						Resource: &admin.Resource{Phase: core.TaskExecution_SUCCEEDED},
					}}},
					{Res: &admin.ExecuteTaskSyncResponse_Outputs{Outputs: &core.LiteralMap{Literals: map[string]*core.Literal{"o0": {
						Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
							Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: 5}},
						}}},
					}}}}},
				}, nil
			}
			s.started()
			w.open(setup{poll: "5s"}, s, nil)
			return ending(w.start(submission{workflow: "chains.one", edit: synchronous}).finish())
		},
	},
	{
		name: "map", long: true, test: "TestItemsOverRestarts",
		what: "`map_task` over three jobs",
		play: func(w *world) finding {
			s := newService().started()
			w.open(setup{poll: "5s"}, s, nil)
			x := w.start(submission{workflow: "maps.plain", inputs: map[string]any{"xs": []any{1, 2, 3}}})
			return ending(x.finish())
		},
	},
	{
		name: "clash", test: "TestFallbackToABuiltInPlugin",
		what: "A service lists a task type that an enabled built-in plugin has too (`echo`), and no setting decides",
		play: func(w *world) finding {
			s := newService(backendtest.Plugin{TaskType: backendtest.TypeJob}, backendtest.Plugin{TaskType: "echo"}).started()
			if err := w.tryOpen(setup{poll: "5s"}, s, nil); err != nil {
				_, why, _ := strings.Cut(err.Error(), "propeller does not start: ")
				why, _, _ = strings.Cut(why, ". (") // a dump of the plugins follows
				return good(false, "propeller does not start: `%s`", why)
			}
			return ending(w.start(submission{workflow: "unserved.echoed"}).finish())
		},
	},
}

// many measures how often each of many running tasks is polled.
func many(w *world) finding {
	const tasks = 500
	s := newService().started()
	w.open(setup{}, s, nil)
	for range tasks {
		w.start(submission{workflow: "retries.long_running"})
	}
	until("all jobs are there", func() bool { return s.Calls(backendtest.Create) == tasks })
	time.Sleep(20 * time.Second) // new jobs are polled more often by this plugin, and in a burst by upstream's
	const window = 30 * time.Second
	from := time.Now()
	time.Sleep(window)
	polls := s.pollsSince(from)
	seen := map[string]bool{}
	for _, p := range polls {
		seen[p.job] = true
	}
	rate := float64(len(polls)) / window.Seconds()
	return good(len(seen) == tasks, "%.0f polls a second, so each task is seen every %.0f s; %d of %d were seen in 30 s",
		rate, tasks/rate, len(seen), tasks)
}

// wallTime starts nine workflows of two jobs of 1 s, 3.3 s apart and so at any moment of a poll interval, and gives the
// median and the range of what is measured.
func wallTime(w *world, su setup, measure func(*service, *run) time.Duration) finding {
	const runs = 9
	s := newService().started()
	w.open(su, s, nil)
	var xs []*run
	for range runs {
		xs = append(xs, w.start(submission{workflow: "chains.slow_chain"}))
		time.Sleep(3300 * time.Millisecond)
	}
	var took []time.Duration
	for _, x := range xs {
		took = append(took, measure(s, x))
	}
	slices.Sort(took)
	f := good(true, "%s (%.1f to %s)", seconds(took[runs/2]), took[0].Seconds(), seconds(took[runs-1]))
	f.Value = took[runs/2].Seconds()
	return f
}

func whole(_ *service, x *run) time.Duration {
	took, _ := x.took()
	return took
}

// sinceLastPoll is the time from the first poll that showed the last job's end.
func sinceLastPoll(s *service, x *run) time.Duration {
	_, ended := x.took()
	jobs := s.JobsOf(x.ID().GetName())
	last := jobs[len(jobs)-1].ID
	for _, p := range s.pollsSince(x.began) {
		if p.job == last && p.phase == core.TaskExecution_SUCCEEDED {
			return ended.Sub(p.at)
		}
	}
	panic("no poll showed the end of job " + last)
}

// listFails has a service that cannot say what it serves, a job that runs there, and a new task.
func listFails(w *world) finding {
	standard := newService(backendtest.Plugin{TaskType: backendtest.TypeJobB}).started()
	special := newService(backendtest.Plugin{TaskType: backendtest.TypeJob})
	special.JobPrefix = "special-"
	special.started()
	w.open(setup{poll: "5s"}, standard, special)
	running := w.start(submission{workflow: "chains.one", edit: forever})
	w.untilRunning(running.Execution)
	special.Fail(backendtest.List, -1, status.Error(codes.Unavailable, "busy"))
	lists := special.Calls(backendtest.List)
	until("the list has failed", func() bool { return special.Calls(backendtest.List) > lists })
	time.Sleep(time.Second) // what it means is taken over
	from := time.Now()
	late := w.start(submission{workflow: "chains.one", edit: forever})
	until("the new task's job is there", func() bool {
		return len(standard.JobsOf(late.ID().GetName()))+len(special.JobsOf(late.ID().GetName())) > 0
	})
	time.Sleep(11 * time.Second) // two polls
	first := special.JobsOf(running.ID().GetName())[0].ID
	of := func(polls []poll) (n int) {
		for _, p := range polls {
			if p.job == first {
				n++
			}
		}
		return n
	}
	astray, right, wrong := of(standard.pollsSince(from)), of(special.pollsSince(from)), len(standard.Jobs())
	return good(astray == 0 && right > 0 && wrong == 0, "%d of %s of a running job, and %d of 1 new job, go to the default service",
		astray, count(astray+right, "poll"), wrong)
}

// ending tells how a workflow ended that should have succeeded.
func ending(out *engine.Outcome) finding {
	if out.Phase == core.WorkflowExecution_SUCCEEDED {
		return good(true, "SUCCEEDED")
	}
	return good(false, "%s: %s", out.Phase, failure(out.Error))
}

// failure is the part of an error that tells, in one line that a table takes: propeller wraps what it is told.
func failure(e *core.ExecutionError) string {
	code, message := e.GetCode(), strings.Join(strings.Fields(strings.ReplaceAll(e.GetMessage(), "|", "/")), " ")
	if i := strings.LastIndex(code, "|"); i >= 0 {
		code = code[i+1:]
	}
	for _, wrapping := range []string{"Last Error: ", "USER::", "SYSTEM::", "UNKNOWN::", "Last known status message: ", "caused by: ", "caused by: "} {
		if _, rest, ok := strings.Cut(message, wrapping); ok {
			message = rest
		}
	}
	message, _, _ = strings.Cut(message, " [1]: ") // the second task of an array says the same
	return "`" + code + "`: `" + message + "`"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func seconds(d time.Duration) string {
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

package comparison_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendtest"
	"github.com/flyte-backend/flyte-backend/go/engine"
	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/k8s/pod" // propeller's default plugin
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing" // the built-in echo plugin
)

// A side is the plugin that propeller runs the tasks with.
type side string

const (
	connectorService side = "connector-service"
	backend          side = "backend"
)

var sides = []side{connectorService, backend}

// limit bounds every wait for something that has to come on both sides.
const limit = 150 * time.Second

// setup is what differs between scenarios in propeller's configuration; the zero value is everything as shipped.
type setup struct {
	// poll is how often jobs are polled; empty is each plugin's default. 5 s is the least that the machinery takes.
	poll string
	// workers of propeller; 0 is its default, 20.
	workers int
}

// config is propeller's configuration for the service that is the default, and one more that may be there. The engine's own
// defaults are quicker than propeller's, so these are spelt out.
func (s side) config(su setup, standard, special *service) string {
	if su.workers == 0 {
		su.workers = 20
	}
	lines := []string{
		"propeller:",
		fmt.Sprintf("  workers: %d", su.workers),
		"  workflow-reeval-duration: 10s",
		"  downstream-eval-duration: 30s",
		"  queue: {type: batch, batching-interval: 1s}",
	}
	plugins, deployments, first := "", "deployments", fmt.Sprintf("      default: {endpoint: %q, insecure: true}", standard.Endpoint())
	section := []string{"  backend:", "    enable_backend_flytekit_plugin_system: true"}
	if s == connectorService {
		plugins, deployments, first = ", connector-service", "connectors", ""
		section = []string{"  connector-service:", fmt.Sprintf("    defaultConnector: {endpoint: %q}", standard.Endpoint())}
	}
	lines = append(lines, "tasks: {task-plugins: {enabled-plugins: [container, sidecar, echo"+plugins+"]}}", "plugins:")
	lines = append(lines, section...)
	if first != "" || special != nil {
		lines = append(lines, "    "+deployments+":", first)
	}
	if special != nil {
		lines = append(lines, fmt.Sprintf("      special: {endpoint: %q, insecure: true}", special.Endpoint()))
	}
	if su.poll != "" {
		lines = append(lines, fmt.Sprintf("    webApi: {caching: {resyncInterval: %s}}", su.poll))
	}
	return strings.Join(lines, "\n") + "\n"
}

// world is a scenario's process: an engine, and services that it calls. A process has one engine, so each scenario has a
// process for each side. What goes wrong in it, other than what the scenario is about, panics.
type world struct {
	side   side
	dir    string
	engine *engine.Engine

	mu     sync.Mutex
	events []engine.Event
}

// service is a backend plugin service that writes down when it was asked for what.
type service struct {
	*backendtest.Backend
	// taken, if set, is called with every create after its job is there and before the reply.
	taken func()
	// answer, if set, may change the answer to a poll.
	answer func(*admin.GetTaskResponse)

	mu    sync.Mutex
	polls []poll
}

type poll struct {
	job   string
	at    time.Time
	phase core.TaskExecution_Phase
}

func newService(plugins ...backendtest.Plugin) *service {
	s := &service{Backend: backendtest.NewJobs(plugins...)}
	s.OneByOne = true // as every service is that the connector plugin knows
	s.ServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(s.watch)}
	return s
}

func (s *service) started() *service {
	must(s.Start())
	return s
}

func (s *service) watch(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	res, err := handler(ctx, req)
	switch req := req.(type) {
	case *admin.CreateTaskRequest:
		if s.taken != nil {
			s.taken()
		}
	case *admin.GetTaskRequest:
		p := poll{job: string(req.GetResourceMeta()), at: time.Now()}
		if r, ok := res.(*admin.GetTaskResponse); ok && err == nil {
			if s.answer != nil {
				s.answer(r)
			}
			p.phase = r.GetResource().GetPhase()
		}
		s.mu.Lock()
		s.polls = append(s.polls, p)
		s.mu.Unlock()
	}
	return res, err
}

// pollsSince gives the polls from a moment on.
func (s *service) pollsSince(t time.Time) []poll {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []poll
	for _, p := range s.polls {
		if !p.at.Before(t) {
			out = append(out, p)
		}
	}
	return out
}

// open starts propeller.
func (w *world) open(su setup, standard, special *service) { must(w.tryOpen(su, standard, special)) }

func (w *world) tryOpen(su setup, standard, special *service) (err error) {
	w.engine, err = engine.Open(context.Background(), engine.Options{Config: w.side.config(su, standard, special), OnEvent: func(e engine.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}})
	return err
}

// taskEvents gives the task events of an execution so far.
func (w *world) taskEvents(x *engine.Execution) []engine.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []engine.Event
	for _, e := range w.events {
		if e.Task.GetParentNodeExecutionId().GetExecutionId().GetName() == x.ID().GetName() {
			out = append(out, e)
		}
	}
	return out
}

// untilRunning waits until the console would show the execution's task as running.
func (w *world) untilRunning(x *engine.Execution) {
	until("the task is shown as running", func() bool {
		for _, e := range w.taskEvents(x) {
			if e.Task.GetPhase() == core.TaskExecution_RUNNING {
				return true
			}
		}
		return false
	})
}

// submission is a workflow and how it is changed and started.
type submission struct {
	workflow string // "module.name"
	domain   string
	name     string
	inputs   map[string]any
	// edit changes every task; inputs have no defaults then.
	edit func(*core.TaskTemplate)
}

// run is an execution that was started.
type run struct {
	*engine.Execution
	began time.Time
	ended chan time.Time
}

func (w *world) start(s submission) *run {
	module, _, _ := strings.Cut(s.workflow, ".")
	opts := bundle.Options{Domain: s.domain}
	b := must1(bundle.Read(module, workflows.Archive(module), opts))
	if s.edit != nil {
		closure := must1(b.Compile(s.workflow, nil))
		for _, t := range closure.GetTasks() {
			s.edit(t.GetTemplate())
		}
		b = bundle.FromClosure(closure, opts)
	}
	if s.inputs == nil {
		s.inputs = map[string]any{"x": 1}
	}
	in := must1(coreutils.MakeLiteralMap(s.inputs)).GetLiterals()
	r := &run{began: time.Now(), ended: make(chan time.Time, 1)}
	r.Execution = must1(w.engine.Submit(context.Background(), b, s.workflow, engine.Submission{Name: s.name, Inputs: in}))
	go func() {
		<-r.Done()
		r.ended <- time.Now()
	}()
	return r
}

// finish waits for the end, which has to come.
func (r *run) finish() *engine.Outcome {
	out, ended := r.finishWithin(limit)
	if !ended {
		panic(fmt.Sprintf("execution %s has not ended after %s", r.ID().GetName(), limit))
	}
	return out
}

// finishWithin waits for the end, which may not come.
func (r *run) finishWithin(d time.Duration) (*engine.Outcome, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	out, err := r.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, false
	}
	must(err)
	return out, true
}

// took waits for the end, which has to be a success, and gives the time since the start.
func (r *run) took() (time.Duration, time.Time) {
	if out := r.finish(); out.Phase != core.WorkflowExecution_SUCCEEDED {
		panic(fmt.Sprint(out.Phase, " ", out.Error))
	}
	at := <-r.ended
	return at.Sub(r.began), at
}

// custom sets a key of a job's custom.
func custom(key string, value any) func(*core.TaskTemplate) {
	return func(t *core.TaskTemplate) {
		if t.GetCustom().GetFields() == nil {
			t.Custom = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		}
		t.Custom.Fields[key] = must1(structpb.NewValue(value))
	}
}

// forever makes jobs that end only when the service is told.
var forever = custom("seconds", 3600)

// synchronous makes tasks of the type that is executed while propeller waits.
func synchronous(t *core.TaskTemplate) { t.Type = backendtest.TypeJobSync }

func both(edits ...func(*core.TaskTemplate)) func(*core.TaskTemplate) {
	return func(t *core.TaskTemplate) {
		for _, edit := range edits {
			edit(t)
		}
	}
}

func integer(l *core.Literal) int64 { return l.GetScalar().GetPrimitive().GetInteger() }

// until waits for what has to come.
func until(what string, condition func() bool) {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			panic(fmt.Sprintf("not within %s: %s", limit, what))
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1[T any](v T, err error) T {
	must(err)
	return v
}

// An engine that is to be killed has a process of its own below the scenario's.
const enginesEnv = "FLYTE_BACKEND_COMPARISON_ENGINE"

type engineOrder struct{ Folder, Config, Workflow, Name string }

// spawn starts an engine in a process of its own, which runs the workflow, or goes on with it, and ends when it has ended.
func (w *world) spawn(su setup, s *service, workflow string) *exec.Cmd {
	order := must1(json.Marshal(engineOrder{
		Folder: filepath.Join(w.dir, "engine"), Config: w.side.config(su, s, nil), Workflow: workflow, Name: "x0",
	}))
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), enginesEnv+"="+string(order))
	cmd.Stderr = os.Stderr
	must(cmd.Start())
	return cmd
}

func runEngine(text string) {
	var o engineOrder
	must(json.Unmarshal([]byte(text), &o))
	w := &world{engine: must1(engine.Open(context.Background(), engine.Options{Folder: o.Folder, Config: o.Config}))}
	for _, x := range w.engine.Executions() {
		must1(x.Wait(context.Background()))
		return
	}
	w.start(submission{workflow: o.Workflow, name: o.Name}).finish()
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/record"

	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyte-backend/flyte-backend/go/engine/datastore"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller"
	propellerconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/config"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/factory"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/workflow"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/workflowstore"
	"github.com/flyteorg/flyte/flytestdlib/contextutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils/labeled"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// Options configure an Engine. The zero value keeps everything in memory and has propeller's plugins as they come.
type Options struct {
	// Folder keeps all state and data: an engine that is opened on it again, also after a kill, goes on with what was
	// running. It is made if need be. Empty means memory.
	Folder string
	// ConfigFiles are YAML files as propeller reads them; Config is the text of one more, which wins.
	ConfigFiles []string
	Config      string
	// OnEvent hears of every event from the first on, one at a time. It is called in propeller's workers: it must not block.
	OnEvent func(Event)
	// Processes runs tasks in containers as local processes, if the user allows it; nil means that workflows with such tasks
	// are refused.
	Processes *cluster.Processes
}

// ErrClosed is what a closed engine answers: nothing starts, ends or gets a value any more.
var ErrClosed = errors.New("the engine is closed")

// ErrOpen says that this process has an engine already.
var ErrOpen = errors.New("this process has an engine already: propeller's plugins and configuration are one for the process")

// Engine is one propeller with what surrounds it. Its methods may be called at once.
type Engine struct {
	opts Options
	// ctx ends when the engine is closed; plugins live for as long.
	ctx    context.Context //nolint:containedctx // its life is the engine's
	cancel context.CancelFunc

	store     *storage.DataStore
	rawPrefix string
	records   *records
	workflows *workflows
	events    *eventLog
	signals   signals
	plans     launchPlans
	cluster   *cluster.Cluster
	queue     controller.CompositeWorkQueue
	rounds    *rounds
	temporary string // a folder that goes with the engine
	unlock    func() error

	executions sync.Map // key to *Execution
	mu         sync.Mutex
	active     map[string]time.Time // key to when it may be looked at again
	background sync.WaitGroup
	closing    sync.Once
	closed     error
}

var (
	opened  atomic.Bool
	engines atomic.Int64
)

// Open loads propeller's plugins as the configuration says, and goes on with the executions of the folder that have not
// ended. It takes a fraction of a second, up to 3 s more if backend plugin services do not answer. ctx bounds nothing but the
// opening.
func Open(ctx context.Context, opts Options) (*Engine, error) {
	if !opened.CompareAndSwap(false, true) {
		return nil, ErrOpen
	}
	e := &Engine{opts: opts, active: map[string]time.Time{}}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.open(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) open() error {
	labeled.SetMetricKeys(contextutils.ProjectKey, contextutils.DomainKey, contextutils.WorkflowIDKey, contextutils.TaskIDKey)
	scope := promutils.NewScope(fmt.Sprintf("engine%d", engines.Add(1)))
	if err := e.openFolders(scope.NewSubScope("store")); err != nil {
		return err
	}
	if err := loadConfig(e.ctx, e.opts, e.temporary); err != nil {
		return err
	}
	var err error
	if e.cluster, err = cluster.New(cluster.Options{Processes: e.opts.Processes}); err != nil {
		return err
	}
	e.workflows = newWorkflows(e.records, e.changed)
	e.signals = signals{records: e.records, wake: e.wake, setting: &sync.Mutex{}}
	e.plans = launchPlans{records: e.records, e: e}
	pool, workers, err := e.propeller(scope)
	if err != nil {
		return err
	}
	if err := pool.Initialize(e.ctx); err != nil {
		return fmt.Errorf("propeller does not start: %w", err)
	}
	if err := e.resume(); err != nil {
		return err
	}
	e.background.Go(func() { _ = pool.Run(e.ctx, workers) }) // it fails only when caches do not sync, and there are none
	e.background.Go(func() { e.resync(propellerconfig.GetConfig().WorkflowReEval.Duration) })
	return nil
}

// openFolders makes the stores of state, events and data.
func (e *Engine) openFolders(scope promutils.Scope) (err error) {
	if e.temporary, err = os.MkdirTemp("", "flyte-engine-"); err != nil {
		return fmt.Errorf("cannot make a folder for the engine: %w", err)
	}
	e.events = &eventLog{listeners: map[int]func(Event){}, ends: map[string]int64{}}
	if e.opts.OnEvent != nil {
		e.events.listen(e.opts.OnEvent)
	}
	data, state := "", ""
	switch {
	case e.opts.Folder != "":
		abs, err := filepath.Abs(e.opts.Folder)
		if err != nil {
			return fmt.Errorf("cannot use %s as the engine's folder: %w", e.opts.Folder, err)
		}
		data, state, e.events.dir = filepath.Join(abs, "data"), filepath.Join(abs, "state"), filepath.Join(abs, "events")
		for _, dir := range []string{data, state, e.events.dir} {
			if err := os.MkdirAll(dir, 0o750); err != nil {
				return fmt.Errorf("cannot use %s as the engine's folder: %w", abs, err)
			}
		}
		if e.unlock, err = lockFile(filepath.Join(abs, "lock")); err != nil {
			return fmt.Errorf("cannot use %s as the engine's folder: %w", abs, err)
		}
	case e.opts.Processes != nil:
		data = e.temporary // processes have to read and write it
	}
	if data == "" {
		e.store = datastore.Memory(scope)
	} else if e.store, err = datastore.Folder(data, scope); err != nil {
		return err
	}
	e.rawPrefix = e.store.GetBaseContainerFQN(e.ctx).String() + "/raw"
	if e.records, err = openRecords(state); err != nil {
		return fmt.Errorf("cannot read the engine's state in %s: %w", state, err)
	}
	return nil
}

// propeller puts propeller together as its own main does (flytepropeller's controller.New), with the engine's parts where
// that one has Kubernetes and flyteadmin.
func (e *Engine) propeller(scope promutils.Scope) (*controller.WorkerPool, int, error) {
	cfg := *propellerconfig.GetConfig() // a copy: the rest is not the user's to say
	cfg.DefaultRawOutputPrefix = e.rawPrefix
	cfg.ClusterID = "engine"
	// Events bear outputs, not references to them.
	cfg.EventConfig.RawOutputPolicy = propellerconfig.RawOutputPolicyInline
	var err error
	if e.queue, err = controller.NewCompositeWorkQueue(e.ctx, cfg.Queue, scope); err != nil {
		return nil, 0, fmt.Errorf("cannot make propeller's queue: %w", err)
	}
	client, cached := e.cluster.Client(), newCache(e.records)
	handlers, err := factory.NewHandlerFactory(e.ctx, e.plans, e.plans, client, e.cluster.Clientset(), cached, noRecovery{},
		&cfg.EventConfig, cfg.LiteralOffloadingConfig, cfg.ClusterID, e.signals, scope)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot make propeller's node handlers: %w", err)
	}
	node, err := nodes.NewExecutor(e.ctx, cfg.NodeConfig, e.store, e.wake, e.events, e.plans, e.plans,
		storage.DataReference(cfg.DefaultRawOutputPrefix), client, cached, noRecovery{}, cfg.LiteralOffloadingConfig,
		&cfg.EventConfig, cfg.ClusterID, e.signals, handlers, scope)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot make propeller's node executor: %w", err)
	}
	stats, err := workflowstore.NewExecutionStatsHolder()
	if err != nil {
		return nil, 0, err
	}
	executor, err := workflow.NewExecutor(e.ctx, e.store, e.wake, e.events, &record.FakeRecorder{}, cfg.MetadataPrefix, node,
		&cfg.EventConfig, cfg.ClusterID, scope, stats)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot make propeller's workflow executor: %w", err)
	}
	e.rounds = &rounds{Handler: controller.NewPropellerHandler(e.ctx, &cfg, e.store, e.workflows, executor, scope)}
	return controller.NewWorkerPool(e.ctx, scope, e.queue, e.rounds), cfg.Workers, nil
}

// rounds lets the engine wait for the rounds that are under way before it ends what they work with: a round that is
// cancelled counts against its workflow.
type rounds struct {
	controller.Handler
	mu      sync.RWMutex
	closing bool
}

// Handle runs a round, unless the engine is closing.
func (r *rounds) Handle(ctx context.Context, namespace, name string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closing {
		return nil
	}
	return r.Handler.Handle(ctx, namespace, name)
}

func (r *rounds) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
}

// noRecovery stands for flyteadmin's executions that a new one could recover from; there are none.
type noRecovery struct{}

var errNoRecovery = errors.New("this engine recovers no executions: resume it on its folder instead")

func (noRecovery) RecoverNodeExecution(context.Context, *core.WorkflowExecutionIdentifier, string) (*admin.NodeExecution, error) {
	return nil, errNoRecovery
}

func (noRecovery) RecoverNodeExecutionData(context.Context, *core.WorkflowExecutionIdentifier, string) (*admin.NodeExecutionGetDataResponse, error) {
	return nil, errNoRecovery
}

// resume finds the executions of the state and goes on with those that have not ended.
func (e *Engine) resume() error {
	for _, key := range e.workflows.all() {
		wf, err := e.workflows.read(key)
		if err != nil {
			return err
		}
		x := newExecution(e, wf.ExecutionID.WorkflowExecutionIdentifier)
		e.executions.Store(key, x)
		if wf.Status.IsTerminated() {
			close(x.done)
			continue
		}
		rec, err := e.record(key)
		if err != nil {
			return err
		}
		e.begin(key, rec)
	}
	return nil
}

// begin has propeller take up a workflow.
func (e *Engine) begin(key string, rec executionRecord) {
	e.mu.Lock()
	e.active[key] = time.Time{}
	e.mu.Unlock()
	if !rec.Deadline.IsZero() {
		timer := time.AfterFunc(time.Until(rec.Deadline), func() {
			_ = e.abort(key, fmt.Sprintf("it had %s and has not ended", rec.Timeout)) // one that is gone needs none
		})
		context.AfterFunc(e.ctx, func() { timer.Stop() })
	}
	e.wake(key)
}

// wake has propeller look at a workflow, at once unless it is to be left alone for a while.
func (e *Engine) wake(key string) {
	e.mu.Lock()
	at, active := e.active[key]
	e.mu.Unlock()
	if !active {
		return
	}
	if pause := time.Until(at); pause > 0 {
		e.queue.AddToSubQueueAfter(key, pause)
		return
	}
	e.queue.AddToSubQueue(key)
}

// The pause after a round that failed for the system's reasons doubles from the first to the longest. Propeller has none of
// its own: the way of its update through the API server and back makes one. Without it all attempts of a workflow
// (max-workflow-retries) would be spent in milliseconds.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

// changed runs after every update of a workflow.
func (e *Engine) changed(key string, before head, after *v1alpha1.FlyteWorkflow) {
	switch {
	case after.Status.IsTerminated():
		e.mu.Lock()
		_, was := e.active[key]
		delete(e.active, key)
		e.mu.Unlock()
		if !was {
			return
		}
		if x, ok := e.executions.Load(key); ok {
			close(x.(*Execution).done) //nolint:forcetypeassert // nothing else is in it
		}
		if rec, err := e.record(key); err == nil && rec.Parent != "" {
			e.wake(rec.Parent)
		}
	case after.Status.FailedAttempts > before.failedAttempts:
		e.mu.Lock()
		e.active[key] = time.Now().Add(min(firstPause<<min(after.Status.FailedAttempts-1, 20), longestPause))
		e.mu.Unlock()
		e.wake(key)
	default:
		e.wake(key)
	}
}

// resync brings every workflow up now and then, as propeller's informer does.
func (e *Engine) resync(every time.Duration) {
	if every <= 0 { // as informers take it, there is none
		return
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, key := range e.activeKeys() {
				e.wake(key)
			}
		case <-e.ctx.Done():
			return
		}
	}
}

func (e *Engine) activeKeys() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := make([]string, 0, len(e.active))
	for key := range e.active {
		keys = append(keys, key)
	}
	return keys
}

// Execution finds an execution of this engine's state.
func (e *Engine) Execution(id *core.WorkflowExecutionIdentifier) (*Execution, bool) {
	x, ok := e.executions.Load(keyOf(namespaceOf(id.GetProject(), id.GetDomain()), id.GetName()))
	if !ok {
		return nil, false
	}
	return x.(*Execution), true //nolint:forcetypeassert // nothing else is in it
}

// Executions lists the executions of this engine's state, those that have ended too, by project, domain and name.
func (e *Engine) Executions() []*Execution {
	keys := e.workflows.all()
	out := make([]*Execution, 0, len(keys))
	for _, key := range keys {
		if x, ok := e.executions.Load(key); ok {
			out = append(out, x.(*Execution)) //nolint:forcetypeassert // nothing else is in it
		}
	}
	return out
}

// Subscribe has f hear of every event from now on, as Options.OnEvent does, until stop is called, which f itself must not do.
func (e *Engine) Subscribe(f func(Event)) (stop func()) { return e.events.listen(f) }

// Store is where inputs, outputs and raw data are.
func (e *Engine) Store() *storage.DataStore { return e.store }

// Close ends the engine: it waits for the rounds that are under way, and leaves executions as they are. With a folder they
// go on when it is opened again; without they are gone, and their jobs are not. Close may be repeated.
//
// Goroutines that flyteplugins' caches and propeller's array nodes start never end, so each engine leaves some behind.
func (e *Engine) Close() error {
	e.closing.Do(func() {
		if e.rounds != nil {
			e.rounds.finish()
		}
		e.cancel()
		e.background.Wait()
		if e.queue != nil {
			e.queue.ShutdownAll()
		}
		if e.cluster != nil {
			e.cluster.Close()
		}
		if e.records != nil {
			e.records.close() // the folder may be another engine's from now on
		}
		if e.unlock != nil {
			e.closed = e.unlock()
		}
		if e.temporary != "" {
			e.closed = errors.Join(e.closed, os.RemoveAll(e.temporary))
		}
		opened.Store(false)
	})
	return e.closed
}

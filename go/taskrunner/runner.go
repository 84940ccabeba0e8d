// Package taskrunner runs single tasks through FlytePropeller's own task handler: plugin resolution, plugin state, phase
// versions, output validation and events are propeller's code. What is ours is what stands round a task in propeller: the
// node it belongs to, retries, and the queue that brings it up again. There is no API server, etcd or flyteadmin.
package taskrunner

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/flyte-backend/flyte-backend/go/engine/cluster"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
	"github.com/flyteorg/flyte/flytepropeller/events"
	propellerconfig "github.com/flyteorg/flyte/flytepropeller/pkg/controller/config"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/catalog"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/task"
	"github.com/flyteorg/flyte/flytestdlib/contextutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils/labeled"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// Options configure a Runner. The zero value works.
type Options struct {
	// Store keeps inputs and outputs; nil means memory.
	Store *storage.DataStore
	// Cluster stands in for Kubernetes; nil means a new one, where objects are kept and never run. The Cluster of another
	// Runner is the one after a restart.
	Cluster *cluster.Cluster
	// Prefix is the reference below which inputs and outputs are kept; empty means the store's own container.
	Prefix string
	// OnEvent hears of every task event that flyteadmin would get. It is called from the goroutine that runs the task.
	OnEvent func(*event.TaskExecutionEvent)
	// Reevaluate is how often a task is looked at when nothing wakes it; 0 means one second. (Propeller: some 10 to 30 s.)
	Reevaluate time.Duration
	// SystemRetries is how many attempts a task has left after failures that are not its own; 0 means three.
	SystemRetries int
}

// Runner is one propeller, as far as tasks are concerned. Many tasks may run on it at once.
type Runner struct {
	opts    Options
	store   *storage.DataStore
	cluster *cluster.Cluster
	handler *task.Handler
	scope   promutils.Scope
	events  events.TaskEventRecorder

	mu    sync.Mutex
	wakes map[string]chan struct{}
}

var (
	metricKeys sync.Once
	runners    atomic.Int64
)

// New loads propeller's plugins, by the configuration that flytestdlib holds, and is ready to run tasks. Everything that
// plugins start lives until ctx ends; ending ctx is what a killed propeller is to its plugins.
func New(ctx context.Context, opts Options) (*Runner, error) {
	metricKeys.Do(func() {
		labeled.SetMetricKeys(contextutils.ProjectKey, contextutils.DomainKey, contextutils.WorkflowIDKey, contextutils.TaskIDKey)
	})
	if opts.Reevaluate == 0 {
		opts.Reevaluate = time.Second
	}
	if opts.SystemRetries == 0 {
		opts.SystemRetries = 3
	}
	scope := promutils.NewScope(fmt.Sprintf("taskrunner%d", runners.Add(1)))
	r := &Runner{opts: opts, store: opts.Store, scope: scope, wakes: map[string]chan struct{}{}}
	if r.store == nil {
		var err error
		if r.store, err = storage.NewDataStore(&storage.Config{Type: storage.TypeMemory}, scope.NewSubScope("store")); err != nil {
			return nil, fmt.Errorf("cannot make a data store in memory: %w", err)
		}
	}
	var err error
	if r.cluster = opts.Cluster; r.cluster == nil {
		if r.cluster, err = cluster.New(cluster.Options{}); err != nil {
			return nil, err
		}
	}
	r.events = events.NewTaskEventRecorder(admin{}, scope.NewSubScope("events"), r.store)
	r.handler, err = task.New(ctx, r.cluster.Client(), r.cluster.Clientset(), catalog.NOOPCatalog{},
		&propellerconfig.EventConfig{RawOutputPolicy: propellerconfig.RawOutputPolicyReference}, "taskrunner", scope)
	if err != nil {
		return nil, fmt.Errorf("cannot make propeller's task handler: %w", err)
	}
	if err := r.handler.Setup(ctx, setup{r, scope}); err != nil {
		return nil, fmt.Errorf("propeller's task handler does not start: %w", err)
	}
	return r, nil
}

// Scope is the prefix of the runner's metrics: a plugin's own stand below it, behind the plugin's id and a colon.
func (r *Runner) Scope() string { return r.scope.CurrentScope() }

// Store is where inputs and outputs are.
func (r *Runner) Store() *storage.DataStore { return r.store }

// Kube is the client of the Kubernetes that is not there: it remembers what plugins made.
func (r *Runner) Kube() client.Client { return r.cluster.Client().GetClient() }

// Cluster is the Kubernetes that is not there.
func (r *Runner) Cluster() *cluster.Cluster { return r.cluster }

// wakeOf gives the channel that EnqueueOwner of the workflow sends to.
func (r *Runner) wakeOf(ownerID string) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch, ok := r.wakes[ownerID]
	if !ok {
		ch = make(chan struct{}, 1)
		r.wakes[ownerID] = ch
	}
	return ch
}

// setup is what propeller gives to a node handler when it starts.
type setup struct {
	r     *Runner
	scope promutils.Scope
}

func (s setup) EnqueueOwner() func(string) {
	return func(id string) {
		select {
		case s.r.wakeOf(id) <- struct{}{}:
		default: // it is to be woken already
		}
	}
}
func (setup) OwnerKind() string               { return "FlyteWorkflow" }
func (s setup) MetricsScope() promutils.Scope { return s.scope }

// maxEvent is what a gRPC server such as flyteadmin's takes unless it is told otherwise.
const maxEvent = 4 << 20

// admin stands in for flyteadmin: it refuses what could not be sent there. A round with such an event fails, every time.
type admin struct{}

var _ events.EventSink = admin{}

func (admin) Sink(_ context.Context, e protoadapt.MessageV1) error {
	switch b, err := proto.Marshal(protoadapt.MessageV2Of(e)); {
	case err != nil:
		return status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	case len(b) > maxEvent:
		return status.Errorf(codes.ResourceExhausted, "received message larger than max (%d vs. %d)", len(b), maxEvent)
	}
	return nil
}

func (admin) Close() error { return nil }

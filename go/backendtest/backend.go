// Package backendtest is a scriptable backend plugin service for tests: a real server on loopback, for gRPC or for REST, with
// flyteidl's agent services and without a job behind them. Jobs outlive a killed server, as they do with a service that is
// stateless.
package backendtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// Method is a call that can be counted, delayed and made to fail.
type Method string

// The methods.
const (
	List    Method = "list"
	Create  Method = "create"
	Get     Method = "get"
	Delete  Method = "delete"
	Execute Method = "execute"
)

// Plugin is what the service lists.
type Plugin struct {
	TaskType string
	// Versions are task type versions; none lists 0, which means any.
	Versions []int32
	// PluginVersion is listed behind an "@" in the name, unless it is empty.
	PluginVersion string
	Sync          bool
}

// Step is a state of a job from a time after its creation on.
type Step struct {
	After    time.Duration
	Resource *admin.Resource
	// PollAfter is how long nothing new is to be expected. Polls of one job over gRPC cannot tell of it.
	PollAfter time.Duration
}

// Job is a job that the service was asked to create.
type Job struct {
	ID string
	// Key is the idempotency key and PluginVersion the plugin version of the request, as they came.
	Key, PluginVersion string
	Request            *admin.CreateTaskRequest
	// Creates counts the requests that gave this job, Polls those that asked how it is, and Deletes those that deleted it.
	// Whoever polls a job has had the answer to its create.
	Creates, Polls, Deletes int

	created time.Time
	script  []Step
	set     *admin.Resource
}

// Backend is the service. Its zero value is not ready: use New. All methods may be called at once.
type Backend struct {
	// IgnoreKeys makes every create a new job. Set it before Start.
	IgnoreKeys bool
	// JobPrefix begins every job's id; empty means "job-". Set it before Start.
	JobPrefix string
	// REST serves api/openapi.yaml instead of gRPC. Set it before Start.
	REST bool
	// OneByOne leaves out the polls of many jobs in one call, as flytekit's connector services do. Set it before Start.
	OneByOne bool
	// ServerOptions go to the gRPC server, for TLS or limits. Set it before Start.
	ServerOptions []grpc.ServerOption
	// OnExecute answers synchronous calls. Set it before Start.
	OnExecute func(ctx context.Context, header *admin.CreateRequestHeader, inputs *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error)

	// plan, unless nil, gives a new job its script in place of the common one; it is called with mu held.
	plan func(req *admin.CreateTaskRequest) ([]Step, error)

	mu       sync.Mutex
	addr     string
	lis      *listener
	stop     func() // nil while the server is not running
	plugins  []Plugin
	script   []Step
	jobs     map[string]*Job
	byKey    map[string]string
	order    []string
	calls    map[Method]int
	failures map[Method][]error
	always   map[Method]error
	delays   map[Method]time.Duration
	holds    map[Method]chan struct{}
	drops    map[Method]int
	garbles  map[Method]int
	conns    int
	batches  int
}

// New makes a service that lists the plugins. A job succeeds at its first poll, without outputs, unless scripted.
func New(plugins ...Plugin) *Backend {
	return &Backend{
		plugins: plugins,
		script:  []Step{{Resource: &admin.Resource{Phase: core.TaskExecution_SUCCEEDED}}},
		jobs:    map[string]*Job{}, byKey: map[string]string{}, calls: map[Method]int{},
		failures: map[Method][]error{}, always: map[Method]error{}, delays: map[Method]time.Duration{}, holds: map[Method]chan struct{}{},
		drops: map[Method]int{}, garbles: map[Method]int{},
	}
}

// Ports that the system gives to nobody who asks for any: while a killed backend is away, a port of that kind could go to
// another server, or to the near end of a connection.
const firstPort, ports = 15000, 7000

// givenPorts counts those that this process has tried: none comes twice, since its backend may be away. Processes begin at
// places of their own.
var givenPorts atomic.Uint32

// listen takes the address, or any free port outside the system's own range if there is none yet.
func listen(addr string) (net.Listener, error) {
	if addr != "" {
		return net.Listen("tcp", addr) //nolint:noctx // nothing to cancel on loopback
	}
	var err error
	for range 100 {
		var lis net.Listener
		port := firstPort + (os.Getpid()*499+int(givenPorts.Add(1)))%ports
		lis, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // nothing to cancel on loopback
		if err == nil {
			return lis, nil
		}
	}
	return nil, err
}

// Start listens on 127.0.0.1: at a free port the first time, at the same port after a Kill.
func (b *Backend) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		return errors.New("the backend is running already")
	}
	lis, err := listen(b.addr)
	if err != nil {
		return fmt.Errorf("cannot listen for the test backend: %w", err)
	}
	b.addr = lis.Addr().String()
	b.lis = &listener{Listener: lis, accepted: b.connected, open: map[net.Conn]bool{}}
	if b.REST {
		b.stop = b.serveREST(b.lis)
	} else {
		b.stop = b.serveGRPC(b.lis)
	}
	return nil
}

func (b *Backend) serveGRPC(lis net.Listener) (stop func()) {
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(garbling{encoding.GetCodecV2(grpcproto.Name)}),
		grpc.ChainUnaryInterceptor(b.garbleUnary), grpc.ChainStreamInterceptor(b.garbleStream),
	}, b.ServerOptions...)...)
	service.RegisterAsyncAgentServiceServer(server, asyncServer{b: b})
	service.RegisterSyncAgentServiceServer(server, syncServer{b: b})
	service.RegisterAgentMetadataServiceServer(server, metadataServer{b: b})
	if !b.OneByOne {
		flytebackendv1.RegisterBackendServiceServer(server, manyServer{b: b})
	}
	go func() {
		// Serve ends when Kill stops the server.
		_ = server.Serve(lis)
	}()
	return server.Stop
}

// Kill ends the server at once: connections break, calls under way fail. Jobs stay.
func (b *Backend) Kill() {
	b.mu.Lock()
	stop, lis := b.stop, b.lis
	b.stop = nil
	b.mu.Unlock()
	if stop != nil {
		// The server closes the listener only once it serves, which a Kill right after Start would not wait for; the port
		// has to be free for the next Start.
		_ = lis.Close()
		stop()
	}
}

// Running says whether the server is there.
func (b *Backend) Running() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stop != nil
}

// Endpoint is the address, or the URL over REST, known from the first Start on.
func (b *Backend) Endpoint() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.REST {
		return "http://" + b.addr
	}
	return b.addr
}

// Deployment is how the service is called: a fresh value on every call, known from the first Start on.
func (b *Backend) Deployment() *config.Deployment {
	d := &config.Deployment{Endpoint: b.Endpoint(), Protocol: config.ProtocolGRPC, Insecure: true}
	if b.REST {
		d.Protocol = config.ProtocolREST
	}
	return d
}

// SetPlugins changes what the service lists.
func (b *Backend) SetPlugins(plugins ...Plugin) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plugins = plugins
}

// Script sets the states that jobs created from now on go through.
func (b *Backend) Script(steps ...Step) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script = steps
}

// SetJob sets a job's state, whatever its script says; with an empty id that of every job.
func (b *Backend) SetJob(id string, r *admin.Resource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		if id == "" || j.ID == id {
			j.set = r
		}
	}
}

// Fail makes the next n calls of the method give err; n < 0 makes all of them fail until Heal.
func (b *Backend) Fail(m Method, n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 {
		b.always[m] = err
		return
	}
	for range n {
		b.failures[m] = append(b.failures[m], err)
	}
}

// Drop makes the next n calls of the method end without an answer, because every connection is closed when they arrive; n < 0
// makes all of them end so until Heal.
func (b *Backend) Drop(m Method, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drops[m] = n
}

// Garble makes the next n calls of the method be answered with bytes that mean nothing, although the service has done what
// they ask for; n < 0 makes all of them be answered so until Heal.
func (b *Backend) Garble(m Method, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.garbles[m] = n
}

// Heal ends all failures, delays, drops and garbled answers of the method.
func (b *Backend) Heal(m Method) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.drops, m)
	delete(b.garbles, m)
	delete(b.always, m)
	delete(b.failures, m)
	delete(b.delays, m)
}

// Delay makes calls of the method take at least d.
func (b *Backend) Delay(m Method, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delays[m] = d
}

// Hold makes calls of the method that arrive from now on wait until release is called, which may be repeated.
func (b *Backend) Hold(m Method) (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := make(chan struct{})
	b.holds[m] = held
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.holds[m] == held {
			delete(b.holds, m)
		}
		close(held)
	})
}

// Calls counts the calls of a method that arrived, failed ones too.
func (b *Backend) Calls(m Method) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[m]
}

// Batches counts the calls that polled many jobs; each of the jobs is a call of Get as well.
func (b *Backend) Batches() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.batches
}

// Connections counts the connections that were ever made.
func (b *Backend) Connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// Jobs gives copies of the jobs in the order of their creation.
func (b *Backend) Jobs() []Job {
	return b.jobsWhere(func(*Job) bool { return true })
}

func (b *Backend) jobsWhere(wanted func(*Job) bool) []Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Job, 0, len(b.order))
	for _, id := range b.order {
		if j := b.jobs[id]; wanted(j) {
			out = append(out, j.clone())
		}
	}
	return out
}

func (j *Job) clone() Job {
	out := *j
	out.Request, _ = proto.Clone(j.Request).(*admin.CreateTaskRequest)
	return out
}

// arrive counts a call, waits as told, and gives the failure that was ordered for it.
func (b *Backend) arrive(ctx context.Context, m Method) error {
	b.mu.Lock()
	b.calls[m]++
	delay, held, err := b.delays[m], b.holds[m], b.always[m]
	if queue := b.failures[m]; len(queue) > 0 {
		err, b.failures[m] = queue[0], queue[1:]
	}
	dropped, lis := take(b.drops, m), b.lis
	b.mu.Unlock()
	if dropped {
		lis.drop()
		return status.Error(codes.Unavailable, "nobody hears this")
	}
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// take counts one of those that are ordered, and says whether there was one.
func take(ordered map[Method]int, m Method) bool {
	n := ordered[m]
	if n > 0 {
		ordered[m]--
	}
	return n != 0
}

// incoming gives a value of the request's metadata, or nothing.
func incoming(ctx context.Context, key string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

package backendplugin

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// None is for a task without inputs or outputs.
type None = struct{}

// Async is a plugin whose tasks are jobs: created, polled, and deleted. In is what inputs become, Out what outputs are made
// from, ID what a job is found by again.
//
// Every method may block until its ctx ends, which is the caller's deadline or the server's limit ([WithTimeout]), and runs at
// once with any other, in any replica of the service.
type Async[In, ID, Out any] interface {
	// Create starts a job and gives its id, without waiting for the job. It is repeated with the same
	// [Request.IdempotencyKey] when its answer was lost: a plugin that honours the key then gives the first job's id.
	//
	// An id that is a string or []byte travels as it is, any other as JSON; it takes at least one byte and at most 64 KiB. It is
	// kept in propeller's state, so it holds nothing secret.
	Create(ctx context.Context, req *Request[In]) (ID, error)
	// Get gives the job's state now. It is repeated every few seconds. An error is about the call, not about the job: a job that
	// failed is a [Status] made by [Failed].
	Get(ctx context.Context, job *Job[ID]) (*Status[Out], error)
	// Delete ends the job. It is called when a task is aborted, and may be repeated: deleting a job that has ended or is
	// unknown is not an error, and NotFound counts as success.
	Delete(ctx context.Context, job *Job[ID]) error
}

// Sync is a plugin whose tasks are one call, which blocks until the task's end. A type that is [Async] too and has this method
// serves the task type in both ways; propeller prefers the asynchronous one, unless a route says otherwise.
type Sync[In, Out any] interface {
	// Execute runs a task to its end. It is cancelled when the task is aborted, and repeated with the same key when its answer
	// was lost. An error fails the task as the error table says; a Status must be of a final phase.
	Execute(ctx context.Context, req *Request[In]) (*Status[Out], error)
}

// LogReader is an optional ability of an [Async] plugin: it gives a job's log, a page a call. It may be repeated.
type LogReader[ID any] interface {
	Logs(ctx context.Context, job *Job[ID], query LogQuery) (*LogPage, error)
}

// MetricsReader is an optional ability of an [Async] plugin: it gives a job's metrics over time. It may be repeated.
type MetricsReader[ID any] interface {
	Metrics(ctx context.Context, job *Job[ID], query MetricsQuery) ([]Metric, error)
}

// Prober is an optional ability of any plugin: it tells every few seconds whether the service can work. While it gives an
// error, the service reports that it is not ready, and calls are still answered.
type Prober interface {
	Probe(ctx context.Context) error
}

// Request is a task to run.
type Request[In any] struct {
	// Inputs are the task's inputs.
	Inputs In
	// IdempotencyKey is the same for every call about the same attempt of a task, and of no other: 64 hexadecimal characters.
	// Empty when the caller sends none, as the connector plugin that ships with Flyte.
	IdempotencyKey string
	// PluginVersion is the version that the caller asked for; empty when it did not.
	PluginVersion string
	// Template is the task as it was registered, RawInputs are the inputs as they came.
	Template  *core.TaskTemplate
	RawInputs *core.LiteralMap
	// OutputPrefix is where the job may write outputs.pb or error.pb instead of giving outputs, such as s3://bucket/metadata/x/0.
	OutputPrefix string
	// Metadata has the execution's identity, labels, service account, environment variables and more.
	Metadata *admin.TaskExecutionMetadata
	// MaxOutputBytes bounds the outputs of a synchronous task; 0 means unbounded.
	MaxOutputBytes int64
	// Secrets reads secrets, and Log is for what operators are to know; it names the task type already.
	Secrets Secrets
	Log     *slog.Logger
}

// Custom reads the template's custom, where flytekit's task types have their configuration, into a struct or map as if it
// were a dataclass. Keys that are not there leave their fields as they are. It gives a [UserError].
func (r *Request[In]) Custom(into any) error {
	if err := decodeStructure(r.Template.GetCustom().AsMap(), into); err != nil {
		return UserError("the task's custom: %w", err)
	}
	return nil
}

// Job is a job that a call is about.
type Job[ID any] struct {
	// ID is what Create gave.
	ID ID
	// TaskType is the type that the task was created with, PluginVersion the version that the caller asked for, if it did.
	TaskType, PluginVersion string
	// OutputPrefix is the request's; it is set where the job is looked at: in Get, GetMany and Watch.
	OutputPrefix string
	Secrets      Secrets
	Log          *slog.Logger
}

// Phase is how far a job is.
type Phase = core.TaskExecution_Phase

// The phases that a plugin reports. A failed job has the phase that [Failed] gives it.
const (
	PhaseQueued       Phase = core.TaskExecution_QUEUED
	PhaseWaiting      Phase = core.TaskExecution_WAITING_FOR_RESOURCES
	PhaseInitializing Phase = core.TaskExecution_INITIALIZING
	PhaseRunning      Phase = core.TaskExecution_RUNNING
	PhaseSucceeded    Phase = core.TaskExecution_SUCCEEDED
	PhaseFailed       Phase = core.TaskExecution_FAILED
	PhaseAborted      Phase = core.TaskExecution_ABORTED
)

// Status is the state of a job.
type Status[Out any] struct {
	// Phase must be set.
	Phase Phase
	// Message tells people how far it is. It may change while the phase does not.
	Message string
	// Outputs of a job that succeeded; nil when the job has written them at the output prefix.
	Outputs *Out
	// Err is why a job failed. A user error fails the task for good; after any other the task may be tried again.
	Err error
	// LogLinks are shown beside the task.
	LogLinks []LogLink
	// Info is shown beside the task: a struct or map, as a dataclass.
	Info any
	// PollAfter is how long nothing new is to be expected: propeller does not ask before, but for ten minutes at most. 0 leaves it
	// to propeller. flyteidl's GetTask has no place for it; polls of many jobs, watches and REST carry it.
	PollAfter time.Duration
}

// Succeeded is the status of a job that ended with these outputs.
func Succeeded[Out any](outputs Out) *Status[Out] {
	return &Status[Out]{Phase: PhaseSucceeded, Outputs: &outputs}
}

// Running is the status of a job that runs.
func Running[Out any](message string) *Status[Out] {
	return &Status[Out]{Phase: PhaseRunning, Message: message}
}

// Failed is the status of a job that failed with err: [UserError] and its like for the author of the task, [SystemError] for
// whoever runs the service.
func Failed[Out any](err error) *Status[Out] {
	return &Status[Out]{Phase: PhaseFailed, Err: err}
}

// LogLink leads people to a job's log.
type LogLink struct{ Name, URI string }

// LogQuery asks for a page of a job's log.
type LogQuery struct {
	// Lines is how many lines are wanted; 0 leaves it to the plugin.
	Lines uint64
	// Token is what the page before gave as Next; empty for the first.
	Token string
}

// LogPage is a page of a job's log.
type LogPage struct {
	Lines []LogLine
	// Next is the token of the next page; empty when there is none.
	Next string
}

// LogLine is a line of a job's log. Message includes its line ending.
type LogLine struct {
	Time    time.Time
	Message string
	// System tells that the service wrote it, not the task's own code.
	System bool
}

// MetricsQuery asks for metrics of a job.
type MetricsQuery struct {
	// Names are such as EXECUTION_METRIC_USED_CPU_AVG; none asks for what the plugin has by default.
	Names []string
	// Start and End bound the time, both inclusive; zero means unbounded. Step is the resolution; 0 leaves it to the plugin.
	Start, End time.Time
	Step       time.Duration
}

// Metric is one of them, its Data in the form of Prometheus's range query: a struct or map, as a dataclass.
type Metric struct {
	Name string
	Data any
}

// Plugin is a plugin that can be served: [New] and [NewSync] make it.
type Plugin struct {
	taskType, name, version string
	taskTypeVersions        []int32
	err                     error

	create  func(context.Context, *call) ([]byte, error)
	get     func(context.Context, *call) (*state, error)
	getMany func(context.Context, []*call) ([]looked, error)
	watch   func(ctx context.Context, c *call, changed func()) error
	delete  func(context.Context, *call) error
	execute func(context.Context, *call) (*admin.Resource, error)
	logs    func(context.Context, *call, LogQuery) (*LogPage, error)
	metrics func(context.Context, *call, MetricsQuery) ([]Metric, error)
	probe   func(context.Context) error
}

// Plugins are served together, in one process.
type Plugins []*Plugin

// PluginOption changes how a plugin is registered.
type PluginOption func(*Plugin)

// WithVersion names the plugin's version; "v1" unless said otherwise. Several versions of a task type can be served side by
// side: new tasks get the highest in natural order (v10 comes after v9), and a task stays with the one that it began with.
func WithVersion(version string) PluginOption { return func(p *Plugin) { p.version = version } }

// WithTaskTypeVersions limits the plugin to templates of these task type versions; without, it takes any. flytekit writes 0
// into every template, which no number given here means.
func WithTaskTypeVersions(versions ...int32) PluginOption {
	return func(p *Plugin) { p.taskTypeVersions = slices.Clone(versions) }
}

// WithName names the plugin for people; the task type unless said otherwise.
func WithName(name string) PluginOption { return func(p *Plugin) { p.name = name } }

const defaultVersion = "v1"

// New makes a plugin of impl for a task type. It also serves what impl can do beyond [Async]: [Sync], [BatchGetter], [Watcher],
// [LogReader], [MetricsReader], [Prober]. What is wrong with it, such as a type that no literal can become, [NewServer] and [Serve] tell.
func New[In, ID, Out any](taskType string, impl Async[In, ID, Out], opts ...PluginOption) *Plugin {
	p := newPlugin[In, Out](taskType, impl, opts)
	if p.err == nil {
		p.err = checkID[ID]()
	}
	p.create = func(ctx context.Context, c *call) ([]byte, error) {
		req, err := requestOf[In](c)
		if err != nil {
			return nil, err
		}
		id, err := impl.Create(ctx, req)
		if err != nil {
			return nil, err
		}
		return encodeID(id)
	}
	p.get = func(ctx context.Context, c *call) (*state, error) {
		job, err := jobOf[ID](c)
		if err != nil {
			return nil, err
		}
		return stateOf(impl.Get(ctx, job))
	}
	p.delete = func(ctx context.Context, c *call) error {
		job, err := jobOf[ID](c)
		if err != nil {
			return err
		}
		return impl.Delete(ctx, job)
	}
	if sync, ok := impl.(Sync[In, Out]); ok {
		p.execute = executeOf(sync)
	}
	if many, ok := impl.(BatchGetter[ID, Out]); ok {
		p.getMany = getManyOf(many)
	}
	if w, ok := impl.(Watcher[ID]); ok {
		p.watch = func(ctx context.Context, c *call, changed func()) error {
			job, err := jobOf[ID](c)
			if err != nil {
				return err
			}
			return w.Watch(ctx, job, changed)
		}
	}
	if r, ok := impl.(LogReader[ID]); ok {
		p.logs = func(ctx context.Context, c *call, q LogQuery) (*LogPage, error) {
			job, err := jobOf[ID](c)
			if err != nil {
				return nil, err
			}
			return r.Logs(ctx, job, q)
		}
	}
	if r, ok := impl.(MetricsReader[ID]); ok {
		p.metrics = func(ctx context.Context, c *call, q MetricsQuery) ([]Metric, error) {
			job, err := jobOf[ID](c)
			if err != nil {
				return nil, err
			}
			return r.Metrics(ctx, job, q)
		}
	}
	return p
}

// NewSync makes a plugin of impl for a task type whose tasks are one call. It also serves [Prober].
func NewSync[In, Out any](taskType string, impl Sync[In, Out], opts ...PluginOption) *Plugin {
	p := newPlugin[In, Out](taskType, impl, opts)
	p.execute = executeOf(impl)
	return p
}

func newPlugin[In, Out any](taskType string, impl any, opts []PluginOption) *Plugin {
	p := &Plugin{taskType: taskType, name: taskType, version: defaultVersion}
	for _, o := range opts {
		o(p)
	}
	if prober, ok := impl.(Prober); ok {
		p.probe = prober.Probe
	}
	if impl == nil {
		p.err = fmt.Errorf("it is nil")
	} else if err := checkValues[In](); err != nil {
		p.err = fmt.Errorf("its inputs: %w", err)
	} else if err := checkValues[Out](); err != nil {
		p.err = fmt.Errorf("its outputs: %w", err)
	}
	return p
}

// pluginVersion is what propeller can route by and what gRPC metadata can carry; propeller has the same rule.
var pluginVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// check says what is wrong with the plugin.
func (p *Plugin) check() error {
	switch {
	case p.err != nil:
		return p.err
	case p.taskType == "":
		return fmt.Errorf("it has no task type")
	case p.name == "":
		return fmt.Errorf("its name is empty")
	case !pluginVersion.MatchString(p.version):
		return fmt.Errorf("its version %q is not made of 1 to 64 letters, digits and ._+- beginning with a letter or digit", p.version)
	}
	for _, v := range p.taskTypeVersions {
		if v <= 0 {
			return fmt.Errorf("task type version %d cannot be served by itself: a version is a positive number, and to take any leave them out", v)
		}
	}
	return nil
}

// capabilities are what the plugin can do beside its mode's own calls, as the REST list has them.
func (p *Plugin) capabilities() []string {
	var out []string
	if p.logs != nil {
		out = append(out, "logs")
	}
	if p.metrics != nil {
		out = append(out, "metrics")
	}
	if p.getMany != nil {
		out = append(out, "poll")
	}
	if p.watch != nil {
		out = append(out, "watch")
	}
	return out
}

// capabilities are those of the plugin that a list names.
func (ps Plugins) capabilities(taskType, version, mode string) []string {
	for _, p := range ps {
		if p.taskType == taskType && p.version == version && p.create != nil && mode == "async" {
			return p.capabilities()
		}
	}
	return nil
}

func (p *Plugin) String() string { return p.taskType + " " + p.version }

// call is what a call brought, before the plugin's own types.
type call struct {
	template       *core.TaskTemplate
	inputs         *core.LiteralMap
	metadata       *admin.TaskExecutionMetadata
	maxOutputBytes int64

	taskType      string
	id            []byte
	outputPrefix  string
	pluginVersion string
	// servedBy is the version of the plugin that was found.
	servedBy string
	key      string
	secrets  Secrets
	log      *slog.Logger
	// jobs is how many jobs the call is about, if it is about several.
	jobs int
	// background says that nobody waits for the answer: the call waits for its place, and its trace is its own.
	background bool
}

func requestOf[In any](c *call) (*Request[In], error) {
	r := &Request[In]{
		IdempotencyKey: c.key, PluginVersion: c.pluginVersion, Template: c.template, RawInputs: c.inputs,
		OutputPrefix: c.outputPrefix, Metadata: c.metadata, MaxOutputBytes: c.maxOutputBytes, Secrets: c.secrets, Log: c.log,
	}
	if err := DecodeInputs(c.inputs, &r.Inputs); err != nil {
		return nil, UserError("the task's inputs: %w", err)
	}
	return r, nil
}

func jobOf[ID any](c *call) (*Job[ID], error) {
	job := &Job[ID]{TaskType: c.taskType, PluginVersion: c.pluginVersion, OutputPrefix: c.outputPrefix, Secrets: c.secrets, Log: c.log}
	if err := decodeID(c.id, &job.ID); err != nil {
		return nil, err
	}
	return job, nil
}

func executeOf[In, Out any](impl Sync[In, Out]) func(context.Context, *call) (*admin.Resource, error) {
	return func(ctx context.Context, c *call) (*admin.Resource, error) {
		req, err := requestOf[In](c)
		if err != nil {
			return nil, err
		}
		r, err := resourceOf(impl.Execute(ctx, req))
		if err == nil && !final(r.GetPhase()) {
			return nil, SystemError("the plugin ended a synchronous task in phase %s, which is not final", r.GetPhase())
		}
		return r, err
	}
}

func final(p Phase) bool {
	switch p {
	case PhaseSucceeded, PhaseFailed, PhaseAborted, core.TaskExecution_RETRYABLE_FAILED:
		return true
	default:
		return false
	}
}

// stateOf is a status in flyteidl's words, with its PollAfter.
func stateOf[Out any](s *Status[Out], err error) (*state, error) {
	r, err := resourceOf(s, err)
	if err != nil {
		return nil, err
	}
	return &state{r, max(s.PollAfter, 0)}, nil
}

// resourceOf is a status in flyteidl's words.
func resourceOf[Out any](s *Status[Out], err error) (*admin.Resource, error) {
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, SystemError("the plugin gave no status")
	case s.Phase == core.TaskExecution_UNDEFINED:
		return nil, SystemError("the plugin gave a status without a phase")
	}
	r := &admin.Resource{Phase: s.Phase, Message: s.Message, State: legacyStates[s.Phase]}
	for _, l := range s.LogLinks {
		r.LogLinks = append(r.LogLinks, &core.TaskLog{Name: l.Name, Uri: l.URI, MessageFormat: core.TaskLog_UNKNOWN})
	}
	if s.Outputs != nil && s.Phase == PhaseSucceeded {
		if r.Outputs, err = EncodeOutputs(*s.Outputs); err != nil {
			return nil, SystemError("the plugin's outputs: %w", err)
		}
	}
	if s.Info != nil {
		if r.CustomInfo, err = encodeStruct(s.Info); err != nil {
			return nil, SystemError("the plugin's info: %w", err)
		}
	}
	if s.Err != nil {
		r.AgentError = agentError(asError(context.Background(), s.Err))
		if r.Message == "" {
			r.Message = s.Err.Error()
		}
	}
	r.Message = strings.ToValidUTF8(r.Message, "\uFFFD") // protobuf takes no other
	return r, nil
}

// legacyStates are for readers from before phases.
var legacyStates = map[Phase]admin.State{
	PhaseQueued: admin.State_PENDING, PhaseWaiting: admin.State_PENDING, PhaseInitializing: admin.State_PENDING,
	PhaseRunning: admin.State_RUNNING, PhaseSucceeded: admin.State_SUCCEEDED,
	PhaseFailed: admin.State_PERMANENT_FAILURE, PhaseAborted: admin.State_PERMANENT_FAILURE,
}

package backendplugin

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

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
// [LogReader], [MetricsReader], [Prober]. What is wrong with it, such as a type that no literal can become, or a method by the name of
// an ability that is something else, [NewServer] and [Serve] tell. Where the compiler cannot infer the types, one of the three methods
// is wrong, and this names it: var _ backendplugin.Async[Inputs, ID, Outputs] = impl.
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
	ability(p, impl, func(s Sync[In, Out]) { p.execute = executeOf(s) })
	ability(p, impl, func(g BatchGetter[ID, Out]) { p.getMany = getManyOf(g) })
	ability(p, impl, func(w Watcher[ID]) {
		p.watch = func(ctx context.Context, c *call, changed func()) error {
			job, err := jobOf[ID](c)
			if err != nil {
				return err
			}
			return w.Watch(ctx, job, changed)
		}
	})
	ability(p, impl, func(r LogReader[ID]) {
		p.logs = func(ctx context.Context, c *call, q LogQuery) (*LogPage, error) {
			job, err := jobOf[ID](c)
			if err != nil {
				return nil, err
			}
			return r.Logs(ctx, job, q)
		}
	})
	ability(p, impl, func(r MetricsReader[ID]) {
		p.metrics = func(ctx context.Context, c *call, q MetricsQuery) ([]Metric, error) {
			job, err := jobOf[ID](c)
			if err != nil {
				return nil, err
			}
			return r.Metrics(ctx, job, q)
		}
	})
	return p
}

// ability has impl served as T if it is one. What has T's method with another signature, or has it on its pointer alone, was meant to
// be one, and would be left out without a word.
func ability[T any](p *Plugin, impl any, serve func(T)) {
	if a, ok := impl.(T); ok {
		serve(a)
		return
	}
	if p.err != nil {
		return
	}
	due, has := reflect.TypeFor[T]().Method(0), reflect.TypeOf(impl)
	if m, found := has.MethodByName(due.Name); found {
		p.err = fmt.Errorf("its method %s would not be served: it is a %s, and %s%s is due", due.Name,
			reflect.ValueOf(impl).Method(m.Index).Type(), due.Name, strings.TrimPrefix(due.Type.String(), "func"))
	} else if _, found := reflect.PointerTo(has).MethodByName(due.Name); found {
		p.err = fmt.Errorf("its method %s would not be served: it is one of *%s, and what is registered is a %s", due.Name, has, has)
	}
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
	if impl == nil {
		p.err = fmt.Errorf("it is nil")
	} else if err := checkValues[In](); err != nil {
		p.err = fmt.Errorf("its inputs: %w", err)
	} else if err := checkValues[Out](); err != nil {
		p.err = fmt.Errorf("its outputs: %w", err)
	}
	ability(p, impl, func(prober Prober) { p.probe = prober.Probe })
	return p
}

// check says what is wrong with the plugin.
func (p *Plugin) check() error {
	switch {
	case p.err != nil:
		return p.err
	case p.taskType == "":
		return fmt.Errorf("it has no task type")
	case p.name == "":
		return fmt.Errorf("its name is empty")
	case !pluginversion.Valid(p.version):
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

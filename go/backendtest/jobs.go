package backendtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// The task types that NewJobs lists by itself; testdata/workflows has workflows of them.
const (
	TypeJob  = "job"
	TypeJobB = "job_b"
	// TypeJobSync is executed synchronously.
	TypeJobSync = "job_sync"
)

// JobConfig is the `custom` of a task whose job a Backend of NewJobs runs. All of it is optional, and a name that is not
// here is an error of the create call.
//
// The outputs are what the task's interface declares: an int is the sum of all int inputs (in lists, maps and unions too)
// plus Add, a float that of all numbers, a string all string inputs joined in the order of the inputs' names, a bool true,
// a list has Items such values (each one larger by one than that before it), a union has its first variant, and a file,
// folder or table a place below the output prefix at which nothing is. All else is empty.
type JobConfig struct {
	// Seconds is how long the job runs: one of 0 is at its end at the first poll.
	Seconds float64 `json:"seconds"`
	// Add is added to numbers.
	Add int64 `json:"add"`
	// Items is the length of lists.
	Items int `json:"items"`
	// Progress is how often, at even intervals, message, custom info and log links change while the job runs.
	Progress int `json:"progress"`
	// Fail makes the job fail at its end.
	Fail *JobFailure `json:"fail"`
}

// JobFailure is how a job fails.
type JobFailure struct {
	// Kind is whose error it is, "user" (which is the default) or "system".
	Kind string `json:"kind"`
	// Code and Message are the error's; they have defaults.
	Code    string `json:"code"`
	Message string `json:"message"`
	// Recoverable lets the task be tried again.
	Recoverable bool `json:"recoverable"`
	// Times is how many jobs fail of those with the same execution, node and inputs; after them, jobs succeed. 0 is all.
	Times int `json:"times"`
	// OnlyInputs are the values of the first int input (by name) for which jobs fail; none means all.
	OnlyInputs []int64 `json:"only_inputs"`
}

// NewJobs makes a service whose jobs do what their task's custom says, see JobConfig: many workflows may run against one
// service at once. It lists the task types job, job_b and job_sync unless it is told others. All that Backend can do works
// as well, except that Script has no effect. A synchronous execution leaves a Job too.
func NewJobs(plugins ...Plugin) *Backend {
	if len(plugins) == 0 {
		plugins = []Plugin{{TaskType: TypeJob}, {TaskType: TypeJobB}, {TaskType: TypeJobSync, Sync: true}}
	}
	b := New(plugins...)
	attempts := map[string]int{}
	b.plan = func(req *admin.CreateTaskRequest) ([]Step, error) {
		cfg, err := parseJob(req.GetTemplate().GetCustom())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "custom of task %q: %v", req.GetTemplate().GetId().GetName(), err)
		}
		same, err := sameJob(req)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "inputs: %v", err)
		}
		attempts[same]++
		return cfg.steps(req, attempts[same])
	}
	b.OnExecute = b.executeJob
	return b
}

// JobsOf gives copies of an execution's jobs, in the order of their creation.
func (b *Backend) JobsOf(execution string) []Job {
	return b.jobsWhere(func(j *Job) bool { return j.Execution() == execution })
}

// JobWithKey gives a copy of the latest job with that idempotency key.
func (b *Backend) JobWithKey(key string) (Job, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, ok := b.jobs[b.byKey[key]]
	if !ok || key == "" {
		return Job{}, false
	}
	return j.clone(), true
}

// Finish ends a job now in the way in which it would end later; with an empty id every job.
func (b *Backend) Finish(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		if (id == "" || j.ID == id) && len(j.script) > 0 {
			j.set = j.script[len(j.script)-1].Resource
		}
	}
}

// MostAtOnce is the largest number of the jobs that ran at the same time, going by when they were created and the time
// they were to take.
func MostAtOnce(jobs []Job) int {
	most := 0
	for _, at := range jobs {
		n := 0
		for _, j := range jobs {
			if !j.created.After(at.created) && at.created.Before(j.ends()) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// Execution is the name of the execution that the job belongs to.
func (j Job) Execution() string {
	return j.Request.GetTaskExecutionMetadata().GetTaskExecutionId().GetNodeExecutionId().GetExecutionId().GetName()
}

// Node is the id of the node that the job runs for.
func (j Job) Node() string {
	return j.Request.GetTaskExecutionMetadata().GetTaskExecutionId().GetNodeExecutionId().GetNodeId()
}

// Attempt counts the node's attempts from 0.
func (j Job) Attempt() uint32 {
	return j.Request.GetTaskExecutionMetadata().GetTaskExecutionId().GetRetryAttempt()
}

// String is short: a failed test prints the jobs that it looked at, and requests fill pages.
func (j Job) String() string { return j.ID }

// Task is the task's name.
func (j Job) Task() string { return j.Request.GetTemplate().GetId().GetName() }

func (j Job) ends() time.Time {
	if len(j.script) == 0 {
		return j.created
	}
	return j.created.Add(j.script[len(j.script)-1].After)
}

// executeJob runs a job while its caller waits.
func (b *Backend) executeJob(ctx context.Context, header *admin.CreateRequestHeader, inputs *core.LiteralMap) ([]*admin.ExecuteTaskSyncResponse, error) {
	j, err := b.newJob(ctx, &admin.CreateTaskRequest{
		Inputs: inputs, Template: header.GetTemplate(), OutputPrefix: header.GetOutputPrefix(),
		TaskExecutionMetadata: header.GetTaskExecutionMetadata(),
	})
	if err != nil {
		return nil, err
	}
	last := j.script[len(j.script)-1]
	timer := time.NewTimer(last.After)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return []*admin.ExecuteTaskSyncResponse{{Res: &admin.ExecuteTaskSyncResponse_Header{
		Header: &admin.ExecuteTaskSyncResponseHeader{Resource: last.Resource},
	}}}, nil
}

func parseJob(custom *structpb.Struct) (JobConfig, error) {
	var cfg JobConfig
	if custom == nil {
		return cfg, nil
	}
	raw, err := custom.MarshalJSON()
	if err != nil {
		return cfg, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&cfg); err != nil {
		return cfg, err
	}
	if cfg.Seconds < 0 || cfg.Items < 0 || cfg.Progress < 0 {
		return cfg, fmt.Errorf("seconds, items and progress cannot be negative")
	}
	if f := cfg.Fail; f != nil {
		if f.Kind != "" && f.Kind != "user" && f.Kind != "system" {
			return cfg, fmt.Errorf("fail.kind is %q; it is user or system", f.Kind)
		}
		if f.Times < 0 {
			return cfg, fmt.Errorf("fail.times cannot be negative; without it, all jobs fail")
		}
	}
	return cfg, nil
}

// sameJob is equal for the attempts of one node at the same inputs.
func sameJob(req *admin.CreateTaskRequest) (string, error) {
	inputs, err := proto.MarshalOptions{Deterministic: true}.Marshal(req.GetInputs())
	if err != nil {
		return "", err
	}
	j := Job{Request: req}
	return strings.Join([]string{j.Execution(), j.Node(), j.Task(), string(inputs)}, "\x00"), nil
}

// steps is what becomes of a job that is the nth attempt.
func (c JobConfig) steps(req *admin.CreateTaskRequest, attempt int) ([]Step, error) {
	takes := time.Duration(c.Seconds * float64(time.Second))
	var steps []Step
	if takes > 0 {
		steps = append(steps, Step{Resource: &admin.Resource{Phase: core.TaskExecution_RUNNING, Message: "the job runs"}})
		for i := range c.Progress {
			r, err := progress(i+1, c.Progress)
			if err != nil {
				return nil, err
			}
			steps = append(steps, Step{After: takes * time.Duration(i) / time.Duration(c.Progress), Resource: r})
		}
	}
	last := &admin.Resource{Phase: core.TaskExecution_SUCCEEDED, Message: "the job is done"}
	v := read(req.GetInputs().GetLiterals())
	if f := c.Fail; f != nil && f.hits(v, attempt) {
		last = f.resource()
	} else if vars := req.GetTemplate().GetInterface().GetOutputs().GetVariables(); len(vars) > 0 {
		last.Outputs = &core.LiteralMap{Literals: map[string]*core.Literal{}}
		for name, variable := range vars {
			m := maker{values: v, cfg: c, place: strings.TrimSuffix(req.GetOutputPrefix(), "/") + "/" + name}
			last.Outputs.Literals[name] = m.literal(variable.GetType(), 0)
		}
	}
	return append(steps, Step{After: takes, Resource: last}), nil
}

func progress(i, of int) (*admin.Resource, error) {
	info, err := structpb.NewStruct(map[string]any{"step": i, "of": of})
	if err != nil {
		return nil, err
	}
	return &admin.Resource{
		Phase: core.TaskExecution_RUNNING, Message: fmt.Sprintf("step %d of %d", i, of), CustomInfo: info,
		LogLinks: []*core.TaskLog{
			{Name: "job", Uri: "https://jobs.invalid/log", MessageFormat: core.TaskLog_JSON},
			{Name: fmt.Sprintf("step %d", i), Uri: fmt.Sprintf("https://jobs.invalid/step/%d", i), MessageFormat: core.TaskLog_JSON},
		},
	}, nil
}

func (f *JobFailure) hits(v values, attempt int) bool {
	if len(f.OnlyInputs) > 0 && (len(v.ints) == 0 || !slices.Contains(f.OnlyInputs, v.ints[0])) {
		return false
	}
	return f.Times == 0 || attempt <= f.Times
}

func (f *JobFailure) resource() *admin.Resource {
	e := &admin.AgentError{
		Code: cmp.Or(f.Code, "JobFailed"), Kind: admin.AgentError_NON_RECOVERABLE, Origin: core.ExecutionError_USER,
	}
	if f.Kind == "system" {
		e.Origin = core.ExecutionError_SYSTEM
	}
	if f.Recoverable {
		e.Kind = admin.AgentError_RECOVERABLE
	}
	return &admin.Resource{
		Phase: core.TaskExecution_FAILED, Message: cmp.Or(f.Message, "the job was told to fail"), AgentError: e,
	}
}

// values are the scalars among inputs, by the inputs' names, and in lists by their order.
type values struct {
	ints   []int64
	floats []float64
	text   string
}

func read(inputs map[string]*core.Literal) values {
	var v values
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		v.add(inputs[name])
	}
	return v
}

func (v *values) add(l *core.Literal) {
	for _, item := range l.GetCollection().GetLiterals() {
		v.add(item)
	}
	entries := l.GetMap().GetLiterals()
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		v.add(entries[name])
	}
	if u := l.GetScalar().GetUnion(); u != nil {
		v.add(u.GetValue())
	}
	switch p := l.GetScalar().GetPrimitive().GetValue().(type) {
	case *core.Primitive_Integer:
		v.ints = append(v.ints, p.Integer)
	case *core.Primitive_FloatValue:
		v.floats = append(v.floats, p.FloatValue)
	case *core.Primitive_StringValue:
		v.text += p.StringValue
	}
}

// maker makes outputs.
type maker struct {
	values values
	cfg    JobConfig
	place  string
}

// literal makes a value of a type; more is added to its numbers.
func (m maker) literal(t *core.LiteralType, more int64) *core.Literal {
	switch t := t.GetType().(type) {
	case *core.LiteralType_CollectionType:
		c := &core.LiteralCollection{}
		for i := range m.cfg.Items {
			c.Literals = append(c.Literals, m.literal(t.CollectionType, more+int64(i)))
		}
		return &core.Literal{Value: &core.Literal_Collection{Collection: c}}
	case *core.LiteralType_MapValueType:
		return &core.Literal{Value: &core.Literal_Map{Map: &core.LiteralMap{}}}
	}
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: m.scalar(t, more)}}
}

func (m maker) scalar(t *core.LiteralType, more int64) *core.Scalar {
	switch t := t.GetType().(type) {
	case *core.LiteralType_EnumType:
		var first string
		if names := t.EnumType.GetValues(); len(names) > 0 {
			first = names[0]
		}
		return primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: first}})
	case *core.LiteralType_UnionType:
		if variants := t.UnionType.GetVariants(); len(variants) > 0 {
			return &core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Type: variants[0], Value: m.literal(variants[0], more)}}}
		}
	case *core.LiteralType_Blob:
		return &core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{Uri: m.place, Metadata: &core.BlobMetadata{Type: t.Blob}}}}
	case *core.LiteralType_Schema:
		return &core.Scalar{Value: &core.Scalar_Schema{Schema: &core.Schema{Uri: m.place, Type: t.Schema}}}
	case *core.LiteralType_StructuredDatasetType:
		return &core.Scalar{Value: &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{
			Uri: m.place, Metadata: &core.StructuredDatasetMetadata{StructuredDatasetType: t.StructuredDatasetType},
		}}}
	}
	return m.simple(t.GetSimple(), more)
}

func (m maker) simple(t core.SimpleType, more int64) *core.Scalar {
	var ints int64
	for _, n := range m.values.ints {
		ints += n
	}
	ints += m.cfg.Add + more
	switch t {
	case core.SimpleType_INTEGER:
		return primitive(&core.Primitive{Value: &core.Primitive_Integer{Integer: ints}})
	case core.SimpleType_FLOAT:
		sum := float64(ints)
		for _, f := range m.values.floats {
			sum += f
		}
		return primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: sum}})
	case core.SimpleType_STRING:
		return primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: m.values.text}})
	case core.SimpleType_BOOLEAN:
		return primitive(&core.Primitive{Value: &core.Primitive_Boolean{Boolean: true}})
	case core.SimpleType_DATETIME:
		return primitive(&core.Primitive{Value: &core.Primitive_Datetime{Datetime: &timestamppb.Timestamp{}}})
	case core.SimpleType_DURATION:
		return primitive(&core.Primitive{Value: &core.Primitive_Duration{Duration: &durationpb.Duration{}}})
	case core.SimpleType_STRUCT:
		return &core.Scalar{Value: &core.Scalar_Generic{Generic: &structpb.Struct{}}}
	case core.SimpleType_BINARY:
		return &core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{}}}
	case core.SimpleType_ERROR:
		return &core.Scalar{Value: &core.Scalar_Error{Error: &core.Error{}}}
	default: // none, and what nobody knows yet
		return &core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}}
	}
}

func primitive(p *core.Primitive) *core.Scalar {
	return &core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}}
}

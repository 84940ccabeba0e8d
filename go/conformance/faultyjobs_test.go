package conformance_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func (f *faulty) create(ctx context.Context, r *frequest) (string, *ferr) {
	f.began("create", "")
	if r.template == nil {
		if f.is("a create of nothing starts a job") {
			return f.add(r, "quick"), nil
		}
		return "", f.shape(r, fail(codes.InvalidArgument, "the request has no template"))
	}
	if f.is("any task type is created") && r.taskType == "conformance_no_such_type" {
		return f.add(r, "quick"), nil
	}
	if f.is("any plugin version is created") {
		r.version = ""
	}
	if f.is("a plugin version is required") && r.version == "" {
		return "", fail(codes.InvalidArgument, "no plugin version")
	}
	p, e := f.find(r, false)
	if e != nil {
		if f.is("a code that nobody knows") {
			e.code = 99
		}
		return "", e
	}
	if len(p.versions) > 0 && !slices.Contains(p.versions, r.taskTypeVersion) && !f.is("any task type version is created") {
		return "", fail(codes.NotFound, "task type version %d is not served", r.taskTypeVersion)
	}
	mode := r.inputs.GetLiterals()["mode"].GetScalar().GetPrimitive().GetStringValue()
	switch {
	case f.is(slowStart):
		f.creating.Add(1)
		time.Sleep(200 * time.Millisecond) // whoever counts them has interrupted the run by then, or makes nothing wrong
	case f.is(unprintable):
		return "", fail(codes.Internal, "no \x1b[2Jjob \u202etoday")
	case f.is("creates fail"):
		return "", fail(codes.Internal, "no job today")
	case f.is("ids are empty"):
		return "", nil
	case f.is("ids are too long"):
		return strings.Repeat("x", 64<<10+1), nil
	case f.is("creates wait for the job") && mode == "long":
		id := f.add(r, mode)
		f.store.with(id, func(j *fjob) { j.mode, j.polls = "quick", 2 })
		return id, nil
	case f.is("a key is required") && r.key == "":
		return "", fail(codes.InvalidArgument, "no idempotency key")
	case f.is("labels are refused") && len(r.metadata.GetLabels()) > 0:
		return "", fail(codes.InvalidArgument, "labels")
	case f.is("unknown fields are refused") && r.unknownFields:
		return "", fail(codes.InvalidArgument, "an unknown field")
	case f.is("only task type version 0 is taken") && len(p.versions) == 0 && r.taskTypeVersion != 0:
		return "", fail(codes.InvalidArgument, "task type version %d", r.taskTypeVersion)
	case f.is("at most half a mebibyte") && len(r.metadata.GetAnnotations()["conformance"]) > 512<<10:
		return "", fail(codes.ResourceExhausted, "too large")
	case f.is("dies of large requests") && len(r.metadata.GetAnnotations()["conformance"]) > 3<<19:
		f.die()
	case len(r.metadata.GetAnnotations()["conformance"]) > 3<<19:
		return "", fail(codes.ResourceExhausted, "the request is larger than 1.5 MiB, the limit here")
	case f.is("creates collide"):
		if !collide(ctx, &f.creating) {
			return "", fail(codes.Internal, "database is locked")
		}
	}
	if f.is("a create that is broken off blocks its key") && p.taskType == "work" {
		f.mu.Lock()
		blocked := f.broken[r.key]
		f.broken[r.key] = r.key != ""
		f.mu.Unlock()
		if blocked {
			return "", fail(codes.Internal, "the key is locked")
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", fail(codes.Canceled, "gone")
		}
		f.mu.Lock()
		delete(f.broken, r.key)
		f.mu.Unlock()
	}
	return f.keyed(r, mode)
}

// keyed creates a job once for each key.
func (f *faulty) keyed(r *frequest, mode string) (string, *ferr) {
	raw, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&admin.CreateTaskRequest{Template: r.template, Inputs: r.inputs, OutputPrefix: r.prefix})
	sum := sha256.Sum256(append(raw, r.taskType+r.version...))
	digest := hex.EncodeToString(sum[:])
	key := r.key
	if f.is("keys are forgotten at a restart, and unknown to replicas") {
		f.mu.Lock()
		key = fmt.Sprint(f.address, f.starts, key)
		f.mu.Unlock()
	}
	if f.is("keys are ignored") || r.key == "" {
		return f.add(r, mode), nil
	}
	f.store.mu.Lock()
	have, ok := f.store.keys[key]
	if ok {
		f.store.mu.Unlock()
		if have.digest != digest && !f.is("a key takes any request") {
			return "", fail(codes.AlreadyExists, "the key was used for another request")
		}
		return have.id, nil
	}
	if f.is("keys are no lock") {
		f.store.mu.Unlock()
		time.Sleep(40 * time.Millisecond)
		id := f.add(r, mode)
		f.store.mu.Lock()
		f.store.keys[key] = fkey{digest, id}
		f.store.mu.Unlock()
		return id, nil
	}
	id := f.newID()
	f.store.keys[key] = fkey{digest, id}
	f.put(id, r, mode)
	f.store.mu.Unlock()
	return id, nil
}

func (f *faulty) newID() string {
	id := fmt.Sprintf("job-%016x", rand.Uint64())
	if f.is(longIDs) {
		id += strings.Repeat("x", 60<<10)
	}
	return id
}

func (f *faulty) add(r *frequest, mode string) string {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	id := f.newID()
	f.put(id, r, mode)
	return id
}

func (f *faulty) put(id string, r *frequest, mode string) {
	if mode == "" {
		mode = "quick"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store.jobs[id] = &fjob{id: id, taskType: r.taskType, version: r.version, mode: mode, born: f.starts}
}

func (s *store) with(id string, fn func(*fjob)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[id]
	if j != nil {
		fn(j)
	}
	return j != nil
}

// resource is a job's state.
type fstate struct {
	phase, message string
	outputs        *core.LiteralMap
	errorCode      string
	links          []*core.TaskLog
}

func outputs(name string, n int64) *core.LiteralMap {
	return &core.LiteralMap{Literals: map[string]*core.Literal{name: {Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_Integer{Integer: n}},
	}}}}}}
}

func (f *faulty) get(ctx context.Context, r *frequest) (*fstate, *ferr) {
	id := string(r.id)
	inARow := f.began("get", id)
	if f.is("any task type is polled") && r.taskType == "conformance_no_such_type" {
		return &fstate{phase: "RUNNING"}, nil
	}
	if f.is("any plugin version is polled") {
		r.version = ""
	}
	if _, e := f.find(r, false); e != nil {
		return nil, e
	}
	switch {
	case f.is("unknown jobs run") && r.single && strings.HasPrefix(id, "conformance-no-such-job"):
		return &fstate{phase: "RUNNING"}, nil
	case f.is("odd id " + oddName(id)):
		return nil, fail(codes.Internal, "ValueError")
	case f.is("shows files") && strings.Contains(id, "etc/passwd"):
		return nil, fail(codes.NotFound, "no such job: root:x:0:0")
	case f.is("slow polls") && inARow >= 3 && r.single:
		time.Sleep(300 * time.Millisecond)
	case f.is("polls collide") && r.single:
		if !collide(ctx, &f.polling) {
			return nil, fail(codes.Internal, "database is locked")
		}
	case f.is("polls that are broken off poison the service") && r.single:
		if f.poisonable(ctx) {
			return nil, fail(codes.Internal, "the connection pool is closed")
		}
	}
	if id == "" {
		if f.is("an empty id is a job") {
			return &fstate{phase: "RUNNING"}, nil
		}
		return nil, f.shape(r, fail(codes.InvalidArgument, "the call names no job"))
	}
	if len(id) > 64<<10 && f.is("an id of any length is a job") {
		return &fstate{phase: "RUNNING"}, nil
	}
	var out *fstate
	var bad *ferr
	found := f.store.with(id, func(j *fjob) { out, bad = f.state(r, j) })
	if !found && f.is("ids that are nearly right are a fault") && strings.HasPrefix(id, "job-") {
		return nil, fail(codes.Internal, "KeyError")
	}
	if !found {
		return nil, f.shape(r, fail(codes.NotFound, "there is no such job"))
	}
	return out, bad
}

// state gives a job's state at a poll.
func (f *faulty) state(r *frequest, j *fjob) (*fstate, *ferr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j.polls++
	s := &fstate{phase: "RUNNING", message: "working"}
	switch {
	case j.deleted && f.is("polls of deleted jobs fail"):
		return nil, fail(codes.Internal, "KeyError")
	case j.deleted && !f.is("deletions end nothing") && (!f.is("deletions are forgotten after a restart") || j.born == f.starts || j.mode != "long"):
		s.phase, s.message = "ABORTED", "deleted"
		return s, nil
	case f.abortNext:
		f.abortNext = false
		s.phase = "ABORTED"
	case j.mode == "fail":
		s.phase, s.message, s.errorCode = "FAILED", "the input says so", "SaysSo"
		if f.is("failures succeed") {
			s.phase, s.errorCode = "SUCCEEDED", ""
		}
		if f.is("failures say nothing") {
			s.message, s.errorCode = "", ""
		}
	case j.mode == "quick" && j.polls > 1 && !f.is("jobs never end"):
		s.phase, s.message, s.outputs = "SUCCEEDED", "", outputs("o0", 7)
		s.links = []*core.TaskLog{{Name: "log", Uri: "https://logs.example/1"}}
		if f.is("relative log links") {
			s.links[0].Uri = "logs/1"
		}
		if f.is("outputs have another name") {
			s.outputs = outputs("other", 7)
		}
		if f.is("outputs have another type") {
			s.outputs.Literals["o0"] = text("7")
		}
		if f.is("results change") {
			s.outputs = outputs("o0", int64(j.polls))
		}
		if f.is("results change at a restart") {
			s.outputs = outputs("o0", int64(f.starts))
		}
	}
	switch {
	case f.is("no phase"):
		s.phase = ""
	case f.is("a phase of its own"):
		s.phase = "DONE"
	case f.is("polls of many say something else") && !r.single && s.phase == "SUCCEEDED":
		s.phase = "RUNNING"
	}
	return s, nil
}

func (f *faulty) delete(ctx context.Context, r *frequest) *ferr {
	if f.is(slowEnds) {
		f.deletesAtOnce.Store(max(f.deletesAtOnce.Load(), f.deleting.Add(1)))
		time.Sleep(20 * time.Millisecond)
		f.deleting.Add(-1)
	}
	id := string(r.id)
	f.began("delete", id)
	if !f.is("any task type is created") || r.taskType != "conformance_no_such_type" {
		if _, e := f.find(r, false); e != nil {
			return e
		}
	}
	switch {
	case f.is("odd id " + oddName(id)):
		return fail(codes.Internal, "ValueError")
	case f.is("deletions of unknown jobs fail") && strings.HasPrefix(id, "conformance-no-such-job"):
		return fail(codes.NotFound, "there is no such job")
	case f.is("deletions collide"):
		if !collide(ctx, &f.deleting) {
			return fail(codes.Internal, "database is locked")
		}
	}
	var e *ferr
	f.store.with(id, func(j *fjob) {
		if j.deleted && f.is("a second deletion fails") {
			e = fail(codes.FailedPrecondition, "the job is deleted")
			return
		}
		if j.mode == "quick" && j.polls > 1 && f.is("deletions of finished jobs fail") {
			e = fail(codes.FailedPrecondition, "the job has ended")
			return
		}
		f.mu.Lock()
		f.abortNext = f.is("deletions abort other jobs") && !j.deleted
		f.mu.Unlock()
		j.deleted = true
	})
	return e
}

func (f *faulty) execute(ctx context.Context, r *frequest) (*fstate, *ferr) {
	f.began("execute", "")
	if f.is("any task type is executed") && r.taskType == "conformance_no_such_type" {
		return &fstate{phase: "SUCCEEDED"}, nil
	}
	if _, e := f.find(r, true); e != nil {
		return nil, e
	}
	switch {
	case f.is("synchronous tasks do not end"):
		return &fstate{phase: "RUNNING"}, nil
	case f.is("synchronous tasks fail"):
		return &fstate{phase: "FAILED", message: "no"}, nil
	case f.is("synchronous calls cannot be repeated"):
		f.mu.Lock()
		again := f.broken[r.key]
		f.broken[r.key] = true
		f.mu.Unlock()
		if again {
			return nil, fail(codes.AlreadyExists, "the key was used")
		}
	case f.is("synchronous calls that are broken off poison the service"):
		if f.poisonable(ctx) {
			return nil, fail(codes.Internal, "the connection pool is closed")
		}
	}
	if r.inputs.GetLiterals()["mode"] == nil {
		return &fstate{phase: "FAILED", message: "input mode is missing"}, nil
	}
	return &fstate{phase: "SUCCEEDED", outputs: outputs("o0", 7)}, nil
}

// oddName names the id of the cases about odd ids.
func oddName(id string) string {
	for name, mark := range map[string]string{
		"unicode": "任务", "not-utf8": "\xff\xfe\x00", "control-characters": "X-Injected", "traversal": "/passwd", "sql": "DROP TABLE", "json": "__class__",
	} {
		if strings.Contains(id, mark) {
			return name
		}
	}
	if len(id) == 64<<10 && id[:4] == "0123" {
		return "64-kib"
	}
	return "?"
}

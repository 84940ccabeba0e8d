package conformance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// faulty is a service that conforms, but for the one fault that it is made with. It serves both protocols, and what it
// remembers outlives it, so that it can be killed, restarted and have replicas.
type faulty struct {
	fault    string
	protocol conformance.Protocol
	tls      *tls.Config
	store    *store

	mu      sync.Mutex
	address string
	stop    func()
	lis     *listener
	starts  int

	creating, polling, deleting atomic.Int32

	// What some faults are about.
	abortNext  bool // the next poll says that its job was aborted
	poisoned   atomic.Bool
	lists      int
	inARow     int
	lastPolled string
	listsInRow int
	broken     map[string]bool
}

// store is where jobs are.
type store struct {
	mu   sync.Mutex
	jobs map[string]*fjob
	keys map[string]fkey
}

type fkey struct{ digest, id string }

// fjob is a job. A quick one runs at its first poll and has succeeded from the second one on; a long one runs until it is
// deleted; a failing one has failed. How often it was polled decides, and not the time, so that tests need no luck.
type fjob struct {
	id, taskType, version, mode string
	polls                       int
	deleted                     bool
	born                        int // how often the service had been started
}

func newStore() *store { return &store{jobs: map[string]*fjob{}, keys: map[string]fkey{}} }

// ferr is an error of the service.
type ferr struct {
	code    codes.Code
	message string
	retry   string
}

func fail(code codes.Code, format string, args ...any) *ferr {
	return &ferr{code: code, message: fmt.Sprintf(format, args...)}
}

// fplugin is what is served.
type fplugin struct {
	name, taskType, version string
	versions                []int32
	sync                    bool
}

// request is what a call brings, over either protocol.
type frequest struct {
	taskType, version string
	taskTypeVersion   int32
	template          *core.TaskTemplate
	inputs            *core.LiteralMap
	metadata          *admin.TaskExecutionMetadata
	key, prefix       string
	id                []byte
	unknownFields     bool
	single            bool // not of a batch
	echo              string
}

func (f *faulty) is(fault string) bool { return f.fault == fault }

func (f *faulty) plugins() []fplugin {
	out := []fplugin{
		{"worker", "work", "v1", nil, false},
		{"picky", "picky", "v1", []int32{2}, false},
		{"adder", "sum", "v1", nil, true},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.fault {
	case "lists nothing":
		return nil
	case "a task type without a name":
		out = append(out, fplugin{"anonymous", "", "v1", nil, true})
	case "a plugin version with a blank":
		out = append(out, fplugin{"blank", "other", "v 1", nil, true})
	case "a negative task type version":
		out = append(out, fplugin{"negative", "other", "v1", []int32{-1}, true})
	case "a plugin twice":
		out = append(out, out[0])
	case "another list each time":
		f.lists++
		out = append(out, fplugin{"extra", fmt.Sprint("extra", f.lists), "v1", nil, true})
	case "another list after a restart":
		out = append(out, fplugin{"extra", fmt.Sprint("extra", f.starts), "v1", nil, true})
	case "another list at the replica":
		out = append(out, fplugin{"extra", "at " + f.address, "v1", nil, true})
	}
	return out
}

// collide makes a call last, and says whether few others were under way. A call or two may be that their callers hung up on.
func collide(ctx context.Context, n *atomic.Int32) (alone bool) {
	defer n.Add(-1)
	alone = n.Add(1) <= 4
	timer := time.NewTimer(40 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return alone
}

// poisonable takes a while, and tells whether a caller has hung up meanwhile or before: long enough for a caller to hang up within
// it on a busy machine, and for the news of that to overtake the next call.
func (f *faulty) poisonable(ctx context.Context) bool {
	timer := time.NewTimer(60 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		f.poisoned.Store(true)
	}
	return f.poisoned.Load()
}

// find gives the plugin of a request.
func (f *faulty) find(r *frequest, sync bool) (*fplugin, *ferr) {
	if strings.HasPrefix(r.taskType, "extra") {
		return &fplugin{taskType: r.taskType, version: "v1", sync: true}, nil
	}
	known := false
	for _, p := range f.plugins() {
		if p.taskType != r.taskType || p.sync != sync {
			continue
		}
		known = true
		if r.version == "" || r.version == p.version {
			return &p, nil
		}
	}
	if known {
		return nil, f.shape(r, fail(codes.NotFound, "task type %.100q has no version %.100q", r.taskType, r.version))
	}
	return nil, f.shape(r, fail(codes.NotFound, "no plugin for task type %.100q", r.taskType))
}

// shape gives an error of the service the form that the fault wants.
func (f *faulty) shape(r *frequest, e *ferr) *ferr {
	switch {
	case f.is("errors without a message") && r.single:
		e.message = ""
	case f.is("a stack trace"):
		e.message += "\nTraceback (most recent call last):\n  File \"service.py\", line 7, in get"
	case f.is("credentials in errors"):
		e.message += " (" + r.echo + ")"
	case f.is("long errors"):
		e.message += strings.Repeat("x", 20<<10)
	case f.is("a negative pause"):
		e.retry = "-1"
	}
	return e
}

// began counts calls for the faults that are about calls in a row.
func (f *faulty) began(call, id string) (inARow int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abortNext = f.abortNext && call == "get"
	if call == "get" && id == f.lastPolled {
		f.inARow++
	} else if call != "list" {
		f.inARow, f.lastPolled = 1, id
	}
	if call == "list" {
		f.listsInRow++
	} else {
		f.listsInRow = 0
	}
	return f.inARow
}

func (f *faulty) beforeList() {
	f.began("list", "")
	f.poisoned.Store(false) // the suite lists after every case, and one case is to fail
	f.mu.Lock()
	slow := f.is("slow lists") && f.inARow >= 5 && f.listsInRow == 2
	f.mu.Unlock()
	if slow {
		time.Sleep(3100 * time.Millisecond)
	}
}

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
	id := newID()
	f.store.keys[key] = fkey{digest, id}
	f.put(id, r, mode)
	f.store.mu.Unlock()
	return id, nil
}

func newID() string { return fmt.Sprintf("job-%016x", rand.Uint64()) }

func (f *faulty) add(r *frequest, mode string) string {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	id := newID()
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

// listener keeps its connections, so that a service can die with all of them, and sees what comes over them.
type listener struct {
	net.Listener
	f     *faulty
	mu    sync.Mutex
	conns map[*conn]bool
	slots chan struct{}
}

type conn struct {
	net.Conn
	l    *listener
	once sync.Once
	read int
	head []byte
}

func (l *listener) Accept() (net.Conn, error) {
	if l.f.is("at most 24 connections") {
		l.slots <- struct{}{}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	out := &conn{Conn: c, l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[out] = true
	return out, nil
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(c.head) < 4 {
		c.head = append(c.head, p[:min(n, 4)]...)
	}
	c.read += n
	f := c.l.f
	switch {
	case err != nil && f.is("dies of a cut connection") && f.protocol == conformance.GRPC && c.read == 44,
		f.is("dies of another protocol") && (bytes.HasPrefix(c.head, []byte("GET /")[:4]) && f.protocol == conformance.GRPC || bytes.HasPrefix(c.head, []byte{0, 0})):
		f.die()
	}
	return n, err
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
		if c.l.f.is("at most 24 connections") {
			<-c.l.slots
		}
	})
	return err
}

// die ends the service as a killed process does.
func (f *faulty) die() {
	f.mu.Lock()
	l := f.lis
	f.lis = nil
	f.mu.Unlock()
	if l == nil {
		return
	}
	_ = l.Listener.Close()
	l.mu.Lock()
	conns := l.conns
	l.conns = map[*conn]bool{}
	l.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// start serves, at the same address as before.
func (f *faulty) start() error {
	if f.is("jobs are in memory") {
		f.store.mu.Lock()
		f.store.jobs, f.store.keys = map[string]*fjob{}, map[string]fkey{}
		f.store.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var lis net.Listener
	var err error
	for range 100 {
		address := f.address
		if address == "" { // not of the range that the system gives away while this one is dead
			address = fmt.Sprintf("127.0.0.1:%d", 23000+rand.IntN(9000))
		}
		if lis, err = net.Listen("tcp", address); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	f.address = lis.Addr().String()
	f.starts++
	f.broken = map[string]bool{}
	f.lis = &listener{Listener: lis, f: f, conns: map[*conn]bool{}, slots: make(chan struct{}, 24)}
	lis = f.lis
	if f.tls != nil {
		lis = tls.NewListener(lis, f.tls)
	}
	if f.protocol == conformance.REST {
		f.stop = f.serveREST(lis)
	} else {
		f.stop = f.serveGRPC(lis)
	}
	return nil
}

// restart kills the service and starts it again.
func (f *faulty) restart(context.Context) error {
	f.die()
	f.mu.Lock()
	stop := f.stop
	f.mu.Unlock()
	stop()
	return f.start()
}

// endpoint is what Options.Endpoint takes.
func (f *faulty) endpoint() string {
	if f.protocol == conformance.REST {
		if f.tls != nil {
			return "https://" + f.address
		}
		return "http://" + f.address
	}
	return f.address
}

// serve starts a service with a fault, and another replica.
func serve(t *testing.T, protocol conformance.Protocol, fault string) (one, other *faulty) {
	t.Helper()
	one = &faulty{fault: fault, protocol: protocol, store: newStore()}
	other = &faulty{fault: fault, protocol: protocol, store: one.store}
	if fault == "jobs are in memory" {
		other.store = newStore()
	}
	for _, f := range []*faulty{one, other} {
		require.NoError(t, f.start())
		t.Cleanup(func() {
			f.die()
			f.stop()
		})
	}
	return one, other
}

package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// driver speaks a protocol as a client does that has every reason to be suspicious. A call never fails: what came, or that
// nothing came, is its reply. Calls block, may be repeated and made at once, and end with their context.
type driver interface {
	list(ctx context.Context) reply
	create(ctx context.Context, c call) reply
	get(ctx context.Context, j job) reply
	delete(ctx context.Context, j job) reply
	execute(ctx context.Context, c call) reply
	batch(ctx context.Context, jobs []job) reply
	logs(ctx context.Context, j job, lines uint64, token string) reply
	metrics(ctx context.Context, j job, queries []string) reply
	close()
}

// plugin is what the service lists: one task type in one plugin version and one mode.
type plugin struct {
	name, taskType, version string
	taskTypeVersions        []int32 // none means any
	sync                    bool
}

func (p plugin) String() string {
	s := p.taskType + " " + p.version
	if p.sync {
		s += " sync"
	}
	return s
}

// taskTypeVersion is one that the plugin takes.
func (p plugin) taskTypeVersion() int32 {
	if len(p.taskTypeVersions) > 0 {
		return p.taskTypeVersions[0]
	}
	return 0
}

// call is what starts a job.
type call struct {
	plugin    plugin
	template  *core.TaskTemplate
	inputs    *core.LiteralMap
	metadata  *admin.TaskExecutionMetadata
	key       string
	prefix    string
	noVersion bool   // over gRPC, leaves out the plugin version
	with      string // what is unusual about it, for reports
}

// job is a job that was created, or one that was not.
type job struct {
	plugin plugin
	id     []byte
	prefix string
}

// show quotes an id so that people can read it.
func (j job) show() string { return show(string(j.id)) }

func show(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%q… (%d bytes)", s[:60], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// state is a job's state, in the same words over both protocols.
type state struct {
	phase    string // a name of core.TaskExecution_Phase, or RETRYABLE_FAILED; empty when it is not set
	message  string
	outputs  *core.LiteralMap
	links    []*core.TaskLog
	hasError bool
	code     string // of the failure
}

var finalPhases = map[string]bool{"SUCCEEDED": true, "FAILED": true, "RETRYABLE_FAILED": true, "ABORTED": true}

var phases = map[string]bool{
	"QUEUED": true, "WAITING_FOR_RESOURCES": true, "INITIALIZING": true, "RUNNING": true,
	"SUCCEEDED": true, "FAILED": true, "RETRYABLE_FAILED": true, "ABORTED": true,
}

func (s *state) final() bool { return s != nil && finalPhases[s.phase] }

// agent is what GetAgent gives and what a listing has of one, before anything is made of it.
type agent struct {
	name       string
	categories int
	oldTypes   int
}

// reply is all that came of one call.
type reply struct {
	sent string
	took time.Duration

	// code is OK or what went wrong; over REST, what the body says, or else what the status means.
	code    codes.Code
	message string
	details string
	// lost says that no answer came from the service, and message then why.
	lost bool
	// broken says why an answer of success cannot be read.
	broken string
	// retry is what the service asks for as a pause, as it wrote it, and pause what that means.
	retry    string
	pause    time.Duration
	hasRetry bool
	badRetry bool

	// What REST has beside.
	status    int
	header    http.Header
	body      []byte
	errorCode string // as the body has it

	id      []byte
	state   *state
	plugins []plugin
	agents  []agent
	results []reply
	lines   []string
	next    string
	series  []string
}

// ok says that the call succeeded and its answer can be read.
func (r *reply) ok() bool { return r.code == codes.OK && !r.lost && r.broken == "" }

// got says what came, for people.
func (r *reply) got() string {
	var b strings.Builder
	if r.status != 0 {
		fmt.Fprintf(&b, "HTTP %d", r.status)
		if t := r.header.Get("Content-Type"); t != "" {
			fmt.Fprintf(&b, " (%s)", t)
		}
		b.WriteString(", ")
	}
	switch {
	case r.lost:
		return "no answer of the service: " + short(r.message)
	case r.broken != "":
		return b.String() + "success that cannot be read: " + short(r.broken)
	case r.code != codes.OK:
		fmt.Fprintf(&b, "%s: %s", codeName(r.code), short(r.message))
		if r.message == "" && len(r.body) > 0 {
			b.WriteString(" (the body is " + short(string(r.body)) + ")")
		}
		if r.hasRetry {
			fmt.Fprintf(&b, " (it asks for a pause of %s)", short(r.retry))
		}
	case r.state != nil:
		if r.state.phase == "" {
			b.WriteString("OK, no phase")
		} else {
			fmt.Fprintf(&b, "OK, phase %q", r.state.phase)
		}
		if r.state.message != "" {
			fmt.Fprintf(&b, ", message %s", show(r.state.message))
		}
	case r.id != nil:
		fmt.Fprintf(&b, "OK, job id %s", show(string(r.id)))
	default:
		b.WriteString("OK")
	}
	return b.String()
}

func nothingCame(since time.Time) string {
	return fmt.Sprintf("nothing came within %s", time.Since(since).Round(10*time.Millisecond))
}

// short cuts a text to what a report bears.
func short(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "\uFFFD")
	if s == "" {
		return "(no message)"
	}
	if runes := []rune(s); len(runes) > 300 {
		s = string(runes[:300]) + "…"
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			b.WriteRune(r)
		} else { // it could clear the terminal, or turn what stands there around
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// codeName writes a code as the contract does.
func codeName(c codes.Code) string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return "code " + strconv.Itoa(int(c))
}

var codeNames = map[codes.Code]string{
	codes.OK: "OK", codes.Canceled: "CANCELLED", codes.Unknown: "UNKNOWN", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS",
	codes.PermissionDenied: "PERMISSION_DENIED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED", codes.OutOfRange: "OUT_OF_RANGE",
	codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE",
	codes.DataLoss: "DATA_LOSS", codes.Unauthenticated: "UNAUTHENTICATED",
}

var codeByName = func() map[string]codes.Code {
	out := map[string]codes.Code{}
	for c, name := range codeNames {
		out[name] = c
	}
	return out
}()

// versionForm is what a plugin version looks like.
var versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// traces are what a stack trace has in it, of the languages that services are written in.
var traces = []string{
	"Traceback (most recent call last)", "goroutine 1 [", "[running]:", "\tat java.", "\n    at ", "\n\tat ", "panic: ", "thread 'main' panicked",
	`.py", line `, "runtime/debug.Stack", "stack backtrace:",
}

func hasTrace(text []byte) string {
	for _, t := range traces {
		if bytes.Contains(text, []byte(t)) {
			return t
		}
	}
	return ""
}

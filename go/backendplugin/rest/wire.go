package rest

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// The answers, as api/openapi.yaml has them.
type (
	pluginList struct {
		Plugins []plugin `json:"plugins"`
	}
	plugin struct {
		Name             string   `json:"name"`
		TaskType         string   `json:"task_type"`
		PluginVersion    string   `json:"plugin_version"`
		TaskTypeVersions []int32  `json:"task_type_versions"`
		Mode             string   `json:"mode"`
		Capabilities     []string `json:"capabilities"`
	}
	created struct {
		JobID     string `json:"job_id"`
		ErrorCode string `json:"error_code"`
		Message   string `json:"message"`
	}
	deleted struct {
		ErrorCode string `json:"error_code"`
		Message   string `json:"message"`
	}
	failure struct {
		ErrorCode string `json:"error_code"`
		Message   string `json:"message"`
	}
	pollReply struct {
		Results []pollResult `json:"results"`
	}
	pollResult struct {
		Job   *jobStatus `json:"job,omitempty"`
		Error *pollError `json:"error,omitempty"`
	}
	pollError struct {
		Status            int     `json:"status"`
		ErrorCode         string  `json:"error_code"`
		Message           string  `json:"message"`
		RetryAfterSeconds float64 `json:"retry_after_seconds,omitempty"`
	}
	jobSpec struct {
		TaskType      string `json:"task_type"`
		PluginVersion string `json:"plugin_version"`
	}
	jobStatus struct {
		JobSpec          jobSpec           `json:"job_spec"`
		JobState         string            `json:"job_state"`
		ErrorCode        string            `json:"error_code"`
		ErrorKind        string            `json:"error_kind,omitempty"`
		Recoverable      *bool             `json:"recoverable,omitempty"`
		Message          string            `json:"message"`
		Outputs          json.RawMessage   `json:"outputs,omitempty"`
		LogLinks         []json.RawMessage `json:"log_links,omitempty"`
		CustomInfo       json.RawMessage   `json:"custom_info,omitempty"`
		PollAfterSeconds float64           `json:"poll_after_seconds,omitempty"`
	}
	logPage struct {
		Lines []logLine `json:"lines"`
		Next  string    `json:"next"`
	}
	logLine struct {
		Time    string `json:"time,omitempty"`
		Message string `json:"message"`
		System  bool   `json:"system"`
	}
	metricsReply struct {
		Metrics []metric `json:"metrics"`
	}
	metric struct {
		Name string          `json:"name"`
		Data json.RawMessage `json:"data,omitempty"`
	}
)

// legacyStates are the phases of services that set the state only. RETRYABLE_FAILURE is the zero value, which cannot be told
// from a state that was never set.
var legacyStates = map[admin.State]core.TaskExecution_Phase{
	admin.State_PENDING: core.TaskExecution_INITIALIZING, admin.State_RUNNING: core.TaskExecution_RUNNING,
	admin.State_SUCCEEDED: core.TaskExecution_SUCCEEDED, admin.State_PERMANENT_FAILURE: core.TaskExecution_FAILED,
}

// jobStatusOf is a resource in the contract's words.
func jobStatusOf(spec jobSpec, r *admin.Resource, pollAfter time.Duration) (*jobStatus, error) {
	phase := r.GetPhase()
	if phase == core.TaskExecution_UNDEFINED {
		phase = legacyStates[r.GetState()]
	}
	if _, known := core.TaskExecution_Phase_name[int32(phase)]; !known || phase == core.TaskExecution_UNDEFINED {
		return nil, status.Errorf(codes.DataLoss, "the plugin gave a job whose phase is not set or unknown (%d)", phase)
	}
	s := &jobStatus{
		JobSpec: spec, JobState: phase.String(), Message: r.GetMessage(), PollAfterSeconds: max(pollAfter, 0).Seconds(),
	}
	var err error
	if r.GetOutputs() != nil {
		if s.Outputs, err = marshal(r.GetOutputs()); err != nil {
			return nil, err
		}
	}
	if r.GetCustomInfo() != nil {
		if s.CustomInfo, err = marshal(r.GetCustomInfo()); err != nil {
			return nil, err
		}
	}
	for _, l := range r.GetLogLinks() {
		link, err := marshal(l)
		if err != nil {
			return nil, err
		}
		s.LogLinks = append(s.LogLinks, link)
	}
	if e := r.GetAgentError(); e != nil {
		recoverable := e.GetKind() == admin.AgentError_RECOVERABLE
		s.ErrorCode, s.ErrorKind, s.Recoverable = e.GetCode(), core.ExecutionError_UNKNOWN.String(), &recoverable
		if _, known := core.ExecutionError_ErrorKind_name[int32(e.GetOrigin())]; known {
			s.ErrorKind = e.GetOrigin().String()
		}
	}
	return s, nil
}

func pollErrorOf(st *status.Status) *pollError {
	return &pollError{
		Status: httpStatus(st), ErrorCode: CodeName(st.Code()), Message: message(st), RetryAfterSeconds: retryAfter(st).Seconds(),
	}
}

// errorOf is the status of an Error message.
func errorOf(e *flytebackendv1.Error) *status.Status {
	code := codes.Code(max(e.GetCode(), 0))
	if code == codes.OK {
		code = codes.Unknown
	}
	st := status.New(code, e.GetMessage())
	if e.GetRetryAfter() == nil {
		return st
	}
	if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: e.GetRetryAfter()}); err == nil {
		return with
	}
	return st
}

func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}

// maxMessage is how long an error's message may be by the contract; plugins pass on what they are told, however long it is.
const maxMessage = 16 << 10

// message is never empty: people read it.
func message(st *status.Status) string {
	text := strings.ToValidUTF8(st.Message(), "\uFFFD")
	switch {
	case text == "":
		return "the service gave no reason"
	case len(text) > maxMessage:
		const mark = "…"
		return strings.ToValidUTF8(text[:maxMessage-len(mark)], "") + mark
	}
	return text
}

// WriteError answers with an error in the contract's form: the status of its code (413 for a message over a limit), Retry-After if it asks for a pause, and a
// body of error_code and message.
func WriteError(w http.ResponseWriter, st *status.Status) { writeError(w, httpStatus(st), st) }

// httpStatus is the status of an error's code, but 413 for a message over a limit, for which it is no use to wait. It has the code of
// what may pass, and is told by grpc's words, as gRPC's callers tell it.
func httpStatus(st *status.Status) int {
	if st.Code() == codes.ResourceExhausted && strings.Contains(st.Message(), "larger than max") {
		return http.StatusRequestEntityTooLarge
	}
	return Status(st.Code())
}

func writeError(w http.ResponseWriter, httpStatus int, st *status.Status) {
	if pause := retryAfter(st); pause > 0 {
		w.Header().Set("Retry-After", strconv.FormatFloat(math.Ceil(pause.Seconds()), 'f', 0, 64))
	}
	WriteJSON(w, httpStatus, failure{CodeName(st.Code()), message(st)})
}

// WriteJSON answers with a value as JSON, which is not to be kept by caches. It blocks until the caller took the answer, but
// for a minute at most.
func WriteJSON(w http.ResponseWriter, httpStatus int, v any) {
	raw, err := json.Marshal(v)
	if err != nil { // a plugin's text, such as a name that a log link may not have
		httpStatus = http.StatusInternalServerError
		raw, _ = json.Marshal(failure{CodeName(codes.Internal), "the service's answer cannot be written as JSON"})
	}
	Write(w, httpStatus, "application/json; charset=utf-8", append(raw, '\n'))
}

// Write answers with content of any type, in the same way as [WriteJSON].
func Write(w http.ResponseWriter, httpStatus int, contentType string, content []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(content)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	// A server's own limit would end calls that take long. What has no deadlines has no slow callers.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.WriteHeader(httpStatus)
	_, _ = w.Write(content) // the caller hung up: there is nobody to tell
}

// writeTimeout is how long a caller may take to read an answer.
const writeTimeout = time.Minute

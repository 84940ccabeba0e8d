package restclient

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/internal/convert"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// The messages of api/openapi.yaml. Pointers tell what is absent from what is empty.
type (
	pluginList struct {
		Plugins *[]registered `json:"plugins"`
	}
	registered struct {
		Name             string  `json:"name"`
		TaskType         string  `json:"task_type"`
		PluginVersion    string  `json:"plugin_version"`
		TaskTypeVersions []int32 `json:"task_type_versions"`
		Mode             string  `json:"mode"`
	}

	createRequest struct {
		Template       json.RawMessage `json:"template"`
		Inputs         json.RawMessage `json:"inputs,omitempty"`
		OutputPrefix   string          `json:"output_prefix,omitempty"`
		Metadata       json.RawMessage `json:"metadata,omitempty"`
		MaxOutputBytes int64           `json:"max_output_bytes,omitempty"`
	}
	created struct {
		JobID     string `json:"job_id"`
		ErrorCode string `json:"error_code"`
	}

	jobRef struct {
		JobID           string `json:"job_id"`
		TaskTypeVersion int32  `json:"task_type_version,omitempty"`
		OutputPrefix    string `json:"output_prefix,omitempty"`
	}
	pollRequest struct {
		Jobs []jobRef `json:"jobs"`
	}
	pollReply struct {
		Results *[]pollResult `json:"results"`
	}
	pollResult struct {
		Job   *jobStatus `json:"job"`
		Error *jobError  `json:"error"`
	}
	jobError struct {
		Status            int     `json:"status"`
		ErrorCode         string  `json:"error_code"`
		Message           string  `json:"message"`
		RetryAfterSeconds float64 `json:"retry_after_seconds"`
	}
	jobStatus struct {
		JobState         string            `json:"job_state"`
		ErrorCode        string            `json:"error_code"`
		ErrorKind        string            `json:"error_kind"`
		Recoverable      bool              `json:"recoverable"`
		Message          string            `json:"message"`
		Outputs          json.RawMessage   `json:"outputs"`
		LogLinks         []json.RawMessage `json:"log_links"`
		CustomInfo       json.RawMessage   `json:"custom_info"`
		PollAfterSeconds float64           `json:"poll_after_seconds"`
	}

	// failure is the body of every answer that is no success.
	failure struct {
		ErrorCode string `json:"error_code"`
		Message   string `json:"message"`
	}
)

const (
	// maxURLID is the longest job id that goes into a URL.
	maxURLID = 4095
	// base64Prefix begins ids that are no text, and so also those that begin with it by themselves.
	base64Prefix = "base64:"
)

// encodeID gives the form in which a job id travels.
func encodeID(id client.JobID) string {
	if s := string(id); utf8.ValidString(s) && !strings.HasPrefix(s, base64Prefix) {
		return s
	}
	return base64Prefix + base64.RawURLEncoding.EncodeToString(id)
}

// decodeID reads what encodeID has written. The error does not repeat the id.
func decodeID(s string) (client.JobID, error) {
	encoded, is := strings.CutPrefix(s, base64Prefix)
	if !is {
		return client.JobID(s), nil
	}
	id, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, errors.New("its job_id begins with base64: and goes on with something else than URL-safe base64 without padding")
	}
	return id, nil
}

// newCreateRequest gives the body of a create or an execute.
func newCreateRequest(r *client.CreateRequest, maxOutputBytes int64) (createRequest, error) {
	out := createRequest{OutputPrefix: r.OutputPrefix, MaxOutputBytes: maxOutputBytes}
	if !utf8.ValidString(r.OutputPrefix) {
		return out, errors.New("the output prefix is no UTF-8")
	}
	parts := []struct {
		name string
		m    proto.Message
		to   *json.RawMessage
	}{
		{"template", r.Template, &out.Template}, {"inputs", r.Inputs, &out.Inputs}, {"metadata", convert.Metadata(r.Metadata), &out.Metadata},
	}
	for _, p := range parts {
		if !p.m.ProtoReflect().IsValid() {
			continue // a nil message
		}
		b, err := protojson.Marshal(p.m)
		if err != nil {
			return out, fmt.Errorf("the %s: %w", p.name, err)
		}
		*p.to = b
	}
	if out.Template == nil {
		out.Template = json.RawMessage("{}")
	}
	return out, nil
}

func refOf(ref client.JobRef) jobRef {
	return jobRef{JobID: encodeID(ref.ID), TaskTypeVersion: ref.Target.TaskTypeVersion, OutputPrefix: ref.OutputPrefix}
}

// registrations checks and converts a list.
func (l pluginList) registrations() ([]client.Registration, error) {
	if l.Plugins == nil {
		return nil, errors.New("it has no plugins")
	}
	var out []client.Registration
	for i, p := range *l.Plugins {
		r := client.Registration{Name: p.Name, TaskType: p.TaskType, PluginVersion: p.PluginVersion}
		switch p.Mode {
		case config.ModeAsync:
		case config.ModeSync:
			r.Mode = client.Sync
		default:
			return nil, fmt.Errorf("plugins[%d].mode is %q; async or sync is due", i, p.Mode)
		}
		switch {
		case p.TaskType == "":
			return nil, fmt.Errorf("plugins[%d].task_type is empty", i)
		case !pluginversion.Valid(p.PluginVersion):
			return nil, fmt.Errorf("plugins[%d].plugin_version is %q; at most 64 letters, digits and . _ + - are due", i, p.PluginVersion)
		case slices.ContainsFunc(p.TaskTypeVersions, func(v int32) bool { return v < 1 }):
			return nil, fmt.Errorf("plugins[%d].task_type_versions is %v; numbers from 1 are due, and none means any", i, p.TaskTypeVersions)
		}
		if len(p.TaskTypeVersions) > 0 {
			slices.Sort(p.TaskTypeVersions)
			r.TaskTypeVersions = slices.Compact(p.TaskTypeVersions)
		}
		out = append(out, r)
	}
	return out, nil
}

// states are the job states of the contract.
var states = map[string]core.TaskExecution_Phase{
	"QUEUED":                core.TaskExecution_QUEUED,
	"WAITING_FOR_RESOURCES": core.TaskExecution_WAITING_FOR_RESOURCES,
	"INITIALIZING":          core.TaskExecution_INITIALIZING,
	"RUNNING":               core.TaskExecution_RUNNING,
	"SUCCEEDED":             core.TaskExecution_SUCCEEDED,
	"FAILED":                core.TaskExecution_FAILED,
	"RETRYABLE_FAILED":      core.TaskExecution_RETRYABLE_FAILED,
	"ABORTED":               core.TaskExecution_ABORTED,
}

// origins are the kinds of errors whose origin is known.
var origins = map[string]core.ExecutionError_ErrorKind{"USER": core.ExecutionError_USER, "SYSTEM": core.ExecutionError_SYSTEM}

// job checks and converts a job's state.
func (s *jobStatus) job() (*client.Job, error) {
	job := &client.Job{Message: s.Message, PollAfter: seconds(s.PollAfterSeconds)}
	var known bool
	if job.Phase, known = states[s.JobState]; !known {
		if s.JobState == "" {
			return nil, errors.New("it has no job_state")
		}
		return nil, fmt.Errorf("job_state %q is unknown", s.JobState)
	}
	if present(s.Outputs) {
		job.Outputs = &core.LiteralMap{}
		if err := lenient.Unmarshal(s.Outputs, job.Outputs); err != nil {
			return nil, fmt.Errorf("outputs: %w", err)
		}
	}
	for i, raw := range s.LogLinks {
		link := &core.TaskLog{}
		if err := lenient.Unmarshal(raw, link); err != nil {
			return nil, fmt.Errorf("log_links[%d]: %w", i, err)
		}
		job.LogLinks = append(job.LogLinks, link)
	}
	if present(s.CustomInfo) {
		job.CustomInfo = &structpb.Struct{}
		if err := lenient.Unmarshal(s.CustomInfo, job.CustomInfo); err != nil {
			return nil, fmt.Errorf("custom_info: %w", err)
		}
	}
	origin := origins[s.ErrorKind]
	if s.ErrorCode != "" || origin != core.ExecutionError_UNKNOWN || s.Recoverable {
		job.Failure = &client.Failure{Code: s.ErrorCode, Recoverable: s.Recoverable, Origin: origin}
	}
	return job, nil
}

// lenient passes over fields that this version of flyteidl does not know.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// seconds gives the duration that a number of the contract means.
func seconds(n float64) time.Duration {
	if math.IsNaN(n) || n <= 0 {
		return 0
	}
	return time.Duration(min(n, math.MaxInt64/float64(2*time.Second)) * float64(time.Second))
}

// codeNamed finds the gRPC code that a service's error_code names.
func codeNamed(name string) (codes.Code, bool) {
	quoted, err := json.Marshal(name)
	if err != nil {
		return 0, false
	}
	var code codes.Code
	if code.UnmarshalJSON(quoted) != nil || code == codes.OK {
		return 0, false
	}
	return code, true
}

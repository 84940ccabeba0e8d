package conformance

import (
	"fmt"
	"strings"
	"time"
)

// Level is how much a case asks for.
type Level string

// The levels: a service that fails a Must does not conform; one that fails a Should does, and works less well.
const (
	Must   Level = "must"
	Should Level = "should"
)

// Outcome is how a case ended.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Problem is one thing that is wrong.
type Problem struct {
	// Sent, Got and Due say what the suite sent, what came, and what was due.
	Sent string `json:"sent"`
	Got  string `json:"got"`
	Due  string `json:"due"`
	// Contract is the paragraph that says so, such as docs/contract.md#gettask.
	Contract string `json:"contract"`
}

// String says it in a few lines.
func (p Problem) String() string {
	return fmt.Sprintf("sent: %s\n got: %s\n due: %s\n see: %s", p.Sent, p.Got, p.Due, p.Contract)
}

// Result is how one case ended for one plugin.
type Result struct {
	// Case is the case's id, and Area what stands before its slash.
	Case string `json:"case"`
	Area string `json:"area"`
	// Plugin is what the case was tried with, such as "query v1"; it is empty for cases about the whole service.
	Plugin  string  `json:"plugin,omitempty"`
	Level   Level   `json:"level"`
	Purpose string  `json:"purpose"`
	Outcome Outcome `json:"outcome"`
	// Reason is why the case was skipped.
	Reason   string        `json:"reason,omitempty"`
	Problems []Problem     `json:"problems,omitempty"`
	Duration time.Duration `json:"duration"`
}

// Text is the problems in plain words.
func (r *Result) Text() string {
	parts := make([]string, len(r.Problems))
	for i, p := range r.Problems {
		parts[i] = p.String()
	}
	return r.Purpose + "\n" + strings.Join(parts, "\n\n")
}

// Left is a job that the suite made and could not delete.
type Left struct {
	Plugin string `json:"plugin"`
	// JobID is quoted, and cut to a readable length.
	JobID  string `json:"job_id"`
	Reason string `json:"reason"`
}

// Report is how a run ended.
type Report struct {
	Endpoint string   `json:"endpoint"`
	Protocol Protocol `json:"protocol"`
	Results  []Result `json:"results"`
	// Left are jobs that could not be deleted, and jobs that may be there although no answer named them.
	Left []Left `json:"left,omitempty"`
	// Interrupted says that the run ended before its last case.
	Interrupted bool `json:"interrupted,omitempty"`
	Strict      bool `json:"strict,omitempty"`
}

// Count counts results of an outcome and a level; an empty level means both.
func (r *Report) Count(outcome Outcome, level Level) int {
	n := 0
	for i := range r.Results {
		if r.Results[i].Outcome == outcome && (level == "" || r.Results[i].Level == level) {
			n++
		}
	}
	return n
}

// Conforms says that nothing failed that must not, and that something was tried.
func (r *Report) Conforms() bool {
	if r.Interrupted || r.Count(Passed, Must) == 0 && r.Count(Passed, Should) == 0 {
		return false
	}
	if r.Strict && r.Count(Failed, Should) > 0 {
		return false
	}
	return r.Count(Failed, Must) == 0
}

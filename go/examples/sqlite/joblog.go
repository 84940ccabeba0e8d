package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// jobLog is what Flyte's log link of a job leads to: its steps, a line each. It is there for people, so trouble with
// it never fails a job.
type jobLog struct {
	f    *os.File
	last string
}

func (s *Service) openLog(j *job) *jobLog {
	f, err := os.OpenFile(s.logPath(j.id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.opts.Log.Warn("sqlite: the job gets no log", "job", j.id, "error", err)
		return &jobLog{}
	}
	l := &jobLog{f: f}
	l.line(fmt.Sprintf("run %d: %s", j.runs, j.message))
	return l
}

// line adds one, unless it only repeats how long something still takes.
func (l *jobLog) line(text string) {
	if l.f == nil || sameStep(text, l.last) {
		return
	}
	l.last = text
	fmt.Fprintf(l.f, "%s %s\n", time.Now().UTC().Format(time.RFC3339), text)
}

// sameStep compares two lines without their numbers.
func sameStep(a, b string) bool { return withoutDigits(a) == withoutDigits(b) }

func withoutDigits(s string) string {
	kept := make([]byte, 0, len(s))
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && c != '.' {
			kept = append(kept, c)
		}
	}
	return string(kept)
}

func (l *jobLog) close() {
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

func (s *Service) removeLog(id string) {
	if err := os.Remove(s.logPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Warn("sqlite: a job's log was not removed", "job", id, "error", err)
	}
}

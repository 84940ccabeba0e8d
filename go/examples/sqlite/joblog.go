package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// jobLog is what Flyte's log link of a job leads to: its steps, a line each. It is there for people, so trouble with
// it never fails a job.
type jobLog struct {
	f    *os.File
	log  *slog.Logger // where trouble with it goes
	last string
}

func (s *Service) openLog(j *job) *jobLog {
	log := s.opts.Log.With("job", j.id)
	f, err := os.OpenFile(s.logPath(j.id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		log.Warn("sqlite: the job gets no log", "error", err)
		return &jobLog{}
	}
	l := &jobLog{f: f, log: log}
	l.line(fmt.Sprintf("run %d: %s", j.runs, j.message))
	return l
}

// line adds one, unless it only repeats how long something still takes.
func (l *jobLog) line(text string) {
	if l.f == nil || sameStep(text, l.last) {
		return
	}
	l.last = text
	if _, err := fmt.Fprintf(l.f, "%s %s\n", time.Now().UTC().Format(time.RFC3339), text); err != nil {
		l.log.Warn("sqlite: the job's log ends early", "error", err)
		l.close()
	}
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
	if l.f == nil {
		return
	}
	if err := l.f.Close(); err != nil {
		l.log.Warn("sqlite: the job's log may lack its end", "error", err)
	}
	l.f = nil
}

func (s *Service) removeLog(id string) {
	if err := os.Remove(s.logPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Warn("sqlite: a job's log was not removed", "job", id, "error", err)
	}
}

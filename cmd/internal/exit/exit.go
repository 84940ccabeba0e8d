// Package exit is how commands end: an error with its exit code, and with what would help.
package exit

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// The exit codes. They are a contract with scripts: docs/cli.md.
const (
	Failed   = 1 // what was asked for ran and failed
	BadInput = 2 // nothing ran: what was asked for is wrong, or cannot be done here
	Aborted  = 3 // the run was aborted, by a signal or for its time
	Internal = 4 // anything else, such as a disk that is full
)

// Error is an error with the exit code that it ends the command with.
type Error struct {
	Code int
	Err  error
	// Hint is one more line that says what would help; it may be empty.
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the error itself.
func (e *Error) Unwrap() error { return e.Err }

// BadInputf makes an error for what the user can set right.
func BadInputf(format string, args ...any) error {
	return &Error{Code: BadInput, Err: fmt.Errorf(format, args...)}
}

// Hint adds what would help.
func Hint(err error, format string, args ...any) error {
	e := &Error{Code: Internal, Err: err}
	errors.As(err, &e)
	return &Error{Code: e.Code, Err: err, Hint: fmt.Sprintf(format, args...)}
}

// Usage has a command and those below it end with BadInput when flags are wrong.
func Usage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &Error{Code: BadInput, Err: err} })
}

// OneLine makes a text that somebody else wrote fit for one line of a terminal: control codes could clear the screen, and
// direction marks show one text as another.
func OneLine(text string) string {
	var parts []string
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' || unicode.In(r, unicode.Zl, unicode.Zp) }) {
		part = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
				return ' '
			}
			return r
		}, part)
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	var line strings.Builder
	for i, part := range parts {
		switch {
		case i == 0:
		case strings.HasSuffix(parts[i-1], ":"): // what follows is what it announces
			line.WriteString(" ")
		default:
			line.WriteString("; ")
		}
		line.WriteString(part)
	}
	return line.String()
}

// Report tells of an error, in one line and perhaps another one with a hint, and gives its exit code: Internal unless an Error
// says otherwise.
func Report(w io.Writer, err error) int {
	unknown := strings.HasPrefix(err.Error(), "unknown command ") // cobra has no type for it, and adds lines of what it may have been
	said := err.Error()
	if !unknown {
		said = OneLine(said)
	}
	_, _ = fmt.Fprintln(w, "flyte-backend:", said)
	var e *Error
	switch {
	case errors.As(err, &e):
		if e.Hint != "" {
			_, _ = fmt.Fprintln(w, "hint:", OneLine(e.Hint))
		}
		return e.Code
	case unknown:
		return BadInput
	default:
		return Internal
	}
}

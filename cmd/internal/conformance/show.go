package conformance

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/flyte-backend/flyte-backend/go/conformance"
)

// shower tells of results as they come.
type shower interface {
	result(r conformance.Result)
	end()
}

// silent tells nothing.
type silent struct{}

func (silent) result(conformance.Result) {}
func (silent) end()                      {}

// text tells people, area by area.
type text struct {
	out  io.Writer
	live io.Writer // where progress is drawn; nil when that is no terminal
	area string
	tint bool
	// cases are the ids that are to come, in their order.
	cases []string
}

func newText(out, log io.Writer, cases []string) *text {
	t := &text{out: out, tint: isTerminal(out) && os.Getenv("NO_COLOR") == "", cases: cases}
	if isTerminal(log) {
		t.live = log
		_, _ = io.WriteString(log, "waiting for the service …")
	}
	return t
}

// casesOf are the ids of the cases that the options choose.
func casesOf(o *conformance.Options) []string {
	var out []string
	for _, c := range conformance.Cases() {
		if slices.Contains(c.Protocols, o.Protocol) && (o.Run == nil || o.Run.MatchString(c.ID)) {
			out = append(out, c.ID)
		}
	}
	return out
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// marks are how outcomes look, and in which colour.
var marks = map[conformance.Outcome]struct{ mark, colour string }{
	conformance.Passed: {"✓", "32"}, conformance.Failed: {"✗", "31"}, conformance.Skipped: {"–", "90"},
}

func (t *text) result(r conformance.Result) {
	t.clear()
	if r.Area != t.area {
		t.area = r.Area
		t.say("%s\n", r.Area)
	}
	m := marks[r.Outcome]
	mark := m.mark
	if t.tint {
		mark = "\x1b[" + m.colour + "m" + mark + "\x1b[0m"
	}
	name := strings.TrimPrefix(r.Case, r.Area+"/")
	if r.Plugin != "" {
		name += " (" + r.Plugin + ")"
	}
	switch r.Outcome {
	case conformance.Skipped:
		t.say("  %s %s: %s\n", mark, name, r.Reason)
	case conformance.Failed:
		t.say("  %s %s, which it %s\n      %s\n", mark, name, r.Level, r.Purpose)
		for _, p := range r.Problems {
			t.say("      %s\n", strings.ReplaceAll(p.String(), "\n", "\n      "))
		}
	default:
		t.say("  %s %s\n", mark, name)
	}
	if t.live == nil {
		return
	}
	// The case may go on with another plugin; if it does not, it is the next one that takes its time now.
	if done := slices.Index(t.cases, r.Case) + 1; done < len(t.cases) {
		_, _ = fmt.Fprintf(t.live, "\r%d of %d cases; next is %s …", done, len(t.cases), t.cases[done])
	} else {
		_, _ = io.WriteString(t.live, "\rdeleting the jobs that were made …")
	}
}

// say writes; a reader that went away is found when the summary is written.
func (t *text) say(format string, args ...any) { _, _ = fmt.Fprintf(t.out, format, args...) }

func (t *text) clear() {
	if t.live != nil {
		_, _ = io.WriteString(t.live, "\r\x1b[K")
	}
}

func (t *text) end() { t.clear() }

func writeSummary(w io.Writer, report *conformance.Report) error {
	var b strings.Builder
	for _, left := range report.Left {
		fmt.Fprintf(&b, "left behind: job %s of %s: %s\n", left.JobID, left.Plugin, left.Reason)
	}
	must, should := report.Count(conformance.Failed, conformance.Must), report.Count(conformance.Failed, conformance.Should)
	fmt.Fprintf(&b, "\n%d results: %d passed, %d failed (%d must, %d should), %d skipped.\n",
		len(report.Results), report.Count(conformance.Passed, ""), must+should, must, should, report.Count(conformance.Skipped, ""))
	switch {
	case report.Interrupted:
		b.WriteString("The run was interrupted.\n")
	case report.Conforms():
		b.WriteString("The service conforms.\n")
	case report.Count(conformance.Passed, "")+report.Count(conformance.Failed, "") == 0:
		b.WriteString("Nothing was tried.\n")
	default:
		b.WriteString("The service does not conform.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string     `xml:"classname,attr"`
		Name    string     `xml:"name,attr"`
		Time    string     `xml:"time,attr"`
		Failure *junitText `xml:"failure"`
		Skipped *junitText `xml:"skipped"`
		Out     string     `xml:"system-out,omitempty"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes what CI servers read. What a service only should do is no failure there, unless the run was strict.
func writeJUnit(w io.Writer, report *conformance.Report) error {
	all := junitSuites{}
	for i := range report.Results {
		r := &report.Results[i]
		if len(all.Suites) == 0 || all.Suites[len(all.Suites)-1].Name != r.Area {
			all.Suites = append(all.Suites, junitSuite{Name: r.Area})
		}
		suite := &all.Suites[len(all.Suites)-1]
		c := junitCase{Class: r.Area, Name: strings.TrimSpace(r.Case + " " + r.Plugin), Time: fmt.Sprintf("%.3f", r.Duration.Seconds())}
		suite.Tests++
		all.Tests++
		switch {
		case r.Outcome == conformance.Skipped:
			c.Skipped = &junitText{Message: r.Reason}
			suite.Skipped++
			all.Skipped++
		case r.Outcome == conformance.Failed && r.Level == conformance.Should && !report.Strict:
			c.Out = "should, and does not: " + r.Text()
		case r.Outcome == conformance.Failed:
			c.Failure = &junitText{Message: r.Purpose, Text: r.Text()}
			suite.Failures++
			all.Failures++
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	return enc.Encode(all)
}

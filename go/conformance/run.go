package conformance

import (
	"context"
	"strings"
)

// TestingT is what [Run] needs of *testing.T. It is spelled out so that a command that imports this package for [Check] does
// not have package testing in it.
type TestingT[T any] interface {
	Helper()
	Context() context.Context
	Run(name string, f func(T)) bool
	Log(args ...any)
	Error(args ...any)
	Fatal(args ...any)
	Skip(args ...any)
}

// Run checks a service, each case in a subtest of t, which is called after the case and, for cases that are tried with each plugin,
// the plugin: go test's -run chooses among them. It blocks until all that it made is deleted. A case that a service should pass
// and does not is logged, and fails only with Options.Strict.
func Run[T TestingT[T]](t T, o Options) {
	t.Helper()
	report, err := check(t.Context(), o, func(named *Result, run func() *Result) {
		name := named.Case
		if named.Plugin != "" {
			name += "/" + strings.ReplaceAll(named.Plugin, " ", "@")
		}
		t.Run(name, func(t T) {
			t.Helper()
			switch r := run(); {
			case r == nil:
				t.Error("the run was interrupted")
			case r.Outcome == Skipped:
				t.Skip(r.Reason)
			case r.Outcome == Failed && r.Level == Should && !o.Strict:
				t.Log("should, and does not: " + r.Text())
			case r.Outcome == Failed:
				t.Error(r.Text())
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range report.Left {
		t.Log("left behind: job " + left.JobID + " of " + left.Plugin + ": " + left.Reason)
	}
	if report.Interrupted {
		t.Error("the run was interrupted before its last case")
	}
}

package conformance_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// TestRunMakesSubtests is Run as plugin authors call it.
func TestRunMakesSubtests(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			one, other := serve(t, protocol, "")
			conformance.Run(t, options(one, other))
		})
	}
}

// recorder is a testing.T that fails nobody.
type recorder struct {
	ctx     context.Context
	all     *[]string
	verdict string
	only    string // the one subtest that -run chooses; empty is all
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Log(...any)               { r.verdict = "logged" }
func (r *recorder) Error(...any)             { r.verdict = "failed" }
func (r *recorder) Fatal(...any)             { r.verdict = "fatal" }
func (r *recorder) Skip(...any)              { r.verdict = "skipped" }
func (r *recorder) Run(name string, f func(*recorder)) bool {
	if r.only != "" && name != r.only {
		return true
	}
	sub := &recorder{ctx: r.ctx, verdict: "passed"}
	f(sub)
	*r.all = append(*r.all, name+" "+sub.verdict)
	return true
}

// TestRunRunsWhatIsChosen: a subtest that go test's -run leaves out is not tried either.
func TestRunRunsWhatIsChosen(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.GRPC, "")
	var all []string
	conformance.Run(&recorder{ctx: t.Context(), all: &all, only: "delete/twice/work@v1"}, options(one, other))
	require.Equal(t, []string{"delete/twice/work@v1 passed"}, all)
	one.store.mu.Lock()
	defer one.store.mu.Unlock()
	require.Len(t, one.store.jobs, 1)
}

// TestRunTellsLevelsApart: what a service must do fails the test, what it should do is logged, unless the options are strict.
func TestRunTellsLevelsApart(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]map[bool]string{
		"relative log links": {true: "poll/log-links/work@v1 failed", false: "poll/log-links/work@v1 logged"},
		"jobs never end":     {true: "poll/job-succeeds/work@v1 failed", false: "poll/job-succeeds/work@v1 failed"},
	} {
		for strict, line := range want {
			one, other := serve(t, conformance.GRPC, fault)
			o := options(one, other)
			o.Strict, o.Run, o.JobTimeout = strict, regexp.MustCompile(`^poll/`), 100*time.Millisecond
			var all []string
			conformance.Run(&recorder{ctx: t.Context(), all: &all}, o)
			require.Contains(t, all, line)
			require.Contains(t, all, "poll/unknown-job/work@v1 passed")
		}
	}
}

// TestOptionsChoose: task type, plugin version and the filter say what is tried, and a task type that is not listed fails.
func TestOptionsChoose(t *testing.T) {
	t.Parallel()
	one, _ := serve(t, conformance.GRPC, "")
	for reason, row := range map[string]struct {
		change  func(*conformance.Options)
		plugins []string
		fails   []string
	}{
		"all":                    {func(*conformance.Options) {}, []string{"picky v1", "sum v1 sync", "work v1"}, nil},
		"one task type":          {func(o *conformance.Options) { o.TaskType = "work" }, []string{"work v1"}, nil},
		"that of the template":   {func(o *conformance.Options) { o.Template.Type = "picky" }, []string{"picky v1"}, nil},
		"a version":              {func(o *conformance.Options) { o.PluginVersion = "v1" }, []string{"picky v1", "sum v1 sync", "work v1"}, nil},
		"a type that is missing": {func(o *conformance.Options) { o.TaskType = "missing" }, nil, []string{"metadata/serves-what-is-asked"}},
		"a version that is not":  {func(o *conformance.Options) { o.PluginVersion = "v9" }, nil, []string{"metadata/serves-what-is-asked"}},
	} {
		o := options(one, one)
		o.Run = regexp.MustCompile(`^(metadata/serves-what-is-asked|poll/phase-is-set|execute/ends)$`)
		row.change(&o)
		report, err := conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		var plugins []string
		for _, r := range report.Results {
			require.Regexp(t, o.Run, r.Case)
			if r.Plugin != "" {
				plugins = append(plugins, r.Plugin)
			}
		}
		slices.Sort(plugins)
		require.Equal(t, row.plugins, plugins, reason)
		require.Equal(t, row.fails, failed(&report), reason)
	}
}

// TestMinimalTemplate: without a template, what needs one that the plugin takes is skipped, and the reason says what to give.
func TestMinimalTemplate(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.GRPC, "labels are refused") // of the minimal template there is nothing to refuse
	o := options(one, other)
	o.Template, o.Inputs, o.LongInputs, o.FailingInputs = nil, nil, nil, nil
	report, err := conformance.Check(t.Context(), o, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"create/all-of-a-task"}, failed(&report), "%s", texts(&report))
	reasons := map[string]string{}
	for _, r := range report.Results {
		reasons[r.Case] = r.Reason
	}
	require.Contains(t, reasons["delete/in-mid-job"], "give LongInputs")
	require.Contains(t, reasons["poll/job-fails"], "give FailingInputs")
	require.Contains(t, reasons["poll/outputs-fit"], "minimal template")
	require.Contains(t, reasons["execute/succeeds"], "give a template and inputs", "the service's synchronous tasks fail without their input")
}

// TestInterrupted: a run that is interrupted stops, deletes what it made, and says so.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.GRPC, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	report, err := conformance.Check(ctx, options(one, other), func(r conformance.Result) {
		if r.Case == "load/creates" {
			cancel()
		}
	})
	require.NoError(t, err)
	require.True(t, report.Interrupted)
	require.False(t, report.Conforms())
	require.Empty(t, report.Left)
	require.Equal(t, "load/creates", report.Results[len(report.Results)-1].Case)
	one.store.mu.Lock()
	defer one.store.mu.Unlock()
	require.Greater(t, len(one.store.jobs), 64)
	for _, j := range one.store.jobs {
		require.True(t, j.deleted)
	}
}

// TestCleansUpAfterPanic: jobs are deleted also when the suite does not come to its end.
func TestCleansUpAfterPanic(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.GRPC, "")
	require.Panics(t, func() {
		_, _ = conformance.Check(t.Context(), options(one, other), func(r conformance.Result) {
			if r.Case == "create/gives-an-id" {
				panic("the caller's own")
			}
		})
	})
	one.store.mu.Lock()
	defer one.store.mu.Unlock()
	require.NotEmpty(t, one.store.jobs)
	for _, j := range one.store.jobs {
		require.True(t, j.deleted)
	}
}

// TestCleansUpSideBySide: a slow service is not left with what one deletion after the other would have no time for, nor is it
// swamped with deletions.
func TestCleansUpSideBySide(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		one, other := serve(t, protocol, slowEnds)
		o := options(one, other)
		o.Run = regexp.MustCompile(`^load/creates$`)
		report, err := conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		require.Empty(t, report.Left)
		require.Greater(t, one.deletesAtOnce.Load(), int32(1))
		require.LessOrEqual(t, one.deletesAtOnce.Load(), int32(8))
		one.store.mu.Lock()
		for _, j := range one.store.jobs {
			require.True(t, j.deleted)
		}
		one.store.mu.Unlock()
	}
}

// TestInterruptedCreate: a create that is under way when the run is interrupted is waited for, since nothing else names its job.
func TestInterruptedCreate(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		one, other := serve(t, protocol, slowStart)
		o := options(one, other)
		o.Run = regexp.MustCompile(`^create/gives-an-id$`)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for one.creating.Load() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		report, err := conformance.Check(ctx, o, nil)
		cancel()
		require.NoError(t, err)
		require.True(t, report.Interrupted)
		require.Empty(t, report.Left)
		one.store.mu.Lock()
		require.Len(t, one.store.jobs, 1)
		for _, j := range one.store.jobs {
			require.True(t, j.deleted)
		}
		one.store.mu.Unlock()
	}
}

// TestNoList: without a list, nothing can be tried, and why not stands with each case.
func TestNoList(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.REST, "")
	o := options(one, other)
	o.Endpoint += "/elsewhere"
	o.Run = regexp.MustCompile(`^create/gives-an-id$`)
	report, err := conformance.Check(t.Context(), o, nil)
	require.NoError(t, err)
	require.Len(t, report.Results, 1)
	require.Contains(t, report.Results[0].Reason, "the service gave no list of plugins: HTTP 404")
}

// TestReportIsFitForTerminals: what a service says cannot clear the screen, or turn the text around.
func TestReportIsFitForTerminals(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.REST, unprintable)
	o := options(one, other)
	o.Run = regexp.MustCompile(`^create/gives-an-id$`)
	report, err := conformance.Check(t.Context(), o, nil)
	require.NoError(t, err)
	require.Contains(t, texts(&report), `no \x1b[2Jjob \u202etoday`)
}

// TestLeftBehind: jobs that cannot be deleted are named, with why.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.GRPC, "deletions of finished jobs fail")
	o := options(one, other)
	o.Run = regexp.MustCompile(`^poll/job-succeeds$`)
	report, err := conformance.Check(t.Context(), o, nil)
	require.NoError(t, err)
	require.Len(t, report.Left, 2)
	require.Equal(t, "work v1", report.Left[0].Plugin)
	require.Contains(t, report.Left[0].JobID, "job-")
	require.Contains(t, report.Left[0].Reason, "FAILED_PRECONDITION: the job has ended")

	one, other = serve(t, conformance.REST, "keys are ignored")
	o = options(one, other)
	o.Run = regexp.MustCompile(`^broken/create-hung-up$`)
	report, err = conformance.Check(t.Context(), o, nil)
	require.NoError(t, err)
	require.NotEmpty(t, report.Left, "a create that was broken off may have left a job")
	require.Contains(t, report.Left[0].Reason, "broken off on purpose")
}

// TestDeadService: a service that dies and is not restarted fails the case that killed it; the others are skipped.
func TestDeadService(t *testing.T) {
	t.Parallel()
	one, other := serve(t, conformance.GRPC, "dies of garbage")
	o := options(one, other)
	o.Restart, o.RecoverTimeout = nil, time.Second
	report, err := conformance.Check(t.Context(), o, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"grpc/garbage"}, failed(&report), "%s", texts(&report))
	require.Contains(t, texts(&report), "whatever is sent, the service stays")
	last := report.Results[len(report.Results)-1]
	require.Equal(t, conformance.Skipped, last.Outcome)
	require.Contains(t, last.Reason, "does not answer any more since grpc/garbage")
	require.NotEmpty(t, report.Left)
}

// TestNothingThere: nobody at the endpoint is an error of its own.
func TestNothingThere(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		one, other := serve(t, protocol, "")
		one.die()
		o := options(one, other)
		o.RecoverTimeout = 50 * time.Millisecond
		_, err := conformance.Check(t.Context(), o, nil)
		require.ErrorIs(t, err, conformance.ErrNoService)
		require.ErrorContains(t, err, one.endpoint())
	}
}

// TestWrongOptions: each is told by name, with what would be right, and before anything is sent.
func TestWrongOptions(t *testing.T) {
	t.Parallel()
	good := conformance.Options{Endpoint: "127.0.0.1:1", Insecure: true}
	for want, change := range map[string]func(*conformance.Options){
		"Options.Endpoint is empty; name the service": func(o *conformance.Options) { o.Endpoint = "" },
		"is a URL; gRPC takes host:port":              func(o *conformance.Options) { o.Endpoint = "http://127.0.0.1:1" },
		"is no URL; REST takes http://host:port":      func(o *conformance.Options) { o.Protocol = conformance.REST },
		"neither grpc nor rest":                       func(o *conformance.Options) { o.Protocol = "soap" },
		"replica\" is no URL": func(o *conformance.Options) {
			o.Protocol, o.Endpoint, o.Replica = conformance.REST, "http://h", "replica"
		},
		"CertFile and KeyFile belong together":          func(o *conformance.Options) { o.Insecure, o.CertFile = false, "x" },
		"Insecure and TLS exclude each other":           func(o *conformance.Options) { o.CAFile = "x" },
		"CAFile: open no-such-file":                     func(o *conformance.Options) { o.Insecure, o.CAFile = false, "no-such-file" },
		"holds no certificate in PEM":                   func(o *conformance.Options) { o.Insecure, o.CAFile = false, "go.mod" },
		"CertFile and KeyFile: open no-such":            func(o *conformance.Options) { o.Insecure, o.CertFile, o.KeyFile = false, "no-such", "no-such" },
		"Options.JobTimeout is -1s; it cannot be":       func(o *conformance.Options) { o.JobTimeout = -time.Second },
		"Options.Oversize (-1) and Options.Concurrency": func(o *conformance.Options) { o.Oversize = -1 },
		"LongTemplate is of task type \"b\", and what is tried is \"a\"": func(o *conformance.Options) {
			o.TaskType, o.LongTemplate = "a", &core.TaskTemplate{Type: "b"}
		},
		`no case for grpc has an id that matches "^nothing/"`: func(o *conformance.Options) { o.Run = regexp.MustCompile("^nothing/") },
	} {
		o := good
		change(&o)
		_, err := conformance.Check(t.Context(), o, nil)
		var wrong *conformance.OptionsError
		require.ErrorAs(t, err, &wrong, want)
		require.ErrorContains(t, err, want)
	}
}

// TestSecretsOfHeadersStaySecret: an error that holds the value of a header of the options is told of.
func TestSecretsOfHeadersStaySecret(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		one, other := serve(t, protocol, "credentials in errors")
		o := options(one, other)
		o.Headers = map[string]string{"Authorization": "Bearer my-own-credential"}
		o.Run = regexp.MustCompile(`^errors/no-secrets$`)
		report, err := conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"errors/no-secrets"}, failed(&report))
		require.Contains(t, texts(&report), "(the value of header Authorization)")
		require.NotContains(t, texts(&report), "my-own-credential")
	}
}

// TestContractHasEveryParagraph: what cases cite stands in the contract.
func TestContractHasEveryParagraph(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/contract.md")
	require.NoError(t, err)
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(raw), -1) {
		anchors[strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	ids := map[string]bool{}
	for _, c := range conformance.Cases() {
		require.True(t, anchors[c.Contract], "%s cites #%s", c.ID, c.Contract)
		require.Regexp(t, `^[a-z]+/[a-z0-9-]+$`, c.ID)
		require.False(t, ids[c.ID], "%s twice", c.ID)
		require.True(t, strings.HasSuffix(c.Purpose, "."), c.Purpose)
		require.NotEmpty(t, c.Protocols)
		ids[c.ID] = true
	}
	require.Greater(t, len(ids), 120)
}

// TestRequestsAreOrdinary: paths go out as browsers and other clients send them, not as to a proxy.
func TestRequestsAreOrdinary(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.RequestURI:
		default:
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	_, _ = conformance.Check(t.Context(), conformance.Options{
		Endpoint: server.URL + "/below", Protocol: conformance.REST, Insecure: true, RecoverTimeout: time.Second,
	}, nil)
	require.Equal(t, "/below/plugins/v1", <-seen)
}

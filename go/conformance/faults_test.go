package conformance_test

import (
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

func text(s string) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_Primitive{
		Primitive: &core.Primitive{Value: &core.Primitive_StringValue{StringValue: s}},
	}}}}
}

func mode(s string) *core.LiteralMap {
	return &core.LiteralMap{Literals: map[string]*core.Literal{"mode": text(s)}}
}

func variables(name string, simple core.SimpleType) *core.VariableMap {
	return &core.VariableMap{Variables: map[string]*core.Variable{name: {Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: simple}}}}}
}

// options are for a faulty service.
func options(one, other *faulty) conformance.Options {
	return conformance.Options{
		Endpoint: one.endpoint(), Replica: other.endpoint(), Protocol: one.protocol, Insecure: one.protocol == conformance.GRPC,
		Template: &core.TaskTemplate{
			Id:        &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "p", Domain: "d", Name: "n", Version: "v"},
			Interface: &core.TypedInterface{Inputs: variables("mode", core.SimpleType_STRING), Outputs: variables("o0", core.SimpleType_INTEGER)},
		},
		Inputs: mode("quick"), LongInputs: mode("long"), FailingInputs: mode("fail"),
		Restart: one.restart, Strict: true,
		CallTimeout: 4 * time.Second, JobTimeout: 2 * time.Second, RecoverTimeout: 2 * time.Second, PollInterval: 2 * time.Millisecond,
		QuickPoll: 250 * time.Millisecond, Oversize: 2 << 20,
	}
}

// faults are what a service can get wrong, and the cases that tell so: those, and no others. Words after "grpc:" or "rest:" are
// for one protocol; a fault without cases for a protocol cannot be made there.
var faults = []struct{ fault, fails string }{
	{"lists nothing", "metadata/lists-plugins"},
	{"a task type without a name", "metadata/task-types-have-names"},
	{"old task types only", "grpc: metadata/categories"},
	{"a plugin version with a blank", "metadata/plugin-versions"},
	{"a negative task type version", "metadata/task-type-versions"},
	{"a plugin twice", "metadata/no-doubles"},
	{"another list each time", "metadata/list-repeats replicas/same-list restarts/same-list"},
	{"another list at the replica", "replicas/same-list"},
	{"another list after a restart", "restarts/same-list"},
	{"agents cannot be asked for", "grpc: metadata/get-agent"},
	{"every agent is there", "grpc: metadata/get-unknown-agent"},
	{"a mode of its own", "rest: metadata/rest-document"},

	{"creates fail", "create/gives-an-id"},
	{"ids are empty", "create/gives-an-id"},
	{"ids are too long", "create/gives-an-id"},
	{"creates wait for the job", "create/does-not-wait"},
	{"a key is required", "create/without-key"},
	{"labels are refused", "create/all-of-a-task"},
	{"unknown fields are refused", "create/unknown-fields"},
	{"any task type is created", "create/unknown-task-type"},
	{"a create of nothing starts a job", "create/empty"},
	{"keys are ignored", "create/same-key-same-job"},
	{"a key takes any request", "create/same-key-other-task"},
	{"keys are no lock", "create/same-key-at-once"},

	{"no phase", "poll/phase-is-set"},
	{"a phase of its own", "poll/phase-is-set"},
	{"jobs never end", "poll/job-succeeds"},
	{"outputs have another name", "poll/outputs-fit"},
	{"outputs have another type", "poll/outputs-fit"},
	{"results change", "poll/repeats batch/as-a-single-poll delete/leaves-others-alone restarts/result-stays grpc: watch/state-at-once"},
	{"results change at a restart", "restarts/result-stays"},
	{"unknown jobs run", "poll/unknown-job"},
	{"any task type is polled", "poll/unknown-task-type"},
	{"relative log links", "poll/log-links"},
	{"failures succeed", "poll/job-fails"},
	{"failures say nothing", "poll/failure-says-why"},

	{"deletions of finished jobs fail", "delete/finished"},
	{"a second deletion fails", "delete/twice delete/in-mid-job-twice load/deletes"},
	{"deletions of unknown jobs fail", "delete/unknown"},
	{"polls of deleted jobs fail", "delete/then-poll delete/in-mid-job replicas/delete restarts/delete"},
	{"deletions abort other jobs", "delete/leaves-others-alone"},
	{"deletions end nothing", "delete/in-mid-job replicas/delete restarts/delete"},
	{"deletions are forgotten after a restart", "restarts/delete"},

	{"odd id unicode", "ids/unicode"},
	{"odd id not-utf8", "ids/not-utf8"},
	{"odd id control-characters", "ids/control-characters"},
	{"odd id traversal", "ids/traversal"},
	{"odd id sql", "ids/sql"},
	{"odd id json", "ids/json"},
	{"odd id 64-kib", "ids/64-kib"},
	{"shows files", "ids/traversal"},
	{"an empty id is a job", "ids/empty"},
	{"an id of any length is a job", "ids/too-long"},
	{"ids that are nearly right are a fault", "ids/not-its-own"},
	{"base64 is a fault", "rest: ids/base64"},

	{"any plugin version is created", "versions/unknown-plugin-version"},
	{"any plugin version is polled", "versions/poll-unknown-plugin-version"},
	{"a plugin version is required", "grpc: versions/none-named"},
	{"only task type version 0 is taken", "versions/any-task-type-version"},
	{"any task type version is created", "versions/unlisted-task-type-version"},

	{"synchronous tasks do not end", "execute/ends"},
	{"synchronous tasks fail", "execute/succeeds"},
	{"synchronous calls cannot be repeated", "execute/repeats execute/hung-up grpc: execute/inputs-in-parts"},
	{"any task type is executed", "execute/unknown-task-type"},
	{"no header is needed", "grpc: execute/without-header"},
	{"the last inputs win", "grpc: execute/inputs-in-parts"},
	{"synchronous calls that are broken off poison the service", "execute/hung-up"},

	{"a result too few", "batch/a-result-each batch/a-thousand"},
	{"results in another order", "batch/a-result-each"},
	{"one wrong job fails all", "batch/a-result-each"},
	{"polls of many say something else", "batch/as-a-single-poll grpc: watch/state-at-once watch/end"},
	{"errors of a batch without a message", "batch/unknown-job rest: errors/have-a-message"},
	{"polls of no job", "batch/none"},
	{"polls of any number", "batch/too-many"},
	{"at most 500 polls", "batch/a-thousand"},
	{"no state at once", "grpc: watch/state-at-once watch/unknown-job watch/unfollow"},
	{"no news of the end", "grpc: watch/end"},
	{"an unknown job ends the stream", "grpc: watch/unknown-job"},
	{"unfollowing ends the stream", "grpc: watch/unfollow"},
	{"watch ids of its own", "grpc: watch/state-at-once watch/unknown-job"},
	{"logs that are not there are UNKNOWN", "logs/page logs/unknown-job"},
	{"logs never end", "logs/page"},
	{"unknown jobs have logs", "logs/unknown-job"},
	{"metrics that are not there are UNKNOWN", "metrics/series metrics/unknown-job"},
	{"metrics have no names", "metrics/series"},
	{"unknown jobs have metrics", "metrics/unknown-job"},
	{"never healthy", "grpc: operations/health"},
	{"reflection without services", "grpc: operations/reflection"},
	{"reflection v1alpha without services", "grpc: operations/reflection"},
	{"/healthz is broken", "rest: operations/healthz"},
	{"/readyz is broken", "rest: operations/readyz"},
	{"/metrics is broken", "rest: operations/metrics"},
	{"/openapi.json is broken", "rest: operations/openapi"},

	{"creates collide", "load/creates create/same-key-at-once"},
	{"polls collide", "load/polls"},
	{"deletions collide", "load/deletes delete/in-mid-job-twice"},
	{"at most 24 connections", "load/connections broken/idle-connections rest: load/creates load/polls load/deletes"},
	{"a create that is broken off blocks its key", "broken/create-hung-up create/same-key-at-once"},
	{"polls that are broken off poison the service", "broken/poll-hung-up"},
	{"dies of a cut connection", "broken/connection-cut"},
	{"slow polls", "time/poll-is-quick"},
	{"slow lists", "time/list-is-quick"},

	{"dies of garbage", "grpc: grpc/garbage"},
	{"incomplete messages are taken", "grpc: grpc/truncated"},
	{"repeated fields are refused", "grpc: grpc/repeated-fields"},
	{"dies of text that is no UTF-8", "grpc: grpc/invalid-utf8"},
	{"unknown methods are a fault", "grpc: grpc/unknown-method"},
	{"dies of deep nesting", "grpc: grpc/deep-nesting"},
	{"binary metadata is a fault", "grpc: grpc/odd-metadata"},
	{"dies of another protocol", "grpc: grpc/not-http2 rest: rest/not-http"},

	{"fault at rest/garbage", "rest: rest/garbage"},
	{"fault at rest/truncated", "rest: rest/truncated"},
	{"fault at rest/empty-body", "rest: rest/empty-body"},
	{"fault at rest/array-body", "rest: rest/array-body"},
	{"fault at rest/wrong-kind", "rest: rest/wrong-kind"},
	{"fault at rest/wrong-field", "rest: rest/wrong-field"},
	{"fault at rest/trailing-data", "rest: rest/trailing-data"},
	{"fault at rest/invalid-utf8", "rest: rest/invalid-utf8"},
	{"fault at rest/duplicate-keys", "rest: rest/duplicate-keys"},
	{"fault at rest/deep-nesting", "rest: rest/deep-nesting"},
	{"snake_case is refused", "rest: rest/snake-case"},
	{"charset is refused", "rest: rest/charset"},
	{"odd headers are refused", "rest: rest/odd-headers"},
	{"chunks are refused", "rest: rest/chunked"},
	{"any content type", "rest: rest/content-type"},
	{"paths are a fault", "rest: rest/paths"},
	{"a poll needs no job_id", "rest: rest/no-job-id"},
	{"any query is taken", "rest: rest/bad-query"},
	{"keys of any length", "rest: rest/bad-key"},
	{"dies of large headers", "rest: rest/big-header"},
	{"connections are not kept", "rest: rest/keeps-connections"},

	{"at most half a mebibyte", "size/a-megabyte"},
	{"dies of large requests", "size/too-large"},
	{"jobs are in memory", "replicas/poll replicas/delete replicas/same-key restarts/in-mid-job restarts/result-stays restarts/same-key"},
	{"keys are forgotten at a restart, and unknown to replicas", "replicas/same-key restarts/same-key"},

	{"errors without a message", "errors/have-a-message"},
	{"a code that nobody knows", "grpc: errors/codes create/unknown-task-type versions/unknown-plugin-version rest: errors/json"},
	{"a stack trace", "errors/no-stack-trace"},
	{"credentials in errors", "errors/no-secrets"},
	{"long errors", "errors/are-short"},
	{"a negative pause", "errors/retry-after"},
	{"errors in HTML", "rest: errors/json"},
	{"a status of its own", "rest: errors/status-agrees"},
	{"unknown paths are 400", "rest: errors/unknown-path"},
	{"no Allow", "rest: errors/method"},
}

// due gives the cases that must fail over a protocol.
func due(fails string, protocol conformance.Protocol) []string {
	var out []string
	only := ""
	for _, word := range strings.Fields(fails) {
		if p, ok := strings.CutSuffix(word, ":"); ok {
			only = p
		} else if only == "" || only == string(protocol) {
			out = append(out, word)
		}
	}
	slices.Sort(out)
	return out
}

// failed gives the ids of the cases that failed, each once.
func failed(report *conformance.Report) []string {
	var out []string
	for _, r := range report.Results {
		if r.Outcome == conformance.Failed {
			out = append(out, r.Case)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// texts gives what failed, for people.
func texts(report *conformance.Report) string {
	var b strings.Builder
	for _, r := range report.Results {
		if r.Outcome == conformance.Failed {
			b.WriteString(r.Case + " " + r.Plugin + "\n" + r.Text() + "\n\n")
		}
	}
	return b.String()
}

var protocols = []conformance.Protocol{conformance.GRPC, conformance.REST}

// allCases makes TestEveryFaultIsTold run every case against every fault, which takes minutes; without it each fault meets the
// cases of those areas in which it is to fail some.
const allCases = "CONFORMANCE_ALL_CASES"

// areas chooses the cases of the areas that these cases are in.
func areas(cases []string) *regexp.Regexp {
	var names []string
	for _, c := range cases {
		area, _, _ := strings.Cut(c, "/")
		names = append(names, regexp.QuoteMeta(area))
	}
	return regexp.MustCompile("^(" + strings.Join(names, "|") + ")/")
}

// TestEveryFaultIsTold: each fault fails exactly the cases that are about it.
func TestEveryFaultIsTold(t *testing.T) {
	t.Parallel()
	for _, row := range faults {
		for _, protocol := range protocols {
			want := due(row.fails, protocol)
			if len(want) == 0 {
				continue
			}
			t.Run(string(protocol)+"/"+row.fault, func(t *testing.T) {
				t.Parallel()
				one, other := serve(t, protocol, row.fault)
				o := options(one, other)
				if os.Getenv(allCases) == "" {
					o.Run = areas(want)
				}
				report, err := conformance.Check(t.Context(), o, nil)
				require.NoError(t, err)
				require.Equal(t, want, failed(&report), "%s", texts(&report))
				require.False(t, report.Conforms())
				for _, r := range report.Results {
					for _, p := range r.Problems {
						require.NotEmpty(t, p.Sent)
						require.NotEmpty(t, p.Got)
						require.NotEmpty(t, p.Due)
						require.Contains(t, p.Contract, "docs/contract.md#")
					}
				}
			})
		}
	}
}

// TestEveryCaseCanFail: there is a fault for each case, over each protocol that it is for.
func TestEveryCaseCanFail(t *testing.T) {
	t.Parallel()
	for _, c := range conformance.Cases() {
		for _, protocol := range c.Protocols {
			if c.ID == "metadata/serves-what-is-asked" {
				continue // TestOptionsChoose makes it fail, by its options
			}
			require.True(t, slices.ContainsFunc(faults, func(row struct{ fault, fails string }) bool {
				return slices.Contains(due(row.fails, protocol), c.ID)
			}), "no fault makes %s fail over %s", c.ID, protocol)
		}
	}
}

// TestConformingServicePasses: without a fault, nothing fails; and what is optional is skipped, with a reason, by a service that lacks it.
func TestConformingServicePasses(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		for _, fault := range []string{"", bare, busy, longIDs, shortIDs} {
			t.Run(string(protocol)+"/"+fault, func(t *testing.T) {
				t.Parallel()
				one, other := serve(t, protocol, fault)
				report, err := conformance.Check(t.Context(), options(one, other), nil)
				require.NoError(t, err)
				require.Empty(t, failed(&report), "%s", texts(&report))
				require.True(t, report.Conforms())
				require.Empty(t, report.Left)
				skipped := map[string]string{}
				for _, r := range report.Results {
					if r.Outcome == conformance.Skipped {
						require.NotEmpty(t, r.Reason, r.Case)
						skipped[r.Case+" "+r.Plugin] = r.Reason
					}
				}
				allowed := []string{
					"metadata/serves-what-is-asked ", "versions/any-task-type-version picky v1", "versions/unlisted-task-type-version work v1", "errors/retry-after ",
				}
				for name, reason := range skipped {
					area := strings.Split(name, "/")[0]
					optional := fault == bare && slices.Contains([]string{"batch", "watch", "logs", "metrics", "operations"}, area) ||
						fault == shortIDs && (area == "batch" || strings.Contains(reason, "takes no id of 4096 bytes or more"))
					require.True(t, optional || slices.Contains(allowed, name), "%s is skipped: %s", name, reason)
				}
				if fault == bare {
					require.Greater(t, len(skipped), 10)
				}
				one.store.mu.Lock()
				defer one.store.mu.Unlock()
				require.Greater(t, len(one.store.jobs), 100)
				for _, j := range one.store.jobs {
					require.True(t, j.deleted, "job %s of mode %s is left behind", j.id, j.mode)
				}
			})
		}
	}
}

// TestReflectionOfEitherVersion: a service that has the older one is not passed over, and one without any is told so.
func TestReflectionOfEitherVersion(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]conformance.Outcome{
		"": conformance.Passed, reflectionAlpha: conformance.Passed, bare: conformance.Skipped,
	} {
		one, other := serve(t, conformance.GRPC, fault)
		o := options(one, other)
		o.Run = regexp.MustCompile(`^operations/reflection$`)
		report, err := conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		require.Len(t, report.Results, 1)
		require.Equal(t, want, report.Results[0].Outcome, "%s: %s", fault, report.Results[0].Text())
		if want == conformance.Skipped {
			require.Contains(t, report.Results[0].Reason, "neither v1 nor v1alpha")
		}
	}
}

// TestBusyService: what a service has no capacity for is asked for again, also when it names no pause; one that refuses for good
// is told of, with how often it was asked.
func TestBusyService(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		one, other := serve(t, protocol, overrun)
		o := options(one, other)
		o.Run = regexp.MustCompile(`^(metadata|delete)/`)
		report, err := conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		require.Empty(t, failed(&report), "%s", texts(&report))
		require.Empty(t, report.Left)

		one, other = serve(t, protocol, always)
		o = options(one, other)
		o.Run = regexp.MustCompile(`^metadata/lists-plugins$`)
		report, err = conformance.Check(t.Context(), o, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"metadata/lists-plugins"}, failed(&report))
		require.Contains(t, texts(&report), ", 4 times, since the service had no capacity for it")
	}
}

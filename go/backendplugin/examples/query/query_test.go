package query

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// fake is a warehouse of function fields; one that is not set must not be called.
type fake struct {
	submit func(password, token, statement string, args map[string]any) (string, error)
	look   func(region, name string) (int64, string, error)
	all    func(queries []Job) ([]Progress, error)
	listen func(ctx context.Context, region, name string, event func()) error
	cancel func(region, name string) error
	log    func(region, name, from string) ([]string, string, error)
	ping   func() error
}

func (f *fake) Submit(_ context.Context, password, token, statement string, args map[string]any) (string, error) {
	return f.submit(password, token, statement, args)
}

func (f *fake) Look(_ context.Context, region, name string) (int64, string, error) {
	return f.look(region, name)
}

func (f *fake) LookAll(_ context.Context, queries []Job) ([]Progress, error) { return f.all(queries) }

func (f *fake) Listen(ctx context.Context, region, name string, event func()) error {
	return f.listen(ctx, region, name, event)
}

func (f *fake) Cancel(_ context.Context, region, name string) error { return f.cancel(region, name) }

func (f *fake) Log(_ context.Context, region, name, from string) ([]string, string, error) {
	return f.log(region, name, from)
}

func (f *fake) Ping(context.Context) error { return f.ping() }

func request(t *testing.T, custom map[string]any) *backendplugin.Request[Inputs] {
	t.Helper()
	s, err := structpb.NewStruct(custom)
	require.NoError(t, err)
	return &backendplugin.Request[Inputs]{
		Inputs: Inputs{"day": "2024-02-29"}, IdempotencyKey: "key", Template: &core.TaskTemplate{Custom: s}, Log: slog.Default(),
	}
}

func TestCreate(t *testing.T) {
	t.Setenv("_FSEC_WAREHOUSE_PASSWORD", "hunter2")
	for _, tt := range []struct {
		reason string
		custom map[string]any
		answer error
		want   Job
		code   codes.Code
	}{
		{"a query", map[string]any{"statement": "select 1"}, nil, Job{"eu", "q1"}, codes.OK},
		{"a query elsewhere", map[string]any{"statement": "select 1", "region": "us"}, nil, Job{"us", "q1"}, codes.OK},
		{"a statement that is wrong", map[string]any{"statement": "select 1"}, ErrBadStatement, Job{}, codes.InvalidArgument},
		{"a custom that is wrong", map[string]any{"statement": 1}, nil, Job{}, codes.InvalidArgument},
		{"a warehouse that is full", map[string]any{"statement": "select 1"}, ErrBusy, Job{}, codes.ResourceExhausted},
		{"a warehouse that is away", map[string]any{"statement": "select 1"}, errors.New("no route"), Job{}, codes.Unavailable},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			p := &Plugin{&fake{submit: func(password, token, statement string, args map[string]any) (string, error) {
				assert.Equal(t, []string{"hunter2", "key", "select 1"}, []string{password, token, statement})
				assert.Equal(t, "2024-02-29", args["day"])
				return "q1", tt.answer
			}}}
			job, err := p.Create(t.Context(), request(t, tt.custom))
			var e *backendplugin.Error
			if errors.As(err, &e) {
				assert.Equal(t, tt.code, e.Code)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, job)
		})
	}
}

func TestGet(t *testing.T) {
	for _, tt := range []struct {
		reason string
		result string
		answer error
		phase  backendplugin.Phase
	}{
		{"it runs", "", nil, backendplugin.PhaseRunning},
		{"it is done", "s3://result", nil, backendplugin.PhaseSucceeded},
		{"it failed", "", ErrBadStatement, backendplugin.PhaseFailed},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			p := &Plugin{&fake{look: func(region, name string) (int64, string, error) {
				assert.Equal(t, Job{"eu", "q1"}, Job{region, name})
				return 7, tt.result, tt.answer
			}}}
			s, err := p.Get(t.Context(), &backendplugin.Job[Job]{ID: Job{"eu", "q1"}})
			require.NoError(t, err)
			assert.Equal(t, tt.phase, s.Phase)
		})
	}
	away := &Plugin{&fake{look: func(string, string) (int64, string, error) { return 0, "", errors.New("no route") }}}
	_, err := away.Get(t.Context(), &backendplugin.Job[Job]{})
	require.ErrorContains(t, err, "no route")
}

func TestGetMany(t *testing.T) {
	p := &Plugin{&fake{all: func(queries []Job) ([]Progress, error) {
		assert.Equal(t, []Job{{"eu", "q1"}, {"us", "q2"}, {"eu", "q3"}, {"eu", "q4"}}, queries)
		return []Progress{{Rows: 7}, {Rows: 9, Result: "s3://result"}, {Err: ErrBadStatement}, {Err: errors.New("lost")}}, nil
	}}}
	var jobs []*backendplugin.Job[Job]
	for _, id := range []Job{{"eu", "q1"}, {"us", "q2"}, {"eu", "q3"}, {"eu", "q4"}} {
		jobs = append(jobs, &backendplugin.Job[Job]{ID: id})
	}
	results, err := p.GetMany(t.Context(), jobs)
	require.NoError(t, err)
	require.Len(t, results, 4)
	for i, phase := range []backendplugin.Phase{backendplugin.PhaseRunning, backendplugin.PhaseSucceeded, backendplugin.PhaseFailed} {
		require.NoError(t, results[i].Err)
		assert.Equal(t, phase, results[i].Status.Phase)
	}
	require.ErrorContains(t, results[3].Err, "lost")
	away := &Plugin{&fake{all: func([]Job) ([]Progress, error) { return nil, errors.New("no route") }}}
	_, err = away.GetMany(t.Context(), jobs)
	require.ErrorContains(t, err, "no route")
}

func TestWatch(t *testing.T) {
	p := &Plugin{&fake{listen: func(_ context.Context, region, name string, event func()) error {
		assert.Equal(t, Job{"eu", "q1"}, Job{region, name})
		event()
		return errors.New("hung up")
	}}}
	changes := 0
	require.EqualError(t, p.Watch(t.Context(), &backendplugin.Job[Job]{ID: Job{"eu", "q1"}}, func() { changes++ }), "hung up")
	require.Equal(t, 1, changes)
}

func TestTheRest(t *testing.T) {
	p := &Plugin{&fake{
		cancel: func(string, string) error { return errors.New("cancelled") },
		log:    func(_, _, from string) ([]string, string, error) { return []string{"a", "b"}, from + "+2", nil },
		ping:   func() error { return errors.New("pinged") },
	}}
	require.EqualError(t, p.Delete(t.Context(), &backendplugin.Job[Job]{}), "cancelled")
	require.EqualError(t, p.Probe(t.Context()), "pinged")
	page, err := p.Logs(t.Context(), &backendplugin.Job[Job]{}, backendplugin.LogQuery{Token: "0"})
	require.NoError(t, err)
	require.Equal(t, "b\n", page.Lines[1].Message)
	require.Equal(t, "0+2", page.Next)
	_, err = backendplugin.NewServer(backendplugin.Plugins{backendplugin.New("query", p)}, backendplugin.WithPlainText())
	require.NoError(t, err)
}

// Package query is a plugin that runs queries in a warehouse: what a plugin of the usual kind looks like, with secrets,
// repeated creates, errors, polls of many jobs, news of changes, logs and a probe. The warehouse is an interface, so its test needs none.
package query

import (
	"context"
	"errors"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
)

// ErrBadStatement is the warehouse's word for a statement that it does not understand, ErrBusy for having no room.
var (
	ErrBadStatement = errors.New("syntax error")
	ErrBusy         = errors.New("no slots left")
)

// Warehouse runs queries. Its methods may be called at once.
type Warehouse interface {
	// Submit starts a query and gives its name. The same token gives the same query again.
	Submit(ctx context.Context, password, token, statement string, args map[string]any) (name string, err error)
	// Look gives how far the query is: rows so far, and where the result is when it is done.
	Look(ctx context.Context, region, name string) (rows int64, result string, err error)
	// LookAll is Look for many queries, in their order.
	LookAll(ctx context.Context, queries []Job) ([]Progress, error)
	// Listen calls event whenever something happens to the query, until ctx ends or the warehouse hangs up.
	Listen(ctx context.Context, region, name string, event func()) error
	// Cancel ends a query.
	Cancel(ctx context.Context, region, name string) error
	// Log gives the query's log from a line on.
	Log(ctx context.Context, region, name, from string) (lines []string, next string, err error)
	// Ping says whether the warehouse answers.
	Ping(ctx context.Context) error
}

// Progress is what Look gives.
type Progress struct {
	Rows   int64
	Result string
	Err    error
}

// Inputs are whatever the task declares: a map takes them all.
type Inputs = map[string]any

// Outputs are the result, a table.
type Outputs struct {
	Result backendplugin.Dataset `flyte:"result"`
	Rows   int64                 `flyte:"rows"`
}

// Config is the task's custom, as the task type's Python class writes it.
type Config struct {
	Statement string        `flyte:"statement"`
	Region    string        `flyte:"region"`
	Timeout   time.Duration `flyte:"timeout"`
}

// Job is the job id: all that is needed to find the query again, and nothing secret.
type Job struct {
	Region, Name string
}

// Plugin runs queries as tasks.
type Plugin struct{ Warehouse Warehouse }

// Create starts a query. The idempotency key makes a repeated Create find the query of the first.
func (p *Plugin) Create(ctx context.Context, r *backendplugin.Request[Inputs]) (Job, error) {
	config := Config{Region: "eu"} // defaults stay where the task says nothing
	if err := r.Custom(&config); err != nil {
		return Job{}, err
	}
	password, err := r.Secrets.Get("warehouse", "password")
	if err != nil {
		return Job{}, err
	}
	name, err := p.Warehouse.Submit(ctx, password, r.IdempotencyKey, config.Statement, r.Inputs)
	switch {
	case errors.Is(err, ErrBadStatement):
		return Job{}, backendplugin.UserError("the statement is wrong: %w", err)
	case errors.Is(err, ErrBusy):
		return Job{}, backendplugin.Overloaded(30*time.Second, "the warehouse is full: %w", err)
	case err != nil:
		return Job{}, backendplugin.Retry(0, "the warehouse does not answer: %w", err)
	}
	return Job{config.Region, name}, nil
}

// Get looks how far the query is. An error of Get is about looking; a query that failed is a status.
func (p *Plugin) Get(ctx context.Context, j *backendplugin.Job[Job]) (*backendplugin.Status[Outputs], error) {
	rows, result, err := p.Warehouse.Look(ctx, j.ID.Region, j.ID.Name)
	return statusOf(j.ID, Progress{rows, result, err})
}

func statusOf(job Job, q Progress) (*backendplugin.Status[Outputs], error) {
	switch {
	case errors.Is(q.Err, ErrBadStatement):
		return backendplugin.Failed[Outputs](backendplugin.UserError("%w", q.Err).WithReason("BadStatement")), nil
	case q.Err != nil:
		return nil, backendplugin.Retry(0, "the warehouse does not answer: %w", q.Err)
	case q.Result == "":
		s := backendplugin.Running[Outputs]("reading rows")
		s.Info = map[string]any{"rows": q.Rows}
		s.LogLinks = []backendplugin.LogLink{{Name: "Console", URI: "https://warehouse.example/" + job.Name}}
		return s, nil
	default:
		return backendplugin.Succeeded(Outputs{backendplugin.Dataset{URI: q.Result, Format: "parquet"}, q.Rows}), nil
	}
}

// Delete ends the query.
func (p *Plugin) Delete(ctx context.Context, j *backendplugin.Job[Job]) error {
	return p.Warehouse.Cancel(ctx, j.ID.Region, j.ID.Name)
}

// GetMany is Get for many queries, in one call of the warehouse.
func (p *Plugin) GetMany(ctx context.Context, jobs []*backendplugin.Job[Job]) ([]backendplugin.Result[Outputs], error) {
	queries := make([]Job, len(jobs))
	for i, j := range jobs {
		queries[i] = j.ID
	}
	found, err := p.Warehouse.LookAll(ctx, queries)
	if err != nil {
		return nil, backendplugin.Retry(0, "the warehouse does not answer: %w", err)
	}
	results := make([]backendplugin.Result[Outputs], len(found))
	for i, q := range found {
		results[i].Status, results[i].Err = statusOf(queries[i], q)
	}
	return results, nil
}

// Watch listens to the warehouse. What has happened is for Get to find out.
func (p *Plugin) Watch(ctx context.Context, j *backendplugin.Job[Job], changed func()) error {
	return p.Warehouse.Listen(ctx, j.ID.Region, j.ID.Name, changed)
}

// Logs gives the query's log: that the method is there is all it takes.
func (p *Plugin) Logs(ctx context.Context, j *backendplugin.Job[Job], q backendplugin.LogQuery) (*backendplugin.LogPage, error) {
	lines, next, err := p.Warehouse.Log(ctx, j.ID.Region, j.ID.Name, q.Token)
	page := &backendplugin.LogPage{Next: next}
	for _, l := range lines {
		page.Lines = append(page.Lines, backendplugin.LogLine{Message: l + "\n"})
	}
	return page, err
}

// Probe says whether the service is ready.
func (p *Plugin) Probe(ctx context.Context) error { return p.Warehouse.Ping(ctx) }

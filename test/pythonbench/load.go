package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyteorg/flyte/flyteidl/clients/go/coreutils"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// client makes calls at one server, each of which fails if the answer is not the one that is due.
type client struct {
	calls map[string]func(ctx context.Context) error
	close func()
}

type figure struct {
	rate     float64 // jobs a second
	p50, p99 time.Duration
	cpu      float64 // seconds of the server's for 1,000 calls
}

// load makes a call for a while, by its number of callers.
func load(ctx context.Context, c call, do func(context.Context) error, lasts time.Duration, pid int) (figure, error) {
	before, err := cpuTime(pid)
	if err != nil {
		return figure{}, err
	}
	began := time.Now()
	until := began.Add(lasts)
	times := make([][]time.Duration, c.callers)
	errs := make([]error, c.callers)
	var wg sync.WaitGroup
	for i := range c.callers {
		wg.Go(func() {
			for time.Now().Before(until) {
				start := time.Now()
				if err := do(ctx); err != nil {
					errs[i] = err
					return
				}
				times[i] = append(times[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	after, err := cpuTime(pid)
	if err != nil {
		return figure{}, err
	}
	for _, err := range errs {
		if err != nil {
			return figure{}, err
		}
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	n := len(all)
	return figure{
		rate: float64(n*c.jobs) / took.Seconds(), p50: all[n/2], p99: all[n*99/100], cpu: (after - before).Seconds() / float64(n) * 1000,
	}, nil
}

// task is what a create sends: a task of ordinary size.
func task() (*core.TaskTemplate, *core.LiteralMap, error) {
	inputs, err := coreutils.MakeLiteralMap(map[string]any{"statement": "SELECT 1", "limit": 10, "share": 0.5, "names": []any{"a", "b", "c"}})
	if err != nil {
		return nil, nil, err
	}
	custom, err := structpb.NewStruct(map[string]any{"ProjectID": "project", "Location": "EU", "job": map[string]any{"priority": "BATCH", "labels": []any{"x", "y"}}})
	if err != nil {
		return nil, nil, err
	}
	variables := map[string]*core.Variable{}
	for name := range inputs.GetLiterals() {
		variables[name] = &core.Variable{Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_STRING}}}
	}
	return &core.TaskTemplate{
		Id:     &core.Identifier{ResourceType: core.ResourceType_TASK, Project: "project", Domain: "development", Name: "workflows.query", Version: "v1"},
		Type:   "constant",
		Custom: custom,
		Metadata: &core.TaskMetadata{
			Runtime: &core.RuntimeMetadata{Type: core.RuntimeMetadata_FLYTE_SDK, Version: "1.16.31", Flavor: "python"},
			Retries: &core.RetryStrategy{Retries: 3},
		},
		Interface: &core.TypedInterface{Inputs: &core.VariableMap{Variables: variables}},
	}, inputs, nil
}

const batchSize = 500

func dialREST(address string) (*client, error) {
	template, inputs, err := task()
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{"output_prefix": json.RawMessage(`"s3://bucket/metadata/project/development/run/n0/data/0"`)}
	if fields["template"], err = protojson.Marshal(template); err != nil {
		return nil, err
	}
	if fields["inputs"], err = protojson.Marshal(inputs); err != nil {
		return nil, err
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	var jobs []map[string]string
	for range batchSize {
		jobs = append(jobs, map[string]string{"job_id": "job"})
	}
	batch, err := json.Marshal(map[string]any{"jobs": jobs})
	if err != nil {
		return nil, err
	}
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	url := "http://" + address + "/plugins/v1/constant/v1"
	out := &client{close: h.CloseIdleConnections, calls: map[string]func(context.Context) error{
		"poll":   func(ctx context.Context) error { return ask(ctx, h, "GET", url+"?job_id=job", nil, `"RUNNING"`, 1) },
		"create": func(ctx context.Context) error { return ask(ctx, h, "PUT", url, body, `"job_id"`, 1) },
	}}
	polled := func(ctx context.Context) error {
		return ask(ctx, h, "POST", url+"/poll", batch, `"RUNNING"`, batchSize)
	}
	var wrong *statusError
	switch err := polled(context.Background()); {
	case err == nil:
		out.calls["batch"] = polled
	case errors.As(err, &wrong) && wrong.status == http.StatusNotFound: // a peer
	default:
		return nil, err
	}
	return out, nil
}

type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("%s (%d)", e.text, e.status) }

// ask makes one request, whose answer must have a text so many times.
func ask(ctx context.Context, h *http.Client, method, url string, body []byte, due string, times int) error {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", "key")
	}
	answer, err := h.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return &statusError{answer.StatusCode, fmt.Sprintf("%s %s: %.200s", method, url, text)}
	}
	if n := bytes.Count(text, []byte(due)); n != times {
		return fmt.Errorf("%s %s: %d times %s: %.200s", method, url, n, due, text)
	}
	return nil
}

func dialGRPC(address string) (*client, error) {
	template, inputs, err := task()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	agent := service.NewAsyncAgentServiceClient(conn)
	category := &admin.TaskCategory{Name: "constant"}
	create := &admin.CreateTaskRequest{Template: template, Inputs: inputs, OutputPrefix: "s3://bucket/metadata/project/development/run/n0/data/0"}
	out := &client{close: func() { _ = conn.Close() }, calls: map[string]func(context.Context) error{}}
	// flytekit's metadata is JSON of the connector's own class, so polls ask with what a create gave.
	created, err := agent.CreateTask(context.Background(), create, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	meta := created.GetResourceMeta()
	out.calls["poll"] = func(ctx context.Context) error {
		answer, err := agent.GetTask(ctx, &admin.GetTaskRequest{TaskCategory: category, ResourceMeta: meta})
		if err == nil && answer.GetResource().GetPhase() != core.TaskExecution_RUNNING {
			err = fmt.Errorf("the job is %s", answer.GetResource().GetPhase())
		}
		return err
	}
	out.calls["create"] = func(ctx context.Context) error {
		_, err := agent.CreateTask(ctx, create)
		return err
	}
	batch := &flytebackendv1.GetTasksRequest{}
	for range batchSize {
		batch.Tasks = append(batch.Tasks, &flytebackendv1.TaskRef{TaskCategory: category, PluginVersion: "v1", ResourceMeta: meta})
	}
	ours := flytebackendv1.NewBackendServiceClient(conn)
	polled := func(ctx context.Context) error {
		answer, err := ours.GetTasks(ctx, batch)
		if err == nil && len(answer.GetResults()) != batchSize {
			err = fmt.Errorf("%d results", len(answer.GetResults()))
		}
		return err
	}
	switch err := polled(context.Background()); status.Code(err) {
	case codes.OK:
		out.calls["batch"] = polled
	case codes.Unimplemented: // a peer
	default:
		return nil, err
	}
	return out, nil
}

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/workflowstore"
)

const (
	kindWorkflow = "workflows"
	kindSpec     = "specs"
)

// workflows stands for the API server and etcd, as far as FlyteWorkflow resources go, and for propeller's informer on them.
//
// As there, what changes of a resource goes through JSON on its way in and out: propeller's deep copies keep marks of what
// was not serialised, and a workflow that is only copied stalls. Each update brings the workflow up again.
// What differs: an update never conflicts. Propeller is the only writer, except for the mark that a workflow is to be
// aborted, which an update keeps instead of failing (a real API server has propeller repeat that round). There is no limit
// to a resource's size. What never changes is written once, as with flyteadmin's useOffloadedWorkflowClosure.
type workflows struct {
	records *records
	// changed hears of every update, in the worker that made it.
	changed func(key string, before head, after *v1alpha1.FlyteWorkflow)

	mu    sync.Mutex // orders updates against abort marks
	heads map[string]head
	specs map[string]*spec
}

var _ workflowstore.FlyteWorkflow = (*workflows)(nil)

// head is what is known of a workflow without reading it.
type head struct {
	version        int
	deleted        *metav1.Time
	failedAttempts uint32
}

func headOf(wf *v1alpha1.FlyteWorkflow, version int) head {
	return head{version: version, deleted: wf.DeletionTimestamp, failedAttempts: wf.Status.FailedAttempts}
}

// spec is the part of a workflow that never changes. All reads share it: propeller changes deep copies only. Inputs can be
// large, and every round would read and write them.
type spec struct {
	Inputs       *v1alpha1.Inputs                               `json:"inputs,omitempty"`
	Spec         *v1alpha1.WorkflowSpec                         `json:"spec"`
	Tasks        map[v1alpha1.TaskID]*v1alpha1.TaskSpec         `json:"tasks"`
	SubWorkflows map[v1alpha1.WorkflowID]*v1alpha1.WorkflowSpec `json:"subWorkflows,omitempty"`
}

func specOf(wf *v1alpha1.FlyteWorkflow) spec {
	return spec{wf.Inputs, wf.WorkflowSpec, wf.Tasks, wf.SubWorkflows}
}

func (s spec) into(wf *v1alpha1.FlyteWorkflow) {
	wf.Inputs, wf.WorkflowSpec, wf.Tasks, wf.SubWorkflows = s.Inputs, s.Spec, s.Tasks, s.SubWorkflows
}

func newWorkflows(r *records, changed func(string, head, *v1alpha1.FlyteWorkflow)) *workflows {
	return &workflows{records: r, changed: changed, heads: map[string]head{}, specs: map[string]*spec{}}
}

// keyOf is how propeller's queue names a workflow.
func keyOf(namespace, name string) string { return namespace + "/" + name }

// read gives a fresh copy, but for its spec.
func (s *workflows) read(key string) (*v1alpha1.FlyteWorkflow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readLocked(key)
}

func (s *workflows) readLocked(key string) (*v1alpha1.FlyteWorkflow, error) {
	data, ok := s.records.get(kindWorkflow, key)
	if !ok {
		return nil, workflowstore.ErrWorkflowNotFound
	}
	wf := &v1alpha1.FlyteWorkflow{}
	err := json.Unmarshal(data, wf)
	var sp *spec
	if err == nil {
		sp, err = s.spec(key)
	}
	var version int
	if err == nil {
		version, err = strconv.Atoi(wf.ResourceVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("workflow %s cannot be read from the engine's state: %w", key, err)
	}
	sp.into(wf)
	s.heads[key] = headOf(wf, version)
	if wf.Status.IsTerminated() {
		delete(s.specs, key) // it is seldom looked at again
	}
	return wf, nil
}

func (s *workflows) spec(key string) (*spec, error) {
	if sp, ok := s.specs[key]; ok {
		return sp, nil
	}
	data, ok := s.records.get(kindSpec, key)
	if !ok {
		return nil, errors.New("its spec is missing")
	}
	sp := &spec{}
	err := json.Unmarshal(data, sp)
	s.specs[key] = sp
	return sp, err
}

// Get is part of workflowstore.FlyteWorkflow.
func (s *workflows) Get(_ context.Context, namespace, name string) (*v1alpha1.FlyteWorkflow, error) {
	return s.read(keyOf(namespace, name))
}

// create adds a workflow, of which there must be none with its name.
func (s *workflows) create(wf *v1alpha1.FlyteWorkflow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(wf.Namespace, wf.Name)
	data, err := json.Marshal(specOf(wf))
	if err != nil {
		return fmt.Errorf("workflow %s cannot be kept: %w", key, err)
	}
	if err := s.records.put(kindSpec, key, data); err != nil {
		return err
	}
	return s.write(key, wf, 1)
}

// Update is part of workflowstore.FlyteWorkflow.
func (s *workflows) Update(_ context.Context, wf *v1alpha1.FlyteWorkflow) (*v1alpha1.FlyteWorkflow, error) {
	key := keyOf(wf.Namespace, wf.Name)
	before, after, err := s.update(key, wf)
	if err != nil {
		return nil, err
	}
	s.changed(key, before, after)
	return after, nil
}

func (s *workflows) update(key string, wf *v1alpha1.FlyteWorkflow) (head, *v1alpha1.FlyteWorkflow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.heads[key]
	if !ok {
		return head{}, nil, workflowstore.ErrWorkflowNotFound // nobody updates what was not read
	}
	if before.deleted != nil {
		wf.DeletionTimestamp = before.deleted
	}
	if err := s.write(key, wf, before.version+1); err != nil {
		return head{}, nil, err
	}
	after, err := s.readLocked(key)
	return before, after, err
}

// write keeps what can change of the workflow, as that version.
func (s *workflows) write(key string, wf *v1alpha1.FlyteWorkflow, version int) error {
	kept, old := specOf(wf), wf.ResourceVersion
	spec{}.into(wf)
	wf.ResourceVersion = strconv.Itoa(version)
	data, err := json.Marshal(wf)
	// Propeller compares the version with the answer's.
	kept.into(wf)
	wf.ResourceVersion = old
	if err != nil {
		return fmt.Errorf("workflow %s cannot be kept: %w", key, err)
	}
	if err := s.records.put(kindWorkflow, key, data); err != nil {
		return err
	}
	s.heads[key] = headOf(wf, version)
	return nil
}

// abort marks the workflow as deleted, which is how flyteadmin has propeller abort one. It says whether the workflow was
// still going on.
func (s *workflows) abort(key string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wf, err := s.readLocked(key)
	if err != nil || wf.Status.IsTerminated() {
		return false, err
	}
	if wf.DeletionTimestamp == nil {
		now := metav1.NewTime(time.Now())
		wf.DeletionTimestamp = &now
		err = s.write(key, wf, s.heads[key].version+1)
	}
	return true, err
}

// all lists the keys of all workflows.
func (s *workflows) all() []string { return s.records.keys(kindWorkflow) }

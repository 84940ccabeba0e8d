package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flyteorg/flyte/flytepropeller/pkg/apis/flyteworkflow/v1alpha1"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/workflowstore"
)

const kindWorkflow = "workflows"

// workflows stands for the API server and etcd, as far as FlyteWorkflow resources go, and for propeller's informer on them.
//
// As there, a resource goes through JSON on its way in and out: propeller's deep copies keep marks of what was not
// serialised, and a workflow that is only copied stalls. Each update brings the workflow up again.
// What differs: an update never conflicts. Propeller is the only writer, except for the mark that a workflow is to be
// aborted, which an update keeps instead of failing (a real API server has propeller repeat that round). There is no limit
// to a resource's size.
type workflows struct {
	records *records
	// changed hears of every update, in the worker that made it.
	changed func(key string, before, after *v1alpha1.FlyteWorkflow)

	mu sync.Mutex // orders updates against abort marks
}

var _ workflowstore.FlyteWorkflow = (*workflows)(nil)

// keyOf is how propeller's queue names a workflow.
func keyOf(namespace, name string) string { return namespace + "/" + name }

// read gives a fresh copy.
func (s *workflows) read(key string) (*v1alpha1.FlyteWorkflow, error) {
	data, ok := s.records.get(kindWorkflow, key)
	if !ok {
		return nil, workflowstore.ErrWorkflowNotFound
	}
	wf := &v1alpha1.FlyteWorkflow{}
	if err := json.Unmarshal(data, wf); err != nil {
		return nil, fmt.Errorf("workflow %s cannot be read from the engine's state: %w", key, err)
	}
	return wf, nil
}

// Get is part of workflowstore.FlyteWorkflow.
func (s *workflows) Get(_ context.Context, namespace, name string) (*v1alpha1.FlyteWorkflow, error) {
	return s.read(keyOf(namespace, name))
}

// create adds a workflow, of which there must be none with its name.
func (s *workflows) create(wf *v1alpha1.FlyteWorkflow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.write(keyOf(wf.Namespace, wf.Name), wf, "0")
	return err
}

// Update is part of workflowstore.FlyteWorkflow.
func (s *workflows) Update(_ context.Context, wf *v1alpha1.FlyteWorkflow) (*v1alpha1.FlyteWorkflow, error) {
	key := keyOf(wf.Namespace, wf.Name)
	s.mu.Lock()
	before, err := s.read(key)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	if before.DeletionTimestamp != nil {
		wf.DeletionTimestamp = before.DeletionTimestamp
	}
	after, err := s.write(key, wf, before.ResourceVersion)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.changed(key, before, after)
	return after, nil
}

// write stores the workflow under the version that follows the given one.
func (s *workflows) write(key string, wf *v1alpha1.FlyteWorkflow, version string) (*v1alpha1.FlyteWorkflow, error) {
	n, err := strconv.Atoi(version)
	if err != nil {
		return nil, fmt.Errorf("workflow %s has version %q, which this engine did not write", key, version)
	}
	old := wf.ResourceVersion
	wf.ResourceVersion = strconv.Itoa(n + 1)
	data, err := json.Marshal(wf)
	wf.ResourceVersion = old // propeller compares it with the answer's
	if err != nil {
		return nil, fmt.Errorf("workflow %s cannot be kept: %w", key, err)
	}
	if err := s.records.put(kindWorkflow, key, data); err != nil {
		return nil, err
	}
	return s.read(key)
}

// abort marks the workflow as deleted, which is how flyteadmin has propeller abort one. It says whether the workflow was
// still going on.
func (s *workflows) abort(key string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wf, err := s.read(key)
	if err != nil || wf.Status.IsTerminated() {
		return false, err
	}
	if wf.DeletionTimestamp == nil {
		now := metav1.NewTime(time.Now())
		wf.DeletionTimestamp = &now
		_, err = s.write(key, wf, wf.ResourceVersion)
	}
	return true, err
}

// all lists the keys of all workflows.
func (s *workflows) all() []string { return s.records.keys(kindWorkflow) }

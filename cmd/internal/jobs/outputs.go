package jobs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// written is the job with the error that it wrote where it was told to, when propeller would look for one: the service gave
// no code of a failure, or no outputs of a success.
func (r *runner) written(job *client.Job) (*client.Job, error) {
	ended := job.Phase == core.TaskExecution_SUCCEEDED
	declares := len(r.template.GetInterface().GetOutputs().GetVariables()) > 0
	if r.folder == "" || job.Failure != nil || ended && declares && job.Outputs != nil {
		return job, nil
	}
	raw, err := os.ReadFile(filepath.Join(r.folder, "error.pb"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return job, nil
	case err != nil:
		return nil, err
	}
	doc := &core.ErrorDocument{}
	if err := proto.Unmarshal(raw, doc); err != nil {
		return nil, damaged("error.pb", err)
	}
	e := doc.GetError()
	if e == nil {
		return nil, damaged("error.pb", errors.New("it holds no error"))
	}
	failed := *job
	failed.Message, failed.Outputs = e.GetMessage(), nil
	failed.Failure = &client.Failure{Code: e.GetCode(), Origin: e.GetOrigin(), Recoverable: e.GetKind() == core.ContainerError_RECOVERABLE}
	if ended {
		failed.Phase = core.TaskExecution_FAILED
	}
	return &failed, nil
}

// outputs are those of the answer, or those that the job wrote where it was told to.
func (r *runner) outputs(job *client.Job) (*core.LiteralMap, error) {
	if job.Outputs != nil || job.Phase != core.TaskExecution_SUCCEEDED || r.folder == "" {
		return job.Outputs, nil
	}
	raw, err := os.ReadFile(filepath.Join(r.folder, "outputs.pb"))
	switch {
	case errors.Is(err, os.ErrNotExist) && len(r.template.GetInterface().GetOutputs().GetVariables()) == 0:
		return &core.LiteralMap{}, nil
	case errors.Is(err, os.ErrNotExist):
		return nil, &exit.Error{Code: exit.Failed, Err: errors.New("the job succeeded and gave no outputs, neither in its answer nor at the output prefix")}
	case err != nil:
		return nil, err
	}
	m := &core.LiteralMap{}
	if err := proto.Unmarshal(raw, m); err != nil {
		return nil, damaged("outputs.pb", err)
	}
	return m, nil
}

// damaged is a failure of the job: it is what it wrote.
func damaged(file string, err error) error {
	return &exit.Error{Code: exit.Failed, Err: fmt.Errorf("the job's %s is damaged: %w", file, err)}
}

package grpcclient

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/internal/convert"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// registrations turns agents into registrations: one for each agent, task type and mode.
//
// flyteidl has no plugin version. Ours is the part of the agent's name behind its last "@" ("bigquery@v2"); a name without
// one, as flytekit's have, is v1; so is one whose "@" means something else. Category version 0 means any, since flytekit
// writes 0 for everything. Task type versions come out sorted and once each, however the service lists them.
func registrations(agents []*admin.Agent) []client.Registration {
	var out []client.Registration
	for _, a := range agents {
		name, version := a.GetName(), config.DefaultPluginVersion
		if i := strings.LastIndex(name, "@"); i >= 0 && pluginversion.Valid(name[i+1:]) {
			name, version = name[:i], name[i+1:]
		}
		mode := client.Async
		if a.GetIsSync() {
			mode = client.Sync
		}
		categories := a.GetSupportedTaskCategories()
		if len(categories) == 0 {
			for _, t := range a.GetSupportedTaskTypes() {
				categories = append(categories, &admin.TaskCategory{Name: t})
			}
		}
		seen := map[string]int{}
		for _, c := range categories {
			if c.GetName() == "" {
				continue
			}
			i, ok := seen[c.GetName()]
			if !ok {
				i = len(out)
				seen[c.GetName()] = i
				out = append(out, client.Registration{Name: name, TaskType: c.GetName(), PluginVersion: version, Mode: mode})
				if c.GetVersion() != 0 {
					out[i].TaskTypeVersions = []int32{c.GetVersion()}
				}
				continue
			}
			if c.GetVersion() == 0 {
				out[i].TaskTypeVersions = nil
			} else if len(out[i].TaskTypeVersions) > 0 {
				out[i].TaskTypeVersions = append(out[i].TaskTypeVersions, c.GetVersion())
			}
		}
		for _, i := range seen {
			slices.Sort(out[i].TaskTypeVersions)
			out[i].TaskTypeVersions = slices.Compact(out[i].TaskTypeVersions)
		}
	}
	return out
}

func category(t client.Target) *admin.TaskCategory {
	return &admin.TaskCategory{Name: t.TaskType, Version: t.TaskTypeVersion}
}

func createRequest(r *client.CreateRequest) *admin.CreateTaskRequest {
	return &admin.CreateTaskRequest{
		Inputs: r.Inputs, Template: r.Template, OutputPrefix: r.OutputPrefix,
		TaskExecutionMetadata: convert.Metadata(r.Metadata),
	}
}

func executeRequests(r *client.CreateRequest) []*admin.ExecuteTaskSyncRequest {
	return []*admin.ExecuteTaskSyncRequest{
		{Part: &admin.ExecuteTaskSyncRequest_Header{Header: &admin.CreateRequestHeader{
			Template: r.Template, OutputPrefix: r.OutputPrefix,
			TaskExecutionMetadata: convert.Metadata(r.Metadata),
			MaxDatasetSizeBytes:   r.Metadata.MaxDatasetSizeBytes,
		}}},
		{Part: &admin.ExecuteTaskSyncRequest_Inputs{Inputs: r.Inputs}},
	}
}

// The deprecated task_type is filled as well: services of older flytekit versions read nothing else.

func getRequest(ref client.JobRef) *admin.GetTaskRequest {
	return &admin.GetTaskRequest{
		TaskType: ref.Target.TaskType, TaskCategory: category(ref.Target), ResourceMeta: ref.ID, OutputPrefix: ref.OutputPrefix,
	}
}

func getTasksRequest(refs []client.JobRef) *flytebackendv1.GetTasksRequest {
	out := &flytebackendv1.GetTasksRequest{}
	for _, ref := range refs {
		out.Tasks = append(out.Tasks, &flytebackendv1.TaskRef{
			TaskCategory: category(ref.Target), PluginVersion: ref.Target.PluginVersion, ResourceMeta: ref.ID, OutputPrefix: ref.OutputPrefix,
		})
	}
	return out
}

func deleteRequest(ref client.JobRef) *admin.DeleteTaskRequest {
	return &admin.DeleteTaskRequest{TaskType: ref.Target.TaskType, TaskCategory: category(ref.Target), ResourceMeta: ref.ID}
}

// legacyPhases are the states of services from before phases. RETRYABLE_FAILURE is the enum's zero value, so it cannot be
// told from a state that was never set: it stays UNDEFINED, which is an error, and never a silent retry.
var legacyPhases = map[admin.State]core.TaskExecution_Phase{
	admin.State_PENDING:           core.TaskExecution_INITIALIZING,
	admin.State_RUNNING:           core.TaskExecution_RUNNING,
	admin.State_SUCCEEDED:         core.TaskExecution_SUCCEEDED,
	admin.State_PERMANENT_FAILURE: core.TaskExecution_FAILED,
}

func jobOf(r *admin.Resource) *client.Job {
	if r == nil {
		return nil
	}
	job := &client.Job{
		Phase: r.GetPhase(), Message: r.GetMessage(), Outputs: r.GetOutputs(),
		LogLinks: r.GetLogLinks(), CustomInfo: r.GetCustomInfo(),
	}
	if job.Phase == core.TaskExecution_UNDEFINED {
		job.Phase = legacyPhases[r.GetState()]
	}
	if e := r.GetAgentError(); e != nil {
		job.Failure = &client.Failure{
			Code: e.GetCode(), Origin: e.GetOrigin(), Recoverable: e.GetKind() == admin.AgentError_RECOVERABLE,
		}
	}
	return job
}

// merge adds the literals of b to a. The same name twice with another value is an error: one of the two would be lost.
func merge(a, b *core.LiteralMap) (*core.LiteralMap, error) {
	if a == nil || b == nil {
		if a == nil {
			return b, nil
		}
		return a, nil
	}
	out := &core.LiteralMap{Literals: make(map[string]*core.Literal, len(a.GetLiterals())+len(b.GetLiterals()))}
	for name, l := range a.GetLiterals() {
		out.Literals[name] = l
	}
	for name, l := range b.GetLiterals() {
		if have, ok := out.Literals[name]; ok && !proto.Equal(have, l) {
			return nil, fmt.Errorf("output %q came twice with different values", name)
		}
		out.Literals[name] = l
	}
	return out, nil
}

package inputs

import (
	"bytes"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// NameOf is what people call a task.
func NameOf(t *core.TaskTemplate) string {
	if name := t.GetId().GetName(); name != "" {
		return name
	}
	return "the task"
}

// ReadTemplate reads a TaskTemplate in protobuf's JSON or binary form, alone or in a TaskSpec, as it is in the packages that
// pyflyte writes.
func ReadTemplate(file string) (*core.TaskTemplate, error) {
	if file == "" {
		return nil, exit.BadInputf("--template is missing: name a file with a task template")
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, exit.BadInputf("cannot read the template: %w", err)
	}
	if len(raw) == 0 {
		return nil, exit.BadInputf("%s: is empty; a TaskTemplate in JSON or binary is due", file)
	}
	isJSON := bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{"))
	read := proto.Unmarshal
	if isJSON {
		read = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal
	}
	t, spec := &core.TaskTemplate{}, &admin.TaskSpec{}
	err = read(raw, t)
	// The one read as the other has fields that it does not know, or in JSON has none.
	if (err != nil || !isTask(t)) && read(raw, spec) == nil && spec.GetTemplate().GetType() != "" && isTask(spec.GetTemplate()) {
		return spec.GetTemplate(), nil
	}
	switch {
	case isJSON && err != nil:
		return nil, exit.BadInputf("%s: is no TaskTemplate in JSON: %s", file, strings.ReplaceAll(err.Error(), "\u00a0", " "))
	case !isJSON && (err != nil || !isTask(t)):
		return nil, exit.BadInputf("%s: is no TaskTemplate, neither in JSON nor in binary", file)
	}
	return t, nil
}

// isTask says whether a message that was read as a task's template was one. What pyflyte writes beside tasks, workflows and launch
// plans, looks much alike.
func isTask(t *core.TaskTemplate) bool {
	id := t.GetId()
	return (t.GetType() != "" || id != nil) && len(t.ProtoReflect().GetUnknown()) == 0 && len(id.ProtoReflect().GetUnknown()) == 0 &&
		(id.GetResourceType() == core.ResourceType_TASK || id.GetResourceType() == core.ResourceType_UNSPECIFIED)
}

package inputs

import (
	"bytes"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// NameOf is what people call a task.
func NameOf(t *core.TaskTemplate) string {
	if name := t.GetId().GetName(); name != "" {
		return name
	}
	return "the task"
}

// ReadTemplate reads a TaskTemplate in protobuf's JSON or binary form.
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
	t := &core.TaskTemplate{}
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, t); err != nil {
			return nil, exit.BadInputf("%s: is no TaskTemplate in JSON: %s", file, strings.ReplaceAll(err.Error(), "\u00a0", " "))
		}
		return t, nil
	}
	if err := proto.Unmarshal(raw, t); err != nil || len(t.ProtoReflect().GetUnknown()) > 0 || t.GetType() == "" && t.GetId() == nil {
		return nil, exit.BadInputf("%s: is no TaskTemplate, neither in JSON nor in binary", file)
	}
	return t, nil
}

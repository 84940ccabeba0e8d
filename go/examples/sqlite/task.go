package sqlite

import (
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// task is what a request asks for, checked as far as it can be without running it.
type task struct {
	query      statement
	uri        string
	compressed bool
	output     *output // nil: the query runs and its rows are counted
}

// output is the one output that a template declares.
type output struct {
	name    string
	schema  *core.SchemaType            // one of these two is set
	dataset *core.StructuredDatasetType //
}

// parseTask reads a request. Its errors name the field at fault, for they go to the author of the task.
func parseTask(req *admin.CreateTaskRequest) (*task, error) {
	custom := req.GetTemplate().GetCustom()
	if custom == nil {
		return nil, fmt.Errorf("template.custom is missing; it holds query_template and uri")
	}
	t := &task{}
	template, err := customString(custom, "query_template")
	if err != nil {
		return nil, err
	}
	if t.uri, err = customString(custom, "uri"); err != nil {
		return nil, err
	}
	if err := checkSource(t.uri); err != nil {
		return nil, fmt.Errorf("template.custom.uri: %w", err)
	}
	switch v := custom.GetFields()["compressed"].GetKind().(type) {
	case nil, *structpb.Value_NullValue:
	case *structpb.Value_BoolValue:
		t.compressed = v.BoolValue
	default:
		return nil, fmt.Errorf("template.custom.compressed is not true or false")
	}
	if t.query, err = render(template, req.GetInputs().GetLiterals()); err != nil {
		return nil, err
	}
	if vars := req.GetTemplate().GetInterface().GetOutputs().GetVariables(); len(vars) > 0 {
		if t.output, err = parseOutput(vars); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func customString(custom *structpb.Struct, name string) (string, error) {
	v, ok := custom.GetFields()[name].GetKind().(*structpb.Value_StringValue)
	if !ok {
		return "", fmt.Errorf("template.custom.%s is missing or not a string", name)
	}
	if strings.TrimSpace(v.StringValue) == "" {
		return "", fmt.Errorf("template.custom.%s is empty", name)
	}
	return v.StringValue, nil
}

// parseOutput reads the declaration of the one output in vars.
func parseOutput(vars map[string]*core.Variable) (*output, error) {
	const field = "template.interface.outputs"
	if len(vars) > 1 {
		return nil, fmt.Errorf("%s declares %d outputs; a query has one result, so declare one or none", field, len(vars))
	}
	for name, v := range vars {
		// The name becomes a file name.
		if name == "" || strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, ".") || !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%s: %q cannot name a file", field, name)
		}
		switch {
		case v.GetType().GetSchema() != nil:
			return &output{name: name, schema: v.GetType().GetSchema()}, nil
		case v.GetType().GetStructuredDatasetType() != nil:
			d := v.GetType().GetStructuredDatasetType()
			if f := d.GetFormat(); f != "" && f != formatParquet {
				return nil, fmt.Errorf("%s.%s asks for format %q; this service writes %q", field, name, f, formatParquet)
			}
			return &output{name: name, dataset: d}, nil
		}
		return nil, fmt.Errorf("%s.%s is neither a schema nor a structured dataset", field, name)
	}
	return nil, fmt.Errorf("%s declares nothing", field)
}

package sqlite

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
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
	output     *output       // the whole result as a table; nil: there is no such output
	values     []valueOutput // by name; without any output, the query runs and its rows are counted
}

// output is an output that holds all rows.
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
		if err := t.parseOutputs(vars); err != nil {
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

// parseOutputs reads the declarations of the outputs: at most one table, and values.
func (t *task) parseOutputs(vars map[string]*core.Variable) error {
	const field = "template.interface.outputs"
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		typ := vars[name].GetType()
		if v, ok := parseValueOutput(name, typ); ok {
			t.values = append(t.values, v)
			continue
		}
		out := &output{name: name, schema: typ.GetSchema(), dataset: typ.GetStructuredDatasetType()}
		if out.schema == nil && out.dataset == nil {
			return fmt.Errorf("%s.%s is of a type that a query does not give; it gives a schema, a structured dataset, "+
				"an int, float, str or bool, Optional or not, and a list of those", field, name)
		}
		if t.output != nil {
			return fmt.Errorf("%s declares two tables, %s and %s; a query has one result", field, t.output.name, name)
		}
		// The name becomes a file name.
		if name == "" || strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, ".") || !filepath.IsLocal(name) {
			return fmt.Errorf("%s: %q cannot name a file", field, name)
		}
		if f := out.dataset.GetFormat(); f != "" && f != formatParquet {
			return fmt.Errorf("%s.%s asks for format %q; this service writes %q", field, name, f, formatParquet)
		}
		t.output = out
	}
	return nil
}

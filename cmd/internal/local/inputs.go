package local

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// readInputs makes literals of a file and of flags, which win, and checks that none is missing. stdin stands for the file "-".
func readInputs(plan *admin.LaunchPlan, file string, flags []string, stdin io.Reader) (map[string]*core.Literal, error) {
	params := plan.GetClosure().GetExpectedInputs().GetParameters()
	out := map[string]*core.Literal{}
	var wrong []string
	add := func(source, name string, from func(*core.LiteralType) (*core.Literal, error)) {
		p, ok := params[name]
		if !ok {
			wrong = append(wrong, source+unknownInput(plan, name))
			return
		}
		l, err := from(p.GetVar().GetType())
		if err != nil {
			wrong = append(wrong, source+err.Error())
			return
		}
		out[name] = l
	}
	if file != "" {
		values, err := readFile(file, stdin)
		if err != nil {
			return nil, err
		}
		given := map[string]bool{}
		for _, f := range flags {
			name, _, _ := strings.Cut(f, "=")
			given[name] = true
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if !given[name] {
				add(file+": ", name, func(t *core.LiteralType) (*core.Literal, error) { return literals.From(name, t, values[name]) })
			}
		}
	}
	for _, f := range flags {
		name, text, ok := strings.Cut(f, "=")
		if !ok || name == "" {
			return nil, exit.BadInputf("--input %s: takes NAME=VALUE", f)
		}
		add("--input ", name, func(t *core.LiteralType) (*core.Literal, error) { return literals.FromText(name, t, text) })
	}
	if missing := missingInputs(params, out); len(missing) > 0 && len(wrong) == 0 {
		wrong = append(wrong, fmt.Sprintf("%s needs %s", plan.GetId().GetName(), strings.Join(missing, "; ")))
		return nil, exit.Hint(exit.BadInputf("%s", wrong[0]), "give it with --input NAME=VALUE, or in a file with --inputs FILE")
	}
	if len(wrong) > 0 {
		return nil, exit.BadInputf("%s", strings.Join(wrong, "; "))
	}
	return out, nil
}

func readFile(file string, stdin io.Reader) (map[string]any, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, exit.BadInputf("cannot read the inputs: %w", err)
	}
	value, err := literals.Parse(text)
	if err != nil {
		return nil, exit.BadInputf("%s: cannot be read as YAML: %w", file, err)
	}
	switch v := value.(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return v, nil
	default:
		return nil, exit.BadInputf("%s: takes a mapping of inputs' names to values", file)
	}
}

func unknownInput(plan *admin.LaunchPlan, name string) string {
	if _, fixed := plan.GetSpec().GetFixedInputs().GetLiterals()[name]; fixed {
		return fmt.Sprintf("%s: is fixed by the launch plan %s", name, plan.GetId().GetName())
	}
	params := plan.GetClosure().GetExpectedInputs().GetParameters()
	if len(params) == 0 {
		return fmt.Sprintf("%s: is no input of %s, which takes none", name, plan.GetId().GetName())
	}
	return fmt.Sprintf("%s: is no input of %s; it takes %s", name, plan.GetId().GetName(), strings.Join(slices.Sorted(maps.Keys(params)), ", "))
}

func missingInputs(params map[string]*core.Parameter, given map[string]*core.Literal) []string {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if params[name].GetDefault() == nil && given[name] == nil {
			missing = append(missing, fmt.Sprintf("input %s, %s", name, literals.Describe(params[name].GetVar().GetType())))
		}
	}
	return missing
}

// gateValue is a value for a gate.
type gateValue struct {
	// text is the value as it was written; empty for an approval.
	text            string
	approve, reject bool
	given           bool
}

// readSignals takes the flags apart.
func readSignals(values, approve, reject []string) (map[string]*gateValue, error) {
	out := map[string]*gateValue{}
	add := func(name string, s *gateValue) error {
		if out[name] != nil {
			return exit.BadInputf("gate %s is given two values", name)
		}
		out[name] = s
		return nil
	}
	var all []error
	for _, v := range values {
		name, text, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, exit.BadInputf("--signal %s: takes GATE=VALUE", v)
		}
		all = append(all, add(name, &gateValue{text: text}))
	}
	for _, name := range approve {
		all = append(all, add(name, &gateValue{approve: true}))
	}
	for _, name := range reject {
		all = append(all, add(name, &gateValue{reject: true}))
	}
	return out, errors.Join(all...)
}

// literal is the value for a gate that waits for this type.
func (s *gateValue) literal(name string, t *core.LiteralType) (*core.Literal, error) {
	if s.approve || s.reject {
		return literals.From(name, t, s.approve)
	}
	return literals.FromText(name, t, s.text)
}

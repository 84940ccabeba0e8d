// Package inputs reads the inputs of what a command runs: from a file and from flags, as docs/cli.md says.
package inputs

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Target is what takes inputs.
type Target struct {
	// Name is what people call it.
	Name       string
	Parameters map[string]*core.Parameter
	// Fixed are inputs that a launch plan has settled.
	Fixed map[string]*core.Literal
}

// OfTask is a task, all of whose inputs are required.
func OfTask(name string, t *core.TypedInterface) Target {
	out := Target{Name: name, Parameters: map[string]*core.Parameter{}}
	for input, v := range t.GetInputs().GetVariables() {
		out.Parameters[input] = &core.Parameter{Var: v, Behavior: &core.Parameter_Required{Required: true}}
	}
	return out
}

// Read makes literals of a file and of flags, which win, and checks that none is missing. stdin stands for the file "-".
func (t Target) Read(file string, flags []string, stdin io.Reader) (map[string]*core.Literal, error) {
	out := map[string]*core.Literal{}
	var wrong []string
	add := func(source, name string, from func(*core.LiteralType) (*core.Literal, error)) {
		p, ok := t.Parameters[name]
		if !ok {
			wrong = append(wrong, source+t.unknown(name))
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
				add(file+": ", name, func(kind *core.LiteralType) (*core.Literal, error) { return literals.From(name, kind, values[name]) })
			}
		}
	}
	for _, f := range flags {
		name, text, ok := strings.Cut(f, "=")
		if !ok || name == "" {
			return nil, exit.BadInputf("--input %s: takes NAME=VALUE", f)
		}
		add("--input ", name, func(kind *core.LiteralType) (*core.Literal, error) { return literals.FromText(name, kind, text) })
	}
	if missing := t.missing(out); len(missing) > 0 && len(wrong) == 0 {
		wrong = append(wrong, fmt.Sprintf("%s needs %s", t.Name, strings.Join(missing, "; ")))
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

func (t Target) unknown(name string) string {
	if _, fixed := t.Fixed[name]; fixed {
		return fmt.Sprintf("%s: is fixed by the launch plan %s", name, t.Name)
	}
	if len(t.Parameters) == 0 {
		return fmt.Sprintf("%s: is no input of %s, which takes none", name, t.Name)
	}
	return fmt.Sprintf("%s: is no input of %s; it takes %s", name, t.Name, strings.Join(slices.Sorted(maps.Keys(t.Parameters)), ", "))
}

func (t Target) missing(given map[string]*core.Literal) []string {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(t.Parameters)) {
		if t.Parameters[name].GetDefault() == nil && given[name] == nil {
			missing = append(missing, fmt.Sprintf("input %s, %s", name, literals.Describe(t.Parameters[name].GetVar().GetType())))
		}
	}
	return missing
}

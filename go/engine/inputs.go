package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler/validators"
)

// BadInputError says what is wrong with what a user asked for: an unknown workflow, a missing or mistyped input.
type BadInputError struct{ msg string }

func (e *BadInputError) Error() string { return e.msg }

func badInput(format string, args ...any) error {
	return &BadInputError{fmt.Sprintf(format, args...)}
}

// resolveInputs gives the inputs that an execution starts with, as flyteadmin does: those given, the launch plan's defaults
// and its fixed values. Types are checked with propeller's own rules.
func resolveInputs(plan *admin.LaunchPlan, given map[string]*core.Literal) (*core.LiteralMap, error) {
	expected, fixed := plan.GetClosure().GetExpectedInputs().GetParameters(), plan.GetSpec().GetFixedInputs().GetLiterals()
	name := plan.GetId().GetName()
	out := map[string]*core.Literal{}
	for _, input := range slices.Sorted(maps.Keys(given)) {
		p, ok := expected[input]
		_, isFixed := fixed[input]
		switch {
		case isFixed:
			return nil, badInput("input %q of %s is fixed by the launch plan and cannot be given", input, name)
		case !ok:
			return nil, badInput("%s has no input %q; it takes %s", name, input, describeInputs(expected))
		case !validators.AreTypesCastable(validators.LiteralTypeForLiteral(given[input]), p.GetVar().GetType()):
			return nil, badInput("input %q of %s takes %s", input, name, literals.Describe(p.GetVar().GetType()))
		}
		out[input] = given[input]
	}
	for _, input := range slices.Sorted(maps.Keys(expected)) {
		p := expected[input]
		switch {
		case out[input] != nil:
		case p.GetDefault() != nil:
			out[input] = p.GetDefault()
		default:
			return nil, badInput("input %q of %s is missing; it takes %s", input, name, literals.Describe(p.GetVar().GetType()))
		}
	}
	maps.Copy(out, fixed)
	return &core.LiteralMap{Literals: out}, nil
}

func describeInputs(params map[string]*core.Parameter) string {
	parts := make([]string, 0, len(params))
	for _, name := range slices.Sorted(maps.Keys(params)) {
		parts = append(parts, fmt.Sprintf("%s (%s)", name, literals.Describe(params[name].GetVar().GetType())))
	}
	if len(parts) == 0 {
		return "no inputs"
	}
	return strings.Join(parts, ", ")
}

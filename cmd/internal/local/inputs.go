package local

import (
	"errors"
	"strings"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

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

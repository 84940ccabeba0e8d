package literals

import (
	"maps"
	"slices"
	"strings"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// structure makes a dict, dataclass or pydantic model as flytekit does since 1.14: MessagePack. Where the type has a JSON
// schema, the value is checked against as much of it as flytekit writes.
func structure(p *place, t *core.LiteralType, v any) (*core.Literal, error) {
	s := t.GetMetadata().AsMap()
	if len(s) == 0 {
		if _, ok := v.(map[string]any); !ok {
			return nil, p.takes(Describe(t), v)
		}
	} else {
		c := checker{root: s}
		var err error
		if v, err = c.value(p, s, v, 0); err != nil {
			return nil, err
		}
	}
	raw, err := packed(v)
	if err != nil {
		return nil, p.errorf("%v", err)
	}
	return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: raw, Tag: tagMsgpack}}}), nil
}

// tagMsgpack marks a binary literal that holds a structure.
const tagMsgpack = "msgpack"

// checker checks values against the part of JSON Schema that flytekit's dataclasses (mashumaro) and pydantic write. What it
// does not know it takes, and Python has the last word.
type checker struct{ root map[string]any }

type object = map[string]any

// maxDepth bounds references that lead to themselves.
const maxDepth = 64

// value gives the value with integers made floats where floats are wanted.
func (c checker) value(p *place, s object, v any, depth int) (any, error) {
	if depth > maxDepth {
		return v, nil
	}
	if ref, ok := s["$ref"].(string); ok {
		if to := c.resolve(ref); to != nil {
			return c.value(p, to, v, depth+1)
		}
		return v, nil
	}
	if all, ok := s["allOf"].([]any); ok && len(all) == 1 {
		if only, ok := all[0].(object); ok {
			return c.value(p, only, v, depth+1)
		}
	}
	for _, word := range []string{"anyOf", "oneOf"} {
		if list, ok := s[word].([]any); ok {
			return c.any(p, list, v, depth)
		}
	}
	if list, ok := s["enum"].([]any); ok {
		return v, c.oneOf(p, list, v)
	}
	switch s["type"] {
	case "object":
		return c.object(p, s, v, depth)
	case "array":
		return c.array(p, s, v, depth)
	case "integer":
		if n, ok := v.(int64); ok {
			return n, nil
		}
		return nil, p.takes("an integer", v)
	case "number":
		switch n := v.(type) {
		case float64:
			return n, nil
		case int64:
			return float64(n), nil
		}
		return nil, p.takes("a number", v)
	case "string":
		if _, ok := v.(string); ok {
			return v, nil
		}
		if v != nil && !isNested(v) {
			return nil, p.errorf("takes a string, got %s: put it in quotes", show(v))
		}
		return nil, p.takes("a string", v)
	case "boolean":
		if _, ok := v.(bool); ok {
			return v, nil
		}
		return nil, p.takes("true or false", v)
	case "null":
		if v == nil {
			return nil, nil //nolint:nilnil // null is a value
		}
		return nil, p.takes("null", v)
	default:
		return v, nil
	}
}

func (c checker) resolve(ref string) object {
	at := any(c.root)
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil
	}
	for _, part := range strings.Split(path, "/") {
		m, ok := at.(object)
		if !ok {
			return nil
		}
		at = m[part]
	}
	m, _ := at.(object)
	return m
}

func (c checker) object(p *place, s object, v any, depth int) (any, error) {
	given, ok := v.(map[string]any)
	if !ok {
		what := "a mapping"
		if title, ok := s["title"].(string); ok {
			what += " (" + title + ")"
		}
		return nil, p.takes(what, v)
	}
	properties, _ := s["properties"].(object)
	required, _ := s["required"].([]any)
	for _, r := range required {
		if name, ok := r.(string); ok {
			if _, there := given[name]; !there {
				return nil, p.errorf("lacks %s", name)
			}
		}
	}
	out := make(map[string]any, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		prop, known := properties[name].(object)
		if !known {
			switch more := s["additionalProperties"].(type) {
			case bool:
				if !more {
					return nil, p.errorf("has no %q; it takes %s", name, strings.Join(slices.Sorted(maps.Keys(properties)), ", "))
				}
			case object:
				prop = more
			}
		}
		var err error
		if out[name], err = c.value(p.key(name), prop, given[name], depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c checker) array(p *place, s object, v any, depth int) (any, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, p.takes("a list", v)
	}
	items, _ := s["items"].(object)
	out := make([]any, 0, len(list))
	for i, item := range list {
		item, err := c.value(p.item(i), items, item, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, item)
	}
	return out, nil
}

// any takes the first alternative that fits. When none does, and only one is more than null, that one's error is the best.
func (c checker) any(p *place, alternatives []any, v any, depth int) (any, error) {
	var last error
	proper := 0
	var names []string
	for _, a := range alternatives {
		s, ok := a.(object)
		if !ok {
			continue
		}
		out, err := c.value(p, s, v, depth+1)
		if err == nil {
			return out, nil
		}
		if s["type"] != "null" {
			proper++
			last = err
		}
		name, _ := s["type"].(string)
		if name == "" {
			name = "something else"
		}
		names = append(names, name)
	}
	if proper == 1 {
		return nil, last
	}
	return nil, p.takes(strings.Join(names, " or "), v)
}

func (c checker) oneOf(p *place, values []any, v any) error {
	names := make([]string, 0, len(values))
	for _, want := range values {
		if f, ok := want.(float64); ok { // protobuf has no other numbers
			if n, ok := v.(int64); ok && float64(n) == f {
				return nil
			}
		}
		if !isNested(want) && !isNested(v) && want == v {
			return nil
		}
		name, ok := want.(string)
		if !ok {
			name = show(wholes(want))
		}
		names = append(names, name)
	}
	return p.takes("one of "+strings.Join(names, ", "), v)
}

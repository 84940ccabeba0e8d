package literals

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Parse reads YAML, of which JSON is a part, into plain values: nil, bool, int64, float64, string, []any and
// map[string]any, and *big.Int for what an int64 cannot hold. Times stay text, as they were written, and so do keys.
func Parse(text []byte) (any, error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') && json.Valid(trimmed) {
		return parseJSON(trimmed) // the YAML reader does not take JSON's tabs
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil //nolint:nilnil // an empty document is null
		}
		return nil, cleanYAML(err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, cleanYAML(err)
		}
		return nil, errors.New("there is more than one document in it")
	}
	// Anchors could nest without end; yaml.v3's own decoder looks out for that. It takes a minute for 100,000 keys, so it
	// reads only what has them.
	if anchored(&doc) {
		var checked any
		if err := doc.Decode(&checked); err != nil {
			return nil, cleanYAML(err)
		}
	}
	return fromNode(&doc)
}

func anchored(n *yaml.Node) bool {
	return n.Anchor != "" || slices.ContainsFunc(n.Content, anchored)
}

// cleanYAML makes one line of the reader's error.
func cleanYAML(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	return errors.New(strings.Join(strings.Fields(text), " "))
}

func fromNode(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.DocumentNode:
		return fromNode(n.Content[0])
	case yaml.AliasNode:
		return fromNode(n.Alias)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := fromNode(c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		return fromMapping(n)
	default:
		return fromScalar(n)
	}
}

func fromMapping(n *yaml.Node) (any, error) {
	m := make(map[string]any, len(n.Content)/2)
	merged := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key is a name, not a list or mapping", key.Line)
		}
		v, err := fromNode(value)
		if err != nil {
			return nil, err
		}
		if key.ShortTag() == "!!merge" {
			if err := merge(merged, v, key.Line); err != nil {
				return nil, err
			}
			continue
		}
		if _, twice := m[key.Value]; twice {
			return nil, fmt.Errorf("line %d: %q is given twice", key.Line, key.Value)
		}
		m[key.Value] = v
	}
	for k, v := range merged {
		if _, own := m[k]; !own {
			m[k] = v
		}
	}
	return m, nil
}

func merge(into map[string]any, v any, line int) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, item := range list {
		from, ok := item.(map[string]any)
		if !ok {
			return fmt.Errorf("line %d: << takes a mapping", line)
		}
		for k, v := range from {
			if _, earlier := into[k]; !earlier {
				into[k] = v
			}
		}
	}
	return nil
}

func fromScalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil //nolint:nilnil // null is a value
	case "!!bool", "!!int", "!!float":
		if n.ShortTag() != "!!bool" {
			if i, ok := new(big.Int).SetString(n.Value, 10); ok {
				return integer(i), nil
			}
		}
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, cleanYAML(err)
		}
		switch v := v.(type) {
		case int:
			return int64(v), nil
		case uint64:
			return integer(new(big.Int).SetUint64(v)), nil
		default:
			return v, nil
		}
	default: // text; times and binary too
		return n.Value, nil
	}
}

func integer(i *big.Int) any {
	if i.IsInt64() {
		return i.Int64()
	}
	return i
}

func parseJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return fromJSON(d)
}

// fromJSON reads token by token, since the decoder takes the last of two equal keys without a word.
func fromJSON(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := fromJSON(d)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.Token()
			return list, err
		}
		m := map[string]any{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			key, _ := k.(string) // in valid JSON a key is one
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("%q is given twice", key)
			}
			if m[key], err = fromJSON(d); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return m, err
	case json.Number:
		if i, ok := new(big.Int).SetString(t.String(), 10); ok {
			return integer(i), nil
		}
		f, err := t.Float64()
		if err != nil {
			return nil, fmt.Errorf("%s is too large a number", t)
		}
		return f, nil
	default:
		return t, nil
	}
}

// shown bounds how much of a value an error quotes.
const shown = 60

// show quotes a value for an error.
func show(v any) string {
	var text string
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		text = strconv.Quote(v)
	case float64:
		text = formatFloat(v)
	case map[string]any:
		if len(v) == 0 {
			return "{}"
		}
		text = "a mapping " + compact(v)
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		text = "a list " + compact(v)
	default:
		text = fmt.Sprint(v)
	}
	if r := []rune(text); len(r) > shown {
		text = string(r[:shown]) + "…"
	}
	return text
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// formatFloat shows that a number is no integer.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return ".nan"
	case math.IsInf(f, 1):
		return ".inf"
	case math.IsInf(f, -1):
		return "-.inf"
	}
	text := strconv.FormatFloat(f, 'g', -1, 64)
	if a := math.Abs(f); a >= 1e-4 && a < 1e16 || f == 0 {
		text = strconv.FormatFloat(f, 'f', -1, 64)
	}
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return text
}

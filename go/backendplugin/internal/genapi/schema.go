package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// schemas are the components made so far, by name.
type schemas struct{ made map[string]*yaml.Node }

func (s *schemas) names() []string { return slices.Sorted(maps.Keys(s.made)) }

// component makes a component unless it is there, and refers to it. It is entered before it is made, so that it may refer to itself.
func (s *schemas) component(name string, fill func(*yaml.Node) error) (value, error) {
	if s.made == nil {
		s.made = map[string]*yaml.Node{}
	}
	if s.made[name] == nil {
		s.made[name] = &yaml.Node{}
		if err := fill(s.made[name]); err != nil {
			return value{}, err
		}
	}
	return value{schema: flow(object("$ref", quoted(refPrefix+name)))}, nil
}

// value is the schema of a value that is not null, and the JSON types that it can have.
type value struct {
	schema *yaml.Node
	types  []string
	// takesNull says that null is a value like any other, and not the same as no value.
	takesNull bool
}

// message refers to the schema of a message.
func (s *schemas) message(m protoreflect.MessageDescriptor) (value, error) {
	name := string(m.FullName())
	if known, ok := wellKnown[name]; ok {
		v, err := s.component(name, func(n *yaml.Node) error { *n = *known.schema; return nil })
		v.types, v.takesNull = known.types, known.takesNull
		return v, err
	}
	if m.ParentFile().Path() == "google/protobuf/wrappers.proto" {
		return s.value(m.Fields().ByName("value"))
	}
	if m.ParentFile().Package() == "google.protobuf" {
		return value{}, fmt.Errorf("%s has a JSON form of its own, which this generator does not know", name)
	}
	v, err := s.component(name, func(n *yaml.Node) error { return s.fill(n, m) })
	v.types = []string{"object"}
	return v, err
}

func (s *schemas) fill(n *yaml.Node, m protoreflect.MessageDescriptor) error {
	properties := block(object())
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		schema, err := s.field(f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.FullName(), err)
		}
		add(properties, f.JSONName(), schema)
	}
	var choices []*yaml.Node
	var texts []string
	for i := range m.Oneofs().Len() {
		o := m.Oneofs().Get(i)
		if o.IsSynthetic() || o.Fields().Len() == 1 {
			continue
		}
		choice, text, err := s.oneof(o)
		if err != nil {
			return fmt.Errorf("%s: %w", o.FullName(), err)
		}
		choices, texts = append(choices, choice), append(texts, text)
	}
	*n = *block(object("type", str("object")))
	if len(texts) > 0 {
		add(n, "description", str(strings.Join(texts, " ")))
	}
	if len(properties.Content) > 0 {
		add(n, "properties", properties)
	}
	switch len(choices) {
	case 0:
	case 1:
		n.Content = append(n.Content, choices[0].Content...)
	default:
		add(n, "allOf", block(list(choices...)))
	}
	return nil
}

// field is the schema of a property. In protobuf's JSON form null is the same as no property at all.
func (s *schemas) field(f protoreflect.FieldDescriptor) (*yaml.Node, error) {
	var v value
	var err error
	switch {
	case f.IsMap():
		if f.MapKey().Kind() != protoreflect.StringKind {
			return nil, fmt.Errorf("its keys are of kind %s; this generator knows strings only", f.MapKey().Kind())
		}
		if v, err = s.value(f.MapValue()); err == nil {
			v = value{schema: flow(object("type", str("object"), "additionalProperties", v.schema))}
		}
	case f.IsList():
		if v, err = s.value(f); err == nil {
			v = value{schema: flow(object("type", str("array"), "items", v.schema))}
		}
	default:
		v, err = s.value(f)
	}
	if err != nil {
		return nil, err
	}
	schema := nullable(v)
	if o, ok := f.Options().(*descriptorpb.FieldOptions); ok && o.GetDeprecated() {
		add(schema, "deprecated", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "true"})
	}
	return schema, nil
}

func nullable(v value) *yaml.Node {
	if v.takesNull {
		return v.schema
	}
	if c := v.schema.Content; c[0].Value == "type" {
		return flow(object(append([]any{"type", list(c[1], str("null"))}, pairs(c[2:])...)...))
	}
	return flow(object("anyOf", list(v.schema, object("type", str("null")))))
}

// oneof is the constraint that at most one member is there, of which null is none. Each branch says everything about every
// member, so that what generates values from it need not guess.
func (s *schemas) oneof(o protoreflect.OneofDescriptor) (*yaml.Node, string, error) {
	fields := o.Fields()
	branches := block(list())
	var names []string
	for chosen := -1; chosen < fields.Len(); chosen++ {
		properties := object()
		for i := range fields.Len() {
			f := fields.Get(i)
			if i != chosen {
				add(properties, f.JSONName(), object("type", str("null")))
				continue
			}
			v, err := s.value(f)
			if err != nil {
				return nil, "", err
			}
			if v.takesNull {
				return nil, "", fmt.Errorf("its member %s may be null, which this generator cannot tell from none", f.Name())
			}
			types := list()
			for _, t := range v.types {
				types.Content = append(types.Content, str(t))
			}
			if len(v.types) == 1 {
				types = types.Content[0]
			}
			add(properties, f.JSONName(), object("type", types))
		}
		if chosen < 0 {
			branches.Content = append(branches.Content, flow(object("properties", properties)))
			continue
		}
		name := fields.Get(chosen).JSONName()
		names = append(names, name)
		branches.Content = append(branches.Content, flow(object("required", list(str(name)), "properties", properties)))
	}
	last := len(names) - 1
	text := "At most one of " + strings.Join(names[:last], ", ") + " and " + names[last] + "."
	return object("oneOf", branches), text, nil
}

// value is the schema of one value of a field: of the only one, of an item, or of a map's value.
func (s *schemas) value(f protoreflect.FieldDescriptor) (value, error) {
	switch kind := f.Kind(); kind {
	case protoreflect.MessageKind:
		return s.message(f.Message())
	case protoreflect.EnumKind:
		return s.enum(f.Enum())
	case protoreflect.BoolKind:
		return plain("boolean"), nil
	case protoreflect.StringKind:
		return plain("string"), nil
	case protoreflect.BytesKind:
		return s.scalar("bytes", []string{"string"}, bytesSchema)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return s.integer("int32", math.MinInt32, math.MaxInt32)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return s.integer("uint32", 0, math.MaxUint32)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return s.integer("int64", math.MinInt64, math.MaxInt64)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return s.integer("uint64", 0, math.MaxUint64)
	case protoreflect.FloatKind:
		return s.float("float", math.MaxFloat32, 32)
	case protoreflect.DoubleKind:
		return s.float("double", math.MaxFloat64, 64)
	default:
		return value{}, fmt.Errorf("this generator does not know the kind %s", kind)
	}
}

func plain(t string) value {
	return value{schema: flow(object("type", str(t))), types: []string{t}}
}

// scalar refers to the schema of one of protobuf's scalar types.
func (s *schemas) scalar(name string, types []string, schema func() *yaml.Node) (value, error) {
	v, err := s.component("protobuf."+name, func(n *yaml.Node) error { *n = *schema(); return nil })
	v.types = types
	return v, err
}

func (s *schemas) integer(name string, least int64, most uint64) (value, error) {
	return s.scalar(name, []string{"integer", "string"}, func() *yaml.Node {
		pattern := upTo(strconv.FormatUint(most, 10))
		if least < 0 {
			pattern = "-?(" + pattern + ")|-" + strconv.FormatInt(least, 10)[1:]
		}
		return block(object(
			"description", str("An integer of "+name[len(name)-2:]+" bits, as a number or as a string of its digits."),
			"anyOf", block(list(
				flow(object("type", str("integer"), "minimum", number(strconv.FormatInt(least, 10)), "maximum", number(strconv.FormatUint(most, 10)))),
				flow(object("type", str("string"), "pattern", quoted("^("+pattern+")$"))),
			))))
	})
}

// upTo is a regular expression for the numbers from 0 to most, without leading zeros.
func upTo(most string) string {
	n := len(most)
	out := []string{"0", fmt.Sprintf("[1-9][0-9]{0,%d}", n-2)} // all that have fewer digits
	for i := range most {
		first := byte('0')
		if i == 0 {
			first = '1'
		}
		if most[i] == first {
			continue
		}
		branch := most[:i] + digits(first, most[i]-1)
		if rest := n - i - 1; rest > 0 {
			branch += fmt.Sprintf("[0-9]{%d}", rest)
		}
		out = append(out, branch)
	}
	return strings.Join(append(out, most), "|")
}

func digits(first, last byte) string {
	if first == last {
		return string(first)
	}
	return fmt.Sprintf("[%c-%c]", first, last)
}

func (s *schemas) float(name string, most float64, bits int) (value, error) {
	return s.scalar(name, []string{"number", "string"}, func() *yaml.Node {
		limit := strconv.FormatFloat(most, 'g', -1, bits)
		exponent := map[int]string{32: "[1-9]", 64: "[1-9][0-9]?"}[bits]
		return block(object(
			"description", str("A number, also as a string: NaN, Infinity and -Infinity are strings only."),
			"anyOf", block(list(
				flow(object("type", str("number"), "minimum", number("-"+limit), "maximum", number(limit))),
				flow(object("type", str("string"), "pattern", quoted("^(NaN|-?Infinity|-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,18})?([eE][+-]?"+exponent+")?)$"))),
			))))
	})
}

func bytesSchema() *yaml.Node {
	standard, url := "[A-Za-z0-9+/]", "[A-Za-z0-9_-]"
	form := func(c string) string {
		return "(" + c + "{4})*(" + c + "{2}(==)?|" + c + "{3}=?)?"
	}
	return block(object(
		"type", str("string"), "contentEncoding", str("base64"),
		"description", str("Base64, in the standard or the URL-safe alphabet, with or without padding."),
		"pattern", quoted("^("+form(standard)+"|"+form(url)+")$")))
}

// enum refers to the schema of an enumeration. A value that this version of flyteidl does not know is refused, other than by
// protobuf: it would be passed over, and the task would have another value.
func (s *schemas) enum(e protoreflect.EnumDescriptor) (value, error) {
	if e.ParentFile().Package() == "google.protobuf" {
		return value{}, fmt.Errorf("%s has a JSON form of its own, which this generator does not know", e.FullName())
	}
	v, err := s.component(string(e.FullName()), func(n *yaml.Node) error {
		names, numbers := list(), list()
		for i := range e.Values().Len() {
			v := e.Values().Get(i)
			names.Content = append(names.Content, str(string(v.Name())))
			numbers.Content = append(numbers.Content, number(strconv.Itoa(int(v.Number()))))
		}
		*n = *block(object("anyOf", block(list(
			flow(object("type", str("string"), "enum", names)),
			flow(object("type", str("integer"), "enum", numbers)),
		))))
		return nil
	})
	v.types = []string{"string", "integer"}
	return v, err
}

// wellKnown are the messages that have a JSON form of their own.
var wellKnown = map[string]value{
	"google.protobuf.Struct": {
		schema: block(object("type", str("object"), "description", str("Any JSON object."))), types: []string{"object"},
	},
	"google.protobuf.Value": {
		schema: block(object("description", str("Any JSON value, of which null is one."))), takesNull: true,
	},
	"google.protobuf.ListValue": {
		schema: block(object("type", str("array"), "description", str("Any JSON array."))), types: []string{"array"},
	},
	"google.protobuf.Timestamp": {
		schema: block(object(
			"type", str("string"), "format", str("date-time"),
			"description", str("A time as RFC 3339 has it, in capitals, with up to nine digits after the second, from the year 1 to 9999."),
			"pattern", quoted("^(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"),
		)), types: []string{"string"},
	},
	"google.protobuf.Duration": {
		schema: block(object(
			"type", str("string"),
			"description", str("Seconds with up to nine digits after the point, and an s."),
			"pattern", quoted("^[+-]?(("+upTo("315576000000")+")(\\.[0-9]{0,9})?|\\.[0-9]{0,9})s$"),
		)), types: []string{"string"},
	},
}

// Nodes of YAML.

func str(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func quoted(s string) *yaml.Node {
	n := str(s)
	n.Style = yaml.DoubleQuotedStyle
	return n
}

func number(s string) *yaml.Node {
	tag := "!!int"
	if strings.ContainsAny(s, ".e") {
		tag = "!!float"
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: s}
}

func list(items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Content: items}
}

// object is a mapping of names and nodes, which alternate.
func object(members ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for pair := range slices.Chunk(members, 2) {
		name, _ := pair[0].(string)
		node, _ := pair[1].(*yaml.Node)
		add(n, name, node)
	}
	return n
}

func pairs(content []*yaml.Node) []any {
	var out []any
	for i := 0; i < len(content); i += 2 {
		out = append(out, content[i].Value, content[i+1])
	}
	return out
}

// member is the value of a mapping's member, or nil.
func member(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func add(n *yaml.Node, name string, v *yaml.Node) { n.Content = append(n.Content, str(name), v) }

func flow(n *yaml.Node) *yaml.Node { n.Style = yaml.FlowStyle; return n }

func block(n *yaml.Node) *yaml.Node { n.Style = 0; return n }

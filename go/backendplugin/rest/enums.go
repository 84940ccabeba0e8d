package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// An enum's value that this version of flyteidl does not know is refused: protojson passes over an unknown name together with
// unknown fields, and a task would then run with another value than the one that its author wrote.

// wellKnown says that a message has a JSON form of its own, in which there is no enum of flyteidl's.
func wellKnown(d protoreflect.Descriptor) bool {
	return strings.HasPrefix(string(d.FullName()), "google.protobuf.")
}

// unknownNumber tells of the first enum in m whose number is unknown, and gives nothing if there is none.
func unknownNumber(m protoreflect.Message) string {
	bad := ""
	look := func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch fd.Kind() { //nolint:exhaustive // the others hold no enum
		case protoreflect.EnumKind:
			if !wellKnown(fd.Enum()) && fd.Enum().Values().ByNumber(v.Enum()) == nil {
				bad = fmt.Sprintf("%s is %d, which is none of its values", fd.Name(), v.Enum())
			}
		case protoreflect.MessageKind:
			if !wellKnown(fd.Message()) {
				bad = unknownNumber(v.Message())
			}
		}
		return bad == ""
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { return look(fd.MapValue(), v) })
		case fd.IsList():
			for i := range v.List().Len() {
				if !look(fd, v.List().Get(i)) {
					break
				}
			}
		default:
			look(fd, v)
		}
		return bad == ""
	})
	return bad
}

// unknownName tells of the first enum in the JSON of a message whose name is unknown, and gives nothing if there is none.
// protojson has read the JSON already, so it fits the message.
func unknownName(raw []byte, m proto.Message) string {
	w := walker{d: json.NewDecoder(bytes.NewReader(raw))}
	w.d.UseNumber()
	w.message(w.token(), m.ProtoReflect().Descriptor())
	return w.bad
}

// walker goes through JSON token by token: its work does not grow with the depth.
type walker struct {
	d   *json.Decoder
	bad string
}

func (w *walker) token() json.Token {
	t, _ := w.d.Token() // it has been read once without an error
	return t
}

// rest goes to the end of a value that begins with t.
func (w *walker) rest(t json.Token) {
	for depth := 0; ; t = w.token() {
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return
		}
	}
}

// message goes through a message that begins with t, and so do those below through what they are called after.
func (w *walker) message(t json.Token, md protoreflect.MessageDescriptor) {
	if t != json.Delim('{') || wellKnown(md) {
		w.rest(t)
		return
	}
	for w.d.More() {
		name, _ := w.token().(string)
		fd := md.Fields().ByJSONName(name)
		if fd == nil {
			fd = md.Fields().ByTextName(name)
		}
		if fd == nil {
			w.rest(w.token())
			continue
		}
		w.field(w.token(), fd)
	}
	w.token()
}

func (w *walker) field(t json.Token, fd protoreflect.FieldDescriptor) {
	switch {
	case t == json.Delim('{') && fd.IsMap():
		for w.d.More() {
			w.token()
			w.value(w.token(), fd.MapValue())
		}
		w.token()
	case t == json.Delim('[') && fd.IsList():
		for w.d.More() {
			w.value(w.token(), fd)
		}
		w.token()
	default:
		w.value(t, fd)
	}
}

func (w *walker) value(t json.Token, fd protoreflect.FieldDescriptor) {
	name, isName := t.(string)
	switch {
	case fd.Kind() == protoreflect.MessageKind:
		w.message(t, fd.Message())
	case fd.Kind() == protoreflect.EnumKind && isName && fd.Enum().Values().ByName(protoreflect.Name(name)) == nil && w.bad == "":
		w.bad = fmt.Sprintf("%s is %q, which is none of its values", fd.Name(), name)
	default:
		w.rest(t)
	}
}

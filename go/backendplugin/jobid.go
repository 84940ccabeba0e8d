package backendplugin

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"google.golang.org/grpc/codes"
)

// maxID is the most that propeller keeps of a job id.
const maxID = 64 << 10

func plainID(t reflect.Type) bool {
	return t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// checkID says whether a type can be a job id.
func checkID[ID any]() error {
	t := reflect.TypeFor[ID]()
	if plainID(t) {
		return nil
	}
	if _, err := json.Marshal(reflect.New(t).Elem().Interface()); err != nil {
		return fmt.Errorf("its job id, %s, cannot be written as JSON: %w", t, err)
	}
	if lost := unwritten(t, map[reflect.Type]bool{}); lost != "" {
		return fmt.Errorf("its job id, %s, would lose %s, which is not exported and so no part of JSON", t, lost)
	}
	return nil
}

// unwritten names a field that encoding/json leaves out because it is not exported.
func unwritten(t reflect.Type, seen map[reflect.Type]bool) string {
	if seen[t] || writesItself(t) {
		return ""
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return unwritten(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() && (!f.Anonymous || f.Type.Kind() != reflect.Struct) { // of an embedded struct, the fields are written
				return fmt.Sprintf("field %s of %s", f.Name, t)
			}
			if f.Tag.Get("json") == "-" {
				continue
			}
			if lost := unwritten(f.Type, seen); lost != "" {
				return lost
			}
		}
	}
	return ""
}

// writesItself says that a type has a JSON of its own, about which nothing can be told from its fields.
func writesItself(t reflect.Type) bool {
	for _, i := range []reflect.Type{
		reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	} {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

func encodeID[ID any](id ID) ([]byte, error) {
	var raw []byte
	if v := reflect.ValueOf(&id).Elem(); v.Kind() == reflect.String {
		raw = []byte(v.String())
	} else if plainID(v.Type()) {
		raw = v.Bytes()
	} else {
		var err error
		if raw, err = json.Marshal(id); err != nil {
			return nil, SystemError("the plugin's job id cannot be written as JSON: %w", err)
		}
		if isNull(raw) {
			return nil, SystemError("the plugin gave a job id that is nil")
		}
	}
	if len(raw) == 0 || len(raw) > maxID {
		return nil, SystemError("the plugin gave a job id of %d bytes; it takes 1 to %d", len(raw), maxID)
	}
	return raw, nil
}

// errForeign is about an id that Create cannot have made.
var errForeign = errors.New("no such job: its id is none of this plugin's")

// decodeID gives NotFound for an id that Create cannot have made. The id itself is not shown: it is opaque to everybody else.
func decodeID[ID any](raw []byte, id *ID) error {
	if len(raw) == 0 {
		return UserError("the call names no job: resource_meta is empty")
	}
	v := reflect.ValueOf(id).Elem()
	switch {
	case v.Kind() == reflect.String:
		v.SetString(string(raw))
	case plainID(v.Type()):
		v.SetBytes(raw)
	default:
		if isNull(raw) || json.Unmarshal(raw, id) != nil || isForeign(raw, v.Type()) {
			return NewError(codes.NotFound, errForeign)
		}
	}
	return nil
}

func isNull(raw []byte) bool { return string(bytes.TrimSpace(raw)) == "null" }

// isForeign says that a JSON object has nothing of what Create writes into the id of every job. encoding/json would make a job of it
// whose fields are all zero, and Delete might end one that exists. Some of it is enough: replicas of the version before write
// less, and those of the version after more.
func isForeign(raw []byte, t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || writesItself(t) {
		return false
	}
	var always, has map[string]json.RawMessage
	zero, err := json.Marshal(reflect.New(t).Interface()) // leaves out what may be left out
	if err != nil || json.Unmarshal(zero, &always) != nil || json.Unmarshal(raw, &has) != nil {
		return true
	}
	for written := range always {
		for given := range has {
			if strings.EqualFold(written, given) { // as encoding/json takes them
				return false
			}
		}
	}
	return len(always) > 0
}

package backendplugin

import (
	"encoding/json"
	"fmt"
	"reflect"
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
	return nil
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
	}
	if len(raw) == 0 || len(raw) > maxID {
		return nil, SystemError("the plugin gave a job id of %d bytes; it takes 1 to %d", len(raw), maxID)
	}
	return raw, nil
}

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
		if json.Unmarshal(raw, id) != nil {
			return NotFound("no such job: its id is none of this plugin's")
		}
	}
	return nil
}

package backendplugin

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Blob is a file or folder that is stored somewhere.
type Blob struct {
	URI    string
	Format string
	Folder bool
}

// Dataset is a table that is stored somewhere.
type Dataset struct {
	URI     string
	Format  string
	Columns []Column
}

// Column is a column of a Dataset.
type Column struct {
	Name string
	Type *core.LiteralType
}

// Schema is a table of flytekit's older kind.
type Schema struct {
	URI  string
	Type *core.SchemaType
}

// Binary is bytes with a tag that says what is in them.
type Binary struct {
	Tag   string
	Value []byte
}

// TaskFailure is an error that is a value, as a failure node takes it.
type TaskFailure struct{ FailedNode, Message string }

var (
	literalMapType = reflect.TypeFor[*core.LiteralMap]()
	literalType    = reflect.TypeFor[*core.Literal]()
	timeType       = reflect.TypeFor[time.Time]()
	durationType   = reflect.TypeFor[time.Duration]()
	blobType       = reflect.TypeFor[Blob]()
	datasetType    = reflect.TypeFor[Dataset]()
	schemaType     = reflect.TypeFor[Schema]()
	binaryType     = reflect.TypeFor[Binary]()
	failureType    = reflect.TypeFor[TaskFailure]()
)

// stored are the types that are literals of their own and no part of a structure.
var stored = map[reflect.Type]bool{blobType: true, datasetType: true, schemaType: true, binaryType: true, failureType: true, literalType: true}

// tagMsgpack marks a binary literal that holds a structure.
const tagMsgpack = "msgpack"

// field is a field that has a value in Flyte.
type field struct {
	index    int
	name     string
	optional bool
}

func fieldsOf(t reflect.Type) ([]field, error) {
	var out []field
	seen, hidden := map[string]bool{}, 0
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return nil, fmt.Errorf("%s embeds %s; give it a name", t, f.Type)
		}
		name, flags, _ := strings.Cut(f.Tag.Get("flyte"), ",")
		switch {
		case name == "-":
			continue
		case !f.IsExported() && f.Tag.Get("flyte") == "":
			hidden++
			continue
		case !f.IsExported():
			return nil, fmt.Errorf("field %s of %s has a tag and is not exported", f.Name, t)
		case flags != "" && flags != "optional":
			return nil, fmt.Errorf("field %s of %s has the tag option %q; there is optional and no other", f.Name, t, flags)
		case name == "":
			name = f.Name
		}
		if seen[name] {
			return nil, fmt.Errorf("%s has two fields called %q", t, name)
		}
		seen[name] = true
		out = append(out, field{i, name, flags == "optional" || f.Type.Kind() == reflect.Pointer})
	}
	if len(out) == 0 && hidden > 0 { // its value would be lost without a word
		return nil, fmt.Errorf("%s has no exported field", t)
	}
	return out, nil
}

// checkValues says whether T can be inputs or outputs.
func checkValues[T any]() error {
	t := reflect.TypeFor[T]()
	switch {
	case t == literalMapType:
		return nil
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		return checkType(t.Elem(), false, map[checked]bool{})
	case t.Kind() == reflect.Struct && !stored[t] && t != timeType:
		return checkFields(t, false, map[checked]bool{})
	default:
		return fmt.Errorf("%s is no struct, no map by name and no *core.LiteralMap", t)
	}
}

// checked is a type that was looked at: as a literal, or as a part of a structure.
type checked struct {
	t           reflect.Type
	inStructure bool
}

func checkFields(t reflect.Type, inStructure bool, seen map[checked]bool) error {
	fields, err := fieldsOf(t)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if err := checkType(t.Field(f.index).Type, inStructure, seen); err != nil {
			return at(f.name, err)
		}
	}
	return nil
}

func checkType(t reflect.Type, inStructure bool, seen map[checked]bool) error {
	if inStructure && stored[t] {
		return notInStructure(t)
	}
	if stored[t] || t == timeType || seen[checked{t, inStructure}] {
		return nil
	}
	seen[checked{t, inStructure}] = true // a type may lead to itself
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return nil
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return nil
		}
	case reflect.Pointer, reflect.Slice:
		return checkType(t.Elem(), inStructure, seen)
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return checkType(t.Elem(), inStructure, seen)
		}
		return fmt.Errorf("%s has keys that are no strings", t)
	case reflect.Struct:
		return checkFields(t, true, seen)
	}
	return fmt.Errorf("no literal can become a %s", t)
}

func notInStructure(t reflect.Type) error { return fmt.Errorf("a %s is no part of a structure", t) }

// at says where an error is.
func at(place string, err error) error { return fmt.Errorf("%s: %w", place, err) }

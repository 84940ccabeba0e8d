package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// malformed is the error for a request that is wrong and stays so.
func malformed(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// fields are the members of a JSON object. encoding/json alone would let through what the contract does not: null for a
// string, names in other capitals, half a character.
type fields map[string]json.RawMessage

// object reads a JSON object, called what in errors.
func object(raw []byte, what string) (fields, error) {
	if !utf8.Valid(raw) {
		return nil, malformed("%s is not UTF-8", what)
	}
	var f fields
	if err := json.Unmarshal(raw, &f); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, malformed("%s is not JSON: %v, at byte %d", what, err, syntax.Offset)
		}
		return nil, malformed("%s is not a JSON object", what)
	}
	if f == nil {
		return nil, malformed("%s is null; a JSON object is due", what)
	}
	return f, nil
}

// read reads a member into a Go value of the JSON type that kind names. It says whether the member is there.
func (f fields) read(name, kind string, into any) (bool, error) {
	raw, ok := f[name]
	if !ok {
		return false, nil
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) || json.Unmarshal(raw, into) != nil {
		return false, malformed("%s is not %s", name, kind)
	}
	return true, nil
}

func (f fields) text(name string) (string, error) {
	var s string
	_, err := f.read(name, "a string", &s)
	return s, err
}

// whole reads an integer from 0 to limit. JSON has one kind of number, so 7.0 is an integer too.
func (f fields) whole(name string, limit float64) (int64, error) {
	n, err := f.number(name, limit)
	if err == nil && n != math.Trunc(n) {
		err = malformed("%s is %v, which is no integer", name, n)
	}
	return int64(n), err
}

func (f fields) number(name string, limit float64) (float64, error) {
	var n float64
	if _, err := f.read(name, "a number", &n); err != nil {
		return 0, err
	}
	if n < 0 || n > limit {
		return 0, malformed("%s is %v, which is not from 0 to %v", name, n, limit)
	}
	return n, nil
}

func (f fields) time(name string) (time.Time, error) {
	s, err := f.text(name)
	if err != nil || s == "" && f[name] == nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
	if err != nil {
		return time.Time{}, malformed("%s is %q, which is no time as RFC 3339 has it", name, s)
	}
	return t, nil
}

// message reads a member that is a message of flyteidl's.
func (f fields) message(name string, into proto.Message) (bool, error) {
	raw, ok := f[name]
	if !ok {
		return false, nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, into); err != nil {
		return false, malformed("%s: %s", name, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " "))
	}
	return true, nil
}

// jobID reads job_id, which is required.
func (f fields) jobID() ([]byte, error) {
	s, err := f.text("job_id")
	if err != nil {
		return nil, err
	}
	if s == "" {
		return nil, malformed("job_id is missing or empty")
	}
	id, err := DecodeJobID(s)
	if err != nil {
		return nil, malformed("job_id %v", err)
	}
	return id, nil
}

const maxVersion = math.MaxInt32

func (f fields) taskTypeVersion() (int32, error) {
	n, err := f.whole("task_type_version", maxVersion)
	return int32(n), err //nolint:gosec // whole bounds it
}

// marshal is a message of flyteidl's as JSON.
func marshal(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("the service's answer cannot be written as JSON: %w", err)
	}
	return raw, nil
}

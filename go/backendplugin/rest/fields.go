package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// malformed is the error for a request that is wrong and stays so. It may quote the request, but not at any length.
func malformed(format string, args ...any) error {
	const most = 1 << 10
	text := fmt.Sprintf(format, args...)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return status.Error(codes.InvalidArgument, text)
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
	if name, is := doubled(raw); is {
		return nil, malformed("%s has %q twice", what, name)
	}
	return f, nil
}

// doubled finds a member that a JSON object has twice. encoding/json would take the last one, others take the first one.
func doubled(raw []byte) (name string, is bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token() // it has been read once without an error
	seen := map[string]bool{}
	var value json.RawMessage
	for d.More() {
		key, _ := d.Token()
		name, _ = key.(string)
		if _ = d.Decode(&value); seen[name] {
			return name, true
		}
		seen[name] = true
	}
	return "", false
}

// read reads a member into a Go value of the JSON type that kind names. It says whether the member is there.
func (f fields) read(name, kind string, into any) (bool, error) {
	raw, ok := f[name]
	if !ok {
		return false, nil
	}
	if isNull(raw) || json.Unmarshal(raw, into) != nil {
		return false, malformed("%s is not %s", name, kind)
	}
	return true, nil
}

func isNull(raw json.RawMessage) bool { return bytes.Equal(raw, []byte("null")) }

func (f fields) text(name string) (string, error) {
	raw, ok := f[name]
	if !ok {
		return "", nil
	}
	return text(raw, name)
}

// text reads a string. encoding/json would put something else in the place of half a character.
func text(raw json.RawMessage, name string) (string, error) {
	var s wrapperspb.StringValue
	if isNull(raw) || protojson.Unmarshal(raw, &s) != nil {
		return "", malformed("%s is not a string", name)
	}
	return s.GetValue(), nil
}

// whole reads an integer from 0 to limit. JSON has one kind of number, so 7.0 is an integer too.
func (f fields) whole(name string, limit int64) (int64, error) {
	var n float64
	if has, err := f.read(name, "a number", &n); err != nil || !has {
		return 0, err
	}
	exact, err := strconv.ParseInt(string(f[name]), 10, 64)
	if err != nil { // written as a fraction, with an exponent, or too large
		const over = 1 << 63
		if n != math.Trunc(n) {
			return 0, malformed("%s is %v, which is no integer", name, n)
		}
		if n >= over {
			return 0, malformed("%s is %v, which is not from 0 to %d", name, n, limit)
		}
		exact = int64(max(n, -1))
	}
	if exact < 0 || exact > limit {
		return 0, malformed("%s is %s, which is not from 0 to %d", name, f[name], limit)
	}
	return exact, nil
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
	bad := ""
	if protojson.Unmarshal(raw, into) != nil {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, into); err != nil {
			why := strings.ReplaceAll(err.Error(), "\u00a0", " ") // protobuf's own way to keep programs from reading its errors
			return false, malformed("%s: %s", name, strings.TrimSpace(strings.TrimPrefix(why, "proto:")))
		}
		bad = unknownName(raw, into) // it passed over what it does not know, names of enums among it
	}
	if bad == "" {
		bad = unknownNumber(into.ProtoReflect())
	}
	if bad != "" {
		return false, malformed("%s: %s", name, bad)
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
		return nil, internal("the service's answer cannot be written as JSON: %v", err)
	}
	return raw, nil
}

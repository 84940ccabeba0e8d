package rest

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxJobID is the most bytes that a job id takes, MaxJobIDInURL the most that it takes to travel in a URL.
const (
	MaxJobID      = 64 << 10
	MaxJobIDInURL = 4095
)

// base64Prefix begins the ids that cannot travel as they are.
const base64Prefix = "base64:"

// EncodeJobID is a job id (resource meta in flyteidl's words) as a string. Text stays as it is, unless it could be taken for
// what becomes of anything else: the prefix "base64:" and unpadded URL-safe base64.
func EncodeJobID(id []byte) string {
	if s := string(id); utf8.Valid(id) && !strings.HasPrefix(s, base64Prefix) {
		return s
	}
	return base64Prefix + base64.RawURLEncoding.EncodeToString(id)
}

// DecodeJobID is the reverse of EncodeJobID. It gives an error for what EncodeJobID never makes of an id: a job has one name.
func DecodeJobID(s string) ([]byte, error) {
	id := []byte(s)
	if rest, ok := strings.CutPrefix(s, base64Prefix); ok {
		var err error
		if id, err = base64.RawURLEncoding.Strict().DecodeString(rest); err != nil {
			return nil, fmt.Errorf("begins with %q, and unpadded URL-safe base64 does not follow", base64Prefix)
		}
	}
	switch {
	case len(id) == 0 || len(id) > MaxJobID:
		return nil, fmt.Errorf("has %d bytes; 1 to %d are due", len(id), MaxJobID)
	case !utf8.ValidString(s):
		return nil, fmt.Errorf("is not UTF-8; other ids begin with %q", base64Prefix)
	case EncodeJobID(id) != s:
		return nil, fmt.Errorf("begins with %q although it is text, which travels as it is", base64Prefix)
	}
	return id, nil
}

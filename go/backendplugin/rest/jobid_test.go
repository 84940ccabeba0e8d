package rest_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
)

// TestJobIDForms: text stays as it is, everything else has one form.
func TestJobIDForms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ reason, id, wire string }{
		{"text", "eu/query-7", "eu/query-7"},
		{"text in any script", "日本 ä", "日本 ä"},
		{"text of control characters", "\x00\n", "\x00\n"},
		{"no UTF-8", "\xff\xfe\xfd", "base64:__79"},
		{"text with half a character", "a\xc3", "base64:YcM"},
		{"text that looks like the form", "base64:eA", "base64:YmFzZTY0OmVB"},
		{"nothing but the prefix", "base64:", "base64:YmFzZTY0Og"},
		{"the prefix in capitals is text", "BASE64:eA", "BASE64:eA"},
		{"the prefix inside is text", "x base64:eA", "x base64:eA"},
		{"the longest text", strings.Repeat("x", rest.MaxJobID), strings.Repeat("x", rest.MaxJobID)},
	} {
		require.Equal(t, tt.wire, rest.EncodeJobID([]byte(tt.id)), tt.reason)
		got, err := rest.DecodeJobID(tt.wire)
		require.NoError(t, err, tt.reason)
		require.Equal(t, tt.id, string(got), tt.reason)
	}
	longest := bytes.Repeat([]byte{0xff}, rest.MaxJobID)
	got, err := rest.DecodeJobID(rest.EncodeJobID(longest))
	require.NoError(t, err)
	require.Equal(t, longest, got)
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		id := make([]byte, 1+random.IntN(40))
		for i := range id {
			id[i] = byte(random.Uint32())
		}
		if random.IntN(2) == 0 {
			id = append([]byte("base64:"), id...)
		}
		got, err := rest.DecodeJobID(rest.EncodeJobID(id))
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
	for _, tt := range []struct{ reason, wire, says string }{
		{"nothing", "", "has 0 bytes"},
		{"nothing behind the prefix", "base64:", "has 0 bytes"},
		{"padding", "base64:__79_w==", "unpadded URL-safe base64 does not follow"},
		{"another alphabet", "base64://79", "unpadded URL-safe base64 does not follow"},
		{"bits that are left over", "base64:__5", "unpadded URL-safe base64 does not follow"},
		{"a line break", "base64:__\n79", "base64"},
		{"text, which has another form already", "base64:YWJj", "although it is text"},
		{"no UTF-8", "a\xff", "is not UTF-8"},
		{"too long", strings.Repeat("x", rest.MaxJobID+1), "has 65537 bytes"},
		{"too long behind the prefix", rest.EncodeJobID(append(longest, 0xff)), "has 65537 bytes"},
	} {
		_, err := rest.DecodeJobID(tt.wire)
		require.ErrorContains(t, err, tt.says, tt.reason)
	}
}

package restclient

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyte-backend/flyte-backend/go/client"
)

// TestBothSidesAgree: the SDK's services and this client have the contract in code of their own, and it has to be the same.
func TestBothSidesAgree(t *testing.T) {
	t.Parallel()
	for _, row := range client.Table {
		assert.Equal(t, row.Status, rest.Status(row.Code), row.Code)
		code, known := codeNamed(rest.CodeName(row.Code))
		assert.True(t, known, row.Code)
		assert.Equal(t, row.Code, code)
		assert.Equal(t, nameOf(row.Code), rest.CodeName(row.Code))
	}
	assert.Equal(t, root, rest.Root)
	assert.Equal(t, maxURLID, rest.MaxJobIDInURL)
	assert.Equal(t, client.MaxJobID, rest.MaxJobID)
	for _, id := range []string{"x", "eu/ü 7", "\xff\xfe", "base64:", "base64:eA", "base64:!", strings.Repeat("\xff", client.MaxJobID)} {
		wire := rest.EncodeJobID([]byte(id))
		assert.Equal(t, wire, encodeID(client.JobID(id)))
		here, err := decodeID(wire)
		require.NoError(t, err)
		there, err := rest.DecodeJobID(wire)
		require.NoError(t, err)
		assert.Equal(t, id, string(here))
		assert.Equal(t, id, string(there))
	}
}

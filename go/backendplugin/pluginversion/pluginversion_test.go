package pluginversion_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	// Each is lower than all that follow.
	ordered := []string{"", "1", "1.2.9", "1.2.10", "2", "10", "v", "v001", "v01", "v1", "v1-rc", "v1.1", "v1b", "v2", "v9", "v9a", "v10", "v99999999999999999999", "v100000000000000000000", "w"}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			assert.Equal(t, want, pluginversion.Compare(a, b), "%q and %q", a, b)
		}
	}
}

func TestValid(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"v1": true, "1": true, "2024-01-01": true, "v1.2.3+build_7-rc": true, strings.Repeat("v", 64): true,
		"": false, " v1": false, "v 1": false, ".1": false, "-v": false, "v/1": false, "v@1": false, "ü": false, "v1\n": false, strings.Repeat("v", 65): false,
	} {
		assert.Equal(t, want, pluginversion.Valid(version), "%q", version)
	}
}

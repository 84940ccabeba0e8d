package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const referenceFile = repositoryRoot + "/docs/configuration.md"

func TestReferenceIsCurrent(t *testing.T) {
	content, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	if string(content) != Reference() {
		t.Fatal("docs/configuration.md is not current; regenerate it: go generate ./go/tasks/config")
	}
}

func TestReferenceExampleIsValid(t *testing.T) {
	content, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	_, after, found := strings.Cut(string(content), "```yaml\n")
	require.True(t, found)
	example, _, _ := strings.Cut(after, "```")
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(example), 0o600))

	require.NoError(t, CheckFile(path))
	c, err := load(path)
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	assert.True(t, c.Enabled)
	assert.Len(t, c.Deployments, 2)
	assert.Len(t, c.Routes, 2)
}

func TestEveryKeyIsExplained(t *testing.T) {
	keys := map[string]bool{}
	for _, r := range rows(reflect.ValueOf(*Default()), "") {
		keys[r.key] = true
		assert.NotEmpty(t, r.meaning, "%s has neither a doc tag nor an entry in machinery", r.key)
	}
	for key := range stated {
		assert.Contains(t, keys, key, "stated explains a key that is gone")
	}
	for key := range machinery {
		assert.Contains(t, keys, key, "machinery explains a key that is gone")
	}
}

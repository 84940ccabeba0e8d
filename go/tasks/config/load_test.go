package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	pluginsconfig "github.com/flyteorg/flyte/flyteplugins/go/tasks/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

const repositoryRoot = "../../.."

// refresh reads and decodes as flytestdlib does when a file changes. UpdateConfig does the same and starts a file watcher
// that cannot be stopped; at the system's limit of watchers (128 on many) viper ends the process, which go test -count
// would reach.
func refresh(accessor stdconfig.Accessor, root stdconfig.Section) error {
	return accessor.(interface {
		RefreshFromConfig(ctx context.Context, r stdconfig.Section, force bool) error
	}).RefreshFromConfig(context.Background(), root, false)
}

// load reads a file strictly, into a section of its own, so that tests do not see each other's values.
func load(path string) (*Config, error) {
	root := stdconfig.NewRootSection()
	s := root.MustRegisterSection("plugins", &pluginsconfig.Config{}).MustRegisterSection(SectionKey, Default())
	err := refresh(viper.NewAccessor(stdconfig.Options{SearchPaths: []string{path}, StrictMode: true, RootSection: root}), root)
	return s.GetConfig().(*Config), err
}

func yamlFiles(t *testing.T, pattern string, least int) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(found), least, pattern)
	return found
}

func TestGoodFiles(t *testing.T) {
	t.Chdir(repositoryRoot)
	for _, path := range yamlFiles(t, "testdata/config/good/*.yaml", 2) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			require.NoError(t, CheckFile(path))
			c, err := load(path)
			require.NoError(t, err)
			require.NoError(t, c.Validate())
			assert.True(t, c.Enabled)
		})
	}
}

// The one load with everything that propeller's start-up does: environment, watcher, and the update handler.
func TestFirstLoadTellsTheHandler(t *testing.T) {
	t.Chdir(repositoryRoot)
	var told *Config
	root := stdconfig.NewRootSection()
	root.MustRegisterSection("plugins", &pluginsconfig.Config{}).
		MustRegisterSectionWithUpdates(SectionKey, Default(), func(_ context.Context, c stdconfig.Config) { told = c.(*Config) })
	const path = "testdata/config/good/full.yaml"
	accessor := viper.NewAccessor(stdconfig.Options{SearchPaths: []string{path}, StrictMode: true, RootSection: root})
	require.NoError(t, accessor.UpdateConfig(t.Context()))

	want, err := load(path)
	require.NoError(t, err)
	assert.Equal(t, want, told)
	assert.Equal(t, 30*time.Second, told.Deployments["bigquery"].Timeout(CallCreate))
}

func TestMinimalFileIsTheDefaultSwitchedOn(t *testing.T) {
	c, err := load(repositoryRoot + "/testdata/config/good/minimal.yaml")
	require.NoError(t, err)
	want := Default()
	want.Enabled = true
	assert.Equal(t, want, c)
}

// A key added to the structs must turn up in full.yaml, so that what it decodes to is seen by some test.
func TestFullFileHasEveryKey(t *testing.T) {
	content, err := os.ReadFile(repositoryRoot + "/testdata/config/good/full.yaml")
	require.NoError(t, err)
	for _, r := range rows(reflect.ValueOf(*Default()), "") {
		name := r.key[strings.LastIndex(r.key, ".")+1:]
		if r.key == "webApi.resourceMeta" {
			continue // the one key that must not be set
		}
		assert.Contains(t, string(content), name+":", r.key)
	}
}

func TestBadFiles(t *testing.T) {
	t.Chdir(repositoryRoot)
	for _, path := range yamlFiles(t, "testdata/config/bad/*.yaml", 14) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			var want []string
			for line := range strings.Lines(string(content)) {
				expect, ok := strings.CutPrefix(line, "# expect: ")
				if !ok {
					break
				}
				want = append(want, strings.TrimSpace(expect))
			}
			require.NotEmpty(t, want, "a bad file begins with # expect: <part of the error>")

			c, loadErr := load(path)
			err = errors.Join(CheckFile(path), loadErr)
			if loadErr == nil {
				err = errors.Join(err, c.Validate())
			}
			for _, w := range want {
				assert.ErrorContains(t, err, w)
			}
			if err != nil {
				assert.NotContains(t, err.Error(), "hunter2", "a credential must not reach the log")
			}
		})
	}
}

// What flytestdlib does with a reload is why the plugin keeps its own last valid value; the reference tells operators.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(body string) {
		require.NoError(t, os.WriteFile(path, []byte("plugins:\n  backend:\n"+body), 0o600))
	}
	// Before the accessor is made: it looks for the file then, and only then.
	write("    discoveryInterval: 20s\n    routes: [{taskType: a, deployment: big}]\n    deployments: {Big: {endpoint: \"a:1\"}}\n")
	updates := 0
	root := stdconfig.NewRootSection()
	s := root.MustRegisterSection("plugins", &pluginsconfig.Config{}).
		MustRegisterSectionWithUpdates(SectionKey, Default(), func(context.Context, stdconfig.Config) { updates++ })
	accessor := viper.NewAccessor(stdconfig.Options{SearchPaths: []string{path}, RootSection: root})
	reload := func() (*Config, error) {
		err := refresh(accessor, root)
		return s.GetConfig().(*Config), err
	}

	_, err := reload()
	require.NoError(t, err)
	require.Equal(t, 1, updates)

	write("    acceptNewTasks: false\n")
	c, err := reload()
	require.NoError(t, err)
	assert.Equal(t, 20*time.Second, c.DiscoveryInterval.Duration, "a removed key keeps its value")
	assert.Len(t, c.Routes, 1, "so do removed routes")
	assert.Contains(t, c.Deployments, "big")
	assert.Equal(t, 2, updates)

	write("    routes: []\n    deployments: {other: {endpoint: \"b:1\"}}\n")
	c, err = reload()
	require.NoError(t, err)
	assert.Empty(t, c.Routes, "an empty list removes them")
	assert.Len(t, c.Deployments, 1, "a deployment that is left out of a map that is there is gone")
	assert.Equal(t, 3, updates)

	write("    discoveryInterval: 10 parsecs\n")
	_, err = reload()
	assert.Error(t, err)
	assert.Equal(t, 3, updates, "what cannot be decoded never reaches the handler")
}

func TestSectionIsRegistered(t *testing.T) {
	before := Get()
	require.NotNil(t, before)
	t.Cleanup(func() {
		OnUpdate(nil)
		require.NoError(t, Set(t.Context(), before))
	})

	var told *Config
	OnUpdate(func(_ context.Context, cfg *Config) { told = cfg })
	c := Default()
	c.Enabled = true
	require.NoError(t, Set(t.Context(), c))
	assert.Same(t, c, told)
	assert.True(t, Get().Enabled)

	told = nil
	onUpdate(t.Context(), "not a config")
	assert.Nil(t, told)
	OnUpdate(nil)
	onUpdate(t.Context(), c)
	assert.Nil(t, told)
}

func TestFallbacks(t *testing.T) {
	d := &Deployment{}
	assert.Equal(t, 10*time.Second, d.Timeout(CallGet), "a deployment that says nothing")
	assert.Equal(t, 16<<20, d.MaxMessageSize())
	assert.Equal(t, time.Hour, Default().ExecuteTimeout(d), "an execution is not a call of seconds")

	d.DefaultTimeout = duration(time.Second)
	d.Timeouts = map[string]stdconfig.Duration{"Create": duration(2 * time.Second), "execute": duration(3 * time.Second)}
	d.MaxMessageSizeBytes = 1 << 20
	assert.Equal(t, time.Second, d.Timeout(CallGet))
	assert.Equal(t, 2*time.Second, d.Timeout(CallCreate), "names of calls have no case")
	assert.Equal(t, 3*time.Second, Default().ExecuteTimeout(d))
	assert.Equal(t, 1<<20, d.MaxMessageSize())

	_, ok := (&Config{Deployments: map[string]*Deployment{"a": nil}}).Deployment("a")
	assert.False(t, ok, "a deployment without a value is none")
}

package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheckYAML(t *testing.T) {
	t.Parallel()
	const head = "plugins:\n  backend:\n"
	tests := []struct {
		reason string
		yaml   string
		want   []string // the beginning of each line
	}{
		{"an empty file", "", nil},
		{"a comment only", "# nothing\n", nil},
		{"a file that is no mapping", "- plugins\n", nil},
		{"our section is absent", "plugins:\n  k8s: {}\n", nil},
		{"others' keys are their own matter", "Other: {A: 1, a: 2}\nother: 1\nplugins:\n  k8s: {A: 1, a: 2}\n", nil},
		{"distinct names", head + "    deployments:\n      a: {endpoint: x}\n      b: {endpoint: x}\n", nil},
		{"map form", head + "    deployments:\n      Big: {endpoint: x}\n      big: {endpoint: x}\n",
			[]string{"plugins.backend.deployments.Big (line 4) and plugins.backend.deployments.big (line 5) differ only in case, and flytestdlib lower-cases keys"}},
		{"list form", head + "    deployments:\n      - Big: {endpoint: x}\n        other: {endpoint: x}\n      - big: {endpoint: x}\n",
			[]string{"plugins.backend.deployments.Big (line 4) and plugins.backend.deployments.big (line 6) differ only in case"}},
		{"list form: the last of two equals would win without a word", head + "    deployments:\n      - big: {endpoint: x}\n      - big: {endpoint: y}\n      - text\n",
			[]string{"plugins.backend.deployments.big (line 4) and plugins.backend.deployments.big (line 5) are the same key"}},
		{"three of them", head + "    deployments: {BIG: {endpoint: x}, Big: {endpoint: x}, big: {endpoint: x}}\n",
			[]string{"plugins.backend.deployments.BIG (line 3) and plugins.backend.deployments.Big (line 3)", "plugins.backend.deployments.BIG (line 3) and plugins.backend.deployments.big (line 3)"}},
		{"the way to the section has no case either", "Plugins:\n  Backend:\n    Deployments:\n      Big: {endpoint: x}\n      big: {endpoint: x}\n",
			[]string{"plugins.backend.deployments.Big (line 4) and plugins.backend.deployments.big (line 5) differ only in case"}},
		{"of two sections one is lost, with its deployments", "plugins:\n  backend: {acceptNewTasks: true}\nPlugins:\n  k8s: {}\n",
			[]string{"plugins (line 1) and Plugins (line 3) differ only in case"}},
		{"of two backends too", "plugins:\n  backend: {acceptNewTasks: true}\n  Backend: {acceptNewTasks: false}\n",
			[]string{"plugins.backend (line 2) and plugins.Backend (line 3) differ only in case"}},
		{"so is one of two keys of a deployment", head + "    deployments:\n      big: {endpoint: x, Endpoint: y}\n",
			[]string{"plugins.backend.deployments.big.endpoint (line 4) and plugins.backend.deployments.big.Endpoint (line 4)"}},
		{"of a route", head + "    routes:\n      - {taskType: x}\n      - {taskType: x, tasktype: y}\n",
			[]string{"plugins.backend.routes[1].taskType (line 5) and plugins.backend.routes[1].tasktype (line 5)"}},
		{"of time-outs and quotas in list form", head + "    deployments:\n      big:\n        endpoint: x\n        timeouts: [{get: 1s}, {Get: 2s}]\n    webApi:\n      resourceQuotas: [{a: 1}, {A: 2}]\n",
			[]string{"plugins.backend.deployments.big.timeouts.get (line 6)", "plugins.backend.webapi.resourcequotas.a (line 8)"}},
		{"an alias to one value is no conflict", "x: &x {endpoint: x}\n" + head + "    deployments: {a: *x, b: *x}\n", nil},
		{"what a merge brings in counts", "x: &x {Big: {endpoint: x}}\n" + head + "    deployments:\n      <<: *x\n      big: {endpoint: x}\n",
			[]string{"plugins.backend.deployments.big (line 6) and plugins.backend.deployments.Big (line 1)"}},
		{"a merged key may be overridden, as YAML has it", "x: &x {big: {endpoint: x}}\ny: &y {big: {endpoint: z}, c: {endpoint: x}}\n" + head + "    deployments:\n      <<: [*x, *y]\n      big: {endpoint: x}\n", nil},
		{"a deployment that says nothing is lost", head + "    deployments:\n      a:\n      b: {}\n      c: {tls: {caFile: }}\n      d: {endpoint: x}\n",
			[]string{
				"plugins.backend.deployments.a (line 4): says nothing",
				"plugins.backend.deployments.b (line 5): says nothing",
				"plugins.backend.deployments.c (line 6): says nothing",
			}},
		{"a circle of aliases ends", head + "    deployments: &d\n      big: *d\n", nil},
		{"broken YAML is refused here as it is there", "plugins: [\n", []string{"cannot parse YAML: "}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			assertLines(t, tt.want, CheckYAML([]byte(tt.yaml)))
		})
	}
}

func TestCheckFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	assert.ErrorIs(t, CheckFile(path), os.ErrNotExist)

	require.NoError(t, os.WriteFile(path, []byte("plugins: {backend: {deployments: {a: {endpoint: x}}}}"), 0o600))
	assert.NoError(t, CheckFile(path))

	require.NoError(t, os.WriteFile(path, []byte("plugins: {backend: {deployments: {a: {endpoint: x}, A: {endpoint: x}}}}"), 0o600))
	assert.ErrorContains(t, CheckFile(path), "config file "+path+": plugins.backend.deployments.a (line 1)")
}

func TestConfigFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"config.yaml", "a.yaml", "b.yaml", "c.yml", "a,b.yaml"} {
		require.NoError(t, os.WriteFile(name, nil, 0o600))
	}
	tests := []struct {
		reason string
		args   []string
		want   []string
	}{
		{"nothing said: the usual places", []string{"flytepropeller"}, []string{"config.yaml"}},
		{"two words", []string{"flytepropeller", "--config", "a.yaml"}, []string{"a.yaml"}},
		{"one word", []string{"flytepropeller", "--config=a.yaml", "--v", "2"}, []string{"a.yaml"}},
		{"without the program's name", []string{"--config=a.yaml"}, []string{"a.yaml"}},
		{"a string flag keeps its last value", []string{"--config=a.yaml", "--config", "b.yaml"}, []string{"b.yaml"}},
		{"a pattern, as Flyte's Helm charts write it", []string{"--config", "[ab].yaml"}, []string{"a.yaml", "b.yaml"}},
		{"a comma is part of the name", []string{"--config", "a,b.yaml"}, []string{"a,b.yaml"}},
		{"a path that matches nothing falls back, as in flytestdlib", []string{"--config", "nowhere.yaml"}, []string{"config.yaml"}},
		{"config validate", []string{"flytepropeller", "config", "validate", "--strict", "--file", "a.yaml", "--file=c.yml"}, []string{"a.yaml", "c.yml"}},
		{"propeller loads --config before the command loads --file", []string{"--config", "a.yaml", "config", "validate", "--file", "b.yaml", "--file", "a.yaml"}, []string{"a.yaml", "b.yaml"}},
		{"a flag that only begins alike", []string{"--configs=a.yaml", "--config.x", "b.yaml"}, []string{"config.yaml"}},
		{"a flag without its value, which propeller refuses", []string{"--config"}, []string{"config.yaml"}},
		{"after -- there are no flags", []string{"--", "--config", "a.yaml"}, []string{"config.yaml"}},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			assert.Equal(t, tt.want, ConfigFiles(tt.args))
		})
	}
}

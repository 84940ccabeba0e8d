package bundle_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/engine/bundle"
	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

func load(t *testing.T, module string, opts bundle.Options) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Read(module, workflows.Archive(module), opts)
	require.NoError(t, err)
	return b
}

// refused are the workflows that do not compile, and what is said of them: one refers to elsewhere, and the compiler of
// propeller v1.16.8 does not know that flytekit can map over a launch plan.
var refused = map[string]string{
	"launchplans.of_missing": `launch plan "elsewhere.child"`,
	"launchplans.mapped":     "MismatchingTypes",
	"sql.mapped":             "MismatchingTypes",
}

// TestEveryPackageCompiles: all that flytekit serialises into the packages.
func TestEveryPackageCompiles(t *testing.T) {
	for _, module := range workflows.Modules() {
		b := load(t, module, bundle.Options{})
		require.NotEmpty(t, b.Workflows(), module)
		for _, name := range b.Workflows() {
			closure, err := b.Compile(name, nil)
			if says, ok := refused[name]; ok {
				require.ErrorContains(t, err, says)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, name, closure.GetPrimary().GetTemplate().GetId().GetName())
		}
	}
}

// TestForms: the archive, a plain tar file, a folder and a compiled workflow are the same thing.
func TestForms(t *testing.T) {
	dir := t.TempDir()
	archive := workflows.Archive("chains")
	z, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	tarred, err := io.ReadAll(z)
	require.NoError(t, err)
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.CopyFS(folder, workflows.Folder()))
	tgz, tar := filepath.Join(dir, "chains.tgz"), filepath.Join(dir, "chains.tar")
	require.NoError(t, os.WriteFile(tgz, archive, 0o600))
	require.NoError(t, os.WriteFile(tar, tarred, 0o600))

	var first *core.CompiledWorkflowClosure
	for _, name := range []string{tgz, tar, folder} {
		b, err := bundle.Load(name, bundle.Options{})
		require.NoError(t, err, name)
		closure, err := b.Compile("chains.chain", nil)
		require.NoError(t, err, name)
		if first == nil {
			first = closure
		}
		require.True(t, proto.Equal(first, closure), name)
	}

	data, err := proto.Marshal(first)
	require.NoError(t, err)
	compiled := filepath.Join(dir, "chain.pb")
	require.NoError(t, os.WriteFile(compiled, data, 0o600))
	b, err := bundle.Load(compiled, bundle.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"chains.chain"}, b.Workflows())
	l, err := b.Find("chain", nil)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, l.Closure))
	require.True(t, l.Plan.GetClosure().GetExpectedInputs().GetParameters()["x"].GetRequired(), "a compiled workflow has no defaults")
}

// TestIdentifiers: what flytekit leaves open is filled in everywhere, as registration does.
func TestIdentifiers(t *testing.T) {
	b := load(t, "launchplans", bundle.Options{Project: "p", Domain: "d", Version: "v7"})
	require.Equal(t, "p d v7", b.Project()+" "+b.Domain()+" "+b.Version())
	l, err := b.Find("launchplans.parent", nil)
	require.NoError(t, err)
	var child *core.Identifier
	for _, n := range l.Closure.GetPrimary().GetTemplate().GetNodes() {
		if id := n.GetWorkflowNode().GetLaunchplanRef(); id != nil {
			child = id
		}
	}
	require.Equal(t, "p/d/launchplans.plain/v7", child.GetProject()+"/"+child.GetDomain()+"/"+child.GetName()+"/"+child.GetVersion())
	for _, task := range l.Closure.GetTasks() {
		require.Equal(t, "v7", task.GetTemplate().GetId().GetVersion())
	}
	chains, again, maps := load(t, "chains", bundle.Options{}), load(t, "chains", bundle.Options{}), load(t, "maps", bundle.Options{})
	require.Equal(t, chains.Version(), again.Version(), "the same content, the same version")
	require.NotEqual(t, chains.Version(), maps.Version())
}

// TestLaunchPlans: interfaces are what flyteadmin would say of them.
func TestLaunchPlans(t *testing.T) {
	plans := load(t, "launchplans", bundle.Options{}).LaunchPlans()
	expected := func(name string) map[string]*core.Parameter {
		return plans[name].GetClosure().GetExpectedInputs().GetParameters()
	}
	require.True(t, expected("launchplans.plain")["x"].GetRequired())
	require.NotNil(t, expected("launchplans.with_default")["x"].GetDefault())
	require.NotContains(t, expected("launchplans.with_fixed"), "y")
	require.Contains(t, plans["launchplans.plain"].GetClosure().GetExpectedOutputs().GetVariables(), "o0")
}

// TestFromElsewhere: a launch plan that the package does not hold may be known otherwise.
func TestFromElsewhere(t *testing.T) {
	b := load(t, "launchplans", bundle.Options{})
	_, err := b.Find("of_missing", nil)
	require.ErrorContains(t, err, `launch plan "elsewhere.child", version "v9"`)
	variables := func(name string) *core.VariableMap {
		return &core.VariableMap{Variables: map[string]*core.Variable{name: {Type: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: core.SimpleType_INTEGER}}}}}
	}
	_, err = b.Find("of_missing", func(id *core.Identifier) *admin.LaunchPlan {
		return &admin.LaunchPlan{Id: id, Closure: &admin.LaunchPlanClosure{
			ExpectedInputs:  &core.ParameterMap{Parameters: map[string]*core.Parameter{"x": {Var: variables("x").GetVariables()["x"], Behavior: &core.Parameter_Required{Required: true}}}},
			ExpectedOutputs: variables("o0"),
		}}
	})
	require.NoError(t, err)
}

func TestNames(t *testing.T) {
	b := load(t, "launchplans", bundle.Options{})
	for name, full := range map[string]string{"launchplans.parent": "launchplans.parent", "parent": "launchplans.parent", "with_fixed": "launchplans.with_fixed"} {
		l, err := b.Find(name, nil)
		require.NoError(t, err)
		require.Equal(t, full, l.Plan.GetId().GetName())
	}
	_, err := b.Find("arent", nil)
	require.ErrorIs(t, err, bundle.ErrNotFound)
}

// TestBadPackages: what is no package is called so.
func TestBadPackages(t *testing.T) {
	dir := t.TempDir()
	whole := workflows.Archive("chains")
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o750))
	odd := filepath.Join(dir, "odd")
	require.NoError(t, os.CopyFS(odd, workflows.Folder()))
	names, err := fs.Glob(workflows.Folder(), "*_2.pb")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(odd, names[0]), []byte("no protobuf"), 0o600))
	for _, tc := range []struct {
		reason string
		name   string
		data   []byte
		says   string
	}{
		{"nothing there", "nope.tgz", nil, "no such file"},
		{"a folder without a package", "empty", nil, "holds no workflow"},
		{"a file that is no entity", "odd", nil, "is no flyteidl.admin.WorkflowSpec"},
		{"an archive that is cut", "cut.tgz", whole[:len(whole)/2], "it may be cut"},
		{"a file of another kind", "code.py", []byte("print('hello')"), "is no workflow package"},
		{"an empty file", "none.pb", []byte{}, "is no workflow package"},
	} {
		path := filepath.Join(dir, tc.name)
		if tc.data != nil {
			require.NoError(t, os.WriteFile(path, tc.data, 0o600))
		}
		_, err := bundle.Load(path, bundle.Options{})
		require.ErrorContains(t, err, tc.says, tc.reason)
	}
}

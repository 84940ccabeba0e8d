package workflows_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/testdata/workflows"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// want names the workflows of each module, each of which has a launch plan of the same name, and its other launch plans.
var want = map[string]struct{ workflows, launchPlans string }{
	"caching":      {"failing ignored_input once serialized twice", ""},
	"chains":       {"chain deep diamond from_nothing joined one progress silent slow_chain types wide", ""},
	"conditionals": {"branch chain nested of_workflows or_fail three truth", ""},
	"demo":         {"elements", ""},
	"dynamics":     {"children failing_function failing_job jobs mapped nested silent sub subworkflows", "of_sub"},
	"eagers":       {"twice", ""},
	"failures":     {"fail_at_once finish_others outer tidy_up twice unneeded with_error with_task with_workflow", ""},
	"gates":        {"approval approval_soon both nap number", ""},
	"imperatives":  {"built", ""},
	"inputs": {
		"constants default_nested default_simple none passed_through required_files required_nested required_simple rich_outputs some_defaults", "",
	},
	"launchplans": {
		"child defaults endless_child endless_parent failing_child failing_parent grandparent mapped of_missing parent single",
		"nightly of_endless of_failing of_parent of_single one_at_a_time plain with_default with_fixed",
	},
	"maps": {
		"all_or_nothing bound endless from_cache half inside nothing plain retried retried_by_metadata strings summed twice two_at_a_time two_lists types", "",
	},
	"pythons":      {"context failing file mapped mapped_half mixed plain retried too_slow", ""},
	"retries":      {"exhausted fails_on_3 long_running overridden permanent recovers system timed_out timed_out_twice two_long_running", ""},
	"sql":          {"chain failing mapped symbol_of table", "symbol_of_one"},
	"squares":      {"squares", ""},
	"subworkflows": {"failing_inner failing_parent grandparent inner parent", ""},
	"unserved":     {"echoed nobody", ""},
}

// unpack gives an archive's files by name.
func unpack(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	require.NoError(t, err)
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		files[h.Name], err = io.ReadAll(r)
		require.NoError(t, err)
	}
}

// read parses a file as what its name says it is, and gives its id.
func read(t *testing.T, name string, raw []byte) (proto.Message, *core.Identifier) {
	t.Helper()
	var (
		message proto.Message
		id      func() *core.Identifier
	)
	switch name[max(0, len(name)-5):] {
	case "_1.pb":
		m := &admin.TaskSpec{}
		message, id = m, func() *core.Identifier { return m.GetTemplate().GetId() }
	case "_2.pb":
		m := &admin.WorkflowSpec{}
		message, id = m, func() *core.Identifier { return m.GetTemplate().GetId() }
	case "_3.pb":
		m := &admin.LaunchPlan{}
		message, id = m, m.GetId
	default:
		t.Fatalf("file %s is of no known kind", name)
	}
	require.NoError(t, proto.Unmarshal(raw, message), name)
	assert.Empty(t, message.ProtoReflect().GetUnknown(), "%s: fields of another message", name)
	assert.Contains(t, name, "_"+id().GetName()+"_", "the file is named after what is in it")
	return message, id()
}

func TestArchives(t *testing.T) {
	t.Parallel()
	assert.Equal(t, slices.Sorted(maps.Keys(want)), workflows.Modules())
	for _, module := range workflows.Modules() {
		t.Run(module, func(t *testing.T) {
			t.Parallel()
			var names, plans []string
			for name, raw := range unpack(t, workflows.Archive(module)) {
				message, id := read(t, name, raw)
				switch message.(type) {
				case *admin.WorkflowSpec:
					names = append(names, strings.TrimPrefix(id.GetName(), module+"."))
				case *admin.LaunchPlan:
					plans = append(plans, strings.TrimPrefix(id.GetName(), module+"."))
				}
			}
			slices.Sort(names)
			slices.Sort(plans)
			wantPlans := append(strings.Fields(want[module].workflows), strings.Fields(want[module].launchPlans)...)
			slices.Sort(wantPlans)
			assert.Equal(t, strings.Fields(want[module].workflows), names)
			assert.Equal(t, wantPlans, plans)
		})
	}
}

func TestFolderIsThePackageOfChains(t *testing.T) {
	t.Parallel()
	archive, seen := unpack(t, workflows.Archive("chains")), 0
	require.NoError(t, fs.WalkDir(workflows.Folder(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(workflows.Folder(), name)
		assert.Equal(t, archive[name], raw, name)
		seen++
		return err
	}))
	assert.Len(t, archive, seen)
}

func TestUnknownModule(t *testing.T) {
	t.Parallel()
	assert.PanicsWithValue(t, `no package of module "nothing"; there is `+strings.Join(workflows.Modules(), ", "), func() { workflows.Archive("nothing") })
}

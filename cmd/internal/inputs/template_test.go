package inputs

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// TestReadPackages: of every file that pyflyte packs, a task's is a template, and a workflow's or launch plan's is none.
func TestReadPackages(t *testing.T) {
	t.Parallel()
	packages, err := filepath.Glob(filepath.Join("..", "..", "..", "testdata", "workflows", "*.tgz"))
	require.NoError(t, err)
	require.NotEmpty(t, packages)
	dir, tasks, others := t.TempDir(), 0, 0
	for _, name := range packages {
		f, err := os.Open(name)
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		z, err := gzip.NewReader(f)
		require.NoError(t, err)
		for r := tar.NewReader(z); ; {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			kind := strings.TrimSuffix(header.Name[strings.LastIndex(header.Name, "_")+1:], ".pb") // as flytekit names its files
			raw, err := io.ReadAll(r)
			require.NoError(t, err)
			file := filepath.Join(dir, "entry.pb")
			require.NoError(t, os.WriteFile(file, raw, 0o600))
			got, err := ReadTemplate(file)
			if kind != "1" {
				others++
				require.ErrorContains(t, err, "is no TaskTemplate", "%s of %s", header.Name, name)
				continue
			}
			tasks++
			require.NoError(t, err, "%s of %s", header.Name, name)
			var spec admin.TaskSpec
			require.NoError(t, proto.Unmarshal(raw, &spec))
			require.True(t, proto.Equal(spec.GetTemplate(), got))
		}
	}
	require.NotZero(t, tasks)
	require.NotZero(t, others)
}

// TestReadForms: one template in each form that it may have.
func TestReadForms(t *testing.T) {
	t.Parallel()
	want := &core.TaskTemplate{Id: &core.Identifier{ResourceType: core.ResourceType_TASK, Name: "t"}, Type: "job"}
	for form, m := range map[string]proto.Message{"a template": want, "a spec": &admin.TaskSpec{Template: want}, "a spec with a description": &admin.TaskSpec{
		Template: want, Description: &admin.DescriptionEntity{ShortDescription: "adds up"},
	}} {
		binary, err := proto.Marshal(m)
		require.NoError(t, err)
		text, err := protojson.Marshal(m)
		require.NoError(t, err)
		for kind, raw := range map[string][]byte{"binary": binary, "JSON": text} {
			file := filepath.Join(t.TempDir(), "template")
			require.NoError(t, os.WriteFile(file, raw, 0o600))
			got, err := ReadTemplate(file)
			require.NoError(t, err, "%s in %s", form, kind)
			require.True(t, proto.Equal(want, got), "%s in %s", form, kind)
		}
	}
}

package datastore_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/datastore"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flytestdlib/contextutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils"
	"github.com/flyteorg/flyte/flytestdlib/promutils/labeled"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

func TestMain(m *testing.M) {
	labeled.SetMetricKeys(contextutils.ProjectKey)
	m.Run()
}

// stores gives both kinds, fresh; where is the folder of the second.
func stores(t *testing.T) (all map[string]*storage.DataStore, where string) {
	t.Helper()
	dir := t.TempDir()
	f, err := datastore.Folder(dir, promutils.NewTestScope())
	require.NoError(t, err)
	return map[string]*storage.DataStore{"memory": datastore.Memory(promutils.NewTestScope()), "folder": f}, dir
}

func TestBlobs(t *testing.T) {
	all, dir := stores(t)
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			ref, err := s.ConstructReference(ctx, s.GetBaseContainerFQN(ctx), "a", "b c", "d.txt")
			require.NoError(t, err)
			require.Equal(t, s.GetBaseContainerFQN(ctx)+"/a/b c/d.txt", ref, "flytekit takes the text for the path")
			scheme, container, key, err := ref.Split()
			require.NoError(t, err)
			require.NotEmpty(t, scheme+container, "propeller's container plugin parses references")
			require.NotEmpty(t, key)

			head, err := s.Head(ctx, ref)
			require.NoError(t, err)
			require.False(t, head.Exists())
			_, err = s.ReadRaw(ctx, ref)
			require.True(t, storage.IsNotFound(err), "%v", err)
			require.True(t, storage.IsNotFound(s.Delete(ctx, ref)))

			require.NoError(t, s.WriteRaw(ctx, ref, 0, storage.Options{}, strings.NewReader("first")))
			require.NoError(t, s.WriteRaw(ctx, ref, 0, storage.Options{}, strings.NewReader("second")))
			require.Equal(t, "second", read(t, s, ref))
			head, err = s.Head(ctx, ref)
			require.NoError(t, err)
			require.True(t, head.Exists())
			require.Equal(t, int64(6), head.Size())

			other := s.GetBaseContainerFQN(ctx) + "/a/copy"
			require.NoError(t, s.CopyRaw(ctx, ref, other, storage.Options{}))
			require.Equal(t, "second", read(t, s, other))
			require.Error(t, s.CopyRaw(ctx, s.GetBaseContainerFQN(ctx)+"/gone", other, storage.Options{}))

			list, cursor, err := s.List(ctx, s.GetBaseContainerFQN(ctx)+"/a", 10, storage.NewCursorAtStart())
			require.NoError(t, err)
			require.True(t, storage.IsCursorEnd(cursor))
			require.Equal(t, []storage.DataReference{ref, other}, list)

			literals := &core.LiteralMap{Literals: map[string]*core.Literal{"x": {}}}
			require.NoError(t, s.WriteProtobuf(ctx, ref, storage.Options{}, literals))
			got := &core.LiteralMap{}
			require.NoError(t, s.ReadProtobuf(ctx, ref, got))
			require.Len(t, got.GetLiterals(), 1)

			require.NoError(t, s.Delete(ctx, ref))
			head, err = s.Head(ctx, ref)
			require.NoError(t, err)
			require.False(t, head.Exists())
			_, err = s.CreateSignedURL(ctx, ref, storage.SignedURLProperties{})
			require.ErrorContains(t, err, "signs no URLs")
		})
	}
	left, err := filepath.Glob(filepath.Join(dir, "a", "b c", ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "nothing half-written is left")
}

func read(t *testing.T, s *storage.DataStore, ref storage.DataReference) string {
	t.Helper()
	r, err := s.ReadRaw(t.Context(), ref)
	require.NoError(t, err)
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return string(data)
}

// TestForeignReferences: a folder's store reads files from anywhere, and changes none elsewhere.
func TestForeignReferences(t *testing.T) {
	all, dir := stores(t)
	s, ctx := all["folder"], t.Context()
	outside := filepath.Join(t.TempDir(), "theirs")
	require.NoError(t, os.WriteFile(outside, []byte("theirs"), 0o600))
	require.Equal(t, "theirs", read(t, s, storage.DataReference("file://"+outside)))
	require.Equal(t, "theirs", read(t, s, storage.DataReference(outside)), "flytekit writes plain paths")
	for _, tc := range []struct{ reason, ref, says string }{
		{"another folder", "file://" + outside, "outside the data store"},
		{"out of the folder by ..", "file://" + dir + "/../theirs", "outside the data store"},
		{"a folder whose name begins the same", "file://" + dir + "-2/x", "outside the data store"},
		{"another kind of store", "s3://bucket/key", "is not of this data store"},
		{"a host", "file://host/key", "is not of this data store"},
		{"no URL", "key", "is not of this data store"},
	} {
		ref := storage.DataReference(tc.ref)
		require.ErrorContains(t, s.WriteRaw(ctx, ref, 0, storage.Options{}, strings.NewReader("x")), tc.says, tc.reason)
		require.ErrorContains(t, s.Delete(ctx, ref), tc.says, tc.reason)
	}
	require.Equal(t, "theirs", read(t, s, storage.DataReference(outside)))
	for _, odd := range []string{"100%", "what?", "c#"} {
		path := filepath.Join(dir, odd)
		require.NoError(t, os.Mkdir(path, 0o750))
		_, err := datastore.Folder(path, promutils.NewTestScope())
		require.ErrorContains(t, err, "which the URLs of its files cannot have")
	}
	_, err := datastore.Folder(filepath.Join(dir, "nope"), promutils.NewTestScope())
	require.ErrorContains(t, err, "it is not a folder")
}

// TestWholeOrNotAtAll: who reads while others write sees one of the contents.
func TestWholeOrNotAtAll(t *testing.T) {
	all, _ := stores(t)
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			ref := s.GetBaseContainerFQN(t.Context()) + "/blob"
			write := func(b byte) error {
				return s.WriteRaw(t.Context(), ref, 0, storage.Options{}, bytes.NewReader(bytes.Repeat([]byte{b}, 1<<16)))
			}
			require.NoError(t, write('0'))
			var wg sync.WaitGroup
			for _, b := range []byte("1234") {
				wg.Go(func() {
					for range 50 {
						if err := write(b); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for range 200 {
				got := read(t, s, ref)
				require.Len(t, got, 1<<16)
				require.Equal(t, strings.Repeat(got[:1], 1<<16), got)
			}
			wg.Wait()
		})
	}
}

// Package datastore is the blob store of an engine on one machine: in memory, or in a folder. It takes the place of S3 and
// its kind behind flytestdlib's own interface, and differs from flytestdlib's stores of kind mem and local in what the
// engine needs: references have a container, so that propeller's container plugin can parse them; file references are
// plain file URLs, which flytekit reads and writes too; copies work; and a file is there whole or not at all.
package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/flyteorg/flyte/flytestdlib/promutils"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// memoryBase is the container of every reference to a store in memory.
const memoryBase = "mem://engine"

// Memory makes a store that is gone with the process. Metrics are registered below scope.
func Memory(scope promutils.Scope) *storage.DataStore {
	return compose(&memory{blobs: map[storage.DataReference][]byte{}}, scope)
}

// Folder makes a store below dir, which must exist. References are file URLs of absolute paths; the store reads any, and
// writes and deletes below dir only.
//
// Propeller parses references as URLs, and flytekit takes the text behind file:// for the path, so a name that a URL would
// write in another way cannot be both, except for blanks and letters beyond ASCII, which propeller takes as they are.
func Folder(dir string, scope promutils.Scope) (*storage.DataStore, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use folder %s as data store: %w", dir, err)
	}
	if i := strings.IndexAny(abs, "%?#"); i >= 0 {
		return nil, fmt.Errorf("cannot use %s as data store: its path has a %q, which the URLs of its files cannot have", abs, abs[i])
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("cannot use %s as data store: it is not a folder", abs)
	}
	return compose(folder{root: abs}, scope), nil
}

func compose(raw storage.RawStore, scope promutils.Scope) *storage.DataStore {
	return storage.NewCompositeDataStore(paths{}, storage.NewDefaultProtobufStore(raw, scope))
}

// paths joins references as text. flytestdlib's own constructor escapes them, and flytekit does not take that back.
type paths struct{}

var _ storage.ReferenceConstructor = paths{}

func (paths) ConstructReference(_ context.Context, ref storage.DataReference, nested ...string) (storage.DataReference, error) {
	out := strings.TrimRight(string(ref), "/")
	for _, n := range nested {
		if n = strings.Trim(n, "/"); n != "" {
			out += "/" + n
		}
	}
	return storage.DataReference(out), nil
}

var errUnsigned = errors.New("this data store signs no URLs: it is local to one machine")

// meta is what a store knows of a blob.
type meta struct {
	exists bool
	size   int64
}

func (m meta) Exists() bool     { return m.exists }
func (m meta) Size() int64      { return m.size }
func (meta) Etag() string       { return "" }
func (meta) ContentMD5() string { return "" }

// memory keeps blobs in a map. Its methods may be called at once.
type memory struct {
	mu    sync.RWMutex
	blobs map[storage.DataReference][]byte
}

var _ storage.RawStore = (*memory)(nil)

func (*memory) GetBaseContainerFQN(context.Context) storage.DataReference { return memoryBase }

func (*memory) CreateSignedURL(context.Context, storage.DataReference, storage.SignedURLProperties) (storage.SignedURLResponse, error) {
	return storage.SignedURLResponse{}, errUnsigned
}

func (s *memory) Head(_ context.Context, ref storage.DataReference) (storage.Metadata, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[ref]
	return meta{exists: ok, size: int64(len(b))}, nil
}

func (s *memory) List(_ context.Context, ref storage.DataReference, _ int, _ storage.Cursor) ([]storage.DataReference, storage.Cursor, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []storage.DataReference
	for r := range s.blobs {
		if strings.HasPrefix(string(r), strings.TrimSuffix(string(ref), "/")+"/") {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	return out, storage.NewCursorAtEnd(), nil
}

func (s *memory) ReadRaw(_ context.Context, ref storage.DataReference) (io.ReadCloser, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[ref]
	if !ok {
		return nil, os.ErrNotExist // the very value: flytestdlib's IsNotFound looks for it
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *memory) WriteRaw(_ context.Context, ref storage.DataReference, _ int64, _ storage.Options, raw io.Reader) error {
	b, err := io.ReadAll(raw)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[ref] = b
	return nil
}

func (s *memory) CopyRaw(ctx context.Context, from, to storage.DataReference, opts storage.Options) error {
	return copyRaw(ctx, s, from, to, opts)
}

func (s *memory) Delete(_ context.Context, ref storage.DataReference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[ref]; !ok {
		return os.ErrNotExist
	}
	delete(s.blobs, ref)
	return nil
}

func copyRaw(ctx context.Context, s storage.RawStore, from, to storage.DataReference, opts storage.Options) error {
	r, err := s.ReadRaw(ctx, from)
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", from, err)
	}
	err = s.WriteRaw(ctx, to, 0, opts, r)
	return errors.Join(err, r.Close())
}

// folder keeps blobs as files. Its methods may be called at once, by several processes.
type folder struct{ root string }

var _ storage.RawStore = folder{}

func (s folder) GetBaseContainerFQN(context.Context) storage.DataReference {
	return storage.DataReference("file://" + s.root)
}

func (folder) CreateSignedURL(context.Context, storage.DataReference, storage.SignedURLProperties) (storage.SignedURLResponse, error) {
	return storage.SignedURLResponse{}, errUnsigned
}

// pathOf gives the file of a reference: a file URL, or an absolute path, which flytekit writes for local files.
func pathOf(ref storage.DataReference) (string, error) {
	text := string(ref)
	if filepath.IsAbs(text) {
		return filepath.Clean(text), nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "file" || u.Host != "" || u.Path == "" {
		return "", fmt.Errorf("reference %q is not of this data store, whose references look like file:///folder/file", text)
	}
	return filepath.Clean(strings.TrimPrefix(text, "file://")), nil
}

// own is pathOf for what is to be changed.
func (s folder) own(ref storage.DataReference) (string, error) {
	path, err := pathOf(ref)
	if err != nil {
		return "", err
	}
	if path != s.root && !strings.HasPrefix(path, s.root+string(filepath.Separator)) {
		return "", fmt.Errorf("reference %q is outside the data store %s, which changes nothing elsewhere", ref, s.root)
	}
	return path, nil
}

func (s folder) Head(_ context.Context, ref storage.DataReference) (storage.Metadata, error) {
	path, err := pathOf(ref)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && info.IsDir():
		return meta{}, nil
	case err != nil:
		return nil, err
	}
	return meta{exists: true, size: info.Size()}, nil
}

func (s folder) List(_ context.Context, ref storage.DataReference, _ int, _ storage.Cursor) ([]storage.DataReference, storage.Cursor, error) {
	path, err := pathOf(ref)
	if err != nil {
		return nil, storage.NewCursorAtEnd(), err
	}
	var out []storage.DataReference
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), partial) {
			out = append(out, storage.DataReference("file://"+p))
		}
		return err
	})
	return out, storage.NewCursorAtEnd(), notExist(err)
}

// notExist gives the very value that flytestdlib's IsNotFound looks for.
func notExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return os.ErrNotExist
	}
	return err
}

func (s folder) ReadRaw(_ context.Context, ref storage.DataReference) (io.ReadCloser, error) {
	path, err := pathOf(ref)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, notExist(err)
	}
	return f, nil
}

// partial begins the names of files that are being written.
const partial = ".partial-"

func (s folder) WriteRaw(_ context.Context, ref storage.DataReference, _ int64, _ storage.Options, raw io.Reader) error {
	path, err := s.own(ref)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("cannot write %s: %w", ref, err)
	}
	f, err := os.CreateTemp(dir, partial)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", ref, err)
	}
	_, err = io.Copy(f, raw)
	err = errors.Join(err, f.Close())
	if err == nil {
		// No fsync: a process that is killed loses nothing by it, and a machine that loses power loses the run.
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", ref, err)
	}
	return nil
}

func (s folder) CopyRaw(ctx context.Context, from, to storage.DataReference, opts storage.Options) error {
	return copyRaw(ctx, s, from, to, opts)
}

func (s folder) Delete(_ context.Context, ref storage.DataReference) error {
	path, err := s.own(ref)
	if err != nil {
		return err
	}
	return notExist(os.Remove(path))
}

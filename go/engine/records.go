package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// records keeps small blobs by kind and key: in memory, and in a folder too if there is one. A record is there whole or not
// at all, also when the process is killed. Its methods may be called at once.
type records struct {
	dir string // empty means memory only

	mu     sync.RWMutex
	m      map[string]map[string][]byte
	closed bool
}

const recordSuffix = ".rec"

// openRecords reads what is below dir.
func openRecords(dir string) (*records, error) {
	r := &records{dir: dir, m: map[string]map[string][]byte{}}
	if dir == "" {
		return r, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	kinds, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		of := filepath.Join(dir, kind.Name())
		err := filepath.WalkDir(of, func(path string, f fs.DirEntry, err error) error {
			name, isRecord := strings.CutSuffix(path, recordSuffix)
			if err != nil || f.IsDir() || !isRecord { // it was being written when its process was killed
				return err
			}
			key, err := keyOfFile(strings.TrimPrefix(name, of))
			if err != nil {
				return fmt.Errorf("%s is not a file of an engine's state: %w", path, err)
			}
			data, err := os.ReadFile(path) //nolint:gosec // nobody else writes below the folder
			if err != nil {
				return err
			}
			r.remember(kind.Name(), key, data)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// longestName bounds a part of a file's name; file systems take 255 bytes. The names of workflows have no limit.
const longestName = 200

// fileName makes a file's name of a key, in a folder if it is long. Capitals are escaped: there are file systems that take
// them for the same as small letters.
func fileName(key string) string {
	const plain = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	var b strings.Builder
	size := 0
	for _, c := range []byte(key) {
		s := string(rune(c))
		if !strings.Contains(plain, s) {
			s = fmt.Sprintf("%%%02X", c)
		}
		if size+len(s) > longestName {
			b.WriteByte(filepath.Separator)
			size = 0
		}
		b.WriteString(s)
		size += len(s)
	}
	return b.String()
}

// keyOfFile takes back fileName.
func keyOfFile(name string) (string, error) {
	return url.PathUnescape(strings.ReplaceAll(name, string(filepath.Separator), ""))
}

func (r *records) remember(kind, key string, data []byte) {
	if r.m[kind] == nil {
		r.m[kind] = map[string][]byte{}
	}
	r.m[kind][key] = data
}

// get gives a record that must not be changed.
func (r *records) get(kind, key string) ([]byte, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	data, ok := r.m[kind][key]
	return data, ok
}

// keys lists a kind's keys, sorted.
func (r *records) keys(kind string) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.m[kind]))
}

// put keeps data, which must not be changed afterwards.
func (r *records) put(kind, key string, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if r.dir != "" {
		if err := replaceFile(filepath.Join(r.dir, kind, fileName(key)+recordSuffix), data); err != nil {
			return fmt.Errorf("cannot keep the engine's state: %w", err)
		}
	}
	r.remember(kind, key, data)
	return nil
}

// close ends writing. What is there can still be read.
func (r *records) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// replaceFile writes beside the file and renames, so that a kill at any moment leaves the old content or the new. A machine that
// loses power may lose both: there is no fsync, which each step of each node would wait for.
func replaceFile(path string, data []byte) error {
	write := func() error {
		f, err := os.CreateTemp(filepath.Dir(path), ".partial-")
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			os.Remove(f.Name())
		}
		return err
	}
	err := write()
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		err = write()
	}
	return err
}

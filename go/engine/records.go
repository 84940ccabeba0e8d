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

	mu sync.RWMutex
	m  map[string]map[string][]byte
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
		files, err := os.ReadDir(filepath.Join(dir, kind.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name, isRecord := strings.CutSuffix(f.Name(), recordSuffix)
			if !isRecord {
				continue // was being written when its process was killed
			}
			key, err := url.PathUnescape(name)
			if err != nil {
				return nil, fmt.Errorf("%s is not a file of an engine's state: %w", f.Name(), err)
			}
			data, err := os.ReadFile(filepath.Join(dir, kind.Name(), f.Name()))
			if err != nil {
				return nil, err
			}
			r.remember(kind.Name(), key, data)
		}
	}
	return r, nil
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
	if r.dir != "" {
		if err := replaceFile(filepath.Join(r.dir, kind, url.PathEscape(key)+recordSuffix), data); err != nil {
			return fmt.Errorf("cannot keep the engine's state: %w", err)
		}
	}
	r.remember(kind, key, data)
	return nil
}

// replaceFile writes beside the file and renames, so that a kill at any moment leaves the old content or the new.
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

package sqlite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// ReadRows reads the columns and the first n rows (all of them when n is negative) of a result that a job wrote. uri
// is what the output literal says: a Parquet file, or a folder of them. Values are nil, int64, float64, string or
// []byte.
func ReadRows(uri string, n int) (columns []string, rows [][]any, err error) {
	path, ok := localPath(uri)
	if !ok {
		return nil, nil, fmt.Errorf("sqlite: read %q: only file:///path and absolute paths can be read", redact(uri))
	}
	files, err := parquetFiles(path)
	if err != nil {
		return nil, nil, fmt.Errorf("sqlite: read the result: %w", err)
	}
	for _, file := range files {
		left := n
		if n >= 0 {
			left = n - len(rows)
		}
		names, more, err := readParquet(file, left)
		if err != nil {
			return nil, nil, fmt.Errorf("sqlite: read %s: %w", file, err)
		}
		columns, rows = names, append(rows, more...)
	}
	return columns, rows, nil
}

// parquetFiles lists what flytekit would read: the file, or everything in the folder that is not hidden.
func parquetFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no file in %s", path)
	}
	return files, nil
}

func readParquet(path string, n int) (columns []string, rows [][]any, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	file, err := parquet.OpenFile(f, info.Size())
	if err != nil {
		return nil, nil, err
	}
	fields := file.Root().Columns()
	for _, c := range fields {
		columns = append(columns, c.Name())
	}
	for _, group := range file.RowGroups() {
		if rows, err = readGroup(group, fields, rows, n); err != nil {
			return nil, nil, err
		}
	}
	return columns, rows, nil
}

func readGroup(group parquet.RowGroup, fields []*parquet.Column, rows [][]any, n int) (_ [][]any, err error) {
	r := group.Rows()
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := make([]parquet.Row, 64)
	for n < 0 || len(rows) < n {
		got, err := r.ReadRows(buf)
		for _, row := range buf[:got] {
			if n >= 0 && len(rows) == n {
				break
			}
			values := make([]any, len(fields))
			for _, v := range row {
				values[v.Column()] = goValue(v, fields[v.Column()])
			}
			rows = append(rows, values)
		}
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func goValue(v parquet.Value, c *parquet.Column) any {
	switch {
	case v.IsNull():
		return nil
	case v.Kind() == parquet.Int64:
		return v.Int64()
	case v.Kind() == parquet.Double:
		return v.Double()
	case c.Type().LogicalType() != nil: // the only logical type we write is the string
		return string(v.ByteArray())
	}
	return append([]byte{}, v.ByteArray()...)
}

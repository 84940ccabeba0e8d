package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// elementsCSV holds the 118 chemical elements: the standard atomic weight (IUPAC, abridged; empty for an element
// that has none, because no isotope is stable enough), the group in the periodic table (empty for lanthanides and
// actinides outside group 3), and the year of discovery as it is usually given (empty when known of old). Some years
// are disputed among chemists; the table takes no side on purpose.
//
//go:embed elements.csv
var elementsCSV []byte

const elementsSchema = `CREATE TABLE elements (
	number        INTEGER PRIMARY KEY,
	symbol        TEXT NOT NULL UNIQUE,
	name          TEXT NOT NULL UNIQUE,
	atomic_weight REAL,
	group_number  INTEGER,
	period        INTEGER NOT NULL,
	discovered    INTEGER
)`

// writeElements writes the embedded database into dir and returns its path. The name holds a hash of the content, so
// a service of another version that shares the folder has a file of its own, and a complete file is never touched.
func writeElements(ctx context.Context, dir string) (path string, err error) {
	sum := sha256.Sum256(append([]byte(elementsSchema), elementsCSV...))
	path = filepath.Join(dir, fmt.Sprintf("elements-%x.sqlite", sum[:6]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp, err := os.MkdirTemp(filepath.Join(dir, "tmp"), "elements-")
	if err != nil {
		return "", fmt.Errorf("sqlite: write the embedded database: %w", err)
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "db")
	if err := fillElements(ctx, file); err != nil {
		return "", fmt.Errorf("sqlite: write the embedded database: %w", err)
	}
	if err := os.Rename(file, path); err != nil {
		return "", fmt.Errorf("sqlite: write the embedded database: %w", err)
	}
	return path, nil
}

func fillElements(ctx context.Context, file string) (err error) {
	records, err := csv.NewReader(bytes.NewReader(elementsCSV)).ReadAll()
	if err != nil {
		return fmt.Errorf("read elements.csv: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(file, nil))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, elementsSchema); err != nil {
		return err
	}
	header := records[0]
	//nolint:gosec // G201: the names are the embedded file's own header, and the values are bound
	insert := fmt.Sprintf("INSERT INTO elements (%s) VALUES (?%s)", strings.Join(header, ", "), strings.Repeat(", ?", len(header)-1))
	for _, record := range records[1:] {
		values := make([]any, len(record))
		for i, v := range record {
			if v != "" { // the column's affinity turns text into numbers
				values[i] = v
			}
		}
		if _, err := tx.ExecContext(ctx, insert, values...); err != nil {
			return fmt.Errorf("element %s: %w", record[0], err)
		}
	}
	return tx.Commit()
}

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// table is a query's result: values are nil, int64, float64, string or []byte, as SQLite has them.
type table struct {
	columns []column
	rows    [][]any
}

type column struct {
	name string
	// declared is the type in CREATE TABLE, empty for an expression. It is a last resort: SQLite lets any column hold
	// anything, so the values decide.
	declared string
}

// query runs a statement and holds its rows in memory, within the service's limits: a column's Parquet type is known
// only after its last value. progress is called with the number of rows every now and then.
func (s *Service) query(ctx context.Context, src source, st statement, progress func(rows int)) (*table, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.QueryTimeout, errQueryTimeout)
	defer cancel()
	r, err := openReader(ctx, src)
	if err != nil {
		return nil, systemError("DatabaseUnavailable", err)
	}
	defer r.close() //nolint:errcheck // it only read

	t, err := s.read(ctx, r, st, progress)
	if err == nil {
		return t, nil
	}
	var failure *jobError
	switch {
	case errors.As(err, &failure):
		return nil, err
	case r.denied != "":
		return nil, userError("ReadOnly", fmt.Errorf("the query %s; a query may only read", r.denied))
	case errors.Is(context.Cause(ctx), errQueryTimeout):
		return nil, userError("QueryTimeout", fmt.Errorf("the query took longer than the service's QueryTimeout of %v", s.opts.QueryTimeout))
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, explain(err, len(st.args) > 0)
}

var errQueryTimeout = errors.New("query timeout")

func (s *Service) read(ctx context.Context, r *reader, st statement, progress func(int)) (*table, error) {
	rows, err := r.conn.QueryContext(ctx, st.sql, st.args...)
	if err != nil {
		return nil, err
	}
	defer func() { rows.Close() }() // not the method value: rows may be another one by then
	t := &table{}
	if t.columns, err = columnsOf(rows); err != nil {
		return nil, err
	}
	if plain, ok := withoutTimes(st.sql, t.columns); ok {
		rows.Close()
		if rows, err = r.conn.QueryContext(ctx, plain, st.args...); err != nil {
			return nil, err
		}
	}

	var size int64
	cells := make([]any, len(t.columns))
	for rows.Next() {
		if len(t.rows) == s.opts.MaxRows {
			return nil, userError("ResultTooLarge", fmt.Errorf("the result has more rows than the service's MaxRows, %d; add a LIMIT", s.opts.MaxRows))
		}
		row := make([]any, len(cells))
		for i := range cells {
			cells[i] = &row[i]
		}
		if err := rows.Scan(cells...); err != nil {
			return nil, err
		}
		for _, v := range row {
			size += sizeOf(v)
		}
		if size > s.opts.MaxResultBytes {
			return nil, userError("ResultTooLarge", fmt.Errorf("the result is larger than the service's MaxResultBytes, %d, after %d rows", s.opts.MaxResultBytes, len(t.rows)))
		}
		t.rows = append(t.rows, row)
		if len(t.rows)%1000 == 0 {
			progress(len(t.rows))
		}
	}
	return t, rows.Err()
}

// columnsOf reads the header. Two columns of one name cannot be told apart in Parquet, and to rename one would break
// whoever reads it by name.
func columnsOf(rows *sql.Rows) ([]column, error) {
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	if len(types) == 0 {
		return nil, userError("NoResult", errors.New("the statement returns no columns; it has to be a query"))
	}
	seen := map[string]bool{}
	cols := make([]column, len(types))
	for i, t := range types {
		switch name := t.Name(); {
		case name == "":
			return nil, userError("BadColumns", fmt.Errorf("column %d of the result has no name; give it one with AS", i+1))
		case seen[name]:
			return nil, userError("BadColumns", fmt.Errorf("two columns of the result are named %q; tell them apart with AS", name))
		}
		seen[t.Name()] = true
		cols[i] = column{name: t.Name(), declared: strings.ToUpper(t.DatabaseTypeName())}
	}
	return cols, nil
}

// withoutTimes rewrites a query whose columns are declared as times. The driver parses such text into a time.Time
// and loses how it was written; behind a unary plus, which changes no value, a column has no declared type and
// arrives as it is stored.
func withoutTimes(query string, cols []column) (string, bool) {
	found := false
	parts := make([]string, len(cols))
	for i, c := range cols {
		name := `"` + strings.ReplaceAll(c.name, `"`, `""`) + `"`
		switch c.declared {
		case "DATE", "DATETIME", "TIME", "TIMESTAMP":
			found = true
			parts[i] = "+" + name + " AS " + name
		default:
			parts[i] = name
		}
	}
	return "SELECT " + strings.Join(parts, ", ") + " FROM (" + query + ")", found
}

func sizeOf(v any) int64 {
	const overhead = 16
	switch v := v.(type) {
	case string:
		return overhead + int64(len(v))
	case []byte:
		return overhead + int64(len(v))
	}
	return overhead
}

// explain sorts SQLite's errors into the author's and the service's, and adds what the author may not know.
func explain(err error, bound bool) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return systemError("QueryFailed", fmt.Errorf("the query failed: %w", err))
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_FULL:
		return systemError("DatabaseUnavailable", fmt.Errorf("the query failed: %w", err))
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return userError("NotADatabase", fmt.Errorf("the database is damaged: %w", err))
	case sqlite3.SQLITE_READONLY:
		return userError("ReadOnly", fmt.Errorf("the query writes; a query may only read: %w", err))
	}
	if bound && strings.Contains(err.Error(), paramPrefix) {
		return userError("QueryFailed", fmt.Errorf("the query failed: %w (an input outside quotes is a value; it cannot name a table or a column)", err))
	}
	return userError("QueryFailed", fmt.Errorf("the query failed: %w", err))
}

// wait lets a job that was too quick go on until least has passed since start.
func wait(ctx context.Context, start time.Time, least time.Duration, report func(left time.Duration)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		left := least - time.Since(start)
		if left <= 0 {
			return nil
		}
		report(left)
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		case <-tick.C:
			timer.Stop()
		}
	}
}

package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// Count tells how many jobs the service in dir has been asked for, and how often they were run: a job that its service was
// killed over runs again. It reads the service's file, and may be called while the service runs.
func Count(ctx context.Context, dir string) (jobs, runs int, err error) {
	s, err := openStore(ctx, filepath.Join(dir, storeFile), time.Second)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = s.db.Close() }() // it was only read
	err = s.db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(runs), 0) FROM jobs`).Scan(&jobs, &runs)
	if err != nil {
		return 0, 0, fmt.Errorf("sqlite: count the jobs in %s: %w", dir, err)
	}
	return jobs, runs, nil
}

package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// Phases of a row. A deleted job stays as a row until its files are gone, so that a service that dies in between
// leaves a note for the next one.
const (
	phaseQueued  = "QUEUED"
	phaseRunning = "RUNNING"
	phaseDone    = "DONE" // succeeded or failed: the resource column says which
	phaseDeleted = "DELETED"
)

var (
	errNoJob     = errors.New("no such job")
	errKeyReused = errors.New("the idempotency key belongs to another request")
)

const schema = `
CREATE TABLE IF NOT EXISTS jobs (
	id       TEXT PRIMARY KEY,
	idem_key TEXT UNIQUE,
	request  BLOB NOT NULL,
	phase    TEXT NOT NULL,
	message  TEXT NOT NULL,
	owner    TEXT NOT NULL DEFAULT '',
	lease    INTEGER NOT NULL DEFAULT 0,
	runs     INTEGER NOT NULL DEFAULT 0,
	created  INTEGER NOT NULL,
	finished INTEGER,
	resource BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_phase ON jobs (phase, created);
`

// storeFile is the store's file in the service's folder.
const storeFile = "jobs.sqlite"

// store is the jobs table. Times in it are Unix milliseconds. Its methods block on the disk and may be called at once.
type store struct {
	db    *sql.DB
	owner string
	lease time.Duration
}

// job is one row.
type job struct {
	id       string
	phase    string
	message  string
	request  []byte
	runs     int
	resource []byte
}

func openStore(ctx context.Context, path string, lease time.Duration) (*store, error) {
	db, err := sql.Open("sqlite", dsn(path, url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)"},
		"_txlock": {"immediate"},
	}))
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	// One connection: SQLite has one writer anyway, and callers that queue in Go never meet SQLITE_BUSY.
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: prepare %s: %w", path, err), db.Close())
	}
	return &store{db: db, owner: newID(), lease: lease}, nil
}

func (s *store) close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("sqlite: close the jobs: %w", err)
	}
	return nil
}

func (s *store) until(d time.Duration) int64 { return time.Now().Add(d).UnixMilli() }

// create adds a job, or finds the one that the same key made before. fresh says which. A key that came with another
// request is errKeyReused.
func (s *store) create(ctx context.Context, key string, request *admin.CreateTaskRequest) (id string, fresh bool, err error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return "", false, fmt.Errorf("encode the request: %w", err)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return "", false, fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing; before one, the first error is the one to tell

	idemKey := sql.NullString{String: key, Valid: key != ""}
	if key != "" {
		var known []byte
		switch err := tx.QueryRowContext(ctx, `SELECT id, request FROM jobs WHERE idem_key = ?`, key).Scan(&id, &known); {
		case err == nil && sameRequest(known, raw, request):
			return id, false, nil
		case err == nil:
			return id, false, errKeyReused
		case !errors.Is(err, sql.ErrNoRows):
			return "", false, fmt.Errorf("look up the idempotency key: %w", err)
		}
	}
	id = newID()
	if _, err := tx.ExecContext(ctx,
		`INSERT INTO jobs (id, idem_key, request, phase, message, created) VALUES (?, ?, ?, ?, ?, ?)`,
		id, idemKey, raw, phaseQueued, "waiting for a worker", s.until(0)); err != nil {
		return "", false, fmt.Errorf("insert the job: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return "", false, fmt.Errorf("commit the job: %w", err)
	}
	return id, true, nil
}

// sameRequest compares meaning where bytes differ: another build may encode the same message in another order.
func sameRequest(known, raw []byte, request *admin.CreateTaskRequest) bool {
	if bytes.Equal(known, raw) {
		return true
	}
	var old admin.CreateTaskRequest
	return proto.Unmarshal(known, &old) == nil && proto.Equal(&old, request)
}

// get finds a job; a deleted one is as unknown as one that never was.
func (s *store) get(ctx context.Context, id string) (*job, error) {
	j := &job{id: id}
	err := s.db.QueryRowContext(ctx,
		`SELECT phase, message, request, runs, resource FROM jobs WHERE id = ? AND phase <> ?`, id, phaseDeleted).
		Scan(&j.phase, &j.message, &j.request, &j.runs, &j.resource)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoJob
	}
	if err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	return j, nil
}

// claim leases the oldest job that no living service holds to this one; errNoJob when there is none. A job whose phase is
// DELETED is claimed to be cleaned up after. What this service holds already it never claims again, however late
// its renewals are.
func (s *store) claim(ctx context.Context) (*job, error) {
	j := &job{}
	err := s.db.QueryRowContext(ctx, `
		UPDATE jobs SET
			owner = ?1, lease = ?2,
			runs = runs + (phase <> 'DELETED'),
			message = CASE phase WHEN 'QUEUED' THEN 'started' ELSE 'started again' END,
			phase = CASE phase WHEN 'DELETED' THEN 'DELETED' ELSE 'RUNNING' END
		WHERE id = (
			SELECT id FROM jobs
			WHERE phase IN ('QUEUED', 'RUNNING', 'DELETED') AND lease < ?3 AND owner <> ?1
			ORDER BY created LIMIT 1)
		RETURNING id, phase, message, request, runs`, s.owner, s.until(s.lease), s.until(0)).
		Scan(&j.id, &j.phase, &j.message, &j.request, &j.runs)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoJob
	}
	if err != nil {
		return nil, fmt.Errorf("claim a job: %w", err)
	}
	return j, nil
}

// renew keeps the lease and tells how far the job is; false when the job is this service's no more.
func (s *store) renew(ctx context.Context, id, message string) (bool, error) {
	return s.mine(ctx, `UPDATE jobs SET lease = ?, message = ?`, id, s.until(s.lease), message)
}

// finish stores the outcome; false when the job is this service's no more, and the outcome then is to be thrown away.
func (s *store) finish(ctx context.Context, id string, resource []byte) (bool, error) {
	return s.mine(ctx, `UPDATE jobs SET phase = 'DONE', owner = '', finished = ?, resource = ?`, id, s.until(0), resource)
}

// release puts a job back into the queue, as if this service had never started it.
func (s *store) release(ctx context.Context, id string) error {
	_, err := s.mine(ctx,
		`UPDATE jobs SET phase = 'QUEUED', owner = '', lease = 0, runs = runs - 1, message = ?`, id,
		"waiting for a worker: the service that ran it was stopped")
	return err
}

// mine applies an update to a running job of this service only.
func (s *store) mine(ctx context.Context, update, id string, args ...any) (bool, error) {
	res, err := s.db.ExecContext(ctx, update+` WHERE id = ? AND owner = ? AND phase = 'RUNNING'`, append(args, id, s.owner)...)
	if err != nil {
		return false, fmt.Errorf("update job %s: %w", id, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("update job %s: %w", id, err)
	}
	return n == 1, nil
}

// markDeleted makes a job unknown to callers and frees its key; it answers errNoJob for one that is unknown already.
func (s *store) markDeleted(ctx context.Context, id string) (*job, error) {
	j := &job{id: id, phase: phaseDeleted}
	err := s.db.QueryRowContext(ctx,
		`UPDATE jobs SET phase = ?1, idem_key = NULL, message = 'deleted' WHERE id = ?2 AND phase <> ?1 RETURNING request`,
		phaseDeleted, id).Scan(&j.request)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoJob
	}
	if err != nil {
		return nil, fmt.Errorf("mark the job deleted: %w", err)
	}
	return j, nil
}

// forget removes the row of a deleted job, whose files are gone.
func (s *store) forget(ctx context.Context, id string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM jobs WHERE id = ? AND phase = ?`, id, phaseDeleted); err != nil {
		return fmt.Errorf("forget job %s: %w", id, err)
	}
	return nil
}

// postpone gives up a deleted job for a while, because cleaning up after it did not work.
func (s *store) postpone(ctx context.Context, id string, d time.Duration) error {
	if _, err := s.db.ExecContext(ctx,
		`UPDATE jobs SET owner = '', lease = ? WHERE id = ? AND phase = ?`, s.until(d), id, phaseDeleted); err != nil {
		return fmt.Errorf("postpone job %s: %w", id, err)
	}
	return nil
}

// expire removes the rows of jobs that finished longer than keep ago, and calls gone with each id.
func (s *store) expire(ctx context.Context, keep time.Duration, gone func(id string)) error {
	rows, err := s.db.QueryContext(ctx, `DELETE FROM jobs WHERE phase = 'DONE' AND finished < ? RETURNING id`, s.until(-keep))
	if err != nil {
		return fmt.Errorf("expire jobs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("expire jobs: %w", err)
		}
		gone(id)
	}
	return rows.Err()
}

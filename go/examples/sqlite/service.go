package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options says where a [Service] keeps its jobs and how much one job may use. Only Dir is required.
type Options struct {
	// Dir is the folder where jobs are kept. It is made when missing, readable by its owner only, because jobs hold
	// the inputs of workflows.
	Dir string
	// Log gets one line per job and per trouble; slog.Default() when nil.
	Log *slog.Logger
	// LocalStore is the folder of a Flyte data store of kind local, if there is one on this machine: such a store
	// names its files file://container/path, which says nothing of the folder. Empty refuses such names.
	LocalStore string
	// MinJobTime makes every job take at least this long, so that a demo has the time to kill the service in mid-job.
	MinJobTime time.Duration

	// Workers is how many jobs run at once (default 2).
	Workers int
	// Lease is how long a job stays with a service that stopped answering for it (default 3 s): the longest that a
	// killed service delays its jobs.
	Lease time.Duration
	// KeepFinished is how long a finished job can still be asked for (default 7 days). Results are never removed by it.
	KeepFinished time.Duration

	// MaxRows and MaxResultBytes bound a result, which is held in memory (default 1,000,000 rows and 256 MiB).
	MaxRows        int
	MaxResultBytes int64
	// MaxDatabaseBytes bounds a downloaded database, before and after it is unpacked (default 512 MiB).
	MaxDatabaseBytes int64
	// DownloadTimeout bounds a download and QueryTimeout a query (default 5 minutes and 1 hour).
	DownloadTimeout time.Duration
	QueryTimeout    time.Duration
	// DrainTimeout is how long [Serve] waits for calls under way when it stops (default 10 s).
	DrainTimeout time.Duration
}

// maxRuns is how often a job is started before it is given up: a job that brings the service down (a query that
// eats all memory, say) must not do so for ever.
const maxRuns = 10

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("sqlite: Options.Dir is empty; name the folder where jobs are kept")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("sqlite: Options.Dir %q: %w", o.Dir, err)
	}
	o.Dir = dir
	if o.Log == nil {
		o.Log = slog.Default()
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{
		{"MinJobTime", &o.MinJobTime, 0},
		{"Lease", &o.Lease, 3 * time.Second},
		{"KeepFinished", &o.KeepFinished, 7 * 24 * time.Hour},
		{"DownloadTimeout", &o.DownloadTimeout, 5 * time.Minute},
		{"QueryTimeout", &o.QueryTimeout, time.Hour},
		{"DrainTimeout", &o.DrainTimeout, 10 * time.Second},
	} {
		if *d.value < 0 {
			return o, fmt.Errorf("sqlite: Options.%s is %v; it cannot be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	for _, n := range []struct {
		name  string
		value *int64
		usual int64
	}{
		{"MaxResultBytes", &o.MaxResultBytes, 256 << 20},
		{"MaxDatabaseBytes", &o.MaxDatabaseBytes, 512 << 20},
	} {
		if *n.value < 0 {
			return o, fmt.Errorf("sqlite: Options.%s is %d; it cannot be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.usual
		}
	}
	if o.Workers < 0 || o.MaxRows < 0 {
		return o, fmt.Errorf("sqlite: Options.Workers (%d) and Options.MaxRows (%d) cannot be negative", o.Workers, o.MaxRows)
	}
	if o.Workers == 0 {
		o.Workers = 2
	}
	if o.MaxRows == 0 {
		o.MaxRows = 1_000_000
	}
	return o, nil
}

// Service runs the jobs in one folder. Its methods may be called at once. Make it with [New], end it with Close.
type Service struct {
	opts     Options
	store    *store
	elements string // path of the embedded database, written out

	ctx     context.Context // ends when the service closes
	stop    context.CancelFunc
	workers sync.WaitGroup
	wake    chan struct{} // holds a token when a job may be waiting

	mu   sync.Mutex
	runs map[string]*run // the jobs that run here, by id

	closeOnce sync.Once
	closeErr  error
}

// run is a job under way in this process.
type run struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// New opens the folder and starts the workers; jobs that a former service left unfinished there run again.
func New(opts Options) (*Service, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"", "log", "tmp"} {
		if err := os.MkdirAll(filepath.Join(opts.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("sqlite: make the jobs folder: %w", err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	elements, err := writeElements(ctx, opts.Dir)
	if err != nil {
		stop()
		return nil, err
	}
	st, err := openStore(ctx, filepath.Join(opts.Dir, storeFile), opts.Lease)
	if err != nil {
		stop()
		return nil, err
	}
	s := &Service{
		opts: opts, store: st, elements: elements, ctx: ctx, stop: stop,
		wake: make(chan struct{}, 1), runs: map[string]*run{},
	}
	for range opts.Workers {
		s.workers.Go(s.work)
	}
	s.workers.Go(s.sweep)
	return s, nil
}

// Close stops the workers, waits for them, and closes the folder. Jobs under way go back to the queue, for the next
// service on the folder. It may be called more than once.
func (s *Service) Close() error {
	s.closeOnce.Do(func() {
		s.stop()
		s.workers.Wait()
		s.closeErr = s.store.close()
	})
	return s.closeErr
}

// nudge tells a worker that there may be a job; one token is enough, because a worker that found one looks again.
func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sweep forgets jobs that finished long ago.
func (s *Service) sweep() {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.store.expire(s.ctx, s.opts.KeepFinished, s.removeLog); err != nil && s.ctx.Err() == nil {
			s.opts.Log.Warn("sqlite: old jobs were not swept", "error", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// newID makes a job id: printable, short, and not to be guessed by someone who looks for other people's jobs.
func newID() string { return "sqlite-" + rand.Text()[:20] }

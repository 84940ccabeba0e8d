package sqlite

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// download fetches a database into a file, within the service's limits of size and time.
func (s *Service) download(ctx context.Context, uri, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.DownloadTimeout,
		fmt.Errorf("it took longer than the service's DownloadTimeout of %v", s.opts.DownloadTimeout))
	defer cancel()
	shown := redact(uri)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return userError("DatabaseUnavailable", fmt.Errorf("download %s: %w", shown, bare(err)))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return systemError("DatabaseUnavailable", fmt.Errorf("download %s: %w", shown, why(ctx, bare(err))))
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout:
		return systemError("DatabaseUnavailable", fmt.Errorf("download %s: the server answered %s", shown, resp.Status))
	default:
		return userError("DatabaseUnavailable", fmt.Errorf("download %s: the server answered %s", shown, resp.Status))
	}
	switch err := copyTo(path, resp.Body, s.opts.MaxDatabaseBytes); {
	case errors.Is(err, errTooLarge):
		return userError("DatabaseTooLarge", fmt.Errorf("download %s: %w", shown, err))
	case err != nil:
		return systemError("DatabaseUnavailable", fmt.Errorf("download %s: %w", shown, why(ctx, err)))
	}
	return nil
}

// unpack takes the one file out of a zip archive. flytekit asks for exactly one, too.
func (s *Service) unpack(ctx context.Context, archive, path string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return userError("NotADatabase", fmt.Errorf("compressed is true, and the file that uri names is no zip file: %w", err))
	}
	defer z.Close() //nolint:errcheck // it was only read
	var files []*zip.File
	for _, f := range z.File {
		// macOS adds a shadow of every file.
		if !f.FileInfo().IsDir() && !strings.HasPrefix(f.Name, "__MACOSX/") {
			files = append(files, f)
		}
	}
	if len(files) != 1 {
		return userError("NotADatabase", fmt.Errorf("the zip file holds %d files; it has to hold one, the database", len(files)))
	}
	r, err := files[0].Open()
	if err != nil {
		return userError("NotADatabase", fmt.Errorf("unpack the database: %w", err))
	}
	defer r.Close()
	switch err := copyTo(path, contextReader{ctx, r}, s.opts.MaxDatabaseBytes); {
	case errors.Is(err, errTooLarge):
		return userError("DatabaseTooLarge", fmt.Errorf("unpack the database: %w", err))
	case err != nil:
		return userError("NotADatabase", fmt.Errorf("unpack the database: %w", err))
	}
	return nil
}

var errTooLarge = errors.New("too large")

// copyTo writes r into a new file, as long as it is not larger than most. What the sender claims about the size is
// not asked: a zip archive's claim may be a lie.
func copyTo(path string, r io.Reader, most int64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, io.LimitReader(r, most+1))
	if err != nil {
		return err
	}
	if n > most {
		return fmt.Errorf("%w: more than the service's MaxDatabaseBytes, %d", errTooLarge, most)
	}
	return nil
}

// contextReader makes unpacking stoppable.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// bare drops the address that net/http puts into its errors, secrets and all.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// why prefers the reason a context ended to the error that it led to.
func why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

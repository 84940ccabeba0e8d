package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	driver "modernc.org/sqlite"
)

const embeddedElements = "embedded:elements"

// checkSource refuses a uri that no job could ever open.
func checkSource(uri string) error {
	if uri == embeddedElements {
		return nil
	}
	if _, ok := localPath(uri); ok {
		return nil
	}
	if u, err := url.Parse(uri); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		return nil
	}
	return fmt.Errorf("%q is not supported; use %s, file:///path, an absolute path, or an http(s) address", redact(uri), embeddedElements)
}

// localPath reads file:///path and /path. Percent signs stay as they are, because flytekit writes paths unescaped.
func localPath(uri string) (string, bool) {
	p, ok := strings.CutPrefix(uri, "file://")
	if ok {
		p = strings.TrimPrefix(p, "localhost")
	}
	return p, filepath.IsAbs(p) && !strings.ContainsRune(p, 0)
}

// redact drops what an address may keep secret: the password, and the query, where signed addresses have theirs.
func redact(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" {
		return uri
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

// dsn names a database file to the driver, whatever characters its path has.
func dsn(path string, query url.Values) string {
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

// source is a database that is ready to be read.
type source struct {
	path string
	// ours says that the file is the service's own and never changes, so SQLite need not lock it.
	ours bool
}

// locate brings a task's database to the disk; tmp is a folder for what that needs.
func (s *Service) locate(ctx context.Context, t *task, tmp string, report func(string)) (source, error) {
	if t.uri == embeddedElements {
		return source{path: s.elements, ours: true}, nil
	}
	path, local := localPath(t.uri)
	if local {
		if err := s.checkLocal(path); err != nil {
			return source{}, err
		}
	} else {
		report("downloading " + redact(t.uri))
		path = filepath.Join(tmp, "download")
		if err := s.download(ctx, t.uri, path); err != nil {
			return source{}, err
		}
	}
	if t.compressed {
		report("unpacking the database")
		packed := path
		path = filepath.Join(tmp, "database")
		if err := s.unpack(ctx, packed, path); err != nil {
			return source{}, err
		}
	}
	if err := checkMagic(path); err != nil {
		return source{}, err
	}
	return source{path: path, ours: !local || t.compressed}, nil
}

// checkLocal keeps a task away from the service's own folder, where other people's inputs are.
func (s *Service) checkLocal(path string) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return userError("DatabaseUnavailable", fmt.Errorf("the database file: %w", err))
	}
	dir, err := filepath.EvalSymlinks(s.opts.Dir)
	if err != nil {
		return systemError("JobsFolder", err)
	}
	if rel, err := filepath.Rel(dir, resolved); err == nil && filepath.IsLocal(rel) {
		return userError("DatabaseUnavailable", fmt.Errorf("%s belongs to the service and is no task's database", path))
	}
	return nil
}

// checkMagic tells a file that is not a database before SQLite does, in words that say what to look at.
func checkMagic(path string) error {
	const magic = "SQLite format 3\x00"
	f, err := os.Open(path)
	if err != nil {
		return userError("DatabaseUnavailable", fmt.Errorf("the database file: %w", err))
	}
	defer f.Close() //nolint:errcheck // it was only read
	head := make([]byte, len(magic))
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return userError("DatabaseUnavailable", fmt.Errorf("the database file: %w", err))
	}
	if string(head[:n]) == magic {
		return nil
	}
	hint := ""
	if strings.HasPrefix(string(head[:n]), "PK") {
		hint = "; it looks like a zip file, for which compressed has to be true"
	}
	return userError("NotADatabase", fmt.Errorf("the file that uri names is not an SQLite database%s", hint))
}

// reader is one read-only connection, guarded by an authorizer that refuses everything but reading. SQLite's own
// read-only mode is not enough: through a read-only connection a query may still attach other files, and VACUUM INTO
// writes one.
type reader struct {
	db   *sql.DB
	conn *sql.Conn
	// denied is what the authorizer refused first, for the message.
	denied string
}

func openReader(ctx context.Context, src source) (r *reader, err error) {
	query := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", "query_only(1)", "trusted_schema(0)"}}
	if src.ours {
		query.Set("immutable", "1")
	}
	db, err := sql.Open("sqlite", dsn(src.path, query))
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	r = &reader{db: db}
	if r.conn, err = db.Conn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database: %w", err), db.Close())
	}
	err = r.conn.Raw(func(c any) error { return c.(driver.AuthorizerRegisterer).RegisterAuthorizer(r.authorize) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard the database: %w", err), r.close())
	}
	return r, nil
}

// authorize is called by SQLite, on the goroutine that prepares the statement.
func (r *reader) authorize(action driver.AuthorizerActionCode, arg1, arg2, _, _ string) driver.AuthorizerReturnCode {
	switch action {
	case driver.AuthSelect, driver.AuthRead, driver.AuthRecursive:
		return driver.AuthorizerOK
	case driver.AuthFunction:
		if !strings.EqualFold(arg2, "load_extension") {
			return driver.AuthorizerOK
		}
		arg1 = arg2
	case driver.AuthPragma:
		switch strings.ToLower(arg1) {
		case "table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list", "data_version":
			return driver.AuthorizerOK
		}
	default: // it writes, reaches for another file, or is newer than this list: denied below
	}
	if r.denied == "" {
		r.denied = describe(action, arg1)
	}
	return driver.AuthorizerDeny
}

func describe(action driver.AuthorizerActionCode, arg string) string {
	verb, ok := map[driver.AuthorizerActionCode]string{
		driver.AuthInsert: "writes to", driver.AuthUpdate: "writes to", driver.AuthDelete: "deletes from",
		driver.AuthAttach: "attaches (or vacuums into) the file", driver.AuthPragma: "uses the pragma",
		driver.AuthFunction: "calls", driver.AuthTransaction: "controls a transaction by",
	}[action]
	if !ok {
		verb = "changes the database's structure:"
	}
	return strings.TrimSpace(verb + " " + arg)
}

func (r *reader) close() error { return errors.Join(r.conn.Close(), r.db.Close()) }

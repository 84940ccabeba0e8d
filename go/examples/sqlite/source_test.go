package sqlite

import (
	"archive/zip"
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

func zipped(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range files {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSources(t *testing.T) {
	c, s := start(t, Options{MaxDatabaseBytes: 1 << 20, DownloadTimeout: 200 * time.Millisecond})
	dir := t.TempDir()
	path := database(t, filepath.Join(dir, "a 50% ?#.db"), "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
	wal := database(t, filepath.Join(dir, "wal.db"), "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	packed := write("db.zip", zipped(t, map[string][]byte{"db": raw, "dir/": nil, "__MACOSX/._db": {1}}))
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(s.opts.Dir, "jobs.sqlite"), link); err != nil {
		t.Fatal(err)
	}

	mux := http.NewServeMux()
	serve := func(pattern string, b []byte) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(b) //nolint:errcheck // the service hangs up on what is too big
		})
	}
	serve("/db", raw)
	serve("/db.zip", zipped(t, map[string][]byte{"db": raw}))
	serve("/big", make([]byte, 2<<20))
	serve("/bomb.zip", zipped(t, map[string][]byte{"db": make([]byte, 2<<20)}))
	mux.HandleFunc("/down", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		if _, err := w.Write(raw[:100]); err != nil {
			t.Error(err)
		}
	})
	web := httptest.NewServer(mux)
	defer web.Close()
	dead := httptest.NewServer(nil)
	dead.Close()

	const system = admin.AgentError_RECOVERABLE
	for _, tc := range []struct {
		reason, uri string
		compressed  bool
		code        string // empty: it works
		kind        admin.AgentError_Kind
		says        string
	}{
		{"a path, with characters that URIs know", path, false, "", 0, ""},
		{"a file uri, written as flytekit writes it", "file://" + path, false, "", 0, ""},
		{"a database with a write-ahead log", wal, false, "", 0, ""},
		{"a local zip", packed, true, "", 0, ""},
		{"http", web.URL + "/db", false, "", 0, ""},
		{"http, zipped", web.URL + "/db.zip", true, "", 0, ""},

		{"no such file", filepath.Join(dir, "nope"), false, "DatabaseUnavailable", user, "no such file"},
		{"a folder", dir, false, "DatabaseUnavailable", user, "directory"},
		{"not a database", write("text", []byte("hello")), false, "NotADatabase", user, "not an SQLite database"},
		{"an empty file", write("empty", nil), false, "NotADatabase", user, "not an SQLite database"},
		{"a damaged database", write("damaged", append(append([]byte{}, raw[:16]...), bytes.Repeat([]byte{7}, 5000)...)), false, "NotADatabase", user, ""},
		{"a zip that compressed does not announce", packed, false, "NotADatabase", user, "compressed has to be true"},
		{"compressed, but no zip", path, true, "NotADatabase", user, "no zip file"},
		{"an empty zip", write("none.zip", zipped(t, nil)), true, "NotADatabase", user, "holds 0 files"},
		{"two files in a zip", write("two.zip", zipped(t, map[string][]byte{"a": raw, "b": raw})), true, "NotADatabase", user, "holds 2 files"},
		{"the jobs of this service", filepath.Join(s.opts.Dir, "jobs.sqlite"), false, "DatabaseUnavailable", user, "belongs to the service"},
		{"the jobs of this service by a link", link, false, "DatabaseUnavailable", user, "belongs to the service"},
		{"not found on the web", web.URL + "/nope", false, "DatabaseUnavailable", user, "404"},
		{"too big on the web", web.URL + "/big", false, "DatabaseTooLarge", user, "MaxDatabaseBytes"},
		{"too big in the zip", web.URL + "/bomb.zip", true, "DatabaseTooLarge", user, "MaxDatabaseBytes"},
		{"a server that is down", web.URL + "/down", false, "DatabaseUnavailable", system, "503"},
		{"a server that is away", dead.URL + "/db", false, "DatabaseUnavailable", system, "refused"},
		{"a server that never answers", web.URL + "/slow", false, "DatabaseUnavailable", system, "DownloadTimeout"},
		{"a download that is cut off", web.URL + "/cut", false, "DatabaseUnavailable", system, "unexpected EOF"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			req := withCustom(on(t, tc.uri, "SELECT a FROM t"), "compressed", structpb.NewBoolValue(tc.compressed))
			if tc.code != "" {
				wantFailure(t, c, req, tc.code, tc.kind, tc.says)
				return
			}
			if _, rows := result(t, c, req); !reflect.DeepEqual(rows, [][]any{{int64(1)}}) {
				t.Errorf("rows = %v", rows)
			}
		})
	}
	if left, _ := os.ReadDir(filepath.Join(s.opts.Dir, "tmp")); len(left) != 0 {
		t.Errorf("left in the temporary folder: %v", left)
	}
}

func TestSecretsInAddressesStayOut(t *testing.T) {
	c, s := start(t, Options{})
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	uri := strings.Replace(web.URL, "http://", "http://me:hunter2@", 1) + "/db?X-Amz-Signature=s3cret"
	id := create(t, c, "", on(t, uri, "SELECT 1"))
	res := until(t, c, id, "finished", finished)
	log, err := os.ReadFile(s.logPath(string(id)))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", "s3cret"} {
		if strings.Contains(res.String()+string(log), secret) {
			t.Errorf("%s is in %v or in the log %s", secret, res, log)
		}
	}
}

func TestElements(t *testing.T) {
	c, _ := start(t, Options{})
	_, rows := result(t, c, request(t, `SELECT count(*), count(atomic_weight), sum(number), sum(typeof(atomic_weight) = 'text'),
		min(discovered), max(discovered), max(period), max(group_number) FROM elements`, nil, schemaOutput()))
	// 84 elements have a standard atomic weight; 118 * 119 / 2 is 7021.
	if want := [][]any{{int64(118), int64(84), int64(7021), int64(0), int64(1669), int64(2009), int64(7), int64(18)}}; !reflect.DeepEqual(rows, want) {
		t.Errorf("elements = %v, want %v", rows, want)
	}
	_, rows = result(t, c, request(t, "SELECT symbol FROM elements WHERE period = 6 AND group_number IS NULL ORDER BY number", nil, schemaOutput()))
	if len(rows) != 14 || rows[0][0] != "La" || rows[13][0] != "Yb" {
		t.Errorf("lanthanides = %v", rows)
	}
}

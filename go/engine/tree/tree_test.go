package tree

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyte-backend/flyte-backend/go/engine/history/historytest"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

var (
	start  = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)
	update = flag.Bool("update", false, "write the golden files anew")
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "go test ./go/engine/tree -update writes it")
	assert.Equal(t, string(want), got)
}

func live(s *history.Snapshot, at time.Duration, columns, height int) string {
	v := view{now: start.Add(at)}
	return strings.Join(layout(v.rows(s), columns, height, false), "\n") + "\n"
}

func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name            string
		at              time.Duration
		columns, height int
	}{
		{"begins", 9 * time.Second, 100, 0},
		{"map", 30 * time.Second, 120, 0},
		{"map-small-screen", 30 * time.Second, 70, 12},
		{"gate", 65 * time.Second, 100, 0},
		{"gate-tiny", 65 * time.Second, 36, 5},
	} {
		got := live(historytest.SampleUntil(start, c.at).Snapshot(), c.at, c.columns, c.height)
		golden(t, c.name, got)
		for l := range strings.Lines(got) {
			assert.LessOrEqual(t, displayWidth(strings.TrimSuffix(l, "\n")), c.columns, "%s: %s", c.name, l)
		}
		if c.height > 0 {
			assert.LessOrEqual(t, strings.Count(got, "\n"), c.height, c.name)
		}
	}
	golden(t, "failed", Render(historytest.SampleUntil(start, time.Hour).Snapshot(), 110))
}

func TestEverySizeFits(t *testing.T) {
	s := historytest.SampleUntil(start, 30*time.Second).Snapshot()
	large := historytest.Large(start, 60, 200).Snapshot()
	for columns := 1; columns < 130; columns += 7 {
		for height := 1; height < 40; height += 3 {
			for _, s := range []*history.Snapshot{s, large} {
				v := view{now: start.Add(30 * time.Second)}
				lines := layout(v.rows(s), columns, height, true)
				require.LessOrEqual(t, len(lines), height)
				for _, l := range lines {
					require.LessOrEqual(t, displayWidth(stripCodes(l)), columns, "%q", l)
				}
			}
		}
	}
}

func TestFailedAndRunningStayWhenThereIsNoRoom(t *testing.T) {
	got := live(historytest.Large(start, 500, 1000).Snapshot(), time.Minute, 120, 20)
	assert.Contains(t, got, "… 250 more succeeded")
	assert.Contains(t, got, "RUNNING")
	assert.NotContains(t, got, "SUCCEEDED")
	got = live(historytest.SampleUntil(start, 91400*time.Millisecond).Snapshot(), 92*time.Second, 120, 5)
	assert.Contains(t, got, "n6 churn.publish")
}

func TestManyExecutions(t *testing.T) {
	m := history.New()
	for i := range 500 {
		r := historytest.NewRun(fmt.Sprintf("run-%03d", i), start)
		r.Workflow(0, core.WorkflowExecution_RUNNING)
		r.Node(time.Second, "n0", core.NodeExecution_RUNNING)
		switch {
		case i == 400:
			r.Workflow(2*time.Second, core.WorkflowExecution_FAILED)
		case i%2 == 0:
			r.Workflow(2*time.Second, core.WorkflowExecution_SUCCEEDED)
		}
		for _, e := range r.Events {
			m.Add(e)
		}
	}
	got := live(m.Snapshot(), time.Minute, 100, 24)
	assert.Contains(t, got, "run-400", "the failed one of 500")
	assert.Contains(t, got, "249 more succeeded")
}

func TestColours(t *testing.T) {
	v := view{now: start.Add(65 * time.Second)}
	rows := v.rows(historytest.SampleUntil(start, 65*time.Second).Snapshot())
	colored := strings.Join(layout(rows, 100, 0, true), "\n")
	assert.Contains(t, colored, "\x1b[32m✓\x1b[0m")
	assert.Equal(t, strings.Join(layout(rows, 100, 0, false), "\n"), stripCodes(colored))

	t.Setenv("NO_COLOR", "1")
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer f.Close()
	o := For(f)
	assert.False(t, o.Live, "a file is no terminal")
	assert.False(t, o.Color)
}

func TestHostileTextIsInert(t *testing.T) {
	m := history.New()
	r := historytest.NewRun("x\x1b[2J", start)
	r.Workflow(0, core.WorkflowExecution_RUNNING)
	r.Task(0, "n0", 0, core.TaskExecution_RUNNING, "a\x1b[31mb\r\nc\u202ed\x07 日本語 e\u0301", historytest.Link("l\x1bc", "https://x\x9b2J"))
	r.Task(0, "n1", 0, core.TaskExecution_FAILED, "", historytest.TaskError(core.ExecutionError_USER, "C\x1b", "m\x1b]0;t\x07\x00"))
	for _, e := range r.Events {
		m.Add(e)
	}
	var l lines
	l.init(time.UTC)
	got := live(m.Snapshot(), 0, 120, 0) + l.since(m.Snapshot())
	for _, bad := range []string{"\x1b", "\r", "\x07", "\u202e", "\x9b", "\u009b", "\x00"} {
		assert.NotContains(t, got, bad)
	}
	assert.Contains(t, got, "日本語")
}

func TestWidths(t *testing.T) {
	for _, c := range []struct {
		text    string
		width   int
		columns int
		cut     string
	}{
		{"abc", 3, 2, "a…"},
		{"日本語", 6, 4, "日…"},
		{"日本語", 6, 6, "日本語"},
		{"e\u0301e\u0301", 2, 1, "…"},
		{"🚀x", 3, 2, "…"},
		{"", 0, 0, ""},
	} {
		assert.Equal(t, c.width, displayWidth(c.text), c.text)
		assert.Equal(t, c.cut, cut(c.text, c.columns), c.text)
	}
	assert.Equal(t, "0.4s 12.3s 4m05s 2h07m", strings.Join([]string{
		Duration(400 * time.Millisecond), Duration(12300 * time.Millisecond), Duration(245 * time.Second), Duration(127 * time.Minute),
	}, " "))
}

func TestLines(t *testing.T) {
	var l lines
	l.init(time.UTC)
	var b strings.Builder
	m := history.New()
	descriptions, events := historytest.Sample(start)
	for _, d := range descriptions {
		m.Describe(d)
	}
	for i, e := range events {
		m.Add(e)
		m.Add(e)
		if i%5 == 0 {
			b.WriteString(l.since(m.Snapshot()))
		}
	}
	b.WriteString(l.since(m.Snapshot()))
	assert.Empty(t, l.since(m.Snapshot()))
	golden(t, "lines", b.String())
}

// screen is a terminal that knows the codes that a tree sends, and fails the test at any other.
type screen struct {
	t             *testing.T
	columns, rows int
	cells         [][]rune
	x, y          int
	writes        int
	mu            sync.Mutex
}

func newScreen(t *testing.T, columns, rows int) *screen {
	t.Helper()
	return &screen{t: t, columns: columns, rows: rows, cells: [][]rune{{}}}
}

// top is the index of the first line that is on the screen, not above it.
func (s *screen) top() int { return max(0, len(s.cells)-s.rows) }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	text := string(p)
	for text != "" {
		if code, ok := strings.CutPrefix(text, "\x1b["); ok {
			i := strings.IndexFunc(code, func(r rune) bool { return r >= 'A' && r <= 'z' })
			if i < 0 {
				s.t.Errorf("a code is split between writes: %q", code)
				return len(p), nil
			}
			s.control(code[:i], code[i])
			text = code[i+1:]
			continue
		}
		r, n := utf8.DecodeRuneInString(text)
		text = text[n:]
		switch r {
		case '\n':
			s.x, s.y = 0, s.y+1
			for s.y >= len(s.cells) {
				s.cells = append(s.cells, nil)
			}
		case '\r':
			s.x = 0
		default:
			assert.GreaterOrEqual(s.t, int(r), 32, "control character")
			for len(s.cells[s.y]) <= s.x+1 {
				s.cells[s.y] = append(s.cells[s.y], ' ')
			}
			s.cells[s.y][s.x] = r
			s.x += runeWidth(r)
			assert.Less(s.t, s.x, s.columns, "the last column stays free")
		}
	}
	return len(p), nil
}

func (s *screen) control(arg string, code byte) {
	switch code {
	case 'A':
		n, err := strconv.Atoi(arg)
		assert.NoError(s.t, err)
		assert.GreaterOrEqual(s.t, s.y-n, s.top(), "the cursor cannot go above the screen")
		s.y -= n
	case 'K':
		s.cells[s.y] = s.cells[s.y][:min(s.x, len(s.cells[s.y]))]
	case 'J':
		s.control("", 'K')
		s.cells = s.cells[:s.y+1]
	case 'm', 'h', 'l':
	default:
		s.t.Errorf("unknown code %q%c", arg, code)
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, c := range s.cells {
		b.WriteString(strings.TrimRight(string(c), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func (s *screen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func TestTheScreenHoldsTheLastFrame(t *testing.T) {
	for _, size := range [][2]int{{100, 40}, {60, 9}, {20, 3}} {
		s := newScreen(t, size[0], size[1])
		_, err := s.Write([]byte("$ run\n"))
		require.NoError(t, err)
		var f frame
		for at := time.Duration(0); at <= historytest.SampleEnd; at += 3 * time.Second {
			v := view{now: start.Add(at)}
			lines := layout(v.rows(historytest.SampleUntil(start, at).Snapshot()), size[0]-1, size[1]-1, true)
			_, err := s.Write([]byte(f.next(lines, size[0], size[1])))
			require.NoError(t, err)
			want := "$ run\n" + stripCodes(strings.Join(lines, "\n")) + "\n"
			require.Equal(t, want, s.text())
			assert.Empty(t, f.next(lines, size[0], size[1]), "nothing to draw when nothing has changed")
		}
	}
}

func TestALiveTree(t *testing.T) {
	s := newScreen(t, 100, 10)
	tr := New(s, Options{Live: true, Color: true, Width: func() int { return 100 }, Height: func() int { return 10 }, Now: func() time.Time { return start.Add(time.Minute) }})
	began := time.Now()
	for at := time.Duration(0); at <= historytest.SampleEnd; at += time.Second / 4 {
		tr.Update(historytest.SampleUntil(start, at).Snapshot())
	}
	require.Eventually(t, func() bool { return s.count() > 0 }, time.Minute, time.Millisecond)
	tr.Print("a word from elsewhere")
	tr.Update(historytest.SampleUntil(start, time.Hour).Snapshot())
	require.NoError(t, tr.Close())
	require.NoError(t, tr.Close(), "closing again does nothing")
	tr.Update(historytest.SampleUntil(start, 0).Snapshot())
	assert.LessOrEqual(t, s.count(), int(time.Since(began)/frameTime)+3, "ten times a second")
	want := "a word from elsewhere\n" + strings.ReplaceAll(Render(historytest.SampleUntil(start, time.Hour).Snapshot(), 99), "\r", "")
	assert.Equal(t, want, s.text(), "the whole tree stays, though the screen is smaller")
}

func TestTheTerminalChangesItsSize(t *testing.T) {
	var f frame
	lines := []string{strings.Repeat("a", 79), "bb"}
	f.next(lines, 80, 24)
	codes := f.next([]string{"c"}, 40, 24)
	assert.Contains(t, codes, "\x1b[3A\x1b[J", "the first line fills two rows of a terminal half as wide")
	f.next(lines, 80, 24)
	codes = f.next([]string{"c"}, 10, 5)
	assert.Contains(t, codes, "\x1b[4A\x1b[J", "not above the screen")
}

func TestAPlainTree(t *testing.T) {
	var b bytes.Buffer
	tr := New(&b, Options{Zone: time.UTC})
	tr.Print("hello")
	tr.Update(historytest.SampleUntil(start, time.Hour).Snapshot())
	tr.Print("what came before this stands before it")
	require.NoError(t, tr.Close())
	assert.NotContains(t, b.String(), "\x1b")
	assert.True(t, strings.HasPrefix(b.String(), "hello\n09:30:00.000 churn.pipeline RUNNING\n"))
	assert.True(t, strings.HasSuffix(b.String(), "\nwhat came before this stands before it\n"))
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the pipe is gone") }

func TestAnErrorInWriting(t *testing.T) {
	tr := New(broken{}, Options{})
	tr.Update(historytest.SampleUntil(start, time.Hour).Snapshot())
	require.ErrorContains(t, tr.Close(), "cannot draw: the pipe is gone")
}

func TestGist(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain",
		"USER:ValueError: Trace:\n\n    Traceback\n      x\n\nMessage:\n\n    ValueError: no": "USER:ValueError: ValueError: no",
		"[1]: Trace:\n\n    Traceback\n\nMessage:\n\n    ValueError: no\n":                    "[1]: ValueError: no",
		"Trace:\nwithout a message":    "Trace:\nwithout a message",
		"\nMessage:\n before Trace:\n": "\nMessage:\n before Trace:\n",
	} {
		require.Equal(t, want, gist(text))
	}
}

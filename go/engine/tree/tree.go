// Package tree shows a run on a terminal while it goes on: a tree that is drawn in place, or, where the output is no
// terminal, one line for each change.
package tree

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
)

// Options say how to draw.
type Options struct {
	// Live draws in place, with control codes. Otherwise there is a line for each change.
	Live bool
	// Color allows colours.
	Color bool
	// Width and Height tell the terminal's size at the moment; nil, or 0, is 80 by 24.
	Width, Height func() int
	// Zone is that of the times in lines; nil is the local one.
	Zone *time.Location
	// Now replaces the clock, for tests.
	Now func() time.Time
}

// For chooses the options for a file: live with colours on a terminal that is not dumb, and no colours where NO_COLOR is
// set (https://no-color.org).
func For(f *os.File) Options {
	fd := int(f.Fd())
	kind := os.Getenv("TERM")
	live := term.IsTerminal(fd) && kind != "dumb"
	size := func(pick func(w, h int) int) func() int {
		return func() int {
			w, h, err := term.GetSize(fd)
			if err != nil {
				return 0
			}
			return pick(w, h)
		}
	}
	return Options{
		Live: live, Color: live && os.Getenv("NO_COLOR") == "",
		Width: size(func(w, _ int) int { return w }), Height: size(func(_, h int) int { return h }),
	}
}

// Between frames at least so much time passes.
const frameTime = 100 * time.Millisecond

// Tree draws snapshots. Its methods may be called from several goroutines; Update does not wait for the drawing.
type Tree struct {
	w    io.Writer
	opts Options

	mu       sync.Mutex
	snapshot *history.Snapshot
	closed   bool
	err      error
	frame    frame
	lines    lines

	stop, stopped chan struct{}
}

// New starts to draw on w. It must be closed.
func New(w io.Writer, opts Options) *Tree {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Zone == nil {
		opts.Zone = time.Local
	}
	t := &Tree{w: w, opts: opts, stop: make(chan struct{}), stopped: make(chan struct{})}
	t.lines.init(opts.Zone)
	go t.loop()
	return t
}

// Update gives the tree what to show from now on. More than ten times a second is of no use.
func (t *Tree) Update(s *history.Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.snapshot = s
	}
}

// Print writes a line above the tree, for what others have to say meanwhile. Where there is no tree but a line for each change,
// it comes after those of the last Update.
func (t *Tree) Print(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text = strings.TrimRight(text, "\n") + "\n"
	if !t.opts.Live || t.closed {
		if !t.closed {
			t.render(false)
		}
		t.write(text)
		return
	}
	w, h := t.size()
	t.write(t.frame.clear(w, h) + text + t.draw(false))
}

// Close draws the last snapshot a last time, all of it, and leaves it there. It returns the first error in writing.
func (t *Tree) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	close(t.stop)
	<-t.stopped
	t.mu.Lock()
	defer t.mu.Unlock()
	t.render(true)
	return t.err
}

func (t *Tree) loop() {
	defer close(t.stopped)
	tick := time.NewTicker(frameTime)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			t.mu.Lock()
			t.render(false)
			t.mu.Unlock()
		}
	}
}

func (t *Tree) size() (columns, rows int) {
	columns, rows = 80, 24
	if t.opts.Width != nil {
		if w := t.opts.Width(); w > 0 {
			columns = w
		}
	}
	if t.opts.Height != nil {
		if h := t.opts.Height(); h > 0 {
			rows = h
		}
	}
	return columns, rows
}

func (t *Tree) write(s string) {
	if s == "" || t.err != nil {
		return
	}
	if _, err := io.WriteString(t.w, s); err != nil {
		t.err = fmt.Errorf("cannot draw: %w", err)
	}
}

func (t *Tree) render(final bool) {
	if t.snapshot == nil {
		return
	}
	if t.opts.Live {
		t.write(t.draw(final))
		return
	}
	t.write(t.lines.since(t.snapshot))
}

// Render is the tree of a snapshot as lines, without control codes: what a live tree leaves on the screen.
func Render(s *history.Snapshot, columns int) string {
	v := view{now: s.At, final: true}
	return strings.Join(layout(v.rows(s), columns, 0, false), "\n") + "\n"
}

func (t *Tree) draw(final bool) string {
	if t.snapshot == nil {
		return ""
	}
	columns, rows := t.size()
	v := view{now: t.opts.Now(), final: final}
	// The last column stays free: in it, terminals differ in when they wrap. The last row holds the cursor.
	height := max(rows-1, 1)
	if final {
		height = 0
	}
	return t.frame.next(layout(v.rows(t.snapshot), max(columns-1, 1), height, t.opts.Color), columns, rows)
}

// frame is what is on the screen.
type frame struct {
	lines         []string
	columns, rows int
}

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	// Terminals that know these draw what is between at once, and others leave them out.
	beginSync = "\x1b[?2026h"
	endSync   = "\x1b[?2026l"
)

// next gives the codes that turn the screen from the last frame into these lines; nothing if they are the same.
func (f *frame) next(lines []string, columns, rows int) string {
	var b strings.Builder
	same := len(lines) == len(f.lines)
	if f.columns != columns || f.rows != rows {
		b.WriteString(f.clear(columns, rows))
		same = false
	} else if n := len(f.lines); n > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", n)
	}
	for i, l := range lines {
		if i < len(f.lines) && f.lines[i] == l {
			b.WriteByte('\n')
			continue
		}
		same = false
		b.WriteString(l + "\x1b[K\n")
	}
	if len(lines) < len(f.lines) {
		b.WriteString("\x1b[J")
	}
	if same {
		return ""
	}
	f.lines, f.columns, f.rows = lines, columns, rows
	return beginSync + hideCursor + b.String() + showCursor + endSync
}

// clear gives the codes that take the last frame off the screen, also one that the terminal has wrapped anew because
// its width changed.
func (f *frame) clear(columns, rows int) string {
	if len(f.lines) == 0 {
		return ""
	}
	up := 0
	for _, l := range f.lines {
		up += max(1, (displayWidth(stripCodes(l))+columns-1)/columns)
	}
	f.lines = nil
	return fmt.Sprintf("\r\x1b[%dA\x1b[J", min(up, max(rows-1, 1)))
}

// stripCodes takes our own colours out.
func stripCodes(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		_, s, _ = strings.Cut(after, "m")
	}
}

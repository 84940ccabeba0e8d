package tree

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
)

// line is a row with the branches before it.
type line struct {
	prefix string
	row    *row
}

// layout turns rows into at most height lines (0 means as many as there are) of at most columns each.
func layout(rows []*row, columns, height int, color bool) []string {
	lines := flatten(rows, choose(rows, height))
	if height > 0 && len(lines) > height {
		more := len(lines) - height + 1
		lines = append(lines[:height-1], line{row: &row{left: []span{{fmt.Sprintf("… %d more lines", more), dim}}}})
	}
	// The right column begins where the longest left ends, but leaves itself half of the screen.
	column := 0
	for _, l := range lines {
		if len(l.row.right) > 0 {
			column = max(column, displayWidth(l.prefix)+spansWidth(l.row.left)+2)
		}
	}
	column = min(column, max(columns*55/100, 16))
	out := make([]string, len(lines))
	for i, l := range lines {
		w := writer{columns: columns, color: color}
		w.put(span{l.prefix, dim})
		if len(l.row.right) == 0 {
			w.all(l.row.left)
		} else {
			w.columns = min(columns, column-2)
			w.all(l.row.left)
			w.columns = columns
			w.put(span{strings.Repeat(" ", max(0, column-w.at)), plain})
			w.all(l.row.right)
		}
		out[i] = strings.TrimRight(w.b.String(), " ")
	}
	return out
}

func spansWidth(spans []span) int {
	n := 0
	for _, s := range spans {
		n += displayWidth(s.text)
	}
	return n
}

// writer puts spans into a line until it is full.
type writer struct {
	b       strings.Builder
	at      int
	columns int
	color   bool
}

func (w *writer) all(spans []span) {
	for _, s := range spans {
		w.put(s)
	}
}

func (w *writer) put(s span) {
	text := cut(s.text, w.columns-w.at)
	if text == "" {
		return
	}
	w.at += displayWidth(text)
	if w.color && s.style != plain {
		w.b.WriteString("\x1b[" + string(s.style) + "m" + text + "\x1b[0m")
		return
	}
	w.b.WriteString(text)
}

type placed struct {
	row    *row
	parent *placed
}

// choose is the set of rows that fit, the most relevant ones; nil means all.
func choose(rows []*row, height int) map[*row]bool {
	var all []*placed
	var walk func(rows []*row, parent *placed)
	walk = func(rows []*row, parent *placed) {
		for _, r := range rows {
			p := &placed{r, parent}
			all = append(all, p)
			walk(r.children, p)
		}
	}
	walk(rows, nil)
	if height <= 0 || len(all) <= height {
		return nil
	}
	slices.SortStableFunc(all, func(a, b *placed) int { return a.row.rank - b.row.rank })
	take := func(n int) map[*row]bool {
		chosen := make(map[*row]bool, 2*n)
		for _, p := range all[:n] {
			for ; p != nil && !chosen[p.row]; p = p.parent {
				chosen[p.row] = true
			}
		}
		return chosen
	}
	// More rows are more lines, but for the one that says what was left out; layout cuts that one off.
	n := sort.Search(len(all), func(n int) bool { return countLines(rows, take(n+1)) > height })
	return take(n)
}

func countLines(rows []*row, chosen map[*row]bool) int {
	n, hidden := 0, false
	for _, r := range rows {
		if chosen[r] {
			n += 1 + countLines(r.children, chosen)
		} else if !r.detail && !r.quiet {
			hidden = true
		}
	}
	if hidden {
		n++
	}
	return n
}

// flatten draws the branches, with one line for what is left out among siblings.
func flatten(rows []*row, chosen map[*row]bool) []line {
	var out []line
	for _, r := range rows {
		if chosen == nil || chosen[r] {
			out = append(out, line{"", r})
			out = below(out, "", r.children, chosen)
		}
	}
	if h := hiddenRow(rows, chosen); h != nil {
		out = append(out, line{"", h})
	}
	return out
}

func below(out []line, indent string, rows []*row, chosen map[*row]bool) []line {
	var shown []*row
	for _, r := range rows {
		if chosen == nil || chosen[r] {
			shown = append(shown, r)
		}
	}
	if h := hiddenRow(rows, chosen); h != nil {
		shown = append(shown, h)
	}
	last := -1 // details hang on a line that goes on only if a thing follows
	for i, r := range shown {
		if !r.detail {
			last = i
		}
	}
	for i, r := range shown {
		branch, next := "├─ ", "│  "
		switch {
		case r.detail && i < last:
			branch = "│  "
		case r.detail:
			branch, next = "   ", "   "
		case i == last:
			branch, next = "└─ ", "   "
		}
		out = append(out, line{indent + branch, r})
		out = below(out, indent+next, r.children, chosen)
	}
	return out
}

// hiddenRow is "… 17 more succeeded, 2 pending".
func hiddenRow(rows []*row, chosen map[*row]bool) *row {
	if chosen == nil {
		return nil
	}
	var order []string
	count := map[string]int{}
	for _, r := range rows {
		if chosen[r] || r.detail || r.quiet {
			continue
		}
		word := phaseWord(r.phase)
		if count[word] == 0 {
			order = append(order, word)
		}
		count[word]++
	}
	if len(order) == 0 {
		return nil
	}
	parts := make([]string, len(order))
	for i, word := range order {
		parts[i] = fmt.Sprintf("%d more %s", count[word], word)
	}
	return &row{left: []span{{"… " + strings.Join(parts, ", "), dim}}}
}

func phaseWord(p history.Phase) string {
	switch {
	case p.Good():
		return "succeeded"
	case p.Bad():
		return "failed"
	case p.Working():
		return "running"
	case p.Active():
		return "queued"
	case p == history.Skipped, p == history.NotRun:
		return "not run"
	default:
		return "pending"
	}
}

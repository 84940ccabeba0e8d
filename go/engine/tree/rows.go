package tree

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
)

type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

type span struct {
	text  string
	style style
}

// row is one line, and what hangs below it.
type row struct {
	// left is aligned with other rows' left, right follows in its own column.
	left, right []span
	phase       history.Phase
	// detail is a line of its parent's, not a thing of its own: it is not counted among those left out.
	detail bool
	// quiet is a thing that is not counted either, since its parent's line does so.
	quiet bool
	// rank says what has to go first when there is no room: the highest.
	rank     int
	children []*row
}

// Ranks.
const (
	rankHead = iota
	rankFailed
	rankWorking
	rankError
	rankFailedItem
	rankWaiting
	rankItem
	rankLink
	rankPending
	rankDone
	rankNotRun
)

func rankOf(p history.Phase) int {
	switch {
	case p == history.NotRun || p == history.Skipped:
		return rankNotRun
	case p.Bad():
		return rankFailed
	case p.Good():
		return rankDone
	case p.Working():
		return rankWorking
	case p.Active():
		return rankWaiting
	default:
		return rankPending
	}
}

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// spinStep is how long one picture of the spinner stands.
const spinStep = 100 * time.Millisecond

func (v *view) symbol(p history.Phase, gate bool) span {
	switch {
	case p.Good():
		return span{"✓", green}
	case p == history.Failed || p == history.TimedOut || p == history.Failing:
		return span{"✗", red}
	case p == history.Aborted || p == history.Aborting:
		return span{"⊘", red}
	case p == history.Skipped:
		return span{"↷", dim}
	case gate && p.Active():
		return span{"◆", yellow}
	case p.Working() && !v.final:
		return span{string(spinner[int(v.now.UnixNano()/int64(spinStep))%len(spinner)]), cyan}
	case p.Working():
		return span{"●", cyan}
	case p.Active():
		return span{"○", yellow}
	default:
		return span{"·", dim}
	}
}

func phaseStyle(p history.Phase) style {
	switch {
	case p.Good():
		return green
	case p.Bad():
		return red
	case p.Working():
		return cyan
	case p.Active():
		return yellow
	default:
		return dim
	}
}

// view is one look at a snapshot.
type view struct {
	now   time.Time
	final bool
}

func (v *view) rows(s *history.Snapshot) []*row {
	rows := make([]*row, 0, len(s.Executions))
	for _, x := range s.Executions {
		r := &row{phase: x.Phase, rank: min(rankOf(x.Phase), rankPending)}
		if len(s.Executions) == 1 {
			r.rank = rankHead
		}
		r.left = []span{v.symbol(x.Phase, false), {" ", plain}, {clean(x.Title()), bold}}
		if x.Title() != x.Name {
			r.left = append(r.left, span{" " + clean(x.Name), dim})
		}
		r.right = []span{{x.Phase.String(), phaseStyle(x.Phase)}}
		if !x.Started.IsZero() {
			r.right = append(r.right, span{" " + Duration(x.Elapsed(v.now)), plain})
		}
		if x.Message != "" {
			r.right = append(r.right, span{"  " + clean(x.Message), plain})
		}
		if x.Error != nil && !slices.ContainsFunc(x.Nodes, func(n *history.Node) bool { return n.Error != nil }) {
			r.children = append(r.children, errorRows(x.Error)...)
		}
		if x.Phase.Good() && !v.final && len(s.Executions) > 1 {
			rows = append(rows, r) // its nodes are of no interest among many others
			continue
		}
		for _, n := range x.Nodes {
			r.children = append(r.children, v.node(n))
		}
		rows = append(rows, r)
	}
	return rows
}

func (v *view) node(n *history.Node) *row {
	p := n.Shown()
	r := &row{phase: p, rank: rankOf(p)}
	title := span{clean(n.Title()), plain}
	switch {
	case p.Bad():
		title.style = bold
	case !p.Active() && !p.Final(), p == history.NotRun, p == history.Skipped:
		title.style = dim
	}
	r.left = []span{v.symbol(p, n.Gate != nil), {" ", plain}, {clean(n.SpecID) + " ", dim}, title}
	if n.Kind != history.KindTask && n.Kind != history.KindNode && string(n.Kind) != title.text {
		r.left = append(r.left, span{" " + string(n.Kind), dim})
	}
	v.nodeRight(r, n, p)

	if n.Error != nil && !bearsChildError(n) {
		r.children = append(r.children, errorRows(n.Error)...)
	}
	if a := n.Last(); a != nil && (p.Active() || p.Bad()) {
		for i, l := range a.Links {
			if i == 3 {
				break
			}
			r.children = append(r.children, &row{detail: true, rank: rankLink, left: []span{{"↗ ", dim}, {clean(l.Name), dim}, {" " + clean(l.URI), cyan}}})
		}
	}
	if n.Map != nil {
		r.children = append(r.children, v.items(n.Map, p)...)
	}
	for _, c := range n.Children {
		if c.Phase == history.Pending && !p.Active() {
			continue // what has not begun is not taken apart yet
		}
		if c.Phase == history.NotRun && (n.Kind == history.KindBranch || p == history.NotRun) {
			continue // the cases that a branch did not choose
		}
		r.children = append(r.children, v.node(c))
	}
	if n.Launched != nil {
		for _, c := range n.Launched.Nodes {
			r.children = append(r.children, v.node(c))
		}
	}
	return r
}

func (v *view) nodeRight(r *row, n *history.Node, p history.Phase) {
	add := func(text string, st style) {
		if len(r.right) > 0 {
			text = "  " + text
		}
		r.right = append(r.right, span{text, st})
	}
	if p != history.Pending && p != history.NotRun {
		add(p.String(), phaseStyle(p))
	} else if p == history.NotRun {
		add("not run", dim)
	}
	if !n.Started.IsZero() && p != history.Skipped {
		r.right = append(r.right, span{" " + Duration(n.Elapsed(v.now)), plain})
	}
	if c := len(n.Attempts); c > 1 {
		text := fmt.Sprintf("attempt %d", c)
		if n.Retries+1 >= c {
			text += fmt.Sprintf(" of %d", n.Retries+1)
		}
		add(text, yellow)
	}
	if m := n.Map; m != nil {
		add(fmt.Sprintf("%d/%d", m.Counts.Succeeded, m.Total), plain)
		r.right = append(r.right, bar(m)...)
		if m.Counts.Running > 0 {
			add(fmt.Sprintf("%d running", m.Counts.Running), cyan)
		}
		if m.Counts.Failed > 0 {
			add(fmt.Sprintf("%d failed", m.Counts.Failed), red)
		}
	}
	if n.Cache == "hit" {
		add("from the cache", green)
	}
	if n.Launched != nil && p.Active() {
		add(clean(n.Launched.Name), dim)
	}
	if m := n.Message(); m != "" {
		add(clean(m), plain)
	}
}

// barWidth is how many columns a map's progress gets.
const barWidth = 10

func bar(m *history.Map) []span {
	if m.Total == 0 {
		return nil
	}
	done := m.Counts.Succeeded * barWidth / m.Total
	failed := m.Counts.Failed * barWidth / m.Total
	if m.Counts.Failed > 0 && failed == 0 && done < barWidth {
		failed = 1
	}
	running := min(m.Counts.Running*barWidth/m.Total, barWidth-done-failed)
	return []span{
		{" ", plain}, {strings.Repeat("━", done), green}, {strings.Repeat("━", failed), red}, {strings.Repeat("━", running), cyan},
		{strings.Repeat("─", barWidth-done-failed-running), dim},
	}
}

// maxItems bounds the rows of a map's items: the bar tells the rest.
const maxItems = 8

func (v *view) items(m *history.Map, of history.Phase) []*row {
	var rows []*row
	for _, wanted := range []struct {
		is   func(history.Phase) bool
		rank int
		word string
	}{{history.Phase.Bad, rankFailedItem, "failed"}, {history.Phase.Working, rankItem, "running"}} {
		if v.final && wanted.rank == rankItem {
			continue
		}
		if of.Good() {
			wanted.rank = rankLink // the map could do without them
		}
		shown, more := 0, 0
		for _, i := range m.Items {
			if !wanted.is(i.Phase) {
				continue
			}
			if shown >= maxItems {
				more++
				continue
			}
			shown++
			rows = append(rows, v.item(i, wanted.rank))
		}
		if more > 0 {
			rows = append(rows, &row{quiet: true, rank: wanted.rank, left: []span{{fmt.Sprintf("… %d more %s", more, wanted.word), dim}}})
		}
	}
	return rows
}

func (v *view) item(i *history.Item, rank int) *row {
	r := &row{quiet: rank == rankItem, phase: i.Phase, rank: rank, left: []span{v.symbol(i.Phase, false), {fmt.Sprintf(" #%d", i.Index), plain}}}
	if i.Job != "" {
		r.left = append(r.left, span{" " + clean(i.Job), dim})
	}
	end := i.Ended
	if end.IsZero() {
		end = v.now
	}
	r.right = []span{{i.Phase.String(), phaseStyle(i.Phase)}, {" " + Duration(end.Sub(i.Started)), plain}}
	if i.Attempt > 0 {
		r.right = append(r.right, span{fmt.Sprintf("  attempt %d", i.Attempt+1), yellow})
	}
	if len(i.Links) > 0 && i.Phase.Bad() {
		r.right = append(r.right, span{"  " + clean(i.Links[0].URI), cyan})
	}
	return r
}

// maxErrorLines bounds an error in the tree; the report has all of it.
const maxErrorLines = 4

func errorRows(e *history.Error) []*row {
	var rows []*row
	text := gist(e.Message)
	if e.Code != "" {
		text = e.Code + ": " + text
	}
	for line := range strings.Lines(text) {
		if line = clean(line); line == "" {
			continue
		}
		if len(rows) == maxErrorLines {
			rows = append(rows, &row{detail: true, rank: rankLink, left: []span{{"…", dim}}})
			break
		}
		rank := rankError
		if len(rows) > 0 {
			rank = rankLink
		}
		rows = append(rows, &row{detail: true, rank: rank, left: []span{{line, red}}})
	}
	return rows
}

// Duration is short and steady in length: 0.4s, 12.3s, 4m05s, 2h07m.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0s"
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
}

// bearsChildError says that the same error is shown further down.
func bearsChildError(n *history.Node) bool {
	same := func(c *history.Node) bool {
		return c.Error != nil && c.Error.Message != "" && strings.Contains(n.Error.Message, c.Error.Message)
	}
	return slices.ContainsFunc(n.Children, same) || n.Launched != nil && slices.ContainsFunc(n.Launched.Nodes, same)
}

// gist is the message at the end of what flytekit tells of an exception, which begins with the whole traceback: only the
// beginning would be seen.
func gist(text string) string {
	before, _, ok := strings.Cut(text, "Trace:\n")
	last := strings.LastIndex(text, "\nMessage:\n")
	if !ok || last < len(before) {
		return text
	}
	return before + strings.TrimSpace(text[last+len("\nMessage:\n"):])
}

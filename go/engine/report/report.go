// Package report writes one HTML page of a run: what failed, the graph, when everything ran, what it said, its inputs
// and outputs. The page is one file that loads nothing, and can be attached to a ticket or kept.
package report

import (
	"cmp"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Info is what to tell besides the run.
type Info struct {
	// Title heads the page; empty is the workflow's name.
	Title    string
	Versions []Version
	// Zone is that of the times; nil is UTC, since a report is read anywhere.
	Zone *time.Location
}

// Version of something that took part.
type Version struct{ Name, Value string }

// Limits of what is shown. A page must stay small enough to open on a phone; the events' own store has all of it.
const (
	maxEvents   = 2000
	maxMessages = 40
	maxText     = 1500
	maxLiteral  = 400
	maxError    = 8000
	maxPairs    = 60
)

//go:embed page.tmpl
var pageText string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// Write writes the page.
func Write(w io.Writer, s *history.Snapshot, info Info) error {
	if err := pageTemplate.Execute(w, newPage(s, info)); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// page is what the template gets.
type page struct {
	CSS    template.CSS
	JS     template.JS
	Policy string

	Title, Word, Class, Symbol string
	Heading                    []string
	Versions                   []Version
	Runs                       []*run
	Stats                      []stat
	Events                     []eventRow
	EventPhases                []string
	MoreEvents                 int
	Written                    string

	now     time.Time
	zone    *time.Location
	anchors map[*history.Node]string
	first   time.Time
}

type stat struct{ Value, Name, Class string }

type run struct {
	Name, Title, Phase, Class, Symbol string
	Started, Took                     string
	Message                           string
	Problems                          []problem
	Inputs, Outputs                   []pair
	OutputURI                         string
	Graph                             *drawing
	Fits                              bool
	Ticks                             []tick
	Rows                              []*row
}

type problem struct {
	Anchor, Title, Kind, Code, Text string
	Links                           []link
}

type pair struct{ Name, Value string }

type link struct {
	Name, Text string
	// Href is empty for what a browser must not follow.
	Href string
}

type tick struct {
	X    float64
	Text string
	End  bool
}

// row is a line of the timeline with what it opens to.
type row struct {
	Anchor, ID, Title, Kind, Phase, Class, Symbol, Took, Note string
	Depth                                                     int
	Bars                                                      []barPart
	Facts                                                     []pair
	Error                                                     *problem
	Attempts                                                  []attempt
	Inputs, Outputs                                           []pair
	Items                                                     []item
	ItemsText                                                 string
}

type barPart struct {
	X, W       float64
	Class, Tip string
}

type attempt struct {
	Name, Phase, Class, Took, Plugin string
	Steps                            []step
	Messages                         []message
	More                             int
	Links                            []link
	Jobs                             []string
	Custom                           string
	Error                            *problem
}

type step struct{ Phase, Class, Took, At string }

type message struct{ At, Text string }

type item struct {
	Index                      int
	Phase, Class, Symbol, Took string
	Job, Note, Output          string
	Bars                       []barPart
	Links                      []link
}

type eventRow struct{ At, Clock, Where, Anchor, Phase, Class, Message string }

func newPage(s *history.Snapshot, info Info) *page {
	p := &page{
		CSS:    template.CSS(pageCSS), //nolint:gosec // our own file
		JS:     template.JS(pageJS),   //nolint:gosec // our own file
		Policy: "default-src 'none'; img-src data:; style-src " + hash(pageCSS) + "; script-src " + hash(pageJS) + "; base-uri 'none'; form-action 'none'",
		Title:  info.Title, Versions: info.Versions, now: s.At, zone: info.Zone, anchors: map[*history.Node]string{},
	}
	if p.zone == nil {
		p.zone = time.UTC
	}
	p.Written = s.At.In(p.zone).Format("2 January 2006, 15:04:05 MST")
	worst := history.Succeeded
	all := true
	s.Walk(func(x *history.Execution, n *history.Node, _ int) bool {
		if n != nil {
			p.anchors[n] = fmt.Sprintf("n%d", len(p.anchors)+1)
			return true
		}
		if !x.Started.IsZero() && (p.first.IsZero() || x.Started.Before(p.first)) {
			p.first = x.Started
		}
		return true
	})
	for _, x := range s.Executions {
		all = all && x.Phase.Final()
		if x.Phase.Bad() {
			worst = x.Phase
		} else if !x.Phase.Final() && !worst.Bad() {
			worst = x.Phase
		}
		p.Runs = append(p.Runs, p.run(x, len(s.Executions) == 1))
	}
	if len(s.Executions) == 0 {
		worst = history.Unknown
	}
	p.Word, p.Class, p.Symbol = word(worst), class(worst), symbol(worst, false)
	if len(p.Runs) == 1 {
		p.Title = cmp.Or(p.Title, s.Executions[0].Title())
		p.Heading = []string{p.Runs[0].Name, p.Runs[0].Started, p.Runs[0].Took}
	} else {
		p.Title = cmp.Or(p.Title, fmt.Sprintf("%d executions", len(p.Runs)))
	}
	p.stats(s)
	p.events(s)
	return p
}

func (p *page) run(x *history.Execution, only bool) *run {
	r := &run{
		Name: x.Name, Title: x.Title(), Phase: word(x.Phase), Class: class(x.Phase), Symbol: symbol(x.Phase, false), Message: x.Message,
		Inputs: pairs(x.Inputs), Outputs: pairs(x.Outputs), OutputURI: x.OutputURI,
	}
	if !x.Started.IsZero() {
		r.Started = x.Started.In(p.zone).Format("2 January 2006, 15:04:05 MST")
		r.Took = duration(x.Elapsed(p.now))
		if x.Ended.IsZero() {
			r.Took += " so far"
		}
	}
	r.Problems = p.problems(x)
	d := drawer{p: p, nested: countNodes(x.Nodes) <= maxNested}
	if only || len(x.Nodes) > 1 {
		r.Graph = d.draw(x.Nodes, x.Edges)
		r.Fits = r.Graph.W <= 620
	}
	from, to := extent(x, p.now)
	t := timeline{p: p, from: from, span: max(to.Sub(from), time.Millisecond)}
	r.Ticks = t.ticks()
	r.Rows = t.rows(nil, x.Nodes, 0)
	return r
}

// problems are the errors nearest to their cause: what contains a failed node fails with the same error, and is left out.
func (p *page) problems(x *history.Execution) []problem {
	var found []problem
	if !x.Phase.Bad() {
		return nil
	}
	seen := func(text string) bool {
		return slices.ContainsFunc(found, func(f problem) bool { return f.Text != "" && strings.Contains(text, f.Text) })
	}
	var visit func(nodes []*history.Node)
	visit = func(nodes []*history.Node) {
		for _, n := range nodes {
			visit(n.Children)
			if n.Launched != nil {
				visit(n.Launched.Nodes)
			}
			if n.Error == nil || n.Phase == history.Aborted || len(found) >= 20 || seen(n.Error.Message) {
				continue
			}
			f := p.problem(n.Error)
			f.Title, f.Anchor = n.Title(), p.anchors[n]
			if a := n.Last(); a != nil {
				f.Links = links(a.Links)
			}
			found = append(found, *f)
		}
	}
	visit(x.Nodes)
	if x.Error != nil && !seen(x.Error.Message) && (len(found) == 0 || !strings.Contains(found[0].Text, x.Error.Message)) {
		found = append(found, *p.problem(x.Error))
	}
	return found
}

func (p *page) problem(e *history.Error) *problem {
	if e == nil {
		return nil
	}
	kind := map[string]string{"USER": "user error", "SYSTEM": "system error"}[e.Kind]
	return &problem{Kind: kind, Code: e.Code, Text: history.Shorten(e.Message, maxError)}
}

func (p *page) stats(s *history.Snapshot) {
	var nodes, done, failed, active, again, hits, items int
	s.Walk(func(_ *history.Execution, n *history.Node, _ int) bool {
		if n == nil {
			return true
		}
		nodes++
		switch {
		case n.Phase.Good():
			done++
		case n.Phase.Bad():
			failed++
		case n.Phase.Active():
			active++
		}
		again += max(0, len(n.Attempts)-1)
		if n.Cache == "hit" {
			hits++
		}
		if n.Map != nil {
			items += n.Map.Total
			for _, i := range n.Map.Items {
				again += i.Attempt
			}
		}
		return true
	})
	add := func(n int, name, class string, always bool) {
		if n == 0 {
			class = "" // neither good nor bad
		}
		if n > 0 || always {
			p.Stats = append(p.Stats, stat{fmt.Sprint(n), name, class})
		}
	}
	add(nodes, "nodes", "", true)
	add(done, "succeeded", "ok", true)
	add(failed, "failed", "bad", true)
	add(active, "under way", "run", false)
	add(items, "map items", "", false)
	add(again, "retries", "wait", false)
	add(hits, "from the cache", "", false)
}

func (p *page) events(s *history.Snapshot) {
	where := map[string]*history.Node{}
	title := map[string]string{}
	s.Walk(func(x *history.Execution, n *history.Node, _ int) bool {
		if n == nil {
			title[x.Name] = x.Title()
		} else {
			where[x.Name+"\x00"+n.ID] = n
		}
		return true
	})
	records := s.Records
	p.MoreEvents = s.Dropped
	if len(records) > maxEvents {
		p.MoreEvents += len(records) - maxEvents
		records = records[len(records)-maxEvents:]
	}
	used := map[history.Phase]bool{}
	for _, r := range records {
		row := eventRow{
			At: "+" + duration(r.At.Sub(p.first)), Clock: r.At.In(p.zone).Format("15:04:05.000"), Phase: r.Phase.String(), Class: class(r.Phase),
			Message: history.Shorten(r.Message, maxText),
		}
		used[r.Phase] = true
		if n := where[r.Execution+"\x00"+r.Node]; n != nil {
			row.Where, row.Anchor = n.Title(), p.anchors[n]
		} else {
			row.Where = cmp.Or(title[r.Execution], r.Execution)
		}
		if r.Attempt > 0 {
			row.Where += fmt.Sprintf(", attempt %d", r.Attempt+1)
		}
		p.Events = append(p.Events, row)
	}
	for _, phase := range slices.Sorted(maps.Keys(used)) {
		p.EventPhases = append(p.EventPhases, phase.String())
	}
}

// extent is from when to when an execution's timeline goes.
func extent(x *history.Execution, now time.Time) (from, to time.Time) {
	from, to = x.Started, x.Ended
	x.Walk(0, func(_ *history.Execution, n *history.Node, _ int) bool {
		if n != nil && !n.Started.IsZero() {
			if from.IsZero() || n.Started.Before(from) {
				from = n.Started
			}
			if !x.Ended.IsZero() && n.Ended.After(to) {
				to = n.Ended
			}
		}
		return true
	})
	if x.Ended.IsZero() {
		to = now
	}
	return from, to
}

func pairs(m *core.LiteralMap) []pair {
	var out []pair
	for _, name := range slices.Sorted(maps.Keys(m.GetLiterals())) {
		if len(out) == maxPairs {
			return append(out, pair{"…", fmt.Sprintf("%d more", len(m.GetLiterals())-maxPairs)})
		}
		out = append(out, pair{name, history.Text(m.GetLiterals()[name], maxLiteral)})
	}
	return out
}

func links(in []history.Link) []link {
	var out []link
	for _, l := range in {
		out = append(out, toLink(l))
	}
	return out
}

// toLink makes a link of a web address, and a text of anything else: a script's address or a local file's must not be
// one click away.
func toLink(l history.Link) link {
	out := link{Name: cmp.Or(l.Name, l.URI), Text: history.Shorten(l.URI, 300)}
	if u, err := url.Parse(l.URI); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		out.Href = u.String()
	}
	return out
}

func class(p history.Phase) string {
	switch {
	case p.Good():
		return "ok"
	case p.Bad():
		return "bad"
	case p.Working():
		return "run"
	case p.Active():
		return "wait"
	default:
		return "idle"
	}
}

func symbol(p history.Phase, gate bool) string {
	switch {
	case p.Good():
		return "✓"
	case p == history.Aborted || p == history.Aborting:
		return "⊘"
	case p.Bad():
		return "✕"
	case gate && p.Active():
		return "◆"
	case p.Working():
		return "●"
	case p.Active():
		return "○"
	default:
		return "·"
	}
}

// word is the phase in a sentence.
func word(p history.Phase) string { return strings.ToLower(p.String()) }

func duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	}
}

func roundDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return strings.Replace(fmt.Sprintf("%.1f s", d.Seconds()), ".0 s", " s", 1)
	case d%time.Minute == 0 && d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	default:
		return duration(d)
	}
}

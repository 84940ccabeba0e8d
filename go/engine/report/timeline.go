package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

type timeline struct {
	p    *page
	from time.Time
	span time.Duration
}

// percent of the timeline, with one decimal or two: no screen shows more.
func (t *timeline) percent(d time.Duration) float64 {
	return float64(int(10000*float64(d)/float64(t.span))) / 100
}

func (t *timeline) ticks() []tick {
	steps := []time.Duration{
		time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
		100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
		20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
	}
	width := steps[len(steps)-1]
	for _, s := range steps {
		if t.span/s <= 5 {
			width = s
			break
		}
	}
	width = max(width, t.span/5)
	var ticks []tick
	for at := time.Duration(0); at <= t.span; at += width {
		x := t.percent(at)
		ticks = append(ticks, tick{X: x, Text: roundDuration(at), End: x > 92})
	}
	return ticks
}

func (t *timeline) bars(steps []history.Step, attempt string) []barPart {
	var bars []barPart
	for i, s := range steps {
		if s.Phase.Final() {
			if i == 0 { // a cache hit, or what was skipped: a moment
				bars = append(bars, barPart{t.percent(s.At.Sub(t.from)), 0.5, class(s.Phase), s.Phase.String()})
			}
			continue
		}
		end := s.End
		if end.IsZero() {
			end = t.p.now
		}
		cls := class(s.Phase)
		// The last stretch shows how it ended.
		if s.Phase.Working() && i+1 < len(steps) && steps[i+1].Phase.Final() {
			cls = class(steps[i+1].Phase)
		}
		bars = append(bars, barPart{
			X: t.percent(s.At.Sub(t.from)), W: max(0.35, t.percent(end.Sub(s.At))), Class: cls,
			Tip: strings.TrimSpace(fmt.Sprintf("%s %s for %s, from +%s", attempt, s.Phase, duration(end.Sub(s.At)), duration(s.At.Sub(t.from)))),
		})
	}
	return bars
}

func (t *timeline) rows(rows []*row, nodes []*history.Node, depth int) []*row {
	for _, n := range nodes {
		rows = append(rows, t.row(n, depth))
		rows = t.rows(rows, n.Earlier, depth+1)
		rows = t.rows(rows, n.Children, depth+1)
		if n.Launched != nil {
			rows = t.rows(rows, n.Launched.Nodes, depth+1)
		}
	}
	return rows
}

func (t *timeline) row(n *history.Node, depth int) *row {
	ph := n.Shown()
	r := &row{
		Anchor: t.p.anchors[n], ID: n.SpecID, Title: n.Title(), Kind: cmp.Or(n.TaskType, string(n.Kind)), Phase: ph.String(), Class: class(ph),
		Symbol: symbol(ph, n.Gate != nil), Depth: min(depth, 6), Inputs: pairs(n.Inputs), Outputs: pairs(n.Outputs), Note: history.Shorten(n.Message(), 200),
	}
	if !n.Started.IsZero() {
		r.Took = duration(n.Elapsed(t.p.now))
	} else {
		r.Took = word(ph)
	}
	if n.Map != nil {
		r.Kind = "map of " + cmp.Or(n.TaskType, "items")
	}
	if n.Cache == "hit" {
		r.Note = "from the cache"
	}
	fact := func(name, value string) {
		if value != "" {
			r.Facts = append(r.Facts, pair{name, value})
		}
	}
	fact("Node", n.SpecID)
	fact("Kind", string(n.Kind))
	fact("Entity", n.Entity)
	fact("Task type", n.TaskType)
	fact("Cache", n.Cache)
	if n.Gate != nil {
		fact("Gate", n.Gate.String())
	}
	if n.Launched != nil {
		fact("Execution", n.Launched.Name)
	}
	fact("Deck", n.DeckURI)
	if len(n.Outputs.GetLiterals()) == 0 {
		fact("Outputs", n.OutputURI)
	}
	if n.Phase.Bad() {
		r.Error = t.p.problem(n.Error)
	}
	if len(n.Attempts) == 0 || n.Map != nil {
		r.Bars = t.bars(n.Steps, "")
	} else {
		// From the node's start to its task's, then each attempt.
		for _, s := range n.Steps {
			if first := n.Attempts[0].Started; s.At.Before(first) && !s.Phase.Final() {
				if s.End.IsZero() || s.End.After(first) {
					s.End = first
				}
				r.Bars = append(r.Bars, t.bars([]history.Step{s}, "")...)
			}
		}
	}
	for _, a := range n.Attempts {
		name := ""
		if len(n.Attempts) > 1 {
			name = fmt.Sprintf("attempt %d:", a.Number+1)
		}
		if n.Map == nil {
			r.Bars = append(r.Bars, t.bars(a.Steps, name)...)
		}
		r.Attempts = append(r.Attempts, t.attempt(n, a))
	}
	if c := len(n.Attempts); c > 1 {
		r.Note = strings.TrimPrefix(r.Note+fmt.Sprintf(" · %d attempts", c), " · ")
	}
	t.items(r, n)
	return r
}

func (t *timeline) attempt(n *history.Node, a *history.Attempt) attempt {
	out := attempt{
		Name: fmt.Sprintf("Attempt %d", a.Number+1), Phase: a.Phase.String(), Class: class(a.Phase), Plugin: a.Plugin, Links: links(a.Links),
	}
	if !a.Started.IsZero() {
		end := a.Ended
		if end.IsZero() {
			end = t.p.now
		}
		out.Took = duration(end.Sub(a.Started))
	}
	if n.Map == nil {
		for _, s := range a.Steps {
			st := step{Phase: s.Phase.String(), Class: class(s.Phase), At: "+" + duration(s.At.Sub(t.from))}
			if !s.Phase.Final() {
				end := s.End
				if end.IsZero() {
					end = t.p.now
				}
				st.Took = duration(end.Sub(s.At))
			}
			out.Steps = append(out.Steps, st)
		}
	}
	msgs := a.Messages
	if len(msgs) > maxMessages {
		out.More = len(msgs) - maxMessages
		msgs = msgs[len(msgs)-maxMessages:]
	}
	for _, m := range msgs {
		out.Messages = append(out.Messages, message{"+" + duration(m.At.Sub(t.from)), history.Shorten(m.Text, maxText)})
	}
	for _, j := range a.Jobs {
		out.Jobs = append(out.Jobs, history.Shorten(j.ID, 200))
		for _, l := range links(j.Links) {
			if !slices.Contains(out.Links, l) {
				out.Links = append(out.Links, l)
			}
		}
	}
	if a.Custom != nil {
		out.Custom = history.CustomText(a.Custom, maxText)
	}
	if a.Error != nil && (n.Error == nil || *a.Error != *n.Error) {
		out.Error = t.p.problem(a.Error)
	}
	return out
}

func (t *timeline) items(r *row, n *history.Node) {
	if n.Map == nil {
		return
	}
	c := n.Map.Counts
	parts := []string{fmt.Sprintf("%d of %d succeeded", c.Succeeded, n.Map.Total)}
	if c.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", c.Failed))
	}
	if c.Running > 0 {
		parts = append(parts, fmt.Sprintf("%d running", c.Running))
	}
	r.ItemsText = strings.Join(parts, ", ")
	r.Note = r.ItemsText
	var outputs []*core.Literal
	if m := n.Outputs.GetLiterals(); len(m) == 1 {
		for _, l := range m {
			outputs = l.GetCollection().GetLiterals()
		}
	}
	for _, i := range n.Map.Items {
		end := i.Ended
		if end.IsZero() {
			end = t.p.now
		}
		it := item{
			Index: i.Index, Phase: i.Phase.String(), Class: class(i.Phase), Symbol: symbol(i.Phase, false), Job: history.Shorten(i.Job, 80),
			Links: links(i.Links), Bars: t.bars(i.Steps, ""),
		}
		if !i.Started.IsZero() {
			it.Took = duration(end.Sub(i.Started))
		}
		if i.Attempt > 0 {
			it.Note = fmt.Sprintf("attempt %d", i.Attempt+1)
		}
		if i.Index < len(outputs) && i.Phase.Good() {
			it.Output = history.Text(outputs[i.Index], 80)
		}
		r.Items = append(r.Items, it)
	}
}

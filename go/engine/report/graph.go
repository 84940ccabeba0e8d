package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
)

// Sizes in the graph, in CSS pixels.
const (
	cardW, cardH  = 190.0, 54.0
	gapX, gapY    = 22.0, 36.0
	groupPad      = 14.0
	groupHead     = 54.0
	square        = 11.0
	squareGap     = 3.0
	squaresPerRow = 12
	maxSquares    = 96
	barH          = 6.0
	dummyW        = 10.0
	// A layer, or what has no edges, does not get wider than this many cards before it wraps.
	gridColumns = 4
	// With more nodes than this, what nodes contain is not drawn inside them.
	maxNested = 160
)

// drawing is a graph with its positions.
type drawing struct {
	W, H  float64
	Boxes []*box
	Edges []edge
}

type edge struct{ D, Class string }

// box is a node in the graph: a card, or a group that holds a drawing.
type box struct {
	X, Y, W, H          float64
	Title, Sub, Tooltip string
	Symbol, Class       string
	Anchor              string
	Squares             []rect
	Inner               *drawing
	InnerX, InnerY      float64
}

type rect struct {
	X, Y, W, H float64
	Class, Tip string
}

type drawer struct {
	p      *page
	nested bool
}

func countNodes(nodes []*history.Node) int {
	n := 0
	for _, c := range nodes {
		n += 1 + countNodes(c.Children)
		if c.Launched != nil {
			n += countNodes(c.Launched.Nodes)
		}
	}
	return n
}

func (d *drawer) draw(nodes []*history.Node, edges []history.Edge) *drawing {
	boxes := make([]*box, len(nodes))
	index := make(map[string]int, len(nodes))
	for i, n := range nodes {
		boxes[i] = d.box(n)
		index[n.SpecID] = i
	}
	var links [][2]int
	joined := make([]bool, len(nodes))
	for _, e := range edges {
		from, okFrom := index[e.From]
		to, okTo := index[e.To]
		if okFrom && okTo && from != to {
			links = append(links, [2]int{from, to})
			joined[from], joined[to] = true, true
		}
	}
	out := &drawing{Boxes: boxes}
	out.layers(boxes, links, joined, nodes)
	out.grid(boxes, joined)
	return out
}

func (d *drawer) box(n *history.Node) *box {
	p := n.Shown()
	b := &box{
		W: cardW, H: cardH, Title: history.Shorten(n.Label(), 21), Symbol: symbol(p, n.Gate != nil), Class: class(p), Anchor: d.p.anchors[n],
		Tooltip: n.Title() + " — " + p.String(),
	}
	kind, rest := cmp.Or(n.TaskType, string(n.Kind)), ""
	if n.Map != nil {
		kind = fmt.Sprintf("%d of %d", n.Map.Counts.Succeeded, n.Map.Total)
	}
	if n.Cache == "hit" {
		kind = "from the cache"
	} else if !n.Started.IsZero() {
		rest = " · " + duration(n.Elapsed(d.p.now))
	}
	if c := len(n.Attempts); c > 1 {
		rest = fmt.Sprintf(" · %d tries", c) + rest
	}
	b.Sub = sub(kind, rest)
	children, edges := n.Children, n.Edges
	if n.Launched != nil {
		children, edges = n.Launched.Nodes, n.Launched.Edges
	}
	switch {
	case len(children) > 0 && d.nested:
		b.Inner = d.draw(children, edges)
		b.W = max(cardW, b.Inner.W+2*groupPad)
		b.InnerX, b.InnerY = (b.W-b.Inner.W)/2, groupHead
		b.H = groupHead + b.Inner.H + groupPad
	case len(children) > 0:
		b.Sub = sub(fmt.Sprintf("%d nodes", countNodes(children)), rest)
	case n.Map != nil:
		b.squares(n.Map)
	}
	return b
}

// sub is a card's second line. The kind gives way when there is no room for both.
func sub(kind, rest string) string {
	const room = 25
	return history.Shorten(kind, max(4, room-utf8.RuneCountInString(rest))) + rest
}

// squares shows each item of a small map, and the shares of a large one.
func (b *box) squares(m *history.Map) {
	left, top := 14.0, cardH-2
	if m.Total > maxSquares {
		x, width := left, b.W-2*left
		for _, s := range []struct {
			n     int
			class string
		}{{m.Counts.Succeeded, "ok"}, {m.Counts.Failed, "bad"}, {m.Counts.Running, "run"}, {m.Counts.Waiting, "idle"}} {
			if s.n == 0 {
				continue
			}
			w := width * float64(s.n) / float64(m.Total)
			b.Squares = append(b.Squares, rect{x, top, w, barH, s.class, fmt.Sprintf("%d of %d", s.n, m.Total)})
			x += w
		}
		b.H = top + barH + 12
		return
	}
	phases := make([]history.Phase, m.Total)
	for i := range phases {
		phases[i] = history.Pending
	}
	for _, i := range m.Items {
		if i.Index < len(phases) {
			phases[i.Index] = i.Phase
		}
	}
	for i, p := range phases {
		b.Squares = append(b.Squares, rect{
			left + float64(i%squaresPerRow)*(square+squareGap), top + float64(i/squaresPerRow)*(square+squareGap),
			square, square, class(p), fmt.Sprintf("#%d %s", i, p),
		})
	}
	rows := (m.Total + squaresPerRow - 1) / squaresPerRow
	b.H = top + float64(rows)*(square+squareGap) + 9
}

// grid places what has no edges below the rest, in rows.
func (g *drawing) grid(boxes []*box, joined []bool) {
	y := g.H
	if y > 0 {
		y += gapY
	}
	x, rowH, column := 0.0, 0.0, 0
	for i, b := range boxes {
		if joined[i] {
			continue
		}
		if column == gridColumns {
			x, y, rowH, column = 0, y+rowH+gapX, 0, 0
		}
		b.X, b.Y = x, y
		x += b.W + gapX
		rowH = max(rowH, b.H)
		column++
		g.W, g.H = max(g.W, b.X+b.W), max(g.H, b.Y+b.H)
	}
}

// slot is a place in a layer: a box's, or one that an edge passes through.
type slot struct {
	box        *box
	w, x       float64 // x of its middle
	layer      int
	up, down   []*slot
	sortKey    float64
	started    bool
	height     float64
	topY, midH float64
}

// layers places what has edges, from top to bottom: each node below all that it needs, in an order with few crossings.
func (g *drawing) layers(boxes []*box, links [][2]int, joined []bool, nodes []*history.Node) {
	depth := make([]int, len(boxes))
	// Nodes come in an order in which they can run, so one pass over the links by their start is enough; more are for
	// what is not in order.
	for range 3 {
		for _, l := range links {
			if l[0] < l[1] {
				depth[l[1]] = max(depth[l[1]], depth[l[0]]+1)
			}
		}
	}
	slots := make([]*slot, len(boxes))
	var layers [][]*slot
	put := func(s *slot, layer int) {
		for len(layers) <= layer {
			layers = append(layers, nil)
		}
		s.layer = layer
		layers[layer] = append(layers[layer], s)
	}
	for i, b := range boxes {
		if joined[i] {
			slots[i] = &slot{box: b, w: b.W, height: b.H, started: !nodes[i].Started.IsZero()}
			put(slots[i], depth[i])
		}
	}
	if len(layers) == 0 {
		return
	}
	type path struct {
		through []*slot
		idle    bool
	}
	var paths []path
	for _, l := range links {
		from, to := slots[l[0]], slots[l[1]]
		if from.layer >= to.layer {
			continue // part of a circle
		}
		p := path{through: []*slot{from}, idle: !to.started}
		for layer := from.layer + 1; layer < to.layer; layer++ {
			s := &slot{w: dummyW}
			put(s, layer)
			p.through = append(p.through, s)
		}
		p.through = append(p.through, to)
		for i := 1; i < len(p.through); i++ {
			p.through[i-1].down = append(p.through[i-1].down, p.through[i])
			p.through[i].up = append(p.through[i].up, p.through[i-1])
		}
		paths = append(paths, p)
	}
	order(layers)
	positions(layers)

	y := 0.0
	for _, layer := range layers {
		h := 0.0
		for _, s := range layer {
			h = max(h, s.height)
		}
		for _, s := range layer {
			s.topY, s.midH = y, h
			if s.box != nil {
				s.box.X, s.box.Y = s.x-s.w/2, y
			}
		}
		g.H = y + h
		y += h + gapY
	}
	for _, layer := range layers {
		for _, s := range layer {
			g.W = max(g.W, s.x+s.w/2)
		}
	}
	for _, p := range paths {
		e := edge{D: curve(p.through)}
		if p.idle {
			e.Class = "idle"
		}
		g.Edges = append(g.Edges, e)
	}
}

// order sorts each layer by the mean place of its neighbours, down and up by turns.
func order(layers [][]*slot) {
	number := func(layer []*slot) {
		for i, s := range layer {
			s.x = float64(i)
		}
	}
	for _, l := range layers {
		number(l)
	}
	sweep := func(layer []*slot, neighbours func(*slot) []*slot) {
		for _, s := range layer {
			s.sortKey = mean(neighbours(s), s.x)
		}
		slices.SortStableFunc(layer, func(a, b *slot) int { return cmp.Compare(a.sortKey, b.sortKey) })
		number(layer)
	}
	for range 4 {
		for i := 1; i < len(layers); i++ {
			sweep(layers[i], func(s *slot) []*slot { return s.up })
		}
		for i := len(layers) - 2; i >= 0; i-- {
			sweep(layers[i], func(s *slot) []*slot { return s.down })
		}
	}
}

func mean(slots []*slot, otherwise float64) float64 {
	if len(slots) == 0 {
		return otherwise
	}
	sum := 0.0
	for _, s := range slots {
		sum += s.x
	}
	return sum / float64(len(slots))
}

// positions gives each slot its x: as near to its neighbours as the others in its layer allow.
func positions(layers [][]*slot) {
	for _, layer := range layers {
		x := 0.0
		for _, s := range layer {
			s.x = x + s.w/2
			x += s.w + gapX
		}
		for _, s := range layer {
			s.x -= (x - gapX) / 2 // all layers around the same middle
		}
	}
	for range 6 {
		for i := 1; i < len(layers); i++ {
			spread(layers[i], func(s *slot) []*slot { return s.up })
		}
		for i := len(layers) - 2; i >= 0; i-- {
			spread(layers[i], func(s *slot) []*slot { return s.down })
		}
	}
	left := math.Inf(1)
	for _, layer := range layers {
		for _, s := range layer {
			left = min(left, s.x-s.w/2)
		}
	}
	for _, layer := range layers {
		for _, s := range layer {
			s.x -= left
		}
	}
}

// spread moves a layer's slots as near to where they want to be, in the sense of least squares, as their widths allow:
// neighbours that would overlap are pooled and move together.
func spread(layer []*slot, neighbours func(*slot) []*slot) {
	type pool struct {
		sum   float64
		count int
	}
	var pools []pool
	offset := make([]float64, len(layer))
	for i, s := range layer {
		if i > 0 {
			offset[i] = offset[i-1] + (layer[i-1].w+s.w)/2 + gapX
		}
		pools = append(pools, pool{mean(neighbours(s), s.x) - offset[i], 1})
		for n := len(pools); n > 1 && pools[n-2].sum/float64(pools[n-2].count) > pools[n-1].sum/float64(pools[n-1].count); n = len(pools) {
			pools[n-2].sum += pools[n-1].sum
			pools[n-2].count += pools[n-1].count
			pools = pools[:n-1]
		}
	}
	i := 0
	for _, p := range pools {
		for range p.count {
			layer[i].x = p.sum/float64(p.count) + offset[i]
			i++
		}
	}
}

// curve draws an edge through its slots.
func curve(through []*slot) string {
	var b strings.Builder
	from := through[0]
	x, y := from.x, from.topY+from.height
	fmt.Fprintf(&b, "M%.0f %.0f", x, y)
	if below := from.topY + from.midH; below > y {
		y = below
		fmt.Fprintf(&b, "L%.0f %.0f", x, y)
	}
	for _, s := range through[1:] {
		middle := (y + s.topY) / 2
		fmt.Fprintf(&b, "C%.0f %.0f %.0f %.0f %.0f %.0f", x, middle, s.x, middle, s.x, s.topY)
		x, y = s.x, s.topY
		if s.box == nil {
			y += s.midH
			fmt.Fprintf(&b, "L%.0f %.0f", x, y)
		}
	}
	return b.String()
}

// ViewW is the width with room for the lines at its edge.
func (g *drawing) ViewW() float64 { return g.W + 2 }

// ViewH is the height with room for the lines at its edge.
func (g *drawing) ViewH() float64 { return g.H + 2 }

// InnerAtX is where the inner drawing begins.
func (b *box) InnerAtX() float64 { return b.X + b.InnerX }

// InnerAtY is where the inner drawing begins.
func (b *box) InnerAtY() float64 { return b.Y + b.InnerY }

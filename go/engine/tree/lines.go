package tree

import (
	"fmt"
	"strings"
	"time"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
)

// lines writes one line for each change.
type lines struct {
	zone *time.Location
	seq  int
	// said is the last phase and message of each node, so that a node's event does not repeat its task's.
	said  map[string]string
	links map[string]bool
	// err is the error that was told last: what contains a failed node fails with the same one.
	err string
}

func (l *lines) init(zone *time.Location) {
	l.zone, l.said, l.links = zone, map[string]string{}, map[string]bool{}
}

type place struct {
	path string
	node *history.Node
	x    *history.Execution
}

func places(s *history.Snapshot) map[string]place {
	all := map[string]place{}
	var nodes func(x *history.Execution, prefix string, list []*history.Node)
	var execution func(x *history.Execution, prefix string)
	nodes = func(x *history.Execution, prefix string, list []*history.Node) {
		for _, n := range list {
			path := prefix + n.SpecID
			all[x.Name+"\x00"+n.ID] = place{path, n, x}
			nodes(x, path+"/", n.Earlier)
			nodes(x, path+"/", n.Children)
			if n.Launched != nil {
				execution(n.Launched, path+"/")
			}
		}
	}
	execution = func(x *history.Execution, prefix string) {
		all[x.Name+"\x00"] = place{strings.TrimSuffix(prefix, "/"), nil, x}
		nodes(x, prefix, x.Nodes)
	}
	for _, x := range s.Executions {
		prefix := ""
		if len(s.Executions) > 1 {
			prefix = x.Name + "/"
		}
		execution(x, prefix)
	}
	return all
}

// since is the lines for what is new in the snapshot.
func (l *lines) since(s *history.Snapshot) string {
	first := len(s.Records)
	for first > 0 && s.Records[first-1].Seq > l.seq {
		first--
	}
	fresh := s.Records[first:]
	if len(fresh) == 0 {
		return ""
	}
	var b strings.Builder
	if missed := fresh[0].Seq - l.seq - 1; missed > 0 {
		fmt.Fprintf(&b, "… %d changes were too many to keep\n", missed)
	}
	l.seq = fresh[len(fresh)-1].Seq
	at := places(s)
	for _, r := range fresh {
		l.record(&b, r, at[r.Execution+"\x00"+r.Node])
	}
	return b.String()
}

func (l *lines) record(b *strings.Builder, r *history.Record, p place) {
	name := r.Node
	switch {
	case p.node != nil:
		name = strings.TrimSpace(p.path + " " + p.node.Title())
	case p.x != nil:
		name = strings.TrimSpace(p.path + " " + p.x.Title())
	}
	message := clean(gist(r.Message))
	if r.Phase.Bad() && message != "" {
		if message == l.err {
			message = ""
		} else {
			l.err = message
		}
	}
	k := r.Execution + "\x00" + r.Node
	text := r.Phase.String()
	if r.Items && l.said[k] == text {
		text = ""
	} else if r.Items {
		l.said[k] = text
	}
	if r.Attempt > 0 {
		text += fmt.Sprintf(" (attempt %d)", r.Attempt+1)
	}
	text = strings.TrimSpace(text + " " + message)
	stamp := r.At.In(l.zone).Format("15:04:05.000")
	bare := message == "" && (l.said[k] == r.Phase.String() || strings.HasPrefix(l.said[k], r.Phase.String()+" "))
	if !bare && l.said[k] != text {
		if !r.Items {
			l.said[k] = text
		}
		fmt.Fprintf(b, "%s %s %s\n", stamp, clean(name), text)
	}
	if p.node == nil || !r.Task {
		return
	}
	for _, a := range p.node.Attempts {
		for _, link := range a.Links {
			if id := k + "\x00" + link.Name + "\x00" + link.URI; a.Number == r.Attempt && !l.links[id] {
				l.links[id] = true
				fmt.Fprintf(b, "%s %s link %s %s\n", stamp, clean(name), clean(link.Name), clean(link.URI))
			}
		}
	}
}

package history

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// maxUpdates bounds what is kept of one attempt: a task may tell its progress for days.
const maxUpdates = 400

// update is what one event, or several with the same phase and version, told.
type update struct {
	phase   Phase
	version uint32
	// at is the earliest time that an event gave for it, and told the latest one: an event that is sent again after a
	// crash may carry a later time, and more.
	at, told time.Time

	messages  []Message
	links     []Link
	custom    *structpb.Struct
	jobs      []Job
	err       *Error
	outputs   *core.LiteralMap
	outputURI string
}

// track is the history of one thing's phases. Its order and result do not depend on the order in which events arrive.
type track struct {
	updates []*update
	// ranked is for what never goes back: its phase is the furthest one, whatever the clocks say.
	ranked bool
}

// at finds or makes the update; fresh says that it is new.
func (t *track) at(p Phase, version uint32, at time.Time) (u *update, fresh bool) {
	for _, u := range t.updates {
		if u.phase == p && u.version == version {
			if at.Before(u.at) {
				u.at = at
			}
			return u, false
		}
	}
	u = &update{phase: p, version: version, at: at}
	t.updates = append(t.updates, u)
	t.sort()
	if len(t.updates) > maxUpdates {
		t.forget()
	}
	return u, true
}

func (t *track) sort() {
	slices.SortStableFunc(t.updates, func(a, b *update) int {
		if t.ranked {
			return cmp.Or(cmp.Compare(a.phase, b.phase), a.at.Compare(b.at))
		}
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.phase, b.phase), cmp.Compare(a.version, b.version))
	})
}

// forget drops the oldest update that did not change the phase.
func (t *track) forget() {
	for i := 1; i < len(t.updates)-1; i++ {
		if t.updates[i].phase == t.updates[i-1].phase {
			t.updates = slices.Delete(t.updates, i, i+1)
			return
		}
	}
}

// ended is the final update. Of several the first one counts, as it does for flyteadmin.
func (t *track) ended() *update {
	var first *update
	for _, u := range t.updates {
		if u.phase.Final() && (first == nil || u.at.Before(first.at)) {
			first = u
		}
	}
	return first
}

// current is the update that tells how it stands, or nil.
func (t *track) current() *update {
	if u := t.ended(); u != nil {
		return u
	}
	if len(t.updates) == 0 {
		return nil
	}
	return t.updates[len(t.updates)-1]
}

func (t *track) phase() Phase {
	if u := t.current(); u != nil {
		return u.phase
	}
	return Unknown
}

// steps is the timeline: one step for each change of the phase, up to the final one.
func (t *track) steps() []Step {
	final := t.ended()
	updates := slices.DeleteFunc(slices.Clone(t.updates), func(u *update) bool {
		return u.phase == Unknown || u != final && final != nil && (u.phase.Final() || !t.ranked && u.at.After(final.at))
	})
	times := make([]time.Time, len(updates))
	for i := len(updates) - 1; i >= 0; i-- {
		times[i] = updates[i].at
		// An event that was lost and sent again later cannot have occurred after what followed it.
		if i+1 < len(updates) && times[i].After(times[i+1]) {
			times[i] = times[i+1]
		}
	}
	var steps []Step
	for i, u := range updates {
		if n := len(steps); n > 0 && steps[n-1].Phase == u.phase {
			continue
		} else if n > 0 {
			steps[n-1].End = times[i]
		}
		steps = append(steps, Step{Phase: u.phase, At: times[i]})
	}
	return steps
}

func span(steps []Step) (started, ended time.Time) {
	if len(steps) == 0 {
		return started, ended
	}
	started = steps[0].At
	if last := steps[len(steps)-1]; last.Phase.Final() {
		ended = last.At
	}
	return started, ended
}

// messages of all updates, in order, without repetitions.
func (t *track) messages() []Message {
	var all []Message
	for _, u := range t.updates {
		all = append(all, u.messages...)
	}
	slices.SortStableFunc(all, func(a, b Message) int { return a.At.Compare(b.At) })
	return slices.CompactFunc(all, func(a, b Message) bool { return a.Text == b.Text })
}

// links of all updates. The latest address of a name counts, and those that a later event left out stay.
func (t *track) links() []Link {
	var links []Link
	for _, u := range t.updates {
		links = mergeLinks(links, u.links)
	}
	return links
}

func mergeLinks(links, more []Link) []Link {
	for _, l := range more {
		i := slices.IndexFunc(links, func(have Link) bool { return have.Name == l.Name })
		switch {
		case i < 0:
			links = append(links, l)
		case l.URI != "":
			links[i] = l
		}
	}
	return links
}

func (t *track) custom() *structpb.Struct {
	var custom *structpb.Struct
	for _, u := range t.updates {
		if u.custom != nil {
			custom = u.custom
		}
	}
	return custom
}

func (t *track) jobs() []Job {
	var jobs []Job
	for _, u := range t.updates {
		for _, j := range u.jobs {
			i := slices.IndexFunc(jobs, func(have Job) bool { return have.ID == j.ID })
			if i < 0 {
				jobs = append(jobs, j)
				continue
			}
			j.Links = mergeLinks(slices.Clone(jobs[i].Links), j.Links)
			if j.Custom == nil {
				j.Custom = jobs[i].Custom
			}
			if j.Phase == Unknown || jobs[i].Phase.Final() {
				j.Phase = jobs[i].Phase
			}
			jobs[i] = j
		}
	}
	return jobs
}

func toLinks(logs []*core.TaskLog) []Link {
	var links []Link
	for _, l := range logs {
		if l.GetUri() == "" && l.GetName() == "" {
			continue
		}
		links = append(links, Link{Name: l.GetName(), URI: l.GetUri()})
	}
	return links
}

func toError(e *core.ExecutionError) *Error {
	if e == nil {
		return nil
	}
	out := &Error{Code: e.GetCode(), Message: strings.TrimSpace(e.GetMessage())}
	if k := e.GetKind(); k != core.ExecutionError_UNKNOWN {
		out.Kind = k.String()
	}
	return out
}

func toCustom(s *structpb.Struct) *structpb.Struct {
	if len(s.GetFields()) == 0 {
		return nil
	}
	return proto.Clone(s).(*structpb.Struct)
}

// when is the first of the times that is known.
func when(otherwise time.Time, stamps ...*timestamppb.Timestamp) time.Time {
	for _, s := range stamps {
		if s.IsValid() && (s.GetSeconds() != 0 || s.GetNanos() != 0) {
			return s.AsTime()
		}
	}
	return otherwise
}

// within makes up for Kubernetes, which tells only the second of a change: that may be before what led to it. The change is as
// late in its second as can be, since what follows it has a time of its own.
func within(at, received time.Time) time.Time {
	if last := at.Add(time.Second - time.Millisecond); at.Nanosecond() == 0 && received.After(at) {
		if received.Before(last) {
			return received
		}
		return last
	}
	return at
}

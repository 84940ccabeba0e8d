package backend

import (
	"context"
	"time"
)

// pollEarly polls a new job soon and ever less often for the first of the machinery's intervals: a job of a second must not
// take ten to be seen. What such a poll finds propeller is woken for, as for any other. A failure tells nothing: the
// machinery's polls find out how long it lasts.
func (p plugin) pollEarly(meta resourceMeta, t *task) {
	first, interval := p.s.config().Poll.InitialInterval.Duration, p.s.webAPI.Caching.ResyncInterval.Duration
	if first <= 0 {
		return
	}
	go func() {
		for over, pause := first, first; over < interval; over, pause = over+2*pause, 2*pause {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-p.s.ended:
				timer.Stop()
				return
			}
			if p.s.tasks.lookup(meta.key) != t || t.jobEnded() {
				return
			}
			if _, resting := t.resting(time.Now()); resting {
				continue
			}
			select {
			case p.s.early <- struct{}{}:
			default:
				continue
			}
			asked := time.Now()
			job, err := p.poll(context.Background(), meta, t) // the call has its own time limit
			<-p.s.early
			if err == nil && t.polled(job, nil, false, asked) {
				p.s.wake(t)
			}
		}
	}()
}

package batch

import "time"

// The bounds, for tests.
const (
	MaxJobs  = maxJobs
	MinJobs  = minJobs
	MaxCalls = maxCalls
)

// SetTimes replaces the constants. Call it before the first Get.
func (p *Poller) SetTimes(patience, memory time.Duration) {
	p.patience, p.memory, p.cutMemory = patience, memory, memory
}

// Waiting counts the polls that wait for a call.
func (p *Poller) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, q := range p.groups {
		n += len(q.waiting)
	}
	return n
}

// Most gives the most jobs of a plugin's calls now.
func (p *Poller) Most(taskType, pluginVersion string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most(p.groups[group{taskType, pluginVersion}])
}

// Idle says whether no call is under way.
func (p *Poller) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.groups {
		if q.calls > 0 {
			return false
		}
	}
	return true
}

// SetLinger replaces the constant. Call it before the first Get.
func (p *Poller) SetLinger(d time.Duration) { p.linger = d }

package backend

import "sync/atomic"

// Decided is the choice of a plugin for one task attempt.
type Decided struct {
	// Task is project/domain/execution/node/attempt.
	Task, TaskType string
	// Deployment and PluginVersion are set for a backend's task, BuiltIn for a built-in plugin's.
	Deployment, PluginVersion string
	BuiltIn                   string
	// Why is the reason in a few words.
	Why string
}

var observer atomic.Pointer[func(Decided)]

// Observe sets the function that hears of every decision, beside the log and the metric; nil ends it. It is called in
// propeller's workers and must not block. A decision is told again when propeller restarts
// before it has recorded a first round.
func Observe(f func(Decided)) {
	if f == nil {
		observer.Store(nil)
		return
	}
	observer.Store(&f)
}

func (d Decided) tell() {
	if f := observer.Load(); f != nil {
		(*f)(d)
	}
}

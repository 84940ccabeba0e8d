package backend

import "github.com/flyte-backend/flyte-backend/go/registry"

// Lookup gives what the plugin that was loaded last knows of its services at this moment, or nil when none is loaded. It is
// for programs that have propeller in them and want to tell what would handle a task before there is one.
func Lookup() *registry.Snapshot {
	global.mu.Lock()
	defer global.mu.Unlock()
	if len(global.live) == 0 {
		return nil
	}
	return global.live[len(global.live)-1].reg.Snapshot()
}

// Package backend is FlytePropeller's plugin for task types that run out of core, at backend plugin services. Importing it
// for its side effects compiles it in; plugins.backend.enable_backend_flytekit_plugin_system turns it on.
//
// A task's way through the package:
//
//	propeller ── Handle ──► router ── decides once, pins ──► machinery (flyteplugins' web API plugin) ──► plugin ──► client
//	                          │                                 └─ AutoRefresh cache ── Get ──► plugin ──► client
//	                          └── no service registered the type ──► the built-in plugin, state untouched
//
// The router owns everything that the machinery cannot do: which plugin a task belongs to, what stays queued, which phase
// version an event bears, and how long an outage may last. The plugin only translates.
package backend

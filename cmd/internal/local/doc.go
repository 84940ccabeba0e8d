// Package local is the command `flyte-backend local`: it runs a workflow on this machine with propeller's own engine, and
// shows what happens.
//
// What it shows goes to standard error, and what comes of it (outputs) to standard output. A Follower, which shows a run and
// keeps its history for a report, is of use to other commands too.
package local

// Package engine is FlytePropeller's own engine as a library: real workflows, made by flytekit, run to their end inside one
// process, without Kubernetes, etcd or flyteadmin.
//
// Propeller's code does the work: its compiler, worker pool, queue, node executors, task handler and plugin machinery, with
// whatever plugins the program imports. What surrounds propeller is written here, each thing in one place and behind
// propeller's own interface; its comment says what the real one does and what differs:
//
//	the API server and etcd, with FlyteWorkflow resources    workflows (workflows.go)
//	the informer's resync, the garbage collector             engine.resync (engine.go)
//	pods and other Kubernetes objects                        package cluster
//	flyteadmin: registration                                 package bundle
//	flyteadmin: executions and their inputs                  submit.go
//	flyteadmin: launch plans                                 launchplans.go
//	flyteadmin: signals of gates                             signals.go
//	flyteadmin: events                                       events.go
//	datacatalog                                              catalog.go
//	S3 and its kind                                          package datastore
//
// Propeller keeps plugins and configuration in variables of the process, so a process has one engine at a time.
package engine

// Package history folds the events that propeller sends of workflows, nodes and tasks into a tree of what happened: an
// execution, its nodes, their sub-workflows, branches, dynamic nodes, map sub-tasks and child executions, each with its
// phases in order, attempts, messages, log links, outputs and errors.
//
// Events may come twice (propeller sends them again after a crash) and out of order; neither changes the result.
package history

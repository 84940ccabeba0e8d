// Package templates embeds task templates that the real flytekit has serialised; the scripts beside it make them.
package templates

import _ "embed"

// SQLiteElements is a SQLite3Task over the table of chemical elements, as a binary flyteidl core.TaskTemplate.
//
//go:embed sqlite_elements.pb
var SQLiteElements []byte

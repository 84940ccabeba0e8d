// Package python embeds the example beside this file, a plugin service in Python, for programs that have no checkout.
package python

import _ "embed" // the example

// Module is the name of the example's module, whose file is Module + ".py".
const Module = "square"

// Source is the text of that file.
//
//go:embed square.py
var Source []byte

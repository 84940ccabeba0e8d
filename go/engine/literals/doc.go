// Package literals turns what people write into Flyte's literals, and back: values as YAML and JSON have them, according to
// the type that a workflow declares for an input.
//
// Nothing is bent to fit. What is not of its type is an error that says where it stands, what it is, and what would be right.
package literals

import (
	"fmt"
	"strings"
)

// Error says what is wrong with a value, and where.
type Error struct {
	// Path leads to the value, for example point.xs[2].
	Path string
	// Problem is for people, for example: takes an integer, got "abc".
	Problem string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Problem
	}
	return e.Path + ": " + e.Problem
}

// place is a path, kept as a chain so that values that are right cost nothing.
type place struct {
	up   *place
	name string
	// index counts when name is empty.
	index int
}

func (p *place) key(name string) *place { return &place{up: p, name: name} }
func (p *place) item(i int) *place      { return &place{up: p, index: i} }

func (p *place) String() string {
	if p == nil {
		return ""
	}
	up := p.up.String()
	switch {
	case p.name == "":
		return fmt.Sprintf("%s[%d]", up, p.index)
	case strings.ContainsAny(p.name, ".[] \t\n\"") && up != "":
		return fmt.Sprintf("%s[%q]", up, p.name)
	case up == "":
		return p.name
	default:
		return up + "." + p.name
	}
}

func (p *place) errorf(format string, args ...any) error {
	return &Error{Path: p.String(), Problem: fmt.Sprintf(format, args...)}
}

// takes is the one form of a value that is not of its type.
func (p *place) takes(what string, got any) error {
	return p.errorf("takes %s, got %s", what, show(got))
}

// Package pluginversion has the rules for plugin versions, which services and propeller must not see differently: what one can be,
// and which of two is higher. docs/contract.md has them too.
package pluginversion

import (
	"cmp"
	"regexp"
	"strings"
)

var form = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// Valid says whether version can be one: what a route can name, gRPC metadata can carry, and a URL's path can be made of.
func Valid(version string) bool { return form.MatchString(version) }

// Compare is negative when a is lower than b, in natural order: runs of digits count by value, so that v10 comes after v9. Only
// equal texts are equal: v01 and v1 are two versions, and which of them is higher must not depend on luck.
func Compare(a, b string) int {
	return cmp.Or(naturally(a, b), cmp.Compare(a, b))
}

func naturally(a, b string) int {
	for a != "" && b != "" {
		x, y := run(a), run(b)
		a, b = a[len(x):], b[len(y):]
		if digit(x[0]) && digit(y[0]) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// run is the digits or the other characters that s begins with.
func run(s string) string {
	for i := range len(s) {
		if digit(s[i]) != digit(s[0]) {
			return s[:i]
		}
	}
	return s
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

package tree

import (
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// runeWidth is how many columns a terminal gives a character.
func runeWidth(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r < 0x1100:
		return 1
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

func displayWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// clean makes a text that somebody else wrote fit for a line of a terminal: control codes could clear the screen or
// write over other lines, and direction marks could show one text as another.
func clean(s string) string {
	if !strings.ContainsFunc(s, unfit) {
		return s
	}
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unfit(r) {
			return ' '
		}
		return r
	}, s)), " ")
}

func unfit(r rune) bool {
	return unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.In(r, unicode.Zl, unicode.Zp) || unicode.Is(unicode.Bidi_Control, r)
}

// cut shortens a text to a width in columns, the last of which is then an ellipsis.
func cut(s string, columns int) string {
	if columns <= 0 {
		return ""
	}
	if displayWidth(s) <= columns {
		return s
	}
	n := 0
	for i, r := range s {
		w := runeWidth(r)
		if n+w > columns-1 {
			return s[:i] + "…"
		}
		n += w
	}
	return s
}

package sqlite

import (
	"database/sql"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// statement is one SQL statement and the values of its parameters.
type statement struct {
	sql  string
	args []any // sql.NamedArg
}

// paramPrefix keeps our parameters apart from anything that a template's author may write.
const paramPrefix = "flyte_input_"

// placeholder is what flytekit's SQLTask looks for, blanks and letter case included.
var placeholder = regexp.MustCompile(`^\{\{\s*(?i:\.inputs)\.(\w+)\s*\}\}`)

// renderer walks over a template once. It knows SQLite's quoting, because where a placeholder stands decides how its
// value gets in: a value in the open becomes a parameter, so that nothing it holds can be read as SQL; one inside
// quotes, where SQL has no parameters, is written out with the quote doubled, so that it cannot end the quotes.
type renderer struct {
	src    string
	pos    int
	out    strings.Builder
	inputs map[string]*core.Literal
	bound  map[string]any
}

// render fills in a template. It refuses more than one statement, and SQL parameters of the template's own, because
// nothing would ever give them a value.
func render(template string, inputs map[string]*core.Literal) (statement, error) {
	r := &renderer{src: template, inputs: inputs, bound: map[string]any{}}
	if err := r.walk(); err != nil {
		return statement{}, fmt.Errorf("template.custom.query_template: %w", err)
	}
	st := statement{sql: strings.TrimSpace(r.out.String())}
	if st.sql == "" {
		return statement{}, fmt.Errorf("template.custom.query_template holds no statement")
	}
	for _, name := range slices.Sorted(maps.Keys(r.bound)) {
		st.args = append(st.args, sql.Named(paramPrefix+name, r.bound[name]))
	}
	return st, nil
}

func (r *renderer) walk() error {
	for r.pos < len(r.src) {
		rest := r.src[r.pos:]
		c := rest[0]
		switch {
		case strings.HasPrefix(rest, "--"):
			r.skip(strings.IndexByte(rest, '\n'), 1)
		case strings.HasPrefix(rest, "/*"):
			r.skip(strings.Index(rest, "*/"), 2)
		case c == '\'' || c == '"' || c == '`':
			if err := r.quoted(c); err != nil {
				return err
			}
		case c == '[':
			if err := r.quoted(']'); err != nil {
				return err
			}
		case c == ';':
			return r.end()
		case strings.HasPrefix(rest, "{{"):
			name, err := r.name(rest)
			if err != nil {
				return err
			}
			v, err := scalar(name, r.inputs)
			if err != nil {
				return err
			}
			r.bound[name] = v
			// Blanks, so that a placeholder that touches a word does not become a part of it.
			r.out.WriteString(" :" + paramPrefix + name + " ")
		case c == '?' || (strings.IndexByte(":@$#", c) >= 0 && !r.inWord()):
			return fmt.Errorf("has %q at byte %d: SQL parameters are not filled in, write {{.inputs.NAME}}", string(c), r.pos)
		default:
			r.out.WriteByte(c)
			r.pos++
		}
	}
	return nil
}

// skip drops a comment, a placeholder in it included; at is where its end begins, -1 for an end that never comes.
func (r *renderer) skip(at, length int) {
	if at < 0 {
		r.pos = len(r.src)
	} else {
		r.pos += at + length
	}
	r.out.WriteByte(' ')
}

// inWord says whether the character at pos continues a word: SQLite allows $ inside a name.
func (r *renderer) inWord() bool {
	if r.pos == 0 {
		return false
	}
	c := r.src[r.pos-1]
	return c == '_' || c == '$' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// quoted copies from an opening quote to its end, filling in placeholders with the end quote doubled. A bracketed
// name has no way to hold its own end, so a value with one is refused there.
func (r *renderer) quoted(end byte) error {
	start := r.pos
	r.out.WriteByte(r.src[r.pos])
	r.pos++
	for r.pos < len(r.src) {
		rest := r.src[r.pos:]
		switch {
		case rest[0] == end && end != ']' && len(rest) > 1 && rest[1] == end:
			r.out.WriteString(rest[:2])
			r.pos += 2
		case rest[0] == end:
			r.out.WriteByte(end)
			r.pos++
			return nil
		case placeholder.MatchString(rest):
			name, err := r.name(rest)
			if err != nil {
				return err
			}
			v, err := scalar(name, r.inputs)
			if err != nil {
				return err
			}
			text, err := asText(v)
			if err != nil {
				return fmt.Errorf("{{.inputs.%s}} inside quotes: %w", name, err)
			}
			q := string(end)
			if end == ']' && strings.Contains(text, q) {
				return fmt.Errorf("{{.inputs.%s}} inside brackets: its value holds a ], which cannot be written there", name)
			}
			r.out.WriteString(strings.ReplaceAll(text, q, q+q))
		default:
			r.out.WriteByte(rest[0])
			r.pos++
		}
	}
	return fmt.Errorf("the quote at byte %d is never closed", start)
}

// name reads the placeholder at pos and moves behind it.
func (r *renderer) name(rest string) (string, error) {
	m := placeholder.FindStringSubmatch(rest)
	if m == nil {
		return "", fmt.Errorf("has something in braces at byte %d that is not {{.inputs.NAME}}", r.pos)
	}
	r.pos += len(m[0])
	return m[1], nil
}

// end accepts one final semicolon: only blanks and comments may follow it.
func (r *renderer) end() error {
	at := r.pos
	tail := &renderer{src: r.src[r.pos+1:], inputs: r.inputs, bound: map[string]any{}}
	err := tail.walk()
	if rest := strings.TrimSpace(tail.out.String()); err != nil || rest != "" {
		return fmt.Errorf("holds more than one statement (after the semicolon at byte %d); a task runs one", at)
	}
	r.pos = len(r.src)
	return nil
}

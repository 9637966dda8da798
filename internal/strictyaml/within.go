package strictyaml

import (
	"unicode"
	"unicode/utf8"
)

// Within finds where in the file a character of a scalar's value is; offset
// counts the value's characters from 0. It serves text in a language of its own,
// an expression or a template, whose reader knows places by offset. Quotes,
// escapes, and the line breaks and indentation of block scalars are followed as
// the file has them; where that fails, it is the place of the scalar.
func (d *Document) Within(n *Node, offset int) (line, col int) {
	if n.Kind != Scalar || n.Line < 1 || n.Line > len(d.lines) || n.Col < 1 || offset < 0 {
		return n.Line, n.Col
	}
	s := d.scan(n)
	for _, want := range n.Value {
		if !unicode.IsSpace(want) && !s.find(want) {
			return n.Line, n.Col
		}
		if offset == 0 {
			return s.line, s.col
		}
		offset--
		s.pass(want)
	}
	return s.line, s.col
}

// ReportAt adds a problem at a place that [Document.Within] found.
func (d *Document) ReportAt(line, col int, msg, hint string) { d.report(line, col, msg, hint) }

// scanner follows the value of a scalar through the source.
type scanner struct {
	lines     []string
	line, col int    // of the next character, from 1
	rest      string // of the line
	style     rune   // the first character: a quote, | or >; of plain text anything else
}

// scan begins at the first character of a scalar's text.
func (d *Document) scan(n *Node) *scanner {
	s := &scanner{lines: d.lines, line: n.Line, rest: d.lines[n.Line-1]}
	for s.col = 1; s.col < n.Col && s.rest != ""; {
		s.step()
	}
	if !n.Quoted {
		return s
	}
	switch s.style = s.next(); s.style {
	case '"', '\'':
		s.step()
	case '|', '>': // the text begins on the next line
		s.rest = ""
	}
	return s
}

// next is the next character, or a line break, or 0 at the end of the file.
func (s *scanner) next() rune {
	if s.rest == "" {
		if s.line >= len(s.lines) {
			return 0
		}
		return '\n'
	}
	r, _ := utf8.DecodeRuneInString(s.rest)
	return r
}

func (s *scanner) step() {
	switch s.next() {
	case 0:
	case '\n':
		s.rest, s.line, s.col = s.lines[s.line], s.line+1, 1
	default:
		_, n := utf8.DecodeRuneInString(s.rest)
		s.rest, s.col = s.rest[n:], s.col+1
	}
}

// find goes to the next character of the value, which is not blank: over line
// breaks and indentation, and over the backslash that escapes it.
func (s *scanner) find(want rune) bool {
	for unicode.IsSpace(s.next()) {
		s.step()
	}
	if s.style == '"' && s.next() == '\\' {
		s.step()
		for unicode.IsSpace(s.next()) { // an escaped line break
			s.step()
		}
	}
	return s.next() == want
}

// pass goes past a character of the value. A blank of the value may be a line
// break of the source, or several.
func (s *scanner) pass(r rune) {
	switch {
	case !unicode.IsSpace(r):
		s.step()
		if s.style == '\'' && r == '\'' {
			s.step() // it is written twice
		}
	case s.style == '"' && s.next() == '\\': // \n, \t
		s.step()
		s.step()
	case unicode.IsSpace(s.next()):
		s.step()
	}
}

package edit

import (
	"strings"
	"unicode/utf8"

	"github.com/assay-project/assay/internal/strictyaml"
)

// The scanner finds where parsed nodes end. It knows the YAML that people write
// in policies, and not all there is: who uses it parses the result again.

func runeLength(b []byte) int {
	_, n := utf8.DecodeRune(b)
	return max(n, 1)
}

// end is the offset just behind a node, without trailing blanks, or -1 for what
// the scanner does not understand.
func (f *file) end(n *strictyaml.Node) int {
	at := f.offset(n)
	if at < 0 || at >= len(f.src) {
		return -1
	}
	switch c := f.src[at]; {
	case n.Kind == strictyaml.Scalar:
		return f.scalarEnd(n, at)
	case c == '{' && n.Kind == strictyaml.Mapping, c == '[' && n.Kind == strictyaml.Sequence:
		return f.flowEnd(at)
	}
	// In block style a collection ends where the last of it does.
	switch {
	case len(n.Items) > 0:
		return f.end(n.Items[len(n.Items)-1])
	case len(n.Fields) > 0:
		return f.end(n.Fields[len(n.Fields)-1].Value)
	}
	return -1
}

func (f *file) scalarEnd(n *strictyaml.Node, at int) int {
	if !n.Quoted {
		// A plain scalar that goes on over several lines does not read as its value.
		if rest := string(f.src[at:min(len(f.src), at+len(n.Value))]); rest != n.Value || strings.ContainsAny(n.Value, "\r\n") {
			return -1
		}
		return at + len(n.Value)
	}
	switch f.src[at] {
	case '"', '\'':
		return f.quotedEnd(at)
	}
	return -1 // a block scalar
}

// quotedEnd is behind the quote that closes the one at an offset, or -1.
func (f *file) quotedEnd(at int) int {
	q := f.src[at]
	for i := at + 1; i < len(f.src); i++ {
		switch {
		case q == '"' && f.src[i] == '\\':
			i++
		case f.src[i] != q:
		case q == '\'' && i+1 < len(f.src) && f.src[i+1] == q:
			i++ // it is written twice
		default:
			return i + 1
		}
	}
	return -1
}

// flowEnd is behind the bracket that closes the one at an offset, or -1.
func (f *file) flowEnd(at int) int {
	depth, start := 0, true // start: a scalar may begin here, so that quotes quote
	for i := at; i < len(f.src); i++ {
		switch c := f.src[i]; c {
		case '[', '{':
			depth++
			start = true
		case ']', '}':
			if depth--; depth == 0 {
				return i + 1
			}
			start = false
		case ',', ':':
			start = true
		case '"', '\'':
			if start {
				if i = f.quotedEnd(i) - 1; i < 0 {
					return -1
				}
				start = false
			}
		case '#':
			if blank(f.src[i-1]) {
				for i+1 < len(f.src) && f.src[i+1] != '\n' {
					i++
				}
			}
		case ' ', '\t', '\r', '\n':
		default:
			start = false
		}
	}
	return -1
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// flow reports whether a collection is written with brackets.
func (f *file) flow(n *strictyaml.Node) bool {
	at := f.offset(n)
	return at >= 0 && at < len(f.src) && (f.src[at] == '{' || f.src[at] == '[')
}

// lead is what stands on a line before a place.
func (f *file) lead(at int) string {
	begin := at
	for begin > 0 && f.src[begin-1] != '\n' {
		begin--
	}
	return string(f.src[begin:at])
}

// rest is what stands on a line behind a place, without blanks and the comment.
func (f *file) rest(at int) string {
	end, _ := f.lineEnd(at)
	s := string(f.src[at:end])
	for i := range s {
		if s[i] == '#' && (i == 0 && at > 0 && blank(f.src[at-1]) || i > 0 && blank(s[i-1])) {
			s = s[:i]
			break
		}
	}
	return strings.TrimSpace(s)
}

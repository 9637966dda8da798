package strictyaml

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits on one file.
const (
	MaxSize  = 1 << 20 // bytes
	MaxDepth = 32      // nested mappings and sequences
)

// sourceWidth is how many characters of a long line an [Error] shows.
const sourceWidth = 120

// walkable bounds the bytes of a line that are walked to find a column: a file
// of one long line has as many columns to find as it has bytes. In lines of
// plain ASCII a column is found without walking.
const walkable = 4096

// The parts of a file are the characters that can begin or end a node, and memory
// is what they take: people's files have one part in ten bytes or more, and a file of
// nothing but brackets one in each. A part takes some 150 bytes once it is read, and
// twice as much while it is: what is written to take much memory takes about 45 times its
// size at the peak, with a program's own copies. A file may have a part for every
// [bytesPerPart] bytes, and [fewParts] in any case.
const (
	fewParts     = 256 << 10
	bytesPerPart = 8
)

func maxParts(size int) int { return max(fewParts, size/bytesPerPart) }

// parts counts the characters that can begin or end a node.
func parts(src []byte) int {
	if len(src) <= fewParts {
		return len(src)
	}
	n := 0
	for _, c := range src {
		switch c {
		case '\n', ':', ',', '[', '{', '-', '?':
			n++
		}
	}
	return n
}

// Document is one open file: its tree, and the problems found in it so far.
type Document struct {
	file    string
	lines   []string
	ascii   []bool // per line: tabs and printable ASCII only
	root    *Node
	errs    Errors
	dropped bool
}

// Open reads src. It always returns a Document; [Document.Err] tells whether
// there is anything wrong with it. Where the file is no YAML at all, there is
// no tree and Root returns nil.
func Open(file string, src []byte) *Document { return OpenLimit(file, src, MaxSize) }

// OpenLimit is Open with another size limit than [MaxSize].
func OpenLimit(file string, src []byte, limit int) *Document {
	d := &Document{file: file}
	if len(src) > limit {
		d.report(1, 0, fmt.Sprintf("the file is too large: %d bytes, at most %d are read", len(src), limit), "")
		return d
	}
	if most := maxParts(len(src)); parts(src) > most {
		d.report(1, 0, fmt.Sprintf("the file has too many parts for its size: more than %d lines, keys and list items", most), "split it")
		return d
	}
	d.lines = strings.Split(string(src), "\n")
	for i, l := range d.lines {
		if i < len(d.lines)-1 {
			d.lines[i] = strings.TrimSuffix(l, "\r")
		}
	}
	if !d.checkCharacters() {
		return d
	}
	d.load(src)
	return d
}

// Parse opens src and returns its tree, or every problem with it as [Errors].
// An empty file is an empty mapping.
func Parse(file string, src []byte) (*Node, error) {
	d := Open(file, src)
	if err := d.Err(); err != nil {
		return nil, err
	}
	return d.root, nil
}

// Root returns the outermost node, which is a mapping, a sequence or a scalar;
// nil where the file is no YAML.
func (d *Document) Root() *Node { return d.root }

// At returns the value under the path of keys, or as much of the path as
// exists: the place at which to report that the rest is missing. It is nil
// only where there is no tree.
func (d *Document) At(path ...string) *Node {
	n := d.root
	for _, key := range path {
		next := n.Get(key)
		if next == nil {
			break
		}
		n = next
	}
	return n
}

// Report adds a problem at a node; a nil node is the start of the file.
func (d *Document) Report(n *Node, msg, hint string) {
	if n == nil {
		d.report(1, 0, msg, hint)
		return
	}
	d.report(n.Line, n.Col, msg, hint)
}

// Problem makes an [Error] at a node without adding it to the document: for
// warnings. A nil node is the start of the file.
func (d *Document) Problem(n *Node, msg, hint string) *Error {
	if n == nil {
		return d.problem(1, 0, msg, hint)
	}
	return d.problem(n.Line, n.Col, msg, hint)
}

// Position is "file:line:col" of a node.
func (d *Document) Position(n *Node) string {
	return (&Error{File: d.file, Line: n.Line, Col: n.Col}).Position()
}

// Full reports whether further problems are only counted: who would go to
// lengths for a hint can leave it.
func (d *Document) Full() bool { return len(d.errs) >= MaxErrors }

// Err returns every problem reported so far as [Errors], sorted, or nil.
func (d *Document) Err() error {
	if len(d.errs) == 0 {
		return nil
	}
	out := d.errs.sorted()
	if d.dropped {
		last := out[len(out)-1]
		out = append(out, &Error{
			File: d.file, Line: last.Line,
			Msg: fmt.Sprintf("too many problems: only the first %d found are listed", MaxErrors),
		})
	}
	return out
}

func (d *Document) report(line, col int, msg, hint string) {
	if d.Full() {
		d.dropped = true
		return
	}
	d.errs = append(d.errs, d.problem(line, col, msg, hint))
}

func (d *Document) problem(line, col int, msg, hint string) *Error {
	src, caret := d.excerpt(line, col)
	return &Error{File: d.file, Line: line, Col: col, Msg: msg, Hint: hint, Source: src, Caret: caret}
}

// excerpt returns the line, or a window of it, and the number of characters
// before the column in what it returns.
func (d *Document) excerpt(line, col int) (string, int) {
	if line < 1 || line > len(d.lines) {
		return "", 0
	}
	s := d.lines[line-1]
	caret := max(col-1, 0)
	if len(s) <= sourceWidth {
		return clean(s), caret
	}
	if !d.ascii[line-1] && len(s) > walkable {
		return "", 0
	}
	// Find where the window begins: half of it before the column.
	start, skipped := 0, 0
	if d.ascii[line-1] {
		start = min(max(caret-sourceWidth/2, 0), len(s))
		skipped = start
	}
	for skipped < caret-sourceWidth/2 && start < len(s) {
		_, n := utf8.DecodeRuneInString(s[start:])
		start, skipped = start+n, skipped+1
	}
	end, count := start, 0
	for count < sourceWidth && end < len(s) {
		_, n := utf8.DecodeRuneInString(s[end:])
		end, count = end+n, count+1
	}
	out, caret := s[start:end], caret-skipped
	if start > 0 {
		out, caret = "…"+out, caret+1
	}
	if end < len(s) {
		out += "…"
	}
	return clean(out), caret
}

// clean replaces what must not reach a terminal; the number of characters
// stays the same.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && forbidden(r) != "" {
			return utf8.RuneError
		}
		return r
	}, s)
}

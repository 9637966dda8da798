package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Kind is what a node is.
type Kind uint8

// The kinds of node.
const (
	Scalar Kind = iota
	Mapping
	Sequence
)

// String names the kind as error messages do.
func (k Kind) String() string {
	switch k {
	case Mapping:
		return "a mapping"
	case Sequence:
		return "a list"
	case Scalar:
	}
	return "a single value"
}

// Type is what YAML takes a scalar for. Quoted scalars are always Text.
type Type uint8

// The types of a scalar. A date or time is Text too.
const (
	Text Type = iota
	Null
	Bool
	Number
)

// String names the type as error messages do.
func (t Type) String() string {
	switch t {
	case Null:
		return "nothing"
	case Bool:
		return "true or false"
	case Number:
		return "a number"
	case Text:
	}
	return "text"
}

// Node is one place in a file. It holds no unresolved YAML: no aliases, no
// tags.
type Node struct {
	Kind    Kind
	Type    Type   // of a scalar
	Quoted  bool   // the scalar was quoted, or a block scalar
	refused bool   // reported already: say nothing more about it
	Line    int    // from 1
	Col     int    // from 1, in characters
	Value   string // of a scalar, as written (without quotes)

	Items  []*Node // of a sequence
	Fields []Field // of a mapping, in the order of the file; keys are distinct

	index map[string]int
}

// Field is one entry of a mapping.
type Field struct {
	Key   *Node
	Value *Node
}

// Get returns the value of a key, or nil where the node is no mapping or has
// no such key. A nil node has none.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	if i, ok := n.index[key]; ok {
		return n.Fields[i].Value
	}
	return nil
}

// Key returns the node of the key itself, or nil.
func (n *Node) Key(key string) *Node {
	if n == nil {
		return nil
	}
	if i, ok := n.index[key]; ok {
		return n.Fields[i].Key
	}
	return nil
}

// Describe says what the node is, for "want X, got Y".
func (n *Node) Describe() string {
	if n.Kind != Scalar {
		return n.Kind.String()
	}
	switch n.Type {
	case Null:
		return "nothing"
	case Bool, Number:
		return n.Type.String() + " (" + clip(n.Value, 40) + ")"
	case Text:
	}
	return strconv.Quote(clip(n.Value, 40))
}

// load parses src, which checkCharacters has passed.
func (d *Document) load(src []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc yaml.Node
	switch err := decodeNode(dec, &doc); {
	case errors.Is(err, io.EOF): // nothing but comments
		d.root = &Node{Kind: Mapping, Line: 1, Col: 1}
		return
	case err != nil:
		d.syntax(err)
		return
	}
	var second yaml.Node
	switch err := decodeNode(dec, &second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(err)
		return
	default:
		d.report(max(second.Line, 1), max(second.Column, 1), "a second document begins here; a file holds one", "remove the --- line, or split the file")
	}
	if len(doc.Content) != 1 {
		d.report(1, 0, "the file holds no document", "")
		return
	}
	d.root = d.convert(doc.Content[0], 1)
	if r := d.root; r.Kind == Scalar && r.Type == Null && r.Value == "" {
		d.root = &Node{Kind: Mapping, Line: r.Line, Col: r.Col} // "---" alone
	}
}

// decodeNode turns a panic of the parser into an error: files come from people
// and, later, from the network.
func decodeNode(dec *yaml.Decoder, into *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: the parser failed: %v", r)
		}
	}()
	return dec.Decode(into)
}

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.+)' referenced`)
)

// syntax reports what the parser stopped at. It gives a line at best: nothing
// of the file is used.
func (d *Document) syntax(err error) {
	d.root = nil
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := unknownAnchor.FindStringSubmatch(msg); m != nil {
		for i, l := range d.lines {
			if col := strings.Index(l, "*"+m[1]); col >= 0 {
				d.report(i+1, utf8.RuneCountInString(l[:col])+1, "aliases are not accepted: *"+clip(m[1], 40), "write the value out")
				return
			}
		}
	}
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		msg = msg[len(m[0]):]
	}
	line = min(max(line, 1), len(d.lines))
	hint := ""
	if lead := indent(d.lines[line-1]); strings.Contains(lead, "\t") {
		hint = "indent with spaces; YAML refuses tabs"
	}
	d.report(line, 0, "not valid YAML: "+msg, hint)
}

func indent(s string) string { return s[:len(s)-len(strings.TrimLeft(s, " \t"))] }

// convert copies the parser's tree into ours, reporting everything that is
// refused on the way. It returns a node in any case, so that later checks can
// go on over the rest.
func (d *Document) convert(y *yaml.Node, depth int) *Node {
	n := &Node{Line: y.Line, Col: y.Column}
	d.refuse(y, n)
	switch y.Kind {
	case yaml.MappingNode:
		n.Kind = Mapping
	case yaml.SequenceNode:
		n.Kind = Sequence
	case yaml.ScalarNode:
		d.scalar(y, n)
		return n
	case yaml.AliasNode, yaml.DocumentNode:
		n.refused = true // reported by refuse; nothing is expanded
		return n
	}
	if depth > MaxDepth {
		n.refused = true
		d.Report(n, fmt.Sprintf("nested too deeply: at most %d levels are read", MaxDepth), "")
		return n
	}
	if n.Kind == Sequence {
		n.Items = make([]*Node, len(y.Content))
		for i, c := range y.Content {
			n.Items[i] = d.convert(c, depth+1)
			y.Content[i] = nil // two trees of a large file are one too many
		}
		return n
	}
	n.Fields = make([]Field, 0, len(y.Content)/2)
	n.index = make(map[string]int, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		d.field(n, y.Content[i], y.Content[i+1], depth)
		y.Content[i], y.Content[i+1] = nil, nil
	}
	return n
}

func (d *Document) field(n *Node, yk, yv *yaml.Node, depth int) {
	key := d.convert(yk, depth+1)
	value := d.convert(yv, depth+1)
	switch {
	case yk.Kind == yaml.AliasNode:
		return // reported
	case key.Kind != Scalar || key.Type == Null:
		d.Report(key, "a key must be a single word or text, not "+key.Describe(), "")
		return
	case yk.ShortTag() == "!!merge":
		d.Report(key, "merge keys (<<) are not accepted", "write the keys out")
		return
	}
	if first, dup := n.index[key.Value]; dup {
		d.Report(key, fmt.Sprintf("duplicate key %q: it is first set on line %d", clip(key.Value, 60), n.Fields[first].Key.Line), "remove one of them")
		return
	}
	n.index[key.Value] = len(n.Fields)
	n.Fields = append(n.Fields, Field{key, value})
}

// refuse reports anchors, aliases and tags.
func (d *Document) refuse(y *yaml.Node, n *Node) {
	switch {
	case y.Kind == yaml.AliasNode:
		d.Report(n, fmt.Sprintf("aliases are not accepted: *%s", clip(y.Value, 40)), "write the value out")
	case y.Anchor != "":
		d.Report(n, fmt.Sprintf("anchors are not accepted: &%s", clip(y.Anchor, 40)), "remove it, and write the value out where it is needed")
	case y.Style&yaml.TaggedStyle != 0 || d.runeAt(y.Line, y.Column) == '!':
		// The parser forgets the non-specific tag "!", so we look at the source.
		// No plain scalar can begin with it (YAML 1.1 section 5.3).
		d.Report(n, "tags are not accepted", "remove the word that begins with !")
	}
}

// runeAt returns the character at a position, or 0. To stay linear over a file
// of one long line, it looks at such a line only if it is plain ASCII.
func (d *Document) runeAt(line, col int) rune {
	if line < 1 || line > len(d.lines) || col < 1 {
		return 0
	}
	s := d.lines[line-1]
	if d.ascii[line-1] {
		if col <= len(s) {
			return rune(s[col-1])
		}
		return 0
	}
	if len(s) > walkable {
		return 0
	}
	for i := 1; s != ""; i++ {
		r, n := utf8.DecodeRuneInString(s)
		if i == col {
			return r
		}
		s = s[n:]
	}
	return 0
}

func (d *Document) scalar(y *yaml.Node, n *Node) {
	n.Value = y.Value
	n.Quoted = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if n.Quoted {
		d.checkEscapes(y, n)
		return
	}
	switch y.ShortTag() {
	case "!!null":
		n.Type = Null
	case "!!bool":
		n.Type = Bool
	case "!!int", "!!float":
		n.Type = Number
	}
}

// checkEscapes refuses what checkCharacters would, had it not been written as an
// escape: "\e" reaches a terminal as well as the character itself does. Line
// breaks are left to those who want one line.
func (d *Document) checkEscapes(y *yaml.Node, n *Node) {
	if y.Style&yaml.DoubleQuotedStyle == 0 || plainASCII(n.Value) {
		return
	}
	for _, r := range n.Value {
		if what := forbidden(r); what != "" && r != '\n' {
			n.refused = true
			d.Report(n, what+" is not accepted, nor an escape for it", "")
			return
		}
	}
}

// clip shortens text from a file to n characters before it is printed.
func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

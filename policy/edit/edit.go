package edit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// Reference is one value to add to a set.
type Reference struct {
	Set       string    // the set's name
	Value     string    // as the policy is to have it: hex, or text of the claim
	NotBefore time.Time // zero: no bound
	NotAfter  time.Time // zero: no bound
	Note      string    // "": none
	Source    string    // "": none
}

// Options say how a value is added.
type Options struct {
	// Revision of the result; 0 is one more than the file's.
	Revision uint64
	// Create makes the set where there is none.
	Create bool
	// EndOthers gives every other value of the set this not_after, unless it ends
	// before; zero leaves them.
	EndOthers time.Time
}

// Result is a changed policy.
type Result struct {
	Source   []byte
	Bundle   *policy.Bundle // of Source
	Before   *policy.Bundle
	Created  bool // the set is new
	Line     int  // of the added entry in Source
	Ended    []Ended
	Replaced []Replaced // every change of bytes, in the order of the file
}

// Ended is a value that was given an end.
type Ended struct {
	Value    string
	Note     string
	Line     int // in Source
	NotAfter time.Time
	Until    time.Time // the end that it had before; zero where it had none
}

// Replaced is one change of bytes: at Offset of the old file, Old was there and
// New is now. Old is empty where text was only put in.
type Replaced struct {
	Offset   int
	Old, New string
}

// The errors that a caller may want to tell apart.
var (
	// ErrNoSet is a set that the policy does not have.
	ErrNoSet = errors.New("the policy has no reference set of this name")
	// ErrListed is a value that the set lists already.
	ErrListed = errors.New("the value is listed already")
	// ErrLayout is YAML that is laid out in a way which this package does not edit.
	ErrLayout = errors.New("this part of the file cannot be edited automatically")
)

// Error is an edit that was refused, with the place in the file.
type Error struct {
	Err      error
	Position string // "file:line:col"; may be empty
	Hint     string
}

// Error says where and why.
func (e *Error) Error() string {
	if e.Position == "" {
		return e.Err.Error()
	}
	return e.Position + ": " + e.Err.Error()
}

// Unwrap yields the cause.
func (e *Error) Unwrap() error { return e.Err }

// AddReference adds a value to a reference set of a policy. file is its name in
// messages. The policy must have no errors before, and has none afterwards. The
// error is a strictyaml.Errors about the file, or an *[Error].
func AddReference(file string, src []byte, r Reference, o Options) (*Result, error) {
	r.NotBefore, r.NotAfter, o.EndOthers = r.NotBefore.Truncate(time.Second), r.NotAfter.Truncate(time.Second), o.EndOthers.Truncate(time.Second)
	before, err := policy.Parse(file, src)
	if err != nil {
		return nil, err
	}
	f := open(file, src)
	want, err := f.expected(before, r, o)
	if err != nil {
		return nil, err
	}
	if err := f.plan(r, o, want); err != nil {
		return nil, err
	}
	out := f.apply()
	changed := open(file, out)
	after, err := policy.Parse(file, out)
	if err == nil {
		err = want.holds(changed)
	}
	if err != nil {
		return nil, f.explain(err, changed, r)
	}
	items := changed.set(r.Set).entries().Items
	res := &Result{Source: out, Bundle: after, Before: before, Created: want.created, Line: items[len(items)-1].Line, Replaced: f.edits}
	for _, e := range want.ended {
		e.Line = items[e.index].Line
		res.Ended = append(res.Ended, e.Ended)
	}
	return res, nil
}

// explain tells errors of the new value, which are the caller's, from a layout
// that was not understood, which is ours.
func (f *file) explain(err error, changed *file, r Reference) error {
	var found strictyaml.Errors
	if list := changed.set(r.Set).entries(); errors.As(err, &found) && list != nil && len(list.Items) > 0 {
		added := list.Items[len(list.Items)-1]
		for _, e := range found {
			if v := added.Get("value"); v != nil && v.Value == r.Value && e.Line == added.Line {
				return &Error{Err: fmt.Errorf("the policy would not accept the new value: %s", e.Msg), Hint: e.Hint}
			}
		}
	}
	return &Error{
		Err: fmt.Errorf("%w: %w", ErrLayout, err), Position: f.set(r.Set).position(f),
		Hint: "write the set as a list with one entry a line, or add the value by hand; nothing was changed",
	}
}

// file is a policy that is being edited.
type file struct {
	name  string
	src   []byte
	doc   *strictyaml.Document
	root  *strictyaml.Node
	lines []int  // offset of each line
	eol   string // the file's line ending
	edits []Replaced
	last  struct{ line, col, at int } // of the last offset
}

func open(name string, src []byte) *file {
	f := &file{name: name, src: src, doc: strictyaml.OpenLimit(name, src, policy.MaxSize), lines: []int{0}, eol: "\n"}
	f.root = f.doc.Root()
	if bytes.Contains(src, []byte("\r\n")) {
		f.eol = "\r\n"
	}
	for i, c := range src {
		if c == '\n' {
			f.lines = append(f.lines, i+1)
		}
	}
	return f
}

// place is a node that may not be there.
type place struct{ *strictyaml.Node }

func (f *file) set(name string) place { return place{f.root.Get("references").Get(name)} }

func (p place) position(f *file) string {
	if p.Node == nil {
		return ""
	}
	return f.doc.Position(p.Node)
}

// entries is the list of a set's entries, in either of its two forms.
func (p place) entries() *strictyaml.Node {
	if p.Node != nil && p.Kind == strictyaml.Mapping {
		return p.Get("values")
	}
	return p.Node
}

// offset is where a node begins, or -1. A column counts characters; on one long
// line, whose nodes are mostly asked for in order, it goes on from the last.
func (f *file) offset(n *strictyaml.Node) int {
	if n.Line < 1 || n.Line > len(f.lines) {
		return -1
	}
	if f.last.line != n.Line || f.last.col > n.Col {
		f.last.line, f.last.col, f.last.at = n.Line, 1, f.lines[n.Line-1]
	}
	for ; f.last.col < n.Col; f.last.col++ {
		if f.last.at >= len(f.src) {
			f.last.line = 0
			return -1
		}
		f.last.at += runeLength(f.src[f.last.at:])
	}
	return f.last.at
}

// insert puts text at an offset; replace puts it in place of n bytes.
func (f *file) insert(at int, text string) { f.replace(at, 0, text) }
func (f *file) replace(at, n int, text string) {
	f.edits = append(f.edits, Replaced{Offset: at, Old: string(f.src[at : at+n]), New: text})
}

// apply makes the new file. Edits at one place keep the order in which they were
// made.
func (f *file) apply() []byte {
	slices.SortStableFunc(f.edits, func(a, b Replaced) int { return a.Offset - b.Offset })
	var out bytes.Buffer
	at := 0
	for _, e := range f.edits {
		out.Write(f.src[at:e.Offset])
		out.WriteString(e.New)
		at = e.Offset + len(e.Old)
	}
	out.Write(f.src[at:])
	return out.Bytes()
}

// lineEnd is the offset behind the line, past its ending, and whether it has one.
func (f *file) lineEnd(at int) (int, bool) {
	i := bytes.IndexByte(f.src[at:], '\n')
	if i < 0 {
		return len(f.src), false
	}
	return at + i + 1, true
}

// insertLine puts a line of its own behind the line that at is on.
func (f *file) insertLine(at int, text string) {
	end, closed := f.lineEnd(at)
	if closed {
		f.insert(end, text+f.eol)
	} else {
		f.insert(end, f.eol+text)
	}
}

// line is the entry as it is written.
func (r Reference) entry() string {
	var b strings.Builder
	b.WriteString("{value: " + quote(r.Value))
	if !r.NotBefore.IsZero() {
		b.WriteString(", not_before: " + stamp(r.NotBefore))
	}
	if !r.NotAfter.IsZero() {
		b.WriteString(", not_after: " + stamp(r.NotAfter))
	}
	if r.Note != "" {
		b.WriteString(", note: " + quote(r.Note))
	}
	if r.Source != "" {
		b.WriteString(", source: " + quote(r.Source))
	}
	return b.String() + "}"
}

// quote writes text in double quotes. Characters that must not stand in a policy
// are left to its parser, which refuses them.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(s) + `"`
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (f *file) revision(n uint64) error {
	at := f.root.Get("revision")
	begin := f.offset(at)
	if at.Quoted || begin < 0 || !bytes.HasPrefix(f.src[begin:], []byte(at.Value)) {
		return &Error{Err: ErrLayout, Position: f.doc.Position(at), Hint: "write the revision as a plain number"}
	}
	f.replace(begin, len(at.Value), strconv.FormatUint(n, 10))
	return nil
}

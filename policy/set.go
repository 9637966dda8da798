package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// set is the operand of eq and in: a finite set of values, each with a window
// of validity. It is shared by all rules that use the same reference set.
type set struct {
	name      string // of the reference set; "" for values written in place
	dedicated bool   // the reference set belongs to machines of one owner
	single    bool   // eq
	entries   []entry
	index     map[value]int // of more than fewEntries; see find
	want      string
	when      []window             // see windows; for lint
	miss      func(v value) string // explains a value that is not in the set; may be nil
}

// entry is one value. A zero bound is no bound; bounds are inclusive.
type entry struct {
	value     value
	text      string
	notBefore time.Time
	notAfter  time.Time
	note      string
	source    string // where the value came from
}

// fewEntries are searched in turn: a map for each would take most of the memory
// of a large bundle, whose sets have one value each.
const fewEntries = 8

// listed bounds the values that the expected text spells out.
const listed = 6

func newSet(name string, single bool, entries []entry) *set {
	s := &set{name: name, single: single, entries: entries}
	if len(entries) > fewEntries {
		s.index = make(map[value]int, len(entries))
		for i, e := range entries {
			s.index[e.value] = i
		}
	}
	s.want = s.describe()
	return s
}

func (s *set) describe() string {
	if s.single && len(s.entries) == 1 {
		return s.entries[0].text
	}
	var b strings.Builder
	if s.name != "" {
		b.WriteString(s.name)
		b.WriteString(": ")
	}
	b.WriteString("one of ")
	for i, e := range s.entries {
		if i == listed {
			fmt.Fprintf(&b, " and %d more", len(s.entries)-listed)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(e.text)
		b.WriteString(e.remarks())
	}
	return b.String()
}

// remarks writes note and window in parentheses, or nothing.
func (e *entry) remarks() string {
	var parts []string
	if e.note != "" {
		parts = append(parts, fmt.Sprintf("%q", e.note))
	}
	if !e.notBefore.IsZero() {
		parts = append(parts, "from "+stamp(e.notBefore))
	}
	if !e.notAfter.IsZero() {
		parts = append(parts, "until "+stamp(e.notAfter))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// lists reports whether a value is in the set at any time.
func (s *set) lists(v value) bool {
	_, ok := s.find(v)
	return ok
}

// find returns the place of a value among the entries.
func (s *set) find(v value) (int, bool) {
	if s.index != nil {
		i, ok := s.index[v]
		return i, ok
	}
	for i := range s.entries {
		if s.entries[i].value == v {
			return i, true
		}
	}
	return 0, false
}

// holds is eval without words.
func (s *set) holds(v value, at time.Time) (bool, *time.Time) {
	i, ok := s.find(v)
	if !ok {
		return false, nil
	}
	e := &s.entries[i]
	if !e.notBefore.IsZero() && at.Before(e.notBefore) || !e.notAfter.IsZero() && at.After(e.notAfter) {
		return false, nil
	}
	if e.notAfter.IsZero() {
		return true, nil
	}
	return true, &e.notAfter
}

func (s *set) expected() string { return s.want }
func (s *set) values() *set     { return s }

func (s *set) eval(v value, text string, at time.Time) verdict {
	i, ok := s.find(v)
	if !ok {
		out := verdict{got: text}
		if s.miss != nil {
			out.hint = s.miss(v)
		}
		return out
	}
	e := &s.entries[i]
	where := ""
	switch {
	case s.name != "":
		where = fmt.Sprintf(", entry %d of %s", i+1, s.name)
	case !s.single:
		where = fmt.Sprintf(", entry %d", i+1)
	}
	switch {
	case !e.notBefore.IsZero() && at.Before(e.notBefore):
		return verdict{
			got:  text + where + e.remarks() + ": not valid yet",
			hint: "the value is listed, and is accepted from " + stamp(e.notBefore) + " on",
		}
	case !e.notAfter.IsZero() && at.After(e.notAfter):
		return verdict{
			got:  text + where + e.remarks() + ": no longer valid",
			hint: "the value is listed, and was accepted until " + stamp(e.notAfter),
		}
	}
	out := verdict{holds: true, got: text}
	if where != "" {
		out.got = text + where + e.remarks()
	}
	if !e.notAfter.IsZero() {
		until := e.notAfter
		out.until = &until
	}
	return out
}

// compileSet is the compiler of eq and in, for kinds that have them.
func compileSet(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	if op == "eq" {
		v, ok := f.kind.parse(p.doc, n)
		if !ok {
			return nil, false
		}
		return newSet("", true, []entry{{value: v, text: f.kind.format(v)}}), true
	}
	if n.Kind == strictyaml.Scalar {
		name, ok := p.doc.Text(n)
		if !ok {
			return nil, false
		}
		ref, ok := p.references[name]
		if !ok {
			hint := "references has no sets"
			if len(p.references) > 0 && !p.doc.Full() {
				hint = p.doc.Suggest(name, p.referenceNames())
			}
			p.doc.Report(n, fmt.Sprintf("unknown reference set %q", clip(name)), hint)
			return nil, false
		}
		if s := ref.compile(p, f); s != nil {
			if ref.dedicated && f.owner == nil {
				p.warn(n, CodeLauncherData, fmt.Sprintf("the set %s says dedicated: true, which has no effect on %s: it does not tell whose environment it is", ref.name, f.name), "whoever launches the same inputs shows the same value: leave dedicated out")
			}
			return s, true
		}
		return nil, false
	}
	if !p.doc.Want(n, strictyaml.Sequence) {
		return nil, false
	}
	raw, ok := p.entries(n, "in")
	if !ok {
		return nil, false
	}
	if s := compileEntries(p, "", raw, f); s != nil {
		return s, true
	}
	return nil, false
}

// reference is one named set, before it is known which claims it is for.
type reference struct {
	name      string
	key       *strictyaml.Node
	dedicated bool
	entries   []rawEntry
	broken    bool
	used      bool
	users     []*workload
	compiled  map[kind]*set
	quiet     map[Code]bool // see hushed
}

// hushed reports whether every workload that uses the set silences a code. It
// asks them once: many values may be in a set, and many workloads may use it.
func (r *reference) hushed(p *parser, c Code) bool {
	if q, ok := r.quiet[c]; ok {
		return q
	}
	all := len(r.users) > 0
	for _, w := range r.users {
		p.work++
		if w == nil || !hush(w.silence, c) {
			all = false
		}
	}
	if r.quiet == nil {
		r.quiet = map[Code]bool{}
	}
	r.quiet[c] = all
	return all
}

// rawEntry is one value of a set as the file has it.
type rawEntry struct {
	node  *strictyaml.Node
	entry entry
}

func (r *reference) compile(p *parser, f *field) *set {
	r.used = true
	r.users = append(r.users, p.current)
	if r.broken {
		return nil
	}
	if s, ok := r.compiled[f.kind]; ok {
		return s
	}
	s := compileEntries(p, r.name, r.entries, f)
	if s != nil {
		s.dedicated = r.dedicated
	}
	r.compiled[f.kind] = s
	return s
}

func compileEntries(p *parser, name string, raw []rawEntry, f *field) *set {
	ok := true
	out := make([]entry, 0, len(raw))
	first := make(map[value]*strictyaml.Node, len(raw))
	for _, r := range raw {
		p.work++
		v, good := f.kind.parse(p.doc, r.node)
		if !good {
			ok = false
			continue
		}
		if before, dup := first[v]; dup {
			p.doc.Report(r.node, fmt.Sprintf("the value is listed twice: it is on line %d already", before.Line), "give one entry the whole window, and remove the other")
			ok = false
			continue
		}
		first[v] = r.node
		e := r.entry
		e.value, e.text = v, f.kind.format(v)
		out = append(out, e)
	}
	if !ok {
		return nil
	}
	return newSet(name, false, out)
}

// window is a closed interval of time; a zero bound is no bound.
type window struct{ from, to time.Time }

// common returns the windows in which one value is in both sets, merged and
// sorted.
func common(a, b *set) []window {
	if len(a.entries) > len(b.entries) {
		a, b = b, a
	}
	var out []window
	for _, x := range a.entries {
		i, ok := b.find(x.value)
		if !ok {
			continue
		}
		y := b.entries[i]
		if w, ok := (window{x.notBefore, x.notAfter}).and(window{y.notBefore, y.notAfter}); ok {
			out = append(out, w)
		}
	}
	return merge(out)
}

// windows returns the moments at which some value of the set is accepted, merged
// and sorted. They are found once: thousands of workloads may share a set.
func (s *set) windows() []window {
	if s.when == nil {
		s.when = common(s, s)
	}
	return s.when
}

// passing returns the windows of the values that an open test admits, merged
// and sorted.
func (s *set) passing(o open) []window {
	var out []window
	for _, e := range s.entries {
		if o.admits(e.value) {
			if w, ok := (window{e.notBefore, e.notAfter}).and(window{}); ok {
				out = append(out, w)
			}
		}
	}
	return merge(out)
}

// and intersects two windows.
func (w window) and(o window) (window, bool) {
	if w.from.Before(o.from) {
		w.from = o.from
	}
	if w.to.IsZero() || !o.to.IsZero() && o.to.Before(w.to) {
		w.to = o.to
	}
	return w, w.to.IsZero() || !w.to.Before(w.from)
}

// maxWindows bounds the windows that lint tells apart: of more it takes the
// whole span, and may complain of what cannot happen.
const maxWindows = 256

// merge sorts windows and joins those that touch.
func merge(ws []window) []window {
	slices.SortFunc(ws, func(a, b window) int { return a.from.Compare(b.from) })
	var out []window
	for _, w := range ws {
		if n := len(out); n > 0 && (out[n-1].to.IsZero() || !w.from.After(out[n-1].to)) {
			if !out[n-1].to.IsZero() && (w.to.IsZero() || w.to.After(out[n-1].to)) {
				out[n-1].to = w.to
			}
			continue
		}
		out = append(out, w)
	}
	if len(out) > maxWindows {
		return []window{{out[0].from, out[len(out)-1].to}}
	}
	return out
}

// both intersects two merged lists of windows.
func both(a, b []window) []window {
	var out []window
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if w, ok := a[i].and(b[j]); ok {
			out = append(out, w)
		}
		if b[j].to.IsZero() || !a[i].to.IsZero() && a[i].to.Before(b[j].to) {
			i++
		} else {
			j++
		}
	}
	return out
}

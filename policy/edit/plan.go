package edit

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// plan writes the edits of one change.
func (f *file) plan(r Reference, o Options, want *expectation) error {
	if err := f.revision(want.revision); err != nil {
		return err
	}
	for _, e := range want.ended {
		if !f.endValue(e.item, o.EndOthers) {
			return f.layout(e.item)
		}
	}
	switch {
	case want.created:
		return f.create(r)
	case !f.add(f.set(r.Set).entries(), r):
		return f.layout(f.set(r.Set).entries())
	}
	return nil
}

func (f *file) layout(n *strictyaml.Node) error {
	return &Error{
		Err: ErrLayout, Position: f.doc.Position(n),
		Hint: "write the set as a list with one entry a line, or make the change by hand; nothing was changed",
	}
}

// add puts an entry behind the last one of a list, laid out as that one is.
func (f *file) add(list *strictyaml.Node, r Reference) bool {
	last := list.Items[len(list.Items)-1]
	begin, end := f.offset(last), f.end(last)
	if begin < 0 || end < 0 {
		return false
	}
	lead := f.lead(begin)
	if !f.flow(list) {
		// "- " stands before the item, with blanks before that.
		dash := strings.LastIndexByte(lead, '-')
		if dash < 0 || strings.TrimLeft(lead[:dash], " ") != "" || f.rest(end) != "" {
			return false
		}
		f.insertLine(end, lead[:dash]+"- "+r.entry())
		return true
	}
	behind := f.rest(end)
	switch alone := strings.TrimSpace(lead) == ""; {
	case alone && behind == ",": // one entry a line, and a comma behind the last
		f.insertLine(end, lead+r.entry()+",")
	case alone && behind == "" && f.closedLine(end):
		f.insert(end, ",")
		f.insertLine(end, lead+r.entry())
	default:
		f.insert(end, ", "+r.entry())
	}
	return true
}

// closedLine reports whether the line that a place is on has an end.
func (f *file) closedLine(at int) bool {
	_, ok := f.lineEnd(at)
	return ok
}

// endValue gives an entry a not_after, or moves the one that it has.
func (f *file) endValue(item *strictyaml.Node, until time.Time) bool {
	if item.Kind == strictyaml.Scalar {
		begin, end := f.offset(item), f.end(item)
		if begin < 0 || end < 0 {
			return false
		}
		f.insert(begin, "{value: ")
		f.insert(end, ", not_after: "+stamp(until)+"}")
		return true
	}
	if has := item.Get("not_after"); has != nil {
		begin, end := f.offset(has), f.end(has)
		if begin < 0 || end < 0 {
			return false
		}
		f.replace(begin, end-begin, stamp(until))
		return true
	}
	value, braces := item.Get("value"), f.flow(item) // in the order of the file: see offset
	end := f.end(value)
	if end < 0 {
		return false
	}
	if braces {
		f.insert(end, ", not_after: "+stamp(until))
		return true
	}
	// Keys of a mapping in block style begin in one column.
	key := item.Fields[0].Key
	begin := f.offset(key)
	if begin < 0 || f.rest(end) != "" || value.Line != item.Key("value").Line {
		return false
	}
	f.insertLine(end, strings.Repeat(" ", key.Col-1)+"not_after: "+stamp(until))
	return true
}

// create makes a set with one value: behind the other sets, or, where there are
// none, before the workloads.
func (f *file) create(r Reference) error {
	sets := f.root.Get("references")
	if sets == nil {
		return f.createFirst(r)
	}
	if len(sets.Fields) == 0 || f.flow(sets) {
		return &Error{
			Err: fmt.Errorf("%w: references is written in braces", ErrLayout), Position: f.doc.Position(sets),
			Hint: "write one set a line under references:, or make the set by hand; nothing was changed",
		}
	}
	last := sets.Fields[len(sets.Fields)-1]
	end := f.end(last.Value)
	if end < 0 || f.rest(end) != "" {
		return f.layout(last.Key)
	}
	f.insertLine(end, f.newSet(strings.Repeat(" ", last.Key.Col-1), r))
	return nil
}

func (f *file) newSet(indent string, r Reference) string {
	return indent + r.Set + ":" + f.eol + indent + "  - " + r.entry()
}

func (f *file) createFirst(r Reference) error {
	key := f.root.Key("workloads")
	at := f.offset(key)
	if at < 0 || key.Col != 1 || f.flow(f.root) {
		return f.layout(key)
	}
	// Comments directly above the workloads are theirs.
	for at > 0 {
		begin := at - 1 - len(f.lead(at-1))
		if !strings.HasPrefix(string(f.src[begin:at]), "#") {
			break
		}
		at = begin
	}
	f.insert(at, "references:"+f.eol+f.newSet("  ", r)+f.eol+f.eol)
	return nil
}

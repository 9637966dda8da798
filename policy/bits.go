package policy

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// bitfield is the kind of a claim of 64 flags, numbered from 0, the least
// significant.
type bitfield struct{}

func (bitfield) ops() []string { return []string{"bits"} }

func flags(v uint64) value { return value(binary.BigEndian.AppendUint64(nil, v)) }

func (v value) flags() uint64 { return binary.BigEndian.Uint64([]byte(v)) }

func (bitfield) format(v value) string {
	return fmt.Sprintf("%#016x (%s)", v.flags(), numbered(v.flags()))
}

// numbered writes "no bit", "bit 3", "bits 0, 3".
func numbered(mask uint64) string {
	var out []string
	for i := range 64 {
		if mask&(1<<i) != 0 {
			out = append(out, fmt.Sprint(i))
		}
	}
	switch len(out) {
	case 0:
		return "no bit"
	case 1:
		return "bit " + out[0]
	}
	return "bits " + strings.Join(out, ", ")
}

// parse refuses: a vector has no single value in this language.
func (bitfield) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	d.Report(n, "bits are matched with bits alone", "")
	return "", false
}

func (bitfield) compile(p *parser, f *field, _ string, n *strictyaml.Node) (test, bool) {
	example := "for example bits: {set: [0, 3], clear: [7]}; bits are numbered from 0 to 63"
	if n.Kind != strictyaml.Mapping {
		p.doc.Report(n, "want a mapping, got "+n.Describe(), example)
		return nil, false
	}
	p.doc.OnlyKeys(n, "set", "clear")
	set, ok := p.mask(n.Get("set"))
	clear, good := p.mask(n.Get("clear"))
	if !ok || !good {
		return nil, false
	}
	if set|clear == 0 {
		p.doc.Report(n, f.name+" names no bit: it would demand nothing", example)
		return nil, false
	}
	if twice := set & clear; twice != 0 {
		p.doc.Report(n, numbered(twice)+" cannot be both set and clear", "")
		return nil, false
	}
	return &bits{set, clear}, true
}

// mask reads a list of bit numbers.
func (p *parser) mask(n *strictyaml.Node) (mask uint64, ok bool) {
	if n == nil {
		return 0, true
	}
	if !p.doc.Want(n, strictyaml.Sequence) {
		return 0, false
	}
	ok = true
	for _, item := range n.Items {
		i, good := p.doc.Uint(item, 64)
		switch {
		case !good:
			ok = false
		case i > 63:
			p.doc.Report(item, fmt.Sprintf("there is no bit %d", i), "bits are numbered from 0 to 63")
			ok = false
		case mask&(1<<i) != 0:
			p.doc.Report(item, fmt.Sprintf("bit %d is listed twice", i), "")
			ok = false
		default:
			mask |= 1 << i
		}
	}
	return mask, ok
}

// bits is the test of the matcher bits.
type bits struct{ set, clear uint64 }

func (b *bits) expected() string {
	var parts []string
	if b.set != 0 {
		parts = append(parts, numbered(b.set)+" set")
	}
	if b.clear != 0 {
		parts = append(parts, numbered(b.clear)+" clear")
	}
	return strings.Join(parts, ", ")
}

func (b *bits) values() *set { return nil }

func (b *bits) eval(v value, text string, _ time.Time) verdict {
	out := verdict{holds: b.admits(v), got: text}
	var parts []string
	if missing := b.set &^ v.flags(); missing != 0 {
		parts = append(parts, numbered(missing)+" should be set")
	}
	if extra := b.clear & v.flags(); extra != 0 {
		parts = append(parts, numbered(extra)+" should be clear")
	}
	out.hint = strings.Join(parts, "; ")
	return out
}

func (b *bits) admits(v value) bool { return v.flags()&b.set == b.set && v.flags()&b.clear == 0 }

// excludes is exact: a bit that one wants set and the other clear.
func (b *bits) excludes(o open) bool {
	other, ok := o.(*bits)
	return ok && (b.set&other.clear != 0 || b.clear&other.set != 0)
}

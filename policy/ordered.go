package policy

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// number is the kind of a claim that is a whole number from least to most.
type number struct{ least, most uint32 }

func (number) ops() []string { return []string{"eq", "in", "gte", "lte"} }

func numeral(n uint32) value { return value(binary.BigEndian.AppendUint32(nil, n)) }

func (number) format(v value) string {
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32([]byte(v))), 10)
}

func (k number) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	u, ok := d.Uint(n, 64)
	if !ok {
		return "", false
	}
	if u < uint64(k.least) || u > uint64(k.most) {
		d.Report(n, fmt.Sprintf("want a number from %d to %d, got %d", k.least, k.most, u), "")
		return "", false
	}
	return numeral(uint32(u)), true // at most k.most
}

func (k number) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	t, ok := compileOrdered(p, f, op, n)
	b, isBound := t.(*bound)
	if !ok || !isBound {
		return t, ok
	}
	limit := k.least
	if b.upper {
		limit = k.most
	}
	if b.value == numeral(limit) {
		p.warn(n, CodeAlwaysHolds, fmt.Sprintf("%s: {%s: %s} holds always: it demands nothing", f.name, op, b.text), "remove it, or choose another bound")
	}
	return t, ok
}

// firmware is the kind of a firmware version, "1.55.29".
type firmware struct{}

func (firmware) ops() []string { return []string{"eq", "in", "gte", "lte"} }

func release(f attest.Firmware) value { return value([]byte{f.Major, f.Minor, f.Build}) }

func (firmware) format(v value) string {
	return attest.Firmware{Major: v[0], Minor: v[1], Build: v[2]}.String()
}

func (firmware) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	bad := func() (value, bool) {
		d.Report(n, fmt.Sprintf("want a firmware version, got %q", clip(s)), "major, minor and build, each from 0 to 255, such as \"1.55.29\"")
		return "", false
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return bad()
	}
	out := make([]byte, 0, 3)
	for _, p := range parts {
		u, err := strconv.ParseUint(p, 10, 8)
		if err != nil || p != strconv.FormatUint(u, 10) {
			return bad()
		}
		out = append(out, byte(u))
	}
	if allZero(out) {
		d.Report(n, "an all-zero reference value is refused", "zero is what a report without a firmware version reads")
		return "", false
	}
	return value(out), true
}

func (firmware) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileOrdered(p, f, op, n)
}

// compileOrdered is the compiler of kinds whose values are ordered as strings.
func compileOrdered(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	if op != "gte" && op != "lte" {
		return compileSet(p, f, op, n)
	}
	v, ok := f.kind.parse(p.doc, n)
	if !ok {
		return nil, false
	}
	return &bound{upper: op == "lte", value: v, text: f.kind.format(v)}, true
}

// bound is the test of gte and lte over an ordered claim.
type bound struct {
	upper bool // lte
	value value
	text  string
}

func (b *bound) expected() string {
	if b.upper {
		return "at most " + b.text
	}
	return "at least " + b.text
}

func (b *bound) values() *set { return nil }

func (b *bound) eval(v value, text string, _ time.Time) verdict {
	return verdict{holds: b.admits(v), got: text}
}

func (b *bound) admits(v value) bool {
	if b.upper {
		return v <= b.value
	}
	return v >= b.value
}

// excludes is exact: only a lower bound above an upper one leaves nothing.
func (b *bound) excludes(o open) bool {
	other, ok := o.(*bound)
	if !ok || b.upper == other.upper {
		return false
	}
	if b.upper {
		return other.value > b.value
	}
	return b.value > other.value
}

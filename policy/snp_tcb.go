package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// snpProducts are the product lines. TCBs of two lines are not comparable:
// their numbers count different firmware, and Turin's have one component more.
var snpProducts = []string{"milan", "genoa", "turin"}

const snpHasFMC = "turin"

// tcb is the kind of a version of the trusted computing base. Its value is the
// product line, a zero byte, and the components in the order of [tcbNames]; fmc
// is left out where the line has none.
type tcb struct{}

// tcbNames are the components, in the order of values.
var tcbNames = []string{"fmc", "bl", "tee", "snp", "ucode"}

func (tcb) ops() []string { return []string{"gte"} }

// tcbValue is false for a TCB whose layout is not that of its product line.
func tcbValue(product string, t attest.TCB) (value, bool) {
	out := append([]byte(product), 0)
	if (t.FMC != nil) != (product == snpHasFMC) || !slices.Contains(snpProducts, product) {
		return "", false
	}
	if t.FMC != nil {
		out = append(out, *t.FMC)
	}
	return value(append(out, t.Bootloader, t.TEE, t.SNP, t.Microcode)), true
}

// tcbOf reads a value back.
func tcbOf(v value) (product string, t attest.TCB) {
	product, parts, _ := strings.Cut(string(v), "\x00")
	if product == snpHasFMC {
		fmc := parts[0]
		t.FMC, parts = &fmc, parts[1:]
	}
	t.Bootloader, t.TEE, t.SNP, t.Microcode = parts[0], parts[1], parts[2], parts[3]
	return product, t
}

func (tcb) format(v value) string {
	product, t := tcbOf(v)
	return product + ": " + t.String()
}

// parse refuses: a TCB is only ever compared with floors.
func (tcb) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	d.Report(n, "a TCB is matched with gte alone", "")
	return "", false
}

const tcbExample = "for example gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}"

func (tcb) compile(p *parser, f *field, _ string, n *strictyaml.Node) (test, bool) {
	if n.Kind != strictyaml.Mapping {
		p.doc.Report(n, "want a TCB floor for each product line, got "+n.Describe(), tcbExample)
		return nil, false
	}
	out, ok := &tcbFloor{floors: map[string]attest.TCB{}}, true
	for _, m := range n.Fields {
		product := m.Key.Value
		switch {
		case slices.Contains(tcbNames, product):
			p.doc.Report(n, "a TCB floor without a product: the numbers of one product line mean nothing for another", tcbExample)
			return nil, false
		case !slices.Contains(snpProducts, product):
			p.doc.Report(m.Key, fmt.Sprintf("unknown product %q", clip(product)), strictyaml.Suggest(product, snpProducts))
			ok = false
			continue
		}
		t, good := p.tcb(product, m.Value)
		out.floors[product] = t
		ok = ok && good
	}
	if len(n.Fields) == 0 {
		p.doc.Report(n, f.name+" has no floor: no product line would match", tcbExample)
		return nil, false
	}
	return out, ok
}

// tcb reads the components of one floor. All that the product line has must be
// there: a component left out would be a component that is not checked.
func (p *parser) tcb(product string, n *strictyaml.Node) (out attest.TCB, ok bool) {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return out, false
	}
	p.doc.OnlyKeys(n, tcbNames...)
	ok = true
	any := false
	for i, name := range tcbNames {
		v := n.Get(name)
		if name == "fmc" && product != snpHasFMC {
			if v != nil {
				p.doc.Report(n.Key(name), fmt.Sprintf("the TCB of %s has no fmc", product), "only turin has one")
				ok = false
			}
			continue
		}
		if v == nil {
			p.doc.Report(n, fmt.Sprintf("the floor of %s lacks %s", product, name), "a floor names every component; 0 admits all of its versions")
			ok = false
			continue
		}
		u, good := p.doc.Uint(v, 8)
		if !good {
			ok = false
			continue
		}
		any = any || u > 0
		c := uint8(u) // Uint read 8 bits
		switch i {
		case 0:
			out.FMC = &c
		case 1:
			out.Bootloader = c
		case 2:
			out.TEE = c
		case 3:
			out.SNP = c
		case 4:
			out.Microcode = c
		}
	}
	if ok && !any {
		p.doc.Report(n, fmt.Sprintf("the floor of %s is all zero: it would admit any firmware", product), "AMD's security bulletins name the versions with fixes")
		ok = false
	}
	return out, ok
}

// tcbFloor is the test of gte over a TCB: every component is at least that of
// the floor of the report's product line.
type tcbFloor struct{ floors map[string]attest.TCB }

func (t *tcbFloor) expected() string {
	var out []string
	for _, product := range snpProducts {
		if floor, ok := t.floors[product]; ok {
			out = append(out, product+": "+floor.String())
		}
	}
	return "at least " + strings.Join(out, "; ")
}

func (t *tcbFloor) values() *set { return nil }

func (t *tcbFloor) eval(v value, text string, _ time.Time) verdict {
	product, got := tcbOf(v)
	floor, ok := t.floors[product]
	if !ok {
		return verdict{got: text, hint: "the rule has no floor for " + product + ": such machines never match until it has one"}
	}
	return verdict{holds: got.AtLeast(floor), got: text, hint: below(product, got, floor)}
}

// below names the components that are too old.
func below(product string, got, floor attest.TCB) string {
	var out []string
	add := func(name string, got, floor uint8) {
		if got < floor {
			out = append(out, fmt.Sprintf("%s %d is below %d", name, got, floor))
		}
	}
	if got.FMC != nil && floor.FMC != nil {
		add("fmc", *got.FMC, *floor.FMC)
	}
	add("bl", got.Bootloader, floor.Bootloader)
	add("tee", got.TEE, floor.TEE)
	add("snp", got.SNP, floor.SNP)
	add("ucode", got.Microcode, floor.Microcode)
	if len(out) == 0 {
		return ""
	}
	return product + ": " + strings.Join(out, ", ") + ": the host's firmware is too old"
}

func (t *tcbFloor) admits(v value) bool {
	product, got := tcbOf(v)
	floor, ok := t.floors[product]
	return ok && got.AtLeast(floor)
}

// excludes is exact: two floors of one product line leave everything above
// both.
func (t *tcbFloor) excludes(o open) bool {
	other, ok := o.(*tcbFloor)
	if !ok {
		return false
	}
	for product := range t.floors {
		if _, shared := other.floors[product]; shared {
			return false
		}
	}
	return true
}

// products is the set of the product lines that have a floor.
func (t *tcbFloor) products() *set {
	var out []entry
	for _, product := range snpProducts {
		if _, ok := t.floors[product]; ok {
			out = append(out, entry{value: value(product), text: product})
		}
	}
	return newSet("", false, out)
}

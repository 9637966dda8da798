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

// tcbFirmware says what each component is the version of (AMD publication 56860,
// section 2.2).
var tcbFirmware = []string{"FMC firmware", "the secure processor's boot loader", "the secure processor's OS", "the SNP firmware", "the CPU's microcode"}

func (tcb) ops() []string { return []string{"gte", "lte"} }

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

// parse refuses: a TCB is only ever compared with floors and ceilings.
func (tcb) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	d.Report(n, "a TCB is matched with gte and lte alone", "")
	return "", false
}

const tcbExample = "for example gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}"

func (tcb) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	if n.Kind != strictyaml.Mapping {
		p.doc.Report(n, "want a TCB "+limits[op]+" for each product line, got "+n.Describe(), tcbExample)
		return nil, false
	}
	out, ok := &tcbFloor{upper: op == "lte", floors: map[string]attest.TCB{}}, true
	for _, m := range n.Fields {
		product := m.Key.Value
		switch {
		case slices.Contains(tcbNames, product):
			p.doc.Report(n, "a TCB "+limits[op]+" without a product: the numbers of one product line mean nothing for another", tcbExample)
			return nil, false
		case !slices.Contains(snpProducts, product):
			p.doc.Report(m.Key, fmt.Sprintf("unknown product %q", clip(product)), p.doc.Suggest(product, snpProducts))
			ok = false
			continue
		}
		t, good := p.tcb(product, op, m.Value)
		out.floors[product] = t
		ok = ok && good
	}
	if len(n.Fields) == 0 {
		p.doc.Report(n, f.name+" has no "+limits[op]+": no product line would match", tcbExample)
		return nil, false
	}
	if !ok {
		return nil, false
	}
	return out, true
}

// limits names what the matchers set.
var limits = map[string]string{"gte": "floor", "lte": "ceiling"}

// tcb reads the components of one floor or ceiling. All that the product line has must be
// there: a component left out would be a component that is not checked.
func (p *parser) tcb(product, op string, n *strictyaml.Node) (out attest.TCB, ok bool) {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return out, false
	}
	p.doc.OnlyKeys(n, tcbNames...)
	ok = true
	any, slack, least := false, uint64(0), "0"
	if op == "lte" {
		slack, least = 255, "255"
	}
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
			p.doc.Report(n, fmt.Sprintf("the %s of %s lacks %s", limits[op], product, name), "a "+limits[op]+" names every component; "+least+" admits all of its versions")
			ok = false
			continue
		}
		u, good := p.doc.Uint(v, 8)
		if !good {
			ok = false
			continue
		}
		any = any || u != slack
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
		p.doc.Report(n, fmt.Sprintf("the %s of %s is all %s: it would admit any firmware", limits[op], product, map[string]string{"gte": "zero", "lte": "255"}[op]), "AMD's security bulletins name the versions with fixes")
		ok = false
	}
	return out, ok
}

// tcbFloor is the test of gte over a TCB, every component is at least that of
// the floor of the report's product line; and of lte, where it is a ceiling.
type tcbFloor struct {
	upper  bool // lte
	floors map[string]attest.TCB
}

func (t *tcbFloor) expected() string {
	var out []string
	for _, product := range snpProducts {
		if floor, ok := t.floors[product]; ok {
			out = append(out, product+": "+floor.String())
		}
	}
	if t.upper {
		return "at most " + strings.Join(out, "; ")
	}
	return "at least " + strings.Join(out, "; ")
}

func (t *tcbFloor) values() *set { return nil }

func (t *tcbFloor) eval(v value, text string, _ time.Time) verdict {
	product, got := tcbOf(v)
	floor, ok := t.floors[product]
	if !ok {
		return verdict{strict: true, got: text, hint: fmt.Sprintf("the rule has no %s for %s: such machines never match until it has one", t.limit(), product)}
	}
	return verdict{holds: t.admits(v), got: text, hint: t.beyond(product, got, floor)}
}

func (t *tcbFloor) limit() string {
	if t.upper {
		return limits["lte"]
	}
	return limits["gte"]
}

// tcbParts are the components in the order of [tcbNames]; fmc is 0 where the line
// has none.
func tcbParts(t attest.TCB) [5]uint8 {
	out := [5]uint8{0, t.Bootloader, t.TEE, t.SNP, t.Microcode}
	if t.FMC != nil {
		out[0] = *t.FMC
	}
	return out
}

// beyond names the components that are too old, or too new.
func (t *tcbFloor) beyond(product string, got, floor attest.TCB) string {
	var out []string
	g, f := tcbParts(got), tcbParts(floor)
	for i, name := range tcbNames {
		switch {
		case t.upper && g[i] > f[i]:
			out = append(out, fmt.Sprintf("%s %d is above %d (%s)", name, g[i], f[i], tcbFirmware[i]))
		case !t.upper && g[i] < f[i]:
			out = append(out, fmt.Sprintf("%s %d is below %d (%s)", name, g[i], f[i], tcbFirmware[i]))
		}
	}
	switch {
	case len(out) == 0:
		return ""
	case t.upper:
		return product + ": " + strings.Join(out, ", ") + ": the host's firmware is newer"
	}
	return product + ": " + strings.Join(out, ", ") + ": the host's firmware is too old"
}

func (t *tcbFloor) admits(v value) bool {
	product, got := tcbOf(v)
	floor, ok := t.floors[product]
	if t.upper {
		return ok && floor.AtLeast(got)
	}
	return ok && got.AtLeast(floor)
}

// excludes is exact: of one product line, two floors leave everything above
// both, and a floor and a ceiling what is between them.
func (t *tcbFloor) excludes(o open) bool {
	other, ok := o.(*tcbFloor)
	if !ok {
		return false
	}
	for product, mine := range t.floors {
		theirs, shared := other.floors[product]
		switch {
		case !shared:
		case t.upper == other.upper, t.upper && mine.AtLeast(theirs), other.upper && theirs.AtLeast(mine):
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

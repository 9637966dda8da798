package policy

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// banks are the lengths of the digests that a quote may be over, in bytes, with
// the bank's name.
var banks = []struct {
	name string
	n    int
}{{"sha256", 32}, {"sha384", 48}}

// bankOf names the bank whose digests have n bytes; "" for none.
func bankOf(n int) string {
	for _, b := range banks {
		if b.n == n {
			return b.name
		}
	}
	return ""
}

// register is the kind of a TPM's register, and of what was measured into one:
// a digest of the length of the quote's bank. A value of the other bank's length
// is a good value that never matches.
type register struct {
	// boot is set for digests out of the event log, which are neither published
	// nor expanded in templates.
	boot bool
}

func (register) ops() []string         { return []string{"eq", "in"} }
func (register) format(v value) string { return hex.EncodeToString([]byte(v)) }

// shortest is the length that every value of the kind has at least, in bytes; 0
// for what is no measurement.
func (k register) shortest() int {
	if k.boot {
		return 0
	}
	return banks[0].n
}

func (register) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	const want = "want 32 bytes in hex (64 characters, bank sha256) or 48 (96 characters, bank sha384)"
	raw, err := hex.DecodeString(s)
	if err != nil {
		hint := ""
		if strings.HasPrefix(s, "0x") {
			hint = "leave 0x out"
		}
		d.Report(n, fmt.Sprintf("%s, got %q", want, clip(s)), hint)
		return "", false
	}
	if bankOf(len(raw)) == "" {
		hint := "values are compared at their full length"
		if len(raw) == 20 {
			hint = "this has the length of SHA-1, whose bank is never accepted: read the value of another bank"
		}
		d.Report(n, fmt.Sprintf("%s, got %d bytes", want, len(raw)), hint)
		return "", false
	}
	if allZero(raw) {
		d.Report(n, "an all-zero reference value is refused", "zero is what a register reads that nothing was measured into: it identifies nothing")
		return "", false
	}
	return value(raw), true
}

func (register) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	t, ok := compileSet(p, f, op, n)
	if s, isSet := t.(*set); isSet && s.miss == nil {
		s.miss = otherBank(s)
	}
	return t, ok
}

// otherBank explains values of a bank of which the set has none.
func otherBank(s *set) func(value) string {
	has := map[string]bool{}
	for _, e := range s.entries {
		has[bankOf(len(e.value))] = true
	}
	return func(v value) string {
		got := bankOf(len(v))
		if has[got] || len(has) != 1 {
			return ""
		}
		other := ""
		for name := range has {
			other = name
		}
		return fmt.Sprintf("the quote is over the bank %s, and the rule's values are of %s: they have another length and never match", got, other)
	}
}

// registerList is the kind of a list of digests out of the event log. Its one
// matcher asks for every element.
type registerList struct{}

func (registerList) ops() []string { return []string{"every"} }

// digests makes the value of a list: each digest after its length. It is absent
// where the list is empty, or one of its digests is of no bank.
func digests[D ~[]byte](list []D) (value, bool) {
	var out []byte
	for _, d := range list {
		if bankOf(len(d)) == "" {
			return "", false
		}
		out = append(append(out, byte(len(d))), d...)
	}
	return value(out), len(out) > 0
}

// split takes such a value apart.
func (v value) split() (out []value) {
	for len(v) > 0 {
		n := min(int(v[0])+1, len(v))
		out, v = append(out, v[1:n]), v[n:]
	}
	return out
}

func (registerList) format(v value) string {
	list := v.split()
	parts := make([]string, 0, min(len(list), listed)+1)
	for i, d := range list {
		if i == listed {
			parts = append(parts, fmt.Sprintf("and %d more", len(list)-listed))
			break
		}
		parts = append(parts, register{}.format(d))
	}
	return strings.Join(parts, ", ")
}

// parse reads one element.
func (registerList) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	return register{}.parse(d, n)
}

func (registerList) compile(p *parser, f *field, _ string, n *strictyaml.Node) (test, bool) {
	element := *f
	element.kind = register{boot: true}
	t, ok := element.kind.compile(p, &element, "in", n)
	s, isSet := t.(*set)
	if !ok || !isSet {
		return nil, false
	}
	return &every{s}, true
}

// every is the test that all elements of a list are values of a set, each
// within its window.
type every struct{ of *set }

func (e *every) expected() string { return "each " + e.of.want }

func (e *every) values() *set { return nil }

func (e *every) eval(v value, text string, at time.Time) verdict {
	out := verdict{holds: true, got: text}
	var bad []string
	failed := 0
	for i, element := range v.split() {
		one := e.of.eval(element, register{}.format(element), at)
		if one.holds {
			if one.until != nil && (out.until == nil || one.until.Before(*out.until)) {
				out.until = one.until
			}
			continue
		}
		if failed++; failed <= listed {
			bad = append(bad, fmt.Sprintf("number %d is not accepted: %s", i+1, one.got))
		}
		if out.hint == "" {
			out.hint = one.hint
		}
	}
	if failed > 0 {
		if failed > listed {
			bad = append(bad, fmt.Sprintf("and %d more", failed-listed))
		}
		return verdict{got: strings.Join(bad, "; "), hint: out.hint}
	}
	return out
}

// admits is eval at a moment at which all windows are open.
func (e *every) admits(v value) bool {
	for _, element := range v.split() {
		if !e.of.lists(element) {
			return false
		}
	}
	return v != ""
}

// excludes is exact but for windows: a list has at least one element, which two
// sets without a common value cannot both have.
func (e *every) excludes(o open) bool {
	other, ok := o.(*every)
	if !ok {
		return false
	}
	few, many := e.of, other.of
	if len(few.entries) > len(many.entries) {
		few, many = many, few
	}
	for _, x := range few.entries {
		if many.lists(x.value) {
			return false
		}
	}
	return true
}

// tpmFirmware is the kind of a TPM's firmware version: four numbers of 16 bits,
// the halves of TPM_PT_FIRMWARE_VERSION_1 and _2. What they mean is the vendor's
// affair; that they grow is what vendors keep to.
type tpmFirmware struct{}

func (tpmFirmware) ops() []string { return []string{"eq", "in", "gte", "lte"} }

func tpmRelease(v uint64) value { return value(binary.BigEndian.AppendUint64(nil, v)) }

func (tpmFirmware) format(v value) string {
	b := []byte(v)
	parts := make([]string, 0, 4)
	for ; len(b) >= 2; b = b[2:] {
		parts = append(parts, strconv.Itoa(int(binary.BigEndian.Uint16(b))))
	}
	return strings.Join(parts, ".")
}

func (tpmFirmware) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	bad := func() (value, bool) {
		d.Report(n, fmt.Sprintf("want a TPM's firmware version, got %q", clip(s)), "four numbers from 0 to 65535, such as \"7.85.4555.0\"")
		return "", false
	}
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return bad()
	}
	var out []byte
	for _, p := range parts {
		u, err := strconv.ParseUint(p, 10, 16)
		if err != nil || p != strconv.FormatUint(u, 10) {
			return bad()
		}
		out = binary.BigEndian.AppendUint16(out, uint16(u))
	}
	if allZero(out) {
		d.Report(n, "an all-zero reference value is refused", "zero is what a TPM without a firmware version reads")
		return "", false
	}
	return value(out), true
}

func (tpmFirmware) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileOrdered(p, f, op, n)
}

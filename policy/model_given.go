package policy

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// How claims are written in tests of policies, where that is not how matchers
// write them: all-zero values occur in evidence, and lists have an order.

// givenHex reads bytes in hex of one of the lengths. "zero" is as many zero bytes
// as the shortest has.
func givenHex(d *strictyaml.Document, n *strictyaml.Node, lengths ...int) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	if s == "zero" {
		return value(make([]byte, lengths[0])), true
	}
	raw, err := hex.DecodeString(s)
	if err != nil || !slices.Contains(lengths, len(raw)) {
		var want []string
		for _, l := range lengths {
			want = append(want, fmt.Sprint(2*l))
		}
		d.Report(n, fmt.Sprintf("want %s characters of hex, or zero, got %q", strings.Join(want, " or "), clip(s)), "")
		return "", false
	}
	return value(raw), true
}

func (k digest) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	return givenHex(d, n, k.n)
}

func (k identifier) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	return givenHex(d, n, k.n)
}

func (register) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	return givenHex(d, n, banks[0].n, banks[1].n)
}

func (chipID) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	v, ok := givenHex(d, n, chipLength, turinLength)
	return value(append([]byte(v), make([]byte, chipLength-min(len(v), chipLength))...)), ok
}

func (registerList) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	if !d.Want(n, strictyaml.Sequence) {
		return "", false
	}
	var list []attest.Bytes
	for _, item := range n.Items {
		v, ok := register{}.given(d, item)
		if !ok {
			return "", false
		}
		list = append(list, attest.Bytes(v))
	}
	v, ok := digests(list)
	if !ok {
		d.Report(n, "want at least one digest", `leave the claim out, or write "" where there is none`)
	}
	return v, ok
}

func (bitfield) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	if !d.Want(n, strictyaml.Sequence) {
		return "", false
	}
	var mask uint64
	for _, item := range n.Items {
		i, ok := d.Uint(item, 64)
		if !ok {
			return "", false
		}
		if i > 63 {
			d.Report(item, fmt.Sprintf("there is no bit %d", i), "bits are numbered from 0 to 63")
			return "", false
		}
		mask |= 1 << i
	}
	return flags(mask), true
}

// masking is what follows from chip_id.
func (masking) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	d.Report(n, "chip_id_masked follows from chip_id", "write chip_id: zero for a chip that is masked")
	return "", false
}

func (firmware) given(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	if n.Kind == strictyaml.Scalar && n.Value == "0.0.0" {
		return release(attest.Firmware{}), true
	}
	return firmware{}.parse(d, n)
}

// givenFor reads the TCB of a machine of a product line.
func (tcb) givenFor(d *strictyaml.Document, n *strictyaml.Node, product string) (value, bool) {
	if !slices.Contains(snpProducts, product) {
		d.Report(n, "a TCB needs a product", "name product beside it: milan, genoa or turin")
		return "", false
	}
	if !d.Want(n, strictyaml.Mapping) {
		return "", false
	}
	d.OnlyKeys(n, tcbNames...)
	out := []byte(product + "\x00")
	for _, name := range tcbNames {
		if name == "fmc" && product != snpHasFMC {
			if v := n.Get(name); v != nil {
				d.Report(v, fmt.Sprintf("the TCB of %s has no fmc", product), "only turin has one")
				return "", false
			}
			continue
		}
		v := n.Get(name)
		if v == nil {
			d.Report(n, "the TCB lacks "+name, "")
			return "", false
		}
		u, ok := d.Uint(v, 8)
		if !ok {
			return "", false
		}
		out = append(out, byte(u))
	}
	return value(out), true
}

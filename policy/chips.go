package policy

import "github.com/assay-project/assay/attest"

// chip is an SEV-SNP chip of one product line.
type chip struct {
	product string
	id      value
}

// NamesChip reports whether an enforced workload names the SEV-SNP chip (its
// 64 bytes as in reports) in a rule over chip_id, and demands no other product
// line ("milan", "genoa", "turin") than this one. The server fetches collateral
// for such chips, and for no others that a stranger may name. It is a look-up,
// whatever the size of the bundle.
func (b *Bundle) NamesChip(product string, chipID []byte) bool {
	_, ok := b.chips[chip{product, value(chipID)}]
	return ok
}

// chipsNamed collects the chips of the enforced workloads.
func (b *Bundle) chipsNamed() map[chip]struct{} {
	out := map[chip]struct{}{}
	for _, w := range b.byTEE[attest.AMDSEVSNP] {
		r := w.find("chip_id")
		if !w.mayGrant() || r == nil || r.test.values() == nil {
			continue
		}
		for _, product := range []string{"milan", "genoa", "turin"} {
			if p := w.strict(w.tee.byName["product"]); p != nil && p.test.values() != nil {
				if !p.test.values().lists(value(product)) {
					continue
				}
			}
			for _, e := range r.test.values().entries {
				out[chip{product, e.value}] = struct{}{}
			}
		}
	}
	return out
}

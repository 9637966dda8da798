package policy

import "github.com/assay-project/assay/attest"

// NamesChip reports whether an enforced workload names the SEV-SNP chip (its
// 64 bytes as in reports) in a rule over chip_id. The server fetches collateral
// for such chips, and for no others that a stranger may name. It is a look-up,
// whatever the size of the bundle.
func (b *Bundle) NamesChip(chipID []byte) bool {
	_, ok := b.chips[value(chipID)]
	return ok
}

// chipsNamed collects the chips of the enforced workloads.
func (b *Bundle) chipsNamed() map[value]struct{} {
	out := map[value]struct{}{}
	for _, w := range b.byTEE[attest.AMDSEVSNP] {
		r := w.find("chip_id")
		if w.mode != Enforce || r == nil || r.test.values() == nil {
			continue
		}
		for v := range r.test.values().index {
			out[v] = struct{}{}
		}
	}
	return out
}

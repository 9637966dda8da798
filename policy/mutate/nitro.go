package mutate

import "github.com/assay-project/assay/attest"

// other is a value that nobody has measured.
func other(n int) attest.Bytes {
	out := make(attest.Bytes, n)
	for i := range out {
		out[i] = 0xa5
	}
	return out
}

// nitro makes mutants of a Nitro enclave.
func nitro(g granted) []ClaimMutant {
	with := func(name string, edit func(n *attest.Nitro), why string, unless ...string) ClaimMutant {
		return ClaimMutant{Name: name, Claims: of(g.claims, func(c *attest.Claims) { edit(c.Nitro) }), Unless: unless, Why: why}
	}
	set := func(v attest.Bytes, pcrs ...int) func(n *attest.Nitro) {
		return func(n *attest.Nitro) {
			for _, i := range pcrs {
				n.PCRs[i] = v
			}
		}
	}
	zero := make(attest.Bytes, 48)
	out := exchanged(g, func(c *attest.Claims) map[int]attest.Bytes { return c.Nitro.PCRs })
	return append(out,
		with("debug mode", func(n *attest.Nitro) { n.Debug = true; set(zero, 0, 1, 2)(n) }, ""),
		with("debug mode with the registers of the image", func(n *attest.Nitro) { n.Debug = true }, ""),
		with("another image", set(other(48), 0, 1, 2), "the signer is pinned: any image of theirs is meant", "pcr8"),
		with("another image, unsigned", func(n *attest.Nitro) { set(other(48), 0, 1, 2)(n); n.PCRs[8] = zero }, ""),
		with("another image, signed by somebody else", set(other(48), 0, 1, 2, 8), ""),
		with("the image signed by somebody else", set(other(48), 8), "the image itself is pinned, whoever signed it", "pcr0", "pcr1", "pcr2"),
		with("the image in somebody else's account", set(other(48), 3, 4), "", waived),
		with("a parent instance without a role", func(n *attest.Nitro) { n.PCRs[3] = zero }, "the instance itself is pinned, whatever its role", "pcr4", waived),
	)
}

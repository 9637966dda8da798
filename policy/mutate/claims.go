package mutate

import (
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// ClaimMutant is a set of claims with something wrong with it.
type ClaimMutant struct {
	Name   string
	Claims attest.Claims
	// Unless names claims of which one, named by the workload, means that the mutant
	// is admitted by design, and Why says so.
	Unless []string
	Why    string
}

// granted is what is known of the workload that grants the claims.
type granted struct {
	claims   attest.Claims
	workload *policy.ModelWorkload
}

// names reports whether the workload demands something of a claim, by itself and
// not by an implicit rule.
func (g granted) names(claim string) bool {
	w := g.workload
	return slices.ContainsFunc(w.Rules, func(r policy.ModelRule) bool { return !r.Implicit && r.Claim.Name() == claim }) ||
		w.Expr != nil && slices.ContainsFunc(w.Expr.Claims, func(c policy.ModelClaim) bool { return c.Name() == claim })
}

// lists reports whether the workload lists a value of a claim, so that it means it.
func (g granted) lists(c policy.ModelClaim, v policy.Value) bool {
	return slices.ContainsFunc(g.workload.Rules, func(r policy.ModelRule) bool {
		return r.Claim == c && slices.ContainsFunc(r.Values(), func(e policy.ModelEntry) bool { return e.Value == v })
	})
}

// platform is what mutate knows of one platform: the mutants that are more than one
// claim changed. A new platform brings one of these.
type platform func(g granted) []ClaimMutant

// platforms is never changed.
var platforms = map[attest.Platform]platform{
	attest.AWSNitro:  nitro,
	attest.AMDSEVSNP: snp,
	attest.TPM2:      tpm,
}

// mutants are all that are made of claims: those of the platform, and of every
// claim that the workload names.
func (g granted) mutants() []ClaimMutant {
	out := named(g)
	if p := platforms[g.claims.Platform]; p != nil {
		out = append(out, p(g)...)
	}
	return out
}

// waived stands in Unless for a workload that waives ownership.
const waived = "ownership"

// tolerated says why a mutant is admitted by design, if it is.
func (g granted) tolerated(m ClaimMutant) (string, bool) {
	for _, claim := range m.Unless {
		switch {
		case claim == waived && !g.workload.Ownership:
			return "the workload waives ownership", true
		case claim != waived && g.names(claim):
			return m.Why, true
		}
	}
	return "", false
}

// of changes a copy of the claims.
func of(c attest.Claims, edit func(c *attest.Claims)) attest.Claims {
	out := policy.CloneClaims(c)
	edit(&out)
	return out
}

// named has each claim that the workload names missing, and changed in every way
// that its kind has: another value, zeroed, one less.
func named(g granted) []ClaimMutant {
	var out []ClaimMutant
	for _, c := range policy.ClaimsOf(g.claims.Platform) {
		if !g.names(c.Name()) {
			continue
		}
		was, there := c.Get(g.claims)
		if !there {
			continue
		}
		away := policy.CloneClaims(g.claims)
		if c.Drop(&away) {
			out = append(out, ClaimMutant{Name: c.Name() + " missing", Claims: away})
		}
		for _, v := range c.Weaker(was) {
			if g.lists(c, v) {
				continue // it is meant
			}
			if one := policy.CloneClaims(g.claims); c.Put(&one, v) {
				out = append(out, ClaimMutant{Name: fmt.Sprintf("%s: %s", c.Name(), brief(c.Format(v))), Claims: one})
			}
		}
	}
	return out
}

// brief shortens long values: names of mutants are read, not compared.
func brief(s string) string {
	const n = 48
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

// exchanged has each register that the workload names exchanged with another.
func exchanged(g granted, pcrs func(*attest.Claims) map[int]attest.Bytes) []ClaimMutant {
	var out []ClaimMutant
	all := pcrs(&g.claims)
	for i := range 32 {
		if all[i] == nil || !g.names(fmt.Sprintf("pcr%d", i)) {
			continue
		}
		for n := 1; n < 32; n++ {
			j := (i + n) % 32
			if all[j] != nil && string(all[j]) != string(all[i]) {
				out = append(out, ClaimMutant{Name: fmt.Sprintf("pcr%d exchanged with pcr%d", i, j), Claims: of(g.claims, func(c *attest.Claims) {
					m := pcrs(c)
					m[i], m[j] = m[j], m[i]
				})})
				break
			}
		}
	}
	return out
}

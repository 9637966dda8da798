package diff

import (
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Bounds of the search for claims.
const (
	maxSamples = 1500  // claim sets that are tried for expressions
	maxDraws   = 60000 // environments that are tried for rollouts
)

// found is whether claims lie in a box.
type found int

const (
	none    found = iota // there are none
	some                 // there are: these
	unknown              // none was found, and there may be
)

// claims makes claims that lie in a box.
func (c *comparison) claims(p attest.Platform, b *box, at time.Time) (attest.Claims, found, string) {
	ks := b.constraints()
	claims, ok, known := policy.Assemble(p, ks, at)
	switch {
	case !ok && known:
		return claims, none, ""
	case !ok:
		return claims, unknown, "no text was found that the regular expressions tell apart, or too many combinations were tried"
	}
	if !b.agrees(claims) {
		if claims, ok = c.sample(p, b, ks, at); !ok {
			return claims, unknown, "no claims were found for which the expressions are as they would have to be"
		}
	}
	if len(b.draws) > 0 && !c.drawn(b, &claims) {
		return claims, unknown, "no environment was found that the rollouts tell apart"
	}
	return claims, some, ""
}

func (b *box) agrees(claims attest.Claims) bool {
	return !slices.ContainsFunc(b.exprs, func(w wanted) bool { return w.expr.Holds(claims) != w.holds })
}

// sample tries values at which the expressions of the box are likely to turn.
func (c *comparison) sample(p attest.Platform, b *box, ks []policy.Constraint, at time.Time) (attest.Claims, bool) {
	type axis struct {
		claim  policy.ModelClaim
		values []policy.Value
		absent bool
	}
	var axes []axis
	for _, w := range b.exprs {
		for _, claim := range w.expr.Claims {
			i := slices.IndexFunc(axes, func(a axis) bool { return a.claim == claim })
			if i < 0 {
				axes = append(axes, axis{claim: claim, absent: !claim.Always()})
				i = len(axes) - 1
			}
			k := policy.Constraint{Claim: claim}
			if at := slices.IndexFunc(ks, func(k policy.Constraint) bool { return k.Claim == claim }); at >= 0 {
				k = ks[at]
			}
			axes[i].absent = axes[i].absent && len(k.Must) == 0
			k.Or = w.expr.Suggest(claim)
			for _, v := range k.Candidates(at) {
				if !slices.Contains(axes[i].values, v) {
					axes[i].values = append(axes[i].values, v)
				}
			}
		}
	}
	total, widest := 1, 0
	for _, a := range axes {
		n := len(a.values)
		if a.absent {
			n++
		}
		total, widest = min(total*max(n, 1), 1<<30), max(widest, n)
	}
	// Where there are more combinations than may be tried, they are taken evenly.
	step := max(1, total/maxSamples)
	if step > 1 {
		step |= 1
	}
	for n := 0; n < total; n += step {
		with := slices.Clone(ks)
		at2 := n
		for _, a := range axes {
			size := len(a.values)
			if a.absent {
				size++
			}
			if size == 0 {
				return attest.Claims{}, false
			}
			i := at2 % size
			at2 /= size
			at := slices.IndexFunc(with, func(k policy.Constraint) bool { return k.Claim == a.claim })
			if at < 0 {
				with = append(with, policy.Constraint{Claim: a.claim})
				at = len(with) - 1
			}
			k := &with[at]
			if i < len(a.values) {
				k.Must = append(slices.Clone(k.Must), policy.Only(a.claim, a.values[i]))
			} else {
				k.Not = append(slices.Clone(k.Not), policy.ModelTest{Claim: a.claim})
			}
		}
		claims, ok, _ := policy.Assemble(p, with, at)
		if ok && b.agrees(claims) {
			return claims, true
		}
	}
	return attest.Claims{}, false
}

// drawn varies what names the environment until its draws are as the box has them.
func (c *comparison) drawn(b *box, claims *attest.Claims) bool {
	held := func(name string) bool {
		return slices.ContainsFunc(b.cons, func(k con) bool { return k.claim.Name() == name }) ||
			slices.ContainsFunc(b.exprs, func(w wanted) bool {
				return slices.ContainsFunc(w.expr.Claims, func(k policy.ModelClaim) bool { return k.Name() == name })
			})
	}
	for n := range maxDraws {
		if !policy.Vary(claims, n, held) {
			return false
		}
		good := true
		for _, s := range b.draws {
			name, bundle := s.workload(), c.a.bundle
			if s.bundle() != bundle.Name() {
				bundle = c.b.bundle
			}
			v, ok := bundle.Draw(name, *claims)
			if !ok || v < s.lo || v >= s.hi {
				good = false
				break
			}
		}
		if good {
			return true
		}
	}
	return false
}

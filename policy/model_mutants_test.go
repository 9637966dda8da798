package policy_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/assay-project/assay/policy"
)

// Of a policy that was made less strict to see who would notice, nobody ever gets
// an SVID.
func TestNoMutantCanAuthorize(t *testing.T) {
	l := newLab(t)
	b := parse(t, base)
	if _, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range b.Mutants() {
		n++
		g, err := m.Bundle().Authorize(l.verify(t, attestation{pcrs: good}), noon)
		if g != nil || denied(t, err).Reason != policy.ReasonOffline {
			t.Errorf("%s %s: %v", m.Claim, m.Change, err)
		}
	}
	if n < 5 {
		t.Errorf("%d mutants", n)
	}
}

// A mutant admits all that the policy admits, by the index and without it: over
// random policies and claims.
func TestMutantsAdmitWhatThePolicyAdmits(t *testing.T) {
	g := gamble{rand.New(rand.NewPCG(5, 9))} // reproducible on purpose
	granted, more := 0, 0
	for range 40 {
		src := g.bundle(1 + g.IntN(6))
		b, err := policy.Parse("p.yaml", []byte(src))
		if err != nil {
			b = policy.UncheckedForTest(t, src)
		}
		b = withSecret(t, b)
		mutants := b.Mutants()
		if len(mutants) > 12 {
			g.Shuffle(len(mutants), func(i, j int) { mutants[i], mutants[j] = mutants[j], mutants[i] })
			mutants = mutants[:12]
		}
		for _, m := range mutants {
			changed := m.Bundle()
			for range 25 {
				c, at := g.claims(), noon.Add(time.Duration(g.IntN(200)-100)*time.Hour)
				was, is := b.Evaluate(c, at), changed.Evaluate(c, at)
				if all := changed.Explain(c, at); all.Outcome != is.Outcome || all.Reason != is.Reason {
					t.Fatalf("%s %s: %s by the index, %s without it", m.Claim, m.Change, is.Reason, all.Reason)
				}
				if !m.Touches(c, at) && (is.Outcome != was.Outcome || is.Reason != was.Reason || is.Workload != was.Workload) {
					t.Fatalf("%s %s does not touch these claims, and changes %s to %s\n%s", m.Claim, m.Change, was.Reason, is.Reason, src)
				}
				switch {
				case was.Outcome == policy.Granted:
					granted++
					if is.Outcome != policy.Granted && is.Reason != policy.ReasonAmbiguous {
						t.Fatalf("%s %s: the policy grants, and the mutant says %s: %s\n%s", m.Claim, m.Change, is.Reason, is.Detail, src)
					}
				case is.Outcome == policy.Granted:
					more++
				}
			}
		}
	}
	if granted < 50 || more < 20 {
		t.Errorf("granted by the policy %d times, by a mutant alone %d times: that shows little", granted, more)
	}
}

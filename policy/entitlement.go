package policy

import (
	"maps"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
)

// Entitlement is what a policy would give an environment with certain claims,
// and what relying parties would see of it: for comparing two policies. It
// grants nothing. The zero Entitlement is a denial.
type Entitlement struct {
	// Identities are what would be issued, in the order of the policy: a key that
	// asks for none gets the next one.
	Identities []Entitled `json:"identities"`
	// Publish and Pinned are the claims that results would show and rest on,
	// sorted; Ownership is whether an ownership predicate held.
	Publish   []string `json:"publish"`
	Pinned    []string `json:"pinned"`
	Ownership bool     `json:"ownership"`
}

// Entitled is one identity of an entitlement.
type Entitled struct {
	Identity
	// NotAfter is the end of an SVID that was issued at the time of the
	// comparison, were its evidence as fresh.
	NotAfter time.Time `json:"not_after"`
}

// Entitlement says what an environment with these claims would be given at a
// time. It is pure, as [Bundle.Evaluate] is, and comes to the same outcome as
// [Bundle.Authorize] of a request for all that there is.
func (b *Bundle) Entitlement(c attest.Claims, at time.Time) Entitlement {
	_, e := b.Judge(c, at)
	return e
}

// entitlement is what a decision gives, with the workload that grants or nil.
func (b *Bundle) entitlement(c *attest.Claims, at time.Time, d Decision, w *workload) Entitlement {
	if w == nil {
		return Entitlement{}
	}
	out := Entitlement{Publish: slices.Sorted(slices.Values(w.publish)), Pinned: slices.Sorted(slices.Values(d.Pinned())), Ownership: d.Ownership}
	for _, id := range w.identities {
		s, err := id.template.expand(c)
		if err == nil {
			err = checkID(s, b.trustDomain)
		}
		if err != nil {
			return Entitlement{} // Authorize denies the whole
		}
		end := at.Add(min(id.x509TTL, id.maxEvidenceAge))
		if d.ValidUntil != nil && d.ValidUntil.Before(end) {
			end = *d.ValidUntil
		}
		if end = end.UTC().Truncate(time.Second); !end.After(at) {
			return Entitlement{}
		}
		out.Identities = append(out.Identities, Entitled{NotAfter: end, Identity: Identity{
			SPIFFEID: s, X509TTL: id.x509TTL, MaxEvidenceAge: id.maxEvidenceAge, JWT: id.jwt, Attributes: id.attributes, Selectors: id.selectors, KeysOnDisk: id.keysOnDisk, Hint: id.hint,
		}})
	}
	return out
}

// Denied reports whether nothing would be given.
func (e Entitlement) Denied() bool { return len(e.Identities) == 0 }

// Equal reports whether an environment that holds what e says would be given the
// same, and relying parties would see the same, but for the name and revision of
// the policy.
func (e Entitlement) Equal(o Entitlement) bool {
	return e.Ownership == o.Ownership && slices.Equal(e.Publish, o.Publish) && slices.Equal(e.Pinned, o.Pinned) &&
		slices.EqualFunc(e.Identities, o.Identities, Entitled.equal)
}

func (e Entitled) equal(o Entitled) bool {
	return e.SPIFFEID == o.SPIFFEID && e.X509TTL == o.X509TTL && e.MaxEvidenceAge == o.MaxEvidenceAge && e.NotAfter.Equal(o.NotAfter) &&
		maps.Equal(e.Attributes, o.Attributes) && slices.Equal(e.Selectors, o.Selectors) && e.KeysOnDisk == o.KeysOnDisk && e.Hint == o.Hint && e.JWT.equal(o.JWT)
}

func (j *JWT) equal(o *JWT) bool {
	if j == nil || o == nil {
		return j == o
	}
	return j.TTL == o.TTL && slices.Equal(j.Audiences, o.Audiences) && slices.Equal(j.AWSTags, o.AWSTags)
}

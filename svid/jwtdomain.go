package svid

import (
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// believed checks that the relying party has said that it believes what this trust
// domain's tokens say of hardware: that its bundle is trusted says no more than that
// it may name its workloads. A Workload API hands out the bundles of all trust
// domains that ours federates with, those that attest nothing among them; of a
// certificate, pinned verifier roots tell whose attestation counts, and a token is
// signed under none. It was said where
//
//   - bundles is the bundle of this one trust domain, or
//   - a requirement names who may pass ([ID], [MemberOf]), and is satisfied later.
func believed(td spiffeid.TrustDomain, bundles jwtbundle.Source, require []Requirement) error {
	if one, ok := bundles.(interface{ TrustDomain() spiffeid.TrustDomain }); ok && one.TrustDomain() == td {
		return nil
	}
	if b, err := bundles.GetJWTBundleForTrustDomain(td); err != nil || b == nil {
		return nil //nolint:nilerr // there is no key of it: the token is refused for that
	}
	if slices.ContainsFunc(require, func(q Requirement) bool { return q.domain }) {
		return nil
	}
	err := fail(attest.Internal, "attestation_domain", "nothing says whose attestation is believed: this token is of %s", td)
	err.Hint = "require MemberOf the trust domains that attest, or the IDs that may pass; or verify with the JWT bundle of one trust domain"
	return err
}

// pinned is believed for a gate that takes certificates too: who shows a token is
// believed no more than who shows a certificate, and no longer.
func pinned(td spiffeid.TrustDomain, src VerifierKeysSource, at time.Time) error {
	keys, err := keysOf(src, td)
	if attest.KindOf(err) == attest.Unavailable {
		return err
	}
	if err != nil {
		err := fail(attest.Untrusted, "attestation_domain", "no verifier keys for %s: its attestation is not believed, by certificate or by token: %w", td, err)
		err.Hint = "pin the verifier root of that trust domain, where its attestation is to count"
		return err
	}
	return keys.current(at)
}

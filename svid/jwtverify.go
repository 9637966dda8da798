package svid

import (
	"crypto"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// Token is what an attested JWT-SVID says beside its name and its result.
type Token struct {
	ID       string    `json:"id"` // jti, as in the issuer's ledger
	Audience []string  `json:"audience"`
	Issuer   string    `json:"issuer,omitempty"`
	IssuedAt time.Time `json:"issued_at"`
	Expiry   time.Time `json:"expiry"`
	KeyID    string    `json:"key_id"` // of the JWT authority
	Serial   string    `json:"serial"` // of the X.509-SVID that asked for it

	svid *JWTSVID
}

// current makes those checks that time can change.
func (t *Token) current(at time.Time) error {
	if t.svid == nil {
		return fail(attest.Internal, "verify", "not the result of a verification")
	}
	return t.svid.current(at)
}

// trusted makes those checks again that a changed bundle can change.
func (t *Token) trusted(bundles jwtbundle.Source) error {
	if t.svid == nil {
		return fail(attest.Internal, "verify", "not the result of a verification")
	}
	key, err := authorityOf(t.svid, bundles)
	if err != nil {
		return err
	}
	if k, ok := key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(t.svid.key) {
		return fail(attest.Untrusted, "token_key", "the JWT bundle has another key under the key id %.64q now", t.svid.KeyID)
	}
	return nil
}

// VerifyJWT checks an attested JWT-SVID: what a peer shows as a bearer token.
// bundles holds the JWT authorities that are trusted: the jwtbundle.Bundle of the
// trust domain whose attestation is believed. Where it holds those of several (a
// JWTSource of go-spiffe's package workloadapi, a jwtbundle.Set), [MemberOf] or [ID]
// is to be required, which says whose is: a trust domain that ours federates with may
// attest nothing, and can write whatever it likes into its tokens. audience is whom
// the relying party calls itself; at is its time. It returns an Attested that
// satisfies every requirement, or an *[attest.Error], never both. As in [Verify], a simulated
// result is refused unless [Simulated] asks for it, and a contraindicated one unless
// [MinTier] does.
//
// A token belongs to whoever holds it, and its attestation claim is signed by the
// JWT authority, not by the verifier key: it needs no verifier keys, and offers
// less than an X.509-SVID (docs/decisions/0016-token-attestation.md). The checks, in
// order: those of [VerifyJWTSVID], and before any key is looked for
//
//	token_algorithm      Malformed: ES256, for an attested token
//	attestation_domain   Internal: it was said whose attestation is believed
//
// and after them
//
//	attestation_…        the attestation claim (docs/spec/attested-jwt-svid.md)
//	claims_…             Malformed: what it says
//	simulated_domain     Untrusted: simulated if, and only if, the trust domain is
//	simulated            Denied: not simulated, or asked for by name
//	(requirements)       each under its own name
func VerifyJWT(token string, bundles jwtbundle.Source, audience string, at time.Time, require ...Requirement) (*Attested, error) {
	return verifyJWT(token, bundles, audience, at, require, func(td spiffeid.TrustDomain) error { return believed(td, bundles, require) })
}

func verifyJWT(token string, bundles jwtbundle.Source, audience string, at time.Time, require []Requirement, believes func(spiffeid.TrustDomain) error) (*Attested, error) {
	if bundles == nil || at.IsZero() || audience == "" {
		return nil, fail(attest.Internal, "verify", "bundles, an audience and a time are needed")
	}
	u, err := parseJWT(token)
	if err != nil {
		return nil, err
	}
	// Whoever federates with us chooses the keys of its bundle, and a stranger may
	// name any of them: work is done for those alone whose word would count.
	if got := u.svid.Algorithm; got != attestedAlgorithm {
		return nil, mismatch(attest.Malformed, "token_algorithm", "not the algorithm of an attested JWT-SVID", attestedAlgorithm, got)
	}
	if err := believes(u.svid.ID.TrustDomain()); err != nil {
		return nil, err
	}
	s, err := u.verified(bundles, audience, at)
	if err != nil {
		return nil, err
	}
	r, serial, err := s.attestation()
	if err != nil {
		return nil, err
	}
	if simulated := IsSimulated(s.ID.TrustDomain()); simulated != r.Simulated {
		return nil, fail(attest.Untrusted, "simulated_domain", "the token says simulated: %t, and the trust domain's name says %t", r.Simulated, simulated)
	}
	a := &Attested{ID: s.ID, Result: *r, VerifiedAt: at, Token: &Token{
		ID: s.TokenID, Audience: s.Audience, Issuer: s.Issuer, IssuedAt: s.IssuedAt, Expiry: s.Expiry, KeyID: s.KeyID, Serial: serial, svid: s,
	}}
	if err := a.Check(at, require...); err != nil {
		return nil, err
	}
	return a, nil
}

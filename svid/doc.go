// Package svid is the attested SVID, for those who issue it and for those who
// rely on it.
//
// An attested SVID is an ordinary X.509-SVID: one URI SAN, a short life, and
// nothing that a SPIFFE library must understand. It carries one more thing, in
// a non-critical extension: the attestation result, an EAR
// (draft-ietf-rats-ear) that says what was measured, how far each aspect can be
// trusted, when the evidence was made, and under which policy it was admitted.
// The result is signed by the verifier key, which is not the CA's key, and it
// is tied to the certificate by the thumbprint of the leaf key.
//
// A relying party asks for more than a name in one line:
//
//	src := svid.NewSource(bundles, keys) // X.509 bundle, and verifier keys signed by the pinned verifier root
//	cfg := svid.ServerTLS(own, src, svid.PCR(0, release41), svid.MaxAge(2*time.Hour), svid.MinTier(svid.Affirming))
//
// or, with a chain in hand,
//
//	attested, err := svid.Verify(chain, src, time.Now(), svid.PCR(0, release41))
//
// or, of a bearer token,
//
//	attested, err := svid.VerifyJWT(token, bundles, "reports.example.org", time.Now(), svid.MemberOf(td), svid.PCR(0, release41))
//
// Verify returns a result that holds, or an error, never both. Every error is
// an [attest.Error] with a kind and the name of the check that failed.
//
// A service puts a [Gate] in front of its handlers, by package svidhttp or
// svidgrpc: it checks the peer in the handshake and again for each request and
// message, since a handshake is not a lease, and puts it into the context
// ([FromContext]). [Keyring] and [DenyList] follow the signed documents that say
// whose results hold, and what no longer does ([NotDenied]). Package svidtest mints
// attested SVIDs for a program's own tests. docs/guides/relying-parties.md goes
// through all of it.
//
// What time cannot change is remembered by a [Source] of this package, under the
// exact bytes that it is about: that a verifier key has signed a result, and that a
// chain ends in an authority. Everything else is checked each time, so that a peer
// which comes again costs a fifth of what its name alone costs go-spiffe.
//
// The issuing side is three calls: [Appraise] (claims and policy decision to a
// result), [Result.Sign], [Extension]; and [JWT.Sign] for tokens. docs/spec/attested-svid.md,
// docs/spec/attested-jwt-svid.md and docs/spec/verifier-keys.md define the bytes, completely enough for another
// language; the vectors in testdata pin them.
package svid

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
// A service puts a [Gate] in front of its handlers, which asks every peer for more
// than a name, in the handshake and again for each request and message:
//
//	src := svid.NewLiveSource(bundles, keys) // X.509 bundles, and a Keyring under the pinned verifier root
//	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: src, Require: []svid.Requirement{
//	    svid.MemberOf(td), svid.Owned(), svid.Policy("prod"), svid.MaxAge(2 * time.Hour), svid.NotDenied(denied),
//	}}}
//	server := grpc.NewServer(gate.ServerOptions(own)...)
//
// [MemberOf] and [ID] say whose workloads may pass: without them, any of every trust
// domain that src holds keys of. [Owned] says that who launched it was proven: anybody
// can boot your image. A handshake is not a lease: packages svidgrpc and svidhttp end
// connections with their peers, and replace them in time, on either side. The peer is
// in the context ([FromContext]). [Keyring] and [DenyList] follow the signed documents
// that say whose results hold, and what no longer does.
//
// Where there is no gate to put anywhere, there are a *tls.Config ([ClientTLS],
// [ServerTLS]), which checks when a connection is opened, and
//
//	attested, err := svid.Verify(chain, src, time.Now(), svid.MemberOf(td), svid.Owned(), svid.PCR(0, release41))
//	attested, err := svid.VerifyJWT(token, bundles, "reports.example.org", time.Now(), svid.MemberOf(td), svid.Owned())
//
// which return a result that holds, or an error, never both. Every error is an
// [attest.Error] with a kind and the name of the check that failed.
//
// Package svidtest mints attested SVIDs for a program's own tests.
// docs/guides/relying-parties.md goes through all of it.
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

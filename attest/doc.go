// Package attest is the vocabulary that every other part of Assay speaks: the
// platforms that can attest, the challenge that a server sends, the binding
// that evidence must carry, the typed claims that a verifier extracts, and the
// kinds of error that a check can end in.
//
// The names are those of RATS (RFC 9334): an attester (the enclave agent)
// produces evidence, a verifier appraises it, a relying party consumes the
// attestation result.
//
// One attestation, in the terms of this package:
//
//	Challenge  what the server demands: nonce, keys, TLS exporter, purpose
//	Binding    Challenge.Binding(): the 32 bytes B that evidence must carry
//	Evidence   what the attester answered: untrusted bytes
//	Claims     what a verifier read from the evidence after authenticating it
//	Instance   who that is, for bans and quotas
//	Error      why not: a Kind, and the name of the check that failed
//
// The package depends on the standard library and a CBOR codec only, so that
// agents and relying parties can import it without linking a verifier.
package attest

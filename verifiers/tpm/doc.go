// Package tpm verifies quotes of TPM 2.0 devices: evidence and pinned roots go in,
// typed claims or one named refusal come out.
//
// A quote is a statement that a TPM signs about its platform configuration
// registers (PCRs), which hold what was measured at boot. What it is worth hangs
// on a chain of keys:
//
//	root           a TPM maker's, pinned here or in the operator's directory
//	EK certificate what the maker signed for one TPM's endorsement key (EK)
//	EK             can only decrypt; it names the machine for life
//	AK             attestation key, restricted: it signs only what its TPM made
//	quote          signed by the AK: qualifyingData (the binding), PCR digest, counters
//	resident key   certified by the AK: a key of the NULL hierarchy, gone at the next boot
//
// Nothing in a quote ties the AK to the EK. That takes a second round (credential
// activation, TPM 2.0 Library, Part 1, section 24): the server encrypts a secret
// to the EK and the AK's name, and only a TPM that holds both can open it. A cloud
// that certifies AKs is another way in.
//
// One verification, step by step ([Verifier.Authenticate]):
//
//  1. Strict decoding, each structure to its last byte. Nothing is believed.
//  2. The AK is a key that signs only what its TPM made; it signed the quote, in
//     its own scheme; the registers' values, each of the bank's length, hash to the
//     quoted digest. Which registers they are comes from the signed selection.
//  3. Who vouches for the AK: a cloud's certificate under its pinned root, an
//     operator, or (in [Verifier.AuthenticatePending]) an EK with a certificate
//     under a pinned maker's root or in the operator's inventory.
//  4. Resident keys: certified by the same AK, in the same boot, for the same
//     binding.
//  5. The event log, replayed to the quoted registers by package eventlog. In an
//     attestation one that is not known waits for the end of [Verifier.Activate].
//  6. Claims. Certificates, keys and logs that verified are remembered, so that a
//     renewal costs the signatures of the TPM and little else.
//
// [Verifier.Bound] compares the binding, and [Verifier.Activate] runs the second
// round where the EK's AK is not known yet ([Bindings]) or its counters went back.
//
// Each check has a name ([Checks] lists them, docs/spec/tpm-checks.md explains
// them), which is what an [attest.Error] carries.
//
// # What is left to the libraries
//
// github.com/google/go-tpm makes the credential (tpm2.CreateCredential), and
// go-tpm-tools reads Google's instance extension. The structures themselves are
// decoded here: go-tpm's decoder ignores what follows a structure, and takes
// several times as long as the rest of a verification; a differential fuzz test
// holds both to the same values. go-tpm-tools' and go-attestation's quote
// verification check no lengths of PCR values (so that guest root can move the
// boundaries between them), and go-tpm-tools also takes trailing bytes, a quote
// over no register, an AK without attributes, and whichever bank passes first. A
// differential test shows that nothing is admitted here that go-tpm-tools refuses.
//
// What stays malleable: an ECDSA signature (r, s) verifies as (r, n-s) too. So
// two different byte strings can carry the same claims, and nothing may use a
// quote's digest as proof that it is new: the binding is for that.
package tpm

// Package sevsnp verifies AMD SEV-SNP attestation reports: bytes, endorsements
// and pinned roots go in, typed claims or one named refusal come out.
//
// A report is 1184 bytes that the AMD Secure Processor (AMD-SP) of one chip
// writes for one guest (AMD publication 56860, "SEV Secure Nested Paging
// Firmware ABI Specification", section 7.3). It carries no certificate. The
// certificate of the key that signed it, an endorsement in the words of RFC
// 9334, comes from the attester, from the operator's store, or from AMD's Key
// Distribution Service (KDS, publication 57230):
//
//	ARK            pinned here, by SHA-256 of its DER; one per product line, 25 years
//	ASK | ASVK     built in too; a newer one may come along, signed by the ARK
//	VCEK | VLEK    one per chip and TCB, 7 years | one per cloud provider and TCB, 1 year
//	report         signed by the VCEK or VLEK with ECDSA P-384 over bytes 0 to 0x29F
//
// One verification, step by step ([Verifier.Authenticate]):
//
//  1. Strict decoding of the report. Size, version, every reserved range.
//     Nothing of it is believed.
//  2. The endorsement. Of what the attester brought, and then of what the
//     collateral holds, the one is picked whose kind, product line, chip and TCB
//     fit the report and whose chain ends in the pinned ARK. Certificates that
//     verified before are remembered (see [WithCacheSize]): a known one costs no
//     signature verification, a new one costs one, RSA-4096 PSS.
//  3. Revocation, as far as there is a CRL by the ARK (see [RevocationPolicy]).
//  4. The report's signature, by go-sev-guest's verify.SnpReportSignature over
//     the bytes as they were received.
//  5. Relations within the report, and only now claims.
//
// Each check has a name ([Checks] lists them, docs/spec/sevsnp-checks.md explains
// them), which is what an [attest.Error] carries.
//
// # What is left to the library
//
// github.com/google/go-sev-guest is the verifier of record for the report's
// signature: SnpReportSignature hands the received bytes to crypto/x509 and
// depends on nothing that the library decodes. Everything else is done here,
// because the library gets it wrong for some hardware: it decodes Turin's TCB in
// Milan's layout and refuses its certificates (extension fmc, eight bytes of
// hwid), does not know family 19h model A0h (Bergamo, Siena), takes reports
// without CPUID for Milan-B1, accepts expired CRLs and revoked ASVKs, and fetches
// what a stranger names. Where it is right, a differential test holds the two
// against each other.
//
// What stays malleable: an ECDSA signature (r, s) verifies as (r, n-s) too. So
// two different byte strings can carry the same claims, and nothing may use a
// report's digest as proof that it is new: the challenge is for that.
package sevsnp

// Package nitro verifies AWS Nitro Enclaves attestation documents: bytes and
// pinned roots go in, typed claims or one named refusal come out.
//
// A document is a COSE_Sign1 message (RFC 9052, section 4.2), made by the Nitro
// Security Module (NSM) of one running enclave. Its payload is a CBOR map: the
// measurements (PCRs), three values that the enclave chose, a time, the
// certificate of the key that signed it, and the chain from the root to that
// certificate:
//
//	cabundle[0]    root       pinned here, by SHA-256 of its DER; 30 years
//	cabundle[1]    regional   20 days
//	cabundle[2]    zonal      about 6 days
//	cabundle[3]    instance   24 hours
//	certificate    leaf       3 hours, one per enclave; it signed the document
//
// One verification, step by step ([Verifier.Authenticate]):
//
//  1. Strict decoding of the envelope and of the payload. Sizes, types, keys
//     and lengths are checked, and nothing is believed.
//  2. The chain, from the root down. The first certificate must be a pinned
//     root, and nothing is verified for anything else, so a forged chain costs
//     at most one signature verification after the genuine part of it. Prefixes
//     of chains that have verified before are remembered (see [WithCacheSize]):
//     a new leaf under a known instance costs one P-384 verification, a known
//     leaf costs none.
//  3. The COSE signature, by github.com/hf/nitrite, which is given the leaf that
//     step 2 verified as its only root. That is the one check that is left to
//     it; its own chain building proves nothing then, and is not relied on.
//  4. Times: the document within its leaf's validity and near the server's clock.
//  5. Only now are claims built, from the bytes that were decoded in step 1 and
//     that nitrite reports as the ones it verified.
//
// Each check has a name ([Checks] lists them, docs/spec/nitro-checks.md explains
// them), which is what an [attest.Error] carries.
//
// What is not checked: revocation. AWS publishes CRLs for the regional and
// zonal certificates; leaves and instances have none and live for hours.
//
// What stays malleable: an ECDSA signature (r, s) verifies as (r, n-s) too. So
// two different byte strings can carry the same claims, and nothing may use a
// document's digest as proof that it is new: the challenge's nonce is for that.
package nitro

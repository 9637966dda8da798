// Package issuer is the attestation service: from a socket to a certificate.
//
// One attestation is one gRPC stream, and [attestation.run] reads like this:
//
//  1. admit        limits on what a stranger can make us hold          admission.go
//  2. hello        version, trust domain, platform, keys and their proofs   hello.go
//  3. challenge    32 random bytes that live in this stream only        challenge.go
//  4. evidence     the answer, in time and of the right platform        receive.go, eventlog.go
//  5. renewal      a renewal also proves the previous leaf key          renewal.go
//  6. verify       verifiers.Set.Verify: authentic, and bound to this connection;
//     a TPM may be asked a second question in it                exchange.go
//  7. authorize    policy: rules, identities, lifetimes
//  8. record       the ledger: durable before any signature
//  9. issue        the CA: build, lint, sign
//  10. answer       SVIDs, bundle, when to come again                    answer.go
//
// One value flows forward and each step narrows it. Whatever goes wrong in any
// step is an *attest.Error of some kind, and refusal.go turns it into a gRPC
// status in one place.
//
// Around it: transport.go (TLS 1.3, the handshake's limits, the exporter),
// watch.go (re-attest now), admin.go (the operator's unix socket), policy.go
// (the policy in force), metrics.go, server.go (what runs).
package issuer

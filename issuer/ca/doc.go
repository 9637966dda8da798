// Package ca holds a trust domain's authorities and signs with them: X.509-SVIDs,
// the attestation results inside them, the document of verifier keys, and the
// server's own TLS certificate.
//
// The keys, who makes them, and what they sign:
//
//	bootstrap-root   init         server TLS certificates only (7 days); agents pin it; can be offline
//	verifier-root    init         the verifier-keys document only; relying parties pin it; can be offline
//	checkpoint       init         the ledger's checkpoints (package ledger)
//	x509-ca-ID       first start  X.509-SVIDs
//	verifier-ID      first start  attestation results
//
// Invariants, and where they are kept:
//
//   - Nothing is signed that is not in the ledger: [CA.Issue] takes a
//     *ledger.Recorded, which only a durable record yields, and spends it. Keys,
//     names and serials come from the record, never from a request (issue.go).
//   - The authority's key signs only what passed the lint: the certificate is
//     written without a signature, parsed, and compared with the profile rule by
//     rule; what is then signed is byte for byte what was linted (draft.go,
//     lint.go).
//   - A key is durable before the row that names it, and a row without its key
//     is an error, never a new key (authority.go).
//
// docs/design/issuance.md tells it in full.
package ca

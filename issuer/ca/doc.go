// Package ca holds a trust domain's authorities, sees to their lives, and signs
// with them: X.509-SVIDs, JWT-SVIDs, the attestation results inside them, the
// documents of verifier and deny-list keys, and the server's own certificates.
//
// The keys, who makes them, and what they sign:
//
//	bootstrap-root   init         server TLS certificates only (7 days); agents pin it; can be offline
//	                              and endorses servers' checkpoint keys (join.go)
//	verifier-root    init         the verifier-keys and deny-list-keys documents only; relying parties pin it; can be offline
//	checkpoint       init, join   the ledger's checkpoints (package ledger), and the rows of this server's authorities
//	x509-ca-ID       lifecycle    X.509-SVIDs
//	jwt-ID           lifecycle    JWT-SVIDs
//	verifier-ID      lifecycle    attestation results
//	deny-list-ID     lifecycle    deny-lists
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
//   - A row counts when the server that says it has signed it, and the bootstrap
//     root endorses that server (row.go, snapshot.go).
//   - Nothing signs that has not been published for the propagation time, but a
//     trust domain's first, and what an operator forced (lifecycle.go).
//   - Who signs takes no lock and reads no database: everything known is one
//     immutable snapshot (snapshot.go).
//
// docs/design/issuance.md tells it in full.
package ca

// Package store is the issuer's database: one interface, [Store], and its
// embedded implementation, [SQLite]. PostgreSQL, which several servers can share,
// is in package postgres. Both pass the same tests (package storetest).
//
// What it holds, each row with its trust domain:
//
//	trust_domains   the name, and whether it is simulated: fixed at first start
//	authorities     which key signs what, from when to when (never the key itself); signed rows
//	authority_changes  what became of each: published, active, retired, tainted, revoked; signed rows
//	members         which servers there are, each endorsed by the bootstrap root
//	documents       signed documents that outlive the key that signed them
//	policies        every revision of a policy that was in force: what may not come back
//	policy_changes  what changed the policy in force, and what was refused, with who and why
//	tpm_bindings    which attestation key lives beside which endorsement key
//	tpm_inventory   the operator's TPMs
//	entries         the ledger: append-only, hash-chained, one chain a server
//	identities      what each entry issued, for look-ups; append-only too
//	checkpoints     signed heads of a chain; append-only too
//	denials         refusals by policy, bounded
//	evidence        evidence bodies by digest, bounded, kept for a time
//	event_logs      boot logs by digest, kept as long as evidence names them
//	certificates    SVIDs as they were issued, best effort, kept for a time
//
// The package stores and finds rows. What may be written, and what the bytes
// mean, is decided in issuer/ledger and issuer/ca. Two rules are kept here,
// since only the database can keep them: entries, identities and checkpoints are
// never updated or deleted (triggers refuse it), and an append names the head it
// builds on, so that two writers can never fork a chain.
//
// Times are stored in microseconds since 1970, UTC. docs/design/storage.md
// explains the choices.
package store

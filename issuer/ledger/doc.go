// Package ledger is the issuer's append-only record. What is not in it was
// never signed: a [*policy.Grant] becomes SVIDs only by way of [Ledger.Record],
// which returns a [*Recorded] once the entry is durable.
//
// Invariants, and where they are kept:
//
//   - No signature without a durable entry. Only Record makes a Recorded, after
//     the commit (record.go, writer.go).
//   - One entry, one use: a Recorded is spent by the one issuance (recorded.go).
//   - Every entry names the one before it: H_i covers H_{i-1} (hash.go).
//   - One writer a chain: one goroutine, [Ledger.Run], and a store that refuses
//     an append on another head.
//   - Nobody can cut the end off unseen, as long as somebody outside keeps a
//     checkpoint: a signed note of size and head (checkpoint.go).
//   - A stranger cannot fill it: evidence that does not verify is counted and
//     sampled in memory (reject.go), denials and evidence have quotas, in tables
//     of their own (deny.go, quota.go).
//
// Group commit: Record hands its entry to the writer and waits. While the disk
// syncs one batch, the next gathers; so the cost of a sync is shared by all who
// wait, and one caller alone pays for one sync.
//
// [Reader] reads the same store without a signer, for administration and for
// offline tools. docs/spec/ledger.md holds the formats.
package ledger

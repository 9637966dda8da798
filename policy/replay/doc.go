// Package replay tries a draft policy on what a server has recorded, before the
// draft decides anything: who would keep an identity, lose, gain or change one.
//
//	report, err := replay.Run(ctx, source, replay.Options{Draft: draft, At: now})
//
// A [Source] hands out records: the claims of an environment that attested, and
// what was decided then. It may be a server's ledger, or files; this package
// knows neither, and reads nothing by itself.
//
// How it goes:
//
//  1. Records are decoded and judged on all cores, in whatever order; the report
//     is the same (run.go).
//  2. An environment that attests each half hour brings the same claims each
//     time, but for nonce, binding and clock, which no policy can name. They are
//     judged once, by their fingerprint, and counted. What was decided last
//     counts (memory.go).
//  3. Two [Standing] values are compared: before, which is what the server decided
//     then or what another policy would; and after, by the draft (compare.go).
//  4. What comes to the same, for the same rules, is one [Group], with an example
//     for each (group.go).
//
// Memory is bounded by [Options], whatever the length of the ledger. Where a
// bound is reached the report says so. Records that cannot be read are counted
// and named, and never taken for anything.
//
// docs/design/replay.md says why, and what the numbers mean.
package replay

// Package policy decides which attested environment earns which SPIFFE
// identities. A policy is one file, a bundle, written in the language of
// docs/spec/policy.md:
//
//	b, err := policy.Parse("policy.yaml", src)   // every mistake at once, as strictyaml.Errors
//	d := b.Evaluate(claims, at)                  // pure: what would be decided, and why
//	d := b.Explain(claims, at)                   // the same, about every workload
//	g, err := b.Authorize(verified, at)          // the only way to a *Grant; a denial is *Denied
//
// How a decision is made:
//
//  1. Of all workloads of the evidence's platform, an index yields those that
//     can match (index.go); Explain looks at all.
//  2. Every rule of every such workload is evaluated, never short-circuited, so
//     that the Decision says for each what was expected and what was found.
//     Rules that the policy does not write (debug = false) are among them,
//     marked implicit; expressions (expr.go), waivers and rollouts are rules too.
//     A claim that is missing fails its rule.
//  3. A workload matches when all of its rules hold. Exactly one matching
//     workload that may grant does; none denies, two deny as ambiguous. One in
//     mode enforce may always grant, one in a rollout to a share of the hardware
//     that a secret of the server draws (rollout.go). Workloads in mode audit are
//     evaluated and recorded, and never grant.
//
// Time is a parameter: reference values and waivers have windows, and a grant
// ends no later than the values that carried it.
//
// A Bundle is compiled by Parse and never changes, so it can be used by many
// goroutines, and be replaced by storing another pointer. What the language
// knows of a platform (its claims, their matchers, implicit rules, lint) is in
// one file per platform: nitro.go, snp.go.
package policy

// Package verifiers turns untrusted evidence into a [*Verified]: the only value
// that policy accepts, and that only this package can make.
//
//	verifiers.NewSet(nitro, …)      one Verifier per platform, all hardware or all simulated
//	Set.Verify(evidence, challenge) authenticate, then compare with the binding it computes itself
//
// A Verifier authenticates (structure, signature, chain) without any challenge,
// so that offline tools can use it too; that yields claims, never a Verified.
// The verifiers themselves live in the child packages, one per platform. This
// package never imports them: the binary that needs them builds the Set.
package verifiers

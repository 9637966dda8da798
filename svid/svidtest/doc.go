// Package svidtest mints attested SVIDs for the tests of programs that rely on
// them. There is no simulator in it and no server: an [Authority] is a CA, a
// verifier root and a verifier key in memory, and what it mints passes the same
// [svid.Verify] as the real thing, or fails it for the reason that the test
// asked for. No program can link it by accident and issue: outside of a test binary,
// New panics.
//
//	authority := svidtest.New(t, "example.test")
//	server := authority.Mint(t, "/orders")
//	client := authority.Mint(t, "/inventory", svidtest.PCR(0, release41))
//	gate := svid.Gate{Source: authority.Source(), Require: []svid.Requirement{svid.PCR(0, release41)}}
//
// A trust domain named "simulated.…" yields simulated results, like everywhere
// else.
package svidtest

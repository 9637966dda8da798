// Package diff says what a policy would admit that another refuses, and the
// reverse: not which lines differ, but which claims. For every widening it shows a
// claim set that one admits and the other does not, and has had both policies
// evaluate it.
//
// What a workload admits is a union of boxes: for each claim a finite set, an
// interval, bits, or what these exclude. Time is divided at the ends of windows and
// waivers, so that within one stretch nothing depends on it. From the boxes of a
// workload those of the other policy are taken away; what is left is a difference,
// as soon as claims can be made that lie in it. Claims that depend on each other
// (a TCB on its product line, a register's length on the bank) are made together, as
// a verifier makes them.
//
// The answer is exact over matchers, reference sets, windows, waivers and
// rollouts, where an expression is one unknown that is the same wherever it is
// written the same. A counterexample that needs an expression to be true, or false,
// is sought among values at which it is likely to turn; where none is found, or a
// regular expression has none that was tried, or a bound on the work is hit, the
// answer for that workload is undecided, and says so.
package diff

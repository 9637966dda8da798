// Package mutate finds what a policy, or its tests, would not notice.
//
// Two questions are asked. Of claims that the tests say are granted, mutants are
// made, as an attacker or an accident would make them: debug mode, older firmware,
// somebody else's image or machine, a register missing, zeroed or exchanged with
// another. Which of them does the policy still admit? And of the policy mutants are
// made, each with one thing less strict: a rule dropped, a bound one step wider, one
// value more in a set, a waiver without end. Which of them do its tests not notice?
//
// What remains is a list of survivors: either the policy is to be made stricter, or
// a test is missing. For each mutant of the policy that nobody notices there are
// claims that would have told, found by package diff; where there are none, because
// the change changes nothing, it is no survivor.
//
// A claim mutant that the policy admits by design is tolerated, with the reason: who
// pins the image's signer means any image of that signer.
package mutate

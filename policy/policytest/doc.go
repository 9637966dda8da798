// Package policytest runs the tests that are shipped with a policy: files
// *.test.yaml beside it, each a list of cases with claims in and the decision
// out (docs/spec/policy-tests.md). `assay policy test` runs them on the command
// line; this package from a Go test:
//
//	func TestPolicy(t *testing.T) { policytest.Run(t, "policy.yaml") }
//
// A case evaluates the policy as a server does, and compares what the case
// names of the decision: outcome, reason, workload, SPIFFE IDs, the rules that
// fail, the end. It never grants anything.
package policytest

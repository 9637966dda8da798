package svid

// hintFor is what to do about a check that an ordinary relying party meets, or "".
// It speaks to whoever runs the relying party; a check that knows more says it.
func hintFor(check string) string {
	return map[string]string{
		"bundle":            "is this the peer that you meant? Give the bundle of its trust domain",
		"verifier_keys":     "a trust domain counts when its verifier root is pinned and its verifier keys are there; is this the peer that you meant?",
		"chain":             "the bundle is another trust domain's or an old one, or the peer does not send the certificates between: fetch the current bundle",
		"chain_validity":    "the peer's agent does not renew, or one of the two clocks is wrong",
		"result_expired":    "the peer's agent does not renew, or one of the two clocks is wrong",
		"id":                "another workload, or another name than its policy has under issue: spiffe_id",
		"member_of":         "a workload of another trust domain, or another name of it than you meant",
		"tee":               "demand the platform that the workload runs on, as its policy has it under tee:",
		"policy":            "the peer gets an SVID under the policy in force when its agent renews",
		"tier":              "docs/spec/attested-svid.md explains the values; accept a lower tier with MinTier (on the command line --min-tier), or change what runs and what its policy demands",
		"instance-identity": "the policy has no proof of who launched the workload: it needs an ownership predicate",
		"attribute":         "a policy gives attributes under issue: attributes:",
		"token_bundle":      "give the bundle of the trust domain that the token's subject names",
		"token_audience":    "the workload has to ask for a token for this audience, spelled the same",
		"token_expired":     "tokens live for minutes: the workload asks its agent for one when it needs it",
		"token_signature":   "the token was changed, or another key has its key id",
	}[check]
}

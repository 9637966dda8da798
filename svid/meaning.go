package svid

import "fmt"

// Meaning is what the claim says about the aspect, in a few words for people. The
// words are no part of any format: programs compare [Claim.Tier], or the number. The
// whole of it stands in docs/spec/attested-svid.md.
func (c Claim) Meaning(about Aspect) string {
	if s := everyAspect(c); s != "" {
		return s
	}
	if s := meaningOf(about, c); s != "" {
		return s
	}
	return fmt.Sprintf("a reason for %s that this version does not know", c.Tier())
}

// everyAspect are the values that mean the same wherever they stand (AR4SI, section
// 2.3.2): those of no claim, and evidence that does not hold.
func everyAspect(c Claim) string {
	switch c { //nolint:exhaustive // the others mean something else in each aspect
	case -1:
		return "no claim: the verifier failed"
	case 0:
		return "no claim"
	case 1:
		return "no claim: the evidence holds what the verifier does not know"
	case 99:
		return "the evidence does not hold cryptographically"
	}
	return ""
}

// meaningOf are the rows of docs/spec/attested-svid.md, one for each value that an
// aspect can have in results of this project.
func meaningOf(about Aspect, c Claim) string {
	type row struct {
		about Aspect
		claim Claim
	}
	return map[row]string{
		{InstanceIdentity, claimRecognized}: "recognized: there is proof of who launched it",

		{Configuration, claimApprovedConfig}: "known and approved",
		{Configuration, claimNoVulns}:        "no setting exposes it",
		{Configuration, claimSharedCores}:    "it shares cores with other threads of its host",
		{Configuration, claimKnownVulns}:     "an agent of the host's choice may take it over",
		{Configuration, claimUnsafeConfig}:   "debug mode: the host can look into it",

		{Executables, claimApprovedBoot}:  "only approved code was loaded at the start",
		{Executables, claimApprovedStart}: "what the firmware started is approved; what that read is not looked at",
		{Executables, claimUnknownCode}:   "the measurements say nothing of the code that runs",

		{Hardware, claimGenuine}:     "genuine, and in the state that the policy approves",
		{Hardware, claimVirtual}:     "a virtual TPM of a cloud, whose vendor vouches for it",
		{Hardware, claimGrace}:       "revocation data was past its date, and accepted within the operator's grace",
		{Hardware, claimSimulated}:   "the evidence came from a simulator, which is no hardware",
		{Hardware, claimNotChecked}:  "nobody checked whether its endorsements were revoked",
		{Hardware, claimNoFloor}:     "genuine, and the policy admits any version of its firmware",
		{Hardware, claimProvisional}: "the host can still go back to older firmware",
		{Hardware, claimInventory}:   "nobody but the operator vouches for it",

		{RuntimeOpaque, claimEncrypted}:      "its memory is encrypted, for the hypervisor too",
		{RuntimeOpaque, claimIsolated}:       "its memory is closed to the host by the vendor's hypervisor; not said to be encrypted",
		{RuntimeOpaque, claimOpenToOperator}: "its memory is closed to other guests, not to the machine's operator",
		{RuntimeOpaque, claimSimulated}:      "the evidence came from a simulator, which protects nothing",
		{RuntimeOpaque, claimVisible}:        "its memory is visible to the host",
	}[row{about, c}]
}

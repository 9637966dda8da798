package attest

import (
	"bytes"
	"strings"
	"time"
)

// Claims are the verified facts of one piece of evidence. Exactly one of the
// platform pointers is set, the one that Platform names.
type Claims struct {
	Platform Platform `json:"platform"`
	// Simulated is true when the chain ends in a root that is not the pinned
	// root of a hardware vendor. A verifier sets it from the root, never from
	// anything in the evidence.
	Simulated bool   `json:"simulated"`
	Nitro     *Nitro `json:"nitro,omitempty"`
	SNP       *SNP   `json:"snp,omitempty"`
	TPM       *TPM   `json:"tpm,omitempty"`
}

// Nitro holds the claims of an AWS Nitro Enclaves attestation document.
type Nitro struct {
	// ModuleID names the enclave instance ("i-…-enc…"). It lives as long as the
	// enclave runs. Private: it is never published in an SVID.
	ModuleID string `json:"module_id"`
	// Timestamp is when the NSM made the document, millisecond precision.
	Timestamp time.Time `json:"timestamp"`
	// PCRs holds 1 to 32 registers, index 0 to 31, 48 bytes (SHA-384) each.
	PCRs map[int]Bytes `json:"pcrs"`
	// Debug is true when PCR0, PCR1 and PCR2 are all zero: the enclave runs in
	// debug mode and its memory can be read from the host.
	Debug bool `json:"debug"`
	// The three values that the requester chose; nil when absent.
	PublicKey Bytes `json:"public_key"`
	UserData  Bytes `json:"user_data"`
	Nonce     Bytes `json:"nonce"`
}

// Instance is who attested, for bans and quotas. It begins with the platform,
// so that instances of two platforms can never be confused.
//
// Durability: a Nitro module id lasts until the enclave is terminated; a
// relaunch of the same image is another instance. An SNP report id lasts until
// the guest ends, and is named together with its chip, which is that of AMD's
// certificate where the host masks it in the report: a guest that is migrated or
// launched again is another instance. The host can hide the chip of a guest whose
// reports a VLEK signs, at any time, so that bans and rates go by [Instance.Guest].
// A TPM's endorsement key lasts as long as
// the chip; where only a cloud's certificate vouches for the AK, the instance is
// the cloud's own; an AK that neither vouches for (offline tools) names itself.
type Instance string

// Instance derives the instance from verified claims. It is empty only for
// claims that no verifier made.
func (c Claims) Instance() Instance {
	if c.Nitro != nil {
		return Instance(string(AWSNitro) + ":" + c.Nitro.ModuleID)
	}
	if c.SNP != nil {
		chip := c.SNP.ChipID
		if len(c.SNP.VCEKHWID) > 0 && len(bytes.Trim(chip, "\x00")) == 0 {
			chip = c.SNP.VCEKHWID
		}
		return Instance(string(AMDSEVSNP) + ":" + c.SNP.ReportID.String() + "@" + chip.String())
	}
	if t := c.TPM; t != nil {
		switch {
		case t.EK != nil:
			return Instance(string(TPM2) + ":ek:" + t.EK.String())
		case t.Cloud != nil:
			return Instance(strings.Join([]string{string(TPM2), t.Cloud.Provider, t.Cloud.ProjectID, t.Cloud.Zone, t.Cloud.InstanceID}, ":"))
		case t.AK != nil:
			return Instance(string(TPM2) + ":ak:" + t.AK.String())
		}
	}
	return ""
}

// Guest is the instance without what the host decides while it runs: of an SEV-SNP
// guest the name that the firmware drew for it (256 random bits), and not the chip,
// which the host can mask. It is what bans and rates compare.
func (i Instance) Guest() string {
	s := string(i)
	if strings.HasPrefix(s, string(AMDSEVSNP)+":") {
		s, _, _ = strings.Cut(s, "@")
	}
	return s
}

// EvidenceTime is when the evidence says that it was made, or the zero time
// for a platform whose evidence carries no clock.
func (c Claims) EvidenceTime() time.Time {
	if c.Nitro != nil {
		return c.Nitro.Timestamp
	}
	return time.Time{}
}

// Debug reports whether the environment can be inspected from outside.
func (c Claims) Debug() bool {
	return c.Nitro != nil && c.Nitro.Debug || c.SNP != nil && c.SNP.Policy.Debug
}

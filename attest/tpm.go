package attest

// TPM holds the claims of a TPM 2.0 quote, of the keys that vouch for it, and of
// the boot event log that replays to it. Names are those of the TCG: TPM 2.0
// Library, PC Client Platform Firmware Profile, Credential Profile EK 2.x.
type TPM struct {
	// Bank is the hash of the quoted registers: "sha256" or "sha384".
	Bank string `json:"bank"`
	// PCRs holds the quoted registers 0 to 15, full length of the bank. Those
	// above can be reset while the machine runs (16, 23) or by locality (17 to
	// 22), so they never become claims.
	PCRs map[int]Bytes `json:"pcrs"`
	// ExtraData is the quote's qualifyingData: the binding.
	ExtraData Bytes `json:"extra_data"`

	// EK is SHA-256 of the endorsement key's DER SubjectPublicKeyInfo. It names
	// the machine for life. nil where only a certificate vouches for the AK.
	EK Bytes `json:"ek"`
	// EKCertificate says who made the TPM, where a certificate under a pinned
	// manufacturer's root vouches for the EK; nil without one.
	EKCertificate *EKCertificate `json:"ek_certificate,omitempty"`
	// EKInventory is the group of the operator's inventory that the EK is in;
	// empty when it is in none.
	EKInventory string `json:"ek_inventory,omitempty"`

	// AK is the attestation key's TPM name: nameAlg and digest. Nothing proves the
	// name of an AK that only an operator vouches for and that is no primary: it is
	// SHA-256 of the key's DER SubjectPublicKeyInfo then, 32 bytes.
	AK Bytes `json:"ak"`
	// AKTrust says what binds the AK to a TPM: see the constants. Claims of a
	// verified attestation always have it.
	AKTrust string `json:"ak_trust"`
	// Cloud is the instance that a cloud vendor's AK certificate names.
	Cloud *CloudInstance `json:"cloud,omitempty"`

	// Clock is nil unless the AK is a primary of the endorsement hierarchy: for
	// others the TPM obfuscates it (Part 1, section 36.7).
	Clock *TPMClock `json:"clock,omitempty"`
	// Safe is clockInfo.safe; false for up to 70 minutes after a power cut.
	Safe bool `json:"safe"`
	// Cleared is true when the counters went back since this TPM was last seen:
	// it was cleared, and its AK had to be activated again.
	Cleared bool `json:"tpm_cleared,omitempty"`

	// KeyResidency says where the SVID keys of this attestation live:
	// ResidentTPM when every one of them was certified by the AK as a key of the
	// NULL hierarchy, ResidentSoftware otherwise.
	KeyResidency string `json:"key_residency"`
	// Certified are the resident keys, DER SubjectPublicKeyInfo, in the order of
	// the challenge's keys; nil for software keys.
	Certified []Bytes `json:"certified,omitempty"`

	// Boot is what the event log says, as far as its digests replay to the quoted
	// registers; nil without a log.
	Boot *MeasuredBoot `json:"boot,omitempty"`
}

// What binds an AK to a TPM.
const (
	AKActivated   = "activated"   // credential activation with the EK
	AKCertificate = "certificate" // a cloud vendor's certificate for the AK
	AKOperator    = "operator"    // an operator named it: offline tools only, never in an attestation
)

// Where the private keys of an attestation's SVIDs live.
const (
	ResidentTPM      = "tpm"      // in the TPM, until its next reset
	ResidentSoftware = "software" // in the memory of the measured agent
)

// EKCertificate is what an endorsement key's certificate says about its TPM
// (TCG EK Credential Profile, section 3.1.2), each as in the certificate.
type EKCertificate struct {
	Manufacturer string `json:"manufacturer"` // "id:494E5443"
	Model        string `json:"model"`
	Version      string `json:"version"`
	Issuer       string `json:"issuer"` // the root's common name
}

// CloudInstance is the virtual machine that a cloud vendor certifies an AK for.
type CloudInstance struct {
	Provider      string `json:"provider"` // "gce", "azure"
	ProjectID     string `json:"project_id,omitempty"`
	ProjectNumber uint64 `json:"project_number,omitempty"`
	Zone          string `json:"zone,omitempty"`
	InstanceID    string `json:"instance_id,omitempty"`
	InstanceName  string `json:"instance_name,omitempty"`
}

// TPMClock are the counters of TPMS_CLOCK_INFO, and the firmware version.
type TPMClock struct {
	ResetCount   uint32 `json:"reset_count"`   // TPM resets since it was cleared
	RestartCount uint32 `json:"restart_count"` // restarts and resumes since the reset
	Firmware     uint64 `json:"firmware"`      // vendor's version
}

// MeasuredBoot is the measured boot, as far as the log's digests say it: they are
// what replays to quoted registers. An event's type and the names beside a digest
// are whatever the attester wrote, so they are no claims. What it says of registers
// that are not in Replayed is empty.
//
// A register can always be extended further by what runs later. SecureBoot,
// Firmware and Keys come from before the separator that ends the firmware's part;
// the lists hold everything that was measured, in order, so a policy must match
// them whole (or each element), never look for one element in them. What a boot
// loader measured is as good as the loaders are: pin those too.
type MeasuredBoot struct {
	Replayed []int `json:"replayed"` // registers whose events replay to the quoted value, ascending
	// SecureBoot is nil when PCR7 was not replayed, or the events before its
	// separator do not say it beyond doubt.
	SecureBoot *bool `json:"secure_boot"`
	// Firmware is the S-CRTM version as text, from PCR0, with the confidential
	// technology that GCE's firmware names behind it.
	Firmware string `json:"firmware,omitempty"`
	// Loaders are the Authenticode digests of the EFI applications in the order in
	// which they were started, from PCR4, in the bank's hash.
	Loaders []Bytes `json:"loaders,omitempty"`
	// CommandLine is the kernel's, as GRUB (PCR8), systemd-boot or systemd-stub
	// (PCR12, PCR8 before v251) measured it; empty unless it is beyond doubt.
	CommandLine string `json:"command_line,omitempty"`
	// GRUBFiles are the digests of the files that GRUB read, and of what the
	// kernel's EFI stub loaded, in order, from PCR9. Their names are not measured.
	GRUBFiles []Bytes `json:"grub_files,omitempty"`
	// GRUBCommands are the commands that GRUB ran, in order, from PCR8.
	GRUBCommands []string `json:"grub_commands,omitempty"`
	// Unified holds the digests of a unified kernel image's sections by name
	// (".linux"), as systemd-stub measures both into PCR11.
	Unified map[string]Bytes `json:"unified,omitempty"`
	// Keys are the digests of the secure-boot variables "PK", "KEK", "db", "dbx":
	// SHA-256 over the variable's contents, from PCR7.
	Keys map[string]Bytes `json:"keys,omitempty"`
}

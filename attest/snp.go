package attest

import "fmt"

// SNP holds the claims of an AMD SEV-SNP attestation report (AMD publication
// 56860, "SEV Secure Nested Paging Firmware ABI Specification", section 7.3)
// and of the certificate that vouches for the key that signed it. Byte strings
// have the report's own length; a field that the report leaves out is zero, as
// the firmware writes it.
type SNP struct {
	// Version is the report's ABI version, 2 to 5.
	Version uint32 `json:"version"`
	// Product is the line whose pinned root vouches for the report: "milan",
	// "genoa" (with Bergamo and Siena) or "turin".
	Product string `json:"product"`
	// SigningKey is "vcek" (the chip's own) or "vlek" (a cloud provider's).
	SigningKey string `json:"signing_key"`

	Measurement Bytes  `json:"measurement"` // 48 bytes: digest of the guest's initial memory
	HostData    Bytes  `json:"host_data"`   // 32 bytes that the host chose at launch
	ReportData  Bytes  `json:"report_data"` // 64 bytes that the guest chose for this report
	GuestSVN    uint32 `json:"guest_svn"`
	VMPL        uint32 `json:"vmpl"` // the privilege level that asked, 0 to 3

	IDKeyDigest     Bytes `json:"id_key_digest"`     // 48 bytes
	AuthorKeyDigest Bytes `json:"author_key_digest"` // 48 bytes
	FamilyID        Bytes `json:"family_id"`         // 16 bytes
	ImageID         Bytes `json:"image_id"`          // 16 bytes

	Policy   SNPPolicy   `json:"policy"`
	Platform SNPPlatform `json:"platform"`

	// The four versions of the platform's trusted computing base (section 2.2).
	// Reported is the one that the signing key was derived from.
	CurrentTCB   TCB `json:"current_tcb"`
	ReportedTCB  TCB `json:"reported_tcb"`
	CommittedTCB TCB `json:"committed_tcb"`
	LaunchTCB    TCB `json:"launch_tcb"`

	CurrentFirmware   Firmware `json:"current_firmware"`
	CommittedFirmware Firmware `json:"committed_firmware"`
	// Provisional is true while the firmware or TCB in use is newer than the
	// committed one, so that the host could still go back to the older.
	Provisional bool `json:"provisional"`

	// LaunchMitigations and CurrentMitigations are the mitigation vectors of
	// version 5; nil in older reports.
	LaunchMitigations  *uint64 `json:"launch_mitigations"`
	CurrentMitigations *uint64 `json:"current_mitigations"`

	// ReportID is 32 bytes that name this guest until it ends, and ReportIDMA
	// its migration agent. Private: never published in an SVID.
	ReportID   Bytes `json:"report_id"`
	ReportIDMA Bytes `json:"report_id_ma"`
	// ChipID is 64 bytes that name the chip; all zero when the host masks it.
	// On Turin the first 8 bytes are the chip's, the rest is zero. Private.
	ChipID Bytes `json:"chip_id"`
	// VCEKHWID is the chip that AMD's certificate names, as ChipID has it, where the
	// host masks ChipID and the chip's own key signed; nil otherwise. Policy does not
	// look at it: bans and the name of the instance do. Private.
	VCEKHWID Bytes `json:"vcek_hwid,omitempty"`
	// CSPID is the cloud provider that a VLEK certificate names; "" with a VCEK.
	CSPID string `json:"csp_id"`

	// Revocation says what is known of the chain's revocation: "ok" (a current
	// CRL of the pinned root covers it), "grace" (the newest CRL has expired, and
	// the operator allows a bounded grace) or "not_checked".
	Revocation string `json:"revocation"`
}

// SNPPolicy is the guest policy that the launcher chose and the firmware
// enforces (section 4.3).
type SNPPolicy struct {
	ABIMajor uint8 `json:"abi_major"` // the least firmware ABI
	ABIMinor uint8 `json:"abi_minor"`

	SMT              bool `json:"smt"`        // may run with simultaneous multithreading
	MigrateMA        bool `json:"migrate_ma"` // may be migrated by a migration agent
	Debug            bool `json:"debug"`      // the host may read the guest's memory
	SingleSocket     bool `json:"single_socket"`
	CXLAllow         bool `json:"cxl_allow"`
	MemAES256XTS     bool `json:"mem_aes_256_xts"`
	RAPLDis          bool `json:"rapl_dis"`
	CiphertextHiding bool `json:"ciphertext_hiding"`
	PageSwapDisable  bool `json:"page_swap_disable"`
}

// SNPPlatform is the state of the platform (PLATFORM_INFO, section 7.3).
type SNPPlatform struct {
	SMT              bool `json:"smt"`
	TSME             bool `json:"tsme"`
	ECC              bool `json:"ecc"`
	RAPLDis          bool `json:"rapl_dis"`
	CiphertextHiding bool `json:"ciphertext_hiding"`
	AliasCheck       bool `json:"alias_check"`
}

// TCB is one version of the trusted computing base, component by component.
type TCB struct {
	FMC        *uint8 `json:"fmc,omitempty"` // Turin and later; nil elsewhere
	Bootloader uint8  `json:"bl"`
	TEE        uint8  `json:"tee"`
	SNP        uint8  `json:"snp"`
	Microcode  uint8  `json:"ucode"`
}

// AtLeast reports whether every component of t is at least that of floor. TCBs
// of different layouts (with and without FMC) are not comparable: false.
func (t TCB) AtLeast(floor TCB) bool {
	if (t.FMC == nil) != (floor.FMC == nil) {
		return false
	}
	if t.FMC != nil && *t.FMC < *floor.FMC {
		return false
	}
	return t.Bootloader >= floor.Bootloader && t.TEE >= floor.TEE && t.SNP >= floor.SNP && t.Microcode >= floor.Microcode
}

// String writes the components by name, as policies do.
func (t TCB) String() string {
	s := fmt.Sprintf("bl %d, tee %d, snp %d, ucode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != nil {
		s = fmt.Sprintf("fmc %d, %s", *t.FMC, s)
	}
	return s
}

// Firmware is a version of the SNP firmware.
type Firmware struct {
	Major uint8 `json:"major"`
	Minor uint8 `json:"minor"`
	Build uint8 `json:"build"`
}

// String writes "1.55.29".
func (f Firmware) String() string { return fmt.Sprintf("%d.%d.%d", f.Major, f.Minor, f.Build) }

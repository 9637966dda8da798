package sevsnp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// ReportSize is the size of an attestation report, in bytes.
const ReportSize = 1184

// Places in the report (publication 56860, section 7.3, table "ATTESTATION_REPORT
// structure"). Integers are little-endian.
const (
	offVersion      = 0x000
	offGuestSVN     = 0x004
	offPolicy       = 0x008
	offFamilyID     = 0x010
	offImageID      = 0x020
	offVMPL         = 0x030
	offSigAlgorithm = 0x034
	offCurrentTCB   = 0x038
	offPlatform     = 0x040
	offSignerInfo   = 0x048
	offReportData   = 0x050
	offMeasurement  = 0x090
	offHostData     = 0x0c0
	offIDKey        = 0x0e0
	offAuthorKey    = 0x110
	offReportID     = 0x140
	offReportIDMA   = 0x160
	offReportedTCB  = 0x180
	offCPUID        = 0x188 // family, model, stepping; from version 3 on
	offChipID       = 0x1a0
	offCommittedTCB = 0x1e0
	offCurrentFW    = 0x1e8 // build, minor, major
	offCommittedFW  = 0x1ec
	offLaunchTCB    = 0x1f0
	offLaunchMit    = 0x1f8 // from version 5 on
	offCurrentMit   = 0x200 // from version 5 on
	offSignature    = 0x2a0 // R and S, 72 bytes each, little-endian; signed is what stands before
)

const (
	minVersion   = 2
	maxVersion   = 5
	cpuidVersion = 3 // the first with family, model, stepping
	mitVersion   = 5 // the first with mitigation vectors

	algorithmP384 = 1 // ECDSA P-384 with SHA-384

	componentSize = 72 // of R and of S
	scalarSize    = 48 // of which are significant: a P-384 scalar

	maxVMPL = 3
)

// Signing keys, as claims write them.
const (
	VCEK = "vcek" // Versioned Chip Endorsement Key: the chip's own
	VLEK = "vlek" // Versioned Loaded Endorsement Key: a cloud provider's
)

// span is a half-open range of the report.
type span struct{ from, to int }

// reserved are the ranges that are zero in every version.
var reserved = [...]span{{0x04c, 0x050}, {0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, 0x2a0}}

// report is a decoded report. Its fields are read from raw on demand; nothing of
// it is verified.
type report struct {
	raw        []byte // 1184 bytes as received, shared with the evidence
	version    uint32
	signingKey string
	cpu        cpuid
}

// read decodes a report and refuses what the specification does not allow. The
// TCBs' layout depends on the product line: they are checked by checkTCBs once an
// endorsement says which it is.
func read(raw []byte) (*report, error) {
	if len(raw) != ReportSize {
		return nil, refuse(CheckSize, detail{
			Err: errors.New("not an attestation report"), Expected: fmt.Sprintf("%d bytes", ReportSize), Got: fmt.Sprintf("%d bytes", len(raw)),
			Hint: "an extended report is taken apart into the report and its certificate table",
		})
	}
	r := &report{raw: raw, version: binary.LittleEndian.Uint32(raw[offVersion:])}
	if r.version < minVersion || r.version > maxVersion {
		return nil, refuse(CheckReportVersion, detail{
			Err: errors.New("unknown version of the report"), Expected: fmt.Sprintf("%d to %d", minVersion, maxVersion), Got: fmt.Sprint(r.version),
		})
	}
	if a := binary.LittleEndian.Uint32(raw[offSigAlgorithm:]); a != algorithmP384 {
		return nil, refuse(CheckReportAlgorithm, detail{
			Err: errors.New("unknown signature algorithm"), Expected: "1 (ECDSA P-384 with SHA-384)", Got: fmt.Sprint(a),
		})
	}
	if err := r.readSigningKey(); err != nil {
		return nil, err
	}
	if err := r.checkFields(); err != nil {
		return nil, err
	}
	if r.version >= cpuidVersion {
		r.cpu = cpuid{raw[offCPUID], raw[offCPUID+1], raw[offCPUID+2]}
	}
	return r, nil
}

// readSigningKey reads bits 4:2 of the signer information. Bit 0 says that there
// is an author key, bit 1 that the host masks the chip's key.
func (r *report) readSigningKey() error {
	switch k := r.signerInfo() >> 2 & 7; k {
	case 0:
		r.signingKey = VCEK
	case 1:
		r.signingKey = VLEK
	case 7:
		return refuse(CheckReportSigningKey, detail{
			Err: errors.New("the report says that nobody signed it"), Expected: "0 (VCEK) or 1 (VLEK)", Got: "7 (none)",
			Hint: "the host has masked the chip's key and loaded no other: nothing this guest says can be verified",
		})
	default:
		return refuse(CheckReportSigningKey, detail{Err: errors.New("reserved signing key"), Expected: "0 (VCEK) or 1 (VLEK)", Got: fmt.Sprint(k)})
	}
	return nil
}

// checkFields checks what is the same for every product line.
func (r *report) checkFields() error {
	if p := r.policy(); p&policyMustBeOne == 0 || p>>policyBits != 0 {
		return refuse(CheckReportPolicy, detail{
			Err: errors.New("reserved bits of the guest policy"), Expected: fmt.Sprintf("bit 17 set, bits 63:%d zero", policyBits), Got: fmt.Sprintf("%#x", p),
		})
	}
	if l := r.vmpl(); l > maxVMPL {
		return refuse(CheckReportVMPL, detail{
			Err: errors.New("the report was not requested by a guest"), Expected: "VMPL 0 to 3", Got: fmt.Sprintf("%#x", l),
			Hint: "the firmware writes FFFFFFFFh into a report that the host requested",
		})
	}
	for _, s := range reserved {
		if err := r.zero(s); err != nil {
			return err
		}
	}
	if r.version < cpuidVersion {
		if err := r.zero(span{offCPUID, offCPUID + 3}); err != nil {
			return err
		}
	}
	if r.version < mitVersion {
		if err := r.zero(span{offLaunchMit, offCurrentMit + 8}); err != nil {
			return err
		}
	}
	if p := r.platform(); p>>platformBits != 0 {
		return refuse(CheckReportReserved, detail{Err: fmt.Errorf("bits 63:%d of PLATFORM_INFO are reserved", platformBits), Expected: "zero", Got: fmt.Sprintf("%#x", p)})
	}
	if i := r.signerInfo(); i>>5 != 0 {
		return refuse(CheckReportReserved, detail{Err: errors.New("bits 31:5 of the signer information are reserved"), Expected: "zero", Got: fmt.Sprintf("%#x", i)})
	}
	return r.checkSignatureEncoding()
}

// checkSignatureEncoding demands that the two numbers have no more than 48
// significant bytes and that nothing stands behind them. Otherwise bytes that
// nobody signed could be varied.
func (r *report) checkSignatureEncoding() error {
	for _, s := range [...]span{
		{offSignature + scalarSize, offSignature + componentSize},
		{offSignature + componentSize + scalarSize, offSignature + 2*componentSize},
		{offSignature + 2*componentSize, ReportSize},
	} {
		if r.zero(s) != nil {
			return refuse(CheckSignatureEncoding, detail{
				Err: fmt.Errorf("bytes %#x to %#x of the report lie outside R and S", s.from, s.to-1), Expected: "zero", Got: check.ClipHex(r.raw[s.from:s.to]),
			})
		}
	}
	return nil
}

// checkTCBs checks the reserved bytes of the four TCBs in the line's layout.
func (r *report) checkTCBs(product string) error {
	for _, off := range [...]int{offCurrentTCB, offReportedTCB, offCommittedTCB, offLaunchTCB} {
		if t := r.tcb(off); !t.reservedZero(hasFMC(product)) {
			return refuse(CheckReportReserved, detail{
				Err: fmt.Errorf("reserved bytes of the TCB at %#x", off), Expected: "zero", Got: check.ClipHex(t[:]),
			})
		}
	}
	return nil
}

// zero refuses a reserved range that is not all zero.
func (r *report) zero(s span) error {
	var or byte
	for _, b := range r.raw[s.from:s.to] {
		or |= b
	}
	if or == 0 {
		return nil
	}
	return refuse(CheckReportReserved, detail{
		Err: fmt.Errorf("bytes %#x to %#x are reserved in version %d", s.from, s.to-1, r.version), Expected: "zero", Got: check.ClipHex(r.raw[s.from:s.to]),
	})
}

func (r *report) policy() uint64     { return binary.LittleEndian.Uint64(r.raw[offPolicy:]) }
func (r *report) platform() uint64   { return binary.LittleEndian.Uint64(r.raw[offPlatform:]) }
func (r *report) signerInfo() uint32 { return binary.LittleEndian.Uint32(r.raw[offSignerInfo:]) }
func (r *report) vmpl() uint32       { return binary.LittleEndian.Uint32(r.raw[offVMPL:]) }
func (r *report) tcb(off int) rawTCB { return rawTCB(r.raw[off : off+8]) }
func (r *report) chipID() []byte     { return r.raw[offChipID:offCommittedTCB] }

// masked reports whether the host hides the chip's name.
func (r *report) masked() bool {
	var or byte
	for _, b := range r.chipID() {
		or |= b
	}
	return or == 0
}

func (r *report) firmware(off int) attest.Firmware {
	return attest.Firmware{Build: r.raw[off], Minor: r.raw[off+1], Major: r.raw[off+2]}
}

// Bits of the guest policy (publication 56860, section 4.3) and of
// PLATFORM_INFO (section 7.3). Bit 6 of the latter, which real Turin hosts set,
// says that the IOMMU is write-safe, bit 7 that SEV-TIO is on; neither is a
// claim.
const (
	policySMT              = 1 << 16
	policyMustBeOne        = 1 << 17
	policyMigrateMA        = 1 << 18
	policyDebug            = 1 << 19
	policySingleSocket     = 1 << 20
	policyCXL              = 1 << 21
	policyMemXTS           = 1 << 22
	policyRAPLDis          = 1 << 23
	policyCiphertextHiding = 1 << 24
	policyPageSwapDisable  = 1 << 25
	policyBits             = 26

	platformSMT              = 1 << 0
	platformTSME             = 1 << 1
	platformECC              = 1 << 2
	platformRAPLDis          = 1 << 3
	platformCiphertextHiding = 1 << 4
	platformAliasCheck       = 1 << 5
	platformBits             = 8
)

// guestPolicy names the bits of the guest policy.
func guestPolicy(p uint64) attest.SNPPolicy {
	return attest.SNPPolicy{
		ABIMinor: uint8(p & 0xff), ABIMajor: uint8(p >> 8 & 0xff),
		SMT:              p&policySMT != 0,
		MigrateMA:        p&policyMigrateMA != 0,
		Debug:            p&policyDebug != 0,
		SingleSocket:     p&policySingleSocket != 0,
		CXLAllow:         p&policyCXL != 0,
		MemAES256XTS:     p&policyMemXTS != 0,
		RAPLDis:          p&policyRAPLDis != 0,
		CiphertextHiding: p&policyCiphertextHiding != 0,
		PageSwapDisable:  p&policyPageSwapDisable != 0,
	}
}

// platformInfo names the bits of PLATFORM_INFO.
func platformInfo(p uint64) attest.SNPPlatform {
	return attest.SNPPlatform{
		SMT: p&platformSMT != 0, TSME: p&platformTSME != 0, ECC: p&platformECC != 0,
		RAPLDis: p&platformRAPLDis != 0, CiphertextHiding: p&platformCiphertextHiding != 0, AliasCheck: p&platformAliasCheck != 0,
	}
}

// claims reads everything that policy can look at, in the line's layout. The
// byte strings share one copy of the report, so that they do not change with the
// evidence.
func (r *report) claims(product string) *attest.SNP {
	b := append(make([]byte, 0, offSignature), r.raw[:offSignature]...)
	at := func(from, to int) attest.Bytes { return attest.Bytes(b[from:to:to]) }
	fmc := hasFMC(product)
	s := &attest.SNP{
		Version: r.version, Product: product, SigningKey: r.signingKey,
		Measurement: at(offMeasurement, offHostData), HostData: at(offHostData, offIDKey), ReportData: at(offReportData, offMeasurement),
		GuestSVN: binary.LittleEndian.Uint32(b[offGuestSVN:]), VMPL: r.vmpl(),
		IDKeyDigest: at(offIDKey, offAuthorKey), AuthorKeyDigest: at(offAuthorKey, offReportID),
		FamilyID: at(offFamilyID, offImageID), ImageID: at(offImageID, offVMPL),
		Policy: guestPolicy(r.policy()), Platform: platformInfo(r.platform()),
		CurrentTCB: r.tcb(offCurrentTCB).decode(fmc), ReportedTCB: r.tcb(offReportedTCB).decode(fmc),
		CommittedTCB: r.tcb(offCommittedTCB).decode(fmc), LaunchTCB: r.tcb(offLaunchTCB).decode(fmc),
		CurrentFirmware: r.firmware(offCurrentFW), CommittedFirmware: r.firmware(offCommittedFW),
		ReportID: at(offReportID, offReportIDMA), ReportIDMA: at(offReportIDMA, offReportedTCB), ChipID: at(offChipID, offCommittedTCB),
	}
	s.Provisional = s.CurrentFirmware != s.CommittedFirmware || r.tcb(offCurrentTCB) != r.tcb(offCommittedTCB)
	if r.version >= mitVersion {
		l, c := binary.LittleEndian.Uint64(b[offLaunchMit:]), binary.LittleEndian.Uint64(b[offCurrentMit:])
		s.LaunchMitigations, s.CurrentMitigations = &l, &c
	}
	return s
}

package sevsnp

import (
	"encoding/binary"
	"slices"

	"github.com/assay-project/assay/simulators/internal/fault"
)

// set writes a byte into the signed part of a report.
func set(offset int, value byte) func([]byte, Product) {
	return func(r []byte, _ Product) { r[offset] = value }
}

// set32 writes a little-endian number.
func set32(offset int, value uint32) func([]byte, Product) {
	return func(r []byte, _ Product) { binary.LittleEndian.PutUint32(r[offset:], value) }
}

// version has the guest ask for reports of a version.
func version(v uint32) func(*Launch, Product) {
	return func(l *Launch, _ Product) { l.Version = v }
}

// reportFaults are wrong in the structure of the report. All but those of size
// and signature encoding are signed as they are.
func reportFaults() []Fault {
	return []Fault{
		malformed("report-empty", "size", "the report has no byte").
			signed(func([]byte) []byte { return []byte{} }),
		malformed("report-short", "size", "the report lacks its last byte").
			signed(func(r []byte) []byte { return r[:len(r)-1] }),
		malformed("report-long", "size", "a zero byte follows the report").
			signed(func(r []byte) []byte { return append(r, 0) }),

		malformed("version-1", "report_version", "the report has version 1").raw(set32(offVersion, 1)),
		malformed("version-6", "report_version", "the report has version 6, which nobody has specified").raw(set32(offVersion, 6)),

		malformed("algorithm-none", "report_signature_algorithm", "the signature algorithm is 0, invalid").raw(set32(offAlgorithm, 0)),
		malformed("algorithm-2", "report_signature_algorithm", "the signature algorithm is 2, which nobody has specified").raw(set32(offAlgorithm, 2)),

		malformed("signing-key-none", "report_signing_key", "the report says that no key has signed it").raw(set32(offKeyInfo, 7<<2)),
		malformed("signing-key-reserved", "report_signing_key", "the report says that a key of kind 2 has signed it").raw(set32(offKeyInfo, 2<<2)),

		malformed("policy-bit-17", "report_policy", "the guest policy lacks bit 17, which is always set").
			fields(func(f *fields, _ Product) { f.policy &^= PolicyReserved }),
		malformed("policy-reserved", "report_policy", "the guest policy has bit 26, which is reserved").
			fields(func(f *fields, _ Product) { f.policy |= 1 << 26 }),

		malformed("vmpl-4", "report_vmpl", "the privilege level is 4").raw(set32(offVMPL, 4)),
		malformed("vmpl-host", "report_vmpl", "the host asked for the report, not the guest (privilege level 0xffffffff)").raw(set32(offVMPL, 0xffffffff)),

		malformed("reserved-04c", "report_reserved", "a reserved byte at 0x4c is 1").raw(set(offReserved4C, 1)),
		malformed("reserved-18b", "report_reserved", "a reserved byte at 0x18b is 1").raw(set(offReserved18B, 1)),
		malformed("reserved-1eb", "report_reserved", "the reserved byte at 0x1eb is 1").raw(set(offReserved1EB, 1)),
		malformed("reserved-1ef", "report_reserved", "the reserved byte at 0x1ef is 1").raw(set(offReserved1EF, 1)),
		malformed("reserved-208", "report_reserved", "the reserved byte at 0x208 is 1").raw(set(offReserved208, 1)),
		malformed("reserved-29f", "report_reserved", "the reserved byte at 0x29f is 1").raw(set(signedSize-1, 1)),
		malformed("platform-reserved", "report_reserved", "PLATFORM_INFO has bit 8, which is reserved").raw(set(offPlatform+1, 1)),
		malformed("key-info-reserved", "report_reserved", "the field with the signing key has bit 5, which is reserved").
			raw(func(r []byte, _ Product) { r[offKeyInfo] |= 1 << 5 }),
		malformed("cpuid-in-v2", "report_reserved", "a report of version 2 has a CPUID family").
			on(Milan, Genoa, Siena).launch(version(2)).raw(set(offCPUID, 0x19)),
		malformed("mitigation-in-v3", "report_reserved", "a report of version 3 has a mitigation vector").
			launch(version(3)).raw(set(offLaunchMitigation, 1)),
		malformed("mitigation-in-v4", "report_reserved", "a report of version 4 has a current mitigation vector").
			launch(version(4)).raw(set(offCurrentMitigation, 1)),
		malformed("tcb-reserved", "report_reserved", "a reserved byte of the current TCB is 1").
			raw(func(r []byte, _ Product) { r[offCurrentTCB+4] = 1 }), // reserved in both layouts
		malformed("launch-tcb-reserved", "report_reserved", "a reserved byte of the launch TCB is 1").
			raw(func(r []byte, _ Product) { r[offLaunchTCB+5] = 1 }),

		malformed("signature-r-wide", "signature_encoding", "R of the signature has more than 48 bytes").
			signed(setSigned(offSignatureR+48, 1)),
		malformed("signature-s-wide", "signature_encoding", "S of the signature has more than 48 bytes").
			signed(setSigned(offSignatureS+scalarSize-1, 1)),
		malformed("signature-trailing", "signature_encoding", "a byte after the signature is 1").
			signed(setSigned(offReserved330, 1)),
		malformed("signature-last-byte", "signature_encoding", "the last byte of the report is 1").
			signed(setSigned(ReportSize-1, 1)),
	}
}

// setSigned writes a byte behind the signed part.
func setSigned(offset int, value byte) func([]byte) []byte {
	return func(r []byte) []byte { r[offset] = value; return r }
}

// signatureFaults are reports whose signature is not that of the certified key.
func signatureFaults() []Fault {
	return []Fault{
		untrusted("signature-broken", "report_signature", "one bit of the signature is flipped").
			signed(func(r []byte) []byte { r[offSignatureR] ^= 1; return r }),
		untrusted("signature-zero", "report_signature", "the signature is all zero").
			signed(func(r []byte) []byte { clear(r[signedSize:]); return r }),
		untrusted("signature-huge", "report_signature", "R and S are larger than the order of the curve").
			signed(func(r []byte) []byte {
				for i := range 48 {
					r[offSignatureR+i], r[offSignatureS+i] = 0xff, 0xff
				}
				return r
			}),
		untrusted("report-changed", "report_signature", "one bit of the measurement was flipped after signing").
			signed(func(r []byte) []byte { r[offMeasurement] ^= 1; return r }),
		untrusted("report-other-key", "report_signature", "another key has signed the report than the certified one").
			plan(func(pl *plan) error {
				k, err := deriveKey(pl.chip.authority.secret, "somebody else's")
				pl.reportKey = k
				return err
			}),
		untrusted("report-other-tcb", "report_signature", "the chip's key at an older TCB has signed the report").
			plan(func(pl *plan) error {
				e := pl.endorsement
				e.tcb.SNP--
				k, err := deriveKey(pl.chip.authority.secret, e.seed())
				pl.reportKey = k
				return err
			}),
		untrusted("signature-big-endian", "report_signature", "R and S are written the other way round").
			signed(func(r []byte) []byte {
				slices.Reverse(r[offSignatureR : offSignatureR+48])
				slices.Reverse(r[offSignatureS : offSignatureS+48])
				return r
			}),
	}
}

// versionFaults are authentic reports of platforms in an impossible state.
func versionFaults() []Fault {
	newer := func(l *Launch) *TCB {
		t := *l.Current
		t.SNP++
		return &t
	}
	return []Fault{
		untrusted("tcb-reported", "tcb_reported", "the reported TCB is newer than the current one").
			launch(func(l *Launch, _ Product) { l.Reported = newer(l) }),
		untrusted("tcb-reported-mixed", "tcb_reported", "the reported TCB has an older SNP firmware and newer microcode than the current one").
			launch(func(l *Launch, _ Product) {
				t := *l.Current
				t.SNP--
				t.Microcode++
				l.Reported = &t
			}),
		untrusted("tcb-committed", "tcb_committed", "the committed TCB is newer than the current one").
			launch(func(l *Launch, _ Product) { l.Committed = newer(l) }),
		untrusted("tcb-launch-zero", "tcb_launch", "the TCB at launch is not known").
			launch(func(l *Launch, _ Product) { l.LaunchTCB = new(TCB) }),
		untrusted("abi-major", "abi", "the guest demands firmware ABI 2.0, and the firmware has 1.55").
			launch(func(l *Launch, _ Product) { l.Policy |= 2 << 8 }),
		untrusted("abi-minor", "abi", "the guest demands a later minor version of the ABI than the firmware has").
			launch(func(l *Launch, _ Product) { l.Policy |= 1<<8 | uint64(l.Firmware.Minor) + 1 }),
	}
}

// claimFaults verify: what is wrong with them is for policy to see.
func claimFaults() []Fault {
	claim := func(name, description string, h func(*Launch, Product)) Fault {
		return Fault{Name: name, Description: description, Stage: StageAuthenticate, onLaunch: h}
	}
	return []Fault{
		claim("debug", "the guest's policy lets the host read its memory; it verifies with the claim policy.debug = true",
			func(l *Launch, _ Product) { l.Policy |= PolicyDebug }),
		claim("migrate-ma", "the guest may be migrated by a migration agent; it verifies with the claim policy.migrate_ma = true",
			func(l *Launch, _ Product) { l.Policy |= PolicyMigrateMA }),
		claim("vmpl-3", "software at privilege level 3 asked for the report; it verifies with the claim vmpl = 3",
			func(l *Launch, _ Product) { l.VMPL = 3 }),
		claim("masked-chip-id", "the host masks the chip id; it verifies with a chip_id of zeros",
			func(l *Launch, _ Product) { l.MaskChipID = true }).with(VCEK),
		claim("provisional", "the firmware in use is newer than the committed one; it verifies with the claim provisional = true",
			func(l *Launch, _ Product) {
				f, t := *l.Firmware, *l.Current
				f.Build--
				t.SNP--
				l.CommittedFirmware, l.Committed = &f, &t
			}),
		claim("old-tcb", "the platform reports an old TCB; it verifies with the claim reported_tcb",
			func(l *Launch, _ Product) {
				t := *l.Current
				t.SNP, t.Microcode = 1, 1
				l.Reported = &t
			}),
	}
}

// bindingFaults are authentic reports that answer another challenge.
func bindingFaults() []Fault {
	bound := func(name, description string, h func(*fields, Product)) Fault {
		return Fault{
			Name: name, Check: "binding_report_data", Kind: fault.Untrusted, Stage: StageBound,
			Description: description, onFields: h,
		}
	}
	return []Fault{
		bound("wrong-report-data", "the first bit of the report data differs from what was asked for",
			func(f *fields, _ Product) { f.reportData[0] ^= 1 }),
		bound("wrong-report-data-tail", "the last bit of the report data differs from what was asked for",
			func(f *fields, _ Product) { f.reportData[63] ^= 1 }),
		bound("report-data-zero-tail", "the second half of the report data is zero",
			func(f *fields, _ Product) { clear(f.reportData[32:]) }),
		bound("report-data-zero", "the report data are all zero",
			func(f *fields, _ Product) { f.reportData = [64]byte{} }),
	}
}

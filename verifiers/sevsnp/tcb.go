package sevsnp

import "github.com/assay-project/assay/attest"

// rawTCB is a TCB_VERSION as it stands in a report, 8 bytes (publication 56860,
// section 2.2). Up to Genoa the bytes are bl, tee, four reserved, snp, ucode;
// from Turin on they are fmc, bl, tee, snp, three reserved, ucode.
type rawTCB [8]byte

// hasFMC reports whether the line's TCBs have Turin's layout.
func hasFMC(product string) bool { return product == Turin }

// decode names the components.
func (t rawTCB) decode(fmc bool) attest.TCB {
	if fmc {
		f := t[0]
		return attest.TCB{FMC: &f, Bootloader: t[1], TEE: t[2], SNP: t[3], Microcode: t[7]}
	}
	return attest.TCB{Bootloader: t[0], TEE: t[1], SNP: t[6], Microcode: t[7]}
}

// reservedZero reports whether the bytes that the layout reserves are zero.
func (t rawTCB) reservedZero(fmc bool) bool {
	if fmc {
		return t[4]|t[5]|t[6] == 0
	}
	return t[2]|t[3]|t[4]|t[5] == 0
}

// atMost reports whether every byte of t is at most that of u. Each component
// is one byte, so the layout does not matter.
func (t rawTCB) atMost(u rawTCB) bool {
	for i := range t {
		if t[i] > u[i] {
			return false
		}
	}
	return true
}

package svid

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// tpm is the AR4SI table of machines with a TPM 2.0:
//
//	configuration     2  the policy pins PCR7: the state and the keys of secure boot
//	                  3  it demands secure boot, and the event log says that it was on
//	                  0  otherwise
//	executables       3  the policy pins what the firmware started, and in which order
//	                     (PCR4), and what that read (PCR9, PCR11, GRUB's files, a unified
//	                     kernel)
//	                 -5  only what was started: PCR4, or the loaders
//	                  0  otherwise
//	hardware         -4  a cloud vendor vouches for the TPM: it is its hypervisor's
//	                -38  nobody but the operator's inventory vouches for it
//	                -36  a maker does, and the policy has no floor for its firmware
//	                  2  otherwise
//
// The first row that applies counts. file-system, storage-opaque and sourced-data
// make no claim, and neither does runtime-opaque: a TPM says what was started, and
// nothing of who can read the memory that it runs in.
func (a *Appraisal) tpm(t *attest.TPM) (Vector, map[string]attest.Bytes, error) {
	var v Vector
	switch {
	case a.pinned("pcr7"):
		v[Configuration] = claimApprovedConfig
	case a.pinned("secure_boot") && t.Boot != nil && t.Boot.SecureBoot != nil && *t.Boot.SecureBoot:
		v[Configuration] = claimNoVulns
	}
	if a.pinned("pcr4") || a.pinned("boot.loaders") {
		v[Executables] = claimApprovedStart
		// What a loader read is as good as the loader, and only PCR4 says which of
		// the approved ones it was.
		if a.pinned("pcr4") && (a.pinned("pcr9") || a.pinned("pcr11") || a.pinned("boot.grub_files") || a.pinned("boot.unified.linux")) {
			v[Executables] = claimApprovedBoot
		}
	}
	switch {
	case t.AKTrust != attest.AKActivated && t.AKTrust != attest.AKCertificate:
		return Vector{}, nil, fmt.Errorf("the claims say that the attestation key is trusted by %.20q", t.AKTrust)
	case t.Cloud != nil:
		v[Hardware] = claimVirtual
	case t.EKCertificate == nil:
		v[Hardware] = claimInventory
	case !a.pinned("clock.firmware"):
		v[Hardware] = claimNoFloor
	default:
		v[Hardware] = claimGenuine
	}
	measurements, err := a.tpmMeasurements(t)
	return v, measurements, err
}

// tpmMeasurements are the registers to publish, of the bank's length.
func (a *Appraisal) tpmMeasurements(t *attest.TPM) (map[string]attest.Bytes, error) {
	size := map[string]int{"sha256": 32, "sha384": 48}[t.Bank]
	if size == 0 {
		return nil, fmt.Errorf("the claims say bank: %.20q", t.Bank)
	}
	var out map[string]attest.Bytes
	for _, name := range a.Publish {
		index, err := tpmPCR(name)
		if err != nil {
			return nil, err
		}
		value := t.PCRs[index]
		if allZero(value) {
			continue
		}
		if len(value) != size {
			return nil, fmt.Errorf("publish: %s has %d bytes, want %d", name, len(value), size)
		}
		if out == nil {
			out = make(map[string]attest.Bytes, len(a.Publish))
		}
		out[name] = value
	}
	return out, nil
}

// tpmPCR reads the name of a register that may be published.
func tpmPCR(name string) (int, error) {
	switch name {
	case "ek", "ak":
		return 0, fmt.Errorf("publish: %s: %w", name, errNamesTheMachine)
	}
	digits, ok := strings.CutPrefix(name, "pcr")
	index, err := strconv.Atoi(digits)
	if !ok || err != nil || index < 0 || index > 23 || name != pcrName(index) {
		return 0, fmt.Errorf("publish: %.40q is not a measurement of this platform", name)
	}
	if index > 15 {
		return 0, fmt.Errorf("publish: %s: %w", name, errResettable)
	}
	return index, nil
}

var (
	errNamesTheMachine = errors.New("it names the machine, and is never published")
	errResettable      = errors.New("software can reset it while the machine runs, so that it says nothing")
)

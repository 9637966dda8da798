package svid

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// nitro is the AR4SI table of AWS Nitro Enclaves:
//
//	configuration    96  debug mode: the console is open to the parent instance
//	                  3  otherwise
//	executables      33  debug mode: PCR0–2 are zero, nothing is known of the image
//	                  3  the policy pins PCR0, or PCR1 and PCR2, or PCR8
//	                  0  otherwise
//	hardware          2  the document chains to the pinned root
//	runtime-opaque   96  debug mode
//	                 -2  otherwise: closed to the parent instance by the Nitro Hypervisor
//
// file-system, storage-opaque and sourced-data make no claim: an enclave has no
// persistent storage, and its inputs are the workload's own affair.
func (a *Appraisal) nitro(n *attest.Nitro) (Vector, map[string]attest.Bytes, error) {
	var v Vector
	v[Hardware] = claimGenuine
	if n.Debug {
		v[Configuration] = claimUnsafeConfig
		v[Executables] = claimUnknownCode
		v[RuntimeOpaque] = claimVisible
	} else {
		v[Configuration] = claimNoVulns
		v[RuntimeOpaque] = claimIsolated
		if a.pinned("pcr0") || a.pinned("pcr1", "pcr2") || a.pinned("pcr8") {
			v[Executables] = claimApprovedBoot
		}
	}
	measurements := make(map[string]attest.Bytes, len(a.Publish))
	for _, name := range a.Publish {
		index, err := nitroPCR(name)
		if err != nil {
			return Vector{}, nil, err
		}
		if value := n.PCRs[index]; !allZero(value) {
			measurements[name] = value
		}
	}
	if len(measurements) == 0 {
		measurements = nil
	}
	return v, measurements, nil
}

// nitroPCR reads the name of a register that may be published.
func nitroPCR(name string) (int, error) {
	digits, ok := strings.CutPrefix(name, "pcr")
	index, err := strconv.Atoi(digits)
	if !ok || err != nil || index < 0 || index > 31 || name != pcrName(index) {
		return 0, fmt.Errorf("publish: %.40q is not a measurement of this platform", name)
	}
	if index == 3 || index == 4 {
		return 0, fmt.Errorf("publish: %s: %w", name, errNeverPublished)
	}
	return index, nil
}

// allZero reports whether a register is absent or was never extended.
func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

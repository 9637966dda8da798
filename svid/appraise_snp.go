package svid

import (
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// snp is the AR4SI table of AMD SEV-SNP:
//
//	configuration    96  the guest policy allows debugging
//	                 32  it allows a migration agent
//	                 -3  the host runs with simultaneous multithreading
//	                  3  otherwise
//	executables      33  debugging: what was measured can have been changed since
//	                  3  the policy pins the measurement, or who signed the image
//	                  0  otherwise
//	hardware        -36  the policy has no floor for the reported TCB
//	                -37  the firmware is provisional, and there is no floor for the committed TCB
//	                -35  revocation was not checked
//	                -33  it was checked within a grace
//	                  2  otherwise
//	runtime-opaque   96  debugging
//	                 32  a migration agent
//	                  2  otherwise: memory is encrypted against the hypervisor
//
// Of several rows of hardware the last that applies counts. file-system,
// storage-opaque and sourced-data make no claim: disks are not measured, and
// inputs are the workload's own affair.
//
// Why the hardware entry asks for floors: that a report chains to AMD's root
// says that an AMD chip made it, whatever firmware it ran, and firmware of old
// versions is known to be broken. The floor that counts is the reported TCB's:
// the signing key is derived from it, and the verifier has compared it with the
// certificate's. The other TCBs are only words under that key's signature.
func (a *Appraisal) snp(s *attest.SNP) (Vector, map[string]attest.Bytes, error) {
	var v Vector
	v[Configuration], v[RuntimeOpaque] = snpExposure(s)
	switch {
	case s.Policy.Debug:
		v[Executables] = claimUnknownCode
	case a.pinned("measurement") || a.pinned("id_key_digest") || a.pinned("author_key_digest"):
		v[Executables] = claimApprovedBoot
	}
	v[Hardware] = claimGenuine
	if !a.pinned("reported_tcb") {
		v[Hardware] = claimNoFloor
	}
	if s.Provisional && !a.pinned("committed_tcb") {
		v[Hardware] = claimProvisional
	}
	switch s.Revocation {
	case "ok":
	case "grace":
		v[Hardware] = claimGrace
	case "not_checked":
		v[Hardware] = claimNotChecked
	default:
		return Vector{}, nil, fmt.Errorf("the claims say revocation: %.20q", s.Revocation)
	}
	measurements, err := a.snpMeasurements(s)
	return v, measurements, err
}

// snpExposure is what the guest policy and the host let others see.
func snpExposure(s *attest.SNP) (configuration, opaque Claim) {
	switch {
	case s.Policy.Debug:
		return claimUnsafeConfig, claimVisible
	case s.Policy.MigrateMA:
		return claimKnownVulns, claimOpenToOperator
	case s.Platform.SMT:
		return claimSharedCores, claimEncrypted
	}
	return claimNoVulns, claimEncrypted
}

// snpMeasurements are those to publish. All have 48 bytes.
func (a *Appraisal) snpMeasurements(s *attest.SNP) (map[string]attest.Bytes, error) {
	var out map[string]attest.Bytes
	for _, name := range a.Publish {
		var value attest.Bytes
		switch name {
		case "measurement":
			value = s.Measurement
		case "id_key_digest":
			value = s.IDKeyDigest
		case "author_key_digest":
			value = s.AuthorKeyDigest
		case "host_data", "chip_id", "report_id", "report_id_ma", "report_data":
			return nil, fmt.Errorf("publish: %s: %w", name, errNamesTheGuest)
		default:
			return nil, fmt.Errorf("publish: %.40q is not a measurement of this platform", name)
		}
		if len(value) != 48 {
			return nil, fmt.Errorf("publish: %s has %d bytes, want 48", name, len(value))
		}
		if allZero(value) {
			continue
		}
		if out == nil {
			out = make(map[string]attest.Bytes, len(a.Publish))
		}
		out[name] = value
	}
	return out, nil
}

var errNamesTheGuest = errors.New("it names the machine, the instance or what the host said, and is never published")

package svid

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// SimulatedPrefix begins the name of every simulated trust domain, and of no
// other: a trust domain is hardware or simulated for life.
const SimulatedPrefix = "simulated."

// Claims of this project's own, from AR4SI's negative ("non-standard") ranges.
const (
	claimIsolated      Claim = -2  // affirming: memory is closed to the host's operating system by a hypervisor that the vendor runs
	claimSharedCores   Claim = -3  // affirming: the guest shares cores with other threads of the host
	claimVirtual       Claim = -4  // affirming: a virtual TPM that a cloud vendor's hypervisor provides and vouches for
	claimApprovedStart Claim = -5  // affirming: what the firmware started is approved; what that read is not looked at
	claimGrace         Claim = -33 // warning: revocation or endorsement data was out of date, within the operator's grace
	claimSimulated     Claim = -34 // warning: a simulator, which protects nothing
	claimNotChecked    Claim = -35 // warning: revocation was not checked
	claimNoFloor       Claim = -36 // warning: genuine, and the policy admits any version of its firmware
	claimProvisional   Claim = -37 // warning: the host can go back to firmware that the policy does not know
	claimInventory     Claim = -38 // warning: nobody but the operator vouches for the hardware
)

// AR4SI's own values, named after what the tables use them for (section 2.3.4).
const (
	claimRecognized     Claim = 2  // instance-identity: recognized, not known to be compromised
	claimGenuine        Claim = 2  // hardware: genuine
	claimEncrypted      Claim = 2  // runtime-opaque: encrypted, opaque to operating system, hypervisor and peers
	claimApprovedConfig Claim = 2  // configuration: known and approved
	claimApprovedBoot   Claim = 3  // executables: only approved ones were loaded during boot
	claimNoVulns        Claim = 3  // configuration: exposes no known vulnerabilities
	claimKnownVulns     Claim = 32 // configuration: exposes known vulnerabilities
	claimOpenToOperator Claim = 32 // runtime-opaque: closed to other guests, not to the machine's operator
	claimUnknownCode    Claim = 33 // executables: some are not recognized
	claimUnsafeConfig   Claim = 96 // configuration: exposes unacceptable vulnerabilities
	claimVisible        Claim = 96 // runtime-opaque: memory is visible to the host
)

// Appraisal is what an issuer knows when it has decided to issue: the verified
// claims, and the decision of the policy that admitted them.
type Appraisal struct {
	Claims       attest.Claims
	Policy       string   // "name@revision"
	PolicyDigest [32]byte // SHA-256 of the policy's source
	// Ownership says that the policy required something that only the owner of
	// the workload can launch, and that it held.
	Ownership bool
	// Grace says that something was accepted past its date, within a grace that
	// the operator configured.
	Grace bool
	// Pinned lists the claims for which the policy required approved values or
	// floors, by their names in policies ("pcr0", "reported_tcb"), all of which
	// held: policy.Decision.Pinned.
	Pinned []string
	// Publish lists the measurements to publish. Those that the evidence does
	// not have, or has as zeros, are left out.
	Publish        []string
	Attributes     map[string]string
	EvidenceDigest [32]byte   // SHA-256 of the evidence; it is salted before it is published
	VerifierID     VerifierID // empty fields are filled in
}

// Appraise makes the attestation result for one SVID, by the table of the
// claims' platform in docs/spec/attested-svid.md. sub is the SPIFFE ID and
// leafKey the public key of the certificate; [iat, exp) is the result's
// validity, which must cover the certificate's; iss is the trust domain, with
// or without "spiffe://". Times are cut to seconds. It draws a fresh salt.
//
// Errors are of kind Internal: the caller asked for something that the format
// cannot say, or must not.
func Appraise(a Appraisal, sub spiffeid.ID, leafKey crypto.PublicKey, iat, exp time.Time, iss string) (*Result, error) {
	return appraise(a, sub, leafKey, iat, exp, iss, rand.Reader)
}

func appraise(a Appraisal, sub spiffeid.ID, leafKey crypto.PublicKey, iat, exp time.Time, iss string, random io.Reader) (*Result, error) {
	td, err := spiffeid.TrustDomainFromString(iss)
	if err != nil {
		return nil, fail(attest.Internal, "appraise", "issuer: %w", err)
	}
	if simulated := IsSimulated(td); simulated != a.Claims.Simulated {
		return nil, fail(attest.Internal, "appraise", "the claims say simulated: %t, the trust domain %s says %t", a.Claims.Simulated, td, simulated)
	}
	thumb, err := ThumbprintOf(leafKey)
	if err != nil {
		return nil, fail(attest.Internal, "appraise", "leaf key: %w", err)
	}
	vector, measurements, err := a.table()
	if err != nil {
		return nil, fail(attest.Internal, "appraise", "%w", err)
	}
	var salt [saltSize]byte
	if _, err := io.ReadFull(random, salt[:]); err != nil {
		return nil, fail(attest.Internal, "appraise", "salt: %w", err)
	}
	iat, exp = iat.UTC().Truncate(time.Second), exp.UTC().Truncate(time.Second)
	r := &Result{
		Issuer:         td.IDString(),
		Subject:        sub.String(),
		IssuedAt:       iat,
		Expiry:         exp,
		KeyThumbprint:  thumb,
		VerifierID:     a.VerifierID,
		Platform:       a.Claims.Platform,
		Status:         vector.Status(),
		Vector:         vector,
		Policy:         a.Policy,
		PolicyDigest:   a.PolicyDigest[:],
		Attributes:     a.Attributes,
		Measurements:   measurements,
		EvidenceTime:   evidenceTime(a.Claims, iat),
		EvidenceDigest: saltedDigest(salt, a.EvidenceDigest),
		Simulated:      a.Claims.Simulated,
	}
	if r.VerifierID.Developer == "" {
		r.VerifierID.Developer = "assay-project"
	}
	if r.VerifierID.Build == "" {
		r.VerifierID.Build = "assayd"
	}
	return r, nil
}

// IsSimulated reports whether the trust domain's name says that it is simulated.
func IsSimulated(td spiffeid.TrustDomain) bool {
	return strings.HasPrefix(td.Name(), SimulatedPrefix)
}

// table applies the AR4SI table of the platform. A platform without a table
// here cannot be issued for, whatever verified its evidence.
func (a *Appraisal) table() (Vector, map[string]attest.Bytes, error) {
	var v Vector
	var measurements map[string]attest.Bytes
	var err error
	switch {
	case a.Claims.Platform == attest.AWSNitro && a.Claims.Nitro != nil:
		v, measurements, err = a.nitro(a.Claims.Nitro)
	case a.Claims.Platform == attest.AMDSEVSNP && a.Claims.SNP != nil:
		v, measurements, err = a.snp(a.Claims.SNP)
	case a.Claims.Platform == attest.TPM2 && a.Claims.TPM != nil:
		v, measurements, err = a.tpm(a.Claims.TPM)
	default:
		err = fmt.Errorf("no trustworthiness table for platform %.40q with these claims", string(a.Claims.Platform))
	}
	if err != nil {
		return Vector{}, nil, err
	}
	if a.Ownership {
		v[InstanceIdentity] = claimRecognized
	}
	// What follows can only make an entry worse.
	if a.Grace {
		v[Hardware] = worse(v[Hardware], claimGrace)
	}
	if a.Claims.Simulated {
		v[Hardware] = worse(v[Hardware], claimSimulated)
		v[RuntimeOpaque] = worse(v[RuntimeOpaque], claimSimulated)
	}
	return v, measurements, nil
}

// worse is the claim of the less trusted tier; of the same tier, the new one.
func worse(old, new Claim) Claim {
	if old != 0 && old.Tier().rank() < new.Tier().rank() {
		return old
	}
	return new
}

// evidenceTime is the evidence's own clock, or the time of issuance where it
// has none. Evidence from the near future (clocks differ) is of now.
func evidenceTime(c attest.Claims, iat time.Time) time.Time {
	t := c.EvidenceTime().UTC().Truncate(time.Second)
	if c.EvidenceTime().IsZero() || t.After(iat) {
		return iat
	}
	return t
}

// pinned reports whether the policy required approved values for all of names.
func (a *Appraisal) pinned(names ...string) bool {
	for _, n := range names {
		if !slices.Contains(a.Pinned, n) {
			return false
		}
	}
	return true
}

var errNeverPublished = errors.New("PCR3 and PCR4 are hashes of guessable names and are never published")

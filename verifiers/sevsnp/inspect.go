package sevsnp

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"

	"github.com/assay-project/assay/attest"
)

// Unverified is what a report says of itself. Nobody has checked who signed it:
// it is for people who look at a report, and no decision may rest on it. It is no
// attest.Claims on purpose, and cannot be turned into one.
type Unverified struct {
	Version uint32 `json:"version"`
	// Product is the line that the report's CPUID belongs to, "" in version 2 and
	// for an unknown processor. The TCBs below are read in its layout.
	Product    string `json:"product"`
	CPUID      string `json:"cpuid,omitempty"`
	SigningKey string `json:"signing_key"` // "vcek", "vlek", "none" or "reserved"
	MaskedKey  bool   `json:"masked_key"`  // the host masks the chip's key
	AuthorKey  bool   `json:"author_key"`  // there is an author key

	Measurement     attest.Bytes `json:"measurement"`
	HostData        attest.Bytes `json:"host_data"`
	ReportData      attest.Bytes `json:"report_data"`
	GuestSVN        uint32       `json:"guest_svn"`
	VMPL            uint32       `json:"vmpl"`
	IDKeyDigest     attest.Bytes `json:"id_key_digest"`
	AuthorKeyDigest attest.Bytes `json:"author_key_digest"`
	FamilyID        attest.Bytes `json:"family_id"`
	ImageID         attest.Bytes `json:"image_id"`

	Policy   attest.SNPPolicy   `json:"policy"`
	Platform attest.SNPPlatform `json:"platform"`

	CurrentTCB   attest.TCB `json:"current_tcb"`
	ReportedTCB  attest.TCB `json:"reported_tcb"`
	CommittedTCB attest.TCB `json:"committed_tcb"`
	LaunchTCB    attest.TCB `json:"launch_tcb"`

	CurrentFirmware   attest.Firmware `json:"current_firmware"`
	CommittedFirmware attest.Firmware `json:"committed_firmware"`

	LaunchMitigations  *uint64 `json:"launch_mitigations"`
	CurrentMitigations *uint64 `json:"current_mitigations"`

	ReportID   attest.Bytes `json:"report_id"`
	ReportIDMA attest.Bytes `json:"report_id_ma"`
	ChipID     attest.Bytes `json:"chip_id"`

	// Malformed is the first structural check that the report fails, or nil.
	// Without one it may still be untrusted or stale: only Authenticate can say.
	Malformed error `json:"-"`
}

// Inspect decodes a report without trusting it. The first structural fault is in
// [Unverified.Malformed]. The error is for bytes of another length than a
// report's; it is an *attest.Error of kind Malformed.
func Inspect(body []byte) (*Unverified, error) {
	r, malformed := read(body)
	if malformed != nil {
		if len(body) != ReportSize {
			return nil, malformed
		}
		r = &report{raw: body, version: binary.LittleEndian.Uint32(body)}
		if r.version >= cpuidVersion {
			r.cpu = cpuid{body[offCPUID], body[offCPUID+1], body[offCPUID+2]}
		}
	}
	product, _ := r.cpu.product()
	s := r.claims(product)
	u := &Unverified{
		Version: r.version, Product: product, SigningKey: signingKeyName(r.signerInfo()),
		MaskedKey: r.signerInfo()&2 != 0, AuthorKey: r.signerInfo()&1 != 0,
		Measurement: s.Measurement, HostData: s.HostData, ReportData: s.ReportData, GuestSVN: s.GuestSVN, VMPL: s.VMPL,
		IDKeyDigest: s.IDKeyDigest, AuthorKeyDigest: s.AuthorKeyDigest, FamilyID: s.FamilyID, ImageID: s.ImageID,
		Policy: s.Policy, Platform: s.Platform,
		CurrentTCB: s.CurrentTCB, ReportedTCB: s.ReportedTCB, CommittedTCB: s.CommittedTCB, LaunchTCB: s.LaunchTCB,
		CurrentFirmware: s.CurrentFirmware, CommittedFirmware: s.CommittedFirmware,
		LaunchMitigations: s.LaunchMitigations, CurrentMitigations: s.CurrentMitigations,
		ReportID: s.ReportID, ReportIDMA: s.ReportIDMA, ChipID: s.ChipID, Malformed: malformed,
	}
	if r.version >= cpuidVersion {
		u.CPUID = r.cpu.String()
		if malformed == nil && product != "" {
			u.Malformed = r.checkTCBs(product)
		}
	}
	return u, nil
}

func signingKeyName(signerInfo uint32) string {
	switch signerInfo >> 2 & 7 {
	case 0:
		return VCEK
	case 1:
		return VLEK
	case 7:
		return "none"
	}
	return "reserved"
}

// UnverifiedEndorsement describes one certificate or CRL that came along, or says
// why it cannot be read. Nobody has checked who signed it.
type UnverifiedEndorsement struct {
	SHA256     attest.Bytes `json:"sha256"` // of the DER
	Type       string       `json:"type"`   // "vcek", "vlek", "ca", "certificate", "crl" or "unknown"
	Subject    string       `json:"subject,omitempty"`
	Issuer     string       `json:"issuer,omitempty"`
	NotBefore  time.Time    `json:"not_before,omitzero"` // of a CRL: thisUpdate
	NotAfter   time.Time    `json:"not_after,omitzero"`  // of a CRL: nextUpdate
	Extensions *Extensions  `json:"extensions,omitempty"`
	Revoked    int          `json:"revoked,omitempty"` // entries of a CRL
	Problem    string       `json:"problem,omitempty"`
}

// InspectEndorsement decodes a certificate or CRL without trusting it.
func InspectEndorsement(der []byte) UnverifiedEndorsement {
	sum := sha256.Sum256(der)
	u := UnverifiedEndorsement{SHA256: sum[:], Type: "unknown"}
	if isCRL(der) {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			u.Problem = err.Error()
			return u
		}
		u.Type, u.Issuer, u.NotBefore, u.NotAfter, u.Revoked = "crl", l.Issuer.String(), l.ThisUpdate, l.NextUpdate, len(l.RevokedCertificateEntries)
		return u
	}
	c, err := x509.ParseCertificate(bytes.Clone(der))
	if err != nil {
		u.Problem = err.Error()
		return u
	}
	u.Type, u.Subject, u.Issuer, u.NotBefore, u.NotAfter = "certificate", c.Subject.String(), c.Issuer.String(), c.NotBefore, c.NotAfter
	switch {
	case kindOf(c) != "":
		u.Type = kindOf(c)
		if u.Extensions, err = ParseExtensions(c); err != nil {
			u.Problem = err.Error()
		}
	case c.IsCA:
		u.Type = "ca"
	}
	return u
}

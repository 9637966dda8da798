package main

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/tpm"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// What evidence would claim if it verified, for drafts of a policy. Nothing is
// checked but its form: an attacker may have written all of it.

func nitroClaimed(ev attest.Evidence) (*attest.Claims, error) {
	u, err := nitro.Inspect(ev.Body)
	if err == nil {
		err = u.Malformed
	}
	if err != nil {
		return nil, err
	}
	c := &attest.Nitro{ModuleID: u.ModuleID, PCRs: u.PCRs, PublicKey: u.PublicKey, UserData: u.UserData, Nonce: u.Nonce, Debug: true}
	if u.Timestamp != nil {
		c.Timestamp = *u.Timestamp
	}
	for i := range 3 {
		c.Debug = c.Debug && zero(u.PCRs[i])
	}
	return &attest.Claims{Platform: attest.AWSNitro, Nitro: c}, nil
}

func snpClaimed(ev attest.Evidence) (*attest.Claims, error) {
	u, err := sevsnp.Inspect(ev.Body)
	if err == nil {
		err = u.Malformed
	}
	if err != nil {
		return nil, err
	}
	return &attest.Claims{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{
		Version: u.Version, Product: u.Product, SigningKey: u.SigningKey,
		Measurement: u.Measurement, HostData: u.HostData, ReportData: u.ReportData, GuestSVN: u.GuestSVN, VMPL: u.VMPL,
		IDKeyDigest: u.IDKeyDigest, AuthorKeyDigest: u.AuthorKeyDigest, FamilyID: u.FamilyID, ImageID: u.ImageID,
		Policy: u.Policy, Platform: u.Platform,
		CurrentTCB: u.CurrentTCB, ReportedTCB: u.ReportedTCB, CommittedTCB: u.CommittedTCB, LaunchTCB: u.LaunchTCB,
		CurrentFirmware: u.CurrentFirmware, CommittedFirmware: u.CommittedFirmware,
		Provisional:       u.CurrentTCB.String() != u.CommittedTCB.String() || u.CurrentFirmware != u.CommittedFirmware,
		LaunchMitigations: u.LaunchMitigations, CurrentMitigations: u.CurrentMitigations,
		ReportID: u.ReportID, ReportIDMA: u.ReportIDMA, ChipID: u.ChipID, Revocation: "not_checked",
	}}, nil
}

// tpmClaimed takes an attestation key as a server would have activated it, where
// no certificate is there for it.
func tpmClaimed(ev attest.Evidence) (*attest.Claims, error) {
	u, err := tpm.Inspect(ev)
	if err == nil {
		err = u.Malformed
	}
	if err != nil {
		return nil, err
	}
	if u.Quote == nil || u.AK == nil {
		return nil, &attest.Error{Kind: attest.Malformed, Check: "quote", Err: errors.New("there is no quote, or no key to it")}
	}
	bank, hash := "sha256", crypto.SHA256
	if _, ok := u.Quote.Selection["SHA-384"]; ok {
		bank, hash = "sha384", crypto.SHA384
	}
	for i, v := range u.PCRs {
		if len(v) != hash.Size() || len(u.Quote.Selection) != 1 {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "quote_selection", Err: fmt.Errorf("PCR %d is not of the one bank that a policy reads, sha256 or sha384", i)}
		}
	}
	c := &attest.TPM{
		Bank: bank, PCRs: map[int]attest.Bytes{}, ExtraData: u.Quote.ExtraData,
		AK: u.AK.Name, AKTrust: attest.AKActivated, Safe: u.Quote.Safe, KeyResidency: attest.ResidentSoftware,
	}
	for i, v := range u.PCRs {
		if i < staticPCRs {
			c.PCRs[int(i)] = v
		}
	}
	if u.EK != nil {
		c.EK = u.EK.SPKI
	}
	if u.EKCertificate != nil {
		c.EKCertificate = u.EKCertificate.TPM
	}
	if u.AKCertificate != nil && u.AKCertificate.Instance != nil {
		c.AKTrust, c.Cloud = attest.AKCertificate, u.AKCertificate.Instance
	}
	if len(ev.EventLog) > 0 {
		if c.Boot, err = eventlog.Replay(ev.EventLog, hash, c.PCRs); err != nil {
			return nil, err
		}
	}
	return &attest.Claims{Platform: attest.TPM2, TPM: c}, nil
}

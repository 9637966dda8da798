package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/tpm"
)

// tpmTEE is machines with a TPM 2.0.
func tpmTEE() tee {
	return tee{
		platform:  attest.TPM2,
		title:     "TPM 2.0",
		normalize: tpmNormalize,
		open:      tpmOpen,
		inspect:   tpmInspect,
		claimed:   tpmClaimed,
		print:     tpmPrint,
		nonce:     tpmNonce,
		bound:     tpmBound,
		warnings:  tpmWarnings,
	}
}

// tpmOpen takes the pinned roots and those of an operator's directory, or a
// simulator's. AKs that the user names are trusted beside them.
func tpmOpen(o opening) (*opened, error) {
	roots := tpm.HardwareRoots()
	var err error
	if o.rootsPEM != nil {
		if roots, err = tpm.SimulatedRoots(o.rootsPEM); err != nil {
			return nil, err
		}
	}
	if o.tpm.roots != nil {
		if roots, err = roots.WithDirectory(o.tpm.roots); err != nil {
			return nil, cli.Usagef("ek/ holds roots of TPM manufacturers, gce/ and azure/ those of clouds that certify AKs", "--tpm-roots %s: %w", o.tpm.rootsDir, err)
		}
	}
	v, err := tpm.New(roots, tpm.WithTrustedAK(o.tpm.trusted...))
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	return &opened{
		verifier: v,
		endorses: true, certificates: true,
		after: func(ev attest.Evidence, c attest.Claims, es []*endorsement, at time.Time) (revocation, error) {
			body, err := attest.DecodeTPMEvidence(ev.Body)
			if err != nil {
				return revocation{State: revocationNone}, &attest.Error{
					Kind: attest.Internal, Check: "inspect", Err: fmt.Errorf("evidence that verifies cannot be decoded: %w", err),
				}
			}
			for _, e := range es {
				e.used, e.why = false, "the quote's keys do not need it"
			}
			climb(body.EKCertificate, es)
			if chain = climb(body.AKCertificate, es); len(chain) == 0 {
				return revocation{revocationNone, "no certificate vouches for the AK"}, nil
			}
			return tpmRevocation(chain, es, at, o.requireCRL)
		},
		checked: func(c attest.Claims) []checked { return tpmChecked(roots, *c.TPM) },
		chain:   func() []*x509.Certificate { return chain },
	}, nil
}

// climb goes from a verified leaf up through the certificates that came along,
// which it marks as used, and returns the chain, the highest first. The pinned root
// is above it.
func climb(leaf []byte, es []*endorsement) []*x509.Certificate {
	c, err := x509.ParseCertificate(trimDER(leaf))
	if err != nil {
		return nil
	}
	chain := []*x509.Certificate{c}
	for range len(es) {
		i := slices.IndexFunc(es, func(e *endorsement) bool {
			return e.cert != nil && bytes.Equal(e.cert.RawSubject, c.RawIssuer) && !bytes.Equal(e.cert.Raw, c.Raw) &&
				e.cert.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
		})
		if i < 0 {
			break
		}
		c, es[i].used, es[i].why = es[i].cert, true, ""
		chain = slices.Insert(chain, 0, c)
	}
	return chain
}

// tpmRevocation looks the chain's certificates up in the CRLs that came along. Where
// the chain stops below the pinned root, nothing can be said of its highest
// certificate.
func tpmRevocation(chain []*x509.Certificate, es []*endorsement, at time.Time, require bool) (revocation, error) {
	rev, err := checkRevocation(chain, es, at, false)
	top := chain[0]
	switch {
	case err != nil || !require:
		return rev, err
	case len(top.CRLDistributionPoints) > 0 && !bytes.Equal(top.RawIssuer, top.RawSubject):
		return rev, &attest.Error{
			Kind: attest.Unavailable, Check: "crl", Err: fmt.Errorf("revocation is required, and %q cannot be looked up without its issuer", top.Subject.String()),
			Hint: "give the certificates above it, up to the root, with --endorsement, and their CRLs",
		}
	case len(chain) == 1:
		return rev, nil // it names no CRL
	}
	return checkRevocation(chain, es, at, true)
}

func tpmChecked(roots tpm.Roots, t attest.TPM) []checked {
	whose := map[string]string{
		attest.AKOperator: "named by --ak: you vouch for it, and for the TPM that it lives in",
	}[t.AKTrust]
	if t.Cloud != nil {
		whose = fmt.Sprintf("certified by %s under a pinned root (of %d)", t.Cloud.Provider, len(roots.List()))
	}
	attributes := "restricted, signing, fixed to its TPM and made in it: the quote's signer is this key by name"
	if len(t.AK) == 32 {
		attributes = "its public area is not proven to be the key's: no TPM says that it signs quotes alone"
	}
	out := []checked{
		{"structure", "ok", "quote, signature and public areas, each to its last byte"},
		{"signature", "ok", "by the AK, in its own scheme, over the quote as received"},
		{"registers", "ok", fmt.Sprintf("those of the signed selection, bank %s, each of its length, hash to the quoted digest", t.Bank)},
		{"AK", "ok", whose},
		{"AK attributes", "ok", attributes},
	}
	if len(t.AK) == 32 {
		out[4].State = stateUnchecked
	}
	log := checked{"event log", "not_checked", "none came along: the registers alone speak"}
	if b := t.Boot; b != nil {
		log = checked{"event log", "ok", fmt.Sprintf("it replays to the quoted value of %s", cli.Count(len(b.Replayed), "register"))}
	}
	return append(out, log, checked{"time", "ok", "every certificate is valid; a quote has no time of its own: only a nonce or a binding shows that it is fresh"})
}

func tpmPrint(p *cli.Page, c attest.Claims) {
	t := *c.TPM
	facts := []cli.Fact{
		{Name: "bank", Value: t.Bank},
		{Name: "extra data", Value: short(t.ExtraData)},
		{Name: "simulated", Value: yesNo(c.Simulated)},
		{Name: "ak", Value: t.AK.String()},
		{Name: "ak trust", Value: t.AKTrust},
	}
	if t.EK != nil {
		facts = append(facts, cli.Fact{Name: "ek", Value: t.EK.String()})
	}
	if e := t.EKCertificate; e != nil {
		facts = append(facts, cli.Fact{Name: "tpm", Value: strings.Join([]string{e.Manufacturer, e.Model, e.Version}, " ")}, cli.Fact{Name: "ek issuer", Value: e.Issuer})
	}
	if i := t.Cloud; i != nil {
		name := i.InstanceName
		if name == "" {
			name = i.InstanceID
		}
		facts = append(facts, cli.Fact{Name: "cloud", Value: i.Provider}, cli.Fact{Name: "instance", Value: name})
		if i.ProjectID != "" {
			facts = append(facts, cli.Fact{Name: "project", Value: fmt.Sprintf("%s (%d), %s", i.ProjectID, i.ProjectNumber, i.Zone)})
		}
	}
	if k := t.Clock; k != nil {
		facts = append(facts, cli.Fact{Name: "clock", Value: fmt.Sprintf("reset %d, restart %d, firmware %016x", k.ResetCount, k.RestartCount, k.Firmware)})
	}
	facts = append(facts, cli.Fact{Name: "clock is safe", Value: yesNo(t.Safe)}, cli.Fact{Name: "keys live in", Value: map[string]string{
		attest.ResidentTPM: "the TPM", attest.ResidentSoftware: "memory",
	}[t.KeyResidency]})
	p.Facts(facts...)
	printRegisters(p, "PCRs ("+t.Bank+")", t.PCRs)
	if t.Boot != nil {
		p.Title("Measured boot")
		printBoot(p, t.Boot)
	}
}

// tpmNonce compares a nonce: as `assay evidence collect` puts it into a quote,
// hashed and tagged; or, as other tools have it, as it is. In a quote that answered
// a server's challenge it is inside B: see --expect-binding.
func tpmNonce(c attest.Claims, nonce []byte) error {
	want, err := attest.CollectedBinding(nonce)
	if err != nil {
		return err
	}
	if bytes.Equal(c.TPM.ExtraData, want[:]) || bytes.Equal(c.TPM.ExtraData, nonce) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Untrusted, Check: "binding_nonce", Err: errors.New("the quote's qualifyingData is not the nonce"),
		Expected: fmt.Sprintf("%s, or what assay evidence collect makes of it", attest.Bytes(nonce)), Got: short(c.TPM.ExtraData),
		Hint: "this is a quote for somebody else's challenge, or a replay; a nonce of a server's challenge is inside the binding: --expect-binding",
	}
}

func tpmBound(c attest.Claims, b []byte) error {
	if bytes.Equal(c.TPM.ExtraData, b) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Untrusted, Check: tpm.CheckBindingExtraData, Err: errors.New("the quote's qualifyingData is not the binding that is expected"),
		Expected: attest.Bytes(b).String(), Got: short(c.TPM.ExtraData),
		Hint: "the binding covers connection, nonce, keys, requested identities and purpose: docs/spec/binding.md",
	}
}

func tpmWarnings(c attest.Claims) []string {
	var out []string
	t := c.TPM
	if t.AKTrust == attest.AKOperator {
		out = append(out, "you vouch for the AK (--ak): nothing here shows that it lives in a TPM; a server activates it with the TPM's endorsement key")
	}
	if len(t.ExtraData) == 0 {
		out = append(out, "the quote answers no challenge: it may be of any time")
	}
	measured := false
	for i, v := range t.PCRs {
		measured = measured || i < 8 && !zero(v)
	}
	if !measured {
		out = append(out, "PCR0 to PCR7 are all zero or not quoted: the quote says nothing of what the firmware started")
	}
	return out
}

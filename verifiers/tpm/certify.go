package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// certified is a key that lives in the TPM, with the AK's word for it.
type certified struct {
	public    *public
	attested  *attested
	signature *signature
}

// parseCertified takes the resident keys apart. Nothing of them is believed yet.
func parseCertified(in []attest.TPMCertified) ([]certified, error) {
	out := make([]certified, 0, len(in))
	for i, c := range in {
		wrong := func(what string, err error) error {
			return refuse(CheckCertifiedStructure, detail{Err: fmt.Errorf("resident key %d: %s: %w", i, what, err)})
		}
		p, err := parsePublic(c.Public)
		if err != nil {
			return nil, wrong("public area", err)
		}
		a, err := parseAttested(c.Attest, typeCertify)
		switch {
		case errors.Is(err, errKind):
			return nil, refuse(CheckCertifyType, detail{Err: fmt.Errorf("resident key %d: %w", i, err), Expected: "0x8017, a certification"})
		case err != nil:
			return nil, wrong("attestation", err)
		}
		s, err := parseSignature(c.Signature)
		if err != nil {
			return nil, wrong("signature", err)
		}
		out = append(out, certified{p, a, s})
	}
	return out, nil
}

// checkCertified demands that the AK of the quote certified each key, in the same
// boot and for the same qualifyingData, and that no copy of the key outlives the boot.
func checkCertified(keys []certified, ak *public, q *attested) error {
	for i, c := range keys {
		fail := func(name string, err error, expected, got string) error {
			return refuse(name, detail{Err: fmt.Errorf("resident key %d: %w", i, err), Expected: expected, Got: got})
		}
		a, p := c.attested, c.public
		if !c.signature.schemeOf(ak) {
			return fail(CheckCertifySignature, errors.New("the signature is of another scheme than the AK's"), algName(ak.scheme), algName(c.signature.scheme))
		}
		if err := c.signature.verify(ak.key, a.raw); err != nil {
			return fail(CheckCertifySignature, fmt.Errorf("the AK did not sign the certification: %w", err), "", "")
		}
		if !bytes.Equal(a.extra, q.extra) {
			return fail(CheckBindingCertify, errors.New("the certification was made for something else than the quote"), check.ClipHex(q.extra), check.ClipHex(a.extra))
		}
		if !bytes.Equal(a.name, p.name) {
			return fail(CheckCertifyName, errors.New("the AK certified another key"), check.ClipHex(p.name), check.ClipHex(a.name))
		}
		if !p.primaryOf(handleNull, a.qualified) {
			return fail(CheckCertifyHierarchy, errors.New("the key is not a primary of the NULL hierarchy: it could be made or loaded again after the TPM was reset"),
				check.ClipHex(primaryName(p.nameAlg, p.name, handleNull)), check.ClipHex(a.qualified))
		}
		// The NULL hierarchy's seed outlives a TPM Restart (Part 1, section 12.2.3): a
		// Shutdown(STATE), and another boot behind it. A saved key of stClear does not.
		const demanded = attrFixedTPM | attrSTClear | attrFixedParent | attrSensitiveDataOrigin | attrSign
		if !p.has(demanded) || p.attrs&(attrDecrypt|attrRestricted) != 0 {
			return fail(CheckCertifyKeyAttributes, errors.New("the key may do more or less than it must"),
				"fixedTPM, stClear, fixedParent, sensitiveDataOrigin, sign; not decrypt, not restricted", fmt.Sprintf("attributes 0x%08x", p.attrs))
		}
		if err := checkStrength(fmt.Sprintf("resident key %d", i), p, names{CheckCertifyKey, CheckCertifyKey, CheckCertifyKey}); err != nil {
			return err
		}
		if a.reset != q.reset || a.restart != q.restart {
			return fail(CheckCertifyClock, errors.New("the key was certified in another boot than the quote was made in"),
				fmt.Sprintf("reset %d, restart %d", q.reset, q.restart), fmt.Sprintf("reset %d, restart %d", a.reset, a.restart))
		}
	}
	return nil
}

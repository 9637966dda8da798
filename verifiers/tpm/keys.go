package tpm

import (
	"crypto/rsa"
	"errors"
	"fmt"
)

const minRSABits = 2048

// names are the checks that a key's strength is held to.
type names struct{ curve, size, roca string }

// checkStrength demands a key that nobody can compute the private part of.
func checkStrength(what string, p *public, n names) error {
	if p.alg == algECC {
		if p.curve != curveP256 && p.curve != curveP384 || p.key == nil {
			return refuse(n.curve, detail{Err: fmt.Errorf("%s is on another curve", what), Expected: "P-256 or P-384", Got: curveName(p.curve)})
		}
		return nil
	}
	if p.bits < minRSABits {
		return refuse(n.size, detail{Err: fmt.Errorf("%s is too short", what), Expected: fmt.Sprintf("%d bits or more", minRSABits), Got: fmt.Sprintf("%d bits", p.bits)})
	}
	if k, ok := p.key.(*rsa.PublicKey); !ok || rocaWeak(k) {
		return refuse(n.roca, detail{
			Err: fmt.Errorf("%s was made by the key generator of CVE-2017-15361: its private key can be computed", what), Hint: "update the TPM's firmware and make new keys, or use ECC keys",
		})
	}
	return nil
}

// checkAK demands a key that signs nothing but what its TPM made.
func checkAK(p *public) error {
	for _, a := range []struct {
		attr  uint32
		check string
		err   string
	}{
		{attrRestricted, CheckAKRestricted, "the AK is not restricted: it would sign a quote that its owner made up"},
		{attrSign, CheckAKSign, "the AK is not a signing key"},
		{attrFixedTPM, CheckAKFixedTPM, "the AK can leave its TPM"},
		{attrFixedParent, CheckAKFixedParent, "the AK can be moved in its TPM"},
		// This one carries the others. Below a derivation parent, TPM2_CreateLoaded makes
		// a restricted and an unrestricted key that are the same key; what the second
		// signs, the first vouches for. Only here do they differ: the TPM refuses to
		// derive a key that has it.
		{attrSensitiveDataOrigin, CheckAKSensitiveDataOrigin, "the AK was imported or derived: another key can be the same, and sign what its owner made up"},
	} {
		if !p.has(a.attr) {
			return refuse(a.check, detail{Err: errors.New(a.err), Got: fmt.Sprintf("attributes 0x%08x", p.attrs)})
		}
	}
	if p.attrs&attrDecrypt != 0 {
		return refuse(CheckAKNotDecrypt, detail{Err: errors.New("the AK is a decryption key too"), Got: fmt.Sprintf("attributes 0x%08x", p.attrs)})
	}
	return checkStrength("the AK", p, names{CheckAKCurve, CheckAKKeySize, CheckAKROCA})
}

// checkEK demands what every template of the EK Credential Profile has (annex B:
// L-1, L-2, and H-1 to H-7). Its authPolicy, and whether its user may authorise
// with a password, is between the TPM and its owner, and no claim.
func checkEK(p *public) error {
	const demanded = attrRestricted | attrDecrypt | attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin
	if !p.has(demanded) || p.attrs&attrSign != 0 || p.symmetric != algAES {
		return refuse(CheckEKAttributes, detail{
			Err:      errors.New("the EK is not of a template for endorsement keys"),
			Expected: "restricted, decrypt, not sign, fixedTPM, fixedParent, sensitiveDataOrigin; with AES",
			Got:      fmt.Sprintf("attributes 0x%08x, symmetric %s", p.attrs, algName(p.symmetric)),
		})
	}
	return checkStrength("the EK", p, names{CheckEKCurve, CheckEKKeySize, CheckEKROCA})
}

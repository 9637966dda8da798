package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"

	"github.com/google/go-tpm/tpm2"
)

// keyFaults are those of the keys that identify the machine: the AK, and its
// binding to the EK.
func keyFaults() []Fault {
	return []Fault{
		untrusted("ak-not-restricted", "ak_restricted", "the AK signs anything, also what looks like a quote and is none").command(
			changeTemplate(isAK, func(t *tpm2.TPMTPublic) { t.ObjectAttributes.Restricted = false })),
		untrusted("ak-not-fixed", "ak_fixed_tpm", "the AK can be duplicated into another TPM").command(
			changeTemplate(isAK, func(t *tpm2.TPMTPublic) { t.ObjectAttributes.FixedTPM, t.ObjectAttributes.FixedParent = false, false })),
		untrusted("ak-p521", "ak_curve", "the AK is on curve P-521").command(changeTemplate(isAK, func(t *tpm2.TPMTPublic) {
			*t = akTemplate(*t, tpm2.TPMAlgECC, tpm2.TPMAlgSHA256, 0)
		})),
		untrusted("ak-rsa1024", "ak_key_size", "the AK is an RSA key of 1024 bits").command(changeTemplate(isAK, func(t *tpm2.TPMTPublic) {
			*t = akTemplate(*t, tpm2.TPMAlgRSA, tpm2.TPMAlgSHA256, 1024)
		})),
		untrusted("ak-sha1", "quote_hash", "the AK signs SHA-1 digests").command(changeTemplate(isAK, func(t *tpm2.TPMTPublic) {
			*t = akTemplate(*t, tpm2.TPMAlgRSA, tpm2.TPMAlgSHA1, 2048)
		})),
		untrusted("ak-owner-hierarchy", "ak_hierarchy", "the AK is a key of the owner's: the TPM hides its clock").command(func(x *exchange) {
			if area, _, _, ok := x.template(); ok && isAK(area) && x.command.code == ccCreatePrimary {
				x.command.handles[0] = uint32(tpm2.TPMRHOwner)
			}
		}),
		activation(untrusted("ek-other-tpm", "credential_proof", "the machine shows the EK of another TPM, with a genuine certificate").certificate(
			func(p *ekPlan) (err error) {
				p.blueprint.public, err = anotherKey(p.blueprint.public)
				return err
			}).response(showOtherEK)),
		activation(untrusted("credential-flipped", "credential_proof", "the secret of the credential comes back with a wrong bit").response(func(x *exchange) {
			if x.command.code != ccActivateCredential {
				return
			}
			if secret, rest, err := take2B(x.response.parameters); err == nil {
				x.response.parameters = append(put2B(nil, flip(secret)), rest...)
			}
		})),
	}
}

// activation marks a fault that shows when the AK is activated.
func activation(f Fault) Fault {
	f.Activation = true
	return f
}

// changeTemplate changes the public area that a key is made from.
func changeTemplate(which func(*tpm2.TPMTPublic) bool, change func(*tpm2.TPMTPublic)) func(*exchange) {
	return func(x *exchange) {
		area, before, behind, ok := x.template()
		if !ok || !which(area) {
			return
		}
		change(area)
		x.retemplate(*area, before, behind)
	}
}

// akTemplate is an AK's template with the same attributes, of another kind: RSA
// of a size, or P-521.
func akTemplate(t tpm2.TPMTPublic, kind, hash tpm2.TPMAlgID, bits uint16) tpm2.TPMTPublic {
	t.Type = kind
	if kind == tpm2.TPMAlgRSA {
		t.Parameters = tpm2.NewTPMUPublicParms(kind, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTRSAScheme{
				Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash}),
			},
			KeyBits: tpm2.TPMKeyBits(bits),
		})
		t.Unique = tpm2.NewTPMUPublicID(kind, &tpm2.TPM2BPublicKeyRSA{})
		return t
	}
	t.Parameters = tpm2.NewTPMUPublicParms(kind, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
		Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
		},
		CurveID: tpm2.TPMECCNistP521,
	})
	t.Unique = tpm2.NewTPMUPublicID(kind, &tpm2.TPMSECCPoint{})
	return t
}

// showOtherEK puts the key of the certificate in NV, which is not this TPM's,
// wherever the TPM shows its endorsement key.
func showOtherEK(x *exchange) {
	var (
		public, behind, before []byte
		err                    error
	)
	switch x.command.code {
	case ccReadPublic: // outPublic, name, qualifiedName
		public, behind, err = take2B(x.response.parameters)
	case ccCreatePrimary: // outPublic, creation data, hash and ticket, name
		public, behind, err = take2B(x.response.parameters)
	default:
		return
	}
	if err != nil {
		return
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil || !isEK(area) {
		return
	}
	other, ok := x.otherEK(area)
	if !ok {
		return
	}
	name, err := tpm2.ObjectName(other)
	if err != nil {
		return
	}
	out := put2B(before, tpm2.Marshal(*other))
	if x.command.code == ccReadPublic {
		_, qualified, err := take2B(behind)
		if err != nil {
			return
		}
		x.response.parameters = append(put2B(out, name.Buffer), qualified...)
		return
	}
	own, err := tpm2.ObjectName(area)
	if err != nil || len(behind) < len(own.Buffer) {
		return
	}
	// The name is the last parameter.
	x.response.parameters = append(append(out, behind[:len(behind)-len(own.Buffer)]...), name.Buffer...)
}

// otherEK is a public area with the key of the certificate.
func (x *exchange) otherEK(area *tpm2.TPMTPublic) (*tpm2.TPMTPublic, bool) {
	for _, e := range x.tpm.eks {
		own, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public)
		if err != nil || own.Type != area.Type {
			continue
		}
		if own.Unique = area.Unique; !bytes.Equal(tpm2.Marshal(own), tpm2.Marshal(area)) {
			continue // another template's
		}
		c, err := x509.ParseCertificate(e.Certificate)
		if err != nil {
			return nil, false
		}
		out := *area
		switch key := c.PublicKey.(type) {
		case *rsa.PublicKey:
			out.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
		case *ecdsa.PublicKey:
			point, err := key.Bytes() // SEC 1, uncompressed
			if err != nil {
				return nil, false
			}
			n := (len(point) - 1) / 2
			out.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+n:]},
			})
		default:
			return nil, false
		}
		return &out, true
	}
	return nil, false
}

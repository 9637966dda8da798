package tpm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// certificateFaultList are those of the EK certificate.
func certificateFaultList() []Fault {
	return []Fault{
		untrusted("ek-no-certificate", "ek_certificate", "the manufacturer has left no EK certificate").certificate(func(p *ekPlan) error {
			p.absent = true
			return nil
		}),
		malformed("ek-certificate-garbage", "chain_parse", "what is in the EK certificate's place is none").certificate(func(p *ekPlan) error {
			p.after = append(p.after, func([]byte) []byte { return []byte("no certificate is in this place") })
			return nil
		}),
		untrusted("ek-other-authority", "ek_chain", "a manufacturer of the same name, whom nobody knows, has signed the EK certificate").certificate(func(p *ekPlan) error {
			other, err := p.authority.another()
			if err != nil {
				return err
			}
			p.issuer = other.intermediate
			from, err := certificate.AuthorityID(other.intermediate.key.Public())
			p.replace(from)
			return err
		}),
		untrusted("ek-certificate-flipped", "ek_chain", "the signature of the EK certificate has a wrong bit").certificate(func(p *ekPlan) error {
			p.after = append(p.after, func(der []byte) []byte {
				der = slices.Clone(der)
				der[len(der)-1] ^= 1
				return der
			})
			return nil
		}),
		stale("ek-certificate-expired", "ek_chain_validity", "the EK certificate has expired yesterday").certificate(func(p *ekPlan) error {
			p.blueprint.notAfter = p.authority.now().Add(-24 * time.Hour)
			return nil
		}),
		stale("ek-certificate-not-yet-valid", "ek_chain_validity", "the EK certificate is valid from tomorrow").certificate(func(p *ekPlan) error {
			p.blueprint.notBefore = p.authority.now().Add(24 * time.Hour)
			return nil
		}),
		untrusted("ek-certificate-unknown-extension", "ek_chain", "the EK certificate has a critical extension that nobody knows").certificate(func(p *ekPlan) error {
			p.blueprint.extensions = append(p.blueprint.extensions, pkix.Extension{Id: certificate.OIDUnknown, Critical: true, Value: []byte{5, 0}})
			return nil
		}),
		untrusted("ek-certificate-other-key", "ek_certificate_key", "the EK certificate is that of another TPM").certificate(func(p *ekPlan) (err error) {
			p.blueprint.public, err = anotherKey(p.blueprint.public)
			return err
		}),
		untrusted("ek-no-usage", "ek_eku", "the EK certificate doesn't say that it is one: it has no extended key usage").certificate(func(p *ekPlan) error {
			p.remove(oidExtendedUsage)
			return nil
		}),
		untrusted("ek-other-usage", "ek_eku", "the EK certificate is one for a web server").certificate(func(p *ekPlan) error {
			eku, err := extendedUsage(oidServerAuth)
			p.replace(eku)
			return err
		}),
		untrusted("ek-no-name", "ek_san", "the EK certificate doesn't say which TPM it is: it has no alternative name").certificate(func(p *ekPlan) error {
			p.remove(oidSubjectName)
			return nil
		}),
		untrusted("ek-name-without-model", "ek_san", "the EK certificate names no model").certificate(func(p *ekPlan) error {
			name, err := ekName(Manufacturer, "", Version)
			p.replace(name)
			return err
		}),
		harmless("ek-certificate-padded", "zeros follow the EK certificate, as many TPMs have it").certificate(func(p *ekPlan) error {
			p.after = append(p.after, func(der []byte) []byte { return append(slices.Clone(der), make([]byte, 64)...) })
			return nil
		}),
	}
}

// anotherKey is a key like the given one.
func anotherKey(like any) (any, error) {
	switch k := like.(type) {
	case *rsa.PublicKey:
		key, err := rsa.GenerateKey(rand.Reader, k.N.BitLen())
		if err != nil {
			return nil, fmt.Errorf("tpm: %w", err)
		}
		return key.Public(), nil
	case *ecdsa.PublicKey:
		key, err := ecdsa.GenerateKey(k.Curve, rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("tpm: %w", err)
		}
		return key.Public(), nil
	default:
		return nil, fmt.Errorf("tpm: no kind of key: %T", like)
	}
}

// remove leaves an extension out.
func (p *ekPlan) remove(id asn1.ObjectIdentifier) {
	p.blueprint.extensions = slices.DeleteFunc(p.blueprint.extensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
}

// replace exchanges an extension for another of the same kind.
func (p *ekPlan) replace(with pkix.Extension) {
	for i, e := range p.blueprint.extensions {
		if e.Id.Equal(with.Id) {
			p.blueprint.extensions[i] = with
		}
	}
}

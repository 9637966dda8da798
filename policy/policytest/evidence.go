package policytest

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// Claims are verified claims.
type Claims = attest.Claims

// VerifyEvidence is the [Verifier] of [Run]: Nitro documents and SEV-SNP reports
// under the vendor's pinned roots, or under those that the case names. A TPM's
// quote says nothing of whose its key is: `assay policy test` reads more formats,
// and here its claims are given as a file.
func VerifyEvidence(ctx context.Context, e Evidence, read Reader) (Claims, error) {
	raw, err := read(e.File)
	if err != nil {
		return Claims{}, err
	}
	var rootsPEM []byte
	if e.Roots != "" {
		if rootsPEM, err = read(e.Roots); err != nil {
			return Claims{}, err
		}
	}
	ev := attest.Evidence{Platform: e.TEE}
	var v verifiers.Verifier
	switch e.TEE {
	case attest.AWSNitro:
		v, ev.Body, err = nitroVerifier(raw, rootsPEM)
	case attest.AMDSEVSNP:
		v, ev.Body, ev.Endorsements, err = snpVerifier(raw, rootsPEM)
	default:
		err = fmt.Errorf("evidence of %s is verified by `assay policy test`: here give its claims, with file", e.TEE)
	}
	if err != nil {
		return Claims{}, err
	}
	for _, name := range e.Endorsements {
		b, err := read(name)
		if err != nil {
			return Claims{}, err
		}
		ev.Endorsements = append(ev.Endorsements, ders(b)...)
	}
	set, err := verifiers.NewSet(v)
	if err != nil {
		return Claims{}, err
	}
	c, err := set.Authenticate(ctx, ev, e.At)
	if err != nil {
		return Claims{}, err
	}
	return *c, nil
}

func nitroVerifier(raw, rootsPEM []byte) (verifiers.Verifier, []byte, error) {
	body, err := nitro.Normalize(raw)
	if err != nil {
		return nil, nil, err
	}
	roots := nitro.HardwareRoots()
	if rootsPEM != nil {
		if roots, err = nitro.SimulatedRoots(rootsPEM); err != nil {
			return nil, nil, err
		}
	}
	v, err := nitro.New(roots)
	return v, body, err
}

func snpVerifier(raw, rootsPEM []byte) (verifiers.Verifier, []byte, [][]byte, error) {
	body, beside, err := sevsnp.Normalize(raw)
	if err != nil {
		return nil, nil, nil, err
	}
	roots := sevsnp.HardwareRoots()
	if rootsPEM != nil {
		if roots, err = sevsnp.SimulatedRoots(rootsPEM); err != nil {
			return nil, nil, nil, err
		}
	}
	v, err := sevsnp.New(roots)
	return v, body, beside, err
}

// ders takes PEM apart; what is no PEM is one DER.
func ders(b []byte) [][]byte {
	var out [][]byte
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		out = append(out, block.Bytes)
	}
	if len(out) > 0 {
		return out
	}
	if cs, err := x509.ParseCertificates(b); err == nil {
		for _, c := range cs {
			out = append(out, c.Raw)
		}
		return out
	}
	return [][]byte{b}
}

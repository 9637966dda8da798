package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// maxCSR is larger than any request for the largest key that is taken (RSA
// 4096 with a few attributes: 2 KiB).
const maxCSR = 4 << 10 // bytes

// csrAlgorithms are the signatures that prove possession. The list is closed:
// crypto/x509 would still take SHA-1 in a certificate request.
var csrAlgorithms = map[x509.SignatureAlgorithm]bool{
	x509.ECDSAWithSHA256: true, x509.ECDSAWithSHA384: true, x509.ECDSAWithSHA512: true,
	x509.PureEd25519:   true,
	x509.SHA256WithRSA: true, x509.SHA384WithRSA: true, x509.SHA512WithRSA: true,
	x509.SHA256WithRSAPSS: true, x509.SHA384WithRSAPSS: true, x509.SHA512WithRSAPSS: true,
}

// keyFromCSR returns the public key of a PKCS#10 request (RFC 2986) as DER
// SubjectPublicKeyInfo, after the request's own signature has proved that the
// sender holds the private key. Subject, attributes and extensions are not
// read. The checks: csr_structure, csr_key_type (malformed), csr_signature
// (untrusted).
func keyFromCSR(der []byte) ([]byte, error) {
	if len(der) == 0 || len(der) > maxCSR {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "csr_structure", Err: errors.New("the certificate request has a wrong size"),
			Expected: fmt.Sprintf("1 to %d bytes", maxCSR), Got: fmt.Sprintf("%d", len(der)),
		}
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, &attest.Error{Kind: attest.Malformed, Check: "csr_structure", Err: err}
	}
	if err := checkKeyType(csr.PublicKey); err != nil {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "csr_key_type", Err: err,
			Expected: "P-256, P-384, Ed25519 or RSA 2048 to 4096",
		}
	}
	// One key has one encoding, so that comparing bytes compares keys.
	spki, err := x509.MarshalPKIXPublicKey(csr.PublicKey)
	if err != nil || !bytes.Equal(spki, csr.RawSubjectPublicKeyInfo) {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "csr_structure", Err: errors.New("the public key is not in its canonical encoding"),
		}
	}
	if !csrAlgorithms[csr.SignatureAlgorithm] {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "csr_key_type", Err: errors.New("signature algorithm not accepted"),
			Expected: "ECDSA or RSA with SHA-256, 384 or 512, or Ed25519", Got: csr.SignatureAlgorithm.String(),
		}
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, &attest.Error{
			Kind: attest.Untrusted, Check: "csr_signature", Err: errors.New("the certificate request is not signed by its own key"),
		}
	}
	return spki, nil
}

// checkKeyType admits the keys that an SVID may have.
func checkKeyType(pub any) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("elliptic curve %s", k.Params().Name)
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("RSA with %d bits", n)
		}
		// FIPS 186-5, section 5.4: 2^16 < e, odd. Large ones only cost time.
		if k.E < 1<<16+1 || k.E%2 == 0 {
			return fmt.Errorf("RSA with exponent %d", k.E)
		}
		return nil
	}
	return fmt.Errorf("a key of type %T", pub)
}

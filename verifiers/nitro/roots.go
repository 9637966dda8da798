package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// AWSRootG1SHA256 is the SHA-256 of the DER of the AWS Nitro Enclaves root
// certificate G1, as AWS publishes it ("Verifying the root of trust", AWS Nitro
// Enclaves user guide). It is the fingerprint of the certificate, not of the
// downloaded archive or of the PEM text.
const AWSRootG1SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

//go:embed aws_root_g1.pem
var awsRootG1PEM []byte

// Roots are the certificates that a chain may begin with. They are all of AWS,
// or all of a simulator, and never both. The zero Roots is refused by [New].
type Roots struct {
	pinned    map[[sha256.Size]byte]*x509.Certificate
	simulated bool
}

// HardwareRoots returns the AWS Nitro Enclaves root G1, which is built in and
// whose fingerprint is [AWSRootG1SHA256]. Should the two ever disagree, the
// result is empty, and New refuses it.
func HardwareRoots() Roots {
	c, err := awsRoot()
	if err != nil {
		return Roots{}
	}
	return Roots{pinned: map[[sha256.Size]byte]*x509.Certificate{sha256.Sum256(c.Raw): c}}
}

// SimulatedRoots reads a simulator's roots from PEM. Each must be a self-signed
// CA on P-384 with SHA-384, as AWS's is, and none may be AWS's own: evidence of
// real hardware is never accepted as simulated.
func SimulatedRoots(pemBytes []byte) (Roots, error) {
	aws, err := awsRoot()
	if err != nil {
		return Roots{}, err
	}
	r := Roots{pinned: make(map[[sha256.Size]byte]*x509.Certificate), simulated: true}
	for rest := pemBytes; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			if len(bytes.TrimSpace(rest)) != 0 {
				return Roots{}, errors.New("nitro: simulated roots: text that is not PEM")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return Roots{}, fmt.Errorf("nitro: simulated roots: PEM block %.40q, want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Roots{}, fmt.Errorf("nitro: simulated roots: %w", err)
		}
		if bytes.Equal(c.Raw, aws.Raw) || bytes.Equal(c.RawSubjectPublicKeyInfo, aws.RawSubjectPublicKeyInfo) {
			return Roots{}, errors.New("nitro: simulated roots: this is the root of AWS: a simulated trust domain never accepts hardware's")
		}
		if err := checkRoot(c); err != nil {
			return Roots{}, fmt.Errorf("nitro: simulated roots: %q: %w", c.Subject.String(), err)
		}
		r.pinned[sha256.Sum256(c.Raw)] = c
	}
	if len(r.pinned) == 0 {
		return Roots{}, errors.New("nitro: simulated roots: no certificate")
	}
	return r, nil
}

// Simulated reports whether these are a simulator's roots.
func (r Roots) Simulated() bool { return r.simulated }

// Fingerprints returns the SHA-256 of each root's DER, in lower-case hex.
func (r Roots) Fingerprints() []string {
	out := make([]string, 0, len(r.pinned))
	for sum := range r.pinned {
		out = append(out, hex.EncodeToString(sum[:]))
	}
	return out
}

// awsRoot parses the built-in root and holds it against its fingerprint.
func awsRoot() (*x509.Certificate, error) {
	block, _ := pem.Decode(awsRootG1PEM)
	if block == nil {
		return nil, errors.New("nitro: the built-in root is not PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	if got := hex.EncodeToString(sum[:]); got != AWSRootG1SHA256 {
		return nil, fmt.Errorf("nitro: the built-in root has fingerprint %s, want %s", got, AWSRootG1SHA256)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("nitro: the built-in root: %w", err)
	}
	return c, checkRoot(c)
}

// checkRoot demands of a root what [Verifier] demands of every CA in a chain,
// and that it signed itself.
func checkRoot(c *x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("not a CA certificate with key usage keyCertSign")
	case !isP384(c) || c.SignatureAlgorithm != x509.ECDSAWithSHA384:
		return errors.New("not ECDSA on P-384 with SHA-384")
	case !bytes.Equal(c.RawIssuer, c.RawSubject):
		return errors.New("not self-signed: issuer and subject differ")
	}
	if err := refusedExtension(c); err != nil {
		return err
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return fmt.Errorf("not self-signed: %w", err)
	}
	return nil
}

// isP384 reports whether the certificate's key is ECDSA on P-384.
func isP384(c *x509.Certificate) bool {
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	return ok && k.Curve == elliptic.P384()
}

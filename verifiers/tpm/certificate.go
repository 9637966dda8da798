package tpm

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// ekCertificate verifies the certificate of an EK: that it is this key's, what it
// says of its TPM, and its chain to a manufacturer's root. Where the operator vouches
// for the EK by itself (inventoried), a certificate that is not of the TCG's
// profile, or has no pinned root above it, says nothing: it returns nil without an
// error.
func (v *Verifier) ekCertificate(der []byte, ek *public, along *along, inventoried bool, at time.Time, f *fresh) (*attest.EKCertificate, error) {
	sum := digestOf("ek certificate", der)
	if known := v.cache.certificate(sum, at); known != nil && known.key == ek.digest() {
		return known.ek, nil
	}
	c, err := parseDER(der)
	if err != nil {
		return nil, refuse(CheckChainParse, detail{Err: fmt.Errorf("the EK certificate: %w", err), Got: check.ClipHex(der)})
	}
	if !sameKey(c, ek) {
		return nil, refuse(CheckEKCertificateKey, detail{Err: errors.New("the EK certificate is for another key"), Got: fmt.Sprintf("%.120q", c.Subject.String())})
	}
	if c.IsCA || !hasUsage(c, oidEKCert) {
		if inventoried {
			return nil, nil
		}
		return nil, refuse(CheckEKEKU, detail{Err: errors.New("the certificate is not one of an endorsement key"), Expected: "not a CA, extended key usage 2.23.133.8.1"})
	}
	says, err := tpmNames(c)
	if err != nil {
		if inventoried {
			return nil, nil
		}
		return nil, refuse(CheckEKSAN, detail{Err: err, Expected: "manufacturer, model and version in a directory name"})
	}
	if err := checkExtensions(c, true); err != nil {
		return nil, refuse(CheckEKChain, detail{Err: fmt.Errorf("the EK certificate: %w", err)})
	}
	certs, err := along.parsed()
	if err != nil {
		return nil, err
	}
	res, wrong, stale := v.verifyChain(manufacturers, c, certs, at)
	switch {
	case errors.Is(wrong, errNoAnchor) && inventoried:
		return nil, nil
	case wrong != nil:
		return nil, refuse(CheckEKChain, detail{
			Err: fmt.Errorf("the EK certificate: %w", wrong), Expected: "a chain to a pinned manufacturer's root", Got: fmt.Sprintf("issued by %.120q", c.Issuer.String()),
			Hint: "add the manufacturer's root to the server's directory of TPM roots, or the EK to the inventory; bring the intermediates along as endorsements",
		})
	case stale != nil:
		return nil, refuse(CheckEKChainValidity, detail{Err: stale, Hint: "a recorded quote is verified with the time at which it was recorded"})
	}
	says.Issuer = res.root.Subject.CommonName
	f.certificate(sum, &vouched{key: ek.digest(), ek: says, notBefore: res.notBefore, notAfter: res.notAfter})
	return says, nil
}

// akCertificate verifies a cloud's certificate for an AK, and returns the
// instance that it names.
func (v *Verifier) akCertificate(der []byte, ak *public, along *along, at time.Time, f *fresh) (*attest.CloudInstance, error) {
	sum := digestOf("ak certificate", der)
	if known := v.cache.certificate(sum, at); known != nil && known.key == ak.digest() {
		return known.cloud, nil
	}
	c, err := parseDER(der)
	if err != nil {
		return nil, refuse(CheckChainParse, detail{Err: fmt.Errorf("the AK certificate: %w", err), Got: check.ClipHex(der)})
	}
	if !sameKey(c, ak) {
		return nil, refuse(CheckAKCertificateKey, detail{
			Err: errors.New("the AK certificate is for another key"), Got: fmt.Sprintf("%.120q", c.Subject.String()), Hint: "quote with the key that the cloud certified, or activate this one",
		})
	}
	// Google's certificates for AKs have the usage of EK certificates, or none.
	aik := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || hasUsage(c, oidAIKCert) || hasUsage(c, oidEKCert)
	if c.IsCA || c.KeyUsage&x509.KeyUsageDigitalSignature == 0 || !aik {
		return nil, refuse(CheckAKCertificateUsage, detail{
			Err: errors.New("the certificate is not one of an attestation key"), Expected: "not a CA, key usage digitalSignature, no extended key usage, or 2.23.133.8.3 or 2.23.133.8.1",
		})
	}
	if err := checkExtensions(c, true); err != nil {
		return nil, refuse(CheckAKChain, detail{Err: fmt.Errorf("the AK certificate: %w", err)})
	}
	certs, err := along.parsed()
	if err != nil {
		return nil, err
	}
	res, provider, err := v.cloudChain(c, certs, at)
	if err != nil {
		return nil, err
	}
	var cloud *attest.CloudInstance
	if err := v.guard(func() (err error) {
		cloud, err = instanceOf(provider, c)
		return err
	}); attest.CheckOf(err) == CheckPanic {
		return nil, err
	} else if err != nil {
		return nil, refuse(CheckAKCertificateInstance, detail{Err: err, Got: fmt.Sprintf("%.120q", c.Subject.String())})
	}
	f.certificate(sum, &vouched{key: ak.digest(), cloud: cloud, notBefore: res.notBefore, notAfter: res.notAfter})
	return cloud, nil
}

// cloudChain verifies an AK certificate under the roots of each cloud in turn. A
// certificate means what the cloud whose root it is under says, and nothing that
// it says itself.
func (v *Verifier) cloudChain(c *x509.Certificate, certs []*x509.Certificate, at time.Time) (chainResult, string, error) {
	wrong := errNoAnchor
	for _, provider := range v.roots.providers() {
		res, bad, stale := v.verifyChain(provider, c, certs, at)
		switch {
		case bad == nil && stale == nil:
			return res, provider, nil
		case stale != nil:
			return chainResult{}, "", refuse(CheckAKChainValidity, detail{Err: stale, Hint: "renew the certificate; a recorded quote is verified with the time at which it was recorded"})
		case !errors.Is(bad, errNoAnchor):
			wrong = bad
		}
	}
	return chainResult{}, "", refuse(CheckAKChain, detail{
		Err: fmt.Errorf("the AK certificate: %w", wrong), Expected: "a chain to a pinned root of a cloud", Got: fmt.Sprintf("issued by %.120q", c.Issuer.String()),
		Hint: "add the cloud's root to the server's directory of TPM roots; bring the intermediates along as endorsements",
	})
}

func (f *fresh) certificate(sum digest, v *vouched) {
	if f.certs == nil {
		f.certs = make(map[digest]*vouched, 2)
	}
	f.certs[sum] = v
}

// along are the endorsements, which are parsed when they are needed.
type along struct {
	der   [][]byte
	certs []*x509.Certificate
}

func (a *along) parsed() ([]*x509.Certificate, error) {
	if a.certs != nil || len(a.der) == 0 {
		return a.certs, nil
	}
	var err error
	a.certs, err = parseAlong(a.der)
	return a.certs, err
}

// oidOAEP is id-RSAES-OAEP (RFC 4055): older TPMs' EK certificates name their key
// so, and crypto/x509 does not read it.
var oidOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}

// sameKey reports whether a certificate is for a key.
func sameKey(c *x509.Certificate, p *public) bool {
	if k, ok := p.key.(*rsa.PublicKey); ok {
		if c.PublicKeyAlgorithm == x509.UnknownPublicKeyAlgorithm {
			n := oaepKey(c.RawSubjectPublicKeyInfo)
			return n != nil && n.Equal(k)
		}
		return k.Equal(c.PublicKey)
	}
	spki, err := x509.MarshalPKIXPublicKey(c.PublicKey)
	return err == nil && string(spki) == string(p.spki)
}

// oaepKey reads an RSA key whose algorithm is id-RSAES-OAEP.
func oaepKey(spki []byte) *rsa.PublicKey {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &info); err != nil || len(rest) != 0 || !info.Algorithm.Algorithm.Equal(oidOAEP) {
		return nil
	}
	k, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	if err != nil {
		return nil
	}
	return k
}

// Attributes of a TPM in the subject alternative name of its EK certificate (TCG
// EK Credential Profile, section 3.1.2).
var (
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

const maxTPMName = 128 // bytes of a model or version

var manufacturerID = regexp.MustCompile(`^id:[0-9A-Fa-f]{8}$`)

// tpmNames reads who made the TPM.
func tpmNames(c *x509.Certificate) (*attest.EKCertificate, error) {
	var san []byte
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSAN) { // crypto/x509 refuses a second one
			san = e.Value
		}
	}
	if san == nil {
		return nil, errors.New("the EK certificate has no subject alternative name")
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(san, &names); err != nil || len(rest) != 0 {
		return nil, errors.New("the subject alternative name cannot be read")
	}
	found := make(map[string][]string)
	for _, n := range names {
		if n.Class != asn1.ClassContextSpecific || n.Tag != 4 { // directoryName
			continue
		}
		var dn pkix.RDNSequence
		if rest, err := asn1.Unmarshal(n.Bytes, &dn); err != nil || len(rest) != 0 {
			return nil, errors.New("the directory name cannot be read")
		}
		for _, set := range dn {
			for _, a := range set {
				if s, ok := a.Value.(string); ok {
					found[a.Type.String()] = append(found[a.Type.String()], s)
				}
			}
		}
	}
	out := &attest.EKCertificate{}
	for _, a := range []struct {
		what string
		oid  asn1.ObjectIdentifier
		to   *string
	}{{"manufacturer", oidManufacturer, &out.Manufacturer}, {"model", oidModel, &out.Model}, {"version", oidVersion, &out.Version}} {
		values := found[a.oid.String()]
		if len(values) != 1 || values[0] == "" || len(values[0]) > maxTPMName {
			return nil, fmt.Errorf("the EK certificate names the TPM's %s %d times, or not in 1 to %d bytes", a.what, len(values), maxTPMName)
		}
		*a.to = values[0]
	}
	if !manufacturerID.MatchString(out.Manufacturer) {
		return nil, fmt.Errorf("the manufacturer %.40q is not an identifier such as id:494E5443", out.Manufacturer)
	}
	return out, nil
}

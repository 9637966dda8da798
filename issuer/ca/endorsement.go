package ca

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys"
)

// Member is a server of the trust domain, as the bootstrap root says it. What it
// signs with Key (rows of authorities, checkpoints of its chain) others believe.
type Member struct {
	Name string // of its chain, and in its authorities' rows
	Key  ed25519.PublicKey
	// JoinedAt is when its endorsement begins, which the root has signed; a row's
	// own time counts for nothing.
	JoinedAt time.Time
}

// oidTrustAnchorConfigSigning is id-kp-trustAnchorConfigSigning (RFC 9809,
// section 3): what the key signs becomes what others trust. As the one extended
// key usage, and critical, it keeps an endorsement from being taken for a
// server's or a client's TLS certificate, which the same root signs.
var oidTrustAnchorConfigSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 42}

// endorse makes the certificate by which the bootstrap root says that a server of
// that name, with that checkpoint key, belongs to the trust domain. It ends with
// the root.
func endorse(td spiffeid.TrustDomain, server string, key crypto.PublicKey, root *x509.Certificate, signer crypto.Signer, now time.Time) ([]byte, error) {
	if err := checkServerName(server); err != nil {
		return nil, err
	}
	if !keys.Ed25519.Is(key) {
		return nil, fault("endorsement_key", fmt.Errorf("the checkpoint key is a %T, want Ed25519", key), "")
	}
	if !samePublic(root.PublicKey, signer.Public()) {
		return nil, fault("endorsement_root", errors.New("the key is not the bootstrap root's"), "bring the key that belongs to "+bootstrapRootFile)
	}
	// ExtraExtensions, because crypto/x509 writes an extended key usage that is
	// not critical.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTrustAnchorConfigSigning})
	if err != nil {
		return nil, fault("endorsement", err, "")
	}
	id := spiffeid.RequireFromPath(td, ServerPath)
	t := &x509.Certificate{
		SerialNumber:          randomSerial(),
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: server},
		NotBefore:             later(now.UTC().Add(-maxBackdate), root.NotBefore).Truncate(time.Second),
		NotAfter:              root.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtraExtensions:       []pkix.Extension{{Id: oidExtKeyUsage, Critical: true, Value: usage}},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root, key, signer)
	if err != nil {
		return nil, fault("endorsement", err, "")
	}
	if _, err := checkEndorsement(der, td, server, root, now); err != nil {
		return nil, err
	}
	return der, nil
}

// checkEndorsement reads an endorsement of the server with that name, and believes
// nothing but the root's signature. The checks:
//
//	endorsement_der        it is one certificate
//	endorsement_signature  the bootstrap root made it
//	endorsement_validity   it and the root are valid at that time
//	endorsement_usage      it is for a key that signs records: no CA, no TLS
//	endorsement_name       it is for this server of this trust domain
//	endorsement_key        the key is Ed25519
func checkEndorsement(der []byte, td spiffeid.TrustDomain, server string, root *x509.Certificate, at time.Time) (Member, error) {
	bad := func(check, format string, args ...any) (Member, error) {
		return Member{}, &attest.Error{Kind: attest.Untrusted, Check: check, Err: fmt.Errorf("the endorsement of the server %.80q: %w", server, fmt.Errorf(format, args...)),
			Hint: "a server joins with `assayd join`; an endorsement that the bootstrap root did not make was put into the database by somebody else"}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return bad("endorsement_der", "%w", err)
	}
	if !bytes.Equal(cert.RawIssuer, root.RawSubject) {
		return bad("endorsement_signature", "its issuer is %q, not the bootstrap root", cert.Issuer)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return bad("endorsement_signature", "not made by the bootstrap root: %w", err)
	}
	for _, c := range []*x509.Certificate{cert, root} {
		if at.Before(c.NotBefore) || !at.Before(c.NotAfter) {
			return bad("endorsement_validity", "%q is valid from %s until %s", c.Subject.CommonName, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
	}
	if err := checkEndorsementUsage(cert); err != nil {
		return bad("endorsement_usage", "%w", err)
	}
	if cert.Subject.CommonName != server || len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] != td.Name() {
		return bad("endorsement_name", "it is for %q", cert.Subject)
	}
	if id := spiffeid.RequireFromPath(td, ServerPath).String(); len(cert.URIs) != 1 || cert.URIs[0].String() != id {
		return bad("endorsement_name", "it names %v, want %s alone", cert.URIs, id)
	}
	if err := checkServerName(server); err != nil {
		return bad("endorsement_name", "%w", err)
	}
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return bad("endorsement_key", "its key is a %T, want Ed25519", cert.PublicKey)
	}
	return Member{Name: server, Key: key, JoinedAt: cert.NotBefore}, nil
}

func checkEndorsementUsage(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || cert.IsCA:
		return errors.New("want basicConstraints, CA:FALSE")
	case cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("want keyUsage digitalSignature alone")
	case len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(oidTrustAnchorConfigSigning):
		return errors.New("want extKeyUsage trustAnchorConfigSigning alone")
	case len(cert.UnhandledCriticalExtensions) != 0:
		return fmt.Errorf("it has critical extensions that mean nothing here: %v", cert.UnhandledCriticalExtensions)
	}
	return nil
}

// maxServerName is as in the configuration: a label of DNS.
const maxServerName = 63

// checkServerName accepts the name of a server.
func checkServerName(name string) error {
	ok := name != "" && len(name) <= maxServerName
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fault("server_name", fmt.Errorf("%.80q is not the name of a server", name), "1 to 63 of a-z, 0-9 and '-'")
	}
	return nil
}

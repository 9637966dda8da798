package svid

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
)

// maxChain bounds the certificates that a peer may send.
const maxChain = 8

// Attested is an SVID that holds with its attestation result: a certificate, or a
// token. Only [Verify], [VerifyJWT] and what calls them make one.
type Attested struct {
	ID          spiffeid.ID       `json:"id"`
	Certificate *x509.Certificate `json:"-"`               // the leaf; nil for a token
	Token       *Token            `json:"token,omitempty"` // nil for a certificate
	Result      Result            `json:"result"`
	VerifierKey Thumbprint        `json:"verifier_key,omitzero"` // of the key that signed the result; zero for a token
	VerifiedAt  time.Time         `json:"verified_at"`

	chain []*x509.Certificate // what was verified, leaf first; nil for a token
}

// Serial is the serial number of the certificate, or of the one that asked for
// the token: 32 digits of lower-case hex, as in the issuer's ledger.
func (a *Attested) Serial() string {
	switch {
	case a != nil && a.Token != nil:
		return a.Token.Serial
	case a != nil && a.Certificate != nil && a.Certificate.SerialNumber != nil:
		return fmt.Sprintf("%032x", a.Certificate.SerialNumber)
	}
	return ""
}

// Verify checks an attested SVID: chain is the peer's certificates, leaf first,
// as in [crypto/tls.ConnectionState.PeerCertificates]; src what is trusted; at
// the relying party's time. It returns an Attested that satisfies every
// requirement, or an *[attest.Error], never both. Two things are refused
// although nobody asks: a simulated result, unless [Simulated] does ask for it,
// and one whose status is Contraindicated, unless [MinTier] does. The checks,
// in order:
//
//	chain_size           Malformed: 1 to 8 certificates
//	leaf_id              Untrusted: exactly one URI SAN, a SPIFFE ID with a path, of at most 2048 bytes, not /assay/…
//	leaf_ca              Untrusted: not a CA, no certificate or CRL signing
//	leaf_key_usage       Untrusted: digitalSignature; no extended usage, or serverAuth and clientAuth
//	verifier_keys        Untrusted: there are verifier keys for the trust domain (Unavailable: not yet)
//	verifier_keys_…      Stale: their document is current
//	bundle               Untrusted: there is a bundle for the ID's trust domain
//	chain_key            Untrusted: no RSA key is so large that it costs more than it says
//	chain_validity       Stale: every certificate is valid at the time
//	chain                Untrusted: the chain ends in the bundle
//	result_…             one non-critical extension with a CMW record (see ResultFrom)
//	cose_…, claims_…     Malformed: the structure of the result
//	verifier_key         Untrusted: the result names one of them
//	result_signature     Untrusted: and is signed by it
//	verifier_key_window  Untrusted: and was issued while that key was in use
//	result_issuer        Untrusted: iss is the ID's trust domain
//	result_subject       Untrusted: sub is the ID
//	result_key           Untrusted: cnf is the thumbprint of the leaf's key
//	result_validity      Untrusted: the result covers the certificate's NotAfter
//	simulated_domain     Untrusted: simulated if, and only if, the trust domain is
//	result_future        Stale: not issued more than MaxClockSkew ahead
//	result_expired       Stale: not expired
//	simulated            Denied: not simulated, or asked for by name
//	(requirements)       each under its own name
func Verify(chain []*x509.Certificate, src Source, at time.Time, require ...Requirement) (*Attested, error) {
	if src == nil || at.IsZero() {
		return nil, fail(attest.Internal, "verify", "a source and a time are needed")
	}
	id, err := leafID(chain)
	if err != nil {
		return nil, err
	}
	// Whoever federates with us chooses the authorities of its bundle, and a stranger
	// may name any of them: no signature is checked for a trust domain whose
	// attestation would not count.
	keys, err := keysOf(src, id.TrustDomain())
	if err != nil {
		return nil, err
	}
	if err := keys.current(at); err != nil {
		return nil, err
	}
	if err := verifyChain(chain, id.TrustDomain(), src, at); err != nil {
		return nil, err
	}
	a := &Attested{ID: id, Certificate: chain[0], VerifiedAt: at, chain: chain}
	if err := a.verifyResult(keys, memoryOf(src)); err != nil {
		return nil, err
	}
	if err := a.Check(at, require...); err != nil {
		return nil, err
	}
	return a, nil
}

// leafID makes the checks that need no key: those rules of the X509-SVID
// specification about a leaf that go-spiffe leaves to others (sections 2, 4.3 and 5.2).
func leafID(chain []*x509.Certificate) (spiffeid.ID, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return spiffeid.ID{}, fail(attest.Malformed, "chain_size", "%d certificates, want 1 to %d", len(chain), maxChain)
	}
	for _, c := range chain {
		if c == nil {
			return spiffeid.ID{}, fail(attest.Malformed, "chain_size", "a certificate is missing")
		}
	}
	leaf := chain[0]
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_id", "%w", err)
	}
	if id.Path() == "" {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_id", "%s has no path: it names a trust domain, not a workload", id)
	}
	if id.Path() == "/assay" || strings.HasPrefix(id.Path(), "/assay/") {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_id", "%s is a name of the service itself, which nobody attests", id)
	}
	if err := spelled(leaf, id); err != nil {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_id", "%w", err)
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_ca", "the leaf certificate may sign certificates or CRLs")
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_key_usage", "the leaf certificate lacks key usage digitalSignature")
	}
	if n := len(leaf.ExtKeyUsage) + len(leaf.UnknownExtKeyUsage); n > 0 &&
		(!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth)) {
		return spiffeid.ID{}, fail(attest.Untrusted, "leaf_key_usage", "the leaf certificate has extended key usages, and serverAuth and clientAuth are not both among them")
	}
	if k, ok := leaf.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSA {
		return spiffeid.ID{}, fail(attest.Untrusted, "chain_key", "the leaf's RSA key has %d bits, want at least %d", k.N.BitLen(), minRSA)
	}
	return id, nil
}

// maxID is the greatest length of a SPIFFE ID, in bytes (SPIFFE-ID, section 2.3).
const maxID = 2048

// spelled reports an error unless the certificate spells the ID as it is. What
// go-spiffe reads went through a URL, where SPIFFE:// is spiffe:// and an empty
// fragment is nothing: another library may read another ID, or none.
func spelled(leaf *x509.Certificate, id spiffeid.ID) error {
	text := id.String()
	if len(text) > maxID {
		return fmt.Errorf("the SPIFFE ID has %d bytes, at most %d are allowed", len(text), maxID)
	}
	subjectAltName := asn1.ObjectIdentifier{2, 5, 29, 17}
	const uri = 6 // GeneralName (RFC 5280, section 4.2.1.6)
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(subjectAltName) {
			continue
		}
		var names, name asn1.RawValue
		_, err := asn1.Unmarshal(e.Value, &names)
		for rest := names.Bytes; err == nil && len(rest) > 0; {
			rest, err = asn1.Unmarshal(rest, &name)
			if err == nil && name.Class == asn1.ClassContextSpecific && name.Tag == uri && string(name.Bytes) == text {
				return nil
			}
		}
	}
	return fmt.Errorf("the certificate does not spell it %s", text)
}

// verifyChain checks that the chain ends in the bundle of the trust domain: by
// go-spiffe.
func verifyChain(chain []*x509.Certificate, td spiffeid.TrustDomain, src Source, at time.Time) error {
	bundle, err := src.GetX509BundleForTrustDomain(td)
	if err == nil && bundle == nil {
		err = errors.New("the source returned nothing")
	}
	if err != nil {
		return fail(attest.Untrusted, "bundle", "no X.509 bundle for %s: %w", td, err)
	}
	var seen *chains
	if s, ok := src.(interface{ chains() *chains }); ok {
		seen = s.chains()
	}
	if err := verifyPath(chain, bundle, seen, at); err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			return fail(attest.Stale, "chain_validity", "%w", err)
		}
		return err
	}
	return nil
}

// verifyPath is go-spiffe's verification, or the memory of one that had the same
// certificates and the same bundle before it.
func verifyPath(chain []*x509.Certificate, bundle *x509bundle.Bundle, seen *chains, at time.Time) error {
	var id [sha256.Size]byte
	if seen != nil {
		id = chainKey(chain, bundle)
		if windows, ok := seen.get(id); ok && within(windows, at) {
			return nil
		}
	}
	for _, c := range slices.Concat(chain, bundle.X509Authorities()) {
		if err := sizedRSA(c.PublicKey); err != nil {
			return fail(attest.Untrusted, "chain_key", "%w", err)
		}
	}
	_, paths, err := x509svid.Verify(chain, bundle, x509svid.WithTime(at))
	if err != nil {
		return fail(attest.Untrusted, "chain", "%w", err)
	}
	if seen != nil {
		seen.set(id, windowsOf(paths))
	}
	return nil
}

// keysOf asks the source for the keys of a trust domain. Checks:
// verifier_keys, Untrusted, or Unavailable where the source says so: a [Keyring]
// of the trust domain that holds none yet.
func keysOf(src VerifierKeysSource, td spiffeid.TrustDomain) (*VerifierKeys, error) {
	keys, err := src.VerifierKeys(td)
	if err == nil && (keys == nil || keys.TrustDomain != td) {
		err = errNoKeys
	}
	if attest.KindOf(err) == attest.Unavailable {
		return nil, err
	}
	if err != nil {
		return nil, fail(attest.Untrusted, "verifier_keys", "%s: %w", td, err)
	}
	return keys, nil
}

// memoryOf is the source's memory of good signatures, or nil.
func memoryOf(src Source) *signatures {
	if s, ok := src.(interface{ signatures() *signatures }); ok {
		return s.signatures()
	}
	return nil
}

// verifyResult checks the result that the certificate carries, and that it is
// about this certificate. The keys are current.
func (a *Attested) verifyResult(keys *VerifierKeys, seen *signatures) error {
	u, err := ResultFrom(a.Certificate)
	if err != nil {
		return err
	}
	key, ok := keys.find(u.KeyID)
	if !ok {
		err := fail(attest.Untrusted, "verifier_key", "signed by key %s, which is none of the verifier keys of %s (sequence %d)", u.KeyID, keys.TrustDomain, keys.Sequence)
		err.Hint = "if the issuer has rotated its verifier key, fetch the current verifier-keys document"
		return err
	}
	if err := u.verifySignature(seen, key); err != nil {
		return fail(attest.Untrusted, "result_signature", "%w", err)
	}
	r := &u.Result
	if r.IssuedAt.Before(key.NotBefore) || !r.IssuedAt.Before(key.NotAfter) {
		return fail(attest.Untrusted, "verifier_key_window", "issued at %s by a verifier key that is good from %s to %s",
			stamp(r.IssuedAt), stamp(key.NotBefore), stamp(key.NotAfter))
	}
	if err := a.about(r); err != nil {
		return err
	}
	a.Result, a.VerifierKey = *r, u.KeyID
	return nil
}

// about checks that the result speaks of this certificate.
func (a *Attested) about(r *Result) error {
	if want := a.ID.TrustDomain().IDString(); r.Issuer != want {
		return mismatch(attest.Untrusted, "result_issuer", "the result is of another trust domain", want, r.Issuer)
	}
	if want := a.ID.String(); r.Subject != want {
		return mismatch(attest.Untrusted, "result_subject", "the result is about another SPIFFE ID", want, r.Subject)
	}
	thumb, err := ThumbprintOf(a.Certificate.PublicKey)
	if err != nil {
		return fail(attest.Untrusted, "result_key", "%w", err)
	}
	if r.KeyThumbprint != thumb {
		return mismatch(attest.Untrusted, "result_key", "the result is about another key", thumb.String(), r.KeyThumbprint.String())
	}
	if a.Certificate.NotAfter.After(r.Expiry) {
		return fail(attest.Untrusted, "result_validity", "the certificate is valid until %s, the result only until %s", stamp(a.Certificate.NotAfter), stamp(r.Expiry))
	}
	if simulated := IsSimulated(a.ID.TrustDomain()); simulated != r.Simulated {
		return fail(attest.Untrusted, "simulated_domain", "the result says simulated: %t, and the trust domain's name says %t", r.Simulated, simulated)
	}
	return nil
}

// Check makes again those checks of [Verify] that time can change without any
// new bytes arriving: validity and requirements. A handshake is not a lease: a
// server that keeps connections calls it for each request, or Verify itself,
// which also notices a changed bundle and withdrawn verifier keys.
func (a *Attested) Check(at time.Time, require ...Requirement) error {
	if a == nil || (a.Certificate == nil) == (a.Token == nil) {
		return fail(attest.Internal, "verify", "not the result of a verification")
	}
	if a.Token != nil {
		if err := a.Token.current(at); err != nil {
			return err
		}
		return a.satisfies(at, require)
	}
	if at.Before(a.Certificate.NotBefore) || at.After(a.Certificate.NotAfter) {
		return fail(attest.Stale, "chain_validity", "the certificate is valid from %s to %s", stamp(a.Certificate.NotBefore), stamp(a.Certificate.NotAfter))
	}
	r := &a.Result
	if r.IssuedAt.After(at.Add(MaxClockSkew)) {
		return fail(attest.Stale, "result_future", "issued at %s, which is in the future", stamp(r.IssuedAt))
	}
	if !at.Before(r.Expiry) {
		return fail(attest.Stale, "result_expired", "expired at %s", stamp(r.Expiry))
	}
	return a.satisfies(at, require)
}

// Until is how long a peer can pass at the most: until its SVID or its result ends,
// or the evidence is older than a [MaxAge] among the requirements. It may be over
// before, by a deny-list, say.
func (a *Attested) Until(require ...Requirement) time.Time {
	until := a.Result.Expiry
	earlier := func(t time.Time) {
		if until.IsZero() || t.Before(until) {
			until = t
		}
	}
	if a.Certificate != nil {
		earlier(a.Certificate.NotAfter)
	}
	if a.Token != nil {
		earlier(a.Token.Expiry)
	}
	for _, q := range require {
		if q.maxAge != nil {
			earlier(a.Result.EvidenceTime.Add(*q.maxAge))
		}
	}
	return until
}

// verifySignature asks the memory first, where there is one.
func (u *Unverified) verifySignature(seen *signatures, key VerifierKey) error {
	id := signatureKey(u.CWT, u.KeyID)
	if seen.good(id) {
		return nil
	}
	if err := u.signed.verify(key.Key); err != nil {
		return err
	}
	seen.add(id)
	return nil
}

// stamp prints a time as RFC 3339 in UTC.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// policyName is the name in "name@revision".
func policyName(policy string) string {
	name, _, _ := strings.Cut(policy, "@")
	return name
}

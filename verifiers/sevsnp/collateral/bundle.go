package collateral

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
)

// Limits of a bundle.
const (
	MaxBundleSize     = 256 << 20 // bytes
	maxBundleItems    = MaxEntries
	maxBundleSkew     = time.Minute // how far ahead of this clock a bundle may be issued
	maxBundleLifetime = 10 * 366 * 24 * time.Hour
	bundleType        = "application/assay.collateral-bundle.v1"
	tagSign1          = byte(0xc0 + cose.CBORTagSign1Message)
)

// Bundle is collateral that an operator carries to servers which have no way to
// the KDS, signed by a key of the operator's: docs/spec/collateral-bundle.md.
// The signature says who brought it, not that it is true: every item is verified
// under the pinned roots when it is imported, and again when it is used.
type Bundle struct {
	// Sequence grows with every bundle of a key. An import refuses one that is lower
	// than what that key brought before.
	Sequence     uint64
	IssuedAt     time.Time
	Expires      time.Time // no import from then on
	Certificates [][]byte  // VCEK, VLEK, ASK, ASVK in DER, in any order
	CRLs         []BundleCRL
}

// BundleCRL is the CRL of a product line's ARK for one of its two issuers.
type BundleCRL struct {
	_          struct{} `cbor:",toarray"`
	Product    string   // "milan"
	SigningKey string   // "vcek" or "vlek"
	DER        []byte
}

// payload is what is signed.
type payload struct {
	Sequence     uint64      `cbor:"1,keyasint"`
	IssuedAt     int64       `cbor:"2,keyasint"`
	Expires      int64       `cbor:"3,keyasint"`
	Certificates [][]byte    `cbor:"4,keyasint"`
	CRLs         []BundleCRL `cbor:"5,keyasint"`
}

// NewBundle gathers objects for [Bundle.Sign]. The sequence is the time in
// milliseconds, so that later bundles replace earlier ones.
func NewBundle(objects []*Object, now time.Time, life time.Duration) *Bundle {
	b := &Bundle{Sequence: uint64(max(now.UnixMilli(), 1)), IssuedAt: now, Expires: now.Add(life)}
	for _, o := range objects {
		if o.Kind == CRL {
			b.CRLs = append(b.CRLs, BundleCRL{Product: o.Product, SigningKey: o.SigningKey, DER: o.DER})
			continue
		}
		b.Certificates = append(b.Certificates, o.DER)
	}
	return b
}

// Sign writes the bundle: a tagged COSE_Sign1 (RFC 9052, section 4.2) by an
// Ed25519, P-256 or P-384 key. Times are cut to seconds.
func (b *Bundle) Sign(key crypto.Signer) ([]byte, error) {
	alg, kid, err := identify(key.Public())
	if err != nil {
		return nil, fmt.Errorf("collateral: signing a bundle: %w", err)
	}
	p := payload{Sequence: b.Sequence, IssuedAt: b.IssuedAt.Unix(), Expires: b.Expires.Unix(), Certificates: b.Certificates, CRLs: b.CRLs}
	if p.Certificates == nil {
		p.Certificates = [][]byte{}
	}
	if p.CRLs == nil {
		p.CRLs = []BundleCRL{}
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("collateral: signing a bundle: %w", err)
	}
	enc, err := encoder()
	if err != nil {
		return nil, err
	}
	body, err := enc.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("collateral: signing a bundle: %w", err)
	}
	signer, err := cose.NewSigner(alg, key)
	if err != nil {
		return nil, fmt.Errorf("collateral: signing a bundle: %w", err)
	}
	headers := cose.Headers{
		Protected:   cose.ProtectedHeader{cose.HeaderLabelAlgorithm: alg, cose.HeaderLabelKeyID: kid[:], cose.HeaderLabelType: bundleType},
		Unprotected: cose.UnprotectedHeader{},
	}
	out, err := cose.Sign1(rand.Reader, signer, headers, body, nil)
	if err != nil {
		return nil, fmt.Errorf("collateral: signing a bundle: %w", err)
	}
	if len(out) > MaxBundleSize {
		return nil, fmt.Errorf("collateral: the bundle has %d bytes, at most %d are allowed", len(out), MaxBundleSize)
	}
	return out, nil
}

// identify returns the COSE algorithm of a key and its id, SHA-256 of its
// SubjectPublicKeyInfo.
func identify(pub crypto.PublicKey) (cose.Algorithm, [32]byte, error) {
	var alg cose.Algorithm
	switch k := pub.(type) {
	case ed25519.PublicKey:
		alg = cose.AlgorithmEdDSA
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			alg = cose.AlgorithmES256
		case elliptic.P384():
			alg = cose.AlgorithmES384
		}
	}
	if alg == 0 {
		return 0, [32]byte{}, fmt.Errorf("a key of type %T: want Ed25519, or ECDSA on P-256 or P-384", pub)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return 0, [32]byte{}, err
	}
	return alg, digestOf(spki), nil
}

// fail makes the error of one of the checks of [OpenBundle] and [Cache.Import].
func fail(kind attest.Kind, check, hint, format string, args ...any) error {
	return &attest.Error{Kind: kind, Check: check, Err: fmt.Errorf(format, args...), Hint: hint}
}

// OpenBundle reads a bundle and verifies it: signed by one of the trusted keys,
// and not expired. The checks, in order, with the kind of their errors:
//
//	bundle_size       Malformed: at most MaxBundleSize bytes
//	bundle_structure  Malformed: deterministic CBOR, tag 18, nothing after it
//	bundle_header     Malformed: alg, kid and typ protected, nothing else
//	bundle_key        Untrusted: by a trusted key, and its algorithm
//	bundle_signature  Untrusted
//	bundle_content    Malformed: the payload
//	bundle_future     Stale: issued more than a minute ahead of this clock
//	bundle_expired    Stale
//
// signer is the id of the key that signed. Whether the bundle is older than an
// earlier one, and whether its items verify, is for [Cache.Import].
func OpenBundle(doc []byte, trusted []crypto.PublicKey, at time.Time) (b *Bundle, signer [32]byte, err error) {
	if len(doc) > MaxBundleSize {
		return nil, signer, fail(attest.Malformed, "bundle_size", "", "the bundle has %d bytes, at most %d are read", len(doc), MaxBundleSize)
	}
	m, kid, alg, err := envelope(doc)
	if err != nil {
		return nil, signer, err
	}
	key, err := trustedKey(trusted, kid, alg)
	if err != nil {
		return nil, signer, err
	}
	verifier, err := cose.NewVerifier(alg, key)
	if err != nil {
		return nil, signer, fail(attest.Internal, "bundle_key", "", "%w", err)
	}
	if err := m.Verify(nil, verifier); err != nil {
		return nil, signer, fail(attest.Untrusted, "bundle_signature", "the bundle was changed after it was signed: carry it over again", "%w", err)
	}
	dec, err := decoder()
	if err != nil {
		return nil, signer, err
	}
	var p payload
	if err := dec.Unmarshal(m.Payload, &p); err != nil {
		return nil, signer, fail(attest.Malformed, "bundle_content", "", "%w", err)
	}
	if err := p.check(); err != nil {
		return nil, signer, fail(attest.Malformed, "bundle_content", "", "%w", err)
	}
	b = &Bundle{Sequence: p.Sequence, IssuedAt: time.Unix(p.IssuedAt, 0).UTC(), Expires: time.Unix(p.Expires, 0).UTC(), Certificates: p.Certificates, CRLs: p.CRLs}
	switch {
	case b.IssuedAt.After(at.Add(maxBundleSkew)):
		return nil, signer, fail(attest.Stale, "bundle_future", "check the clocks of both machines", "the bundle was issued at %s, which is in the future", b.IssuedAt.Format(time.RFC3339))
	case !at.Before(b.Expires):
		return nil, signer, fail(attest.Stale, "bundle_expired", "export a new bundle", "the bundle was good until %s", b.Expires.Format(time.RFC3339))
	}
	return b, kid, nil
}

// envelope takes the COSE_Sign1 apart. Nothing of it is believed yet.
func envelope(doc []byte) (m *cose.Sign1Message, kid [32]byte, alg cose.Algorithm, err error) {
	bad := func(check, format string, args ...any) (*cose.Sign1Message, [32]byte, cose.Algorithm, error) {
		return nil, kid, 0, fail(attest.Malformed, check, "`assay collateral export` writes bundles", format, args...)
	}
	if len(doc) == 0 || doc[0] != tagSign1 {
		return bad("bundle_structure", "not a COSE_Sign1 with tag 18")
	}
	dec, err := decoder()
	if err != nil {
		return nil, kid, 0, err
	}
	var parts struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Payload     []byte
		Signature   []byte
	}
	if err := dec.Unmarshal(doc[1:], &parts); err != nil {
		return bad("bundle_structure", "%w", err)
	}
	m = &cose.Sign1Message{}
	if err := m.UnmarshalCBOR(doc); err != nil {
		return bad("bundle_structure", "%w", err)
	}
	if len(parts.Unprotected) != 1 || parts.Unprotected[0] != 0xa0 {
		return bad("bundle_header", "the unprotected header is not an empty map")
	}
	for label := range m.Headers.Protected {
		switch label {
		case cose.HeaderLabelAlgorithm, cose.HeaderLabelKeyID, cose.HeaderLabelType:
		default:
			return bad("bundle_header", "parameter %v is not understood", label)
		}
	}
	if alg, err = m.Headers.Protected.Algorithm(); err != nil {
		return bad("bundle_header", "%w", err)
	}
	if typ, ok := m.Headers.Protected[cose.HeaderLabelType].(string); !ok || typ != bundleType {
		return bad("bundle_header", "typ is %.80q, want %q", fmt.Sprint(m.Headers.Protected[cose.HeaderLabelType]), bundleType)
	}
	id, ok := m.Headers.Protected[cose.HeaderLabelKeyID].([]byte)
	if !ok || len(id) != len(kid) {
		return bad("bundle_header", "the key id is not of 32 bytes")
	}
	copy(kid[:], id)
	// One encoding only, for what is not in the payload as well.
	again, err := m.MarshalCBOR()
	if err != nil || !bytes.Equal(again, doc) {
		return bad("bundle_structure", "the encoding is not deterministic")
	}
	return m, kid, alg, nil
}

func trustedKey(trusted []crypto.PublicKey, kid [32]byte, alg cose.Algorithm) (crypto.PublicKey, error) {
	for _, k := range trusted {
		a, id, err := identify(k)
		if err != nil {
			return nil, fail(attest.Internal, "bundle_key", "", "%w", err)
		}
		if id != kid {
			continue
		}
		if a != alg {
			return nil, fail(attest.Untrusted, "bundle_key", "", "signed with %s by a key for %s", alg, a)
		}
		return k, nil
	}
	return nil, fail(attest.Untrusted, "bundle_key", "trust the public key of whoever exported it, if you do", "the bundle is signed by key %x…, which is not trusted here", kid[:8])
}

// check bounds what a bundle says about itself.
func (p payload) check() error {
	const year9999 = 253402300799
	switch {
	case p.Sequence == 0:
		return errors.New("the sequence is zero")
	case p.IssuedAt <= 0 || p.IssuedAt >= p.Expires || p.Expires > year9999:
		return fmt.Errorf("issued at %d, expires at %d", p.IssuedAt, p.Expires)
	case p.Expires-p.IssuedAt > int64(maxBundleLifetime/time.Second):
		return fmt.Errorf("it lives longer than %d days", maxBundleLifetime/(24*time.Hour))
	case len(p.Certificates)+len(p.CRLs) > maxBundleItems:
		return fmt.Errorf("%d items, at most %d are allowed", len(p.Certificates)+len(p.CRLs), maxBundleItems)
	case p.Certificates == nil || p.CRLs == nil:
		return errors.New("certificates or CRLs are missing")
	}
	return nil
}

func encoder() (cbor.EncMode, error) { return cbor.CoreDetEncOptions().EncMode() }

func decoder() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8RejectInvalid,
		MaxArrayElements: 2 * maxBundleItems, MaxMapPairs: 16, MaxNestedLevels: 6,
	}.DecMode()
}

// ParsePrivateKey reads a PEM block "PRIVATE KEY" (PKCS #8) with a key that can
// sign bundles.
func ParsePrivateKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("want one PEM block PRIVATE KEY (PKCS #8, not encrypted)")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the block holds no PKCS #8 key") // the cause could quote the key
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	if _, _, err := identify(s.Public()); err != nil {
		return nil, err
	}
	return s, nil
}

// ParsePublicKey reads a PEM block "PUBLIC KEY" with a key that can sign bundles.
func ParsePublicKey(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("want one PEM block PUBLIC KEY")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if _, _, err := identify(k); err != nil {
		return nil, err
	}
	return k, nil
}

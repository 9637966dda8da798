package tpm_test

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// What stands in this file is a TPM in software: keys, quotes, certifications and
// certificates that differ from good ones in exactly one thing, also in ways that
// no device would. Its structures are go-tpm's. A whole device is in
// simulators/tpm, and in the test on swtpm.

// epoch is the time at which minted evidence is good.
var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// Kinds of keys.
const (
	p256    = "P-256"
	p384    = "P-384"
	p521    = "P-521"
	rsa2048 = "RSA-2048"
	rsa1024 = "RSA-1024"
	roca    = "ROCA"
)

// keyring holds keys by kind and use: making RSA keys takes long, and no test
// changes one.
var keyring sync.Map

func keyOf(t testing.TB, kind, use string) crypto.Signer {
	t.Helper()
	once, _ := keyring.LoadOrStore(kind+"/"+use, sync.OnceValues(func() (crypto.Signer, error) {
		switch kind {
		case p256:
			return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case p384:
			return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		case p521:
			return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		case rsa2048:
			return rsa.GenerateKey(rand.Reader, 2048)
		case rsa1024:
			return weakKey(512, rand.Prime)
		case roca:
			return weakKey(1024, rocaPrime)
		}
		return nil, errors.New("no such key: " + kind)
	}))
	k, err := once.(func() (crypto.Signer, error))()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// weakKey makes an RSA key that crypto/rsa would not.
func weakKey(bits int, prime func(rand io.Reader, bits int) (*big.Int, error)) (crypto.Signer, error) {
	for {
		p, err := prime(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		q, err := prime(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		one, n := big.NewInt(1), new(big.Int).Mul(p, q)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(big.NewInt(65537), phi)
		if d == nil || n.BitLen() != 2*bits {
			continue
		}
		return &textbook{rsa.PublicKey{N: n, E: 65537}, d}, nil
	}
}

// textbook signs with PKCS #1 v1.5, for keys that crypto/rsa does not sign with.
type textbook struct {
	public rsa.PublicKey
	d      *big.Int
}

func (k *textbook) Public() crypto.PublicKey { return &k.public }

func (k *textbook) Sign(_ io.Reader, sum []byte, _ crypto.SignerOpts) ([]byte, error) {
	// RFC 8017, section 9.2, for SHA-256.
	prefix := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	em := slices.Repeat([]byte{0xff}, k.public.Size())
	em[0], em[1] = 0, 1
	tail := append(append([]byte{0}, prefix...), sum...)
	copy(em[len(em)-len(tail):], tail)
	return new(big.Int).Exp(new(big.Int).SetBytes(em), k.d, k.public.N).FillBytes(em), nil
}

// rocaPrime makes a prime as the key generator of CVE-2017-15361 did: k·M +
// (65537^a mod M), M the product of the first 126 primes.
func rocaPrime(random io.Reader, bits int) (*big.Int, error) {
	m, found := big.NewInt(1), 0
	for p := int64(2); found < 126; p++ {
		if big.NewInt(p).ProbablyPrime(20) {
			m.Mul(m, big.NewInt(p))
			found++
		}
	}
	span := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), uint(bits)), m)
	for {
		k, err := rand.Int(random, span)
		if err != nil {
			return nil, err
		}
		a, err := rand.Int(random, m)
		if err != nil {
			return nil, err
		}
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == bits && p.Bit(bits-2) == 1 && p.ProbablyPrime(20) {
			return p, nil
		}
	}
}

func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	}}
}

func rsassa() tpm2.TPMTRSAScheme {
	return tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}
}

func ecdsaScheme() tpm2.TPMTECCScheme {
	return tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
}

func aes256() tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}
}

// eccArea puts an ECC key and its scheme into an area.
func eccArea(t testing.TB, p tpm2.TPMTPublic, k *ecdsa.PublicKey, s tpm2.TPMTECCScheme) tpm2.TPMTPublic {
	t.Helper()
	return eccAreaWith(t, p, k, tpm2.TPMSECCParms{Scheme: s})
}

func eccAreaWith(t testing.TB, p tpm2.TPMTPublic, k *ecdsa.PublicKey, parms tpm2.TPMSECCParms) tpm2.TPMTPublic {
	t.Helper()
	raw, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := len(raw) / 2
	parms.CurveID = map[int]tpm2.TPMECCCurve{32: tpm2.TPMECCNistP256, 48: tpm2.TPMECCNistP384, 66: tpm2.TPMECCNistP521}[n]
	p.Type = tpm2.TPMAlgECC
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &parms)
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: raw[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: raw[1+n:]}})
	return p
}

// signingArea puts a signing key into an area: RSASSA or ECDSA with SHA-256, or no
// scheme.
func signingArea(t testing.TB, p tpm2.TPMTPublic, k crypto.PublicKey, scheme bool) tpm2.TPMTPublic {
	t.Helper()
	switch k := k.(type) {
	case *rsa.PublicKey:
		parms := &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(k.N.BitLen())}
		if scheme {
			parms.Scheme = rsassa()
		}
		p.Type = tpm2.TPMAlgRSA
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, parms)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return p
	case *ecdsa.PublicKey:
		if scheme {
			return eccArea(t, p, k, ecdsaScheme())
		}
		return eccArea(t, p, k, tpm2.TPMTECCScheme{})
	}
	t.Fatalf("a key of type %T", k)
	return p
}

// ekArea is an EK's area of the template for its kind: L-1, L-2, and H-3 for
// P-384.
func ekArea(t testing.TB, k crypto.PublicKey) tpm2.TPMTPublic {
	t.Helper()
	switch k := k.(type) {
	case *rsa.PublicKey:
		p := tpm2.RSAEKTemplate
		parms, err := p.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		mine := *parms
		mine.KeyBits = tpm2.TPMKeyBits(k.N.BitLen())
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &mine)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return p
	case *ecdsa.PublicKey:
		p := tpm2.ECCEKTemplate
		parms, err := p.Parameters.ECCDetail()
		if err != nil {
			t.Fatal(err)
		}
		mine := *parms
		if k.Curve == elliptic.P384() {
			p.NameAlg, p.ObjectAttributes.UserWithAuth, p.AuthPolicy = tpm2.TPMAlgSHA384, true, tpm2.TPM2BDigest{Buffer: make([]byte, 48)}
			mine.Symmetric = aes256()
		}
		return eccAreaWith(t, p, k, mine)
	}
	t.Fatalf("an EK of type %T", k)
	return tpm2.TPMTPublic{}
}

// authority is a CA of TPM certificates: a root and an intermediate.
type authority struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey crypto.Signer
}

var (
	validFrom  = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC)
	ekUsage    = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}
	aikUsage   = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
)

// newAuthority makes a CA; use tells two of them apart. change alters the
// intermediate.
func newAuthority(t testing.TB, name, use string, change func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{rootKey: keyOf(t, p384, use+" root"), issuerKey: keyOf(t, p256, use+" issuer")}
	ca := func(cn string, serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"A test of Assay"}, CommonName: name + cn},
			NotBefore: validFrom, NotAfter: validUntil, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	root := ca(" Root", 1)
	a.root = issue(t, root, root, a.rootKey.Public(), a.rootKey)
	issuer := ca(" Issuing CA", 2)
	issuer.UnknownExtKeyUsage = append(slices.Clone(ekUsage), aikUsage...)
	if change != nil {
		change(issuer)
	}
	a.issuer = issue(t, issuer, a.root, a.issuerKey.Public(), a.rootKey)
	return a
}

// issue signs a certificate, also where the parent has another key than the
// signer's.
func issue(t testing.TB, c, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent != c {
		forged := *parent
		forged.PublicKey = signer.Public()
		parent = &forged
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func pemOf(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// tpmSAN is the subject alternative name of an EK certificate.
func tpmSAN(t testing.TB, attributes ...string) pkix.Extension {
	t.Helper()
	var dn pkix.RDNSequence
	for i, v := range attributes {
		if v != "" {
			dn = append(dn, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, i%3 + 1}, Value: v}})
		}
	}
	inner := must(asn1.Marshal(dn))
	name := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: inner}))
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: name}))}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// instance is Google's extension, as go-tpm-tools reads it.
type instance struct {
	Zone          string `asn1:"utf8"`
	ProjectNumber int64
	ProjectID     string `asn1:"utf8"`
	InstanceID    int64
	InstanceName  string   `asn1:"utf8"`
	Security      security `asn1:"explicit,optional"`
}

type security struct {
	Version    int64 `asn1:"explicit,tag:0,optional"`
	Production bool  `asn1:"explicit,tag:1,optional"`
}

var goodInstance = instance{"us-central1-a", 42, "a-project", 4711, "a-machine", security{1, true}}

func instanceExtension(i instance) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}, Value: must(asn1.Marshal(i))}
}

// world is where minted evidence is good: a maker of TPMs and two clouds.
type world struct{ maker, google, azure *authority }

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{newAuthority(t, "Maker", "maker", nil), newAuthority(t, "Cloud", "cloud", nil), newAuthority(t, "Azure", "azure", nil)}
}

func (w *world) roots(t testing.TB) tpm.Roots {
	t.Helper()
	r, err := tpm.SimulatedRoots(pemOf(w.maker.root))
	if err == nil {
		r, err = r.WithCloud(tpm.GCE, pemOf(w.google.root))
	}
	if err == nil {
		r, err = r.WithCloud(tpm.Azure, pemOf(w.azure.root))
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) verifier(t testing.TB, opts ...tpm.Option) *tpm.Verifier {
	t.Helper()
	return verifierOver(t, w.roots(t), opts...)
}

// order says how minted evidence differs from a good one. Its zero value is good:
// ECC keys, SHA-256, registers 0 to 15, an EK certificate, no resident key.
type order struct {
	ekKind, akKind string
	bank           tpm2.TPMAlgID
	selected       []int // nil: 0 to 15
	selection      *tpm2.TPMLPCRSelection
	extra          []byte // nil: 32 bytes
	values         func(map[uint32][]byte)
	ak, ek         func(*tpm2.TPMTPublic)
	akRaw, ekRaw   func([]byte) []byte
	hash           tpm2.TPMAlgID // of the AK's signatures
	pss            bool
	quote          func(*tpm2.TPMSAttest)
	quoteRaw       func([]byte) []byte // before it is signed
	signature      func([]byte) []byte // TPMT_SIGNATURE of the quote
	signWith       crypto.Signer       // instead of the AK
	hierarchy      uint32              // of the AK; 0: endorsement; 1: under a storage key

	ekCertificate  func(*x509.Certificate)
	ekDER          func([]byte) []byte
	noEKCert, noEK bool
	issuer         *authority // of the EK certificate
	cloud          *authority // of an AK certificate
	azure          bool
	akCertificate  func(*x509.Certificate)
	akCertKey      crypto.PublicKey

	resident     int // keys that live in the TPM
	residentKind string
	key          func(*tpm2.TPMTPublic)
	certify      func(*tpm2.TPMSAttest)
	certifyRaw   func([]byte) []byte
	certifyWith  crypto.Signer
	certifySig   func([]byte) []byte
	keyRaw       func([]byte) []byte
	keyHierarchy uint32 // 0: NULL
	reset        uint32 // counters; 0: 7
	restart      uint32
	certifyReset uint32 // 0: as reset
	log          []byte
	logDigest    []byte
	body         func(*attest.TPMEvidence)
	endorsements [][]byte // nil: the issuing CAs
}

// minted is evidence with the TPM that made it.
type minted struct {
	evidence attest.Evidence
	body     attest.TPMEvidence
	ek, ak   crypto.Signer
	ekArea   []byte
	akName   []byte
	resident []crypto.Signer
}

const testFirmware = 0x2026060112000000

func (w *world) mint(t testing.TB, o order) minted {
	t.Helper()
	ek, ak := keyOf(t, or(o.ekKind, p256), "ek"), keyOf(t, or(o.akKind, p256), "ak")
	m := minted{ek: ek, ak: ak}
	// The keys.
	akPub := signingArea(t, akTemplate(), ak.Public(), true)
	if o.hash != 0 || o.pss {
		setScheme(t, &akPub, or(o.hash, tpm2.TPMAlgSHA256), o.pss)
	}
	if o.ak != nil {
		o.ak(&akPub)
	}
	m.body.AKPublic = tpm2.Marshal(akPub)
	if o.akRaw != nil {
		m.body.AKPublic = o.akRaw(m.body.AKPublic)
	}
	m.akName = nameOf(akPub.NameAlg, m.body.AKPublic)
	ekPub := ekArea(t, ek.Public())
	if o.ek != nil {
		o.ek(&ekPub)
	}
	m.ekArea = tpm2.Marshal(ekPub)
	if o.ekRaw != nil {
		m.ekArea = o.ekRaw(m.ekArea)
	}
	if !o.noEK {
		m.body.EKPublic = m.ekArea
	}
	// The quote.
	signer := qualifiedName(akPub.NameAlg, m.akName, or(o.hierarchy, uint32(tpm2.TPMRHEndorsement)))
	a := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, QualifiedSigner: tpm2.TPM2BName{Buffer: signer}, ExtraData: tpm2.TPM2BData{Buffer: o.extra}, FirmwareVersion: testFirmware,
		ClockInfo: tpm2.TPMSClockInfo{Clock: 123456, ResetCount: or(o.reset, 7), RestartCount: o.restart, Safe: true},
	}
	if o.extra == nil {
		a.ExtraData.Buffer = slices.Repeat([]byte{0xb1}, 32)
	}
	bank := or(o.bank, tpm2.TPMAlgSHA256)
	selected := o.selected
	if selected == nil {
		selected = upTo(15)
	}
	m.body.PCRs = make(map[uint32][]byte)
	h, err := bank.Hash()
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, i := range selected {
		v := slices.Repeat([]byte{byte(0xa0 + i)}, h.Size())
		m.body.PCRs[uint32(i)] = v
		all = append(all, v...)
	}
	sum := hashed(t, or(o.hash, tpm2.TPMAlgSHA256), all)
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: bitmap(selected)}}}
	if o.selection != nil {
		selection = *o.selection
	}
	q := a
	q.Type = tpm2.TPMSTAttestQuote
	q.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: selection, PCRDigest: tpm2.TPM2BDigest{Buffer: sum}})
	if o.quote != nil {
		o.quote(&q)
	}
	m.body.Quote = tpm2.Marshal(q)
	if o.quoteRaw != nil {
		m.body.Quote = o.quoteRaw(m.body.Quote)
	}
	quoter := ak
	if o.signWith != nil {
		quoter = o.signWith
	}
	m.body.Signature = sign(t, quoter, m.body.Quote, or(o.hash, tpm2.TPMAlgSHA256), o.pss)
	if o.signature != nil {
		m.body.Signature = o.signature(m.body.Signature)
	}
	if o.values != nil {
		o.values(m.body.PCRs)
	}
	w.residents(t, o, &m, a)
	w.certificates(t, o, &m)
	if o.log != nil {
		d := sha256.Sum256(o.log)
		m.body.EventLogDigest = d[:]
	}
	if o.logDigest != nil {
		m.body.EventLogDigest = o.logDigest
	}
	if o.body != nil {
		o.body(&m.body)
	}
	endorsements := o.endorsements
	if endorsements == nil {
		endorsements = [][]byte{or2(o.issuer, w.maker).issuer.Raw}
		if o.cloud != nil {
			endorsements = append(endorsements, o.cloud.issuer.Raw)
		}
	}
	m.evidence = evidence(t, m.body, o.log, endorsements...)
	return m
}

// residents mints the keys that live in the TPM, and their certification.
func (w *world) residents(t testing.TB, o order, m *minted, a tpm2.TPMSAttest) {
	t.Helper()
	for i := range o.resident {
		k := keyOf(t, or(o.residentKind, p256), "resident "+string(rune('a'+i)))
		m.resident = append(m.resident, k)
		area := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}}
		area = signingArea(t, area, k.Public(), true)
		if o.key != nil {
			o.key(&area)
		}
		raw := tpm2.Marshal(area)
		name := nameOf(area.NameAlg, raw)
		c := a
		c.Type = tpm2.TPMSTAttestCertify
		if o.certifyReset != 0 {
			c.ClockInfo.ResetCount = o.certifyReset
		}
		c.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{
			Name: tpm2.TPM2BName{Buffer: name}, QualifiedName: tpm2.TPM2BName{Buffer: qualifiedName(area.NameAlg, name, or(o.keyHierarchy, uint32(tpm2.TPMRHNull)))},
		})
		if o.certify != nil {
			o.certify(&c)
		}
		signed := tpm2.Marshal(c)
		if o.certifyRaw != nil {
			signed = o.certifyRaw(signed)
		}
		signer := m.ak
		if o.certifyWith != nil {
			signer = o.certifyWith
		}
		s := sign(t, signer, signed, or(o.hash, tpm2.TPMAlgSHA256), o.pss)
		if o.certifySig != nil {
			s = o.certifySig(s)
		}
		if o.keyRaw != nil {
			raw = o.keyRaw(raw)
		}
		m.body.Certified = append(m.body.Certified, attest.TPMCertified{Public: raw, Attest: signed, Signature: s})
	}
}

// certificates mints the EK's certificate, and the AK's where a cloud is to
// certify it.
func (w *world) certificates(t testing.TB, o order, m *minted) {
	t.Helper()
	if !o.noEKCert && !o.noEK {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(0x5eed), NotBefore: validFrom, NotAfter: validUntil, KeyUsage: x509.KeyUsageKeyAgreement, UnknownExtKeyUsage: ekUsage,
			ExtraExtensions: []pkix.Extension{tpmSAN(t, "id:41535359", "Test", "id:00010002")},
		}
		if o.ekCertificate != nil {
			o.ekCertificate(c)
		}
		by := or2(o.issuer, w.maker)
		m.body.EKCertificate = issue(t, c, by.issuer, m.ek.Public(), by.issuerKey).Raw
		if o.ekDER != nil {
			m.body.EKCertificate = o.ekDER(m.body.EKCertificate)
		}
	}
	if o.cloud != nil {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(0xa5), Subject: pkix.Name{CommonName: "4711"}, NotBefore: validFrom, NotAfter: validUntil, KeyUsage: x509.KeyUsageDigitalSignature,
			UnknownExtKeyUsage: aikUsage, ExtraExtensions: []pkix.Extension{instanceExtension(goodInstance)},
		}
		if o.azure {
			c.Subject.CommonName, c.ExtraExtensions = "0123456789ab.TrustedVM.Azure.windows.net", nil
		}
		if o.akCertificate != nil {
			o.akCertificate(c)
		}
		pub := m.ak.Public()
		if o.akCertKey != nil {
			pub = o.akCertKey
		}
		m.body.AKCertificate = issue(t, c, o.cloud.issuer, pub, o.cloud.issuerKey).Raw
	}
}

// activate answers a credential challenge as TPM2_ActivateCredential does: only
// the holder of the EK can, and only for the AK's name.
func (m minted) activate(credential []byte) ([]byte, error) {
	take := func() []byte {
		n := binary.BigEndian.Uint16(credential)
		out := credential[2 : 2+n]
		credential = credential[2+n:]
		return out
	}
	object, encrypted := take(), take()
	if len(credential) != 0 {
		return nil, errors.New("something follows the credential")
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](m.ekArea)
	if err != nil {
		return nil, err
	}
	h, err := area.NameAlg.Hash()
	if err != nil {
		return nil, err
	}
	var seed []byte
	bits := 128
	switch k := m.ek.(type) {
	case *rsa.PrivateKey:
		if seed, err = rsa.DecryptOAEP(h.New(), nil, k, encrypted, []byte("IDENTITY\x00")); err != nil {
			return nil, err
		}
	case *ecdsa.PrivateKey:
		point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](encrypted)
		if err != nil {
			return nil, err
		}
		mine, err := k.ECDH()
		if err != nil {
			return nil, err
		}
		size := len(mine.Bytes())
		if size == 48 {
			bits = 256
		}
		x := pad(point.X.Buffer, size)
		theirs, err := mine.Curve().NewPublicKey(slices.Concat([]byte{4}, x, pad(point.Y.Buffer, size)))
		if err != nil {
			return nil, err
		}
		z, err := mine.ECDH(theirs)
		if err != nil {
			return nil, err
		}
		seed = tpm2.KDFe(h, z, "IDENTITY", x, xOf(mine.PublicKey()), h.Size()*8)
	}
	mac, cipherText := object[2:2+h.Size()], slices.Clone(object[2+h.Size():])
	check := hmac.New(h.New, tpm2.KDFa(h, seed, "INTEGRITY", nil, nil, h.Size()*8))
	check.Write(cipherText)
	check.Write(m.akName)
	if !hmac.Equal(check.Sum(nil), mac) {
		return nil, errors.New("TPM_RC_INTEGRITY: the credential is for another AK")
	}
	block, err := aes.NewCipher(tpm2.KDFa(h, seed, "STORAGE", m.akName, nil, bits))
	if err != nil {
		return nil, err
	}
	cipher.NewCFBDecrypter(block, make([]byte, block.BlockSize())).XORKeyStream(cipherText, cipherText) //nolint:staticcheck // what the TPM uses
	return cipherText[2:], nil
}

func xOf(k *ecdh.PublicKey) []byte { b := k.Bytes()[1:]; return b[:len(b)/2] }

func pad(b []byte, n int) []byte { return append(make([]byte, n-len(b)), b...) }

// sign makes a TPMT_SIGNATURE.
func sign(t testing.TB, k crypto.Signer, message []byte, alg tpm2.TPMAlgID, pss bool) []byte {
	t.Helper()
	h, err := alg.Hash()
	if err != nil {
		t.Fatal(err)
	}
	var opts crypto.SignerOpts = h
	scheme := tpm2.TPMAlgRSASSA
	if pss {
		scheme, opts = tpm2.TPMAlgRSAPSS, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: h}
	}
	raw, err := k.Sign(rand.Reader, hashed(t, alg, message), opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.Public().(*rsa.PublicKey); ok {
		return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: scheme, Signature: tpm2.NewTPMUSignature(scheme, &tpm2.TPMSSignatureRSA{Hash: alg, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw}})})
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(raw, &rs); err != nil {
		t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: alg, SignatureR: tpm2.TPM2BECCParameter{Buffer: rs.R.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: rs.S.Bytes()},
	})})
}

// setScheme gives an AK another hash or padding.
func setScheme(t testing.TB, p *tpm2.TPMTPublic, hash tpm2.TPMAlgID, pss bool) {
	t.Helper()
	switch p.Type {
	case tpm2.TPMAlgRSA:
		parms, err := p.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		parms.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash})}
		if pss {
			parms.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSAPSS, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash})}
		}
	case tpm2.TPMAlgECC:
		parms, err := p.Parameters.ECCDetail()
		if err != nil {
			t.Fatal(err)
		}
		parms.Scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})}
	}
}

func hashed(t testing.TB, alg tpm2.TPMAlgID, b []byte) []byte {
	t.Helper()
	h, err := alg.Hash()
	if err != nil {
		t.Fatal(err)
	}
	d := h.New()
	d.Write(b)
	return d.Sum(nil)
}

// nameOf is an object's name: nameAlg and digest of its area.
func nameOf(alg tpm2.TPMAlgID, area []byte) []byte {
	h, err := alg.Hash()
	if err != nil {
		return nil
	}
	d := h.New()
	d.Write(area)
	return d.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg)))
}

// qualifiedName is that of a primary; hierarchy 1 stands for a parent key.
func qualifiedName(alg tpm2.TPMAlgID, name []byte, hierarchy uint32) []byte {
	h, err := alg.Hash()
	if err != nil {
		return nil
	}
	d := h.New()
	if hierarchy == 1 {
		d.Write([]byte("the qualified name of a storage key"))
	} else {
		d.Write(binary.BigEndian.AppendUint32(nil, hierarchy))
	}
	d.Write(name)
	return d.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg)))
}

// bitmap is a PCR selection of three bytes.
func bitmap(pcrs []int) []byte {
	out := make([]byte, 3)
	for _, i := range pcrs {
		out[i/8] |= 1 << (i % 8)
	}
	return out
}

func upTo(n int) []int {
	out := make([]int, n+1)
	for i := range out {
		out[i] = i
	}
	return out
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func or2(a, otherwise *authority) *authority {
	if a == nil {
		return otherwise
	}
	return a
}

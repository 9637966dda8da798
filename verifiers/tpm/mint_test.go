package tpm_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// What stands in this file, and in those of keys, areas, authorities and
// credentials, is a TPM in software: quotes, certifications and certificates that
// differ from good ones in exactly one thing, also in ways that no device would. Its structures are go-tpm's. A whole device is in
// simulators/tpm, and in the test on swtpm.

// epoch is the time at which minted evidence is good.
var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

var (
	validFrom  = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC)
	ekUsage    = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}
	aikUsage   = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
)

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
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
	registers      map[int][]byte // values of registers; others have one of their own
	extra          []byte         // nil: 32 bytes
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
		v := o.registers[i]
		if v == nil {
			v = slices.Repeat([]byte{byte(0xa0 + i)}, h.Size())
		}
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
		area := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, STClear: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}}
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

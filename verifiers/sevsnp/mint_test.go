package sevsnp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	testkeys "github.com/google/go-sev-guest/testing/data"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// What stands in this file mints reports and certificates that differ from good
// ones in exactly one thing, byte by byte, also in ways that no device would.
// Whole devices are in simulators/sevsnp.

// epoch is the time at which minted evidence is good.
var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// world is a fake AMD: an ARK, an ASK and an ASVK for each product line.
type world struct {
	org   string
	lines map[string]*fakeLine
	keys  fakeKeys
}

type fakeKeys struct{ ark, ask, asvk *rsa.PrivateKey }

type fakeLine struct{ ark, ask, asvk *x509.Certificate }

// sharedKeys are those of go-sev-guest's tests: generating RSA-4096 takes
// seconds. Everybody knows them.
func sharedKeys() fakeKeys {
	return fakeKeys{testkeys.ARKPrivateKey, testkeys.ASKPrivateKey, testkeys.ASVKPrivateKey}
}

const (
	fakeOrg = "A test of Assay"
	amdOrg  = "Advanced Micro Devices"
)

// worlds and roots that were made already, by what they were made of: each costs
// nine RSA-4096 signatures or verifications, and none is ever changed.
var (
	worlds sync.Map // of *world, by worldKey
	roots  sync.Map // of sevsnp.Roots, by PEM
)

type worldKey struct {
	org  string
	keys fakeKeys
}

// newWorld makes the CAs of every line. Two worlds differ in the order of their
// keys or in their names.
func newWorld(t testing.TB, org string, k fakeKeys) *world {
	t.Helper()
	if w, ok := worlds.Load(worldKey{org, k}); ok {
		return w.(*world)
	}
	w, _ := worlds.LoadOrStore(worldKey{org, k}, makeWorld(t, org, k))
	return w.(*world)
}

func makeWorld(t testing.TB, org string, k fakeKeys) *world {
	t.Helper()
	w := &world{org: org, lines: make(map[string]*fakeLine), keys: k}
	for i, p := range sevsnp.Products() {
		base := int64(i+1) << 16
		l := &fakeLine{}
		l.ark = w.ca(t, "ARK-"+title(p), base, k.ark.Public(), nil, k.ark, nil)
		l.ask = w.ca(t, "SEV-"+title(p), base+1, k.ask.Public(), l.ark, k.ark, nil)
		l.asvk = w.ca(t, "SEV-VLEK-"+title(p), base+0x101, k.asvk.Public(), l.ark, k.ark, nil)
		w.lines[p] = l
	}
	return w
}

func title(product string) string { return strings.ToUpper(product[:1]) + product[1:] }

func (w *world) name(cn string) pkix.Name {
	return pkix.Name{
		OrganizationalUnit: []string{"Engineering"}, Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
		Organization: []string{w.org}, CommonName: cn,
	}
}

// ca makes a CA certificate; parent nil makes it self-signed.
func (w *world) ca(t testing.TB, cn string, serial int64, pub crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	path := "vcek"
	if strings.Contains(cn, "VLEK") {
		path = "vlek"
	}
	line := cn[strings.LastIndex(cn, "-")+1:]
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: w.name(cn), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		CRLDistributionPoints: []string{"https://kdsintf.amd.com/" + path + "/v1/" + line + "/crl"},
	}
	if parent == nil {
		c.KeyUsage |= x509.KeyUsageCRLSign
		parent = c
	}
	if change != nil {
		change(c)
	}
	if parent != c { // CreateCertificate demands the parent's key: a forger has another
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

func certPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func (w *world) pem() []byte {
	var out []byte
	for _, p := range sevsnp.Products() {
		out = append(out, certPEM(w.lines[p].ark, w.lines[p].ask, w.lines[p].asvk)...)
	}
	return out
}

// verifier is one under this world's roots, with an empty cache.
func (w *world) verifier(t testing.TB, opts ...sevsnp.Option) *sevsnp.Verifier {
	t.Helper()
	return verifierOf(t, w.pem(), opts...)
}

func verifierOf(t testing.TB, pem []byte, opts ...sevsnp.Option) *sevsnp.Verifier {
	t.Helper()
	r, ok := roots.Load(string(pem))
	if !ok {
		made, err := sevsnp.SimulatedRoots(pem)
		if err != nil {
			t.Fatal(err)
		}
		r, _ = roots.LoadOrStore(string(pem), made)
	}
	v, err := sevsnp.New(r.(sevsnp.Roots), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// order is what to mint. The zero order is a good Milan report of version 3,
// signed by a VCEK.
type order struct {
	product string // default Milan
	version uint32 // default 3
	kind    string // default VCEK
	masked  bool   // CHIP_ID is zero

	extensions  func([]pkix.Extension) []pkix.Extension // of the endorsement
	certificate func(*x509.Certificate)                 // the endorsement's template
	issuer      *x509.Certificate                       // default the line's ASK or ASVK
	issuerKey   crypto.Signer
	leafKey     crypto.PublicKey // default the key that signs the report
	changeLeaf  func(der []byte) []byte

	report func([]byte) // before it is signed
	signed func([]byte) // after it is signed
}

// minted is a report and its endorsement.
type minted struct {
	body []byte
	leaf []byte
	key  *ecdsa.PrivateKey
}

func (m minted) evidence(more ...[]byte) attest.Evidence {
	return evidence(m.body, append([][]byte{m.leaf}, more...)...)
}

// tcbBytes is the TCB of minted reports, in the line's layout.
func tcbBytes(product string) []byte {
	if product == sevsnp.Turin {
		return []byte{1, 2, 3, 4, 0, 0, 0, 81}
	}
	return []byte{4, 1, 0, 0, 0, 0, 24, 219}
}

func chipID(product string) []byte {
	id := make([]byte, 64)
	n := 64
	if product == sevsnp.Turin {
		n = 8
	}
	for i := range n {
		id[i] = byte(i + 1)
	}
	return id
}

func cpuidOf(product string) []byte {
	return map[string][]byte{sevsnp.Milan: {0x19, 1, 1}, sevsnp.Genoa: {0x19, 0x11, 1}, sevsnp.Turin: {0x1a, 2, 1}}[product]
}

// reportKey signs every minted report, unless a case says otherwise.
func reportKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return testkeys.VCEKPrivateKey
}

func (w *world) mint(t testing.TB, o order) minted {
	t.Helper()
	if o.product == "" {
		o.product = sevsnp.Milan
	}
	if o.version == 0 {
		o.version = 3
	}
	if o.kind == "" {
		o.kind = sevsnp.VCEK
	}
	m := minted{body: goodReport(o), key: reportKey(t)}
	if o.report != nil {
		o.report(m.body)
	}
	sign(t, m.body, m.key)
	if o.signed != nil {
		o.signed(m.body)
	}
	m.leaf = w.endorsement(t, o, m.key.Public())
	return m
}

// goodReport is an unsigned report as the order describes it.
func goodReport(o order) []byte {
	b := make([]byte, sevsnp.ReportSize)
	le := binary.LittleEndian
	le.PutUint32(b[0:], o.version)
	le.PutUint32(b[4:], 7)            // guest SVN
	le.PutUint64(b[8:], 0x30000|0x1f) // SMT, ABI 0.31
	le.PutUint32(b[0x34:], 1)
	le.PutUint64(b[0x40:], 0x25)
	if o.kind == sevsnp.VLEK {
		le.PutUint32(b[0x48:], 1<<2)
	}
	for _, f := range []struct{ from, to int }{{0x10, 0x20}, {0x20, 0x30}, {0x50, 0x90}, {0x90, 0xc0}, {0xc0, 0xe0}, {0xe0, 0x110}, {0x110, 0x140}, {0x140, 0x160}, {0x160, 0x180}} {
		sum := sha512.Sum512([]byte{byte(f.from), byte(f.from >> 8)})
		copy(b[f.from:f.to], sum[:])
	}
	for _, off := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(b[off:], tcbBytes(o.product))
	}
	if o.version >= 3 {
		copy(b[0x188:], cpuidOf(o.product))
	}
	if !o.masked && o.kind == sevsnp.VCEK {
		copy(b[0x1a0:], chipID(o.product))
	}
	copy(b[0x1e8:], []byte{29, 55, 1})
	copy(b[0x1ec:], []byte{29, 55, 1})
	if o.version >= 5 {
		le.PutUint64(b[0x1f8:], 0x3f)
		le.PutUint64(b[0x200:], 0x7f)
	}
	return b
}

// sign writes R and S as the AMD-SP does: little-endian, 72 bytes each.
func sign(t testing.TB, b []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	sum := sha512.Sum384(b[:0x2a0])
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	clear(b[0x2a0:])
	for i, n := range []*big.Int{r, s} {
		le := n.FillBytes(make([]byte, 72))
		slices.Reverse(le)
		copy(b[0x2a0+72*i:], le)
	}
}

// amdOID is AMD's arc and what follows.
func amdOID(n ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, n...)
}

func marshal(t testing.TB, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goodExtensions are those of a good endorsement, in the KDS's order.
func goodExtensions(t testing.TB, o order) []pkix.Extension {
	t.Helper()
	tcb := tcbBytes(o.product)
	names := map[string]string{sevsnp.Milan: "Milan-B0", sevsnp.Genoa: "Genoa", sevsnp.Turin: "Turin"}
	name, version, order := names[o.product], 0, []int{1, 2, 4, 5, 6, 7, 3, 8}
	if o.kind == sevsnp.VLEK {
		name = title(o.product)
	}
	if o.product == sevsnp.Turin {
		version, order = 1, []int{9, 1, 2, 3, 5, 6, 7, 8}
	}
	out := []pkix.Extension{{Id: amdOID(1), Value: marshal(t, version, "")}, {Id: amdOID(2), Value: marshal(t, name, "ia5")}}
	for i, n := range order {
		out = append(out, pkix.Extension{Id: amdOID(3, n), Value: marshal(t, int(tcb[i]), "")})
	}
	if o.kind == sevsnp.VLEK {
		return append(out, pkix.Extension{Id: amdOID(5), Value: marshal(t, "CN=cc.test.example", "ia5")})
	}
	id := chipID(o.product)
	if o.product == sevsnp.Turin {
		id = id[:8]
	}
	return append(out, pkix.Extension{Id: amdOID(4), Value: id})
}

// endorsement makes the VCEK or VLEK.
func (w *world) endorsement(t testing.TB, o order, pub crypto.PublicKey) []byte {
	t.Helper()
	l := w.lines[o.product]
	cn, issuer, key := "SEV-VCEK", l.ask, crypto.Signer(w.keys.ask)
	if o.kind == sevsnp.VLEK {
		cn, issuer, key = "SEV-VLEK", l.asvk, w.keys.asvk
	}
	if o.issuer != nil {
		issuer = o.issuer
	}
	if o.issuerKey != nil {
		key = o.issuerKey
	}
	if o.leafKey != nil {
		pub = o.leafKey
	}
	exts := goodExtensions(t, o)
	if o.extensions != nil {
		exts = o.extensions(exts)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(0x5eed), Subject: w.name(cn), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		NotBefore: epoch.AddDate(0, -1, 0), NotAfter: epoch.AddDate(7, 0, 0), ExtraExtensions: exts,
	}
	if o.certificate != nil {
		o.certificate(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	if o.changeLeaf != nil {
		der = o.changeLeaf(der)
	}
	return der
}

// crlOrder is a CRL to make. The zero order is a good one of Milan's ARK that
// revokes nothing.
type crlOrder struct {
	product    string
	number     int64 // default 1
	revoked    []*big.Int
	thisUpdate time.Time // default a day before epoch
	nextUpdate time.Time // default a month after epoch
	key        *rsa.PrivateKey
	algorithm  x509.SignatureAlgorithm
	extensions []pkix.Extension
}

func (w *world) crl(t testing.TB, o crlOrder) []byte {
	t.Helper()
	if o.product == "" {
		o.product = sevsnp.Milan
	}
	if o.thisUpdate.IsZero() {
		o.thisUpdate = epoch.AddDate(0, 0, -1)
	}
	if o.nextUpdate.IsZero() {
		o.nextUpdate = epoch.AddDate(0, 1, 0)
	}
	if o.number == 0 {
		o.number = 1
	}
	if o.key == nil {
		o.key = w.keys.ark
	}
	if o.algorithm == 0 {
		o.algorithm = x509.SHA384WithRSAPSS
	}
	list := &x509.RevocationList{
		Number: big.NewInt(o.number), ThisUpdate: o.thisUpdate, NextUpdate: o.nextUpdate, SignatureAlgorithm: o.algorithm, ExtraExtensions: o.extensions,
	}
	for _, s := range o.revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: o.thisUpdate})
	}
	issuer := w.lines[o.product].ark
	if o.key != w.keys.ark { // CreateRevocationList verifies what it signed, with the issuer's key
		copied := *issuer
		copied.PublicKey = o.key.Public()
		issuer = &copied
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// replaced returns the extensions with one value changed; nil takes it out.
func replaced(id asn1.ObjectIdentifier, value []byte) func([]pkix.Extension) []pkix.Extension {
	return func(xs []pkix.Extension) []pkix.Extension {
		var out []pkix.Extension
		for _, x := range xs {
			if x.Id.Equal(id) {
				if value == nil {
					continue
				}
				x.Value = value
			}
			out = append(out, x)
		}
		return out
	}
}

// added returns the extensions with one more.
func added(x pkix.Extension) func([]pkix.Extension) []pkix.Extension {
	return func(xs []pkix.Extension) []pkix.Extension { return append(slices.Clone(xs), x) }
}

// challenge is a complete challenge, and its binding.
func challenge(t testing.TB) (attest.Challenge, attest.Binding) {
	t.Helper()
	ch := attest.Challenge{
		Platform: attest.AMDSEVSNP, TrustDomain: "simulated.example.org", ServerID: "spiffe://simulated.example.org/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Purpose: attest.Boot,
		Keys: []attest.BoundKey{{SPKI: []byte("the first key"), RequestedID: ""}, {SPKI: []byte("the second key"), RequestedID: ""}},
	}
	b, err := ch.Binding()
	if err != nil {
		t.Fatal(err)
	}
	return ch, b
}

func otherKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// certTable makes a certificate table as hosts do.
func certTable(entries ...tableEntry) []byte {
	header := make([]byte, 24*(len(entries)+1))
	var blobs []byte
	for i, e := range entries {
		copy(header[24*i:], e.guid)
		binary.LittleEndian.PutUint32(header[24*i+16:], uint32(len(header)+len(blobs)))
		binary.LittleEndian.PutUint32(header[24*i+20:], uint32(len(e.blob)))
		blobs = append(blobs, e.blob...)
	}
	return append(header, blobs...)
}

type tableEntry struct{ guid, blob []byte }

func accept(t testing.TB, v *sevsnp.Verifier, ev attest.Evidence, at time.Time) *attest.Claims {
	t.Helper()
	got, err := v.Authenticate(t.Context(), ev, at)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

package main

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// fixtureTime is when everything in the fixtures was made.
var fixtureTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// launched is the enclave of the fixtures.
var launched = simnitro.Launch{
	Image: simnitro.ImageFromSeed("payments"), Role: "arn:aws:iam::111122223333:role/payments", InstanceID: "i-0123456789abcdef0",
}

// fixtureBinding is the binding B that the fixtures' evidence carries.
var fixtureBinding = sha256.Sum256([]byte("a binding"))

// fixtureNonce is the nonce in them.
const fixtureNonce = "0123456789abcdef"

// snpBoundData is the REPORT_DATA that carries a binding.
func snpBoundData(b [32]byte) [64]byte { return sevsnp.ReportData(attest.Binding{B: b}) }

// evidenceFixtures writes evidence of a simulated enclave, and what goes with
// it, into a directory:
//
//	root.pem           the simulator's root        foreign.pem   another simulator's
//	good.cbor .hex .b64 .nsm                       an enclave with role, nonce and binding
//	debug.cbor                                     the same in debug mode
//	bad-signature.cbor control.cbor                refused; the latter's module id holds terminal controls
//	policy.yaml        admits good.cbor            other.yaml    does not
//	regional.crl       the root's CRL, good        revoked.crl   it lists the regional certificate
//	stale.crl forged.crl foreign.crl               of another time, signer, authority
//	endorsements.pem   a certificate and regional.crl
func evidenceFixtures(t testing.TB, dir string) {
	t.Helper()
	now := func() time.Time { return fixtureTime }
	authorityDir := filepath.Join(t.TempDir(), "authority")
	authority, err := simnitro.OpenAuthority(authorityDir, simnitro.AuthorityOptions{Now: now})
	check(t, err)
	foreign, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: now})
	check(t, err)
	put := func(name string, b []byte) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	put("root.pem", authority.RootPEM())
	put("foreign.pem", foreign.RootPEM())

	doc := simnitro.Document{
		Timestamp: fixtureTime, ModuleID: launched.InstanceID + "-enc0123456789abcdef", PCRs: launched.PCRs(),
		PublicKey: []byte("a key"), UserData: nitro.UserData(attest.Binding{B: fixtureBinding}), Nonce: []byte(fixtureNonce),
	}
	mint := func(d simnitro.Document, faults ...simnitro.Fault) []byte {
		t.Helper()
		b, err := authority.Mint(d, faults...)
		check(t, err)
		return b
	}
	good := mint(doc)
	put("good.cbor", good)
	put("good.hex", []byte(hex.EncodeToString(good)+"\n"))
	put("good.b64", []byte(base64.StdEncoding.EncodeToString(good)+"\n"))
	put("good.nsm", append([]byte("\xa1\x6bAttestation\xa1\x68document\x59"+string([]byte{byte(len(good) >> 8), byte(len(good))})), good...))
	debug := doc
	debugLaunch := launched
	debugLaunch.Debug = true
	debug.PCRs = debugLaunch.PCRs()
	put("debug.cbor", mint(debug))
	broken, ok := simnitro.FaultByName("signature-broken")
	if !ok {
		t.Fatal("the simulator has no fault signature-broken")
	}
	put("bad-signature.cbor", mint(doc, broken))
	control := doc
	control.ModuleID = "i-\x1b[2Jx-enc1"
	put("control.cbor", mint(control))

	put("policy.yaml", []byte(fixturePolicy(launched.Image.PCR0)))
	put("other.yaml", []byte(fixturePolicy(simnitro.ImageFromSeed("other").PCR0)))
	crlFixtures(t, authority, foreign, authorityDir, good, put)
}

func fixturePolicy(pcr0 []byte) string {
	return fmt.Sprintf(`version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "%x"}
      pcr3: {eq: "%x"}
    issue:
      - spiffe_id: "spiffe://{td}/payments/api"
        x509_ttl: 1h
  - name: ledger
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "%x"}
      pcr3: {eq: "%x"}
      pcr8: {eq: "%x"}
    issue:
      - spiffe_id: "spiffe://{td}/ledger"
`, pcr0, simnitro.RolePCR(launched.Role),
		simnitro.ImageFromSeed("ledger").PCR0, simnitro.RolePCR("arn:aws:iam::111122223333:role/ledger"), simnitro.ImageFromSeed("ledger").PCR8)
}

func crlFixtures(t testing.TB, authority, foreign *simnitro.Authority, dir string, doc []byte, put func(string, []byte)) {
	t.Helper()
	u, err := nitro.Inspect(doc)
	check(t, err)
	chain := nitroChain(u)
	if len(chain) != 5 {
		t.Fatalf("the simulator's document has a chain of %d", len(chain))
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, simnitro.KeyFile))
	check(t, err)
	block, _ := pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(t, err)
	root := authority.Root()
	crl := func(issuer *x509.Certificate, key crypto.Signer, at time.Time, revoked ...*big.Int) []byte {
		t.Helper()
		return newCRL(t, issuer, key, &x509.RevocationList{ThisUpdate: at.Add(-time.Hour), NextUpdate: at.Add(time.Hour)}, revoked...)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("the authority's key is a %T", key)
	}
	regional := crl(root, signer, fixtureTime, big.NewInt(4711))
	put("regional.crl", regional)
	put("regional.crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: regional}))
	put("revoked.crl", crl(root, signer, fixtureTime, big.NewInt(4711), chain[1].SerialNumber))
	put("stale.crl", crl(root, signer, fixtureTime.Add(-24*time.Hour)))
	// A CRL that names the root as its issuer and was signed by somebody else.
	impostor := *root
	other := newTestKey(t)
	impostor.PublicKey = other.Public()
	put("forged.crl", crl(&impostor, other, fixtureTime))
	// A CRL of an authority that has nothing to do with the chain.
	stranger := &x509.Certificate{
		Subject: pkix.Name{CommonName: "stranger"}, RawSubject: nil, SubjectKeyId: []byte{1, 2, 3, 4}, KeyUsage: x509.KeyUsageCRLSign,
		PublicKey: other.Public(), PublicKeyAlgorithm: x509.ECDSA,
	}
	put("foreign.crl", crl(stranger, other, fixtureTime))
	put("endorsements.pem", append(foreign.RootPEM(), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: regional})...))
}

// newCRL signs a CRL; serials are the revoked ones.
func newCRL(t testing.TB, issuer *x509.Certificate, key crypto.Signer, template *x509.RevocationList, serials ...*big.Int) []byte {
	t.Helper()
	template.Number = big.NewInt(1)
	for _, n := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: template.ThisUpdate})
	}
	b, err := x509.CreateRevocationList(rand.Reader, template, issuer, key)
	check(t, err)
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

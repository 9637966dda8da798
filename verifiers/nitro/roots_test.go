package nitro_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/hf/nitrite"

	"github.com/assay-project/assay/internal/vectors"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

func TestTheBuiltInRootIsTheOneThatAWSPublishes(t *testing.T) {
	r := nitro.HardwareRoots()
	if got := r.Fingerprints(); len(got) != 1 || got[0] != "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b" {
		t.Errorf("fingerprints %v", got)
	}
	if r.Simulated() {
		t.Error("AWS's root is said to be simulated")
	}
	// Nitrite has its own copy, under which a hardware document verifies too.
	if _, err := nitro.SimulatedRoots([]byte(nitrite.DefaultCARoots)); err == nil || !strings.Contains(err.Error(), "root of AWS") {
		t.Errorf("AWS's root as a simulated one: %v", err)
	}
}

func TestTheRecordedRootIsRefusedAsASimulatedOne(t *testing.T) {
	for _, v := range vectors.Load(t, "nitro") {
		if !strings.HasSuffix(v.Name, "/roots") {
			continue
		}
		if _, err := nitro.SimulatedRoots(v.Read(t, "aws-nitro-root-g1.pem")); err == nil {
			t.Error("AWS's root was accepted as a simulated one")
		}
		return
	}
	t.Fatal("no recorded root")
}

// rootPEM makes a self-signed certificate like a root, changed by change.
func rootPEM(t *testing.T, curve elliptic.Curve, change func(*x509.Certificate)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a root"}, SignatureAlgorithm: x509.ECDSAWithSHA384,
		NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent, signer := c, key
	change(c)
	if c.Issuer.CommonName != "" { // signed by somebody else
		parent = &x509.Certificate{Subject: c.Issuer, PublicKey: key.Public()}
		if signer, err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
		parent.PublicKey = signer.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestOnlyGoodRootsAreTaken(t *testing.T) {
	good := rootPEM(t, elliptic.P384(), func(*x509.Certificate) {})
	if r, err := nitro.SimulatedRoots(slices.Concat(good, []byte("\n"), good, rootPEM(t, elliptic.P384(), func(*x509.Certificate) {}))); err != nil || len(r.Fingerprints()) != 2 || !r.Simulated() {
		t.Fatalf("two roots, one of them twice: %v, %v", r.Fingerprints(), err)
	}
	for name, c := range map[string]struct {
		pem  []byte
		want string
	}{
		"nothing":           {nil, "no certificate"},
		"a sentence":        {[]byte("no PEM at all"), "not PEM"},
		"text behind it":    {slices.Concat(good, []byte("and more")), "not PEM"},
		"a private key":     {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), "want CERTIFICATE"},
		"garbage":           {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), "x509"},
		"not a CA":          {rootPEM(t, elliptic.P384(), func(c *x509.Certificate) { c.IsCA = false }), "not a CA"},
		"no keyCertSign":    {rootPEM(t, elliptic.P384(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "not a CA"},
		"P-256":             {rootPEM(t, elliptic.P256(), func(*x509.Certificate) {}), "P-384"},
		"SHA-256":           {rootPEM(t, elliptic.P384(), func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA256 }), "SHA-384"},
		"another issuer":    {rootPEM(t, elliptic.P384(), func(c *x509.Certificate) { c.Issuer.CommonName = "another" }), "issuer and subject"},
		"another signer":    {rootPEM(t, elliptic.P384(), func(c *x509.Certificate) { c.Issuer.CommonName = "a root" }), "not self-signed"},
		"name constraints":  {rootPEM(t, elliptic.P384(), func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} }), "not accepted"},
		"a good one, a bad": {slices.Concat(good, rootPEM(t, elliptic.P256(), func(*x509.Certificate) {})), "P-384"},
	} {
		if r, err := nitro.SimulatedRoots(c.pem); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: roots %v, error %v, want one that says %q", name, r.Fingerprints(), err, c.want)
		}
	}
	if _, err := nitro.New(nitro.Roots{}); err == nil {
		t.Error("a verifier without roots was built")
	}
}

func TestHardwareAndSimulationNeverMix(t *testing.T) {
	a, sim := simulated(t)
	if !sim.Simulated() || hardware(t).Simulated() {
		t.Error("a verifier does not know what its roots are")
	}
	body := mint(t, a, simnitro.Document{})
	got, err := hardware(t).Authenticate(t.Context(), evidence(body), epoch)
	wantRefusal(t, got, err, nitro.CheckChainRoot)
	if c := accept(t, sim, body, epoch); !c.Simulated {
		t.Error("the claims of a simulated document do not say so")
	}
	other, _ := simulated(t)
	got, err = sim.Authenticate(t.Context(), evidence(mint(t, other, simnitro.Document{})), epoch)
	wantRefusal(t, got, err, nitro.CheckChainRoot)
}

func TestARecordedDocumentIsRefusedBySimulatedRoots(t *testing.T) {
	_, sim := simulated(t)
	for _, r := range recordings(t) {
		if _, refused := refusedRecordings[r.name]; refused {
			continue
		}
		got, err := sim.Authenticate(t.Context(), evidence(r.body), r.at)
		wantRefusal(t, got, err, nitro.CheckChainRoot)
		if c := accept(t, hardware(t), r.body, r.at); c.Simulated {
			t.Error("hardware's claims say simulated")
		}
		return
	}
}

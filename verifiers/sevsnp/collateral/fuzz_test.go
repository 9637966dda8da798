package collateral

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

func fuzzRoots(f *testing.F) (*simsnp.Authority, sevsnp.Roots) {
	f.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{})
	if err != nil {
		f.Fatal(err)
	}
	roots, err := sevsnp.SimulatedRoots(a.RootsPEM())
	if err != nil {
		f.Fatal(err)
	}
	return a, roots
}

// What verifies names its own file, and the name can be taken apart again.
func FuzzCertificatesAndCRLs(f *testing.F) {
	a, roots := fuzzRoots(f)
	for _, p := range simsnp.Products() {
		c, err := a.Chip(p, "x")
		if err != nil {
			f.Fatal(err)
		}
		vcek, err := c.VCEK(p.DefaultTCB())
		if err != nil {
			f.Fatal(err)
		}
		vlek, err := a.VLEK(p, simsnp.DefaultCSP, p.DefaultTCB())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(vcek)
		f.Add(vlek)
		f.Add(a.Chain(p).ASVK.Raw)
	}
	w := httptest.NewRecorder()
	a.KDS(simsnp.KDSOptions{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/vcek/v1/Milan/crl", nil))
	f.Add(w.Body.Bytes())
	// Under no roots everything is read and nothing is signed rightly: RSA-4096
	// would leave time for little else. What is signed rightly is known beforehand.
	good := make(map[[32]byte]bool)
	for _, p := range simsnp.Products() {
		good[digestOf(a.Chain(p).ASVK.Raw)] = true
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		t1 := trust{}
		if good[digestOf(der)] {
			t1.roots = roots
		}
		check := func(o *Object, err error) {
			if (o == nil) == (err == nil) {
				t.Fatalf("object %v and error %v", o, err)
			}
			if err != nil {
				return
			}
			if n, ok := parseName(fileOf(o)); !ok || n.product != o.Product {
				t.Fatalf("file name %q is not taken apart", fileOf(o))
			}
		}
		check(t1.certificate(der))
		for _, at := range slots(roots) {
			check(t1.crl(der, at))
		}
	})
}

func FuzzFileNames(f *testing.F) {
	for _, s := range []string{
		"vcek.milan." + strings.Repeat("0a", 64) + ".1-2-3-4.der", "vcek.turin." + strings.Repeat("0a", 8) + ".0-1-2-3-255.der",
		"vlek.genoa." + strings.Repeat("0a", 16) + ".1-2-3-4.der", "ask.milan." + strings.Repeat("0a", 32) + ".der", "crl.turin.vlek.der",
		"vcek.milan.00.01-2-3-4.der", "../x", "bundles.json", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := parseName(s)
		if !ok {
			return
		}
		if strings.ContainsAny(s, "/\\\x00") {
			t.Fatalf("%q passed for a file name", s)
		}
		if n.kind == fileVCEK {
			w := Object{Kind: VCEK, Product: n.product, ChipID: unhex(n.middle)}
			tcb := tcbOf(n)
			w.TCB = &tcb
			if fileOf(&w) != s {
				t.Fatalf("%q reads back as %q", s, fileOf(&w))
			}
		}
	})
}

func FuzzBundles(f *testing.F) {
	seed := sha256.Sum256([]byte("fuzz"))
	key := ed25519.NewKeyFromSeed(seed[:])
	at := time.Unix(1_700_000_000, 0)
	doc, err := NewBundle([]*Object{{Kind: CRL, Product: "milan", SigningKey: "vcek", DER: []byte{1}}, {Kind: VCEK, DER: []byte{2}}}, at, time.Hour).Sign(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add(doc[:len(doc)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := OpenBundle(b, []crypto.PublicKey{key.Public()}, at)
		if (got == nil) == (err == nil) {
			t.Fatalf("bundle %v and error %v", got, err)
		}
		if err == nil && string(b) != string(doc) {
			t.Fatalf("a bundle opened that was never signed: %x", b)
		}
	})
}

// FuzzAnswers gives a KDS's answers: whatever it says, there is a result or an
// error of kind Unavailable.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := certificates(b)
		if err == nil && len(certs) > len(b)+1 {
			t.Fatal("more certificates than bytes")
		}
	})
}

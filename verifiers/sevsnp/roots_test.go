package sevsnp_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

func TestTheBuiltInRootsAreThoseOfTheLibrary(t *testing.T) {
	r := sevsnp.HardwareRoots()
	want := map[string]string{
		sevsnp.Milan: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
		sevsnp.Genoa: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
		sevsnp.Turin: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
	}
	if diff := cmp.Diff(want, r.Fingerprints()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.Simulated() {
		t.Error("AMD's roots are said to be simulated")
	}
	for _, p := range sevsnp.Products() {
		lib, err := trust.GetDefaultRootCerts(title(p))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Root(p).Raw, lib.ProductCerts.Ark.Raw) {
			t.Errorf("%s: another ARK than the library's", p)
		}
		if got := r.Issuers(p, sevsnp.VCEK); len(got) != 1 || !bytes.Equal(got[0].Raw, lib.ProductCerts.Ask.Raw) {
			t.Errorf("%s: another ASK than the library's", p)
		}
	}
	for p, text := range map[string][]byte{sevsnp.Milan: trust.AskArkMilanVlekBytes, sevsnp.Genoa: trust.AskArkGenoaVlekBytes, sevsnp.Turin: trust.AskArkTurinVlekBytes} {
		asvk := r.Issuers(p, sevsnp.VLEK)
		if len(asvk) != 1 || !slices.ContainsFunc(certificates(t, text), asvk[0].Equal) {
			t.Errorf("%s: another ASVK than the library's", p)
		}
	}
}

func certificates(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func TestTheBuiltInRootsAreTheRecordedOnes(t *testing.T) {
	r := sevsnp.HardwareRoots()
	for _, v := range vectors.Load(t, "sevsnp") {
		if !strings.HasSuffix(v.Name, "/roots") {
			continue
		}
		n := 0
		for _, f := range v.Files {
			for _, c := range certificates(t, v.Read(t, f[strings.LastIndex(f, "/")+1:])) {
				n++
				found := false
				for _, p := range sevsnp.Products() {
					for _, own := range append([]*x509.Certificate{r.Root(p)}, slices.Concat(r.Issuers(p, sevsnp.VCEK), r.Issuers(p, sevsnp.VLEK))...) {
						found = found || own.Equal(c)
					}
				}
				if !found {
					t.Errorf("%s holds %q, which is not built in", f, c.Subject.CommonName)
				}
			}
			if _, err := sevsnp.SimulatedRoots(v.Read(t, f[strings.LastIndex(f, "/")+1:])); err == nil || !strings.Contains(err.Error(), "AMD") {
				t.Errorf("%s as simulated roots: %v", f, err)
			}
		}
		if n != 12 {
			t.Errorf("%d recorded certificates, want 12", n)
		}
		return
	}
	t.Fatal("no recorded roots")
}

func TestOnlyGoodSimulatedRootsAreTaken(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	l := w.lines[sevsnp.Milan]
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ark := func(cn string, key *rsa.PrivateKey, change func(*x509.Certificate)) []byte {
		return certPEM(w.ca(t, cn, 1, key.Public(), nil, key, change))
	}
	ask := func(signer crypto.Signer, change func(*x509.Certificate)) []byte {
		return slices.Concat(certPEM(l.ark), certPEM(w.ca(t, "SEV-Milan", 2, w.keys.ask.Public(), l.ark, signer, change)))
	}
	same := func(*x509.Certificate) {}
	good := certPEM(l.ark, l.ask, l.asvk)
	for name, text := range map[string][]byte{"three": good, "twice": slices.Concat(good, []byte("\n"), good), "an ARK alone": certPEM(l.ark)} {
		r, err := sevsnp.SimulatedRoots(text)
		if err != nil || !r.Simulated() || !slices.Equal(r.Products(), []string{sevsnp.Milan}) {
			t.Errorf("%s: %v, %v", name, r.Products(), err)
		}
	}
	for name, c := range map[string]struct {
		pem  []byte
		want string
	}{
		"nothing":              {nil, "no certificate"},
		"a sentence":           {[]byte("no PEM at all"), "not PEM"},
		"text behind it":       {slices.Concat(good, []byte("and more")), "not PEM"},
		"a private key":        {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), "want CERTIFICATE"},
		"garbage":              {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), "x509"},
		"an ASK alone":         {certPEM(l.ask), "no ARK"},
		"two ARKs":             {slices.Concat(certPEM(l.ark), ark("ARK-Milan", w.keys.ask, same)), "two ARKs"},
		"unknown line":         {ark("ARK-Rome", w.keys.ark, same), "common name"},
		"another name":         {ark("A root", w.keys.ark, same), "common name"},
		"not a CA":             {ark("ARK-Milan", w.keys.ark, func(c *x509.Certificate) { c.IsCA = false }), "not a CA"},
		"no cRLSign":           {ark("ARK-Milan", w.keys.ark, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), "not a CA"},
		"RSA-2048":             {ark("ARK-Milan", small, same), "RSA-4096"},
		"PKCS #1":              {ark("ARK-Milan", w.keys.ark, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA }), "PSS"},
		"name constraints":     {ark("ARK-Milan", w.keys.ark, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} }), "not accepted"},
		"not self-signed":      {certPEM(w.ca(t, "ARK-Milan", 1, w.keys.ask.Public(), l.ark, w.keys.ark, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })), "not self-signed"},
		"ASK by somebody else": {ask(w.keys.asvk, same), "not signed by the ARK"},
		"ASK that is no CA":    {ask(w.keys.ark, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }), "not a CA"},
		"ASK of another line":  {slices.Concat(certPEM(l.ark), certPEM(w.lines[sevsnp.Genoa].ask)), "no ARK"},
	} {
		if r, err := sevsnp.SimulatedRoots(c.pem); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: roots %v, error %v, want one that says %q", name, r.Fingerprints(), err, c.want)
		}
	}
	if _, err := sevsnp.New(sevsnp.Roots{}); err == nil {
		t.Error("a verifier without roots was built")
	}
	if _, err := sevsnp.New(sevsnp.HardwareRoots(), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Grace: -1})); err == nil {
		t.Error("a negative grace was accepted")
	}
}

func TestAMDsRootsAreRefusedAsSimulatedOnes(t *testing.T) {
	for _, text := range [][]byte{trust.AskArkMilanVcekBytes, trust.AskArkGenoaVlekBytes, trust.AskArkTurinVcekBytes} {
		if _, err := sevsnp.SimulatedRoots(text); err == nil || !strings.Contains(err.Error(), "AMD") {
			t.Errorf("got %v", err)
		}
	}
}

func TestHardwareAndSimulationNeverMix(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t)
	if !v.Simulated() || hardware(t).Simulated() || v.Platform() != attest.AMDSEVSNP {
		t.Error("a verifier does not know what it is")
	}
	m := w.mint(t, order{})
	got, err := hardware(t).Authenticate(t.Context(), m.evidence(), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChainRoot)
	if c := accept(t, v, m.evidence(), epoch); !c.Simulated {
		t.Error("the claims of a simulated report do not say so")
	}
	ev, at := moduleReport()
	got, err = v.Authenticate(t.Context(), ev, at)
	wantRefusal(t, got, err, sevsnp.CheckChainRoot)
	if c := accept(t, hardware(t), ev, at); c.Simulated {
		t.Error("hardware's claims say simulated")
	}
}

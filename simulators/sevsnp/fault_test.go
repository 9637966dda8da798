package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-sev-guest/verify"

	"github.com/assay-project/assay/simulators/internal/fault"
)

// namedChecks are the verifier's checks that evidence alone can fail.
var namedChecks = []string{
	"size", "report_version", "report_signature_algorithm", "report_signing_key", "report_policy", "report_vmpl",
	"report_reserved", "signature_encoding",
	"endorsements", "endorsement_missing", "endorsement_extensions", "product", "product_mismatch",
	"tcb_certificate", "chip_id", "csp_id",
	"chain_root", "chain_algorithm", "chain_ca", "chain_extension", "chain_signature", "chain_validity",
	"crl_signature", "crl_missing", "crl_validity", "crl_revoked_ask", "crl_revoked_endorsement",
	"report_signature", "tcb_reported", "tcb_committed", "tcb_launch", "abi", "binding_report_data",
}

func TestEveryNamedCheckHasAFaultForEveryProduct(t *testing.T) {
	for _, f := range Faults() {
		if f.Check != "" && !slices.Contains(namedChecks, f.Check) {
			t.Errorf("fault %s: check %q is none of the verifier's", f.Name, f.Check)
		}
	}
	for _, p := range Products() {
		for _, k := range []SigningKey{VCEK, VLEK} {
			for _, c := range namedChecks {
				// A VLEK vouches for no chip, and Turin has no reports without a CPUID.
				if c == "chip_id" && k == VLEK || c == "product_mismatch" && p == Turin {
					continue
				}
				if !slices.ContainsFunc(Faults(), func(f Fault) bool { return f.Check == c && f.Applies(p, k) }) {
					t.Errorf("no fault for check %s on %s with a %s", c, p, k)
				}
			}
		}
	}
}

func TestFaultsAreWellNamed(t *testing.T) {
	var labels []fault.Label
	for _, f := range Faults() {
		labels = append(labels, fault.Label{Name: f.Name, Description: f.Description, Check: f.Check, Kind: f.Kind, Stage: f.Stage})
		if got, ok := FaultByName(f.Name); !ok || got.Check != f.Check {
			t.Errorf("FaultByName(%q) = %v, %v", f.Name, got, ok)
		}
	}
	for _, c := range fault.Complaints(labels) {
		t.Error(c)
	}
	if _, ok := FaultByName("no-such-fault"); ok {
		t.Error("a fault that does not exist was found")
	}
}

func TestAFaultThatMakesNoSenseHereIsRefused(t *testing.T) {
	a := testAuthority(t)
	for name, c := range map[string]struct {
		product Product
		key     SigningKey
	}{
		"extension-fmc-missing": {Milan, VCEK},
		"extension-fmc-milan":   {Turin, VCEK},
		"chip-other":            {Milan, VLEK},
		"csp-missing":           {Milan, VCEK},
	} {
		f := faultNamed(t, name)
		if f.Applies(c.product, c.key) {
			t.Errorf("%s applies to a %s on %s", name, c.key, c.product)
		}
		if _, err := testChip(t, a, c.product).Launch(Launch{SigningKey: c.key}, f); err == nil {
			t.Errorf("%s: launched", name)
		}
	}
}

// faulty is a guest with a fault.
type faulty struct {
	*Guest
	fault Fault
	key   SigningKey
}

// launched are the guests with faults of all tests, and the endorsements of
// guests without any that were launched before and after them: every RSA-4096
// signature takes 10 ms.
type launched struct {
	guests        []faulty
	before, after [][]byte
}

var allFaulty = sync.OnceValues(func() (*launched, error) {
	a, err := shared()
	if err != nil {
		return nil, err
	}
	l := new(launched)
	if l.before, err = faultless(a); err != nil {
		return nil, err
	}
	for _, f := range Faults() {
		for i, p := range Products() {
			for j, k := range []SigningKey{VCEK, VLEK} {
				// One product and key for each fault, turn and turn about, or it takes too
				// long; those that not all can have are had by all.
				if !f.Applies(p, k) || f.products == nil && f.keys == nil && (len(f.Name)+i+j*len(Products()))%(2*len(Products())) != 0 {
					continue
				}
				c, err := a.Chip(p, "test")
				if err != nil {
					return nil, err
				}
				g, err := c.Launch(Launch{SigningKey: k}, f)
				if err != nil {
					return nil, err
				}
				l.guests = append(l.guests, faulty{g, f, k})
			}
		}
	}
	l.after, err = faultless(a)
	return l, err
})

// faultless is what guests without faults hand out, of every product and key.
func faultless(a *Authority) (endorsements [][]byte, err error) {
	for _, p := range Products() {
		c, err := a.Chip(p, "test")
		if err != nil {
			return nil, err
		}
		for _, k := range []SigningKey{VCEK, VLEK} {
			g, err := c.Launch(Launch{SigningKey: k})
			if err != nil {
				return nil, err
			}
			endorsements = append(endorsements, g.Endorsements()...)
		}
	}
	return endorsements, nil
}

func faultyGuests(t *testing.T) *launched {
	t.Helper()
	l, err := allFaulty()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A faulty report must be faulty for one reason alone. Where the fault is not
// the signature itself, the certified key has signed the faulty bytes.
func TestAFaultyReportIsSignedAllTheSame(t *testing.T) {
	signed := 0
	for _, g := range faultyGuests(t).guests {
		f := g.fault
		if slices.Contains([]string{"report_signature", "endorsement_missing"}, f.Check) ||
			slices.Contains([]string{"leaf-p521", "leaf-rsa", "report-empty"}, f.Name) {
			continue
		}
		leaf, err := x509.ParseCertificate(g.Endorsements()[0])
		if err != nil {
			if f.Name != "extension-ucode-twice" {
				t.Errorf("fault %s: %v", f.Name, err)
			}
			continue
		}
		signed++
		if !signatureHolds(testReport(t, g.Guest), leaf) {
			t.Errorf("fault %s: the report is not signed by its leaf", f.Name)
		}
	}
	if signed < 90 {
		t.Errorf("looked at %d signatures only", signed)
	}
}

// signatureHolds verifies by the standard library alone.
func signatureHolds(r []byte, leaf *x509.Certificate) bool {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return false
	}
	scalar := func(at int) *big.Int {
		b := bytes.Clone(r[at : at+48])
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	sum := sha512.Sum384(r[:signedSize])
	return ecdsa.Verify(key, sum[:], scalar(offSignatureR), scalar(offSignatureS))
}

// And where it is not in the chain, the chain is good.
func TestAFaultyReportsChainIsGood(t *testing.T) {
	a := testAuthority(t)
	chains := 0
	for _, g := range faultyGuests(t).guests {
		f := g.fault
		if strings.HasPrefix(f.Check, "chain_") || f.Check == "endorsement_missing" || f.Name == "extension-ucode-twice" {
			continue
		}
		chains++
		e := g.Endorsements()
		leaf, mid, ark := parse(t, e[0]), parse(t, e[1]), parse(t, e[2])
		c := a.Chain(g.Chip().Product())
		want := c.ASK
		if g.key == VLEK {
			want = c.ASVK
		}
		if !mid.Equal(want) || !ark.Equal(c.ARK) {
			t.Errorf("fault %s: the chain is not the authority's", f.Name)
		}
		if leaf.CheckSignatureFrom(mid) != nil || mid.CheckSignatureFrom(ark) != nil || ark.CheckSignatureFrom(ark) != nil {
			t.Errorf("fault %s: a signature in the chain does not hold", f.Name)
		}
		now := a.now()
		if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			t.Errorf("fault %s: the leaf is valid from %v to %v", f.Name, leaf.NotBefore, leaf.NotAfter)
		}
	}
	if chains < 70 {
		t.Errorf("looked at %d chains only", chains)
	}
}

// What the library refuses on its own shows that the faults are real, and that
// nothing but the fault is wrong: without it the same call accepts.
func TestTheLibraryRefusesWhatItCanSee(t *testing.T) {
	a := namedAuthority(t)
	judge := func(p Product, l Launch, f ...Fault) (err error) {
		defer func() {
			if r := recover(); r != nil {
				t.Logf("the library panics: %v", r)
			}
		}()
		return libraryVerify(t, testGuest(t, testChip(t, a, p), l, f...), libraryOptions(a, p))
	}
	if err := judge(Milan, Launch{}); err != nil {
		t.Fatal(err)
	}
	if err := judge(Milan, Launch{SigningKey: VLEK}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"report-empty", "report-short", "version-1", "version-6", "algorithm-none", "algorithm-2", "signing-key-reserved", "policy-bit-17",
		"policy-reserved", "reserved-04c", "reserved-18b", "reserved-1eb", "reserved-1ef", "reserved-208", "reserved-29f",
		"key-info-reserved", "cpuid-in-v2", "signature-r-wide", "signature-s-wide", "signature-trailing", "signature-last-byte",
		"endorsement-missing", "endorsement-other-kind", "extension-bl-missing", "extension-ucode-missing", "extension-hwid-missing",
		"extension-version-missing", "extension-product-missing", "extension-ucode-twice", "extension-snp-string", "extension-tee-wide",
		"extension-tee-negative", "extension-bl-trailing", "extension-product-utf8", "extension-hwid-short", "extension-fmc-milan",
		"cpuid-other-line", "cpuid-unknown", "product-name", "csp-in-vcek",
		"foreign-names", "foreign-root", "leaf-sha256", "leaf-pkcs1", "leaf-p256", "leaf-p521", "leaf-rsa", "leaf-extension",
		"leaf-forged", "leaf-other-signer", "leaf-signature", "leaf-expired", "leaf-not-yet-valid",
		"signature-broken", "signature-zero", "signature-huge", "signature-big-endian", "report-changed", "report-other-key", "report-other-tcb",
	} {
		if judge(Milan, Launch{}, faultNamed(t, name)) == nil {
			t.Errorf("fault %s: the library accepts the report", name)
		}
	}
	for _, name := range []string{"csp-missing", "csp-empty"} {
		if judge(Milan, Launch{SigningKey: VLEK}, faultNamed(t, name)) == nil {
			t.Errorf("fault %s: the library accepts the report", name)
		}
	}
	for _, f := range Faults() {
		if f.Check == "" || f.Stage == StageBound {
			if err := judge(Milan, Launch{}, f); err != nil {
				t.Errorf("fault %s: the report should verify: %v", f.Name, err)
			}
		}
	}
	// And these are why there is a verifier of our own.
	for _, name := range []string{"tcb-other", "chip-other", "tcb-reported", "tcb-committed", "abi-major", "crl-missing", "vmpl-4"} {
		if err := judge(Milan, Launch{}, faultNamed(t, name)); err != nil {
			t.Logf("fault %s: the library refuses it now: %v", name, err)
		}
	}
}

func TestAFaultLeavesNoTraceInTheAuthority(t *testing.T) {
	l := faultyGuests(t)
	if len(l.before) != len(l.after) || len(l.before) < 18 {
		t.Fatalf("%d endorsements before, %d after", len(l.before), len(l.after))
	}
	for i := range l.before {
		if !bytes.Equal(l.before[i], l.after[i]) {
			t.Errorf("endorsement %d is another one after the faulty guests", i)
		}
	}
	seen := make(map[string]bool)
	for _, g := range l.guests {
		seen[g.fault.Name] = true
	}
	for _, f := range Faults() {
		if !seen[f.Name] {
			t.Errorf("fault %s was not launched", f.Name)
		}
	}
}

func TestARevokedCertificateIsOnItsCRL(t *testing.T) {
	a := testAuthority(t)
	for name, index := range map[string]int{"leaf-revoked": 0, "ask-revoked": 1} {
		for _, k := range []SigningKey{VCEK, VLEK} {
			e := testGuest(t, testChip(t, a, Turin), Launch{SigningKey: k}, faultNamed(t, name)).Endorsements()
			crl, err := x509.ParseRevocationList(e[3])
			if err != nil {
				t.Fatal(err)
			}
			if err := crl.CheckSignatureFrom(a.Chain(Turin).ARK); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for i := range 3 {
				listed := slices.ContainsFunc(crl.RevokedCertificateEntries, func(r x509.RevocationListEntry) bool {
					return r.SerialNumber.Cmp(parse(t, e[i]).SerialNumber) == 0
				})
				if listed != (i == index) {
					t.Errorf("%s: endorsement %d: listed %v", name, i, listed)
				}
			}
		}
	}
}

// The library checks the ASK against a CRL, so that ours must be one to it.
func TestTheLibraryReadsTheCRL(t *testing.T) {
	a := namedAuthority(t)
	o := libraryOptions(a, Milan)
	root := o.TrustedRoots["Milan"][0]
	for _, revoked := range []bool{false, true} {
		l := Launch{CRL: true}
		var f []Fault
		if revoked {
			f = []Fault{faultNamed(t, "ask-revoked")}
		}
		g := testGuest(t, testChip(t, a, Milan), l, f...)
		crl, err := x509.ParseRevocationList(g.Endorsements()[3])
		if err != nil {
			t.Fatal(err)
		}
		root.CRL = crl
		if _, err := verify.GetCrlAndCheckRoot(root, o); (err != nil) != revoked {
			t.Errorf("revoked %v: %v", revoked, err)
		}
	}
}

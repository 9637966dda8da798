package nitro

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/lru"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func TestAPrefixIsValidOnlyWhileEachOfItsCertificatesIs(t *testing.T) {
	span := func(from, to int) *x509.Certificate {
		return &x509.Certificate{NotBefore: noon.Add(time.Duration(from) * time.Hour), NotAfter: noon.Add(time.Duration(to) * time.Hour), MaxPathLen: -1}
	}
	// The leaf outlives the instance, and the zone begins last.
	l := leafLink(rootLink(span(-100, 100)).child(span(-1, 50)).child(span(-3, 2)), span(-2, 9))
	for hours, want := range map[float64]bool{-1.01: false, -1: true, 0: true, 2: true, 2.01: false, 8: false} {
		if got := l.validAt(noon.Add(time.Duration(hours * float64(time.Hour)))); got != want {
			t.Errorf("at %+.2f h: valid %t, want %t", hours, got, want)
		}
	}
}

func TestTheCacheAnswersWithinAnEntrysValidityOnly(t *testing.T) {
	c := lru.New[digest, *link](4)
	l := &link{notBefore: noon, notAfter: noon.Add(time.Hour)}
	c.Put(digest{1}, l)
	for _, step := range []struct {
		at   time.Time
		want *link
	}{
		{noon.Add(-time.Nanosecond), nil}, {noon, l}, {noon.Add(time.Hour), l}, {noon.Add(time.Hour + time.Nanosecond), nil},
	} {
		if got := valid(c, digest{1}, step.at); got != step.want {
			t.Errorf("at %s: %v, want %v", step.at, got, step.want)
		}
	}
	if c.Len() != 0 {
		t.Error("an entry whose time has passed was kept")
	}
}

func TestTheDigestOfAPrefixDependsOnWhereEachCertificateEnds(t *testing.T) {
	seen := make(map[digest]string)
	for _, ders := range [][][]byte{
		{[]byte("ab"), []byte("c")}, {[]byte("a"), []byte("bc")}, {[]byte("abc"), {}}, {{}, []byte("abc")},
		{[]byte("a"), []byte("b")}, {[]byte("a\x00\x00\x00\x00b")}, {[]byte("a\x00\x00\x00\x01b")},
		{[]byte("c"), []byte("ab")}, {[]byte("ab"), []byte("c"), {}},
	} {
		last := digests(ders)[len(ders)-1]
		if other, dup := seen[last]; dup {
			t.Errorf("%q and %s have one digest", ders, other)
		}
		seen[last] = fmt.Sprintf("%q", ders)
	}
}

// certificates decodes a good document and remembers its chain.
func remembered(t *testing.T) (*Verifier, *document) {
	t.Helper()
	a, v := internalSetup(t)
	body, err := a.Mint(simnitro.Document{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: body}, noon); err != nil {
		t.Fatal(err)
	}
	_, doc, _ := decode(t, v, body)
	return v, doc
}

func TestARememberedIssuerIsNotTakenForALeaf(t *testing.T) {
	v, d := remembered(t)
	last := len(d.cabundle) - 1
	d.certificate, d.cabundle = d.cabundle[last], d.cabundle[:last]
	if _, err := v.verifyChain(d, noon); attest.CheckOf(err) != CheckLeafIsCA {
		t.Errorf("%v, want %s", err, CheckLeafIsCA)
	}
}

func TestARememberedLeafIsNotTakenForAnIssuer(t *testing.T) {
	v, d := remembered(t)
	d.cabundle = append(d.cabundle, d.certificate)
	if _, err := v.verifyChain(d, noon); attest.CheckOf(err) == "" {
		t.Error("a leaf served as an issuer")
	}
}

func TestAChainOfTheRootAloneIsNoLeaf(t *testing.T) {
	v, d := remembered(t)
	d.certificate, d.cabundle = d.cabundle[0], d.cabundle[:1]
	if _, err := v.verifyChain(d, noon); attest.CheckOf(err) != CheckLeafIsCA {
		t.Errorf("%v, want %s", err, CheckLeafIsCA)
	}
}

func TestConstraintsThatAreNotEvaluatedAreRefused(t *testing.T) {
	for _, c := range []struct {
		ext  pkix.Extension
		good bool
	}{
		{pkix.Extension{Id: oid(15), Critical: true}, true},                      // key usage
		{pkix.Extension{Id: oid(19), Critical: true}, true},                      // basic constraints
		{pkix.Extension{Id: oid(14)}, true},                                      // subject key id
		{pkix.Extension{Id: oid(35)}, true},                                      // authority key id
		{pkix.Extension{Id: oid(31)}, true},                                      // CRL distribution points
		{pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}}, true},               // unknown, not critical
		{pkix.Extension{Id: oid(30)}, false},                                     // name constraints
		{pkix.Extension{Id: oid(33)}, false},                                     // policy mappings
		{pkix.Extension{Id: oid(36)}, false},                                     // policy constraints
		{pkix.Extension{Id: oid(54)}, false},                                     // inhibit anyPolicy
		{pkix.Extension{Id: oid(17), Critical: true}, false},                     // subject alternative name
		{pkix.Extension{Id: oid(37), Critical: true}, false},                     // extended key usage
		{pkix.Extension{Id: asn1.ObjectIdentifier{1, 2}, Critical: true}, false}, // unknown
	} {
		if err := refusedExtension(&x509.Certificate{Extensions: []pkix.Extension{c.ext}}); (err == nil) != c.good {
			t.Errorf("extension %s, critical %t: %v", c.ext.Id, c.ext.Critical, err)
		}
	}
}

func TestPathLengthsAreCountedFromTheRootDown(t *testing.T) {
	a, v := internalSetup(t)
	body, err := a.Mint(simnitro.Document{})
	if err != nil {
		t.Fatal(err)
	}
	_, d, _ := decode(t, v, body)
	certs, err := parse(d.cabundle, 0)
	if err != nil {
		t.Fatal(err)
	}
	root := rootLink(certs[0])
	for limit, want := range map[int]string{-1: "", 3: "", 2: CheckChainPathLength, 0: CheckChainPathLength} {
		prefix := root.child(certs[0])
		prefix.below = root.below
		if limit >= 0 {
			prefix.below = limit
		}
		var got string
		for i, c := range certs[1:] {
			next, err := v.extend(prefix, c, i+1, false, noon)
			if err != nil {
				got = attest.CheckOf(err)
				break
			}
			prefix = next
		}
		if got != want {
			t.Errorf("path length %d over three CAs: %q, want %q", limit, got, want)
		}
	}
}

func TestARootOutsideItsValidityVerifiesNothing(t *testing.T) {
	a, v := internalSetup(t)
	body, err := a.Mint(simnitro.Document{})
	if err != nil {
		t.Fatal(err)
	}
	before := v.CacheStats().Signatures
	_, err = v.Authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: body}, a.Root().NotAfter.Add(time.Second))
	if attest.CheckOf(err) != CheckChainValidity {
		t.Errorf("%v, want %s", err, CheckChainValidity)
	}
	if n := v.CacheStats().Signatures - before; n != 0 {
		t.Errorf("%d signatures verified under an expired root", n)
	}
}

package nitro

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/hf/nitrite"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func internalSetup(t *testing.T) (*simnitro.Authority, *Verifier) {
	t.Helper()
	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	r, err := SimulatedRoots(a.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := New(r)
	if err != nil {
		t.Fatal(err)
	}
	return a, v
}

// decode does steps 1 of Authenticate, and builds a link for the document's
// certificate without verifying anything.
func decode(t *testing.T, v *Verifier, body []byte) (envelope, *document, *link) {
	t.Helper()
	env, err := v.modes.open(body)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := v.modes.read(env.payload)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parse([][]byte{doc.certificate}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return env, doc, leafLink(rootLink(certs[0]), certs[0])
}

func TestAPanicOfNitriteIsAMalformedError(t *testing.T) {
	a, v := internalSetup(t)
	f, ok := simnitro.FaultByName("leaf-p521")
	if !ok {
		t.Fatal("no fault leaf-p521")
	}
	body, err := a.Mint(simnitro.Document{}, f)
	if err != nil {
		t.Fatal(err)
	}
	// Nitrite is reached only by leaves on P-384. Go around that: it panics, and
	// must not take the server with it.
	_, _, leaf := decode(t, v, body)
	res, err := v.nitrite(body, leaf, noon)
	if res != nil || attest.CheckOf(err) != CheckPanic || attest.KindOf(err) != attest.Malformed {
		t.Fatalf("result %v, error %v; want no result and a malformed %s", res, err, CheckPanic)
	}
	var p *verifiers.PanicError
	if !errors.As(err, &p) || len(p.Stack) == 0 {
		t.Error("the error does not hold the panic")
	}
	if n := v.CacheStats().Panics; n != 1 {
		t.Errorf("%d panics counted, want 1", n)
	}
	// The way in front of it: a clean error, no panic, and the next document verifies.
	if _, err := v.Authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: body}, noon); attest.CheckOf(err) != CheckLeafCurve {
		t.Errorf("the P-521 leaf ended in %v, want %s", err, CheckLeafCurve)
	}
	if n := v.CacheStats().Panics; n != 1 {
		t.Errorf("Authenticate panicked inside")
	}
	good, err := a.Mint(simnitro.Document{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: good}, noon); err != nil {
		t.Errorf("the next document is refused: %v", err)
	}
}

// Nitrite, as it is used here, accepts every chain: whatever is wrong above the
// leaf is found by our own verification alone.
func TestNitritesOwnChainResultIsNotReliedOn(t *testing.T) {
	a, v := internalSetup(t)
	seen := 0
	for _, f := range simnitro.Faults() {
		switch f.Check {
		case CheckChainRoot, CheckChainOrder, CheckChainIssuer, CheckChainAlgorithm, CheckChainCA, CheckChainPathLength, CheckChainSignature, CheckLeafKeyUsage, CheckLeafIsCA:
		default:
			continue
		}
		body, err := a.Mint(simnitro.Document{}, f)
		if err != nil {
			t.Fatal(err)
		}
		env, doc, leaf := decode(t, v, body)
		if err := v.checkSignature(body, env, doc, leaf, noon); err != nil {
			t.Logf("%s: nitrite refuses it by itself: %v", f.Name, err)
			continue
		}
		seen++
		if _, err := v.Authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: body}, noon); attest.CheckOf(err) != f.Check {
			t.Errorf("%s: nitrite accepts it under its own leaf, and we end in %v, want %s", f.Name, err, f.Check)
		}
	}
	if seen < 15 {
		t.Errorf("nitrite accepted %d broken chains, expected at least 15: does it get another root than the leaf?", seen)
	}
	t.Logf("nitrite accepts %d documents with a broken chain when the leaf is its root; each is refused before it is asked", seen)
}

func TestNitritesResultMustBeOfTheBytesThatWeDecoded(t *testing.T) {
	a, v := internalSetup(t)
	body, err := a.Mint(simnitro.Document{})
	if err != nil {
		t.Fatal(err)
	}
	env, doc, leaf := decode(t, v, body)
	fresh := func() *nitrite.Result {
		res, err := v.nitrite(body, leaf, noon)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if err := agree(fresh(), env, doc); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*nitrite.Result){
		"signature not OK":    func(r *nitrite.Result) { r.SignatureOK = false },
		"no document":         func(r *nitrite.Result) { r.Document = nil },
		"another protected":   func(r *nitrite.Result) { r.Protected = []byte{0xa0} },
		"another payload":     func(r *nitrite.Result) { r.Payload = append(bytes.Clone(r.Payload), 0) },
		"another signature":   func(r *nitrite.Result) { r.Signature = r.Signature[1:] },
		"another certificate": func(r *nitrite.Result) { r.Document.Certificate = r.Document.CABundle[0] },
	} {
		res := fresh()
		change(res)
		if err := agree(res, env, doc); attest.CheckOf(err) != CheckCOSESignature {
			t.Errorf("%s: %v, want %s", name, err, CheckCOSESignature)
		}
	}
	if err := agree(nil, env, doc); attest.CheckOf(err) != CheckCOSESignature {
		t.Errorf("no result: %v", err)
	}
}

// Nitrite returns a Result beside an error. It must not get out.
func TestAResultBesideAnErrorIsNeverUsed(t *testing.T) {
	a, v := internalSetup(t)
	f, _ := simnitro.FaultByName("signature-broken")
	body, err := a.Mint(simnitro.Document{}, f)
	if err != nil {
		t.Fatal(err)
	}
	_, _, leaf := decode(t, v, body)
	if res, err := nitrite.Verify(body, nitrite.VerifyOptions{Roots: leaf.pool, CurrentTime: noon}); err == nil || res == nil {
		t.Fatalf("nitrite no longer returns both: %v, %v", res, err)
	}
	if res, err := v.nitrite(body, leaf, noon); res != nil || attest.CheckOf(err) != CheckCOSESignature {
		t.Errorf("result %v, error %v", res, err)
	}
}

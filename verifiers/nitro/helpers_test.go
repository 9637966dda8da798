package nitro_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/nitro"
)

// hardware returns a verifier under AWS's root with an empty cache.
func hardware(t testing.TB, opts ...nitro.Option) *nitro.Verifier {
	t.Helper()
	v, err := nitro.New(nitro.HardwareRoots(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func evidence(body []byte) attest.Evidence {
	return attest.Evidence{Platform: attest.AWSNitro, Body: body}
}

// kindOf is the kind that the table gives to a check.
func kindOf(t testing.TB, check string) attest.Kind {
	t.Helper()
	return checktest.KindOf(t, nitro.Checks(), check)
}

// wantRefusal fails unless the verifier returned an error of exactly this check,
// of the kind that the table gives to it, and nothing beside it.
func wantRefusal(t testing.TB, got *attest.Claims, err error, check string) {
	t.Helper()
	checktest.Refused(t, nitro.Checks(), got, err, check)
}

// epoch is the time at which simulated documents are minted.
var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// simulated is a simulated AWS with a clock that stands at epoch, and a verifier
// under its root with an empty cache.
func simulated(t testing.TB, opts ...nitro.Option) (*simnitro.Authority, *nitro.Verifier) {
	t.Helper()
	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	return a, verifierOf(t, a, opts...)
}

func verifierOf(t testing.TB, a *simnitro.Authority, opts ...nitro.Option) *nitro.Verifier {
	t.Helper()
	roots, err := nitro.SimulatedRoots(a.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := nitro.New(roots, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mint(t testing.TB, a *simnitro.Authority, d simnitro.Document, faults ...simnitro.Fault) []byte {
	t.Helper()
	body, err := a.Mint(d, faults...)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func faultNamed(t testing.TB, name string) simnitro.Fault {
	t.Helper()
	f, ok := simnitro.FaultByName(name)
	if !ok {
		t.Fatalf("the simulator has no fault %q", name)
	}
	return f
}

// pool is the simulated root, for nitrite.
func pool(a *simnitro.Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Root())
	return p
}

// challenge is a complete challenge, and its binding.
func challenge(t testing.TB) (attest.Challenge, attest.Binding) {
	t.Helper()
	ch := attest.Challenge{
		Platform: attest.AWSNitro, TrustDomain: "simulated.example.org", ServerID: "spiffe://simulated.example.org/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Purpose: attest.Boot,
		Keys: []attest.BoundKey{{SPKI: []byte("the first key"), RequestedID: ""}, {SPKI: []byte("the second key"), RequestedID: ""}},
	}
	b, err := ch.Binding()
	if err != nil {
		t.Fatal(err)
	}
	return ch, b
}

// answer is the document that answers a binding.
func answer(b attest.Binding) simnitro.Document {
	return simnitro.Document{UserData: nitro.UserData(b), Nonce: b.Nonce[:], PublicKey: b.Keys[0].SPKI}
}

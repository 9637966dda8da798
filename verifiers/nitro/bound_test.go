package nitro_test

import (
	"math/big"
	"testing"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
)

func TestADocumentThatAnswersTheChallengeIsVerified(t *testing.T) {
	a, v := simulated(t)
	set, err := verifiers.NewSet(v)
	if err != nil {
		t.Fatal(err)
	}
	ch, b := challenge(t)
	got, err := set.Verify(t.Context(), evidence(mint(t, a, answer(b))), ch, nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if c := got.Claims(); c.Platform != attest.AWSNitro || !c.Simulated || c.Instance() == "" {
		t.Errorf("claims %+v", c)
	}
}

// A document that answers one challenge answers no other, whatever differs.
func TestADocumentAnswersOneChallengeOnly(t *testing.T) {
	a, v := simulated(t)
	set, err := verifiers.NewSet(v)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*attest.Challenge)
		check  string
	}{
		"another connection":    {func(c *attest.Challenge) { c.Exporter[31] ^= 1 }, nitro.CheckBindingUserData},
		"another nonce":         {func(c *attest.Challenge) { c.Nonce[31] ^= 1 }, nitro.CheckBindingUserData},
		"another trust domain":  {func(c *attest.Challenge) { c.TrustDomain = "other.example.org" }, nitro.CheckBindingUserData},
		"another server":        {func(c *attest.Challenge) { c.ServerID += "2" }, nitro.CheckBindingUserData},
		"another purpose":       {func(c *attest.Challenge) { c.Purpose = attest.Renew }, nitro.CheckBindingUserData},
		"another second key":    {func(c *attest.Challenge) { c.Keys[1].SPKI = []byte("a key of somebody else") }, nitro.CheckBindingUserData},
		"keys in another order": {func(c *attest.Challenge) { c.Keys[0], c.Keys[1] = c.Keys[1], c.Keys[0] }, nitro.CheckBindingUserData},
		"another requested id":  {func(c *attest.Challenge) { c.Keys[0].RequestedID = "spiffe://simulated.example.org/admin" }, nitro.CheckBindingUserData},
		"one key more":          {func(c *attest.Challenge) { c.Keys = append(c.Keys, attest.BoundKey{SPKI: []byte("3")}) }, nitro.CheckBindingUserData},
		"one key less":          {func(c *attest.Challenge) { c.Keys = c.Keys[:1] }, nitro.CheckBindingUserData},
	} {
		_, b := challenge(t)
		body := mint(t, a, answer(b))
		other, _ := challenge(t)
		c.change(&other)
		if got, err := set.Verify(t.Context(), evidence(body), other, nil, epoch); got != nil || attest.CheckOf(err) != c.check || attest.KindOf(err) != attest.Untrusted {
			t.Errorf("%s: %v, want an untrusted %s", name, err, c.check)
		}
	}
}

// Evidence that was collected outside an attestation uses the same place with
// another tag, and never attests.
func TestCollectedEvidenceDoesNotAttest(t *testing.T) {
	a, v := simulated(t)
	_, b := challenge(t)
	collected, err := attest.CollectedBinding(b.Nonce[:])
	if err != nil {
		t.Fatal(err)
	}
	for name, userData := range map[string][]byte{"bare": collected[:], "B without its tag": b.B[:], "under the tag": nitro.UserData(attest.Binding{B: collected})} {
		d := answer(b)
		d.UserData = userData
		if err := v.Bound(accept(t, v, mint(t, a, d), epoch), b); attest.CheckOf(err) != nitro.CheckBindingUserData {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ECDSA signatures are malleable: (r, n-s) verifies where (r, s) does. The claims
// are the same, so nothing is gained, but a document's digest proves nothing new.
func TestAMirroredSignatureVerifiesWithTheSameClaims(t *testing.T) {
	a, v := simulated(t)
	body := mint(t, a, simnitro.Document{})
	n, ok := new(big.Int).SetString("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
	if !ok {
		t.Fatal("the order of P-384")
	}
	s := body[len(body)-48:]
	want := accept(t, v, body, epoch)
	n.Sub(n, new(big.Int).SetBytes(s)).FillBytes(s)
	if got := accept(t, v, body, epoch); got.Nitro.ModuleID != want.Nitro.ModuleID || !got.Nitro.Timestamp.Equal(want.Nitro.Timestamp) {
		t.Error("other claims")
	}
}

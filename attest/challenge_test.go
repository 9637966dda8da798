package attest_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

// complete is a challenge with every part set.
func complete() attest.Challenge {
	return attest.Challenge{
		Platform:    attest.AWSNitro,
		TrustDomain: "attested.example.org",
		ServerID:    "spiffe://attested.example.org/assay/server",
		Exporter:    [32]byte(bytes.Repeat([]byte{0xe1}, 32)),
		Nonce:       attest.Nonce(bytes.Repeat([]byte{0x17}, 32)),
		Keys:        []attest.BoundKey{{SPKI: []byte("first key"), RequestedID: "spiffe://attested.example.org/a"}, {SPKI: []byte("second key")}},
		Purpose:     attest.Boot,
	}
}

func binding(t *testing.T, c attest.Challenge) attest.Binding {
	t.Helper()
	b, err := c.Binding()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnyChangeOfAChallengeChangesItsBinding(t *testing.T) {
	changes := map[string]func(*attest.Challenge){
		"platform":       func(c *attest.Challenge) { c.Platform = attest.TPM2 },
		"trust domain":   func(c *attest.Challenge) { c.TrustDomain = "attested.example.com" },
		"server id":      func(c *attest.Challenge) { c.ServerID = "spiffe://attested.example.org/assay/other" },
		"exporter":       func(c *attest.Challenge) { c.Exporter[31] ^= 1 },
		"nonce":          func(c *attest.Challenge) { c.Nonce[0] ^= 0x80 },
		"purpose":        func(c *attest.Challenge) { c.Purpose = attest.Renew },
		"first key":      func(c *attest.Challenge) { c.Keys[0].SPKI = []byte("first kez") },
		"requested id":   func(c *attest.Challenge) { c.Keys[0].RequestedID = "" },
		"order of keys":  func(c *attest.Challenge) { c.Keys[0], c.Keys[1] = c.Keys[1], c.Keys[0] },
		"a key less":     func(c *attest.Challenge) { c.Keys = c.Keys[:1] },
		"a key more":     func(c *attest.Challenge) { c.Keys = append(c.Keys, attest.BoundKey{SPKI: []byte("third")}) },
		"id moved along": func(c *attest.Challenge) { c.Keys[1].RequestedID, c.Keys[0].RequestedID = c.Keys[0].RequestedID, "" },
	}
	want := binding(t, complete()).B
	for name, change := range changes {
		c := complete()
		change(&c)
		if binding(t, c).B == want {
			t.Errorf("changing the %s left the binding as it was", name)
		}
	}
	if binding(t, complete()).B != want {
		t.Error("the same challenge gave two bindings")
	}
}

func TestAnIncompleteChallengeHasNoBinding(t *testing.T) {
	missing := map[string]func(*attest.Challenge){
		"platform":        func(c *attest.Challenge) { c.Platform = "" },
		"known platform":  func(c *attest.Challenge) { c.Platform = "aws-nitro-tpm" },
		"trust domain":    func(c *attest.Challenge) { c.TrustDomain = "" },
		"server id":       func(c *attest.Challenge) { c.ServerID = "" },
		"exporter":        func(c *attest.Challenge) { c.Exporter = [32]byte{} },
		"nonce":           func(c *attest.Challenge) { c.Nonce = attest.Nonce{} },
		"keys":            func(c *attest.Challenge) { c.Keys = nil },
		"17 keys":         func(c *attest.Challenge) { c.Keys = make([]attest.BoundKey, 17) },
		"content of key":  func(c *attest.Challenge) { c.Keys[1].SPKI = nil },
		"purpose":         func(c *attest.Challenge) { c.Purpose = "" },
		"a known purpose": func(c *attest.Challenge) { c.Purpose = "rekey" },
	}
	for name, remove := range missing {
		c := complete()
		remove(&c)
		b, err := c.Binding()
		if attest.KindOf(err) != attest.Malformed || attest.CheckOf(err) == "" {
			t.Errorf("without %s: got error %v, want a malformed challenge", name, err)
		}
		if b.B != [32]byte{} {
			t.Errorf("without %s: a binding came with the error", name)
		}
	}
}

func TestCollectedEvidenceIsNeverBoundToAChallenge(t *testing.T) {
	c := complete()
	got, err := attest.CollectedBinding(c.Nonce[:])
	if err != nil {
		t.Fatal(err)
	}
	if got == binding(t, c).B {
		t.Error("the collected binding equals that of an attestation")
	}
	if _, err := attest.CollectedBinding(nil); attest.KindOf(err) != attest.Malformed {
		t.Errorf("an empty nonce was accepted: %v", err)
	}
}

func TestAPlatformIsOneOfTheKnownNames(t *testing.T) {
	for _, p := range attest.Platforms() {
		if got, err := attest.ParsePlatform(string(p)); err != nil || got != p {
			t.Errorf("%s: got %q, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "AWS-NITRO", "aws-nitro ", "sgx", strings.Repeat("x", 1<<16)} {
		p, err := attest.ParsePlatform(s)
		if err == nil || p != "" {
			t.Errorf("%.20q was accepted as %q", s, p)
		}
		if len(err.Error()) > 300 {
			t.Errorf("an error of %d bytes for a long name", len(err.Error()))
		}
	}
}

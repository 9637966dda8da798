package svid

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

var td = spiffeid.RequireTrustDomainFromString("attested.example.org")

// verifierKeys is a document with the current key and the next one.
func verifierKeys(t testing.TB) *VerifierKeys {
	t.Helper()
	return &VerifierKeys{
		TrustDomain: td,
		Sequence:    3,
		IssuedAt:    issued.Add(-time.Hour),
		NextUpdate:  issued.Add(7 * 24 * time.Hour),
		Keys: []VerifierKey{
			{Key: &testKey(t, "verifier").PublicKey, NotBefore: issued.Add(-24 * time.Hour), NotAfter: issued.Add(30 * 24 * time.Hour)},
			{Key: &testKey(t, "next verifier").PublicKey, NotBefore: issued.Add(29 * 24 * time.Hour), NotAfter: issued.Add(60 * 24 * time.Hour)},
		},
	}
}

func signed(t testing.TB, k *VerifierKeys) []byte {
	t.Helper()
	doc, err := k.Sign(testKey(t, "verifier root"))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func root(t testing.TB) *ecdsa.PublicKey { return &testKey(t, "verifier root").PublicKey }

func TestVerifierKeysReadBackAsTheyWere(t *testing.T) {
	want := verifierKeys(t)
	doc := signed(t, want)
	t.Logf("%d bytes", len(doc))
	got, err := ParseVerifierKeys(doc, root(t), issued)
	if err != nil {
		t.Fatal(err)
	}
	byPoint := cmp.Comparer(func(a, b *ecdsa.PublicKey) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, got, byPoint, cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestADocumentSignedByAForeignRootIsRefused(t *testing.T) {
	doc, err := verifierKeys(t).Sign(testKey(t, "stranger"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseVerifierKeys(doc, root(t), issued)
	wantError(t, err, attest.Untrusted, "verifier_root")
}

func TestNoBitOfADocumentCanBeFlipped(t *testing.T) {
	doc := signed(t, verifierKeys(t))
	for bit := range 8 * len(doc) {
		flipped := bytes.Clone(doc)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseVerifierKeys(flipped, root(t), issued); err == nil {
			t.Errorf("bit %d flipped, and the document holds", bit)
		}
	}
	t.Logf("%d bits", 8*len(doc))
	last := bytes.Clone(doc)
	last[len(last)-1] ^= 1
	_, err := ParseVerifierKeys(last, root(t), issued)
	wantError(t, err, attest.Untrusted, "verifier_keys_signature")
}

func TestADocumentOutOfItsTimeIsRefused(t *testing.T) {
	k := verifierKeys(t)
	doc := signed(t, k)
	for _, tc := range []struct {
		at    time.Time
		check string
	}{
		{k.NextUpdate.Add(-time.Second), ""},
		{k.NextUpdate, "verifier_keys_expired"},
		{k.IssuedAt.Add(-MaxClockSkew), ""},
		{k.IssuedAt.Add(-MaxClockSkew - time.Second), "verifier_keys_future"},
	} {
		_, err := ParseVerifierKeys(doc, root(t), tc.at)
		if tc.check == "" {
			if err != nil {
				t.Errorf("at %s: %v", tc.at, err)
			}
			continue
		}
		wantError(t, err, attest.Stale, tc.check)
	}
}

// resign signs what an honest root would not.
func resign(t *testing.T, change func(*keysDocument)) []byte {
	t.Helper()
	s, err := parseSign1(signed(t, verifierKeys(t)), typeVerifierKeys)
	if err != nil {
		t.Fatal(err)
	}
	var d keysDocument
	if err := decode(s.payload, &d); err != nil {
		t.Fatal(err)
	}
	change(&d)
	payload, err := encMode.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return signKeys(t, payload)
}

func signKeys(t *testing.T, payload []byte) []byte {
	t.Helper()
	doc, err := signSign1(testKey(t, "verifier root"), typeVerifierKeys, payload)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestADocumentWithWrongContentIsRefused(t *testing.T) {
	for name, change := range map[string]func(*keysDocument){
		"no trust domain":            func(d *keysDocument) { d.TrustDomain = "" },
		"a trust domain with scheme": func(d *keysDocument) { d.TrustDomain = "spiffe://" + d.TrustDomain },
		"a trust domain in capitals": func(d *keysDocument) { d.TrustDomain = strings.ToUpper(d.TrustDomain) },
		"no sequence":                func(d *keysDocument) { d.Sequence = 0 },
		"no time":                    func(d *keysDocument) { d.IssuedAt = 0 },
		"an update before the issue": func(d *keysDocument) { d.NextUpdate = d.IssuedAt },
		"a year out of range":        func(d *keysDocument) { d.NextUpdate = maxTime + 1 },
		"no key":                     func(d *keysDocument) { d.Keys = []keyEntry{} },
		"a key twice":                func(d *keysDocument) { d.Keys[1].Key = d.Keys[0].Key },
		"a key off the curve":        func(d *keysDocument) { d.Keys[0].Key.X[0] ^= 1 },
		"a short coordinate":         func(d *keysDocument) { d.Keys[0].Key.X = d.Keys[0].Key.X[1:] },
		"a key on P-384":             func(d *keysDocument) { d.Keys[0].Key.Crv = crvP384 },
		"an OKP key":                 func(d *keysDocument) { d.Keys[0].Key.Kty = ktyOKP },
		"a key that is never good":   func(d *keysDocument) { d.Keys[0].NotAfter = d.Keys[0].NotBefore },
		"a key without a beginning":  func(d *keysDocument) { d.Keys[0].NotBefore = 0 },
		"too many keys": func(d *keysDocument) {
			for range maxVerifierKeys {
				d.Keys = append(d.Keys, d.Keys[0])
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseVerifierKeys(resign(t, change), root(t), issued)
			wantError(t, err, attest.Malformed, "verifier_keys_content")
		})
	}
	for name, payload := range map[string][]byte{
		"empty": {}, "an array": unhex(t, "80"), "a key entry of two": unhex(t, "a10581820102"), "not deterministic": unhex(t, "a2020101614d"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseVerifierKeys(signKeys(t, payload), root(t), issued)
			wantError(t, err, attest.Malformed, "verifier_keys_structure")
		})
	}
	_, err := ParseVerifierKeys(make([]byte, MaxVerifierKeysSize+1), root(t), issued)
	wantError(t, err, attest.Malformed, "verifier_keys_size")
	cwt, err := signSign1(testKey(t, "verifier root"), typeResult, []byte{0xa0})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseVerifierKeys(cwt, root(t), issued)
	wantError(t, err, attest.Malformed, "cose_type")
	_, err = ParseVerifierKeys(signed(t, verifierKeys(t)), ed25519.PublicKey(make([]byte, 32)), issued)
	wantError(t, err, attest.Internal, "verifier_root")
}

func TestADocumentThatWouldBeRefusedIsNotSigned(t *testing.T) {
	k := verifierKeys(t)
	k.Sequence = 0
	_, err := k.Sign(testKey(t, "verifier root"))
	wantError(t, err, attest.Internal, "verifier_keys_encode")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k = verifierKeys(t)
	_, err = k.Sign(p384)
	wantError(t, err, attest.Internal, "verifier_keys_sign")
	k.Keys[1].Key = &p384.PublicKey
	_, err = k.Sign(testKey(t, "verifier root"))
	wantError(t, err, attest.Internal, "verifier_keys_encode")
}

func TestAKeyringNeverGoesBack(t *testing.T) {
	ring, err := NewKeyring(td, root(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.VerifierKeys(td); err == nil || ring.Sequence() != 0 {
		t.Error("an empty keyring holds keys")
	}
	at := func(sequence uint64) []byte {
		k := verifierKeys(t)
		k.Sequence = sequence
		return signed(t, k)
	}
	if err := ring.Update(at(3), issued); err != nil {
		t.Fatal(err)
	}
	if err := ring.Update(at(3), issued); err != nil {
		t.Errorf("the same document again: %v", err)
	}
	wantError(t, ring.Update(at(2), issued), attest.Stale, "verifier_keys_rollback")
	changed := verifierKeys(t)
	changed.Keys = changed.Keys[:1]
	wantError(t, ring.Update(signed(t, changed), issued), attest.Stale, "verifier_keys_rollback")
	if err := ring.Update(at(4), issued); err != nil {
		t.Fatal(err)
	}
	elsewhere := verifierKeys(t)
	elsewhere.Sequence, elsewhere.TrustDomain = 9, spiffeid.RequireTrustDomainFromString("other.example.org")
	wantError(t, ring.Update(signed(t, elsewhere), issued), attest.Untrusted, "verifier_keys_domain")
	wantError(t, ring.Update([]byte("junk"), issued), attest.Malformed, "cose_tag")
	if got := ring.Sequence(); got != 4 {
		t.Errorf("sequence %d, want 4", got)
	}
	if _, err := ring.VerifierKeys(elsewhere.TrustDomain); err == nil {
		t.Error("keys for another trust domain")
	}
	if _, err := (Keyrings{nil, ring}).VerifierKeys(td); err != nil {
		t.Error(err)
	}
	if _, err := (Keyrings{ring}).VerifierKeys(elsewhere.TrustDomain); err == nil {
		t.Error("keys for another trust domain")
	}
	_, err = NewKeyring(spiffeid.TrustDomain{}, root(t))
	wantError(t, err, attest.Malformed, "verifier_root")
	_, err = NewKeyring(td, nil)
	wantError(t, err, attest.Malformed, "verifier_root")
}

func TestAKeyringFollowsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "verifier-keys")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		k := verifierKeys(t)
		k.IssuedAt, k.NextUpdate = start, start.Add(24*time.Hour)
		ring, err := NewKeyring(td, root(t))
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, ring.UpdateFile(path, start), attest.Unavailable, "verifier_keys_file")
		write(signed(t, k))
		if err := ring.UpdateFile(path, start); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- ring.Run(ctx, path, time.Minute, slog.New(slog.NewTextHandler(&log, nil))) }()
		k.Sequence++
		write(signed(t, k))
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if got := ring.Sequence(); got != k.Sequence {
			t.Errorf("sequence %d, want %d", got, k.Sequence)
		}
		write([]byte("junk"))
		time.Sleep(time.Minute)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if ring.Sequence() != k.Sequence || !strings.Contains(log.String(), "cose_tag") {
			t.Errorf("sequence %d, log %q", ring.Sequence(), log.String())
		}
		wantError(t, ring.Run(ctx, path, 0, slog.New(slog.DiscardHandler)), attest.Internal, "verifier_keys_file")
	})
	write(make([]byte, MaxVerifierKeysSize+10))
	ring, err := NewKeyring(td, root(t))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, ring.UpdateFile(path, issued), attest.Malformed, "verifier_keys_size")
}

func TestTheVerifierRootReadsBack(t *testing.T) {
	pemBytes, err := MarshalVerifierRoot(root(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseVerifierRoot(pemBytes)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(root(t)) {
		t.Error("another key came back")
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "text": []byte("root"), "two": append(bytes.Clone(pemBytes), pemBytes...),
		"a certificate": bytes.ReplaceAll(pemBytes, []byte("PUBLIC KEY"), []byte("CERTIFICATE")),
		"no key":        pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("junk")}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseVerifierRoot(bad)
			wantError(t, err, attest.Malformed, "verifier_root")
		})
	}
	if _, err := MarshalVerifierRoot(ed25519.PublicKey(make([]byte, 32))); err == nil {
		t.Error("an Ed25519 root was written")
	}
}

func TestTheMemoryOfSignaturesIsBounded(t *testing.T) {
	s := newSignatures(8)
	for i := range 1000 {
		s.add([32]byte{byte(i), byte(i >> 8)})
		if n := len(s.young) + len(s.old); n > 8 {
			t.Fatalf("%d entries", n)
		}
	}
	if !s.good([32]byte{999 & 0xff, 999 >> 8}) || s.good([32]byte{0, 0, 1}) {
		t.Error("the newest was forgotten, or one was invented")
	}
	busy := [32]byte{0xff, 0xff}
	s.add(busy)
	for i := range 100 {
		s.add([32]byte{byte(i), 7, 7})
		if !s.good(busy) {
			t.Fatal("an entry in use was forgotten")
		}
	}
	var none *signatures
	none.add(busy)
	if none.good(busy) {
		t.Error("no memory remembers")
	}
}

func FuzzVerifierKeys(f *testing.F) {
	s, err := parseSign1(signed(f, verifierKeys(f)), typeVerifierKeys)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.payload, s.raw)
	f.Fuzz(func(t *testing.T, payload, doc []byte) {
		k, err := decodeVerifierKeys(payload)
		if (k == nil) == (err == nil) {
			t.Fatal("keys and an error, or neither")
		}
		if err == nil {
			if _, err := ParseVerifierKeys(signed(t, k), root(t), k.IssuedAt); err != nil {
				t.Fatal(err)
			}
		} else if attest.KindOf(err) != attest.Malformed {
			t.Fatalf("%s: %v", attest.KindOf(err), err)
		}
		if k, err := ParseVerifierKeys(doc, root(t), issued); (k == nil) == (err == nil) {
			t.Fatal("keys and an error, or neither")
		}
	})
}

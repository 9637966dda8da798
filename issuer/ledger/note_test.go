package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The example of the signed-note specification (https://c2sp.org/signed-note)
// and of Go's package golang.org/x/mod/sumdb/note.
const (
	exampleKey  = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
	exampleNote = "If you think cryptography is the answer to your problem,\n" +
		"then you don't know what your problem is.\n" +
		"\n" +
		"— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

func TestOurNotesAreSignedNotes(t *testing.T) {
	key, err := ParseVerifierKey(exampleKey)
	if err != nil {
		t.Fatal(err)
	}
	if key.Name() != "PeterNeumann" || key.String() != exampleKey {
		t.Errorf("read %q, wrote %q", key.Name(), key.String())
	}
	text, err := openNote([]byte(exampleNote), key)
	if err != nil || !strings.HasPrefix(text, "If you think") || !strings.HasSuffix(text, "is.\n") {
		t.Errorf("text %q, %v", text, err)
	}
	for i := range exampleNote {
		b := []byte(exampleNote)
		b[i] ^= 1
		if text, err := openNote(b, key); err == nil {
			t.Errorf("byte %d changed: the note still opens, as %q", i, text)
		}
	}
}

func TestNotesThatAreNotOurs(t *testing.T) {
	key, err := ParseVerifierKey(exampleKey)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := NewVerifierKey("PeterNeumann", other.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signNote("text\n", key, other); err == nil {
		t.Error("a signature that does not verify was handed out")
	}
	foreign, err := signNote("text\n", otherKey, other)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		note []byte
		want error
	}{
		"another key of that name": {foreign, errNoteUnsigned},
		"empty":                    {nil, errNoteFormat},
		"not UTF-8":                {[]byte("a\n\xff\n\n— x y\n"), errNoteFormat},
		"control characters":       {[]byte("a\tb\n\n— x y\n"), errNoteFormat},
		"too large":                {bytes.Repeat([]byte("a"), maxNote+1), errNoteFormat},
		"no base64":                {[]byte("a\n\n— PeterNeumann ***\n"), errNoteFormat},
		"too many signatures":      {[]byte("a\n\n" + strings.Repeat("— x AAAAAAAA\n", 101)), errNoteFormat},
	} {
		if _, err := openNote(tt.note, key); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	for _, text := range []string{"", "a", "a+b", "a+b+c", exampleKey[:len(exampleKey)-4], strings.Replace(exampleKey, "c74f20a3", "c74f20a4", 1), strings.Replace(exampleKey, "Peter", "Pet r", 1)} {
		if _, err := ParseVerifierKey(text); err == nil {
			t.Errorf("ParseVerifierKey(%q) passed", text)
		}
	}
}

func TestReferencesAreDrawnAndRecognized(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		r := NewReference()
		if !isReference(r) || seen[r] {
			t.Fatalf("reference %q", r)
		}
		seen[r] = true
	}
	for _, r := range []string{"", "as-", "as-aaaaaaaaa", "as-aaaaaaaaaaa", "as-aaaaaaaaa1", "as-AAAAAAAAAA", "xx-aaaaaaaaaa"} {
		if isReference(r) {
			t.Errorf("%q passed", r)
		}
	}
}

func TestTheHashOfAnEntryIsPinned(t *testing.T) {
	// Computed with another implementation: docs/spec/ledger.md holds the same vector.
	got := entryHash("simulated.example.org", "main", 1, [32]byte{}, []byte(`{"version":1}`))
	const want = "50691ba88db2787fd980204d9b4fcc83781d440a2e1b44961f6c085eae5f533e"
	if hex.EncodeToString(got[:]) != want {
		t.Errorf("got %x", got)
	}
	// Every input counts.
	base := entryHash("a", "b", 1, [32]byte{}, []byte("x"))
	for name, h := range map[string][32]byte{
		"trust domain": entryHash("aa", "b", 1, [32]byte{}, []byte("x")),
		"chain":        entryHash("a", "bb", 1, [32]byte{}, []byte("x")),
		"the boundary": entryHash("ab", "", 1, [32]byte{}, []byte("x")),
		"sequence":     entryHash("a", "b", 2, [32]byte{}, []byte("x")),
		"previous":     entryHash("a", "b", 1, [32]byte{1}, []byte("x")),
		"payload":      entryHash("a", "b", 1, [32]byte{}, []byte("y")),
	} {
		if h == base {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestAQuotaIsOfTheHourAndBounded(t *testing.T) {
	var w window
	at := time.Unix(3600*100, 0)
	for i := range maxKeys {
		if !w.take(strings.Repeat("k", 1)+string(rune(i)), at, 1, 0) && i < 1000 {
			t.Fatalf("key %d refused", i)
		}
	}
	if w.take("one more", at, 1, 0) && len(w.counts) > maxKeys {
		t.Errorf("%d keys", len(w.counts))
	}
	if !w.take("one more", at.Add(time.Hour), 1, 0) || len(w.counts) != 1 {
		t.Errorf("the next hour begins with %d keys", len(w.counts))
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	key, err := ParseVerifierKey(exampleKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(exampleNote))
	cp := Checkpoint{TrustDomain: "a", Chain: "main", Size: 7, Time: time.Unix(1, 0)}
	f.Add([]byte(cp.text() + "\n— a AAAAAAAA\n"))
	cp.Peers = []Peer{{Chain: "b", Size: 3}, {Chain: "c.20261122t080000", Size: 0}}
	f.Add([]byte(cp.text()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseCheckpoint(b, key); err == nil && string(b) != exampleNote {
			t.Fatalf("forged %q", b)
		}
		// The text alone: what parses is canonical in its first four lines.
		if c, err := parseCheckpointText(string(b)); err == nil {
			again, err := parseCheckpointText(c.text())
			if err != nil || !reflect.DeepEqual(again, c) {
				t.Fatalf("%+v reads back as %+v, %v", c, again, err)
			}
		}
		for _, n := range SplitNotes(b) {
			if len(n) > len(b) {
				t.Fatal("a note is longer than its file")
			}
		}
	})
}

func FuzzParseVerifierKey(f *testing.F) {
	f.Add(exampleKey)
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseVerifierKey(s)
		if err != nil {
			return
		}
		if again, err := ParseVerifierKey(k.String()); err != nil || again.String() != k.String() {
			t.Fatalf("%q reads back as %q, %v", k, again, err)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"version":1,"identities":[{"serial":"00","key_thumbprint":"ff"}],"claims":{"nitro":{"pcrs":{"0":"00"}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		if e.Version != payloadVersion {
			t.Fatalf("version %d", e.Version)
		}
		_ = lookupsOf(e.Identities)
		if _, err := e.encode(); err != nil && e.Time.Year() >= 0 && e.Time.Year() < 10000 {
			t.Logf("does not encode: %v", err)
		}
	})
}

package signerwire

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

func listed(t testing.TB, name string, pub crypto.PublicKey, purposes ...Purpose) Key {
	t.Helper()
	alg, err := AlgorithmOf(pub)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return Key{Name: name, Purposes: purposes, Algorithm: alg, SPKI: spki}
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// messages is one of each that are well formed.
func messages(t testing.TB) []Message {
	sum := sha256.Sum256([]byte("x"))
	return []Message{
		List{},
		Sign{Key: "x509-1", Purpose: X509Authority, Scheme: ECDSA, Hash: SHA256, Input: sum[:]},
		Sign{Key: "ck", Purpose: Checkpoint, Scheme: Ed25519, Input: []byte("a note")},
		Keys{},
		Keys{Keys: []Key{
			listed(t, "a", ecKey(t, elliptic.P256()).Public(), X509Authority),
			listed(t, "b", ecKey(t, elliptic.P384()).Public(), JWT, Verifier),
		}},
		Signature{Bytes: []byte{1, 2, 3}},
		Failure{Kind: attest.Denied, Check: "signer_purpose", Text: "no", Hint: "ask for another"},
	}
}

func TestEveryMessageIsReadAsItWasWritten(t *testing.T) {
	for _, m := range messages(t) {
		body, err := Encode(m)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		var frame bytes.Buffer
		if err := WriteFrame(&frame, body); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFrame(&frame)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parse(got)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		again, err := Encode(back)
		if err != nil || !bytes.Equal(body, again) {
			t.Errorf("%T: read back as %+v (%v)", m, back, err)
		}
	}
}

func TestAPeerMaySayOnlyWhatItsSideSays(t *testing.T) {
	for _, m := range messages(t) {
		body, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		_, isList := m.(List)
		_, isSign := m.(Sign)
		if _, err := ParseRequest(body); (err == nil) != (isList || isSign) {
			t.Errorf("%T as a request: %v", m, err)
		}
		if _, err := ParseResponse(body); (err == nil) == (isList || isSign) {
			t.Errorf("%T as a response: %v", m, err)
		}
	}
}

func TestEveryFaultOfAMessageIsRefusedByName(t *testing.T) {
	p256 := ecKey(t, elliptic.P256()).Public()
	good := func() Sign {
		return Sign{Key: "x509-1", Purpose: X509Authority, Scheme: ECDSA, Hash: SHA256, Input: make([]byte, 32)}
	}
	sign := func(f func(*Sign)) Message { s := good(); f(&s); return s }
	for _, tt := range []struct {
		name, check string
		m           Message
	}{
		{"a name that climbs", "signer_name", sign(func(s *Sign) { s.Key = "../x" })},
		{"no name", "signer_name", sign(func(s *Sign) { s.Key = "" })},
		{"an unknown purpose", "signer_purpose", sign(func(s *Sign) { s.Purpose = "anything" })},
		{"an unknown scheme", "signer_scheme", sign(func(s *Sign) { s.Scheme = 9 })},
		{"an unknown hash", "signer_hash", sign(func(s *Sign) { s.Hash = 9 })},
		{"ECDSA over a message", "signer_hash", sign(func(s *Sign) { s.Hash = NoHash })},
		{"a digest that is short", "signer_digest", sign(func(s *Sign) { s.Input = s.Input[:31] })},
		{"a digest of another hash", "signer_digest", sign(func(s *Sign) { s.Hash = SHA384 })},
		{"Ed25519 over a digest", "signer_hash", sign(func(s *Sign) { s.Scheme = Ed25519 })},
		{"a message too long for Ed25519", "signer_digest", sign(func(s *Sign) { s.Scheme, s.Hash, s.Input = Ed25519, NoHash, make([]byte, MaxMessage+1) })},
		{"keys out of order", "signer_keys", Keys{[]Key{listed(t, "b", p256, JWT), listed(t, "a", p256, JWT)}}},
		{"a key twice", "signer_keys", Keys{[]Key{listed(t, "a", p256, JWT), listed(t, "a", p256, JWT)}}},
		{"a key without a purpose", "signer_purpose", Keys{[]Key{listed(t, "a", p256)}}},
		{"a purpose twice", "signer_purpose", Keys{[]Key{listed(t, "a", p256, JWT, JWT)}}},
		{"no public key", "signer_key", Keys{[]Key{{Name: "a", Purposes: []Purpose{JWT}, Algorithm: "P-256", SPKI: []byte("x")}}}},
		{"another algorithm than the key's", "signer_key", Keys{[]Key{{Name: "a", Purposes: []Purpose{JWT}, Algorithm: "P-384", SPKI: listed(t, "a", p256, JWT).SPKI}}}},
		{"an empty signature", "signer_signature", Signature{}},
		{"a signature too long", "signer_signature", Signature{make([]byte, MaxSignature+1)}},
		{"an unknown kind of failure", "signer_failure", Failure{Kind: 77}},
		{"a failure that is not UTF-8", "signer_failure", Failure{Text: "\xff"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Encode(tt.m); attest.CheckOf(err) != tt.check {
				t.Errorf("Encode: %v, want check %s", err, tt.check)
			}
			// What our own Encode would not write, another might.
			_, err := parse(tt.m.append([]byte{Version}))
			if got := attest.CheckOf(err); got != tt.check && got != "signer_message" || attest.KindOf(err) != attest.Malformed {
				t.Errorf("parse: %v, want a malformed %s", err, tt.check)
			}
		})
	}
}

func TestEveryFaultOfABodyIsRefused(t *testing.T) {
	ok, err := Encode(messages(t)[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"empty":            {},
		"a version alone":  {Version},
		"another version":  append([]byte{2}, ok[1:]...),
		"an unknown type":  {Version, 0x55},
		"bytes after it":   append(bytes.Clone(ok), 0),
		"cut off":          ok[:len(ok)-1],
		"a key cut off":    {Version, typeKeys, 1, 0, 5, 'a'},
		"keys without end": {Version, typeKeys, 255},
	} {
		if m, err := parse(body); err == nil || m != nil || attest.KindOf(err) != attest.Malformed {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

func TestAFrameThatIsTooLargeIsNotRead(t *testing.T) {
	for _, n := range []uint32{0, 1, MaxFrame + 1, 1 << 31} {
		head := []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
		r := io.MultiReader(bytes.NewReader(head), failing{t})
		if _, err := ReadFrame(r); attest.CheckOf(err) != "signer_frame" {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := ReadFrame(strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Errorf("a clean end: %v", err)
	}
	if _, err := ReadFrame(strings.NewReader("\x00\x00\x00\x05ab")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an end within a body: %v", err)
	}
}

type failing struct{ t *testing.T }

func (f failing) Read([]byte) (int, error) {
	f.t.Error("the body was read")
	return 0, io.EOF
}

func TestAFailureKeepsKindCheckAndHint(t *testing.T) {
	in := fmt.Errorf("store hsm: %w", &attest.Error{Kind: attest.Unavailable, Check: "pkcs11_sign", Err: errors.New("gone" + strings.Repeat("ü", 400)), Hint: "look"})
	f := Fail(in)
	if _, err := Encode(f); err != nil {
		t.Fatal(err)
	}
	var e *attest.Error
	if !errors.As(f.Err(), &e) || e.Kind != attest.Unavailable || e.Check != "pkcs11_sign" || e.Hint != "look" || !strings.HasPrefix(e.Err.Error(), "gone") {
		t.Errorf("came back as %#v", e)
	}
}

func TestASignatureThatDoesNotVerifyIsFound(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d256, d384 := sha256.Sum256([]byte("m")), sha512.Sum384([]byte("m"))
	for _, tt := range []struct {
		key crypto.Signer
		req Sign
	}{
		{ecKey(t, elliptic.P256()), Sign{Scheme: ECDSA, Hash: SHA256, Input: d256[:]}},
		{ecKey(t, elliptic.P384()), Sign{Scheme: ECDSA, Hash: SHA384, Input: d384[:]}},
		{rsaKey, Sign{Scheme: PKCS1, Hash: SHA256, Input: d256[:]}},
		{rsaKey, Sign{Scheme: PSS, Hash: SHA384, Input: d384[:]}},
		{edKey, Sign{Scheme: Ed25519, Input: []byte("m")}},
	} {
		sig, err := tt.key.Sign(rand.Reader, tt.req.Input, tt.req.Options())
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.req.Fits(tt.key.Public()); err != nil {
			t.Errorf("%T: %v", tt.key, err)
		}
		if err := tt.req.Verify(tt.key.Public(), sig); err != nil {
			t.Errorf("%T: %v", tt.key, err)
		}
		sig[len(sig)/2] ^= 1
		if err := tt.req.Verify(tt.key.Public(), sig); attest.CheckOf(err) != "signer_signature" {
			t.Errorf("%T with a bit flipped: %v", tt.key, err)
		}
	}
	if err := (Sign{Scheme: PKCS1}).Fits(ecKey(t, elliptic.P256()).Public()); attest.CheckOf(err) != "signer_scheme" {
		t.Errorf("RSA's scheme with an ECDSA key: %v", err)
	}
	if _, err := AlgorithmOf(ecKey(t, elliptic.P521()).Public()); attest.CheckOf(err) != "signer_algorithm" {
		t.Errorf("P-521: %v", err)
	}
	if _, err := HashOf(crypto.SHA1); attest.CheckOf(err) != "signer_hash" {
		t.Errorf("SHA-1: %v", err)
	}
}

func TestPurposesAreAClosedList(t *testing.T) {
	var got []Purpose
	for _, p := range Purposes() {
		var back Purpose
		if err := back.UnmarshalText([]byte(p)); err != nil {
			t.Error(err)
		}
		got = append(got, back)
	}
	if diff := cmp.Diff(Purposes(), got); diff != "" {
		t.Error(diff)
	}
	var p Purpose
	if err := p.UnmarshalText([]byte("tls")); err == nil {
		t.Error("an unknown purpose was accepted")
	}
}

// FuzzFrame feeds a stream of a peer to both sides' parsers: nothing panics, and
// what is accepted has one encoding.
func FuzzFrame(f *testing.F) {
	for _, m := range messages(f) {
		body, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		var frame bytes.Buffer
		if err := WriteFrame(&frame, body); err != nil {
			f.Fatal(err)
		}
		f.Add(frame.Bytes())
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			body, err := ReadFrame(r)
			if err != nil {
				return
			}
			m, err := parse(body)
			if (m == nil) == (err == nil) {
				t.Fatalf("parse = %v, %v: want a message or an error", m, err)
			}
			if err != nil {
				continue
			}
			again, err := Encode(m)
			if err != nil || !bytes.Equal(again, body) {
				t.Fatalf("%x was accepted, and is written as %x (%v)", body, again, err)
			}
		}
	})
}

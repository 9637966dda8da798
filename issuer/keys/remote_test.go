package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// These are the client's own refusals, against peers that misbehave in ways in
// which assay-signer does not. Client and signer together are tested in
// cmd/assay-signer.

// peer answers each frame of each connection with what say returns; nil closes
// the connection.
func peer(t *testing.T, say func(signerwire.Message) signerwire.Message) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for {
					body, err := signerwire.ReadFrame(conn)
					if err != nil {
						return
					}
					m, err := signerwire.ParseRequest(body)
					if err != nil {
						return
					}
					answer := say(m)
					if answer == nil {
						return
					}
					if body, err = signerwire.Encode(answer); err != nil || signerwire.WriteFrame(conn, body) != nil {
						return
					}
				}
			}()
		}
	}()
	return path
}

func remoteOf(t *testing.T, path string) *Remote {
	t.Helper()
	r, err := NewRemote(path)
	must(t, err)
	return r.WithTimeout(5 * time.Second)
}

// holding is a signer's answers with one key in memory.
func holding(t *testing.T, key *ecdsa.PrivateKey) func(signerwire.Message) signerwire.Message {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return func(m signerwire.Message) signerwire.Message {
		if req, ok := m.(signerwire.Sign); ok {
			sig, err := key.Sign(rand.Reader, req.Input, req.Options())
			if err != nil {
				return signerwire.Fail(err)
			}
			return signerwire.Signature{Bytes: sig}
		}
		return signerwire.Keys{Keys: []signerwire.Key{{Name: "x509-1", Purposes: []signerwire.Purpose{signerwire.X509Authority}, Algorithm: "P-256", SPKI: spki}}}
	}
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func TestASignerThatWasGivenAnotherKeyIsNoticed(t *testing.T) {
	first, second := holding(t, ecKey(t)), holding(t, ecKey(t))
	path := peer(t, func(m signerwire.Message) signerwire.Message {
		if _, ok := m.(signerwire.Sign); ok {
			return second(m)
		}
		return first(m)
	})
	key, err := remoteOf(t, path).For(signerwire.X509Authority).Get(t.Context(), "x509-1")
	must(t, err)
	sum := sha256.Sum256([]byte("x"))
	if sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256); sig != nil || attest.CheckOf(err) != "signer_signature" {
		t.Errorf("Sign = %x, %v: want check signer_signature", sig, err)
	}
}

func TestASignerThatIsAwayIsUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	_, err := remoteOf(t, path).For(signerwire.JWT).Get(t.Context(), "a")
	if attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "signer_reach" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	closing := peer(t, func(signerwire.Message) signerwire.Message { return nil })
	if _, err := remoteOf(t, closing).List(t.Context()); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("a signer that closes: %v", err)
	}
}

func TestASignerThatIsSilentIsUnavailableInTime(t *testing.T) {
	hold := make(chan struct{})
	path := peer(t, func(signerwire.Message) signerwire.Message { <-hold; return nil })
	defer close(hold)
	r := remoteOf(t, path).WithTimeout(50 * time.Millisecond)
	if _, err := r.List(t.Context()); attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "signer_timeout" {
		t.Errorf("the signer's time-out: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := remoteOf(t, path).List(ctx); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("a context that has ended: %v", err)
	}
}

func TestAnAnswerToAnotherQuestionIsRefused(t *testing.T) {
	path := peer(t, func(signerwire.Message) signerwire.Message { return signerwire.Signature{Bytes: []byte{1}} })
	if _, err := remoteOf(t, path).List(t.Context()); attest.CheckOf(err) != "signer_message" {
		t.Errorf("a signature for a list: %v", err)
	}
}

func TestAConnectionThatDiedBetweenRequestsIsReplaced(t *testing.T) {
	key := holding(t, ecKey(t))
	dir, err := os.MkdirTemp("", "k")
	must(t, err)
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "s")
	conns := make(chan net.Conn, 4)
	serve := func() net.Listener {
		l, err := net.Listen("unix", path)
		must(t, err)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				conns <- c
				go func() {
					for {
						body, err := signerwire.ReadFrame(c)
						if err != nil {
							return
						}
						m, err := signerwire.ParseRequest(body)
						if err != nil {
							return
						}
						if body, err = signerwire.Encode(key(m)); err == nil {
							_ = signerwire.WriteFrame(c, body)
						}
					}
				}()
			}
		}()
		return l
	}
	l := serve()
	r := remoteOf(t, path)
	if _, err := r.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	(<-conns).Close()
	l.Close()
	l = serve()
	defer l.Close()
	if _, err := r.List(t.Context()); err != nil {
		t.Errorf("after the signer was replaced: %v", err)
	}
}

func TestARingOfOnePurposeGivesNoOtherKey(t *testing.T) {
	r := remoteOf(t, peer(t, holding(t, ecKey(t))))
	ctx := t.Context()
	names, err := r.For(signerwire.X509Authority).Names(ctx)
	if diff := cmp.Diff([]string{"x509-1"}, names); diff != "" || err != nil {
		t.Errorf("%s%v", diff, err)
	}
	if names, err := r.For(signerwire.JWT).Names(ctx); len(names) != 0 || err != nil {
		t.Errorf("keys for JWT-SVIDs: %v, %v", names, err)
	}
	if _, err := r.For(signerwire.JWT).Get(ctx, "x509-1"); attest.CheckOf(err) != "signer_purpose" {
		t.Errorf("a key of another purpose: %v", err)
	}
	if _, err := r.For(signerwire.JWT).Get(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such key: %v", err)
	}
	if _, err := r.For(signerwire.JWT).Get(ctx, "../x"); err == nil {
		t.Error("a name that climbs was accepted")
	}
	var e *attest.Error
	if _, err := r.For(signerwire.JWT).Create(ctx, "jwt-1", P256); !errors.As(err, &e) || !errors.Is(err, errors.ErrUnsupported) ||
		!strings.Contains(e.Hint, "assay-signer keys create jwt-1") {
		t.Errorf("Create: %v", err)
	}
}

func TestOptionsThatTheSignerHasNotAreRefusedHere(t *testing.T) {
	key, err := remoteOf(t, peer(t, holding(t, ecKey(t)))).For(signerwire.X509Authority).Get(t.Context(), "x509-1")
	must(t, err)
	for name, opts := range map[string]crypto.SignerOpts{"no options": nil, "SHA-1": crypto.SHA1, "SHA-224": crypto.SHA224} {
		if _, err := key.Sign(rand.Reader, make([]byte, 20), opts); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := key.Sign(rand.Reader, make([]byte, 31), crypto.SHA256); attest.CheckOf(err) != "signer_digest" {
		t.Errorf("a short digest: %v", err)
	}
}

func TestALocationIsADirectoryOrASigner(t *testing.T) {
	for in, want := range map[string]Location{
		"/var/lib/assay/keys":                {Dir: "/var/lib/assay/keys"},
		"file:///var/lib/assay/keys/":        {Dir: "/var/lib/assay/keys"},
		"signer:///run/assay-signer/s.sock":  {Socket: "/run/assay-signer/s.sock"},
		"signer:///run/assay-signer/../s%20": {Socket: "/run/s "},
	} {
		got, err := ParseLocation(in)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v%s", in, err, diff)
		}
	}
	for _, in := range []string{"", "keys", "signer:keys", "signer://host/x", "signer:///x?pin=1", "signer:///x#y", "file://user@/x", "pkcs11:///x", "%zz",
		"signer:///" + strings.Repeat("a", 120), "file:///a%00b"} {
		if got, err := ParseLocation(in); err == nil || got != (Location{}) {
			t.Errorf("%q was accepted as %+v", in, got)
		}
	}
}

func TestEveryUnsafeSecretFileIsRefused(t *testing.T) {
	p := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(p, []byte("1234\n"), 0o600))
	if got, err := ReadSecret(p); err != nil || string(got) != "1234" {
		t.Fatalf("%q, %v", got, err)
	}
	for _, tt := range []struct {
		name, body, check string
		mode              os.FileMode
	}{
		{"others can read it", "1234", "key_mode", 0o644},
		{"empty", "", "secret_file", 0o600},
		{"a line break alone", "\n", "secret_file", 0o600},
		{"two lines", "1234\n5678\n", "secret_file", 0o600},
	} {
		must(t, os.WriteFile(p, []byte(tt.body), 0o600))
		must(t, os.Chmod(p, tt.mode))
		if got, err := ReadSecret(p); attest.CheckOf(err) != tt.check || got != nil {
			t.Errorf("%s: %q, %v, want check %s", tt.name, got, err, tt.check)
		}
	}
}

package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

const (
	remoteName = "x509-ca-00112233445566aa"
	fileName   = "x509-ca-ffeeddccbbaa9988"
)

// splitOf is a ring with an authority's key in a signer, one of before in a file,
// and a root's.
func splitOf(t *testing.T) (ring *Split, files *Dir, inSigner *ecdsa.PrivateKey, away *atomic.Bool) {
	t.Helper()
	inSigner, away = ecKey(t), new(atomic.Bool)
	spki, err := x509.MarshalPKIXPublicKey(inSigner.Public())
	must(t, err)
	path := peer(t, func(m signerwire.Message) signerwire.Message {
		if away.Load() {
			return nil
		}
		if req, ok := m.(signerwire.Sign); ok {
			if req.Key != remoteName || req.Purpose != signerwire.X509Authority {
				return signerwire.Fail(&attest.Error{Kind: attest.Denied, Check: "signer_purpose", Err: errors.New("no")})
			}
			sig, err := inSigner.Sign(rand.Reader, req.Input, req.Options())
			if err != nil {
				return signerwire.Fail(err)
			}
			return signerwire.Signature{Bytes: sig}
		}
		key := func(name string, p signerwire.Purpose) signerwire.Key {
			return signerwire.Key{Name: name, Purposes: []signerwire.Purpose{p}, Algorithm: "P-256", SPKI: spki}
		}
		return signerwire.Keys{Keys: []signerwire.Key{key("bootstrap-root", signerwire.Bootstrap), key("verifier-0011223344556677", signerwire.X509Authority), key(remoteName, signerwire.X509Authority)}}
	})
	files, err = MakeDir(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	for _, name := range []string{fileName, "verifier-root", "bootstrap-root"} {
		_, err := files.Create(t.Context(), name, P256)
		must(t, err)
	}
	ring, err = NewSplit(Location{Socket: path}, files)
	must(t, err)
	return ring, files, inSigner, away
}

func TestAuthoritiesKeysAreTheSignersAndAllOthersAreFiles(t *testing.T) {
	ring, files, inSigner, _ := splitOf(t)
	key, err := ring.Get(t.Context(), remoteName)
	must(t, err)
	if !inSigner.PublicKey.Equal(key.Public()) {
		t.Error("the authority's key is not the signer's")
	}
	sum := sha256.Sum256([]byte("x"))
	if _, err := key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		t.Errorf("it does not sign for its purpose: %v", err)
	}
	for _, name := range []string{"bootstrap-root", "verifier-root"} { // also where the signer holds one of that name
		got, err := ring.Get(t.Context(), name)
		must(t, err)
		want, err := files.Get(t.Context(), name)
		must(t, err)
		if !want.Public().(*ecdsa.PublicKey).Equal(got.Public()) {
			t.Errorf("%s is not the file's", name)
		}
	}
}

func TestAKeyOfBeforeTheSignerIsStillReadAndIsNoSpare(t *testing.T) {
	ring, _, _, _ := splitOf(t)
	if _, err := ring.Get(t.Context(), fileName); err != nil {
		t.Errorf("the authority of before cannot sign: %v", err)
	}
	names, err := ring.Names(t.Context())
	must(t, err)
	// Neither the file of an authority, nor what the signer holds for another purpose than its name's.
	if d := cmp.Diff([]string{"bootstrap-root", "verifier-root", remoteName}, names); d != "" {
		t.Error(d)
	}
}

func TestAKeyThatTheSignerHoldsForSomethingElseIsNotReplacedByAFile(t *testing.T) {
	ring, files, _, _ := splitOf(t)
	_, err := files.Create(t.Context(), "verifier-0011223344556677", P256)
	must(t, err)
	if _, err := ring.Get(t.Context(), "verifier-0011223344556677"); attest.CheckOf(err) != "signer_purpose" {
		t.Errorf("%v, want check signer_purpose", err)
	}
}

func TestNoAuthoritysKeyIsMadeBesideASigner(t *testing.T) {
	ring, files, _, _ := splitOf(t)
	if _, err := ring.Create(t.Context(), "jwt-0011223344556677", P256); !errors.Is(err, errors.ErrUnsupported) || attest.CheckOf(err) != "signer_create" {
		t.Errorf("%v, want a hint to assay-signer", err)
	}
	if _, err := os.Lstat(files.Path("jwt-0011223344556677")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a file was made instead")
	}
	if _, err := ring.Create(t.Context(), "checkpoint", Ed25519); err != nil {
		t.Errorf("a key that stays a file: %v", err)
	}
	_, err := ring.Get(t.Context(), "jwt-0011223344556677")
	if !errors.Is(err, fs.ErrNotExist) || attest.CheckOf(err) != "signer_key" {
		t.Errorf("a key that is nowhere: %v, want the signer's hint", err)
	}
}

func TestWithoutItsSignerARingHasTheFilesThatAreNoAuthorities(t *testing.T) {
	ring, _, _, away := splitOf(t)
	away.Store(true)
	for _, name := range []string{remoteName, fileName} { // a file must not be taken because the signer is silent
		if key, err := ring.Get(t.Context(), name); key != nil || attest.KindOf(err) != attest.Unavailable {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
	if _, err := ring.Names(t.Context()); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("names: %v, want unavailable", err)
	}
	if _, err := ring.Get(t.Context(), "bootstrap-root"); err != nil {
		t.Errorf("a root: %v", err)
	}
	away.Store(false)
	if _, err := ring.Get(t.Context(), remoteName); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestAKeysPurposeIsInItsName(t *testing.T) {
	for name, want := range map[string]signerwire.Purpose{
		"x509-ca-0011223344556677": signerwire.X509Authority, "jwt-0011223344556677": signerwire.JWT,
		"verifier-0011223344556677": signerwire.Verifier, "deny-list-0011223344556677": signerwire.DenyList,
		"verifier-root": "", "bootstrap-root": "", "checkpoint": "", "x509-ca-": "", "jwt-001122334455667": "", "jwt-00112233445566770": "",
		"jwt-001122334455667G": "", "jwt-00112233445566AA": "", "x509-1": "", "": "",
	} {
		if got, ok := PurposeOf(name); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %t, want %q", name, got, ok, want)
		}
	}
}

func TestAuthoritiesKeysMayBeInADirectoryOfTheirOwn(t *testing.T) {
	base := t.TempDir()
	files, err := MakeDir(filepath.Join(base, "keys"))
	must(t, err)
	elsewhere := filepath.Join(base, "elsewhere")
	if _, err := NewSplit(Location{Dir: elsewhere}, files); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	_, err = MakeDir(elsewhere)
	must(t, err)
	ring, err := NewSplit(Location{Dir: elsewhere}, files)
	must(t, err)
	for _, name := range []string{"checkpoint", "jwt-0011223344556677"} {
		_, err := ring.Create(t.Context(), name, P256)
		must(t, err)
	}
	for path, want := range map[string]bool{
		filepath.Join(elsewhere, "jwt-0011223344556677.key"): true, files.Path("checkpoint"): true,
		filepath.Join(elsewhere, "checkpoint.key"): false, files.Path("jwt-0011223344556677"): false,
	} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(t, os.WriteFile(filepath.Join(elsewhere, tempPrefix+"x"), nil, 0o600))
	must(t, ring.Sweep())
	if _, err := os.Lstat(filepath.Join(elsewhere, tempPrefix+"x")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what a crash left is there still")
	}
	names, err := ring.Names(t.Context())
	must(t, err)
	if d := cmp.Diff([]string{"checkpoint", "jwt-0011223344556677"}, names); d != "" {
		t.Error(d)
	}
}

func TestADrawnNameSaysItsPurpose(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range signerwire.Purposes() {
		name, ok := DrawName(p)
		switch got, authority := PurposeOf(name); {
		case ok && (got != p || CheckName(name) != nil || seen[name]):
			t.Errorf("%s: %q", p, name)
		case ok != authority:
			t.Errorf("%s: %q, %t", p, name, ok)
		}
		seen[name] = true
	}
	if len(seen) != len(routes)+1 { // and "" for the others
		t.Errorf("%d names", len(seen))
	}
}

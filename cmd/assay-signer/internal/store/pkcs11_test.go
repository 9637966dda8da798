//go:build cgo

package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

const (
	module = "/usr/lib/softhsm/libsofthsm2.so"
	pin    = "correct-horse-4711"
)

// safe is a log that is written to and read at once.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// oneToken makes a token and a key in it. SoftHSM reads its configuration once
// for the process, so these tests make one of their own each, by t.Setenv, and
// none of them is parallel.
func oneToken(t *testing.T) (cfg *config.Config, dir string) {
	t.Helper()
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		if os.Getenv("ASSAY_NO_SOFTHSM") == "" {
			t.Fatal("SoftHSM 2 is missing (Debian package softhsm2); ASSAY_NO_SOFTHSM=1 goes without")
		}
		t.Skip("SKIPPED WITHOUT SOFTHSM: the PKCS#11 store was not tested")
	}
	dir = t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	must(t, os.Mkdir(tokens, 0o700))
	conf := filepath.Join(dir, "softhsm2.conf")
	must(t, os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "assay", "--so-pin", "so-pin-0815", "--pin", pin).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(dir, "pin"), []byte(pin), 0o600))
	cfg = &config.Config{
		Stores: map[string]config.Store{"hsm": {PKCS11: &config.PKCS11{Module: module, Token: "assay", PINFile: filepath.Join(dir, "pin"), Sessions: 4}}},
		Keys:   []config.Key{{Name: "x509-1", Store: "hsm", Purposes: []signerwire.Purpose{signerwire.X509Authority}}},
	}
	ref, _, err := Create(t.Context(), cfg, "hsm", "x509-1", P256, Options{Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	cfg.Keys[0].Ref = ref
	return cfg, dir
}

func openSet(t *testing.T, cfg *config.Config) (*Set, *safe) {
	t.Helper()
	log := new(safe)
	set, err := Open(t.Context(), cfg, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	must(t, err)
	t.Cleanup(func() { _ = set.Close() })
	return set, log
}

func sign(ctx context.Context, k *Key) error {
	sum := sha256.Sum256([]byte("x"))
	_, err := k.Sign(ctx, signerwire.Sign{Key: k.Name, Purpose: signerwire.X509Authority, Scheme: signerwire.ECDSA, Hash: signerwire.SHA256, Input: sum[:]})
	return err
}

// raw does something to the module behind the store's back, as another part of
// this process, or the HSM itself, could.
func raw(t *testing.T, f func(m *p11.Ctx, slot uint)) {
	t.Helper()
	m := p11.New(module)
	if m == nil {
		t.Fatal("the module cannot be loaded")
	}
	defer m.Destroy()
	slots, err := m.GetSlotList(true)
	must(t, err)
	for _, s := range slots {
		if info, err := m.GetTokenInfo(s); err == nil && info.Label == "assay" {
			f(m, s)
			return
		}
	}
	t.Fatal("no token")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestATokenWhoseSessionsDieIsOpenedAgain(t *testing.T) {
	cfg, _ := oneToken(t)
	set, log := openSet(t, cfg)
	k := set.Key("x509-1")
	must(t, sign(t.Context(), k))
	for name, kill := range map[string]func(m *p11.Ctx, slot uint) error{
		"all sessions closed":  func(m *p11.Ctx, slot uint) error { return m.CloseAllSessions(slot) },
		"the module finalised": func(m *p11.Ctx, _ uint) error { return m.Finalize() },
		"logged out": func(m *p11.Ctx, slot uint) error {
			s, err := m.OpenSession(slot, p11.CKF_SERIAL_SESSION)
			if err != nil {
				return err
			}
			return m.Logout(s)
		},
	} {
		before := strings.Count(log.String(), "is open again")
		raw(t, func(m *p11.Ctx, slot uint) { must(t, kill(m, slot)) })
		if err := sign(t.Context(), k); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after := strings.Count(log.String(), "is open again"); after != before+1 {
			t.Errorf("%s: it was opened again %d times:\n%s", name, after-before, log)
		}
	}
	if strings.Contains(log.String(), pin) {
		t.Error("the log holds the PIN")
	}
}

func TestManySignaturesAtTheMomentOfDeathOpenTheTokenOnce(t *testing.T) {
	cfg, _ := oneToken(t)
	set, log := openSet(t, cfg)
	k := set.Key("x509-1")
	raw(t, func(m *p11.Ctx, slot uint) { must(t, m.CloseAllSessions(slot)) })
	errs := make(chan error, 32)
	for range 32 {
		go func() { errs <- sign(t.Context(), k) }()
	}
	for range 32 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := strings.Count(log.String(), "is open again"); n != 1 {
		t.Errorf("it was opened %d times:\n%s", n, log)
	}
}

func TestATokenThatIsAwayIsUnavailableUntilItIsBack(t *testing.T) {
	cfg, dir := oneToken(t)
	set, _ := openSet(t, cfg)
	k := set.Key("x509-1")
	raw(t, func(m *p11.Ctx, slot uint) { must(t, m.CloseAllSessions(slot)) })
	must(t, os.Rename(filepath.Join(dir, "tokens"), filepath.Join(dir, "elsewhere")))
	must(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	for range 3 {
		if err := sign(t.Context(), k); attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "pkcs11_open" {
			t.Errorf("away: %v", err)
		}
	}
	must(t, os.Remove(filepath.Join(dir, "tokens")))
	must(t, os.Rename(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "tokens")))
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := sign(t.Context(), k)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not come back: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestAPINThatIsRefusedWhenTheTokenComesBackIsNotSentAgain(t *testing.T) {
	cfg, _ := oneToken(t)
	set, _ := openSet(t, cfg)
	k := set.Key("x509-1")
	// The PIN is changed at the token while the signer holds the old one.
	raw(t, func(m *p11.Ctx, slot uint) {
		s, err := m.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		must(t, err)
		must(t, m.SetPIN(s, pin, "another-pin-1234"))
		must(t, m.CloseAllSessions(slot))
	})
	err := sign(t.Context(), k)
	if attest.CheckOf(err) != "pkcs11_pin" || strings.Contains(err.Error(), pin) {
		t.Fatalf("with the old PIN: %v", err)
	}
	// Back to the old one at the token: the signer must not have tried it again
	// to find that out, for as long as it lives.
	tk := set.stores["hsm"].backend.(*token)
	tk.mu.Lock()
	tk.retry = time.Time{} // no pause stands in the way
	tk.mu.Unlock()
	cmd := exec.Command("softhsm2-util", "--show-slots")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("assay")) {
		t.Fatalf("%v\n%s", err, out)
	}
	m := p11.New(module)
	defer m.Destroy()
	must(t, m.Initialize())
	slots, err := m.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		if info, err := m.GetTokenInfo(slot); err == nil && info.Label == "assay" {
			s, err := m.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
			must(t, err)
			must(t, m.Login(s, p11.CKU_USER, "another-pin-1234"))
			must(t, m.SetPIN(s, "another-pin-1234", pin))
		}
	}
	must(t, m.Finalize())
	if err := sign(t.Context(), k); attest.CheckOf(err) != "pkcs11_pin" {
		t.Errorf("the PIN was sent again: %v", err)
	}
}

func TestAKeyThatWasReplacedInTheTokenIsRefused(t *testing.T) {
	cfg, _ := oneToken(t)
	set, _ := openSet(t, cfg)
	k := set.Key("x509-1")
	r, err := parseRef(cfg.Keys[0].Ref)
	must(t, err)
	raw(t, func(m *p11.Ctx, slot uint) {
		s, err := m.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		must(t, err)
		must(t, m.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, r.label)}))
		objects, _, err := m.FindObjects(s, 8)
		must(t, err)
		must(t, m.FindObjectsFinal(s))
		if len(objects) != 2 {
			t.Fatalf("%d objects, want a pair", len(objects))
		}
		for _, o := range objects {
			must(t, m.DestroyObject(s, o))
		}
		p256 := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
		name := func(more ...*p11.Attribute) []*p11.Attribute {
			return append(more, p11.NewAttribute(p11.CKA_LABEL, r.label), p11.NewAttribute(p11.CKA_ID, r.id), p11.NewAttribute(p11.CKA_TOKEN, true))
		}
		_, _, err = m.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
			name(p11.NewAttribute(p11.CKA_EC_PARAMS, p256), p11.NewAttribute(p11.CKA_VERIFY, true)), name(p11.NewAttribute(p11.CKA_SIGN, true)))
		must(t, err)
		must(t, m.CloseAllSessions(slot))
	})
	if err := sign(t.Context(), k); attest.CheckOf(err) != "store_key" || !strings.Contains(err.Error(), "holds another key") {
		t.Errorf("got %v, want a key that is not the one from before", err)
	}
}

func TestARefIsTheNameOfOneObject(t *testing.T) {
	for _, ref := range []string{"", "x", "object=a", "id=00", "object=a;id=zz", "object=a;id=", "object=a;id=00;object=b", "object=a;id=00;pin-value=1", "object=a b;id=00",
		"object=a;id=00;", "object=../a;id=00", "object=a;id=" + strings.Repeat("00", 65)} {
		if _, err := parseRef(ref); attest.CheckOf(err) != "key_ref" {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if r, err := parseRef("object=x509-1;id=0a0B"); err != nil || r.label != "x509-1" || fmt.Sprintf("%x", r.id) != "0a0b" {
		t.Errorf("%+v, %v", r, err)
	}
	cfg, _ := oneToken(t)
	_, _, err := Create(t.Context(), cfg, "hsm", "x509-1", P256, Options{Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same name again: %v", err)
	}
}

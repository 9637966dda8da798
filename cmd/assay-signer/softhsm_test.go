//go:build cgo

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// softHSM is where Debian's package puts the library.
var softHSM = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"}

const pin = "correct-horse-4711"

// token makes a token in the office's directory and returns its store.
func (o *office) token() (store string) {
	o.t.Helper()
	module := ""
	for _, m := range softHSM {
		if _, err := os.Stat(m); err == nil {
			module = m
			break
		}
	}
	if _, err := exec.LookPath("softhsm2-util"); err != nil || module == "" {
		if os.Getenv("ASSAY_NO_SOFTHSM") == "" {
			o.t.Fatal("SoftHSM 2 is missing (Debian package softhsm2); ASSAY_NO_SOFTHSM=1 goes without")
		}
		o.t.Skip("SKIPPED WITHOUT SOFTHSM: the PKCS#11 store was not tested")
	}
	must(o.t, os.Mkdir(o.path("tokens"), 0o700))
	o.write("softhsm2.conf", "directories.tokendir = "+o.path("tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n")
	o.env = append(o.env, "SOFTHSM2_CONF="+o.path("softhsm2.conf"))
	o.util("--init-token", "--free", "--label", "assay", "--so-pin", "so-pin-0815", "--pin", pin)
	o.write("pin", pin+"\n")
	return fmt.Sprintf("  hsm:\n    pkcs11: {module: %s, token: assay, pin_file: pin}\n", module)
}

func (o *office) util(args ...string) {
	o.t.Helper()
	cmd := exec.Command("softhsm2-util", args...)
	cmd.Env = o.env
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("softhsm2-util %s: %v\n%s", args[0], err, out)
	}
}

func (o *office) create(name, purpose, algorithm string) string {
	o.t.Helper()
	return o.must("keys", "create", name, "--store", "hsm", "--purpose", purpose, "--algorithm", algorithm)
}

func TestACAKeyThatTheTokenMadeSignsAcrossRestartsOfTheSigner(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	var entries []string
	for name, alg := range map[string]string{"x509-1": "P-256", "x509-2": "P-384", "x509-3": "RSA-2048"} {
		entries = append(entries, o.create(name, "x509-authority", alg))
	}
	o.configure(hsm, entries...)
	if out := o.must("check"); !strings.HasPrefix(out, "ok: 3 keys signed") {
		t.Errorf("check said %q", out)
	}
	s := o.run()

	key := o.get(signerwire.X509Authority, "x509-1")
	ca := authority(t, key)
	for name, bits := range map[string]int{"x509-2": 384, "x509-3": 2048} {
		k := o.get(signerwire.X509Authority, name)
		switch pub := k.Public().(type) {
		case *ecdsa.PublicKey:
			if pub.Curve.Params().BitSize != bits {
				t.Errorf("%s is on %s", name, pub.Curve.Params().Name)
			}
		case *rsa.PublicKey:
			if pub.N.BitLen() != bits {
				t.Errorf("%s has %d bits", name, pub.N.BitLen())
			}
			sum := sha256.Sum256([]byte("pss"))
			if _, err := k.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}); err != nil {
				t.Errorf("PSS: %v", err)
			}
		default:
			t.Errorf("%s is a %T", name, pub)
		}
		authority(t, k)
	}

	// The key was never in a file of the signer's: what it reads holds none.
	for _, f := range []string{"signer.yaml", "pin"} {
		b, err := os.ReadFile(o.path(f))
		must(t, err)
		if strings.Contains(string(b), "PRIVATE KEY") {
			t.Errorf("%s holds a private key", f)
		}
	}
	if strings.Contains(s.said(), pin) {
		t.Error("the log holds the PIN")
	}
	if !strings.Contains(s.said(), "msg=signed") || !strings.Contains(s.said(), "purpose=x509-authority") {
		t.Errorf("signatures are not logged:\n%s", s.said())
	}

	s.stop(syscall.SIGKILL)
	if err := key.sign(); attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "signer_reach" {
		t.Errorf("while the signer is dead: %v, want unavailable", err)
	}
	s = o.run() // over the socket that the killed one left
	if err := key.sign(); err != nil {
		t.Errorf("the same crypto.Signer after the restart: %v", err)
	}
	again := o.get(signerwire.X509Authority, "x509-1")
	if !ca.PublicKey.(*ecdsa.PublicKey).Equal(again.Public()) {
		t.Error("after the restart it is another key")
	}
	s.stop(syscall.SIGTERM)
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, s.said())
	}
	if _, err := os.Lstat(o.socket()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestAWrongPINIsSentOnceAndNeverAgainUntilAnOperatorSaysSo(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	o.configure(hsm, o.create("x509-1", "x509-authority", "P-256"))

	o.write("pin", "wrong-pin-9999\n")
	errs := o.refused(2, "refused the PIN (0xA0: CKR_PIN_INCORRECT)", "run")
	if strings.Contains(errs, "wrong-pin-9999") || !strings.Contains(errs, "hint: correct the PIN") {
		t.Errorf("the error shows the PIN, or no hint:\n%s", errs)
	}
	// Started again by a supervisor, it sends none: not the wrong one, and not
	// even the right one.
	o.refused(2, "no PIN was sent", "run")
	o.refused(2, "no PIN was sent", "keys", "list")
	o.write("pin", pin+"\n")
	o.refused(2, "no PIN was sent", "run")
	// An operator's check sends it, and the token forgets.
	o.must("check")
	o.run()
	if err := o.get(signerwire.X509Authority, "x509-1").sign(); err != nil {
		t.Error(err)
	}
}

func TestAPINThatOthersCanReadIsNotUsed(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	entry := o.create("x509-1", "x509-authority", "P-256")
	o.configure(hsm, entry)
	must(t, os.Chmod(o.path("pin"), 0o640))
	o.refused(2, "key_mode", "run")
	o.configure(strings.Replace(hsm, "pin_file: pin", "pin_env: THE_PIN", 1), entry)
	o.refused(2, "THE_PIN is not set", "run")
	o.env = append(o.env, "THE_PIN="+pin)
	o.must("check")
}

func TestAKeyThatWasNotMadeInTheTokenIsRefused(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	o.write("imported.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	o.util("--import", o.path("imported.pem"), "--token", "assay", "--label", "imported", "--id", "0a0b", "--pin", pin)
	entry := "  - {name: imported, store: hsm, ref: \"object=imported;id=0a0b\", purposes: [x509-authority]}\n"
	o.configure(hsm, entry)
	o.refused(2, "key_origin", "run")
	o.configure(strings.Replace(hsm, "pin_file: pin", "pin_file: pin, allow_imported: true", 1), entry)
	o.must("check")
}

func TestAKeyIsNeitherReplacedNorTakenForAnother(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	entry := o.create("x509-1", "x509-authority", "P-256")
	o.refused(2, "file already exists", "keys", "create", "x509-1", "--store", "hsm", "--purpose", "jwt")
	o.refused(2, "no Ed25519", "keys", "create", "ck", "--store", "hsm", "--purpose", "checkpoint", "--algorithm", "Ed25519")
	o.configure(hsm, strings.Replace(entry, "id=", "id=ff", 1))
	o.refused(2, "has no private key", "run")
	o.configure(strings.Replace(hsm, "token: assay", "token: other", 1), entry)
	o.refused(7, "has no token \"other\"", "run")
	o.configure(strings.Replace(hsm, "libsofthsm2", "libnothere", 1), entry)
	o.refused(2, "cannot be loaded", "run")
}

func TestAKeySignsOnlyForItsPurposeAndItsClients(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	entries := []string{o.create("x509-1", "x509-authority", "P-256"), o.create("jwt-1", "jwt", "P-256"), o.create("ver-1", "verifier", "P-256")}
	o.configureFor(fmt.Sprintf("  - {uid: %d, purposes: [x509-authority, jwt]}\n", os.Geteuid()), hsm, entries...)
	s := o.run()

	list, err := o.remote().List(t.Context())
	must(t, err)
	var names []string
	for _, k := range list {
		names = append(names, k.Name)
	}
	if got := strings.Join(names, " "); got != "jwt-1 x509-1" {
		t.Errorf("the client is shown %q", got)
	}
	sum := sha256.Sum256([]byte("x"))
	for _, tt := range []struct{ key, purpose, check string }{
		{"x509-1", "x509-authority", ""},
		{"jwt-1", "jwt", ""},
		{"jwt-1", "x509-authority", "signer_purpose"},
		{"x509-1", "jwt", "signer_purpose"},
		{"ver-1", "verifier", "signer_client"},
		{"ver-1", "jwt", "signer_purpose"},
		{"none", "jwt", "signer_key"},
	} {
		m := askRaw(t, o.socket(), signerwire.Sign{Key: tt.key, Purpose: signerwire.Purpose(tt.purpose), Scheme: signerwire.ECDSA, Hash: signerwire.SHA256, Input: sum[:]})
		f, failed := m.(signerwire.Failure)
		if failed != (tt.check != "") || f.Check != tt.check {
			t.Errorf("%s for %s: %+v, want check %q", tt.key, tt.purpose, m, tt.check)
		}
	}
	m := askRaw(t, o.socket(), signerwire.Sign{Key: "x509-1", Purpose: signerwire.X509Authority, Scheme: signerwire.PKCS1, Hash: signerwire.SHA256, Input: sum[:]})
	if f, ok := m.(signerwire.Failure); !ok || f.Check != "signer_scheme" {
		t.Errorf("RSA's scheme: %+v", m)
	}
	if !strings.Contains(s.said(), "msg=\"not signed\"") || !strings.Contains(s.said(), "check=signer_purpose") {
		t.Errorf("refusals are not logged:\n%s", s.said())
	}
}

func TestManyClientsAtOnceAreServedInTurn(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	o.configure(hsm, o.create("x509-1", "x509-authority", "P-256"))
	o.run()
	key := o.get(signerwire.X509Authority, "x509-1")
	failed := make(chan error, 200)
	for range 200 {
		go func() { failed <- key.sign() }()
	}
	for range 200 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheSocketIsForItsUserAlone(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	o.configure(hsm, o.create("x509-1", "x509-authority", "P-256"))
	o.run()
	info, err := os.Lstat(o.socket())
	must(t, err)
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, want a socket of 0600", info.Mode())
	}
	// A second signer does not take it away.
	o.refused(2, "another assay-signer is running", "run")
	// Nor does one in a directory that others can write to.
	must(t, os.Chmod(filepath.Dir(o.socket()), 0o777))
	o.refused(2, "others can write", "run")
}

func TestAnotherUserIsRefusedByItsCredentials(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED WITHOUT ROOT: only root can become another user")
	}
	const nobody = 65534
	o := newOffice(t)
	hsm := o.token()
	o.configure(hsm)
	entry := o.create("x509-1", "x509-authority", "P-256")
	ask := func() (int, string) {
		t.Helper()
		// The other user must be able to run us, and to reach the socket.
		self := o.path("ask")
		if _, err := os.Stat(self); err != nil {
			b, err := os.ReadFile(os.Args[0])
			must(t, err)
			must(t, os.WriteFile(self, b, 0o755))
			must(t, os.Chmod(self, 0o755))
			must(t, os.Chmod(o.dir, 0o711))
		}
		must(t, os.Chmod(filepath.Dir(o.socket()), 0o755))
		cmd := exec.Command(self)
		cmd.Env = []string{asking + "=" + o.socket()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}

	// Mode 0600: the file system says no.
	o.configure(hsm, entry)
	s := o.run()
	if code, out := ask(); code != 7 || !strings.Contains(out, "permission denied") {
		t.Errorf("mode 0600: exit code %d\n%s", code, out)
	}
	s.stop(syscall.SIGTERM)

	// The group may open it: the signer says no, by the kernel's word.
	b, err := os.ReadFile(o.path("signer.yaml"))
	must(t, err)
	o.write("signer.yaml", "socket_group: nogroup\n"+string(b))
	s = o.run()
	if code, out := ask(); code != 6 || !strings.Contains(out, "signer_peer") {
		t.Errorf("no client: exit code %d\n%s", code, out)
	}
	if !strings.Contains(s.said(), "this user is no client") || !strings.Contains(s.said(), "uid=65534") {
		t.Errorf("the refusal is not logged:\n%s", s.said())
	}
	s.stop(syscall.SIGTERM)

	// Named as a client, it may.
	o.write("signer.yaml", strings.Replace("socket_group: nogroup\n"+string(b), "clients:\n", "clients:\n  - {uid: 65534, purposes: [x509-authority]}\n", 1))
	o.run()
	if code, out := ask(); code != 0 {
		t.Errorf("a client: exit code %d\n%s", code, out)
	}
}

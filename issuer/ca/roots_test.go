package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/keys"
)

const day = 24 * time.Hour

// offline takes a root's key away; the function that it returns brings it back.
func offline(t *testing.T, f *fixture, name string) (back func()) {
	t.Helper()
	return offlineIn(t, f.dir, name)
}

func offlineIn(t *testing.T, dir, name string) (back func()) {
	t.Helper()
	path := filepath.Join(KeysPath(dir), name+".key")
	must(t, os.Rename(path, filepath.Join(dir, name)))
	return func() { t.Helper(); must(t, os.Rename(filepath.Join(dir, name), path)) }
}

func TestTheServersCertificateIsRenewedAtHalfItsLife(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	first, err := f.ca.ServerCertificate(nil)
	must(t, err)
	roots := x509.NewCertPool()
	pemBytes, err := BootstrapRootPEM(f.dir)
	must(t, err)
	if !roots.AppendCertsFromPEM(pemBytes) {
		t.Fatal("no root in the PEM")
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: f.Now()}); err != nil {
		t.Error(err)
	}
	if len(first.Leaf.URIs) != 1 || first.Leaf.URIs[0].String() != "spiffe://"+td+"/assay/server" {
		t.Errorf("URIs %v", first.Leaf.URIs)
	}
	if got := first.Leaf.NotAfter.Sub(f.Now()); got != 7*day {
		t.Errorf("lives %v, want 7 days", got)
	}
	f.Advance(3 * day)
	must(t, f.ca.maintain(context.Background(), noStop))
	if c, err := f.ca.ServerCertificate(nil); err != nil || !c.Leaf.Equal(first.Leaf) {
		t.Errorf("renewed before half its life (%v)", err)
	}
	f.Advance(day)
	must(t, f.ca.maintain(context.Background(), noStop))
	second, err := f.ca.ServerCertificate(nil)
	must(t, err)
	if second.Leaf.Equal(first.Leaf) || second.Leaf.NotAfter.Sub(f.Now()) != 7*day {
		t.Errorf("not renewed: until %v", second.Leaf.NotAfter)
	}
	f.close(t)
	must(t, f.open(t))
	if again, err := f.ca.ServerCertificate(nil); err != nil || !again.Leaf.Equal(second.Leaf) {
		t.Errorf("a restart made another certificate (%v)", err)
	}
}

func TestTheBootstrapRootCanBeOfflineUntilTheCertificateEnds(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	f.close(t)
	back := offline(t, f, bootstrapRootKey)
	f.Advance(5 * day)
	must(t, f.open(t)) // past half its life: a warning, no more
	if w := f.ca.Status().Warnings; len(w) != 1 || !strings.Contains(w[0], "bootstrap root") {
		t.Errorf("warnings %q", w)
	}
	_, err := f.ca.ServerCertificate(nil)
	must(t, err)
	f.Advance(2 * day)
	_, err = f.ca.ServerCertificate(nil)
	wantCheck(t, err, "server_certificate")
	wantCheck(t, f.ca.maintain(context.Background(), noStop), "bootstrap_root_missing")
	f.close(t)
	wantCheck(t, f.open(t), "bootstrap_root_missing")
	back()
	must(t, f.open(t))
	_, err = f.ca.ServerCertificate(nil)
	must(t, err)
	if w := f.ca.Status().Warnings; len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

func TestAServerFileThatIsNotOursIsReplaced(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string, f *fixture){
		"garbage":     func(t *testing.T, p string, _ *fixture) { must(t, os.WriteFile(p, []byte("x"), 0o600)) },
		"open to all": func(t *testing.T, p string, _ *fixture) { must(t, os.Chmod(p, 0o644)) },
		"another root": func(t *testing.T, p string, f *fixture) {
			other := newFixture(t)
			must(t, other.open(t))
			b, err := os.ReadFile(filepath.Join(KeysPath(other.dir), serverFile))
			must(t, err)
			must(t, os.WriteFile(p, b, 0o600))
		},
		"two certificates": func(t *testing.T, p string, f *fixture) {
			b, err := os.ReadFile(p)
			must(t, err)
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.bootstrapRoot.Raw})...)
			must(t, os.WriteFile(p, b, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			must(t, f.open(t))
			f.close(t)
			path := filepath.Join(KeysPath(f.dir), serverFile)
			spoil(t, path, f)
			must(t, f.open(t))
			cert, err := f.ca.ServerCertificate(nil)
			must(t, err)
			if err := cert.Leaf.CheckSignatureFrom(f.ca.bootstrapRoot); err != nil {
				t.Error(err)
			}
			info, err := os.Stat(path)
			must(t, err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v", info.Mode())
			}
		})
	}
}

// A kill while the certificate is written leaves a private key under a name
// that nobody reads.
func TestWhatACrashLeftOfAPrivateKeyIsRemovedAtTheStart(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	f.close(t)
	left := filepath.Join(KeysPath(f.dir), ".tmp-server.pem.0011223344556677")
	must(t, os.WriteFile(left, []byte("a private key"), 0o600))
	must(t, f.open(t))
	if exists(left) {
		t.Error("it is still there")
	}
}

func TestAnotherRootKeyThanThePinnedOneIsRefused(t *testing.T) {
	for _, name := range []string{bootstrapRootKey, verifierRootKey} {
		f := newFixture(t)
		offline(t, f, name)
		_, err := keys.LoadOrCreate(filepath.Join(KeysPath(f.dir), name+".key"), true, keys.P256)
		must(t, err)
		wantCheck(t, f.open(t), name)
	}
}

func TestTheVerifierKeysDocumentIsRenewedWhileTheRootIsThere(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	check := verifierRoot(t, f)
	first, sequence := f.ca.VerifierKeysDocument(), f.ca.VerifierKeys().Sequence
	must(t, check(first, f.Now()))
	f.Advance(14 * day)
	must(t, f.ca.maintain(context.Background(), noStop))
	if string(f.ca.VerifierKeysDocument()) != string(first) {
		t.Error("renewed before half its life")
	}
	f.Advance(2 * day)
	must(t, f.ca.maintain(context.Background(), noStop))
	if k := f.ca.VerifierKeys(); k.Sequence <= sequence || k.NextUpdate.Sub(f.Now()) != 30*day {
		t.Errorf("sequence %d, next update %v", k.Sequence, k.NextUpdate)
	}
	must(t, check(f.ca.VerifierKeysDocument(), f.Now()))
	sequence = f.ca.VerifierKeys().Sequence
	f.close(t)
	must(t, f.open(t))
	if k := f.ca.VerifierKeys(); k.Sequence != sequence {
		t.Errorf("after a restart: sequence %d", k.Sequence)
	}
}

func TestTheVerifierRootCanBeOfflineUntilTheDocumentEnds(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	sequence := f.ca.VerifierKeys().Sequence
	f.close(t)
	back := offline(t, f, verifierRootKey)
	f.Advance(20 * day)
	must(t, f.open(t))
	found := false
	for _, w := range f.ca.Status().Warnings {
		found = found || strings.Contains(w, "verifier root")
	}
	if !found {
		t.Errorf("no warning: %q", f.ca.Status().Warnings)
	}
	f.close(t)
	f.Advance(10 * day)
	wantCheck(t, f.open(t), "verifier_root_missing")
	back()
	must(t, f.open(t))
	if k := f.ca.VerifierKeys(); k.Sequence <= sequence {
		t.Errorf("sequence %d after %d", k.Sequence, sequence)
	}
}

func TestAFirstStartWithoutTheVerifierRootIsAnError(t *testing.T) {
	f := newFixture(t)
	offline(t, f, verifierRootKey)
	wantCheck(t, f.open(t), "verifier_root_missing")
}

func TestTLSClientsAcceptTheServer(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	roots := x509.NewCertPool()
	roots.AddCert(f.ca.bootstrapRoot)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: f.ca.ServerCertificate})
	must(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_ = conn.(*tls.Conn).Handshake() // the client tells
		_ = conn.Close()
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: f.Now()})
			return err
		},
	})
	must(t, err)
	must(t, conn.Close())
}

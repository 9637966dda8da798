package nitro

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/hf/nitrite"
)

func TestOpenAuthorityKeepsItsRoot(t *testing.T) {
	dir := t.TempDir() + "/authority"
	first, err := OpenAuthority(dir, AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir, AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !first.Root().Equal(again.Root()) {
		t.Error("the directory yields another root the second time")
	}
	doc := mint(t, again, Document{})
	if _, err := nitrite.Verify(doc, nitrite.VerifyOptions{Roots: pool(first), CurrentTime: time.Now()}); err != nil {
		t.Errorf("a document of the loaded authority: %v", err)
	}
	for name, mode := range map[string]os.FileMode{RootFile: 0o644, KeyFile: 0o600} {
		info, err := os.Stat(dir + "/" + name)
		if err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), mode, err)
		}
	}
	read, err := ReadRoot(dir)
	if err != nil || !bytes.Equal(read, first.RootPEM()) {
		t.Errorf("ReadRoot: %v", err)
	}
}

func TestProcessesThatOpenAnAuthorityAtOnceGetOneRoot(t *testing.T) {
	dir := t.TempDir()
	roots := make(chan *x509.Certificate)
	const n = 8
	for range n {
		go func() {
			a, err := OpenAuthority(dir, AuthorityOptions{})
			if err != nil {
				t.Error(err)
				roots <- nil
				return
			}
			roots <- a.Root()
		}()
	}
	first := <-roots
	for range n - 1 {
		if r := <-roots; first == nil || r == nil || !first.Equal(r) {
			t.Error("two roots in one directory")
		}
	}
}

func TestOpenAuthorityRefusesWhatItCannotTrust(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"a key that others can read": func(dir string) error { return os.Chmod(dir+"/"+KeyFile, 0o640) },
		"a key behind a link": func(dir string) error {
			return errors.Join(os.Rename(dir+"/"+KeyFile, dir+"/elsewhere"), os.Symlink("elsewhere", dir+"/"+KeyFile))
		},
		"no key":               func(dir string) error { return os.Remove(dir + "/" + KeyFile) },
		"no certificate":       func(dir string) error { return os.Remove(dir + "/" + RootFile) },
		"a broken key":         func(dir string) error { return os.WriteFile(dir+"/"+KeyFile, []byte("x"), 0o600) },
		"a broken certificate": func(dir string) error { return os.WriteFile(dir+"/"+RootFile, []byte("x"), 0o600) },
		"another's certificate": func(dir string) error {
			a, err := NewAuthority(AuthorityOptions{})
			return errors.Join(err, os.WriteFile(dir+"/"+RootFile, a.RootPEM(), 0o600))
		},
		"two certificates": func(dir string) error {
			b, err := os.ReadFile(dir + "/" + RootFile)
			return errors.Join(err, os.WriteFile(dir+"/"+RootFile, append(b, b...), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := OpenAuthority(dir, AuthorityOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenAuthority(dir, AuthorityOptions{}); err == nil {
				t.Error("the authority was opened")
			}
		})
	}
	if _, err := ReadRoot(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadRoot of an empty directory: %v", err)
	}
}

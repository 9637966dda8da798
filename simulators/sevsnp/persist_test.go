package sevsnp

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// borrowed hands out well-known keys as if they were new: making them takes half
// a minute.
func borrowed(count *atomic.Int32) func() (*rsa.PrivateKey, error) {
	return func() (*rsa.PrivateKey, error) {
		n := int(count.Add(1)) - 1
		line := append(Lines(), foreignLine)[(n/3+1)%4]
		return wellKnownKey(line, roles()[n%3])
	}
}

func openBorrowed(dir string) (*Authority, error) {
	return openAuthority(dir, Options{}, borrowed(new(atomic.Int32)))
}

func TestOpenAuthorityKeepsItsKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	first, err := openBorrowed(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir, Options{}) // makes nothing, or this would take long
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.RootsPEM(), again.RootsPEM()) {
		t.Error("the directory yields other roots the second time")
	}
	if bytes.Equal(first.RootsPEM(), testAuthority(t).RootsPEM()) {
		t.Error("the roots are the well-known ones")
	}
	for name, mode := range map[string]os.FileMode{RootsFile: 0o644, KeysFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), mode, err)
		}
	}
	if read, err := ReadRoots(dir); err != nil || !bytes.Equal(read, first.RootsPEM()) {
		t.Errorf("ReadRoots: %v", err)
	}
	// Two processes agree on a chip and its key without talking to each other.
	c, d := testChip(t, first, Turin), testChip(t, again, Turin)
	e, f := testGuest(t, c, Launch{}).Endorsements()[0], testGuest(t, d, Launch{}).Endorsements()[0]
	if !bytes.Equal(parse(t, e).RawSubjectPublicKeyInfo, parse(t, f).RawSubjectPublicKeyInfo) || !bytes.Equal(c.ID(), d.ID()) {
		t.Error("the chip has another key in the second process")
	}
	g := testGuest(t, testChip(t, testAuthority(t), Turin), Launch{}).Endorsements()[0]
	if bytes.Equal(parse(t, e).RawSubjectPublicKeyInfo, parse(t, g).RawSubjectPublicKeyInfo) {
		t.Error("the chip has the same key under another authority")
	}
}

func TestProcessesThatOpenAnAuthorityAtOnceGetOne(t *testing.T) {
	dir := t.TempDir()
	var count atomic.Int32
	var wg sync.WaitGroup
	const n = 4
	roots := make([][]byte, n)
	for i := range n {
		wg.Go(func() {
			a, err := openAuthority(dir, Options{}, borrowed(&count))
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = a.RootsPEM()
		})
	}
	wg.Wait()
	for _, r := range roots[1:] {
		if !bytes.Equal(r, roots[0]) {
			t.Error("two authorities")
		}
	}
	if got := count.Load(); got != 9 {
		t.Errorf("%d keys were made, want 9", got)
	}
}

func TestADamagedAuthorityIsRefused(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	if _, err := openBorrowed(good); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(good, KeysFile))
	if err != nil {
		t.Fatal(err)
	}
	half := bytes.Index(content, []byte("-----BEGIN CERTIFICATE"))
	for want, c := range map[string]struct {
		content []byte
		mode    os.FileMode
	}{
		"chmod 600 it":                       {content, 0o644},
		"the ark key of Milan: want a PEM":   {nil, 0o600},
		"the ark certificate of Milan: want": {content[:half], 0o600},
		"something after":                    {append(bytes.Clone(content), "x"...), 0o600},
		"is not that of its certificate":     {swapped(content), 0o600},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, KeysFile), c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, KeysFile), c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := openBorrowed(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	lost := t.TempDir()
	if err := os.WriteFile(filepath.Join(lost, RootsFile), content[:half], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openBorrowed(lost); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("an authority that has lost its keys: %v", err)
	}
	if _, err := ReadRoots(lost); err == nil {
		t.Error("ReadRoots accepts a file with a key in it")
	}
	if _, err := ReadRoots(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadRoots of an empty directory: %v", err)
	}
}

// swapped exchanges the first two certificates.
func swapped(content []byte) []byte {
	const begin, end = "-----BEGIN CERTIFICATE", "-----END CERTIFICATE-----\n"
	s := string(content)
	i := strings.Index(s, begin)
	j := strings.Index(s, end) + len(end)
	k := j + strings.Index(s[j:], begin)
	l := j + strings.Index(s[j:], end) + len(end)
	return []byte(s[:i] + s[k:l] + s[j:k] + s[i:j] + s[l:])
}

func TestAnAuthorityThatLostItsRootsFileWritesItAgain(t *testing.T) {
	dir := t.TempDir()
	a, err := openBorrowed(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, RootsFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, Options{AMDNames: true}); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadRoots(dir); err != nil || !bytes.Equal(b, a.RootsPEM()) {
		t.Errorf("the file has other certificates (%v)", err)
	}
}

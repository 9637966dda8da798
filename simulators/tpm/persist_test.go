package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func TestOpenAuthorityKeepsItsKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	first, err := OpenAuthority(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.RootPEM(), again.RootPEM()) || !bytes.Equal(first.IntermediatePEM(), again.IntermediatePEM()) {
		t.Error("the directory yields other certificates the second time")
	}
	for name, mode := range map[string]os.FileMode{RootFile: 0o644, KeysFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), mode, err)
		}
	}
	if read, err := ReadRoot(dir); err != nil || !bytes.Equal(read, first.RootPEM()) {
		t.Errorf("ReadRoot: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, RootFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, Options{}); err != nil {
		t.Errorf("a process that ended between the two files: %v", err)
	}
	if read, err := ReadRoot(dir); err != nil || !bytes.Equal(read, first.RootPEM()) {
		t.Errorf("the root was not written again: %v", err)
	}
}

func TestTheRootVouchesForTheIntermediateAndNobodyElse(t *testing.T) {
	a, b := newTestAuthority(t), newTestAuthority(t)
	for _, other := range []*Authority{a, b} {
		roots := x509.NewCertPool()
		roots.AddCert(other.Root())
		_, err := a.Intermediate().Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err == nil) != (other == a) {
			t.Errorf("%v", err)
		}
	}
	if c := a.Root(); !c.IsCA || c.MaxPathLen != 1 || a.Intermediate().MaxPathLen != 0 || !a.Intermediate().MaxPathLenZero {
		t.Error("the certificates may sign too much")
	}
}

func TestProcessesThatOpenAnAuthorityAtOnceGetOne(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	roots := make([][]byte, 6)
	for i := range roots {
		wg.Go(func() {
			a, err := OpenAuthority(dir, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = a.RootPEM()
		})
	}
	wg.Wait()
	for _, r := range roots {
		if !bytes.Equal(r, roots[0]) {
			t.Fatal("two processes have different authorities")
		}
	}
}

func TestADamagedAuthorityIsRefused(t *testing.T) {
	good := t.TempDir()
	if _, err := OpenAuthority(good, Options{}); err != nil {
		t.Fatal(err)
	}
	keys, err := os.ReadFile(filepath.Join(good, KeysFile))
	if err != nil {
		t.Fatal(err)
	}
	other, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	blocks := func(b []byte) [][]byte { return bytes.SplitAfter(b, []byte("-----END ")) }
	mixed := slicesConcat(blocks(keys)[:1], blocks(other)[1:])
	for name, c := range map[string]struct {
		content []byte
		mode    os.FileMode
		want    string
	}{
		"readable by others": {keys, 0o644, "chmod 600"},
		"empty":              {nil, 0o600, "the root key"},
		"cut":                {keys[:len(keys)-40], 0o600, "the intermediate certificate"},
		"something behind":   {append(bytes.Clone(keys), "x"...), 0o600, "after the last PEM block"},
		"another's key":      {mixed, 0o600, "not that of its certificate"},
		"two authorities":    {halves(keys, other), 0o600, "not the root's"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, KeysFile), c.content, c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, KeysFile), c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenAuthority(dir, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	lost := t.TempDir()
	if err := os.WriteFile(filepath.Join(lost, RootFile), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(lost, Options{}); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("keys that are gone: %v", err)
	}
	if _, err := ReadRoot(lost); err == nil {
		t.Error("a root that is none was read")
	}
	if _, err := ReadRoot(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no authority: %v", err)
	}
}

// halves is the root of one file and the intermediate of another.
func halves(a, b []byte) []byte {
	key := []byte("-----BEGIN PRIVATE KEY-----")
	return append(bytes.Clone(a[:bytes.LastIndex(a, key)]), b[bytes.LastIndex(b, key):]...)
}

func slicesConcat(a, b [][]byte) []byte {
	return append(bytes.Join(a, nil), bytes.Join(b, nil)...)
}

// FuzzRecord reads what is in a state directory.
func FuzzRecord(f *testing.F) {
	for _, k := range EKKinds() {
		template, err := k.template()
		if err != nil {
			f.Fatal(err)
		}
		b, err := json.Marshal(record{Version: recordVersion, Root: make([]byte, 32), EKs: []recordedEK{{Kind: k, Public: tpm2.Marshal(template)}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		eks, err := r.eks()
		if err == nil && len(eks) == 0 {
			t.Fatal("a machine without endorsement keys")
		}
	})
}

package keyfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func opened(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "authority"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestAFileHasTheModeThatItWasGiven(t *testing.T) {
	d := opened(t)
	for name, mode := range map[string]fs.FileMode{"public": 0o644, "secret": 0o600} {
		if have, err := d.Has(name); have || err != nil {
			t.Errorf("before: %v, %v", have, err)
		}
		for _, content := range []string{"once", "again"} {
			if err := d.Write(name, []byte(content), mode); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(d.Path(name))
			if err != nil || string(b) != content {
				t.Errorf("%s holds %q, %v", name, b, err)
			}
		}
		if have, err := d.Has(name); !have || err != nil {
			t.Errorf("after: %v, %v", have, err)
		}
		info, err := os.Lstat(d.Path(name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), mode, err)
		}
	}
	info, err := os.Stat(d.path)
	if err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the directory has mode %v (%v)", info.Mode(), err)
	}
	entries, err := os.ReadDir(d.path)
	if err != nil || len(entries) != 3 { // the two, and the lock
		t.Errorf("the directory holds %v (%v)", entries, err)
	}
}

func TestAFileThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	d := opened(t)
	if err := os.Mkdir(d.Path("taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Write("taken", []byte("x"), 0o600); err == nil {
		t.Error("a file took the place of a directory")
	}
	entries, err := os.ReadDir(d.path)
	if err != nil || len(entries) != 2 {
		t.Errorf("the directory holds %v (%v)", entries, err)
	}
}

func TestASecretIsItsOwnersAlone(t *testing.T) {
	d := opened(t)
	if err := d.Write("secret", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Secret("secret"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.Symlink("secret", d.Path("link")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Secret("link"); err == nil || !strings.Contains(err.Error(), "chmod 600 it") {
		t.Errorf("behind a link: %v", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(d.Path("secret"), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Secret("secret"); err == nil || !strings.Contains(err.Error(), "chmod 600 it") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if _, err := d.Secret("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

func TestOneAtATimeHasADirectoryOpen(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			d, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			have, err := d.Has("key")
			if err != nil {
				t.Error(err)
			}
			if have {
				return
			}
			made.Add(1)
			if err := d.Write("key", []byte("x"), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("the file was made %d times", made.Load())
	}
}

func TestADirectoryThatCannotBeIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was opened as a directory")
	}
	if _, err := Public(t.TempDir(), "root.pem"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no authority in") {
		t.Errorf("an empty directory: %v", err)
	}
}

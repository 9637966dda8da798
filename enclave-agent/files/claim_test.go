package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestASecondAgentInADirectoryIsRefusedAndBreaksNothing(t *testing.T) {
	path := memory(t)
	a, b := open(t, path, Options{}), open(t, path, Options{})
	put(t, a, pair("a")...)
	if _, err := b.Put(pair("b")); !errors.Is(err, ErrBusy) {
		t.Errorf("the second: %v", err)
	}
	if got := read(t, path, "svid.pem"); got != "cert a" {
		t.Errorf("read %q", got)
	}
	// One file beside the sets, as `fetch` writes it, is nobody's to refuse.
	if err := b.Replace(File{Name: "token", Secret: true, Content: []byte("t")}); err != nil {
		t.Error(err)
	}
	_ = a.Close()
	put(t, b, pair("b")...)
	if got := read(t, path, "svid.pem"); got != "cert b" {
		t.Errorf("read %q", got)
	}
}

func TestKeysThatACrashLeftGoAtTheFirstPutAlsoWhereNothingChanged(t *testing.T) {
	path := memory(t)
	a := open(t, path, Options{})
	put(t, a, pair("1")...)
	_ = a.Close()
	err := errors.Join(
		os.Mkdir(filepath.Join(path, "..set-crash"), 0o700), os.WriteFile(filepath.Join(path, "..set-crash", "svid.key"), []byte("key"), 0o600),
		os.WriteFile(filepath.Join(path, "..new-crash"), []byte("token"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if put(t, open(t, path, Options{}), pair("1")...) {
		t.Error("the same set counts as a change")
	}
	for _, name := range []string{"..set-crash", "..new-crash"} {
		if _, err := os.Lstat(filepath.Join(path, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	if got := read(t, path, "svid.pem"); got != "cert 1" {
		t.Errorf("read %q", got)
	}
}

func TestNothingIsWrittenToADirectoryThatWasReplacedUntilItIsOpenedAnew(t *testing.T) {
	path := filepath.Join(memory(t), "d")
	for name, replace := range map[string]func() error{
		"moved":   func() error { return errors.Join(os.Rename(path, path+".old"), os.Mkdir(path, 0o700)) },
		"anew":    func() error { return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)) },
		"missing": func() error { return os.RemoveAll(path) },
	} {
		d := open(t, path, Options{})
		put(t, d, pair("1"+name)...)
		if anew, err := d.Reopen(); anew || err != nil || d.Moved() {
			t.Errorf("%s: before: %v, %v", name, anew, err)
		}
		if err := replace(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Put(pair("2" + name)); !errors.Is(err, ErrMoved) || !d.Moved() {
			t.Errorf("%s: Put: %v", name, err)
		}
		if err := d.Replace(File{Name: "token"}); !errors.Is(err, ErrMoved) {
			t.Errorf("%s: Replace: %v", name, err)
		}
		if anew, err := d.Reopen(); !anew || err != nil {
			t.Errorf("%s: Reopen: %v, %v", name, anew, err)
		}
		put(t, d, pair("2"+name)...)
		if got := read(t, path, "svid.pem"); got != "cert 2"+name {
			t.Errorf("%s: read %q", name, got)
		}
		if _, err := open(t, path, Options{}).Put(pair("3")); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: the new directory is not claimed: %v", name, err)
		}
		_ = d.Close()
		_ = os.RemoveAll(path + ".old")
	}
}

func TestADirectoryInThePlaceOfAnotherIsCheckedLikeTheFirst(t *testing.T) {
	path := filepath.Join(memory(t), "d")
	d := open(t, path, Options{})
	put(t, d, pair("1")...)
	old := path + ".old"
	if err := errors.Join(os.Rename(path, old), os.Mkdir(path, 0o700), os.Chmod(path, 0o777)); err != nil {
		t.Fatal(err)
	}
	if anew, err := d.Reopen(); anew || !errors.Is(err, ErrPermission) {
		t.Errorf("a directory that everybody can change: %v, %v", anew, err)
	}
	if err := errors.Join(os.Remove(path), os.Symlink(disk(t), path)); err != nil {
		t.Fatal(err)
	}
	if anew, err := d.Reopen(); anew || !errors.Is(err, ErrDisk) {
		t.Errorf("a link onto a disk: %v, %v", anew, err)
	}
	if _, err := d.Put(pair("2")); !errors.Is(err, ErrMoved) {
		t.Errorf("Put: %v", err)
	}
	// It comes back: nothing was lost.
	if err := errors.Join(os.Remove(path), os.Rename(old, path)); err != nil {
		t.Fatal(err)
	}
	put(t, d, pair("2")...)
	if got := read(t, path, "svid.pem"); got != "cert 2" {
		t.Errorf("read %q", got)
	}
}

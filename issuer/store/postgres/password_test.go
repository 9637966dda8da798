package postgres_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
)

func TestAPasswordFileIsReadForEveryConnection(t *testing.T) {
	c := cluster(t)
	db := c.Database(t)
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		must(t, os.WriteFile(file, []byte(text), 0o600))
		must(t, os.Chmod(file, mode))
	}
	// The cluster trusts whoever reaches its socket, so what is shown is that the
	// file is read and refused, not that the database compares it.
	write("hunter2\n", 0o600)
	s, err := postgres.Open(t.Context(), postgres.Config{ConnString: db, PasswordFile: file})
	must(t, err)
	must(t, s.Ping(t.Context()))
	must(t, s.Close())
	for name, spoil := range map[string]func(){
		"others may read it": func() { write("hunter2\n", 0o640) },
		"it is empty":        func() { write("\nhunter2", 0o600) },
		"it is too long":     func() { write(strings.Repeat("x", 5000), 0o600) },
		"it is not there":    func() { must(t, os.Remove(file)) },
		"it is a directory":  func() { must(t, os.Remove(file)); must(t, os.Mkdir(file, 0o700)) },
	} {
		if info, err := os.Lstat(file); err == nil && info.IsDir() {
			must(t, os.Remove(file))
		}
		if _, err := os.Lstat(file); err != nil {
			write("hunter2\n", 0o600)
		}
		spoil()
		_, err := postgres.Open(t.Context(), postgres.Config{ConnString: db, PasswordFile: file})
		if attest.CheckOf(err) != "database_password" {
			t.Errorf("%s: %v, want check database_password", name, err)
		} else if containsSecret(err) {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestOneDataDirectoryHasOneServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db.lock")
	l, err := store.LockDataDir(path)
	must(t, err)
	if _, err := store.LockDataDir(path); attest.CheckOf(err) != "database_lock" {
		t.Errorf("%v, want check database_lock", err)
	}
	must(t, l.Release())
	l, err = store.LockDataDir(path)
	must(t, err)
	must(t, l.Release())
}

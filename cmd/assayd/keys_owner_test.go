package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
)

func ownedBy(t *testing.T, location string) *config.Config {
	t.Helper()
	c := config.Default()
	c.TrustDomain, c.DataDir, c.Keys.Location = "b.example", t.TempDir(), location
	if err := os.Mkdir(ca.KeysPath(c.DataDir), 0o700); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestADirectoryOfKeysRemembersWhoseTheyAre(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)

	b := ownedBy(t, "file://"+shared)
	if _, err := openKeys(b); err != nil {
		t.Fatalf("directories that say nothing: %v", err)
	}
	for range 2 {
		if err := adoptKeys(b, log); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{shared, ca.KeysPath(b.DataDir)} {
		if owner, err := ownerOf(dir); err != nil || owner != "b.example" {
			t.Errorf("%s belongs to %q: %v", dir, owner, err)
		}
	}
	if _, err := openKeys(b); err != nil {
		t.Errorf("its own: %v", err)
	}

	other := ownedBy(t, shared)
	other.TrustDomain = "c.example"
	for what, err := range map[string]error{
		"open":  func() error { _, err := openKeys(other); return err }(),
		"adopt": adoptKeys(other, log),
	} {
		if err == nil || cli.ExitCode(err) != cli.Usage || !strings.Contains(err.Error(), shared+" holds the keys of trust domain b.example, not of c.example") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if owner, _ := ownerOf(shared); owner != "b.example" {
		t.Errorf("it belongs to %q now", owner)
	}
}

func TestWhoseTheKeysAreHasToBeSaidRightly(t *testing.T) {
	b := ownedBy(t, "")
	if err := os.WriteFile(filepath.Join(ca.KeysPath(b.DataDir), ownerFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeys(b); err == nil || !strings.Contains(err.Error(), "is not the name of a trust domain") {
		t.Errorf("an empty one: %v", err)
	}
}

// What is only read cannot remember; that stops nobody.
func TestADirectoryOfKeysThatCannotBeWrittenToIsUsed(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root writes everywhere")
	}
	b := ownedBy(t, "")
	if err := os.Chmod(ca.KeysPath(b.DataDir), 0o500); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := adoptKeys(b, slog.New(slog.NewTextHandler(&out, nil))); err != nil || !strings.Contains(out.String(), "cannot remember its trust domain") {
		t.Errorf("%v, log %q", err, out.String())
	}
}

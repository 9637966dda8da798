package recovery

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/fleet"
)

// copyFile copies a file of a server that does not run.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A disk snapshot of the database is put back, and nobody tells the server. The
// sink does; `assayd newchain` mends it. Then the CA's key is lost, and is taken
// out of the archive.
func TestADatabaseThatWasPutBackNeedsANewChainAndALostKeyItsBackup(t *testing.T) {
	b := build(t)
	o := newOffice(t, b)
	db := filepath.Join(o.Data, "assay.db")
	server := o.Start(b)
	a := o.StartAgent(b, "a")
	first := fleet.Serial(a.Await())
	server.Stop()
	copyFile(t, db, o.Path("snapshot"))
	archive := o.Path("backup.tar")
	o.Must(b, "assayd", "backup", archive, "--data-dir", o.Data)

	server = o.Start(b)
	o.Policy(2)
	second := fleet.Serial(a.Await(first))
	server.Stop()

	copyFile(t, o.Path("snapshot"), db)
	if _, err := o.Run(b, "assayd", "check", "--data-dir", o.Data); err == nil || !strings.Contains(err.Error(), "sink") {
		t.Fatalf("checking a database that is older than the sink: %v", err)
	}
	if _, err := o.Run(b, "assayd", "run", "--data-dir", o.Data); err == nil || !strings.Contains(err.Error(), "sink") {
		t.Fatalf("starting on a database that is older than the sink: %v", err)
	}
	said := o.Must(b, "assayd", "newchain", "--data-dir", o.Data, "--reason", "a test put a snapshot back")
	if !strings.Contains(said, "the chain main.2") {
		t.Errorf("newchain says %q", said)
	}
	server = o.Start(b)
	third := fleet.Serial(a.Await(first, second))
	server.Stop()
	key := filepath.Join(o.Data, "checkpoint.pub")
	if out := o.Must(b, "assay", "ledger", "list", "--db", db, "--limit", "0", "--output", "json"); !strings.Contains(out, "a test put a snapshot back; the chain main ends at entry 1,") {
		t.Errorf("the new chain does not say why it began:\n%s", out)
	}
	o.Must(b, "assay", "ledger", "verify", "--db", db, "--key", key)

	// The CA's key is lost.
	found, err := filepath.Glob(filepath.Join(o.Data, "keys", "x509-ca-*.key"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the CA's key: %v, %v", found, err)
	}
	for _, f := range found {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.Run(b, "assayd", "check", "--data-dir", o.Data); err == nil || !strings.Contains(err.Error(), "restore the key from a backup") {
		t.Fatalf("checking without the CA's key: %v", err)
	}
	restored := o.Path("restored")
	o.Must(b, "assayd", "restore", archive, "--data-dir", restored)
	for _, f := range found {
		copyFile(t, filepath.Join(restored, "keys", filepath.Base(f)), f)
	}
	server = o.Start(b)
	o.Policy(3)
	a.Await(first, second, third)
	server.Stop()
}

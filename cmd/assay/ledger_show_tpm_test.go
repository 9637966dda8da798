package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// What the ledger kept of a TPM comes out whole, with its boot log, and verifies
// by the command that is printed.
func TestATPMsRecordedEvidenceComesOutWithItsBootLog(t *testing.T) {
	dir := t.TempDir()
	tpmFixtures(t, dir)
	raw, err := os.ReadFile(filepath.Join(dir, "tpm.json"))
	check(t, err)
	ev, err := tpmTEE().normalize(raw)
	check(t, err)
	if len(ev.EventLog) == 0 {
		t.Fatal("the fixture has no boot log")
	}

	o := newOffice(t)
	path := ca.DatabasePath(o.dir)
	db, err := store.OpenSQLite(t.Context(), path)
	check(t, err)
	digest := ev.Digest()
	check(t, db.Append(t.Context(), store.Batch{TrustDomain: o.TrustDomain, Chain: ledger.MainChain, Evidence: []store.Evidence{{
		Digest: digest, Platform: string(attest.TPM2), Body: ev.Body, EventLog: ev.EventLog, At: fixtureTime,
	}}}))
	check(t, db.Close())

	src, err := openDB(t.Context(), path, "")
	check(t, err)
	defer func() { check(t, src.Close()) }()
	var said bytes.Buffer
	c := &cobra.Command{}
	c.SetErr(&said)
	c.SetContext(t.Context())
	file := filepath.Join(dir, "recorded.json")
	check(t, saveEvidence(c, src, ledger.Entry{EvidenceDigest: digest[:], VerifiedAt: fixtureTime}, file))

	_, command, found := strings.Cut(strings.TrimSpace(said.String()), "verify it with: assay ")
	if !found {
		t.Fatalf("it says %q", said.String())
	}
	got := assay(t, nil, strings.Fields(command)...)
	if got.code != 0 || !strings.Contains(got.stdout, "VERIFIED") || !strings.Contains(got.stdout, "event log") || !strings.Contains(got.stdout, "it replays to the quoted value") {
		t.Errorf("%s: exit code %d\n%s%s", command, got.code, got.stdout, got.stderr)
	}
}

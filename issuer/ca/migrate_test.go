package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/svid"
)

// before is a data directory as the version before rotation left it: one active
// X.509 authority and one verifier key in unsigned rows, a document, an entry in the
// ledger, and neither members nor signatures. The database is made by that version's
// migrations, and its rows are written as it wrote them.
func before(t *testing.T) (f *fixture, authority []byte) {
	t.Helper()
	f = newFixture(t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		must(t, os.RemoveAll(DatabasePath(f.dir)+suffix))
	}
	must(t, os.WriteFile(DatabasePath(f.dir), nil, 0o600))
	db, err := sql.Open("sqlite", "file:"+DatabasePath(f.dir))
	must(t, err)
	defer func() { must(t, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS(filepath.Join("..", "store", "migrations")), goose.WithDisableGlobalRegistry(true))
	must(t, err)
	_, err = p.UpTo(t.Context(), 6)
	must(t, err)

	ring, err := keys.OpenDir(KeysPath(f.dir))
	must(t, err)
	now := f.Now()
	us := func(at time.Time) int64 { return at.UnixMicro() }
	run(t, db, `INSERT INTO trust_domains (trust_domain, simulated, bundle_sequence, created_at) VALUES (?,1,2,?)`, td, us(now))
	signer, err := ring.Create(t.Context(), "x509-ca-0011223344556677", keys.P256)
	must(t, err)
	domain, err := checkTrustDomain(td, true)
	must(t, err)
	tmpl := authorityTemplate(domain, "Assay simulated X.509 authority", now, 365*day)
	authority, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, signer.Public(), signer)
	must(t, err)
	add := `INSERT INTO authorities (trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at) VALUES (?,?,?,'main',?,'active',?,?,?,?)`
	run(t, db, add, td, "x509", "0011223344556677", "x509-ca-0011223344556677", authority, us(tmpl.NotBefore), us(tmpl.NotAfter), us(now))
	verifier, err := ring.Create(t.Context(), "verifier-8899aabbccddeeff", keys.P256)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(verifier.Public())
	must(t, err)
	run(t, db, add, td, "verifier", "8899aabbccddeeff", "verifier-8899aabbccddeeff", spki, us(now), us(now.Add(365*day)), us(now))

	root, err := ring.Get(t.Context(), verifierRootKey)
	must(t, err)
	pub, ok := verifier.Public().(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	doc := &svid.VerifierKeys{TrustDomain: domain, Sequence: uint64(now.Unix()), IssuedAt: now, NextUpdate: now.Add(30 * day),
		Keys: []svid.VerifierKey{{Key: pub, NotBefore: now, NotAfter: now.Add(365 * day)}}}
	signed, err := doc.Sign(root)
	must(t, err)
	run(t, db, `INSERT INTO documents (trust_domain, kind, sequence, body, created_at) VALUES (?,'verifier-keys',?,?,?)`, td, int64(doc.Sequence), signed, us(now))
	run(t, db, `INSERT INTO entries (trust_domain, chain, sequence, hash, payload, at, reference, instance, evidence_digest) VALUES (?,'main',1,?,?,?,'as-1','i',?)`,
		td, make([]byte, 32), []byte(`{}`), us(now), make([]byte, 32))
	return f, authority
}

// It goes on with the same authorities, signed now; what is new (tokens, deny-lists)
// waits for the propagation time, since relying parties have bundles without it.
func TestADataDirectoryOfBeforeRotationGoesOn(t *testing.T) {
	f, authority := before(t)
	f.Advance(40 * time.Hour)
	must(t, f.open(t))
	if f.x509().row.ID != "0011223344556677" || string(f.x509().cert.Raw) != string(authority) || f.verifier().row.ID != "8899aabbccddeeff" {
		t.Errorf("it signs with %s and %s", f.x509().row.ID, f.verifier().row.ID)
	}
	must(t, f.ca.Ready())
	for _, a := range f.ca.now.Load().all {
		if len(a.row.Signature) == 0 {
			t.Errorf("the row of %s is not signed", a.row.KeyName)
		}
	}
	if m := f.ca.Members(); len(m) != 1 || m[0].Name != "main" {
		t.Errorf("members %v", m)
	}
	if _, err := f.ca.jwtAuthority(t.Context()); err == nil {
		t.Error("tokens are signed at once: bundles without that key are in use")
	}
	f.Advance(day)
	must(t, f.ca.maintain(t.Context(), noStop))
	_, err := f.ca.jwtAuthority(t.Context())
	must(t, err)
	_, _, err = f.ca.DenyListSigner()
	must(t, err)
	f.close(t)
	must(t, f.open(t))
	if f.x509().row.ID != "0011223344556677" {
		t.Error("after a restart another authority signs")
	}
	// Half of the authority's life later its successor is there.
	f.Advance(190 * day)
	must(t, f.ca.maintain(t.Context(), noStop))
	if n := len(f.ca.Bundle().X509Authorities()); n != 2 {
		t.Errorf("%d X.509 authorities", n)
	}
}

func TestAMigrationThatIsKilledAtAnyStepIsCompleted(t *testing.T) {
	var steps []string
	for n := 1; ; n++ {
		f, _ := before(t)
		f.Advance(time.Hour)
		var seen []string
		err := f.openAt(t, killAt(n, &seen))
		if err == nil {
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		steps = append(steps, seen[len(seen)-1])
		must(t, f.open(t))
		must(t, f.ca.Ready())
		if f.x509().row.ID != "0011223344556677" {
			t.Errorf("killed after %q: %s signs", steps[n-1], f.x509().row.ID)
		}
	}
	for _, step := range []string{"endorsed", "signed x509", "signed verifier", "signed file"} {
		if !slices.Contains(steps, step) {
			t.Errorf("no kill after %q: %q", step, steps)
		}
	}
}

// The verifier root's key is offline: it goes on, without deny-lists and with a
// warning, until the key is brought.
func TestAMigrationWithoutTheVerifierRootGoesOn(t *testing.T) {
	f, _ := before(t)
	back := offline(t, f, verifierRootKey)
	must(t, f.open(t))
	must(t, f.ca.Ready())
	if !f.warned("deny-list") {
		t.Errorf("warnings %q", f.ca.Status().Warnings)
	}
	if _, _, err := f.ca.DenyListSigner(); err == nil {
		t.Error("deny-lists are signed by a key that no document names")
	}
	back()
	must(t, f.ca.maintain(context.Background(), noStop))
	f.Advance(day)
	must(t, f.ca.maintain(context.Background(), noStop))
	_, _, err := f.ca.DenyListSigner()
	must(t, err)
}

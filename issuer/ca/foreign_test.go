package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

// writer is who can write the database and has no key: threat D. Triggers do
// not stop them, so they are dropped first.
func writer(t *testing.T, f *fixture) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+DatabasePath(f.dir)+"?_pragma=busy_timeout(10000)")
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	rows, err := db.QueryContext(t.Context(), `SELECT name FROM sqlite_master WHERE type = 'trigger'`)
	must(t, err)
	var names []string
	for rows.Next() {
		var name string
		must(t, rows.Scan(&name))
		names = append(names, name)
	}
	must(t, rows.Err())
	must(t, rows.Close())
	for _, name := range names {
		_, err := db.ExecContext(t.Context(), `DROP TRIGGER `+name)
		must(t, err)
	}
	return db
}

func run(t *testing.T, db *sql.DB, text string, args ...any) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), text, args...)
	must(t, err)
}

// insert adds a row as a writer of the database would.
func insert(t *testing.T, db *sql.DB, a store.Authority) {
	t.Helper()
	run(t, db, `INSERT INTO authorities (trust_domain, use, id, server, key_name, state, public, not_before, not_after, created_at) VALUES (?,?,?,?,?,?,?,?,?,?)`,
		a.TrustDomain, a.Use, a.ID, a.Server, a.KeyName, a.State, a.Public, a.NotBefore.UnixMicro(), a.NotAfter.UnixMicro(), a.CreatedAt.UnixMicro())
}

// ofTheWriter is an authority with a key that the writer made: perfect but for
// that.
func ofTheWriter(t *testing.T, f *fixture, use store.Use, server string) store.Authority {
	t.Helper()
	return ofTheWriterAt(t, f, use, server, f.Now())
}

func ofTheWriterAt(t *testing.T, f *fixture, use store.Use, server string, now time.Time) store.Authority {
	t.Helper()
	key := newKey(t)
	row := store.Authority{
		TrustDomain: td, Use: use, ID: "0123456789abcdef", Server: server, KeyName: prefixOf(use) + "0123456789abcdef",
		State: store.Active, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(day), CreatedAt: now.Add(-time.Minute),
	}
	var err error
	if use == store.X509 {
		tmpl := authorityTemplate(f.ca.td, "Assay simulated X.509 authority", now, day)
		row.NotBefore, row.NotAfter = tmpl.NotBefore, tmpl.NotAfter
		row.Public, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	} else {
		row.Public, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	must(t, err)
	return row
}

// trusts reports whether relying parties are told of a row's key, by the bundle or
// by the document.
func (f *fixture) trusts(t *testing.T, row store.Authority) bool {
	t.Helper()
	for _, a := range f.ca.Bundle().X509Authorities() {
		if bytes.Equal(a.Raw, row.Public) {
			return true
		}
	}
	for _, k := range f.ca.VerifierKeys().Keys {
		if der, err := x509.MarshalPKIXPublicKey(k.Key); err != nil || bytes.Equal(der, row.Public) {
			return true
		}
	}
	return f.ca.now.Load().find(row.Use, row.ID) != nil
}

func (f *fixture) warned(text string) bool {
	return slices.ContainsFunc(f.ca.Status().Warnings, func(w string) bool { return strings.Contains(w, text) })
}

// TestAnAuthorityThatNoServerSignedIsNeverTrusted: who writes the database and has
// no key adds authorities of their own, under the name of another server or of this
// one. None gets into the bundle, and none is named in a document that the verifier
// root signs. One in the name of another server does not stop this one.
func TestAnAuthorityThatNoServerSignedIsNeverTrusted(t *testing.T) {
	for _, use := range []store.Use{store.X509, store.Verifier} {
		for _, state := range []store.State{store.Active, store.Prepared, store.Retired} {
			t.Run(string(use)+" "+string(state), func(t *testing.T) {
				f := newFixture(t)
				must(t, f.open(t))
				foreign, own := ofTheWriter(t, f, use, "other"), ofTheWriter(t, f, use, "main")
				foreign.State, own.State = state, state
				own.ID, own.KeyName = "fedcba9876543210", prefixOf(use)+"fedcba9876543210"
				f.close(t)
				db := writer(t, f)
				insert(t, db, foreign)
				run(t, db, `DELETE FROM documents`) // so that a new one must be signed
				must(t, f.check(t))
				must(t, f.open(t))
				if f.trusts(t, foreign) {
					t.Error("it is trusted")
				}
				if !f.warned("no such server") {
					t.Errorf("no warning: %q", f.ca.Status().Warnings)
				}
				f.close(t)
				run(t, db, `DELETE FROM documents`)
				insert(t, db, own)
				wantCheck(t, f.check(t), "authority_unsigned")
				wantCheck(t, f.open(t), "authority_unsigned")
				var n int
				must(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM documents`).Scan(&n))
				if n != 0 {
					t.Error("the verifier root has signed a document")
				}
				run(t, db, `DELETE FROM authorities WHERE id = ?`, own.ID)
				must(t, f.open(t))
			})
		}
	}
}

func TestAnAuthorityThatAppearsWhileTheServerRunsIsNeverSigned(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	row := ofTheWriter(t, f, store.Verifier, "other")
	db := writer(t, f)
	insert(t, db, row)
	f.Advance(16 * day) // past half of the document's life
	must(t, f.ca.maintain(context.Background(), noStop))
	if f.trusts(t, row) || f.ca.VerifierKeys().IssuedAt.Before(f.Now()) {
		t.Error("it is trusted, or the document was not renewed")
	}
	if !f.warned("no such server") {
		t.Errorf("no warning: %q", f.ca.Status().Warnings)
	}
	own := ofTheWriter(t, f, store.Verifier, "main")
	own.ID, own.KeyName = "fedcba9876543210", "verifier-fedcba9876543210"
	insert(t, db, own)
	before := f.ca.VerifierKeysDocument()
	f.Advance(16 * day)
	wantCheck(t, f.ca.maintain(context.Background(), noStop), "authority_unsigned")
	if string(f.ca.VerifierKeysDocument()) != string(before) || f.trusts(t, own) {
		t.Error("another document is served")
	}
}

// TestARowThatItsKeyDidNotMakeIsRefused: rows that name a key of ours, with
// something else about it than that key vouched for.
func TestARowThatItsKeyDidNotMakeIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, f *fixture, db *sql.DB){
		"our key in a certificate that another signed": func(t *testing.T, f *fixture, db *sql.DB) {
			key := newKey(t)
			tmpl := authorityTemplate(f.ca.td, "Assay simulated X.509 authority", f.Now(), 9*365*day)
			der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, f.x509().signer.Public(), key)
			must(t, err)
			run(t, db, `UPDATE authorities SET public = ?, not_before = ?, not_after = ? WHERE use = 'x509'`, der, tmpl.NotBefore.UnixMicro(), tmpl.NotAfter.UnixMicro())
		},
		"a longer life than the certificate's": func(t *testing.T, f *fixture, db *sql.DB) {
			run(t, db, `UPDATE authorities SET not_after = ? WHERE use = 'x509'`, f.Now().Add(9*365*day).UnixMicro())
		},
		"the key under another ID": func(t *testing.T, f *fixture, db *sql.DB) {
			run(t, db, `UPDATE authorities SET id = '0123456789abcdef' WHERE use = 'verifier'`)
		},
		"a root as verifier key": func(t *testing.T, f *fixture, db *sql.DB) {
			der, err := x509.MarshalPKIXPublicKey(f.ca.bootstrapRoot.PublicKey)
			must(t, err)
			run(t, db, `UPDATE authorities SET key_name = 'bootstrap-root', public = ? WHERE use = 'verifier'`, der)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			must(t, f.open(t))
			db := writer(t, f)
			spoil(t, f, db)
			f.close(t)
			wantCheck(t, f.check(t), "authority_signature")
			wantCheck(t, f.open(t), "authority_signature")
			// As if it were a row of before there were signatures: it is not signed now.
			run(t, db, `UPDATE authorities SET signature = x''`)
			wantCheck(t, f.open(t), "authority_unsigned")
			must(t, os.Remove(filepath.Join(f.dir, signedFile)))
			wantCheck(t, f.check(t), "authority_row")
			wantCheck(t, f.open(t), "authority_row")
		})
	}
}

// TestNoSequenceNumberIsSignedTwiceThoughTheDocumentsAreDeleted: a relying party
// that holds a document refuses another of the same number, and an older one.
func TestNoSequenceNumberIsSignedTwiceThoughTheDocumentsAreDeleted(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	first := f.ca.VerifierKeys().Sequence
	f.close(t)
	db := writer(t, f)
	run(t, db, `DELETE FROM documents`)
	f.Advance(time.Second)
	must(t, f.open(t))
	second := f.ca.VerifierKeys().Sequence
	if second <= first {
		t.Errorf("sequence %d after %d", second, first)
	}
	f.close(t)

	// A clock that was put back, with the documents there, changes nothing.
	f.Advance(20 * day)
	must(t, f.open(t))
	third := f.ca.VerifierKeys().Sequence
	f.Advance(-20 * day)
	must(t, f.ca.maintain(context.Background(), noStop))
	if third <= second || f.ca.VerifierKeys().Sequence < third {
		t.Errorf("sequence %d, %d, then %d", second, third, f.ca.VerifierKeys().Sequence)
	}
}

// TestAnOlderDocumentUnderANewNumberIsNotServed: the number is in what is
// signed, and the row's copy of it counts only if it says the same.
func TestAnOlderDocumentUnderANewNumberIsNotServed(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	old := f.ca.VerifierKeysDocument()
	f.Advance(16 * day)
	must(t, f.ca.maintain(context.Background(), noStop))
	newer := f.ca.VerifierKeys().Sequence
	f.close(t)
	run(t, writer(t, f), `INSERT INTO documents (trust_domain, kind, sequence, body, created_at) VALUES (?,?,?,?,?)`, td, string(verifierKeysKind), int64(newer)+1, old, f.Now().UnixMicro())
	must(t, f.open(t))
	if got := f.ca.VerifierKeys().Sequence; got <= newer {
		t.Errorf("sequence %d is served, after %d", got, newer)
	}
}

// check is what `assayd check` asks.
func (f *fixture) check(t *testing.T) error {
	t.Helper()
	st, err := store.OpenSQLiteReadOnly(t.Context(), DatabasePath(f.dir))
	must(t, err)
	defer func() { _ = st.Close() }()
	ring, err := keys.OpenDir(KeysPath(f.dir))
	must(t, err)
	return Check(t.Context(), Config{TrustDomain: td, Simulated: true, DataDir: f.dir, Keys: ring, Store: st, Now: f.Now})
}

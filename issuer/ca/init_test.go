package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// errKilled ends a step as kill -9 would: nothing after it happens.
var errKilled = errors.New("killed here by a test")

// killAt stops at the n-th step, counted from 1, and records all steps seen.
func killAt(n int, seen *[]string) stops {
	return func(step string) error {
		*seen = append(*seen, step)
		if len(*seen) == n {
			return errKilled
		}
		return nil
	}
}

// identityOf is everything that others pin or trust, as bytes.
func identityOf(t *testing.T, f *fixture) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range []string{bootstrapRootFile, verifierRootFile, checkpointFile} {
		b, err := os.ReadFile(filepath.Join(f.dir, name))
		must(t, err)
		out[name] = string(b)
	}
	names, err := f.ring.Names(t.Context())
	must(t, err)
	for _, name := range names {
		b, err := os.ReadFile(f.ring.Path(name))
		must(t, err)
		out[name] = string(b)
	}
	out["authority"] = string(f.x509().cert.Raw)
	return out
}

func TestInitMakesATrustDomainAndASecondRunChangesNothing(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	before := identityOf(t, f)
	f.close(t)
	for path, mode := range map[string]fs.FileMode{
		f.dir: 0o700, KeysPath(f.dir): 0o700, DatabasePath(f.dir): 0o600, filepath.Join(f.dir, bootstrapRootFile): 0o644,
		filepath.Join(KeysPath(f.dir), "bootstrap-root.key"): 0o600, filepath.Join(KeysPath(f.dir), serverFile): 0o600,
	} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), mode)
		}
	}
	f.Advance(time.Hour)
	r, err := Init(t.Context(), f.initConfig())
	must(t, err)
	if !r.Existed || len(r.Fingerprint) != 64 {
		t.Errorf("second Init: %+v", r)
	}
	must(t, f.open(t))
	if d := cmp.Diff(before, identityOf(t, f)); d != "" {
		t.Errorf("the second Init or start changed something:\n%s", d)
	}
}

func TestATrustDomainKeepsItsNameAndKind(t *testing.T) {
	f := newFixture(t)
	for name, tt := range map[string]struct {
		td        string
		simulated bool
		check     string
	}{
		"another name":                 {"simulated.other.example", true, "init_other"},
		"hardware":                     {"hardware.example.org", false, "init_other"},
		"a simulated name of hardware": {td, false, "init_trust_domain"},
		"a hardware name of simulated": {"hardware.example.org", true, "init_trust_domain"},
		"a URI":                        {"spiffe://" + td, true, "init_trust_domain"},
		"upper case":                   {"simulated.Example.org", true, "init_trust_domain"},
	} {
		c := f.initConfig()
		c.TrustDomain, c.Simulated = tt.td, tt.simulated
		_, err := Init(t.Context(), c)
		if attest.CheckOf(err) != tt.check {
			t.Errorf("%s: %v, want check %s", name, err, tt.check)
		}
	}
	wantCheck(t, f.open(t, func(c *Config) { c.Simulated = false }), "trust_domain_kind")
	wantCheck(t, f.open(t, func(c *Config) { c.TrustDomain = "simulated.other.example" }), "trust_domain")
}

// TestAKilledFirstStartStartsAgainWithTheSameCA kills Init and the first Open
// after every step in turn, and starts again.
func TestAKilledFirstStartStartsAgainWithTheSameCA(t *testing.T) {
	steps := 0
	for n := 1; ; n++ {
		f := &fixture{World: attestedtest.New(t), dir: filepath.Join(t.TempDir(), "data")}
		var seen []string
		at := killAt(n, &seen)
		_, err := initAt(t.Context(), f.initConfig(), at)
		if err == nil {
			err = f.openAt(t, at)
		}
		if err == nil {
			steps = n - 1
			f.close(t)
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		t.Run(fmt.Sprintf("%d %s", n, seen[len(seen)-1]), func(t *testing.T) {
			left := map[string]string{}
			if ring, err := keys.OpenDir(KeysPath(f.dir)); err == nil {
				names, err := ring.Names(t.Context())
				must(t, err)
				for _, name := range names {
					b, err := os.ReadFile(ring.Path(name))
					must(t, err)
					left[name] = string(b)
				}
			}
			f.Advance(time.Minute)
			_, err := Init(t.Context(), f.initConfig())
			must(t, err)
			must(t, f.open(t))
			first := identityOf(t, f)
			for name, body := range left {
				if first[name] != body {
					t.Errorf("key %s, durable before the kill, was not used", name)
				}
			}
			if n := len(first) - 4; n != 7 {
				t.Errorf("%d keys, want 7: %v", n, first)
			}
			f.close(t)
			f.Advance(time.Minute)
			must(t, f.open(t))
			if d := cmp.Diff(first, identityOf(t, f)); d != "" {
				t.Errorf("the next start has another CA:\n%s", d)
			}
			f.run(t)
			if _, err := f.ca.Issue(t.Context(), f.record(t, attestedtest.Request{})); err != nil {
				t.Errorf("it does not issue: %v", err)
			}
		})
	}
	if steps < 10 {
		t.Errorf("only %d steps were tried", steps)
	}
}

func TestAMissingKeyBesideADatabaseIsAnErrorAndNeverANewCA(t *testing.T) {
	for _, tt := range []struct{ pattern, check string }{
		{"x509-ca-*.key", "authority_key"},
		{"verifier-[0-9a-f]*.key", "authority_key"},
	} {
		t.Run(tt.pattern, func(t *testing.T) {
			f := newFixture(t)
			must(t, f.open(t))
			f.close(t)
			files, err := filepath.Glob(filepath.Join(KeysPath(f.dir), tt.pattern))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			must(t, os.Rename(files[0], files[0]+".away"))
			for range 2 { // also the second time
				err = f.open(t)
				wantCheck(t, err, tt.check)
				if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(hintOf(err), "backup") {
					t.Errorf("want a hint to the backup, got %v (%s)", err, hintOf(err))
				}
			}
			if again, err := filepath.Glob(filepath.Join(KeysPath(f.dir), tt.pattern)); err != nil || len(again) != 0 {
				t.Errorf("a new key was made: %v", again)
			}
			must(t, os.Rename(files[0]+".away", files[0]))
			must(t, f.open(t))
		})
	}
	t.Run("checkpoint", func(t *testing.T) {
		f := newFixture(t)
		must(t, f.open(t))
		must(t, os.Remove(f.ring.Path(checkpointKey)))
		if _, err := CheckpointSigner(t.Context(), f.ring); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, want fs.ErrNotExist", err)
		}
	})
}

func hintOf(err error) string {
	var e *attest.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

func TestAnotherKeyInPlaceOfTheAuthoritysIsRefused(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	path := f.ring.Path(f.x509().row.KeyName)
	f.close(t)
	must(t, os.Remove(path))
	_, err := keys.LoadOrCreate(path, true, keys.P256)
	must(t, err)
	wantCheck(t, f.open(t), "authority_key")
}

func TestAnOrphanKeyBesideAnAuthorityIsNotUsed(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	before := f.x509().row.ID
	_, err := f.ring.Create(t.Context(), "x509-ca-0000000000000000", keys.P256)
	must(t, err)
	f.close(t)
	must(t, f.open(t))
	if f.x509().row.ID != before {
		t.Error("an orphan key became the authority")
	}
}

func TestEntriesWithoutAnAuthorityAreAnError(t *testing.T) {
	f := newFixture(t)
	s, err := store.OpenSQLite(t.Context(), DatabasePath(f.dir))
	must(t, err)
	must(t, s.Append(t.Context(), store.Batch{TrustDomain: td, Chain: ledger.MainChain, Entries: []store.Entry{{Sequence: 1, Payload: []byte("{}"), Reference: "r"}}}))
	must(t, s.Close())
	wantCheck(t, f.open(t), "authority_missing")
}

func TestIssuingKeysWithoutTheirDatabaseAreAnError(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	f.close(t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(DatabasePath(f.dir) + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	_, err := Init(t.Context(), f.initConfig())
	wantCheck(t, err, "init_leftover")
}

// A server that was down until its authority ended makes another, which signs when
// others can know it.
func TestAnExpiredAuthoritySignsNothing(t *testing.T) {
	f := start(t, func(c *Config) { c.AuthorityTTL, c.Propagation = time.Hour, time.Minute })
	f.close(t)
	f.Advance(time.Hour)
	wantCheck(t, f.check(t), "authority_expired")
	must(t, f.open(t, func(c *Config) { c.AuthorityTTL, c.Propagation = time.Hour, time.Minute }))
	wantCheck(t, f.ca.Ready(), "authority_not_ready")
	if _, err := f.ca.signsWith(); attest.CheckOf(err) != "authority_not_ready" || attest.KindOf(err) != attest.Unavailable {
		t.Errorf("%v, want authority_not_ready, unavailable", err)
	}
	f.Advance(time.Minute)
	must(t, f.ca.maintain(t.Context(), noStop))
	must(t, f.ca.Ready())
}

func TestTheBundleIsWhatRelyingPartiesNeed(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	b := f.ca.Bundle()
	if n := len(b.X509Authorities()); n != 1 {
		t.Fatalf("%d authorities, want 1", n)
	}
	a := b.X509Authorities()[0]
	if !a.IsCA || len(a.URIs) != 1 || a.URIs[0].String() != "spiffe://"+td || a.Subject.CommonName != "Assay simulated X.509 authority" {
		t.Errorf("authority %v %v", a.Subject, a.URIs)
	}
	if seq, ok := b.SequenceNumber(); !ok || seq != 4 { // four authorities were added
		t.Errorf("sequence %d, %v", seq, ok)
	}
	if _, err := b.Marshal(); err != nil {
		t.Error(err)
	}
	b.RemoveX509Authority(a)
	if len(f.ca.Bundle().X509Authorities()) != 1 {
		t.Error("the caller's bundle is the CA's own")
	}
	keys := f.ca.VerifierKeys()
	if keys.Sequence == 0 || len(keys.Keys) != 1 || !keys.Keys[0].Key.Equal(f.verifier().verifierPublic()) {
		t.Errorf("verifier keys %+v", keys)
	}
	if s := f.ca.Status(); len(s.Warnings) != 0 || s.AuthorityID != f.x509().row.ID || s.ServerNotAfter.IsZero() {
		t.Errorf("status %+v", s)
	}
}

func verifierRoot(t *testing.T, f *fixture) func([]byte, time.Time) error {
	t.Helper()
	return func(doc []byte, at time.Time) error {
		_, err := svid.ParseVerifierKeys(doc, f.ca.verifierRoot, at)
		return err
	}
}

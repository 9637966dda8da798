package ca

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

func TestCheckFindsWhatOpenWouldMissAndChangesNothing(t *testing.T) {
	check := func(t *testing.T, f *fixture) error {
		t.Helper()
		st, err := store.OpenSQLiteReadOnly(t.Context(), DatabasePath(f.dir))
		must(t, err)
		defer func() { _ = st.Close() }()
		ring, err := keys.OpenDir(KeysPath(f.dir))
		must(t, err)
		before, err := os.ReadDir(KeysPath(f.dir))
		must(t, err)
		err = Check(t.Context(), Config{TrustDomain: td, Simulated: true, DataDir: f.dir, Keys: ring, Store: st, Now: f.Now})
		after, rerr := os.ReadDir(KeysPath(f.dir))
		must(t, rerr)
		if len(before) != len(after) {
			t.Errorf("Check changed the keys: %v, then %v", before, after)
		}
		return err
	}
	f := newFixture(t)
	must(t, check(t, f)) // before the first start
	must(t, f.open(t))
	must(t, check(t, f)) // beside a running server
	offline(t, f, bootstrapRootKey)
	offline(t, f, verifierRootKey)
	must(t, check(t, f)) // with the roots offline
	path := f.ring.Path(f.x509().row.KeyName)
	must(t, os.Rename(path, path+".away"))
	wantCheck(t, check(t, f), "authority_key")
	must(t, os.Rename(path+".away", path))
	must(t, os.Remove(filepath.Join(KeysPath(f.dir), serverFile)))
	wantCheck(t, check(t, f), "bootstrap_root_missing")
	f.Advance(8 * day)
	wantCheck(t, check(t, f), "bootstrap_root_missing")
	f.Advance(30 * day)
	wantCheck(t, check(t, f), "verifier_root_missing")
	f.Advance(10 * 365 * day)
	wantCheck(t, check(t, f), "authority_expired")
	if err := check(t, f); !strings.Contains(err.Error(), "bootstrap root ended") {
		t.Errorf("not all problems are told: %v", err)
	}
	must(t, os.Remove(f.ring.Path(checkpointKey)))
	if err := check(t, f); !strings.Contains(err.Error(), "checkpoint.key") {
		t.Errorf("the missing checkpoint key is not told: %v", err)
	}
}

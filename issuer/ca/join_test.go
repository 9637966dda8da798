package ca

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// domain is a trust domain whose servers share a database. These tests are of what
// one process does at a time, for which SQLite's file is shared enough; with
// PostgreSQL it is tested through the commands.
type domain struct {
	*attestedtest.World
	t   *testing.T
	dir string
}

func newDomain(t *testing.T) *domain {
	t.Helper()
	return &domain{World: attestedtest.New(t), t: t, dir: t.TempDir()}
}

func (d *domain) path(name string) string { return filepath.Join(d.dir, name) }

func (d *domain) open(ctx context.Context) (store.Store, error) {
	return store.OpenSQLite(ctx, d.path("shared.db"))
}

func (d *domain) init(server string) (InitReport, error) {
	return d.initAt(server, noStop)
}

func (d *domain) initAt(server string, at stops) (InitReport, error) {
	return initAt(d.t.Context(), InitConfig{DataDir: d.path(server), TrustDomain: td, Simulated: true, Server: server, Open: d.open, Now: d.Now}, at)
}

func (d *domain) joinConfig(server, from string) JoinConfig {
	return JoinConfig{DataDir: d.path(server), From: d.path(from), Server: server, Open: d.open, Now: d.Now}
}

// members are the servers that the root of a data directory endorsed.
func (d *domain) members(dir string) map[string]ed25519.PublicKey {
	d.t.Helper()
	r, err := readRoots(d.path(dir))
	must(d.t, err)
	st, err := d.open(d.t.Context())
	must(d.t, err)
	defer func() { must(d.t, st.Close()) }()
	state, err := st.AuthorityState(d.t.Context(), td)
	must(d.t, err)
	out := map[string]ed25519.PublicKey{}
	for _, row := range state.Members {
		if m, err := checkEndorsement(row.Endorsement, r.td, row.Server, r.bootstrap, d.Now()); err == nil {
			out[m.Name] = m.Key
		}
	}
	return out
}

func (d *domain) checkpoint(server string) ed25519.PublicKey {
	d.t.Helper()
	ring, err := keys.OpenDir(KeysPath(d.path(server)))
	must(d.t, err)
	key, err := CheckpointSigner(d.t.Context(), ring)
	must(d.t, err)
	return key.Public().(ed25519.PublicKey)
}

func TestAServerJoinsWithAKeyOfItsOwnAndTheRootsOfTheFirst(t *testing.T) {
	d := newDomain(t)
	_, err := d.init("a")
	must(t, err)
	r, err := Join(t.Context(), d.joinConfig("b", "a"))
	must(t, err)
	if r.Existed || r.TrustDomain != td || !r.Simulated || len(r.Copied) != 0 || cmp.Diff([]string{"a"}, r.Others) != "" {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff(map[string]ed25519.PublicKey{"a": d.checkpoint("a"), "b": d.checkpoint("b")}, d.members("a")); diff != "" {
		t.Error(diff)
	}
	for _, f := range []string{bootstrapRootFile, verifierRootFile} {
		a, err := os.ReadFile(filepath.Join(d.path("a"), f))
		must(t, err)
		b, err := os.ReadFile(filepath.Join(d.path("b"), f))
		must(t, err)
		if diff := cmp.Diff(string(a), string(b)); diff != "" {
			t.Errorf("%s: %s", f, diff)
		}
	}
	text, err := CheckpointKeyText(d.path("b"))
	must(t, err)
	want, err := ledger.NewVerifierKey(ledger.ChainName(td, "b"), d.checkpoint("b"))
	must(t, err)
	if text != want.String()+"\n" {
		t.Errorf("checkpoint key %q, want %q", text, want)
	}
	// The roots' keys were used, and are not here.
	for _, name := range []string{bootstrapRootKey, verifierRootKey} {
		if exists(filepath.Join(KeysPath(d.path("b")), name+".key")) {
			t.Errorf("%s.key was kept", name)
		}
	}
	// It has what agents want of a server.
	c := &CA{cfg: Config{Now: d.Now}}
	roots, err := readRoots(d.path("b"))
	must(t, err)
	c.td, c.bootstrapRoot = roots.td, roots.bootstrap
	if _, err := c.readServer(filepath.Join(KeysPath(d.path("b")), serverFile), d.Now()); err != nil {
		t.Errorf("no TLS certificate: %v", err)
	}

	key := d.checkpoint("b")
	r, err = Join(t.Context(), d.joinConfig("b", "a"))
	must(t, err)
	if !r.Existed || !key.Equal(d.checkpoint("b")) {
		t.Errorf("joining again is not a no-op: %+v", r)
	}
}

func TestRootsKeysAreKeptOnlyWhenAsked(t *testing.T) {
	d := newDomain(t)
	_, err := d.init("a")
	must(t, err)
	c := d.joinConfig("b", "a")
	c.CopyRootKeys = true
	r, err := Join(t.Context(), c)
	must(t, err)
	if len(r.Copied) != 2 {
		t.Errorf("copied %v", r.Copied)
	}
	for _, name := range []string{bootstrapRootKey, verifierRootKey} {
		ring, err := keys.OpenDir(KeysPath(d.path("b")))
		must(t, err)
		if _, err := ring.Get(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	// A directory as it is taken offline: files side by side.
	must(t, os.Mkdir(d.path("stick"), 0o700))
	for _, f := range []string{bootstrapRootFile, verifierRootFile, "keys/" + bootstrapRootKey + ".key"} {
		b, err := os.ReadFile(filepath.Join(d.path("a"), f))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(d.path("stick"), filepath.Base(f)), b, 0o600))
	}
	if _, err := Join(t.Context(), d.joinConfig("c", "stick")); err != nil {
		t.Errorf("from a removable medium: %v", err)
	}
}

func TestEachObstacleToJoiningHasItsName(t *testing.T) {
	for _, tt := range []struct {
		name, check string
		change      func(t *testing.T, d *domain, c *JoinConfig)
	}{
		{"none", "", func(*testing.T, *domain, *JoinConfig) {}},
		{"no name", "server_name", func(_ *testing.T, _ *domain, c *JoinConfig) { c.Server = "B" }},
		{"nothing to join from", "data_file", func(_ *testing.T, d *domain, c *JoinConfig) { c.From = d.path("nowhere") }},
		{"a leaf in the place of the root", "join_from", func(t *testing.T, d *domain, _ *JoinConfig) {
			body, err := os.ReadFile(filepath.Join(KeysPath(d.path("a")), serverFile))
			if errors.Is(err, fs.ErrNotExist) { // made by the first start: a join makes one as well
				_, err = Join(t.Context(), d.joinConfig("c", "a"))
				must(t, err)
				body, err = os.ReadFile(filepath.Join(KeysPath(d.path("c")), serverFile))
			}
			must(t, err)
			must(t, os.WriteFile(filepath.Join(d.path("a"), bootstrapRootFile), body[len(body)-len(lastPEM(body)):], 0o600))
		}},
		{"no bootstrap key", "join_root_key", func(t *testing.T, d *domain, _ *JoinConfig) {
			must(t, os.Remove(filepath.Join(KeysPath(d.path("a")), bootstrapRootKey+".key")))
		}},
		{"another bootstrap key", "join_root_key", func(t *testing.T, d *domain, _ *JoinConfig) {
			path := filepath.Join(KeysPath(d.path("a")), bootstrapRootKey+".key")
			must(t, os.Remove(path))
			_, err := keys.LoadOrCreate(path, true, keys.P256)
			must(t, err)
		}},
		{"another verifier root's key", "join_root_key", func(t *testing.T, d *domain, _ *JoinConfig) {
			path := filepath.Join(KeysPath(d.path("a")), verifierRootKey+".key")
			must(t, os.Remove(path))
			_, err := keys.LoadOrCreate(path, true, keys.P256)
			must(t, err)
		}},
		{"a key that others can read", "key_mode", func(t *testing.T, d *domain, _ *JoinConfig) {
			must(t, os.Chmod(filepath.Join(KeysPath(d.path("a")), bootstrapRootKey+".key"), 0o644))
		}},
		{"another database", "join_trust_domain", func(_ *testing.T, d *domain, c *JoinConfig) {
			c.Open = func(ctx context.Context) (store.Store, error) { return store.OpenSQLite(ctx, d.path("other.db")) }
		}},
		{"another root of the same name", "join_stranger", func(t *testing.T, d *domain, c *JoinConfig) {
			_, err := Init(t.Context(), InitConfig{DataDir: d.path("elsewhere"), TrustDomain: td, Simulated: true, Now: d.Now})
			must(t, err)
			c.From = d.path("elsewhere")
		}},
		{"a name that is taken", "member_key", func(t *testing.T, d *domain, c *JoinConfig) { c.Server, c.DataDir = "a", d.path("b") }},
		{"another server's data directory", "member_key", func(t *testing.T, d *domain, c *JoinConfig) { c.DataDir = d.path("a") }},
		{"a data directory with a database of its own", "join_other", func(t *testing.T, d *domain, c *JoinConfig) {
			_, err := Init(t.Context(), InitConfig{DataDir: d.path("single"), TrustDomain: td, Simulated: true, Now: d.Now})
			must(t, err)
			c.DataDir = d.path("single")
		}},
		{"another trust domain's data directory", "join_other", func(t *testing.T, d *domain, c *JoinConfig) {
			must(t, os.Mkdir(d.path("b"), 0o700))
			must(t, os.WriteFile(filepath.Join(d.path("b"), verifierRootFile), []byte("another"), 0o600))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDomain(t)
			_, err := d.init("a")
			must(t, err)
			c := d.joinConfig("b", "a")
			tt.change(t, d, &c)
			text, err := CheckpointKeyText(d.path("a"))
			must(t, err)
			_, err = Join(t.Context(), c)
			if attest.CheckOf(err) != tt.check {
				t.Errorf("%v, want check %q", err, tt.check)
			}
			if after, err := CheckpointKeyText(d.path("a")); err != nil || after != text {
				t.Errorf("the other server's files were changed: %v", err)
			}
		})
	}
}

// lastPEM is the last PEM block of a file.
func lastPEM(b []byte) []byte {
	const begin = "-----BEGIN"
	for i := len(b) - len(begin); i >= 0; i-- {
		if string(b[i:i+len(begin)]) == begin {
			return b[i:]
		}
	}
	return nil
}

// TestAKilledJoinIsCompletedByTheNext kills Join after every step in turn.
func TestAKilledJoinIsCompletedByTheNext(t *testing.T) {
	for n := 1; ; n++ {
		d := newDomain(t)
		_, err := d.init("a")
		must(t, err)
		c := d.joinConfig("b", "a")
		c.CopyRootKeys = true
		var seen []string
		_, err = joinAt(t.Context(), c, killAt(n, &seen))
		if err == nil {
			if n < 6 {
				t.Errorf("only %d steps were tried", n-1)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		t.Run(fmt.Sprintf("%d %s", n, seen[len(seen)-1]), func(t *testing.T) {
			var before ed25519.PublicKey
			if exists(filepath.Join(KeysPath(d.path("b")), checkpointKey+".key")) {
				before = d.checkpoint("b")
			}
			d.Advance(time.Minute)
			_, err := Join(t.Context(), c)
			must(t, err)
			if before != nil && !before.Equal(d.checkpoint("b")) {
				t.Error("the key that was there is not used")
			}
			if got := d.members("a"); !d.checkpoint("b").Equal(got["b"]) || len(got) != 2 {
				t.Errorf("members %v", got)
			}
		})
	}
}

// TestAKilledInitOfASharedDatabaseIsCompletedByTheNext kills Init after every step.
func TestAKilledInitOfASharedDatabaseIsCompletedByTheNext(t *testing.T) {
	for n := 1; ; n++ {
		d := newDomain(t)
		var seen []string
		_, err := d.initAt("a", killAt(n, &seen))
		if err == nil {
			if n < 8 {
				t.Errorf("only %d steps were tried", n-1)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("step %d: %v", n, err)
		}
		if _, err := d.init("a"); err != nil {
			t.Fatalf("after %v: %v", seen, err)
		}
		if got := d.members("a"); len(got) != 1 || !d.checkpoint("a").Equal(got["a"]) {
			t.Errorf("after %v: members %v", seen, got)
		}
	}
}

func TestASharedDatabaseHasATrustDomainOnce(t *testing.T) {
	d := newDomain(t)
	_, err := d.init("a")
	must(t, err)
	r, err := d.init("a")
	must(t, err)
	if !r.Existed {
		t.Error("the second init made something")
	}
	_, err = d.init("b")
	wantCheck(t, err, "init_join")
	// Another trust domain has room in it.
	_, err = Init(t.Context(), InitConfig{DataDir: d.path("other"), TrustDomain: "simulated.other.example", Simulated: true, Open: d.open, Now: d.Now})
	must(t, err)
	// Roots that another init made meanwhile, under another name or the same.
	must(t, os.Rename(d.path("shared.db"), d.path("kept.db")))
	_, err = d.init("b")
	must(t, err)
	must(t, os.Rename(d.path("kept.db"), d.path("shared.db")))
	_, err = d.init("b")
	wantCheck(t, err, "member_root")
	_, err = initAt(t.Context(), InitConfig{DataDir: d.path("b"), TrustDomain: td, Simulated: true, Server: "a", Open: d.open, Now: d.Now}, noStop)
	wantCheck(t, err, "endorsement_signature")
}

func TestADataDirectoryOfBeforeThereWereMembersIsEndorsedWhenTheRootIsThere(t *testing.T) {
	d := newDomain(t)
	// As it was: roots, checkpoint key and the trust domain's row, and no member.
	var seen []string
	_, err := d.initAt("main", func(step string) error {
		seen = append(seen, step)
		if step == "trust domain row" {
			return errKilled
		}
		return nil
	})
	if !errors.Is(err, errKilled) {
		t.Fatalf("%v after %v", err, seen)
	}
	ring, err := keys.OpenDir(KeysPath(d.path("main")))
	must(t, err)
	r, err := readRoots(d.path("main"))
	must(t, err)
	enrol := func(server string) error {
		t.Helper()
		st, err := d.open(t.Context())
		must(t, err)
		defer func() { must(t, st.Close()) }()
		c := &CA{cfg: Config{Chain: server, Keys: ring, Store: st, Now: d.Now}, td: r.td, bootstrapRoot: r.bootstrap}
		return c.endorseSelf(t.Context())
	}
	root := ring.Path(bootstrapRootKey)
	must(t, os.Rename(root, root+".away"))
	if err := enrol("main"); err != nil || len(d.members("main")) != 0 {
		t.Errorf("the only server does without its row: %v, %v", err, d.members("main"))
	}
	must(t, os.Rename(root+".away", root))
	must(t, enrol("main"))
	if got := d.members("main"); !d.checkpoint("main").Equal(got["main"]) {
		t.Errorf("members %v", got)
	}
	must(t, os.Rename(root, root+".away"))
	must(t, enrol("main")) // its row is there
	must(t, os.Rename(root+".away", root))

	// A second server without a row cannot do without.
	_, err = Join(t.Context(), d.joinConfig("b", "main"))
	must(t, err)
	ring, err = keys.OpenDir(KeysPath(d.path("b")))
	must(t, err)
	must(t, os.Remove(ring.Path(checkpointKey)))
	_, err = keys.LoadOrCreate(ring.Path(checkpointKey), true, keys.Ed25519)
	must(t, err)
	wantCheck(t, enrol("b"), "member_key")
	wantCheck(t, enrol("c"), "member_missing")
}

func TestAForgedMemberIsNoneAndKeepsNobodyOut(t *testing.T) {
	d := newDomain(t)
	_, err := d.init("a")
	must(t, err)
	b := newBootstrap(t)
	forged, err := endorse(b.td, "evil", b.checkpoint, b.root, b.key, b.now)
	must(t, err)
	st, err := d.open(t.Context())
	must(t, err)
	must(t, st.AddMember(t.Context(), store.Member{TrustDomain: td, Server: "evil", Endorsement: forged, JoinedAt: d.Now()}))
	must(t, st.Close())
	r, err := Join(t.Context(), d.joinConfig("b", "a"))
	must(t, err)
	if diff := cmp.Diff([]string{"a"}, r.Others); diff != "" {
		t.Error(diff)
	}
	c := d.joinConfig("evil", "a")
	_, err = Join(t.Context(), c)
	wantCheck(t, err, "endorsement_signature")
	if got := d.members("a"); len(got) != 2 || got["evil"] != nil {
		t.Errorf("members %v", got)
	}
}

func TestADirectorySaysWhichTrustDomainItIsOf(t *testing.T) {
	d := newDomain(t)
	_, err := d.init("a")
	must(t, err)
	name, simulated, err := TrustDomainOf(d.path("a"))
	if err != nil || name != td || !simulated {
		t.Errorf("%q, %t, %v", name, simulated, err)
	}
	cert, err := readCertificate(filepath.Join(d.path("a"), bootstrapRootFile))
	must(t, err)
	if cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Error("the root cannot sign")
	}
}

package issuer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

const sharedTD = "simulated.example.org"

func sharedText(name string, revision int, ttl string) string {
	return fmt.Sprintf(`version: 1
bundle: %s
revision: %d
trust_domain: %s
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "%s"}
      pcr3: {eq: "%s"}
    issue:
      - spiffe_id: "spiffe://{td}/payments"
        x509_ttl: %s
`, name, revision, sharedTD, strings.Repeat("ab", 48), strings.Repeat("cd", 48), ttl)
}

// policyPeer is one server's policy, of several on one database.
type policyPeer struct {
	*PolicyFile
	dir string
	log *bytes.Buffer
}

// pool is a database and the servers that share it.
type pool struct {
	t    *testing.T
	st   store.Store
	keys map[string]ed25519.PrivateKey
	now  time.Time
}

func newPool(t *testing.T, names ...string) *pool {
	t.Helper()
	p := &pool{t: t, keys: map[string]ed25519.PrivateKey{}, now: time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC)}
	st, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "assay.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	p.st = st
	if err := st.InitTrustDomain(t.Context(), store.TrustDomain{Name: sharedTD, Simulated: true, CreatedAt: p.now}); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		p.keys[n] = key
	}
	return p
}

func (p *pool) public() map[string]ed25519.PublicKey {
	out := map[string]ed25519.PublicKey{}
	for n, k := range p.keys {
		out[n] = k.Public().(ed25519.PublicKey)
	}
	return out
}

// tryServer starts a server on a data directory whose policy file holds text.
func (p *pool) tryServer(name, dir, text string, options ...PolicyOption) (*policyPeer, error) {
	p.t.Helper()
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	var log bytes.Buffer
	f, err := LoadPolicyFile(file, sharedTD, slog.New(slog.NewTextHandler(&log, nil)), append(options, WithPushedPolicies(filepath.Join(dir, "pushed")))...)
	if err != nil {
		return nil, err
	}
	f.Share(PolicyPeers{Server: name, Signer: p.keys[name], Keys: p.public})
	if err := f.Resume(p.t.Context(), p.st); err != nil {
		return nil, err
	}
	p.now = p.now.Add(time.Minute)
	return &policyPeer{f, dir, &log}, f.Remember(p.t.Context(), p.st, func() time.Time { return p.now })
}

func (p *pool) server(name, text string, options ...PolicyOption) *policyPeer {
	p.t.Helper()
	s, err := p.tryServer(name, p.t.TempDir(), text, options...)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *pool) push(s *policyPeer, text string) {
	p.t.Helper()
	p.now = p.now.Add(time.Minute)
	if _, err := s.push(p.t.Context(), push{document: []byte(text), actor: "uid 0"}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pool) follow(s *policyPeer, want string) {
	p.t.Helper()
	if err := s.Follow(p.t.Context()); err != nil {
		p.t.Error(err)
	}
	if got := s.Current().Version(); got != want {
		p.t.Errorf("in force is %s, want %s\n%s", got, want, s.log)
	}
}

func TestAPushToOneServerIsInForceOnTheOther(t *testing.T) {
	p := newPool(t, "a", "b")
	first := sharedText("prod", 1, "1h")
	a, b := p.server("a", first), p.server("b", first)
	p.follow(b, "prod@1")
	second := sharedText("prod", 2, "30m")
	p.push(a, second)
	told := 0
	b.changed = func(*policy.Bundle) { told++ }
	p.follow(b, "prod@2")
	if told != 1 {
		t.Errorf("those who wait for changes were told %d times", told)
	}
	// A restart, with the same file as before and with the database as it is.
	b, err := p.tryServer("b", b.dir, first)
	if err != nil || b.Current().Version() != "prod@2" {
		t.Fatalf("after a restart: %v, %v", b, err)
	}
	if !strings.Contains(b.Outrun(), "prod@2") {
		t.Errorf("the file is behind, and nobody is told: %q", b.Outrun())
	}
	// And the other way, by a file.
	third := sharedText("prod", 3, "20m")
	if err := os.WriteFile(filepath.Join(b.dir, "new"), []byte(third), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(b.dir, "new"), filepath.Join(b.dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	for b.Reload(t.Context()) {
		time.Sleep(20 * time.Millisecond)
	}
	if b.Current().Version() != "prod@3" {
		t.Fatalf("the file is not taken: %s", b.Refused())
	}
	p.follow(a, "prod@3")
	// A server that was away takes up what came meanwhile, and remembers it.
	c := p.t.TempDir()
	p.keys["c"] = p.keys["a"]
	s, err := p.tryServer("c", c, first)
	if err != nil || s.Current().Version() != "prod@3" {
		t.Fatalf("a server that was away: %v, %v", s, err)
	}
	if d, ok := s.accepted.digest("prod", 3); !ok || d != s.Current().Digest() {
		t.Error("it does not remember what it took up")
	}
}

func TestAPolicyThatNoServerVouchesForIsNotFollowed(t *testing.T) {
	for name, spoil := range map[string]func(p *pool, c *store.PolicyChange){
		"no signature":         func(_ *pool, c *store.PolicyChange) { c.Signature = nil },
		"of no server":         func(_ *pool, c *store.PolicyChange) { c.Server = "" },
		"of an unknown server": func(_ *pool, c *store.PolicyChange) { c.Server = "z" },
		"of another server":    func(_ *pool, c *store.PolicyChange) { c.Server = "b" },
		"a flipped bit":        func(_ *pool, c *store.PolicyChange) { c.Signature[3] ^= 1 },
		"of another time":      func(_ *pool, c *store.PolicyChange) { c.At = c.At.Add(time.Second) },
		"of another revision":  func(_ *pool, c *store.PolicyChange) { c.Revision++ },
		"of another source":    func(_ *pool, c *store.PolicyChange) { c.Source = sourceFile },
		"by the key of somebody": func(_ *pool, c *store.PolicyChange) {
			_, k, err := ed25519.GenerateKey(nil)
			if err != nil {
				panic(err)
			}
			c.Signature = ed25519.Sign(k, policyStatement(*c, c.Server))
		},
		"with other content": func(_ *pool, c *store.PolicyChange) { c.Document = []byte(sharedText("prod", 2, "24h")) },
		"without content":    func(_ *pool, c *store.PolicyChange) { c.Document = nil },
		"that does not compile": func(p *pool, c *store.PolicyChange) {
			c.Document = []byte("version: 1\nnonsense: true\n")
			d := sha256.Sum256(c.Document)
			c.Digest = d
			c.Signature = ed25519.Sign(p.keys["a"], policyStatement(*c, "a"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, "a", "b")
			b := p.server("b", sharedText("prod", 1, "1h"))
			a := &PolicyFile{trustDomain: sharedTD, peers: &PolicyPeers{Server: "a", Signer: p.keys["a"]}}
			text := []byte(sharedText("prod", 2, "30m"))
			c := store.PolicyChange{
				Policy: store.Policy{TrustDomain: sharedTD, Name: "prod", Revision: 2, Digest: sha256.Sum256(text), At: p.now},
				Source: sourcePush, Actor: "uid 0", Document: text,
			}
			if err := a.vouch(&c); err != nil {
				t.Fatal(err)
			}
			spoil(p, &c)
			if err := p.st.PutPolicy(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			for range doubtful { // of a server that is not known yet, it is looked at for a while
				if b.Follow(t.Context()) == nil {
					break
				}
			}
			p.follow(b, "prod@1")
			if !bytes.Contains(b.log.Bytes(), []byte("is refused here")) {
				t.Errorf("nobody is told:\n%s", b.log)
			}
			if _, ok := b.accepted.digest("prod", 2); ok {
				t.Error("it is remembered as one that was in force")
			}
			// A start does not take it up either.
			if s, err := p.tryServer("b", b.dir, sharedText("prod", 1, "1h")); err == nil && s.Current().Version() != "prod@1" {
				t.Errorf("a start takes it up: %s", s.Current().Version())
			}
		})
	}
}

func TestWhatIsFollowedIsJudgedByThisServersRules(t *testing.T) {
	p := newPool(t, "a", "b")
	first := sharedText("prod", 1, "1h")
	a, b := p.server("a", first), p.server("b", first)
	// Another name is another policy: it comes with the configuration.
	if err := os.WriteFile(filepath.Join(a.dir, "policy.yaml.new"), []byte(sharedText("other", 9, "1h")), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := a.compile("x", []byte(sharedText("other", 9, "1h")))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.record(t.Context(), a.fromFile(d)); err != nil {
		t.Fatal(err)
	}
	p.follow(b, "prod@1")
	// Signatures that this server demands are demanded of what others took.
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signed.NewSigners(1, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	b.signers = s
	p.push(a, sharedText("prod", 2, "30m"))
	p.follow(b, "prod@1")
	if !bytes.Contains(b.log.Bytes(), []byte("not signed")) {
		t.Errorf("%s", b.log)
	}
}

func TestAnOlderRowNeverTakesThePlaceOfWhatIsInForce(t *testing.T) {
	p := newPool(t, "a", "b")
	first := sharedText("prod", 1, "1h")
	a, b := p.server("a", first), p.server("b", first)
	p.push(a, sharedText("prod", 2, "30m"))
	p.follow(b, "prod@2")
	// Who can write the database removes the newest, and puts it there again as 1.
	rows, err := p.st.PolicyChanges(t.Context(), sharedTD, store.FindPolicy{Outcome: store.PolicyInForce, Documents: true, Limit: 9})
	if err != nil {
		t.Fatal(err)
	}
	oldest := rows[len(rows)-1]
	if err := p.st.RefusePolicy(t.Context(), oldest); err != nil { // a row with a greater number
		t.Fatal(err)
	}
	p.follow(b, "prod@2")
	b.followed.Store(0)
	p.follow(b, "prod@2")
}

func TestADatabaseThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	p := newPool(t, "a", "b")
	first := sharedText("prod", 1, "1h")
	a, b := p.server("a", first), p.server("b", first)
	p.push(a, sharedText("prod", 2, "30m"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Follow(ctx); err == nil {
		t.Error("it is not said that the database did not answer")
	}
	p.follow(b, "prod@2")
}

func TestVouchedNamesItsCheck(t *testing.T) {
	var p PolicyFile
	var e *attest.Error
	if err := p.vouched(store.PolicyChange{}); !errors.As(err, &e) || e.Check != "policy_vouched" {
		t.Errorf("%v", err)
	}
}

// A server joins and puts a policy into force; another one hears of that a moment
// before it has read that there is such a server.
func TestAPolicyOfAServerThatIsNotKnownYetIsFollowedWhenItIs(t *testing.T) {
	p := newPool(t, "a", "b")
	first := sharedText("prod", 1, "1h")
	a, b := p.server("a", first), p.server("b", first)
	known := false
	b.Share(PolicyPeers{Server: "b", Signer: p.keys["b"], Keys: func() map[string]ed25519.PublicKey {
		all := p.public()
		if !known {
			delete(all, "a")
		}
		return all
	}})
	p.push(a, sharedText("prod", 2, "30m"))
	if err := b.Follow(t.Context()); err == nil || b.Current().Version() != "prod@1" {
		t.Errorf("%v, and %s is in force: nobody tries again", err, b.Current().Version())
	}
	known = true
	p.follow(b, "prod@2")
}

// The data directory is full for a moment: here a file stands where a directory is
// to be.
func TestAPolicyThatCannotBeKeptIsFollowedWhenItCan(t *testing.T) {
	p := newPool(t, "a", "b")
	first := sharedText("prod", 1, "1h")
	a, b := p.server("a", first), p.server("b", first)
	p.push(a, sharedText("prod", 2, "30m"))
	pushed := filepath.Join(b.dir, "pushed")
	if err := os.RemoveAll(pushed); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pushed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Follow(t.Context()); err == nil || b.Current().Version() != "prod@1" {
			t.Errorf("%v, and %s is in force: nobody tries again", err, b.Current().Version())
		}
	}
	if err := os.Remove(pushed); err != nil {
		t.Fatal(err)
	}
	p.follow(b, "prod@2")
}

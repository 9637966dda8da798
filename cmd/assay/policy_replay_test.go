package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/internal/prebuilt"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// replayPolicy was in force when everything was recorded: the image "orders", as
// release 41 in a reference set that ends in 2099, under one role.
const replayPolicy = `version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
silence: [no-image]
references:
  releases:
    - {value: "%PCR0%", not_after: 2099-01-31T00:00:00Z, note: "release 41"}
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: releases}
      pcr3: {eq: "%PCR3%"}
    issue:
      - spiffe_id: "spiffe://{td}/orders"
        x509_ttl: 1h
        attributes: {team: core}
      - spiffe_id: "spiffe://{td}/orders/admin"
        x509_ttl: 30m
`

// replayWorld makes what the policy admits.
func replayWorld(t testing.TB) (w *attestedtest.World, source string) {
	source = strings.ReplaceAll(replayPolicy, "%PCR0%", hex.EncodeToString(simnitro.ImageFromSeed(attestedtest.Image).PCR0))
	source = strings.ReplaceAll(source, "%PCR3%", hex.EncodeToString(simnitro.RolePCR("arn:aws:iam::123456789012:role/orders")))
	return attestedtest.NewFor(t, attestedtest.TrustDomain, source), source
}

// drafts are revisions of the policy, by what is wrong with them.
func drafts(source string) map[string]string {
	next := strings.Replace(source, "revision: 7", "revision: 8", 1)
	change := func(from, to string) string {
		if !strings.Contains(next, from) {
			panic("the policy has no " + from)
		}
		return strings.Replace(next, from, to, 1)
	}
	image := hex.EncodeToString(simnitro.ImageFromSeed(attestedtest.Image).PCR0)
	return map[string]string{
		"current.yaml":   source,
		"same.yaml":      next,
		"dropped.yaml":   change(`"`+image+`"`, `"`+hex.EncodeToString(simnitro.ImageFromSeed("release 42").PCR0)+`"`),
		"wide.yaml":      change("      pcr0: {in: releases}\n", ""),
		"ttl.yaml":       change("x509_ttl: 1h", "x509_ttl: 2h"),
		"noadmin.yaml":   change("      - spiffe_id: \"spiffe://{td}/orders/admin\"\n        x509_ttl: 30m\n", ""),
		"rollout.yaml":   change("mode: enforce", "mode: {rollout: 50%}"),
		"elsewhere.yaml": change("trust_domain: simulated.example.org", "trust_domain: simulated.example.net"),
		"broken.yaml":    change("tee: aws-nitro", "tee: aws-nitros"),
	}
}

// recordedOffice makes a server's data directory with the real `assayd init`, and
// a ledger in it by the real parts:
//
//	as-aaaaaaaaaa  granted  enclave 1, one key: spiffe://…/orders
//	as-bbbbbbbbbb  granted  the same again, a quarter of an hour later
//	as-cccccccccc  granted  enclave 2, two keys
//	as-dddddddddd  denied   enclave 3, another image under the same role
//	as-eeeeeeeeee  denied   enclave 2, for it asks for an ID that nobody has
func recordedOffice(t *testing.T) (dir, source string) {
	t.Helper()
	w, source := replayWorld(t)
	// Not t.TempDir: the path of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "assay")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	root, data := filepath.Join(dir, "root.pem"), filepath.Join(dir, "d")
	check(t, os.WriteFile(root, w.Authority.RootPEM(), 0o600))
	binary := replayAssayd(t)
	out, err := exec.Command(binary, "init", "--trust-domain", w.TrustDomain, "--data-dir", data, "--simulated-root", root).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check(t, os.WriteFile(filepath.Join(data, "policy.yaml"), []byte(source), 0o600))
	config := filepath.Join(data, "assayd.yaml")
	text, err := os.ReadFile(config)
	check(t, err)
	s := strings.Replace(string(text), `listen: ":8443"`, `listen: "127.0.0.1:0"`, 1)
	s = strings.Replace(s, `metrics_listen: "127.0.0.1:9464"`, `metrics_listen: ""`, 1)
	check(t, os.WriteFile(config, []byte(s), 0o600))

	// Its first start makes its authority, and puts the policy on record.
	_, stop := serveRecorded(t, data)
	stop()

	db, err := store.OpenSQLite(t.Context(), ca.DatabasePath(data))
	check(t, err)
	ring, err := keys.OpenDir(ca.KeysPath(data))
	check(t, err)
	signer, err := ca.CheckpointSigner(t.Context(), ring)
	check(t, err)
	l, err := ledger.Open(t.Context(), db, w.TrustDomain, signer, ledger.Options{Now: w.Now})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() {
		cancel()
		check(t, errors.Join(<-done, db.Close()))
	}()
	enclave := func(n int) string { return fmt.Sprintf("i-%017d-enc%016d", n, n) }
	grant := func(ref string, r attestedtest.Request) {
		t.Helper()
		_, err := l.Record(t.Context(), w.Grant(t, r), ledger.Origin{Reference: ref})
		check(t, err)
		w.Advance(15 * time.Minute)
	}
	deny := func(ref string, r attestedtest.Request) {
		t.Helper()
		v, d := w.Denied(t, r)
		kept, err := l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision, Origin: ledger.Origin{Reference: ref}})
		check(t, err)
		if !kept {
			t.Fatal("the denial was not kept")
		}
		w.Advance(15 * time.Minute)
	}
	grant("as-aaaaaaaaaa", attestedtest.Request{Module: enclave(1)})
	grant("as-bbbbbbbbbb", attestedtest.Request{Module: enclave(1)})
	grant("as-cccccccccc", attestedtest.Request{Module: enclave(2), Keys: []crypto.PublicKey{newKey(t), newKey(t)}})
	deny("as-dddddddddd", attestedtest.Request{Module: enclave(3), Image: "intruder"})
	deny("as-eeeeeeeeee", attestedtest.Request{Module: enclave(2), RequestIDs: []string{"spiffe://simulated.example.org/nobody"}})
	return data, source
}

func newKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return k.Public()
}

// TestReplaySessions runs the scripts in testdata/replay over one ledger: through
// its database, through a server that serves it, and as files. SOURCE is the flag
// that names it, SERVER the data directory; the drafts are in the directory.
func TestReplaySessions(t *testing.T) {
	data, source := recordedOffice(t)
	run := func(name, dir string, setup func(*testscript.Env)) {
		t.Run(name, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir:  dir,
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"ends": ends, "tamper": tamper},
				Setup: func(env *testscript.Env) error {
					for name, text := range drafts(source) {
						if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
							return err
						}
					}
					env.Setenv("SERVER", data)
					setup(env)
					return nil
				},
			})
		})
	}
	db := filepath.Join(data, "assay.db")
	run("database", "testdata/replay", func(env *testscript.Env) { env.Setenv("SOURCE", "--db="+db) })
	run("database alone", "testdata/replaydb", func(env *testscript.Env) { env.Setenv("SOURCE", "--db="+db) })

	files := t.TempDir()
	list := assay(t, nil, "ledger", "list", "--db", db, "--output", "json", "--limit", "0")
	if list.code != 0 {
		t.Fatalf("%d %s", list.code, list.stderr)
	}
	check(t, os.WriteFile(filepath.Join(files, "ledger.jsonl"), []byte(list.stdout), 0o600))
	run("files", "testdata/replay", func(env *testscript.Env) { env.Setenv("SOURCE", "--dir="+files) })

	socket, stop := serveRecorded(t, data)
	defer stop()
	run("server", "testdata/replay", func(env *testscript.Env) { env.Setenv("SOURCE", "--admin="+socket) })
	run("server alone", "testdata/replayserver", func(env *testscript.Env) { env.Setenv("SOURCE", "--admin="+socket) })

	t.Run("all alike", func(t *testing.T) {
		draft, current := writeDraft(t, drafts(source)["dropped.yaml"]), writeDraft(t, source)
		var first string
		for _, flag := range []string{"--db=" + db, "--admin=" + socket, "--dir=" + files} {
			r := assay(t, nil, "policy", "replay", draft, flag, "--against", current, "--at", "2026-12-01", "--against-at", "2026-12-01", "--output", "json")
			if r.code != 0 {
				t.Fatalf("%s: %d %s", flag, r.code, r.stderr)
			}
			var out map[string]any
			r.decode(t, &out)
			delete(out, "source")
			b, err := json.MarshalIndent(out, "", " ")
			check(t, err)
			if first == "" {
				first = string(b)
			}
			if diff := cmp.Diff(first, string(b)); diff != "" {
				t.Errorf("%s reports otherwise:\n%s", flag, diff)
			}
		}
	})
}

func writeDraft(t *testing.T, text string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "policy.yaml")
	check(t, os.WriteFile(f, []byte(text), 0o600))
	return f
}

// serveRecorded runs the real assayd over the data directory, until it is told to
// stop.
func serveRecorded(t *testing.T, data string) (socket string, stop func()) {
	t.Helper()
	binary := replayAssayd(t)
	var log strings.Builder
	cmd := exec.Command(binary, "run", "--data-dir", data)
	cmd.Stderr = &log
	check(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	socket = filepath.Join(data, "admin.sock")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r := assay(t, nil, "policy", "status", "--admin", socket); r.code == 0 {
			return socket, stop
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Fatalf("the server does not answer:\n%s", log.String())
	return "", nil
}

func TestTheDraftsAreWhatTheySay(t *testing.T) {
	_, source := replayWorld(t)
	for name, text := range drafts(source) {
		_, err := policy.Parse(name, []byte(text))
		if broken := name == "broken.yaml"; broken != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// replayAssayd is the server of the sessions, or another where they have ended and
// taken theirs along.
func replayAssayd(t *testing.T) string {
	t.Helper()
	binary, err := assaydBinary()
	check(t, err)
	if exists(binary) {
		return binary
	}
	dir := t.TempDir()
	check(t, prebuilt.Into(dir, "../..", "assayd"))
	return filepath.Join(dir, "assayd")
}

package agent_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/tpm"
)

// The agent against the real server: real verifier, policy, ledger and CA, and
// a simulator for hardware.

const (
	realDomain = "simulated.example.org"
	ordersID   = "spiffe://" + realDomain + "/orders"
	adminID    = "spiffe://" + realDomain + "/orders/admin"
	role       = "arn:aws:iam::123456789012:role/orders"
)

func orders() simnitro.Launch {
	return simnitro.Launch{Image: simnitro.ImageFromSeed("orders"), Role: role}
}

// policyText grants orders the given identities.
func policyText(revision int, names ...string) string {
	return policyIn(realDomain, revision, names...)
}

func policyIn(td string, revision int, names ...string) string {
	p := orders().PCRs()
	var b strings.Builder
	fmt.Fprintf(&b, `version: 1
bundle: shop
revision: %d
trust_domain: %s
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue:
`, revision, td, hex.EncodeToString(p[0]), hex.EncodeToString(p[3]))
	for _, n := range names {
		fmt.Fprintf(&b, "      - {spiffe_id: %q, x509_ttl: 1h}\n", n)
	}
	return b.String()
}

// realServer is a whole server, which can be stopped and started again.
type realServer struct {
	t      testing.TB
	td     string
	hw     *simnitro.Authority
	cfg    config.Config
	addr   string
	log    *safeBuffer
	policy *issuer.PolicyFile
	ca     *ca.CA
	ledger *ledger.Ledger
	server *issuer.Server
	stop   func()

	bindings  *tpm.MemoryBindings // outlives a restart, as the store does
	inventory tpm.MemoryInventory
}

func newRealServer(t testing.TB, names ...string) *realServer {
	t.Helper()
	return newServerWith(t, policyText(1, names...))
}

func newServerWith(t testing.TB, policy string) *realServer {
	t.Helper()
	return newServerIn(t, realDomain, must(simnitro.NewAuthority(simnitro.AuthorityOptions{})), policy)
}

// newServerIn is the server of a trust domain, which believes the hardware.
func newServerIn(t testing.TB, td string, hw *simnitro.Authority, policy string) *realServer {
	t.Helper()
	dir := t.TempDir()
	s := &realServer{t: t, td: td, addr: "127.0.0.1:0", log: &safeBuffer{}, hw: hw, bindings: &tpm.MemoryBindings{}}
	s.cfg = config.Default()
	s.cfg.TrustDomain, s.cfg.DataDir, s.cfg.Policy = td, filepath.Join(dir, "data"), filepath.Join(dir, "policy.yaml")
	s.cfg.AdminSocket, s.cfg.MetricsListen = filepath.Join(short(t), "admin.sock"), ""
	s.cfg.ShutdownTimeout, s.cfg.ReattestSpread = time.Second, 10*time.Millisecond
	s.write(policy)
	must(ca.Init(context.Background(), ca.InitConfig{DataDir: s.cfg.DataDir, TrustDomain: s.td, Simulated: true, Now: time.Now}))
	s.start()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log.String())
		}
	})
	return s
}

func (s *realServer) write(policy string) {
	s.t.Helper()
	// Beside it, and moved: a file that is being written would not be taken yet.
	beside := s.cfg.Policy + ".new"
	if err := errors.Join(os.WriteFile(beside, []byte(policy), 0o600), os.Rename(beside, s.cfg.Policy)); err != nil {
		s.t.Fatal(err)
	}
}

// replace puts another policy in force.
func (s *realServer) replace(policy string) {
	s.write(policy)
	s.policy.Reload(context.Background())
}

func (s *realServer) start() {
	s.t.Helper()
	ctx, log := context.Background(), slog.New(slog.NewTextHandler(s.log, nil))
	set := must(verifiers.NewSet(
		must(nitro.New(must(nitro.SimulatedRoots(s.hw.RootPEM())))),
		must(sevsnp.New(must(sevsnp.SimulatedRoots(amd().RootsPEM())))),
		must(tpm.New(must(tpm.SimulatedRoots(manufacturer().RootPEM())), tpm.WithBindings(s.bindings), tpm.WithInventory(s.inventory))),
	))
	s.policy = must(issuer.LoadPolicyFile(s.cfg.Policy, s.td, log))
	db := must(store.OpenSQLite(ctx, filepath.Join(s.cfg.DataDir, "assay.db")))
	ring := must(keys.OpenDir(filepath.Join(s.cfg.DataDir, "keys")))
	s.ledger = must(ledger.Open(ctx, db, s.td, must(ca.CheckpointSigner(ctx, ring)), ledger.Options{Now: time.Now, Log: log}))
	s.ca = must(ca.Open(ctx, ca.Config{
		TrustDomain: s.td, Simulated: true, DataDir: s.cfg.DataDir, Keys: ring, Store: db, Results: s.ledger, Now: time.Now, Log: log,
	}))
	s.server = must(issuer.New(s.cfg, issuer.Parts{
		Set: set, Policy: s.policy, Ledger: s.ledger, CA: s.ca, Store: db, Metrics: issuer.NewMetrics(s.td), Log: log, Now: time.Now,
	}))
	public := must(net.Listen("tcp", s.addr))
	s.addr = public.Addr().String()
	admin := must(issuer.ListenAdmin(s.cfg.AdminSocket))
	ctx, cancel := context.WithCancel(ctx)
	lctx, stopLedger := context.WithCancel(context.Background())
	served, recorded := make(chan error, 1), make(chan error, 1)
	go func() { recorded <- s.ledger.Run(lctx) }()
	go func() { served <- s.server.Run(ctx, issuer.Listeners{Attestation: public, Admin: admin}) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			s.t.Errorf("server: %v", err)
		}
		stopLedger()
		if err := <-recorded; err != nil {
			s.t.Errorf("ledger: %v", err)
		}
		if err := db.Close(); err != nil {
			s.t.Errorf("store: %v", err)
		}
	})
}

// enclave is an agent's configuration in a simulated enclave.
func (s *realServer) enclave(l simnitro.Launch) agent.Config {
	s.t.Helper()
	m := must(s.hw.Launch(l))
	dir := short(s.t)
	nsm := must(simnitro.Listen(filepath.Join(dir, "nsm.sock")))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, nsm) }()
	s.t.Cleanup(func() { cancel(); <-done })
	return s.config(dir, agent.NewNitroSocket(filepath.Join(dir, "nsm.sock")))
}

// config is an agent's configuration for this server.
func (s *realServer) config(dir string, device agent.Attester) agent.Config {
	s.t.Helper()
	return agent.Config{
		TrustDomain: spiffeid.RequireTrustDomainFromString(s.td), Server: s.addr,
		BootstrapRoots: must(agent.ParseBootstrapRoots(must(ca.BootstrapRootPEM(s.cfg.DataDir)))),
		Attester:       device,
		Socket:         filepath.Join(dir, "agent.sock"), Log: slog.New(slog.NewTextHandler(&testLines{t: s.t}, nil)),
	}
}

// start runs an agent to the end of the test.
func start(t testing.TB, cfg agent.Config) {
	t.Helper()
	listening := make(chan string, 1)
	cfg.Listening = func(a string) { listening <- a }
	a := must(agent.New(cfg))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-listening:
	case err := <-done:
		done <- nil
		t.Fatalf("the agent did not start: %v", err)
	}
}

func x509Context(cfg agent.Config) (*workloadapi.X509Context, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return workloadapi.FetchX509Context(ctx, workloadapi.WithAddr("unix://"+cfg.Socket))
}

// names waits until the agent serves the given identities.
func names(t testing.TB, cfg agent.Config, want ...string) *workloadapi.X509Context {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		x, err := x509Context(cfg)
		if err != nil {
			continue
		}
		got = nil
		for _, v := range x.SVIDs {
			got = append(got, v.ID.String())
		}
		if cmp.Equal(want, got) {
			return x
		}
	}
	t.Fatalf("the agent serves %v, want %v", got, want)
	return nil
}

func serialOf(x *workloadapi.X509Context) string {
	return x.SVIDs[0].Certificates[0].SerialNumber.String()
}

func TestTheRealServerIssuesWhatPolicyGrantsAndRelyingPartiesAcceptIt(t *testing.T) {
	t.Parallel()
	s := newRealServer(t, ordersID, adminID)
	cfg := s.enclave(orders())
	start(t, cfg)
	x := names(t, cfg, ordersID, adminID) // two identities: the agent learned their number
	td := spiffeid.RequireTrustDomainFromString(realDomain)
	b, ok := x.Bundles.Get(td)
	if !ok {
		t.Fatal("no bundle")
	}
	block, _ := pem.Decode(must(ca.VerifierRootPEM(s.cfg.DataDir)))
	verifierKeys := must(svid.ParseVerifierKeys(s.ca.VerifierKeysDocument(), must(x509.ParsePKIXPublicKey(block.Bytes)), time.Now()))
	src := svid.NewSource(x509bundle.NewSet(b), verifierKeys)
	for _, v := range x.SVIDs {
		a, err := svid.Verify(v.Certificates, src, time.Now(), svid.Simulated(), svid.Tee(attest.AWSNitro), svid.PCR(0, orders().PCRs()[0]))
		if err != nil {
			t.Fatal(err)
		}
		if a.ID != v.ID {
			t.Errorf("%s verifies as %s", v.ID, a.ID)
		}
	}
	if cmp.Equal(x.SVIDs[0].Certificates[0].RawSubjectPublicKeyInfo, x.SVIDs[1].Certificates[0].RawSubjectPublicKeyInfo) {
		t.Error("two SVIDs share a key")
	}
}

func TestTheRealServerAcceptsTheRenewalProofOfEveryTypeOfKey(t *testing.T) {
	for _, kt := range []agent.KeyType{agent.P256, agent.P384, agent.Ed25519, agent.RSA2048} {
		t.Run(string(kt), func(t *testing.T) {
			t.Parallel()
			s := newRealServer(t, ordersID)
			cfg := s.enclave(orders())
			cfg.KeyType = kt
			start(t, cfg)
			before := serialOf(names(t, cfg, ordersID))
			s.reattest(t)
			waitFor(t, "a renewal", func() bool { x, err := x509Context(cfg); return err == nil && serialOf(x) != before })
			var purposes []string
			for i, err := range s.ledger.Entries(context.Background(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				purposes = append(purposes, string(i.Entry.Purpose))
			}
			if diff := cmp.Diff([]string{"boot", "renew"}, purposes); diff != "" {
				t.Errorf("the ledger's purposes: %s", diff)
			}
		})
	}
}

// reattest asks the watching agents for a renewal, once one is watching.
func (s *realServer) reattest(t testing.TB) {
	t.Helper()
	waitFor(t, "an agent that watches", func() bool {
		return s.server.Reattest(context.Background(), assayv1.Reattest_REASON_OPERATOR, 0) > 0
	})
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("there was never %s", what)
}

func TestThreeRenewalsAtTheRealServerUnderLoadFailNoCall(t *testing.T) {
	t.Parallel()
	s := newRealServer(t, ordersID)
	cfg := s.enclave(orders())
	start(t, cfg)
	names(t, cfg, ordersID)
	src, err := workloadapi.NewX509Source(context.Background(), workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+cfg.Socket)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	var (
		wg    sync.WaitGroup
		calls atomic.Int64
		done  = make(chan struct{})
	)
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := agent.Handshake(src); err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for range 3 {
		before := must(src.GetX509SVID()).Certificates[0].SerialNumber
		s.reattest(t)
		waitFor(t, "a renewal", func() bool { return must(src.GetX509SVID()).Certificates[0].SerialNumber.Cmp(before) != 0 })
	}
	close(done)
	wg.Wait()
	t.Logf("%d handshakes", calls.Load())
}

func TestAnOutageOfTheRealServerIsSurvived(t *testing.T) {
	t.Parallel()
	s := newRealServer(t, ordersID)
	cfg := s.enclave(orders())
	start(t, cfg)
	before := serialOf(names(t, cfg, ordersID))
	s.stop()
	time.Sleep(time.Second)
	if got := serialOf(names(t, cfg, ordersID)); got != before {
		t.Error("another SVID without a server")
	}
	s.start()
	s.reattest(t) // the watch is opened again by itself
	waitFor(t, "a renewal", func() bool { x, err := x509Context(cfg); return err == nil && serialOf(x) != before })
}

func TestAnEnclaveInDebugModeGetsNothingFromTheRealServer(t *testing.T) {
	t.Parallel()
	s := newRealServer(t, ordersID)
	l := orders()
	l.Debug = true
	cfg := s.enclave(l)
	lines := &safeBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	start(t, cfg)
	waitFor(t, "a denial in the log", func() bool { return strings.Contains(lines.String(), "denied by policy") })
	if got := lines.String(); !strings.Contains(got, "kind=denied check=policy") || !strings.Contains(got, "reference=as-") || !strings.Contains(got, "assay ledger show as-") {
		t.Errorf("the log says %s", got)
	}
	if _, err := x509Context(cfg); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want PermissionDenied", err)
	}
}

func TestAPolicyThatTakesAnIdentityAwayLeavesTheOthers(t *testing.T) {
	t.Parallel()
	s := newRealServer(t, ordersID, adminID)
	cfg := s.enclave(orders())
	start(t, cfg)
	names(t, cfg, ordersID, adminID)
	s.replace(policyText(2, adminID))
	s.reattest(t)
	names(t, cfg, adminID)
}

// safeBuffer collects a log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *safeBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// testLines logs to a test that still runs.
type testLines struct {
	t    testing.TB
	once sync.Once
	mu   sync.Mutex
	done bool
}

func (w *testLines) Write(p []byte) (int, error) {
	w.once.Do(func() { w.t.Cleanup(func() { w.mu.Lock(); w.done = true; w.mu.Unlock() }) })
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func short(t testing.TB) string {
	t.Helper()
	dir := must(os.MkdirTemp("", "assay"))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("test set-up: ", err))
	}
	return v
}

package issuer_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/federation"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
)

const (
	trustDomain = "simulated.example.org"
	role        = "arn:aws:iam::123456789012:role/payments"
	paymentsID  = "spiffe://" + trustDomain + "/payments/api"
	reportsID   = "spiffe://" + trustDomain + "/payments/reports"
)

// hardware is the simulated AWS that every test's enclaves run on.
var hardware = sync.OnceValues(func() (*simnitro.Authority, error) {
	return simnitro.NewAuthority(simnitro.AuthorityOptions{})
})

// payments is an enclave that the policy grants two identities.
func payments() simnitro.Launch {
	return simnitro.Launch{Image: simnitro.ImageFromSeed("payments"), Role: role}
}

// policyText grants payments its identities; debug enclaves and all others
// are denied.
func policyText(revision int) string { return policyOf(trustDomain, revision) }

// policyOf is that of a trust domain.
func policyOf(trustDomain string, revision int) string {
	p := payments().PCRs()
	return fmt.Sprintf(`version: 1
bundle: test
revision: %d
trust_domain: %s
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue:
      - spiffe_id: "spiffe://{td}/payments/api"
        x509_ttl: 1h
      - spiffe_id: "spiffe://{td}/payments/reports"
        x509_ttl: 30m
`, revision, trustDomain, hex.EncodeToString(p[0]), hex.EncodeToString(p[3]))
}

// clock is the server's time: the real one, and what a test adds.
type clock struct {
	ahead atomic.Int64
	// Called once, when the ledger asks for the time of an entry: after the
	// decision, before the record. May be nil.
	recording atomic.Pointer[func()]
}

func (c *clock) Now() time.Time {
	if f := c.recording.Load(); f != nil {
		stack := string(debug.Stack())
		if (strings.Contains(stack, "ledger.(*Ledger).prepare") || strings.Contains(stack, "ledger.(*Ledger).RecordToken")) && c.recording.CompareAndSwap(f, nil) {
			(*f)()
		}
	}
	return time.Now().Add(time.Duration(c.ahead.Load()))
}

func (c *clock) Advance(d time.Duration) { c.ahead.Add(int64(d)) }

// office is a whole server on real sockets.
type office struct {
	t        testing.TB
	hardware *simnitro.Authority
	beside   func(o *office) verifiers.Verifier // Nitro's; may be nil
	cfg      config.Config
	clock    *clock
	store    *store.SQLite
	tpms     *tpms.Registry
	ledger   *ledger.Ledger
	ca       *ca.CA
	policy   *issuer.PolicyFile
	metrics  *issuer.Metrics

	federation *federation.Federations
	webAt      string // where the public documents are
	bundleAt   string // and the bundle, by https_spiffe

	server    *issuer.Server
	log       *logBuffer
	bootstrap []byte // PEM
	addr      string
	// How policies are taken in, where a test says so before start.
	policyOptions []issuer.PolicyOption
	metricsAt     string
	set           verifiers.Set
	logger        *slog.Logger
	adminAt       string        // where administrators call from elsewhere
	front         *issuer.Front // behind which it is, beside others; nil: alone
	sni           string        // what its clients ask for in the TLS handshake
	stop          func() error
}

// domain is the trust domain.
func (o *office) domain() string {
	if o.cfg.TrustDomain == "" {
		return trustDomain
	}
	return o.cfg.TrustDomain
}

// serverID is the SPIFFE ID of its servers.
func (o *office) serverID() string { return "spiffe://" + o.domain() + "/assay/server" }

type option func(*config.Config)

// open starts a server; it stops with the test.
func open(t testing.TB, options ...option) *office {
	t.Helper()
	return openBeside(t, nil, options...)
}

// openBeside is open with another verifier, which may use the open store.
func openBeside(t testing.TB, beside func(o *office) verifiers.Verifier, options ...option) *office {
	t.Helper()
	o := prepared(t, options...)
	o.beside = beside
	o.start()
	return o
}

// prepared is a server that was not started yet.
func prepared(t testing.TB, options ...option) *office {
	t.Helper()
	hw, err := hardware()
	must(t, err)
	dir := t.TempDir()
	o := &office{t: t, hardware: hw, clock: &clock{}, log: &logBuffer{}}
	o.cfg = config.Default()
	o.cfg.TrustDomain = trustDomain
	o.cfg.DataDir = filepath.Join(dir, "data")
	o.cfg.Policy = filepath.Join(dir, "policy.yaml")
	o.cfg.AdminSocket = filepath.Join(dir, "admin.sock")
	o.cfg.Nitro.SimulatedRoot = filepath.Join(dir, "root.pem")
	o.cfg.ShutdownTimeout = 3 * time.Second
	for _, f := range options {
		f(&o.cfg)
	}
	must(t, os.WriteFile(o.cfg.Policy, []byte(policyOf(o.domain(), 1)), 0o600))
	_, err = ca.Init(t.Context(), ca.InitConfig{DataDir: o.cfg.DataDir, TrustDomain: o.domain(), Simulated: true, Now: o.clock.Now})
	must(t, err)
	return o
}

// start puts the parts together as cmd/assayd does, and serves.
func (o *office) start() {
	t := o.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx := context.Background()

	roots, err := nitro.SimulatedRoots(o.hardware.RootPEM())
	must(t, err)
	v, err := nitro.New(roots)
	must(t, err)
	o.store, err = store.OpenSQLite(ctx, filepath.Join(o.cfg.DataDir, "assay.db"))
	must(t, err)
	o.tpms, err = tpms.Open(ctx, o.store, o.domain(), o.clock.Now)
	must(t, err)
	all := []verifiers.Verifier{v}
	if o.beside != nil {
		all = append(all, o.beside(o))
	}
	set, err := verifiers.NewSet(all...)
	must(t, err)
	o.set, o.logger = set, log
	pushes := issuer.WithPushedPolicies(filepath.Join(o.cfg.DataDir, "pushed"))
	o.policy, err = issuer.LoadPolicyFile(o.cfg.Policy, o.domain(), log, append(o.policyOptions, pushes)...)
	must(t, err)
	must(t, o.policy.Resume(ctx, o.store))
	must(t, o.policy.Remember(ctx, o.store, o.clock.Now))
	ring, err := keys.OpenDir(filepath.Join(o.cfg.DataDir, "keys"))
	must(t, err)
	signer, err := ca.CheckpointSigner(ctx, ring)
	must(t, err)
	o.ledger, err = ledger.Open(ctx, o.store, o.domain(), signer, ledger.Options{Now: o.clock.Now, Log: log, Retain: o.cfg.RetainEvidence})
	must(t, err)
	o.ca, err = ca.Open(ctx, ca.Config{
		TrustDomain: o.domain(), Simulated: true, DataDir: o.cfg.DataDir, Keys: ring, Store: o.store, Results: o.ledger, Now: o.clock.Now, Log: log,
		Propagation: o.cfg.Authorities.Propagation,
	})
	must(t, err)
	o.bootstrap, err = ca.BootstrapRootPEM(o.cfg.DataDir)
	must(t, err)
	o.metrics = issuer.NewMetrics(o.domain())
	tracing, err := issuer.OpenTracing(ctx, o.cfg.Tracing, "test", log)
	must(t, err)
	td, err := spiffeid.TrustDomainFromString(o.domain())
	must(t, err)
	o.federation, err = federation.Open(ctx, federation.Config{
		Private:     []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // where tests have their endpoints
		TrustDomain: td, Store: o.store, Now: o.clock.Now, Log: log, Seal: federation.Seal{Server: "main", Key: signer},
	})
	must(t, err)
	o.server, err = issuer.New(o.cfg, issuer.Parts{
		Federation: o.federation,
		Set:        set, Policy: o.policy, Ledger: o.ledger, CA: o.ca, Store: o.store, Metrics: o.metrics, TPMs: o.tpms, Log: log, Now: o.clock.Now, Version: "test", Tracing: tracing,
	})
	must(t, err)

	listeners := issuer.Listeners{Front: o.front}
	if o.front == nil {
		listeners.Attestation, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		listeners.Metrics, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		o.addr, o.metricsAt = listeners.Attestation.Addr().String(), listeners.Metrics.Addr().String()
	}
	listeners.Admin, err = issuer.ListenAdmin(o.cfg.AdminSocket)
	must(t, err)
	if o.cfg.Administration.Listen != "" {
		listeners.AdminTLS, err = net.Listen("tcp", o.cfg.Administration.Listen)
		must(t, err)
		o.adminAt = listeners.AdminTLS.Addr().String()
	}

	for _, x := range []struct {
		address string
		to      *net.Listener
		at      *string
	}{{o.cfg.Web.Listen, &listeners.Web, &o.webAt}, {o.cfg.Federation.SPIFFEListen, &listeners.BundleEndpoint, &o.bundleAt}} {
		if x.address != "" {
			*x.to, err = net.Listen("tcp", x.address)
			must(t, err)
			*x.at = (*x.to).Addr().String()
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	lctx, stopLedger := context.WithCancel(context.Background())
	served, recorded := make(chan error, 1), make(chan error, 1)
	go func() { recorded <- o.ledger.Run(lctx) }()
	go func() {
		served <- o.server.Run(ctx, listeners)
	}()
	o.stop = sync.OnceValue(func() error {
		cancel()
		err := <-served
		stopLedger()
		if lerr := <-recorded; err == nil {
			err = lerr
		}
		if cerr := o.store.Close(); err == nil {
			err = cerr
		}
		tracing.Close()
		return err
	})
	stop := o.stop
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", clipped(o.log.String()))
		}
	})
}

// replacePolicy moves a policy into place and has it read.
func (o *office) replacePolicy(text string) {
	o.t.Helper()
	o.movePolicy(text)
	o.policy.Reload(o.t.Context())
}

// movePolicy is how a file should be replaced: beside it, and moved.
func (o *office) movePolicy(text string) {
	o.t.Helper()
	must(o.t, os.WriteFile(o.cfg.Policy+".new", []byte(text), 0o600))
	must(o.t, os.Rename(o.cfg.Policy+".new", o.cfg.Policy))
}

// document is evidence of an enclave for a binding.
func (o *office) document(d simnitro.Document, faults ...simnitro.Fault) []byte {
	o.t.Helper()
	doc, err := o.hardware.Mint(d, faults...)
	must(o.t, err)
	return doc
}

// logBuffer keeps the server's log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 4<<20 {
		return len(p), nil
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ io.Writer = (*logBuffer)(nil)

func clipped(s string) string {
	if len(s) > 16<<10 {
		return "…" + s[len(s)-16<<10:]
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contains(s, want string) bool { return strings.Contains(s, want) }

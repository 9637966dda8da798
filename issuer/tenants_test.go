package issuer_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// tenants opens a trust domain for each name, behind one front; the first is the
// one that clients meet who name none.
func tenants(t testing.TB, names []string, options ...option) []*office {
	t.Helper()
	cfg := config.Default()
	cfg.TrustDomain, cfg.ShutdownTimeout = names[0], time.Second
	for _, f := range options {
		f(&cfg)
	}
	log := &logBuffer{}
	front, err := issuer.NewFront(cfg, issuer.FrontParts{TrustDomains: names, Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now})
	must(t, err)
	public, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- front.Run(ctx, public, web) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the front: %v", err)
		}
	})
	var out []*office
	for _, name := range names {
		o := prepared(t, append(options, func(c *config.Config) { c.TrustDomain = name })...)
		o.front, o.sni, o.addr, o.metricsAt = front, name, public.Addr().String(), web.Addr().String()
		o.start()
		eventually(t, name+" to be ready", func() bool { return o.get("/ready/"+name) == "ok\n" })
		out = append(out, o)
	}
	return out
}

const first, second = "simulated.a.example", "simulated.b.example"

func pair(t testing.TB, options ...option) (a, b *office) {
	t.Helper()
	both := tenants(t, []string{first, second}, options...)
	return both[0], both[1]
}

// as is the office as a client sees it that asks for another name.
func (o *office) as(sni string) *office {
	return &office{t: o.t, hardware: o.hardware, cfg: o.cfg, clock: o.clock, bootstrap: o.bootstrap, addr: o.addr, sni: sni}
}

func TestTheNameInTheHandshakeChoosesTheTrustDomain(t *testing.T) {
	a, b := pair(t)
	for name, o := range map[string]*office{
		"the first by its name":        a,
		"the second by its name":       b,
		"the second in capitals":       b.as(strings.ToUpper(second)),
		"the first without a name":     a.as(""),
		"the first by a foreign name":  a.as("issuer.example.org"),
		"the first by part of a name":  a.as("b.example"),
		"the first by a longer name":   a.as("x." + second),
		"the first, asked for by root": a.as("localhost"),
	} {
		// tlsClient checks chain and SPIFFE ID; the evidence is bound to both.
		issued, err := o.attempt(o.connect()).run()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if id := issued.GetSvids()[0].GetSpiffeId(); !strings.HasPrefix(id, "spiffe://"+o.domain()+"/") {
			t.Errorf("%s: %s", name, id)
		}
	}
}

func TestWhatAHelloSaysDoesNotLeaveTheTrustDomainOfTheConnection(t *testing.T) {
	a, b := pair(t)
	for _, x := range []struct{ of, names *office }{{a, b}, {b, a}} {
		attempt := x.of.attempt(x.of.connect())
		attempt.hello.TrustDomain = x.names.domain()
		wantRefusal(t, attempt.challenge(), codes.InvalidArgument, attest.Malformed, "trust_domain")
	}
	// Not by an identity either.
	attempt := a.attempt(a.connect(), newKey(t, "spiffe://"+b.domain()+"/payments/api"))
	wantRefusal(t, attempt.challenge(), codes.InvalidArgument, attest.Malformed, "requested_id")
}

// Evidence made for one trust domain is bound to its name and to the connection,
// and counts nowhere else.
func TestEvidenceForOneTrustDomainIsNoneForAnother(t *testing.T) {
	a, b := pair(t)
	x := a.attempt(a.connect())
	must(t, x.challenge())
	x.attest()
	y := b.attempt(b.connect())
	must(t, y.challenge())
	y.evidence = x.evidence
	_, err := y.answer()
	if kind := denied(t, err).GetKind(); kind != attest.Untrusted.String() {
		t.Errorf("got %v", err)
	}
}

func TestAnSVIDOfOneTrustDomainIsNothingInAnother(t *testing.T) {
	a, b := pair(t)
	ofA := a.boot(a.connect())
	if _, err := a.watch(ofA.certificate()); err != nil {
		t.Fatalf("it is good at home: %v", err)
	}
	if _, err := b.watch(ofA.certificate()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Watch: %v", err)
	}
	_, err := assayv1.NewAttestationClient(b.connect(ofA.certificate())).MintJWTSVID(t.Context(), &assayv1.MintJWTSVIDRequest{Audience: []string{"x"}})
	if c := status.Code(err); c != codes.Unauthenticated && c != codes.Unimplemented {
		t.Errorf("MintJWTSVID: %v", err)
	}
	_, err = b.renewal(b.connect(), ofA).run()
	if kind := denied(t, err).GetKind(); kind != attest.Untrusted.String() {
		t.Errorf("renewal: %v", err)
	}
	// On a connection that shows it, it neither helps nor harms an attestation.
	if _, err := b.attempt(b.connect(ofA.certificate())).run(); err != nil {
		t.Errorf("attestation: %v", err)
	}
}

func TestConnectionsOfOneTrustDomainLeaveTheOthersTheirs(t *testing.T) {
	a, b := pair(t, func(c *config.Config) { c.Limits.Connections = 20 })
	var open []*tls.Conn
	dial := func(o *office) (*tls.Conn, error) {
		cfg := o.tlsClient()
		cfg.NextProtos = []string{"h2"}
		c, err := tls.Dial("tcp", o.addr, cfg)
		if err == nil {
			open = append(open, c)
		}
		return c, err
	}
	kept := 0
	for range 15 { // more than its share of ten
		if _, err := dial(a); err == nil {
			kept++
		}
	}
	if kept != 15 {
		t.Errorf("%d connections could be opened of one of two trust domains", kept)
	}
	eventually(t, "its share of ten, and those that waited for longest to be gone", func() bool { return a.gauge("assay_connections") == 10 })
	for i := range 10 {
		if _, err := dial(b); err != nil {
			t.Fatalf("the %d. connection of the other: %v", i+1, err)
		}
	}
	if n := a.gauge("assay_connections"); n != 10 {
		t.Errorf("%v connections of the first", n)
	}
	if n := b.gauge("assay_connections"); n != 10 {
		t.Errorf("%v connections of the second", n)
	}
	if n := b.counter(`assay_admission_refused_total{limit="share",trust_domain="` + second + `",what="handshake"}`); n != 0 {
		t.Errorf("%v of the other were refused", n)
	}
	for range 5 {
		if _, err := dial(a); err != nil {
			t.Errorf("one more of the first: %v", err)
		}
	}
	if n := b.gauge("assay_connections"); n != 10 {
		t.Errorf("the first took places of the second: it has %v", n)
	}
	for _, c := range open {
		_ = c.Close()
	}
	eventually(t, "the places to be free", func() bool { return a.gauge("assay_connections")+b.gauge("assay_connections") == 0 })
	if _, err := a.attempt(a.connect()).run(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// stalled begins a handshake that asks for a name, and does not finish it.
func stalled(t *testing.T, o *office) net.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", o.addr)
	must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	hold := &onlyHello{Conn: raw}
	cfg := o.tlsClient()
	go func() { _ = tls.Client(hold, cfg).Handshake() }()
	return raw
}

// onlyHello sends the first flight, and never answers to what comes.
type onlyHello struct{ net.Conn }

func (onlyHello) Read([]byte) (int, error) { select {} }

func TestHandshakesOfOneTrustDomainLeaveTheOthersTheirs(t *testing.T) {
	a, b := pair(t, func(c *config.Config) { c.Limits.Handshakes, c.Limits.HandshakesPerAddress = 8, 8 })
	for range 4 {
		stalled(t, a)
	}
	eventually(t, "four handshakes in flight", func() bool { return a.gauge("assay_handshakes_in_flight") == 4 })
	if _, err := a.attempt(a.connect()).run(); err != nil { // in the place of the one that stalls for longest
		t.Errorf("a fifth handshake of a trust domain whose share is four: %v", err)
	}
	for range 3 {
		if _, err := b.attempt(b.connect()).run(); err != nil {
			t.Errorf("the other: %v", err)
		}
	}
}

func TestAWaitingRoomThatOneTrustDomainFillsIsItsOwn(t *testing.T) {
	a, b := pair(t, func(c *config.Config) { c.Limits.Unverified, c.Limits.UnverifiedPerAddress = 3, 3 })
	ofB := b.attempt(b.connect())
	must(t, ofB.challenge()) // waits, the longest of all
	var idle []*attempt
	for range 10 {
		x := a.attempt(a.connect())
		must(t, x.challenge())
		idle = append(idle, x)
	}
	ofB.attest()
	if _, err := ofB.answer(); err != nil {
		t.Errorf("who came first, to the other trust domain, lost the place: %v", err)
	}
	if n := b.counter(`assay_admission_refused_total{limit="address",trust_domain="` + second + `",what="displaced"}`); n != 0 {
		t.Errorf("%v were displaced in the other trust domain", n)
	}
	if n := a.counter(`assay_admission_refused_total{limit="address",trust_domain="` + first + `",what="displaced"}`); n != 7 {
		t.Errorf("%v were displaced in the first one, want 7", n)
	}
	_ = idle
}

// As many attestations as one trust domain likes, at once, and each of the other
// one's passes: by counts, for the time is the machine's.
func TestAFloodOfAttestationsOfOneTrustDomainLeavesTheOthersServed(t *testing.T) {
	a, b := pair(t, func(c *config.Config) { c.Limits.InFlight = 3 })
	release := a.server.HoldTurnsForTest()
	results := make(chan error, 3)
	for range 3 {
		x := a.attempt(a.connect())
		must(t, x.challenge())
		x.attest()
		go func() { _, err := x.answer(); results <- err }()
	}
	eventually(t, "three to wait for their turn", func() bool { return a.server.WaitingForTest() == 3 })
	if n := a.gauge("assay_attestations_waiting"); n != 3 {
		t.Errorf("%v are said to wait", n)
	}
	_, err := a.attempt(a.connect()).run()
	wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "overload")
	if ms := denied(t, err).GetRetryAfterMs(); ms <= 0 {
		t.Errorf("come back after %d ms", ms)
	}
	for range 20 {
		if _, err := b.attempt(b.connect()).run(); err != nil {
			t.Fatalf("the other trust domain: %v", err)
		}
	}
	if n := a.server.WaitingForTest(); n != 3 {
		t.Errorf("%d wait: the places of the flood were to be held all the time", n)
	}
	release()
	for range 3 {
		if err := <-results; err != nil {
			t.Errorf("who waited: %v", err)
		}
	}
	if n := b.counter(`assay_attestations_total{outcome="unavailable",purpose="boot",tee="aws-nitro",trust_domain="` + second + `"}`); n != 0 {
		t.Errorf("%v of the other were turned away", n)
	}
}

func TestAnAttestationThatCannotBeDoneInTimeIsToldSoAtOnce(t *testing.T) {
	a, b := pair(t)
	release := a.server.HoldTurnsForTest()
	defer release()
	a.server.SlowTurnsForTest(time.Hour)
	_, err := a.attempt(a.connect()).run() // its deadline is twenty seconds away
	wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "overload")
	if ms := denied(t, err).GetRetryAfterMs(); ms < time.Minute.Milliseconds() {
		t.Errorf("come back after %d ms, want a minute at least", ms)
	}
	if n := a.counter(`assay_admission_refused_total{limit="overload",trust_domain="` + first + `",what="attestation"}`); n != 1 {
		t.Errorf("counted %v times", n)
	}
	if _, err := b.attempt(b.connect()).run(); err != nil {
		t.Errorf("the other trust domain, whose places are free: %v", err)
	}
}

func TestAnInstanceThatAttestsTooOftenIsToldWhenToComeBackAndNobodyElse(t *testing.T) {
	a, b := pair(t, func(c *config.Config) { c.Limits.AttestationsPerInstance = 3 })
	busy := simnitro.Document{ModuleID: "i-0123456789abcdef0-enc0123456789abcde"}
	run := func(o *office, d simnitro.Document) error {
		x := o.attempt(o.connect())
		x.document = d
		_, err := x.run()
		return err
	}
	for i := range 3 {
		if err := run(a, busy); err != nil {
			t.Fatalf("the %d. time: %v", i+1, err)
		}
	}
	err := run(a, busy)
	wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "instance_rate")
	if ms := denied(t, err).GetRetryAfterMs(); ms < 15_000 || ms > 31_000 {
		t.Errorf("come back after %d ms, want about 20 s", ms)
	}
	// From the same address, another instance; and the same one elsewhere.
	if err := run(a, simnitro.Document{ModuleID: "i-0123456789abcdef0-enc0123456789abcdf"}); err != nil {
		t.Errorf("another instance behind the same address: %v", err)
	}
	if err := run(b, busy); err != nil {
		t.Errorf("the same instance in the other trust domain: %v", err)
	}
	a.clock.Advance(time.Minute)
	if err := run(a, busy); err != nil {
		t.Errorf("after a minute: %v", err)
	}
}

func TestTheRateOfOneTrustDomainIsNotTheOthers(t *testing.T) {
	a, b := pair(t, func(c *config.Config) { c.Limits.AttestationsPerSecond = 2 })
	var refused int
	for range 12 {
		if _, err := a.attempt(a.connect()).run(); err != nil {
			wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "trust_domain_rate")
			refused++
		}
	}
	if refused == 0 {
		t.Skip("the machine is too slow for more than two attestations in a second")
	}
	if _, err := b.attempt(b.connect()).run(); err != nil {
		t.Errorf("the other trust domain: %v", err)
	}
}

func TestATrustDomainThatEndsTakesOnlyItsOwnConnections(t *testing.T) {
	a, b := pair(t)
	ofA, ofB := a.connect(), b.connect()
	liveA := a.boot(ofA)
	_ = b.boot(ofB)
	if _, err := a.watch(liveA.certificate()); err != nil {
		t.Fatal(err)
	}
	must(t, b.stop())
	if _, err := a.attempt(ofA).run(); err != nil {
		t.Errorf("on the same connection, in the trust domain that stays: %v", err)
	}
	if n := a.gauge("assay_watches"); n != 1 {
		t.Errorf("%v watches in the trust domain that stays", n)
	}
	// Its name is answered by nobody: least of all by another trust domain.
	cfg := b.tlsClient()
	cfg.InsecureSkipVerify, cfg.VerifyConnection, cfg.NextProtos = true, nil, []string{"h2"}
	if c, err := tls.Dial("tcp", b.addr, cfg); err == nil {
		t.Errorf("somebody answers as %v", c.ConnectionState().PeerCertificates[0].URIs)
	}
	if got := a.get("/ready/" + second); !strings.HasPrefix(got, "503") {
		t.Errorf("/ready/%s: %q", second, got)
	}
	if got := a.get("/ready"); !strings.HasPrefix(got, "ok\n") || !strings.Contains(got, first+": ok\n") || !strings.Contains(got, second+": the trust domain is not served at the moment\n") {
		t.Errorf("/ready: %q", got)
	}
	if n := a.counter(`assay_trust_domain_ready{trust_domain="` + second + `"}`); n != 0 {
		t.Errorf("ready: %v", n)
	}
	if n := a.gauge("assay_trust_domain_ready"); n != 1 {
		t.Errorf("the other is ready: %v", n)
	}
	// It comes back.
	b.start()
	eventually(t, "it to be ready again", func() bool { return b.get("/ready/"+second) == "ok\n" })
	if _, err := b.attempt(b.connect()).run(); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

func TestATrustDomainThatIsNotReadySaysSoForItselfAlone(t *testing.T) {
	a, b := pair(t)
	connA, connB := a.connect(), b.connect()
	check := func(o *office) healthpb.HealthCheckResponse_ServingStatus {
		conn := connA
		if o == b {
			conn = connB
		}
		r, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "assay.v1.Attestation"})
		must(t, err)
		return r.GetStatus()
	}
	if check(a) != healthpb.HealthCheckResponse_SERVING || check(b) != healthpb.HealthCheckResponse_SERVING {
		t.Fatal("not serving at the start")
	}
	b.clock.Advance(8 * 24 * time.Hour) // past its server's certificate
	if got := check(b); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the one that is not ready: %s", got)
	}
	if got := check(a); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("the one that is: %s", got)
	}
	if got := a.get("/ready/" + second); !strings.HasPrefix(got, "503") || !strings.Contains(got, "certificate has expired") {
		t.Errorf("%q", got)
	}
	if got := a.get("/ready"); !strings.HasPrefix(got, "ok\n") {
		t.Errorf("one that is not ready makes the others' server look down: %q", got)
	}
	a.clock.Advance(8 * 24 * time.Hour)
	if got := a.get("/ready"); !strings.HasPrefix(got, "503") {
		t.Errorf("nobody is ready: %q", got)
	}
	if got := a.get("/live"); got != "ok\n" {
		t.Errorf("/live: %q", got)
	}
}

func TestEveryMetricIsOfOneTrustDomain(t *testing.T) {
	a, b := pair(t)
	for range 2 {
		_ = a.boot(a.connect())
	}
	_ = b.boot(b.connect())
	series := func(td string) string {
		return `assay_attestations_total{outcome="issued",purpose="boot",tee="aws-nitro",trust_domain="` + td + `"}`
	}
	if x, y := a.counter(series(first)), a.counter(series(second)); x != 2 || y != 1 {
		t.Errorf("%v and %v attestations", x, y)
	}
	if x, y := a.gauge("assay_ledger_entries"), b.gauge("assay_ledger_entries"); x != 2 || y != 1 {
		t.Errorf("%v and %v entries", x, y)
	}
	process := map[string]bool{"assay_config_restart_needed": true, "assay_config_reloads_total": true, "assay_trace_failures_total": true}
	for line := range strings.Lines(a.get("/metrics")) {
		name, _, _ := strings.Cut(strings.SplitN(line, " ", 2)[0], "{")
		if strings.HasPrefix(name, "assay_") && !process[name] && !strings.Contains(line, `trust_domain="simulated.`) {
			t.Errorf("of no trust domain: %s", line)
		}
	}
}

// A certificate of one trust domain's server is none of another's: each has its
// own bootstrap root.
func TestEachTrustDomainHasItsOwnRoots(t *testing.T) {
	a, b := pair(t)
	ofB := b.as(second)
	ofB.bootstrap = a.bootstrap
	if _, err := ofB.attempt(ofB.connect()).run(); err == nil {
		t.Error("the other's server chains to this one's bootstrap root")
	}
	pool := x509.NewCertPool()
	for _, c := range a.ca.Bundle().X509Authorities() {
		pool.AddCert(c)
	}
	if _, err := b.boot(b.connect()).leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("an SVID of one chains to the other's authority")
	}
}

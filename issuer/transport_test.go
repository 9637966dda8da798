package issuer_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func TestTheServerSpeaksTLS13AndNothingOlder(t *testing.T) {
	o := open(t)
	cfg := o.tlsClient()
	cfg.MinVersion, cfg.MaxVersion, cfg.NextProtos = tls.VersionTLS12, tls.VersionTLS12, []string{"h2"}
	conn, err := tls.Dial("tcp", o.addr, cfg)
	if err == nil {
		_ = conn.Close()
		t.Fatal("TLS 1.2 was accepted")
	}
	if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("got %v", err)
	}
}

func TestTheServersCertificateIsUnderTheBootstrapRootAndNotInTheBundle(t *testing.T) {
	o := open(t)
	cfg := o.tlsClient()
	cfg.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", o.addr, cfg) // tlsClient checks chain and SPIFFE ID
	must(t, err)
	defer conn.Close()
	pool := x509.NewCertPool()
	for _, c := range o.ca.Bundle().X509Authorities() {
		pool.AddCert(c)
	}
	if _, err := conn.ConnectionState().PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the server's certificate chains to the SVID bundle")
	}
}

func TestSessionsAreNotResumed(t *testing.T) {
	o := open(t)
	cfg := o.tlsClient()
	cfg.NextProtos = []string{"h2"}
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		conn, err := tls.Dial("tcp", o.addr, cfg)
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		_, _ = io.ReadAll(conn) // a session ticket would come now
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed: two connections would share what they export")
		}
		_ = conn.Close()
	}
}

func TestHealthIsServedAndReflectionIsNot(t *testing.T) {
	o := open(t)
	conn := o.connect()
	resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "assay.v1.Attestation"})
	must(t, err)
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %s", resp.GetStatus())
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	must(t, err)
	if _, err := watch.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("strangers can watch health, at our cost: %v", err)
	}
	for _, m := range []string{"/assay.v1.Admin/Status", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
		err := conn.Invoke(t.Context(), m, &assayv1.StatusRequest{}, &assayv1.StatusResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s is offered to strangers: %v", m, err)
		}
	}
}

func TestHandshakesInFlightAreLimitedByAddress(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.HandshakesPerAddress = 3; c.Limits.HandshakeTimeout = 2 * time.Second })
	// Connections that say nothing hold their place …
	var silent []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", o.addr)
		must(t, err)
		silent = append(silent, c)
	}
	eventually(t, "three handshakes in flight", func() bool { return o.gauge("assay_handshakes_in_flight") == 3 })
	// … until somebody else comes: then the one that has said nothing for longest goes …
	c, err := net.Dial("tcp", o.addr)
	must(t, err)
	silent = append(silent, c)
	eventually(t, "one of them to be closed", func() bool { return ended(silent...) == 1 })
	if o.counter(`assay_admission_refused_total{limit="displaced",trust_domain="simulated.example.org",what="handshake"}`) == 0 {
		t.Error("that was not counted")
	}
	if n := o.gauge("assay_handshakes_in_flight"); n != 3 {
		t.Errorf("%v handshakes in flight", n)
	}
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("an attestation beside them: %v", err)
	}
	// … and the places are free again when their time is up.
	eventually(t, "the silent ones to be closed", func() bool { return o.gauge("assay_handshakes_in_flight") == 0 })
	for _, c := range silent {
		_ = c.Close()
	}
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("an attestation afterwards: %v", err)
	}
}

// ended counts those connections that the server has closed.
func ended(list ...net.Conn) (n int) {
	for _, c := range list {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			n++
		}
	}
	return n
}

func TestConnectionsAreLimited(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.Connections = 2 })
	for range 2 { // who has attested keeps the connection
		o.boot(o.connect())
	}
	c, err := net.Dial("tcp", o.addr)
	must(t, err)
	defer c.Close()
	must(t, c.SetReadDeadline(time.Now().Add(time.Second)))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the third connection was not refused: %v", err)
	}
}

// Strangers who fill the server up lose their places to whoever comes, one by one.
func TestStrangersWhoHoldAllConnectionsKeepNobodyOut(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.Connections = 8 })
	var silent []net.Conn
	for i := range 8 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%2+1))}}
		c, err := d.Dial("tcp", o.addr)
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		silent = append(silent, c)
	}
	eventually(t, "eight connections", func() bool { return o.gauge("assay_connections") == 8 })
	for range 5 {
		if _, err := o.attempt(o.connect()).run(); err != nil {
			t.Errorf("an agent: %v", err)
		}
	}
	if n := o.gauge("assay_connections"); n > 8 {
		t.Errorf("%v connections, at most 8", n)
	}
	if ended(silent...) == 0 {
		t.Error("all of the silent ones are still there")
	}
}

// One SVID does not take every place by connecting again and again.
func TestOneInstanceVouchesForSoManyConnectionsAndNoMore(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.Connections = 60 })
	own := o.boot(o.connect())
	for range 70 {
		if _, err := o.watch(own.certificate()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("another agent: %v", err)
	}
}

// One address cannot take every place by saying nothing; and behind a NAT there
// may be any number of agents, once they have attested.
func TestConnectionsOfStrangersAreLimitedByAddress(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.StrangersPerAddress = 2 })
	var agents []identity
	for range 5 { // five connections that attest, one after the other, all kept
		agents = append(agents, o.boot(o.connect()))
	}
	if _, err := o.watch(agents[0].certificate()); err != nil { // and one with an SVID
		t.Fatal(err)
	}
	if n := o.gauge("assay_connections_of_strangers"); n != 0 {
		t.Fatalf("%v strangers", n)
	}
	for range 2 {
		must(t, o.attempt(o.connect()).challenge())
	}
	c, err := net.Dial("tcp", o.addr)
	must(t, err)
	defer c.Close()
	must(t, c.SetReadDeadline(time.Now().Add(time.Second)))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the third stranger was not refused: %v", err)
	}
	if n := o.gauge("assay_connections"); n != 8 {
		t.Errorf("%v connections, want 8", n)
	}
}

func TestAttestationsWithoutVerifiedEvidenceAreLimitedByAddress(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.UnverifiedPerAddress = 2 })
	conn := o.connect()
	a, b := o.attempt(conn), o.attempt(conn)
	must(t, a.challenge())
	must(t, b.challenge())
	// The third takes the place of the one that is waited for longest.
	c := o.attempt(conn)
	must(t, c.challenge())
	if n := o.gauge("assay_unverified_in_flight"); n != 2 {
		t.Errorf("%v in flight, want 2", n)
	}
	if _, err := a.issued(); status.Code(err) != codes.Canceled && status.Code(err) != codes.Unavailable {
		t.Errorf("the first: %v, want that it is told to try again", err)
	}
	if n := o.counter(`assay_admission_refused_total{limit="address",trust_domain="simulated.example.org",what="displaced"}`); n != 1 {
		t.Errorf("counted %v times", n)
	}
	for _, a := range []*attempt{b, c} {
		a.attest()
		_, err := a.answer()
		must(t, err)
	}
	for range 5 { // there is no limit on how many come
		if _, err := o.attempt(conn).run(); err != nil {
			t.Fatal(err)
		}
	}
}

// Streams that say nothing cost others nothing, also from the same address, as
// behind a NAT or a balancer.
func TestWhoSaysNothingKeepsNobodyOut(t *testing.T) {
	for name, limits := range map[string]func(*config.Config){
		"by address": func(c *config.Config) { c.Limits.UnverifiedPerAddress = 20; c.ShutdownTimeout = 200 * time.Millisecond },
		"in all": func(c *config.Config) {
			c.Limits.Unverified, c.Limits.UnverifiedPerAddress = 20, 20
			c.ShutdownTimeout = 200 * time.Millisecond
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, limits)
			for range 25 {
				must(t, o.attempt(o.connect()).challenge())
			}
			live := o.boot(o.connect())
			if _, err := o.renewal(o.connect(), live).run(); err != nil {
				t.Errorf("a renewal: %v", err)
			}
			if n := o.gauge("assay_unverified_in_flight"); n > 20 {
				t.Errorf("%v in flight", n)
			}
		})
	}
}

func TestAStrangersFloodOfBadEvidenceGrowsNothing(t *testing.T) {
	o := open(t)
	conn := o.connect()
	_, err := o.attempt(conn).run()
	must(t, err)
	before := o.ledger.Stats()
	faults := []string{}
	for _, f := range simnitro.Faults() {
		if f.Kind != "" {
			faults = append(faults, f.Name)
		}
	}
	const floods = 200
	for i := range floods {
		a := o.attempt(conn)
		must(t, a.challenge())
		f, ok := simnitro.FaultByName(faults[i%len(faults)])
		if !ok {
			t.Fatal(faults[i])
		}
		a.faults = []simnitro.Fault{f}
		a.attest()
		_, err := a.answer()
		d := denied(t, err)
		if d.GetKind() != f.Kind || d.GetCheck() != f.Check {
			t.Errorf("%s: got %s/%s, want %s/%s", f.Name, d.GetKind(), d.GetCheck(), f.Kind, f.Check)
		}
	}
	after := o.ledger.Stats()
	if after.Size != before.Size || after.Denials != before.Denials || after.Records != before.Records {
		t.Errorf("the ledger grew: %+v, before %+v", after, before)
	}
	counts, samples := o.ledger.Rejections()
	var n uint64
	for _, c := range counts {
		n += c.Count
	}
	if n != floods {
		t.Errorf("%d refusals counted, want %d", n, floods)
	}
	if len(samples) == 0 || len(samples) > 1000 {
		t.Errorf("%d samples", len(samples))
	}
	if o.gauge("assay_unverified_in_flight") != 0 {
		t.Error("places are still taken")
	}
	if _, err := o.attempt(conn).run(); err != nil {
		t.Errorf("a good attestation afterwards: %v", err)
	}
}

// The library under the verifier panics on such a document, also when its
// chain is nobody's. One request must not stop the server.
func TestAP521DocumentFromAStrangerIsACleanErrorAndTheServerGoesOn(t *testing.T) {
	o := open(t)
	conn := o.connect()
	foreign, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	must(t, err)
	var docs [][]byte
	for _, f := range simnitro.Faults() {
		if strings.Contains(f.Name, "521") {
			mine, err := o.hardware.Mint(simnitro.Document{}, f)
			must(t, err)
			theirs, err := foreign.Mint(simnitro.Document{}, f)
			must(t, err)
			docs = append(docs, mine, theirs)
		}
	}
	if len(docs) == 0 {
		t.Fatal("the simulator has no P-521 fault")
	}
	for _, doc := range docs {
		a := o.attempt(conn)
		must(t, a.challenge())
		a.evidence = &assayv1.Evidence{Body: &assayv1.Evidence_Nitro{Nitro: &assayv1.NitroEvidence{Document: doc}}}
		_, err := a.answer()
		if c := status.Code(err); c != codes.Unauthenticated && c != codes.InvalidArgument {
			t.Errorf("got %v", err)
		}
	}
	if _, err := o.attempt(conn).run(); err != nil {
		t.Errorf("the server no longer serves: %v", err)
	}
}

// Real hardware's documents are nothing to a simulated trust domain.
func TestRealDocumentsAreRefusedInASimulatedTrustDomain(t *testing.T) {
	o := open(t)
	conn := o.connect()
	tried := 0
	for _, v := range vectors.Load(t, "nitro") {
		for _, f := range v.Files {
			doc, err := os.ReadFile(v.Path(f))
			must(t, err)
			if len(doc) > 16<<10 || len(doc) == 0 {
				continue
			}
			a := o.attempt(conn)
			must(t, a.challenge())
			a.evidence = &assayv1.Evidence{Body: &assayv1.Evidence_Nitro{Nitro: &assayv1.NitroEvidence{Document: doc}}}
			_, err = a.answer()
			if c := status.Code(err); c != codes.Unauthenticated && c != codes.InvalidArgument && c != codes.Aborted {
				t.Errorf("%s: got %v", f, err)
			}
			tried++
		}
	}
	t.Logf("%d files", tried)
	if _, err := o.attempt(conn).run(); err != nil {
		t.Error(err)
	}
}

func TestAStopLetsAttestationsInFlightFinish(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	must(t, a.challenge())
	stopped := make(chan error, 1)
	go func() { stopped <- o.stop() }()
	eventually(t, "the listener to close", func() bool {
		c, err := net.DialTimeout("tcp", o.addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	a.attest()
	if _, err := a.answer(); err != nil {
		t.Errorf("in flight: %v", err)
	}
	must(t, <-stopped)
	if _, err := os.Lstat(o.cfg.AdminSocket); err == nil {
		t.Error("the admin socket was left")
	}
}

func TestAStopDoesNotWaitForeverForOneWhoSaysNothing(t *testing.T) {
	o := open(t, func(c *config.Config) { c.ShutdownTimeout = 200 * time.Millisecond })
	must(t, o.attempt(o.connect()).challenge())
	start := time.Now()
	must(t, o.stop())
	if d := time.Since(start); d > time.Minute { // a client may say nothing for longer
		t.Errorf("the stop took %s", d)
	}
}

// metric reads one series from /metrics; absent is 0.
func (o *office) counter(series string) float64 {
	o.t.Helper()
	for line := range strings.Lines(o.get("/metrics")) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				o.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

func (o *office) gauge(name string) float64 {
	o.t.Helper()
	return o.counter(name + `{trust_domain="` + o.domain() + `"}`)
}

func (o *office) get(path string) string {
	o.t.Helper()
	resp, err := http.Get("http://" + o.metricsAt + path) //nolint:noctx // a test
	must(o.t, err)
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	must(o.t, err)
	if resp.StatusCode != http.StatusOK {
		return resp.Status + "\n" + b.String()
	}
	return b.String()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error) //nolint:errorlint // of a bare connection
	return ok && ne.Timeout()
}

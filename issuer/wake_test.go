package issuer_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// orders is another enclave than payments, of the same role.
func orders() simnitro.Launch {
	return simnitro.Launch{Image: simnitro.ImageFromSeed("orders"), Role: role}
}

// twoWorkloads is policyText with orders beside payments.
func twoWorkloads(revision int) string {
	p := orders().PCRs()
	return policyText(revision) + fmt.Sprintf(`  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue:
      - {spiffe_id: "spiffe://{td}/orders", x509_ttl: 1h}
`, hex.EncodeToString(p[0]), hex.EncodeToString(p[3]))
}

// edited replaces text that must be there.
func edited(t testing.TB, s string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(s, pairs[i]) {
			t.Fatalf("the text %q is not there", pairs[i])
		}
		s = strings.Replace(s, pairs[i], pairs[i+1], 1)
	}
	return s
}

// agentOf attests an enclave with an instance of its own.
func (o *office) agentOf(launch simnitro.Launch, module string) identity {
	o.t.Helper()
	a := o.attempt(o.connect())
	a.launch, a.document.ModuleID = launch, module
	issued, err := a.run()
	must(o.t, err)
	leaf, err := x509.ParseCertificate(issued.GetSvids()[0].GetChain()[0])
	must(o.t, err)
	return identity{a.keys[0], leaf}
}

// listener is a watch whose events are collected.
type listener struct {
	mu     sync.Mutex
	events []*assayv1.Reattest
}

func (l *listener) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events)
}

func (o *office) listen(own identity) *listener {
	o.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o.t.Cleanup(cancel)
	w, err := assayv1.NewAttestationClient(o.connect(own.certificate())).Watch(ctx, &assayv1.WatchRequest{})
	must(o.t, err)
	e, err := w.Recv()
	must(o.t, err)
	if e.GetBundle() == nil {
		o.t.Fatalf("the first event is %v", e)
	}
	l := &listener{}
	go func() {
		for {
			e, err := w.Recv()
			if err != nil {
				return
			}
			if r := e.GetReattest(); r != nil {
				l.mu.Lock()
				l.events = append(l.events, r)
				l.mu.Unlock()
			}
		}
	}()
	return l
}

// settled waits until everybody who watches has been judged by the policy in
// force. What was sent then has arrived, or is about to.
func (o *office) settled(l ...*listener) []int {
	o.t.Helper()
	eventually(o.t, "everybody is judged", o.server.AllJudgedForTest)
	time.Sleep(100 * time.Millisecond) // what was sent is on its way over a loopback socket
	out := make([]int, len(l))
	for i, x := range l {
		out[i] = x.asked()
	}
	return out
}

func TestAPolicyChangeWakesThoseWhomItConcernsAndNobodyElse(t *testing.T) {
	o := open(t, func(c *config.Config) { c.ReattestSpread = 30 * time.Second })
	o.replacePolicy(twoWorkloads(2))
	pay, ord := o.listen(o.agentOf(payments(), "i-1-enc1")), o.listen(o.agentOf(orders(), "i-2-enc2"))
	asks := func(what string, wantPay, wantOrd int) {
		t.Helper()
		got := o.settled(pay, ord)
		if got[0] != wantPay || got[1] != wantOrd {
			t.Errorf("%s: payments was asked %d times, orders %d; want %d, %d", what, got[0], got[1], wantPay, wantOrd)
		}
	}
	asks("nothing has changed", 0, 0)
	o.replacePolicy("nonsense")
	asks("a policy that is refused", 0, 0)
	o.replacePolicy(edited(t, twoWorkloads(3), "version: 1", "# A comment and a revision.\nversion: 1"))
	asks("a change that changes nothing", 0, 0)
	o.replacePolicy(edited(t, twoWorkloads(4), "/orders\", x509_ttl: 1h", "/orders\", x509_ttl: 2h"))
	asks("a change of orders", 0, 1)
	if r := ord.events[0]; r.GetReason() != assayv1.Reattest_REASON_POLICY_CHANGED || r.GetWithinMs() != 30_000 {
		t.Errorf("got %v", r)
	}
	if o.gauge("assay_reattest_policy_total") != 1 {
		t.Error("the metric does not say so")
	}
	// Orders has attested again; its watch is still the one of its first SVID.
	o.agentOf(orders(), "i-2-enc2")
	o.replacePolicy(edited(t, twoWorkloads(5), "/orders\", x509_ttl: 1h", "/orders\", x509_ttl: 2h", "30m", "31m"))
	asks("a change of payments, beside what orders holds already", 1, 1)
	// Back to the first content: it is what payments' watch began with, and not
	// what orders holds now.
	o.agentOf(payments(), "i-1-enc1")
	o.replacePolicy(twoWorkloads(6))
	asks("back", 2, 2)
}

// Who was asked, and has not come yet, is asked again when the policy goes on
// changing: what they will hold is not known.
func TestWhoWasAskedAndHasNotComeIsAskedAgain(t *testing.T) {
	o := open(t)
	pay := o.listen(o.agentOf(payments(), "i-1-enc1"))
	o.replacePolicy(edited(t, policyText(2), "30m", "31m"))
	if got := o.settled(pay); got[0] != 1 {
		t.Fatalf("asked %d times, want 1", got[0])
	}
	o.replacePolicy(policyText(3))
	if got := o.settled(pay); got[0] != 2 {
		t.Errorf("asked %d times, want 2", got[0])
	}
}

func TestWhoBeginsToWatchAfterTheChangeIsAskedToo(t *testing.T) {
	o := open(t)
	pay := o.agentOf(payments(), "i-1-enc1")
	o.replacePolicy(edited(t, policyText(2), "30m", "31m"))
	l := o.listen(pay)
	if got := o.settled(l); got[0] != 1 {
		t.Errorf("asked %d times, want 1", got[0])
	}
	fresh := o.listen(o.agentOf(payments(), "i-3-enc3"))
	if got := o.settled(fresh); got[0] != 0 {
		t.Errorf("who attested under the policy in force was asked %d times", got[0])
	}
}

// The policy under which an agent attested is known after a restart too.
func TestAPolicyThatChangedWhileTheServerWasAwayWakesThoseWhomItConcerns(t *testing.T) {
	o := open(t)
	o.replacePolicy(twoWorkloads(2))
	payID, ordID := o.agentOf(payments(), "i-1-enc1"), o.agentOf(orders(), "i-2-enc2")
	must(t, o.stop())
	must(t, os.WriteFile(o.cfg.Policy, []byte(edited(t, twoWorkloads(3), "30m", "31m")), 0o600))
	o.start()
	pay, ord := o.listen(payID), o.listen(ordID)
	if got := o.settled(pay, ord); got[0] != 1 || got[1] != 0 {
		t.Errorf("payments was asked %d times, orders %d; want 1, 0", got[0], got[1])
	}
}

// Where the policy under which an agent attested is no longer kept, it is asked:
// an attestation too many does no harm.
func TestWhoseOldPolicyIsNotKnownIsAsked(t *testing.T) {
	o := open(t)
	pay := o.agentOf(payments(), "i-1-enc1")
	o.replacePolicy(policyText(2))
	must(t, o.stop())
	st, err := store.OpenSQLite(t.Context(), filepath.Join(o.cfg.DataDir, "assay.db"))
	must(t, err)
	must(t, st.PrunePolicyChanges(t.Context(), trustDomain, 0, 0))
	must(t, st.Close())
	o.start()
	l := o.listen(pay)
	if got := o.settled(l); got[0] != 1 {
		t.Errorf("asked %d times, want 1", got[0])
	}
}

// A reference value that ends, or begins, by its date is no change of the policy.
func TestADateThatPassesWakesNobody(t *testing.T) {
	o := open(t)
	p := payments().PCRs()
	end, begin := o.clock.Now().Add(20*time.Minute).UTC().Format(time.RFC3339), o.clock.Now().Add(30*time.Minute).UTC().Format(time.RFC3339)
	eq := fmt.Sprintf("pcr0: {eq: %q}", hex.EncodeToString(p[0]))
	in := fmt.Sprintf("pcr0: {in: [{value: %q, not_after: %s}, {value: %q, not_before: %s}]}", hex.EncodeToString(p[0]), end, strings.Repeat("ab", 48), begin)
	o.replacePolicy(edited(t, policyText(2), eq, in))
	if why := o.policy.Refused(); why != "" {
		t.Fatal(why)
	}
	own := o.agentOf(payments(), "i-1-enc1")
	if left := time.Until(own.leaf.NotAfter); left > 21*time.Minute {
		t.Fatalf("the SVID outlives the value that carried it: %s", left)
	}
	l := o.listen(own)
	o.clock.Advance(25 * time.Minute)
	o.replacePolicy(edited(t, policyText(3), eq, in, "version: 1", "# The date has passed.\nversion: 1"))
	if got := o.settled(l); got[0] != 0 {
		t.Errorf("asked %d times: the dates are the same in both policies", got[0])
	}
	a := o.attempt(o.connect())
	a.document.Timestamp = o.clock.Now()
	if _, err := a.run(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after its end the value still counts: %v", err)
	}
	o.clock.Advance(-25 * time.Minute)
}

// A database that does not answer leaves nobody unjudged for ever, and a watch
// that ends harms nobody.
func TestAWatchThatEndsIsForgotten(t *testing.T) {
	o := open(t)
	w, err := o.watch(o.agentOf(payments(), "i-1-enc1").certificate())
	must(t, err)
	must(t, w.CloseSend())
	o.replacePolicy(edited(t, policyText(2), "30m", "31m"))
	e, err := w.Recv()
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if e.GetReattest() == nil {
		t.Errorf("got %v", e)
	}
}

// An attestation is decided by one policy and on record a moment later. Who was
// judged in between was judged by what was on record before.
func TestWhoIsRecordedUnderAPolicyThatIsNoLongerInForceIsJudgedAgain(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), "i-1-enc1")
	o.replacePolicy(edited(t, policyText(2), "30m", "31m"))
	var l *listener
	between := func() {
		o.replacePolicy(policyText(3)) // what is on record was issued under the same
		l = o.listen(own)
		if got := o.settled(l); got[0] != 0 {
			t.Errorf("asked %d times for what is on record", got[0])
		}
	}
	o.clock.recording.Store(&between)
	o.agentOf(payments(), "i-1-enc1")
	if l == nil {
		t.Fatal("the policy did not change before the record")
	}
	if got := o.settled(l); got[0] != 1 {
		t.Errorf("asked %d times, want 1: what it holds now was granted by revision 2", got[0])
	}
}

// An instance can run many agents; what one of them holds is found among what all do.
func TestWhatAnAgentHoldsIsFoundAmongManyIssuancesToItsInstance(t *testing.T) {
	o := open(t)
	attest := func(id string) identity {
		t.Helper()
		a := o.attempt(o.connect(), newKey(t, id))
		a.document.ModuleID = "i-1-enc1"
		issued, err := a.run()
		must(t, err)
		leaf, err := x509.ParseCertificate(issued.GetSvids()[0].GetChain()[0])
		must(t, err)
		return identity{a.keys[0], leaf}
	}
	own := attest(paymentsID)
	o.replacePolicy(edited(t, policyText(2), "x509_ttl: 1h", "x509_ttl: 2h"))
	attest(paymentsID)
	for range 12 {
		attest(reportsID)
	}
	o.replacePolicy(policyText(3))
	l := o.listen(own)
	if got := o.settled(l); got[0] != 1 {
		t.Errorf("asked %d times, want 1: what it holds now was granted by revision 2", got[0])
	}
}

func TestEachPolicyOfThePastIsReadOnceForAllWhoHoldSomethingByIt(t *testing.T) {
	o := open(t)
	const revisions, agents = 8, 5
	for revision := range revisions {
		if revision > 0 {
			o.replacePolicy(policyText(revision + 1))
		}
		for i := range agents {
			own := o.agentOf(payments(), fmt.Sprintf("i-%d-enc%d", revision, i))
			defer o.server.WatchForTest(fmt.Sprintf("%032x", own.leaf.SerialNumber), own.leaf.URIs[0].String())()
		}
	}
	eventually(t, "everybody is judged", o.server.AllJudgedForTest)
	reads := func() int { return strings.Count(o.log.String(), "reading a policy of the past") }
	before := reads()
	o.replacePolicy(policyText(revisions + 1))
	eventually(t, "everybody is judged", o.server.AllJudgedForTest)
	if n := reads() - before; n < revisions-keptForTest || n > revisions {
		t.Errorf("%d policies were read for %d agents who hold something by %d", n, revisions*agents, revisions)
	}
	if o.gauge("assay_reattest_policy_total") != 0 {
		t.Error("somebody was asked to attest again")
	}
}

// keptForTest is how many policies of the past may be in memory.
const keptForTest = 4

// BenchmarkPolicyChange is what a change of the policy costs for each agent that
// watches: two look-ups in the ledger, and two policies asked. None is concerned.
func BenchmarkPolicyChange(b *testing.B) {
	o := open(b)
	const agents = 200
	for i := range agents {
		own := o.agentOf(payments(), fmt.Sprintf("i-%d-enc%d", i, i))
		leave := o.server.WatchForTest(fmt.Sprintf("%032x", own.leaf.SerialNumber), own.leaf.URIs[0].String())
		defer leave()
	}
	eventually(b, "everybody is judged", o.server.AllJudgedForTest)
	b.ResetTimer()
	for i := range b.N {
		o.replacePolicy(policyText(i + 2))
		for !o.server.AllJudgedForTest() {
			time.Sleep(50 * time.Microsecond)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/agents, "µs/agent")
	if o.gauge("assay_reattest_policy_total") != 0 {
		b.Error("somebody was asked to attest again")
	}
}

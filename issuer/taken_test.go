package issuer_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

// A ban that comes between decision and record leaves an entry, and no SVID.
func TestABanThatComesInBetweenIsInTime(t *testing.T) {
	o := open(t)
	ban := func() { o.ban(ofInstance(moduleA)) }
	o.clock.recording.Store(&ban)
	wantRefusal(t, o.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
	if o.clock.recording.Load() != nil {
		t.Fatal("the ban did not come in between")
	}
	granted := o.list(&assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED})
	if len(granted) != 1 {
		t.Fatalf("%d issuances on record, want the one that was never signed", len(granted))
	}
	e, err := ledger.ParseEntry(granted[0].GetPayload())
	must(t, err)
	if _, err := o.ledger.Certificate(t.Context(), e.Identities[0].Serial); err == nil {
		t.Error("it was signed")
	}
	// What was allowed is on the deny-list all the same.
	eventually(t, "it is denied", func() bool { return len(o.denyList().Serials) == 1 })
}

// And so it is with a token.
func TestABanThatComesBeforeATokenIsSignedIsInTime(t *testing.T) {
	o, _ := minting(t)
	own := o.agentOf(payments(), moduleA)
	ban := func() { o.ban(ofInstance(moduleA)) }
	o.clock.recording.Store(&ban)
	r, err := o.mint(shows(own), 0, "reports")
	if status.Code(err) != codes.Unauthenticated || r.GetToken() != "" {
		t.Errorf("a token was signed after the ban: %v", err)
	}
	if o.clock.recording.Load() != nil {
		t.Fatal("the ban did not come in between")
	}
	if n := len(o.mintedEntries()); n != 1 {
		t.Errorf("%d tokens on record, want the one that was never signed", n)
	}
}

func TestAPolicyThatComesBeforeATokenIsSignedIsInTime(t *testing.T) {
	o, own := minting(t)
	comes := func(policy string) {
		withdraw := func() { o.replacePolicy(policy) }
		o.clock.recording.Store(&withdraw)
	}
	comes(policyText(3)) // without tokens
	r, err := o.mint(shows(own), 0, "reports")
	if status.Code(err) != codes.PermissionDenied || r.GetToken() != "" {
		t.Errorf("a token was signed under a policy that is no longer in force: %v", err)
	}
	if n := len(o.mintedEntries()); n != 1 {
		t.Errorf("%d tokens on record, want the one that was never signed", n)
	}

	// One that gives less gives less.
	o.replacePolicy(tokenPolicy(4))
	comes(strings.NewReplacer("ttl: 5m", "ttl: 1m", "team: core", "team: edge").Replace(tokenPolicy(5)))
	r, err = o.mint(shows(own), 0, "reports")
	must(t, err)
	got := o.verify(r, "reports")
	if life := got.Token.Expiry.Sub(got.Token.IssuedAt); life != time.Minute || got.Result.Attributes["team"] != "" || got.Result.Attributes["tier"] != "gold" {
		t.Errorf("it lives for %s, with %v", life, got.Result.Attributes)
	}
	on := o.mintedEntries()
	if last := on[len(on)-1]; len(on) != 3 || last.Policy.Revision != 5 || last.Token.ID != got.Token.ID {
		t.Errorf("%d tokens on record, the last is %+v", len(on), last)
	}
}

// Two servers on one database: what is told to one holds at the other.
func TestABanHoldsAtEveryServer(t *testing.T) {
	o := open(t)
	cfg := o.cfg
	cfg.AdminSocket = filepath.Join(t.TempDir(), "second.sock")
	second, err := issuer.New(cfg, issuer.Parts{
		Set: o.set, Policy: o.policy, Ledger: o.ledger, CA: o.ca, Store: o.store, Metrics: issuer.NewMetrics(o.domain()), Log: o.logger, Now: o.clock.Now, Version: "second",
	})
	must(t, err)
	var l issuer.Listeners
	l.Attestation, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l.Admin, err = issuer.ListenAdmin(cfg.AdminSocket)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- second.Run(ctx, l) }()
	defer func() {
		cancel()
		must(t, <-served)
	}()
	there := *o
	there.addr = l.Attestation.Addr().String()
	own := there.agentOf(payments(), moduleA)
	w, err := there.watch(own.certificate())
	must(t, err)

	r := o.ban(ofInstance(moduleA))
	var told *assayv1.Reattest
	for told == nil { // no event reaches it here: it asks by itself
		e, err := w.Recv()
		must(t, err)
		told = e.GetReattest()
	}
	if told.GetReason() != assayv1.Reattest_REASON_BANNED {
		t.Errorf("the watch at the other server heard %v", told)
	}
	wantRefusal(t, there.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
	_, err = o.agents().Unban(t.Context(), &assayv1.UnbanRequest{Id: r.GetBan().GetId(), Reason: "r"})
	must(t, err)
	second.BansChanged() // as the database's word does
	eventually(t, "it is lifted there too", func() bool { return there.tryBoot(moduleA) == nil })
}

func TestATaintedAuthorityHasItsHoldersAttestAgainAtOnce(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	w, err := o.watch(own.certificate())
	must(t, err)
	admin := assayv1.NewAuthoritiesClient(o.adminConnection())
	list, err := admin.ListAuthorities(t.Context(), &assayv1.ListAuthoritiesRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509})
	must(t, err)
	_, err = admin.TaintAuthority(t.Context(), &assayv1.TaintAuthorityRequest{
		Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: list.GetAuthorities()[0].GetId(), Reason: "stolen", Force: true,
	})
	must(t, err)
	var told *assayv1.Reattest
	bundles := 0
	for {
		e, err := w.Recv()
		if err != nil {
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("the watch ended with %v", err)
			}
			break
		}
		if e.GetBundle() != nil {
			bundles++
		}
		if e.GetReattest() != nil {
			told = e.GetReattest()
		}
	}
	if told.GetReason() != assayv1.Reattest_REASON_AUTHORITY_ROTATED || told.GetWithinMs() != 0 || bundles == 0 {
		t.Errorf("heard %v, and %d bundles", told, bundles)
	}
	// What it held is worth nothing here; at boot it gets something new.
	r := o.renewal(o.connect(), own)
	r.document.ModuleID = moduleA
	_, err = r.run()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
	next := o.agentOf(payments(), moduleA)
	if _, err := o.watch(next.certificate()); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

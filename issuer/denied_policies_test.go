package issuer_test

import (
	"context"
	"crypto/x509"
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
	"github.com/assay-project/assay/svid"
)

// second is another server on the office's database, whose clock is ahead.
func (o *office) second(ahead time.Duration) *issuer.Server {
	o.t.Helper()
	cfg := o.cfg
	cfg.AdminSocket = filepath.Join(o.t.TempDir(), "second.sock")
	s, err := issuer.New(cfg, issuer.Parts{
		Set: o.set, Policy: o.policy, Ledger: o.ledger, CA: o.ca, Store: o.store, Metrics: issuer.NewMetrics(o.domain()), Log: o.logger,
		Now: func() time.Time { return o.clock.Now().Add(ahead) }, Version: "second",
	})
	must(o.t, err)
	var l issuer.Listeners
	l.Attestation, err = net.Listen("tcp", "127.0.0.1:0")
	must(o.t, err)
	l.Admin, err = issuer.ListenAdmin(cfg.AdminSocket)
	must(o.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx, l) }()
	o.t.Cleanup(func() { cancel(); <-served })
	return s
}

func TestAPolicyCanBeDeniedWhenItIsNoLongerInForce(t *testing.T) {
	o := open(t)
	s, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	digest := s.GetPolicyDigest()
	if _, err := o.agents().DenyPolicy(t.Context(), &assayv1.DenyPolicyRequest{Digest: digest, Reason: "r"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the policy in force: %v", err)
	}
	for _, bad := range [][]byte{nil, digest[:31]} {
		if _, err := o.agents().DenyPolicy(t.Context(), &assayv1.DenyPolicyRequest{Digest: bad, Reason: "r"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	o.replacePolicy(strings.Replace(policyText(2), "30m", "31m", 1))
	_, err = o.agents().DenyPolicy(t.Context(), &assayv1.DenyPolicyRequest{Digest: digest, Reason: "it granted too much"})
	must(t, err)
	if d := o.denyList(); !d.Policy(digest) {
		t.Error("the deny-list lacks it")
	}
}

// What is denied can be taken off the list, by a list with a higher number, on every
// server; and who follows accepts what rests on it again.
func TestADeniedPolicyCanBeTakenOffTheDenyList(t *testing.T) {
	o := open(t)
	second := o.second(0)
	own := o.agentOf(payments(), moduleA)
	s, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	digest := s.GetPolicyDigest()
	o.replacePolicy(strings.Replace(policyText(2), "30m", "31m", 1))

	list, err := svid.NewDenyList(o.td(), o.verifierRoot())
	must(t, err)
	denied := func() bool {
		t.Helper()
		r, err := o.agents().GetDenyList(t.Context(), &assayv1.GetDenyListRequest{})
		must(t, err)
		must(t, list.Update(r.GetDenyList(), o.clock.Now())) // refuses to go back
		_, err = svid.Verify([]*x509.Certificate{own.leaf}, svid.NewSource(o.ca.Bundle(), o.ca.VerifierKeys()), o.clock.Now(), svid.Simulated(), svid.NotDenied(list))
		if err != nil && (attest.KindOf(err) != attest.Denied || attest.CheckOf(err) != "denied") {
			t.Fatalf("verifying: %v", err)
		}
		return err != nil
	}
	sequence := func() uint64 { return o.denyList().Sequence }
	elsewhere := func() bool {
		o.t.Helper()
		second.BansChanged() // as the database tells
		doc, _, _, ok := second.DenyList()
		if !ok {
			return false
		}
		d, err := svid.ParseDenyList(doc, o.verifierRoot(), o.td(), o.clock.Now())
		must(t, err)
		return d.Policy(digest)
	}

	lift := func(digest []byte, why string) error {
		_, err := o.agents().LiftPolicy(t.Context(), &assayv1.LiftPolicyRequest{Digest: digest, Reason: why})
		return err
	}
	if denied() {
		t.Fatal("it is denied before anybody said so")
	}
	for name, tt := range map[string]struct {
		digest []byte
		why    string
		want   codes.Code
	}{
		"what is not denied": {digest, "r", codes.NotFound}, "31 bytes": {digest[:31], "r", codes.InvalidArgument}, "no reason": {digest, " ", codes.InvalidArgument},
	} {
		if err := lift(tt.digest, tt.why); status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	for turn := range 2 { // it can be denied again
		_, err = o.agents().DenyPolicy(t.Context(), &assayv1.DenyPolicyRequest{Digest: digest, Reason: "it granted too much"})
		must(t, err)
		if !denied() {
			t.Fatalf("turn %d: it is not denied", turn)
		}
		eventually(t, "the second server denies it", elsewhere)
		all, err := o.agents().ListDeniedPolicies(t.Context(), &assayv1.ListDeniedPoliciesRequest{})
		must(t, err)
		if p := all.GetPolicies(); len(p) != 1 || string(p[0].GetDigest()) != string(digest) || p[0].GetReason() != "it granted too much" || p[0].GetActor() == "" || p[0].GetSinceUnixMs() == 0 {
			t.Errorf("turn %d: denied policies %v", turn, all)
		}
		before := sequence()
		must(t, lift(digest, "it was the wrong one"))
		if denied() {
			t.Fatalf("turn %d: it is still denied", turn)
		}
		if after := sequence(); after <= before {
			t.Errorf("turn %d: sequence %d after %d", turn, after, before)
		}
		eventually(t, "the second server denies it no more", func() bool { return !elsewhere() })
		if err := lift(digest, "again"); status.Code(err) != codes.NotFound {
			t.Errorf("turn %d: lifting it twice: %v", turn, err)
		}
	}
	all, err := o.agents().ListDeniedPolicies(t.Context(), &assayv1.ListDeniedPoliciesRequest{})
	must(t, err)
	if len(all.GetPolicies()) != 0 {
		t.Errorf("denied policies %v", all)
	}
	items, err := o.ledger.List(t.Context(), ledger.Filter{Outcome: ledger.Admin, Limit: 100})
	must(t, err)
	lifted := 0
	for _, i := range items {
		if strings.Contains(string(i.Payload), "LiftPolicy") && strings.Contains(string(i.Payload), `"allowed"`) {
			lifted++
		}
	}
	if lifted < 2 {
		t.Errorf("the ledger has %d entries of it", lifted)
	}
}

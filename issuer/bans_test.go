package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ca"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/svid"
)

func (o *office) agents() assayv1.AgentsClient {
	o.t.Helper()
	return assayv1.NewAgentsClient(o.adminConnection())
}

const moduleA, moduleB = "i-0aaaaaaaaaaaaaaaa-enc0123456789abcdef", "i-0bbbbbbbbbbbbbbbb-enc0123456789abcdef"

func (o *office) ban(r *assayv1.BanRequest) *assayv1.BanResponse {
	o.t.Helper()
	if r.GetReason() == "" {
		r.Reason = "stolen"
	}
	out, err := o.agents().Ban(context.Background(), r)
	must(o.t, err)
	return out
}

func ofInstance(module string) *assayv1.BanRequest {
	return &assayv1.BanRequest{Who: &assayv1.BanRequest_Instance{Instance: "aws-nitro:" + module}}
}

// tryBoot attests an enclave of its own module.
func (o *office) tryBoot(module string) error {
	o.t.Helper()
	a := o.attempt(o.connect())
	a.document.ModuleID = module
	_, err := a.run()
	return err
}

// denyList is the published deny-list, verified as relying parties do.
func (o *office) denyList() *svid.Denials {
	o.t.Helper()
	r, err := o.agents().GetDenyList(context.Background(), &assayv1.GetDenyListRequest{})
	must(o.t, err)
	d, err := svid.ParseDenyList(r.GetDenyList(), o.verifierRoot(), o.td(), o.clock.Now())
	must(o.t, err)
	return d
}

func (o *office) verifierRoot() *ecdsa.PublicKey {
	o.t.Helper()
	pem, err := ca.VerifierRootPEM(o.cfg.DataDir)
	must(o.t, err)
	root, err := svid.ParseVerifierRoot(pem)
	must(o.t, err)
	return root
}

// A reference is all in which two denials may differ.
var referenceText = regexp.MustCompile(`as-[a-z0-9]{10}`)

func TestABanStopsRenewalsAtOnceTellsTheWatchAndIsInTheDenyList(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	other := o.agentOf(payments(), moduleB)
	w, err := o.watch(own.certificate())
	must(t, err)
	bystander := o.listen(other)

	r := o.ban(ofInstance(moduleA))
	if r.GetBan().GetKind() != "instance" || !slices.Equal(r.GetInstances(), []string{"aws-nitro:" + moduleA}) || r.GetSvids() != 1 {
		t.Errorf("the ban hits %v", r)
	}
	// The watch: bundles, the reason, and the end.
	var told *assayv1.Reattest
	for told == nil {
		e, err := w.Recv()
		must(t, err)
		told = e.GetReattest()
	}
	if told.GetReason() != assayv1.Reattest_REASON_BANNED || told.GetWithinMs() != 0 {
		t.Errorf("the watch heard %v", told)
	}
	for err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := o.watch(own.certificate()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a new watch: %v", err)
	}
	// Renewal and boot.
	again := o.renewal(o.connect(), own)
	again.document.ModuleID = moduleA
	_, err = again.run()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
	wantRefusal(t, o.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
	// The deny-list.
	d := o.denyList()
	if d.Certificate(own.leaf) == "" || d.Certificate(other.leaf) != "" || len(d.Serials) != 1 {
		t.Errorf("the deny-list has %d serials", len(d.Serials))
	}
	// Others are left alone.
	must(t, o.tryBoot(moduleB))
	if bystander.asked() != 0 {
		t.Error("somebody else was asked to attest again")
	}
	// After a restart.
	o.restart()
	wantRefusal(t, o.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
	if _, err := o.watch(own.certificate()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a watch after a restart: %v", err)
	}
	eventually(t, "the deny-list is published again", func() bool {
		_, err := o.agents().GetDenyList(context.Background(), &assayv1.GetDenyListRequest{})
		return err == nil
	})
	if o.denyList().Certificate(own.leaf) == "" {
		t.Error("the deny-list forgot it")
	}
	// Lifted, it is as if it had not been.
	_, err = o.agents().Unban(t.Context(), &assayv1.UnbanRequest{Id: r.GetBan().GetId(), Reason: "it was found"})
	must(t, err)
	must(t, o.tryBoot(moduleA))
	if _, err := o.watch(own.certificate()); err != nil {
		t.Errorf("the SVID of before: %v", err)
	}
	if d := o.denyList(); len(d.Serials) != 0 {
		t.Errorf("the deny-list still has %d serials", len(d.Serials))
	}
	if _, err := o.agents().Unban(t.Context(), &assayv1.UnbanRequest{Id: r.GetBan().GetId(), Reason: "again"}); status.Code(err) != codes.NotFound {
		t.Errorf("lifting it again: %v", err)
	}
}

func TestWhoIsBannedIsToldWhatEveryDenialSays(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	a.launch.Debug = true
	_, byPolicy := a.run()
	o.ban(ofInstance(moduleA))
	byBan := o.tryBoot(moduleA)
	text := func(err error) string {
		return referenceText.ReplaceAllString(fmt.Sprint(err, denied(t, err)), "REF")
	}
	// Protobuf's text form varies its spaces on purpose.
	if x, y := strings.Join(strings.Fields(text(byPolicy)), " "), strings.Join(strings.Fields(text(byBan)), " "); x != y {
		t.Errorf("policy says\n%s\na ban says\n%s", x, y)
	}
	// The operator sees why.
	e, err := o.admin().GetLedgerEntry(t.Context(), &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: denied(t, byBan).GetReference()}})
	must(t, err)
	if !contains(string(e.GetPayload()), `"reason":"banned"`) || !contains(string(e.GetPayload()), "stolen") {
		t.Errorf("the ledger says %s", e.GetPayload())
	}
}

func TestBansAreByInstanceHardwareClaimsAndName(t *testing.T) {
	pcr0 := fmt.Sprintf("%x", payments().PCRs()[0])
	for name, c := range map[string]struct {
		ban    *assayv1.BanRequest
		spares bool // the other module
	}{
		"the parent instance":      {&assayv1.BanRequest{Who: &assayv1.BanRequest_Hardware{Hardware: "i-0aaaaaaaaaaaaaaaa"}}, true},
		"the module":               {&assayv1.BanRequest{Who: &assayv1.BanRequest_Hardware{Hardware: moduleA}}, true},
		"an image":                 {&assayv1.BanRequest{Who: &assayv1.BanRequest_Expr{Expr: "nitro.pcr0 == '" + pcr0 + "'"}}, false},
		"a claim that is left out": {&assayv1.BanRequest{Who: &assayv1.BanRequest_Expr{Expr: "nitro.pcr9 != '" + pcr0 + "'"}}, false},
		"another image":            {&assayv1.BanRequest{Who: &assayv1.BanRequest_Expr{Expr: "nitro.pcr0 != '" + pcr0 + "' && nitro.pcr3 != ''.contains('x')"}}, false},
		"a SPIFFE ID":              {&assayv1.BanRequest{Who: &assayv1.BanRequest_SpiffeId{SpiffeId: paymentsID}}, false},
	} {
		if name == "another image" {
			c.ban.Who = &assayv1.BanRequest_Expr{Expr: "nitro.pcr0 != '" + pcr0 + "'"}
		}
		t.Run(name, func(t *testing.T) {
			o := open(t)
			own := o.agentOf(payments(), moduleA)
			other := o.agentOf(payments(), moduleB)
			dry := o.ban(&assayv1.BanRequest{Who: c.ban.Who, DryRun: true})
			must(t, o.tryBoot(moduleA)) // it changed nothing
			r := o.ban(c.ban)
			if name == "another image" {
				must(t, o.tryBoot(moduleA))
				if len(r.GetInstances()) != 0 || len(o.denyList().Serials) != 0 {
					t.Errorf("it hits %v", r)
				}
				return
			}
			if !slices.Equal(dry.GetInstances(), r.GetInstances()) && len(dry.GetInstances()) != len(r.GetInstances()) {
				t.Errorf("dry %v, then %v", dry.GetInstances(), r.GetInstances())
			}
			wantRefusal(t, o.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
			if _, err := o.watch(own.certificate()); status.Code(err) != codes.Unauthenticated {
				t.Errorf("its SVID: %v", err)
			}
			d := o.denyList()
			if d.Certificate(own.leaf) == "" || (d.Certificate(other.leaf) == "") != c.spares {
				t.Errorf("deny-list: its own %q, another's %q", d.Certificate(own.leaf), d.Certificate(other.leaf))
			}
			err := o.tryBoot(moduleB)
			if c.spares {
				must(t, err)
			} else {
				wantRefusal(t, err, codes.PermissionDenied, attest.Denied, "policy")
			}
		})
	}
}

func TestABanEndsByItsDate(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	r := ofInstance(moduleA)
	r.UntilUnixMs = o.clock.Now().Add(2 * time.Minute).UnixMilli()
	o.ban(r)
	wantRefusal(t, o.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
	o.clock.Advance(3 * time.Minute) // evidence is of the real clock, and good for five
	must(t, o.tryBoot(moduleA))
	if _, err := o.watch(own.certificate()); err != nil {
		t.Errorf("the SVID of before: %v", err)
	}
	bans, err := o.agents().ListBans(t.Context(), &assayv1.ListBansRequest{})
	must(t, err)
	if len(bans.GetBans()) != 0 {
		t.Errorf("what has ended is listed: %v", bans)
	}
}

func TestWhatIsNoBanIsRefused(t *testing.T) {
	o := open(t)
	long := strings.Repeat("x", 5000)
	for name, r := range map[string]*assayv1.BanRequest{
		"nobody":                   {Reason: "r"},
		"no reason":                {Reason: " ", Who: ofInstance(moduleA).GetWho()},
		"a reason that is a book":  {Reason: long, Who: ofInstance(moduleA).GetWho()},
		"an instance without name": {Reason: "r", Who: &assayv1.BanRequest_Instance{Instance: "aws-nitro:"}},
		"another platform":         {Reason: "r", Who: &assayv1.BanRequest_Instance{Instance: "abacus:1"}},
		"hardware of zeros":        {Reason: "r", Who: &assayv1.BanRequest_Hardware{Hardware: strings.Repeat("0", 128)}},
		"hardware of one byte":     {Reason: "r", Who: &assayv1.BanRequest_Hardware{Hardware: "aa"}},
		"no expression":            {Reason: "r", Who: &assayv1.BanRequest_Expr{Expr: "nitro.pcr0 =="}},
		"everybody":                {Reason: "r", Who: &assayv1.BanRequest_Expr{Expr: "true"}},
		"a value that is a book":   {Reason: "r", Who: &assayv1.BanRequest_Expr{Expr: long}},
		"another trust domain":     {Reason: "r", Who: &assayv1.BanRequest_SpiffeId{SpiffeId: "spiffe://other.example.org/x"}},
		"the trust domain":         {Reason: "r", Who: &assayv1.BanRequest_SpiffeId{SpiffeId: "spiffe://" + trustDomain}},
		"a ban of yesterday":       {Reason: "r", Who: ofInstance(moduleA).GetWho(), UntilUnixMs: 1},
	} {
		if _, err := o.agents().Ban(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	bans, err := o.agents().ListBans(t.Context(), &assayv1.ListBansRequest{})
	must(t, err)
	if len(bans.GetBans()) != 0 {
		t.Errorf("some stand: %v", bans)
	}
	o.ban(ofInstance(moduleA))
	again := ofInstance(moduleA)
	again.Reason = "again"
	if _, err := o.agents().Ban(t.Context(), again); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same again: %v", err)
	}
}

func TestARevokedSVIDIsTakenBackAndItsHolderAttestsAsAtBoot(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	w, err := o.watch(own.certificate())
	must(t, err)
	serial := fmt.Sprintf("%032x", own.leaf.SerialNumber)
	for name, r := range map[string]*assayv1.RevokeSVIDsRequest{
		"one that is not on record": {Serials: []string{serial, strings.Repeat("ab", 16)}, Reason: "r"},
		"an ID that nobody has":     {SpiffeId: paymentsID + "x", Reason: "r"},
	} {
		if _, err := o.agents().RevokeSVIDs(t.Context(), r); status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]*assayv1.RevokeSVIDsRequest{
		"no reason": {Serials: []string{serial}}, "nothing": {Reason: "r"}, "both": {Serials: []string{serial}, SpiffeId: paymentsID, Reason: "r"},
	} {
		if _, err := o.agents().RevokeSVIDs(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(o.denyList().Serials) != 0 {
		t.Error("some were revoked all the same")
	}
	out, err := o.agents().RevokeSVIDs(t.Context(), &assayv1.RevokeSVIDsRequest{Serials: []string{strings.ToUpper(serial)}, Reason: "the key leaked"})
	must(t, err)
	if out.GetRevoked() != 1 {
		t.Errorf("%d were revoked", out.GetRevoked())
	}
	var told *assayv1.Reattest
	for told == nil {
		e, err := w.Recv()
		must(t, err)
		told = e.GetReattest()
	}
	if told.GetReason() != assayv1.Reattest_REASON_OPERATOR {
		t.Errorf("the watch heard %v", told)
	}
	r := o.renewal(o.connect(), own)
	r.document.ModuleID = moduleA
	_, err = r.run()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
	next := o.agentOf(payments(), moduleA)
	if _, err := o.watch(next.certificate()); err != nil {
		t.Errorf("the next one: %v", err)
	}
	d := o.denyList()
	if d.Certificate(own.leaf) != "serial" || d.Certificate(next.leaf) != "" {
		t.Errorf("the deny-list: %q, %q", d.Certificate(own.leaf), d.Certificate(next.leaf))
	}
	if !slices.Contains(d.Keys, sha256Of(own.leaf.RawSubjectPublicKeyInfo)) {
		t.Error("the deny-list lacks its key")
	}
	all, err := o.agents().RevokeSVIDs(t.Context(), &assayv1.RevokeSVIDsRequest{SpiffeId: paymentsID, Reason: "all of it"})
	must(t, err)
	if all.GetRevoked() != 1 { // the first one is already
		t.Errorf("%d more were revoked", all.GetRevoked())
	}
	// When they have ended they leave the list, and a new one comes in time.
	o.clock.Advance(61 * time.Minute)
	eventually(t, "what has ended leaves the list", func() bool {
		r, err := o.agents().GetDenyList(context.Background(), &assayv1.GetDenyListRequest{})
		must(t, err)
		d, err := svid.ParseDenyList(r.GetDenyList(), o.verifierRoot(), o.td(), o.clock.Now())
		return err == nil && len(d.Serials) == 0
	})
}

func TestTheBundleBringsTheDenyListToThoseWhoWatch(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	eventually(t, "there is a deny-list", func() bool {
		_, err := o.agents().GetDenyList(context.Background(), &assayv1.GetDenyListRequest{})
		return err == nil
	})
	before := o.denyList().Sequence
	w, err := o.watch(own.certificate())
	must(t, err)
	o.ban(ofInstance(moduleB))
	o.agentOf(payments(), "i-0cccccccccccccccc-enc0123456789abcdef")
	_, err = o.agents().RevokeSVIDs(t.Context(), &assayv1.RevokeSVIDsRequest{SpiffeId: reportsID, Reason: "r"})
	if status.Code(err) != codes.NotFound {
		must(t, err)
	}
	other := o.agentOf(payments(), "i-0dddddddddddddddd-enc0123456789abcdef")
	_, err = o.agents().RevokeSVIDs(t.Context(), &assayv1.RevokeSVIDsRequest{Serials: []string{fmt.Sprintf("%032x", other.leaf.SerialNumber)}, Reason: "r"})
	must(t, err)
	for {
		e, err := w.Recv()
		must(t, err)
		doc := e.GetBundle().GetDenyList()
		if doc == nil {
			continue
		}
		d, err := svid.ParseDenyList(doc, o.verifierRoot(), o.td(), o.clock.Now())
		must(t, err)
		if d.Sequence > before && d.Certificate(other.leaf) != "" {
			return
		}
	}
}

func TestAgentsAndSVIDsAreListed(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	o.agentOf(payments(), moduleB)
	listen := o.listen(own)
	defer func() { _ = listen.asked() }()
	o.ban(ofInstance(moduleB))
	list := func(r *assayv1.ListAgentsRequest) (out []*assayv1.Agent) {
		t.Helper()
		s, err := o.agents().ListAgents(t.Context(), r)
		must(t, err)
		for {
			a, err := s.Recv()
			if err != nil {
				if status.Code(err) != codes.OK && !errors.Is(err, context.Canceled) && err.Error() != "EOF" {
					t.Error(err)
				}
				return out
			}
			out = append(out, a)
		}
	}
	all := list(&assayv1.ListAgentsRequest{})
	if len(all) != 2 || all[0].GetInstance() != "aws-nitro:"+moduleB || all[0].GetBan() == "" || all[0].GetWatching() || all[1].GetBan() != "" || !all[1].GetWatching() {
		t.Fatalf("got %v", all)
	}
	a := all[1]
	if a.GetTee() != "aws-nitro" || !slices.Equal(a.GetSpiffeIds(), []string{paymentsID}) || a.GetAttestations() != 1 || !a.GetSimulated() || a.GetPolicy() != "test@1" || a.GetNotAfterUnixMs() == 0 {
		t.Errorf("got %v", a)
	}
	for name, c := range map[string]struct {
		r    *assayv1.ListAgentsRequest
		want int
	}{
		"live": {&assayv1.ListAgentsRequest{Live: true}, 2}, "banned": {&assayv1.ListAgentsRequest{Banned: true}, 1}, "one": {&assayv1.ListAgentsRequest{Limit: 1}, 1},
		"of a platform": {&assayv1.ListAgentsRequest{Tee: "tpm2"}, 0}, "of an ID": {&assayv1.ListAgentsRequest{SpiffeId: paymentsID}, 2}, "of another": {&assayv1.ListAgentsRequest{SpiffeId: reportsID}, 0},
	} {
		if got := list(c.r); len(got) != c.want {
			t.Errorf("%s: %d, want %d", name, len(got), c.want)
		}
	}
	got, err := o.agents().GetAgent(t.Context(), &assayv1.GetAgentRequest{Instance: "aws-nitro:" + moduleA})
	must(t, err)
	if len(got.GetSvids()) != 1 || got.GetSvids()[0].GetSerial() != fmt.Sprintf("%032x", own.leaf.SerialNumber) || !contains(string(got.GetEntry()), moduleA) {
		t.Errorf("got %v", got)
	}
	for _, none := range []string{"aws-nitro:i-nobody", "", "' OR 1=1"} {
		if _, err := o.agents().GetAgent(t.Context(), &assayv1.GetAgentRequest{Instance: none}); status.Code(err) != codes.NotFound && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", none, err)
		}
	}
	svids, err := o.agents().ListSVIDs(t.Context(), &assayv1.ListSVIDsRequest{Live: true})
	must(t, err)
	revoked := 0
	for {
		s, err := svids.Recv()
		if err != nil {
			break
		}
		if s.GetRevoked() {
			revoked++
		}
	}
	if revoked != 1 {
		t.Errorf("%d are revoked, want the banned one", revoked)
	}
}

// The database is gone: nobody is served whose ban could not be known.
func TestWhereBansCannotBeReadNobodyIsServed(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	if _, err := o.watch(own.certificate()); err != nil {
		t.Fatal(err)
	}
	o.server.ForgetBansForTest()
	if _, err := o.watch(own.certificate()); status.Code(err) != codes.Unavailable {
		t.Errorf("a watch: %v", err)
	}
	wantRefusal(t, o.tryBoot(moduleA), codes.Unavailable, attest.Unavailable, "bans")
	s, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	if !contains(strings.Join(s.GetWarnings(), "\n"), "nobody is served") {
		t.Errorf("warnings %v", s.GetWarnings())
	}
	o.server.BansChanged()
	eventually(t, "they are read again", func() bool { return o.tryBoot(moduleA) == nil })
}

// What was acknowledged survives kill -9.
func TestAnAcknowledgedBanSurvivesAKill(t *testing.T) {
	p := assayd(t)
	p.cfg.DataDir = p.data()
	p.start()
	eventually(t, "it serves", func() bool { return status.Code(p.tryBoot(moduleB)) == codes.OK })
	own := p.agentOf(payments(), moduleA)
	r := p.ban(ofInstance(moduleA))
	p.kill()
	p.start()
	eventually(t, "it serves", func() bool { return status.Code(p.tryBoot(moduleB)) == codes.OK })
	wantRefusal(t, p.tryBoot(moduleA), codes.PermissionDenied, attest.Denied, "policy")
	eventually(t, "the deny-list names it", func() bool {
		_, err := p.agents().GetDenyList(context.Background(), &assayv1.GetDenyListRequest{})
		return err == nil && p.denyList().Certificate(own.leaf) != ""
	})
	bans, err := p.agents().ListBans(t.Context(), &assayv1.ListBansRequest{})
	must(t, err)
	if len(bans.GetBans()) != 1 || bans.GetBans()[0].GetId() != r.GetBan().GetId() || bans.GetBans()[0].GetReason() != "stolen" {
		t.Errorf("bans %v", bans)
	}
	_, err = p.agents().Unban(t.Context(), &assayv1.UnbanRequest{Id: r.GetBan().GetId(), Reason: "r"})
	must(t, err)
	p.kill()
	p.start()
	eventually(t, "it serves", func() bool { return status.Code(p.tryBoot(moduleB)) == codes.OK })
	must(t, p.tryBoot(moduleA))
	p.stop()
}

func TestABanThatCannotBeReadHitsEverybody(t *testing.T) {
	o := open(t)
	o.write(fmt.Sprintf(`INSERT INTO bans (trust_domain, ban, kind, value, reason, actor, since, until, lifted_at, lifted_by, lift_reason)
		VALUES ('%s', 'ban-0', 'expr', 'nitro.pcr0 == of_a_later_version()', 'r', 'a', 1, 0, 0, '', '')`, trustDomain))
	o.server.BansChanged()
	eventually(t, "it is read", func() bool { return status.Code(o.tryBoot(moduleA)) == codes.PermissionDenied })
	s, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	if !contains(strings.Join(s.GetWarnings(), "\n"), "ban-0") {
		t.Errorf("warnings %v", s.GetWarnings())
	}
	_, err = o.agents().Unban(t.Context(), &assayv1.UnbanRequest{Id: "ban-0", Reason: "r"})
	must(t, err)
	must(t, o.tryBoot(moduleA))
}

func sha256Of(b []byte) [32]byte { return sha256.Sum256(b) }

func (o *office) td() spiffeid.TrustDomain {
	return spiffeid.RequireTrustDomainFromString(o.domain())
}

package issuer_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/svid"
)

func serialNumber(h identity) string { return fmt.Sprintf("%032x", h.leaf.SerialNumber) }

func TestARevocationThatComesBeforeARenewalIsSignedIsInTime(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	revoke := func() {
		_, err := o.agents().RevokeSVIDs(context.Background(), &assayv1.RevokeSVIDsRequest{Serials: []string{serialNumber(own)}, Reason: "leaked"})
		must(t, err)
	}
	o.clock.recording.Store(&revoke)
	again := o.renewal(o.connect(), own)
	again.document.ModuleID = moduleA
	_, err := again.run()
	if o.clock.recording.Load() != nil {
		t.Fatal("the revocation did not come in between")
	}
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
	// It is on record, and was never signed.
	granted := o.list(&assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED})
	unsigned := 0
	for _, g := range granted {
		e, err := ledger.ParseEntry(g.GetPayload())
		must(t, err)
		if _, err := o.ledger.Certificate(t.Context(), e.Identities[0].Serial); err != nil {
			unsigned++
		}
	}
	if len(granted) != 2 || unsigned != 1 {
		t.Errorf("%d issuances on record, %d of them unsigned; want 2 and 1", len(granted), unsigned)
	}
	// As at boot it gets another.
	must(t, o.tryBoot(moduleA))
}

// An entry that cannot be read hides neither itself nor the others from a ban.
func TestADamagedEntryHidesNobodyFromTheDenyList(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	other := o.agentOf(payments(), moduleB)
	o.write(fmt.Sprintf(`INSERT INTO identities (trust_domain, serial, chain, sequence, position, spiffe_id, key_thumbprint, not_after)
		SELECT i.trust_domain, '%032x', i.chain, i.sequence, -1, i.spiffe_id, randomblob(32), i.not_after FROM identities i WHERE i.serial = '%s'`, 1, serialNumber(other)))
	o.ban(&assayv1.BanRequest{Who: &assayv1.BanRequest_Hardware{Hardware: moduleA}})
	d := o.denyList()
	if d.Certificate(own.leaf) == "" {
		t.Error("the banned SVID is not in the deny-list, because of another's damaged row")
	}
	if !d.Serial([16]byte{15: 1}) {
		t.Error("what the ledger cannot vouch for is not in the deny-list")
	}
	if d.Certificate(other.leaf) != "" {
		t.Error("a sound entry of an innocent is")
	}
}

// Who is banned is limited as everybody is: otherwise he could tell.
func TestWhoIsBannedAttestsNoMoreOftenThanOthers(t *testing.T) {
	o := open(t, func(c *config.Config) { c.Limits.AttestationsPerInstance = 2 })
	o.ban(ofInstance(moduleA))
	o.replacePolicy(edited(t, policyText(2), "mode: enforce", "mode: audit")) // nobody is granted anything
	for i := range 4 {
		banned, denied := status.Code(o.tryBoot(moduleA)), status.Code(o.tryBoot(moduleB))
		want := codes.PermissionDenied
		if i >= 2 {
			want = codes.Unavailable
		}
		if banned != want || denied != want {
			t.Errorf("attempt %d: banned: %v, not granted: %v, want %v", i+1, banned, denied, want)
		}
	}
}

// asIfIssued has an instance hold so many SVIDs more, as if it had attested at several
// servers as often as it may.
func (o *office) asIfIssued(own identity, n int) {
	o.t.Helper()
	must(o.t, o.stop())
	o.write(fmt.Sprintf(`WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < %d)
		INSERT INTO identities (trust_domain, serial, chain, sequence, position, spiffe_id, key_thumbprint, not_after)
		SELECT i.trust_domain, printf('%%032x', n.x), i.chain, i.sequence, n.x, i.spiffe_id, randomblob(32), i.not_after FROM identities i, n WHERE i.serial = '%s'`, n, serialNumber(own)))
	o.start()
}

// A ban is the operator's answer to one rogue: it must not be what stops everybody.
func TestABanThatTheDenyListHasNoRoomForNeedsForce(t *testing.T) {
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	o.asIfIssued(own, 17_000)
	ask := func(dry, force bool) (*assayv1.BanResponse, error) {
		r := ofInstance(moduleA)
		r.Reason, r.DryRun, r.Force = "rogue", dry, force
		return o.agents().Ban(t.Context(), r)
	}
	follows := func() error {
		list, err := svid.NewDenyList(o.td(), o.verifierRoot())
		must(t, err)
		g, err := o.agents().GetDenyList(t.Context(), &assayv1.GetDenyListRequest{})
		must(t, err)
		must(t, list.Update(g.GetDenyList(), o.clock.Now()))
		_, err = list.Denials(o.clock.Now())
		return err
	}
	want := uint64(17_001 - svid.DenyListRoom(0))
	if r, err := ask(true, false); err != nil || r.GetOmitted() != want || r.GetSvids() != 17_001 {
		t.Errorf("a dry run: %v omitted, want %d; %v", r.GetOmitted(), want, err)
	}
	if _, err := ask(false, false); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the ban: %v", err)
	}
	_, err := o.agents().RevokeSVIDs(t.Context(), &assayv1.RevokeSVIDsRequest{SpiffeId: own.leaf.URIs[0].String(), Reason: "rogue"})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a revocation of all: %v", err)
	}
	if err := follows(); err != nil || len(o.denyList().Serials) != 0 {
		t.Errorf("what was refused is in the deny-list: %v", err)
	}
	must(t, o.tryBoot(moduleA)) // and it does not stand
	// Who insists gets what was said.
	if _, err := ask(false, true); err != nil {
		t.Error(err)
	}
	if err := follows(); err == nil {
		t.Error("a list that names some of the banned speaks for others")
	}
	// And when they have ended it is good again.
	o.clock.Advance(2 * time.Hour)
	o.server.BansChanged()
	eventually(t, "the list is good again", func() bool {
		d, err := svid.ParseDenyList(func() []byte { doc, _, _, _ := o.server.DenyList(); return doc }(), o.verifierRoot(), o.td(), o.clock.Now())
		return err == nil && d.Omitted == 0
	})
}

// Two servers whose clocks differ do not sign against each other.
func TestServersWhoseClocksDifferShareOneDenyList(t *testing.T) {
	o := open(t)
	second := o.second(2 * time.Second)
	own := o.agentOf(payments(), moduleA)
	o.ban(ofInstance(moduleA))
	if o.denyList().Certificate(own.leaf) == "" {
		t.Fatal("it is not denied")
	}
	newest := func() uint64 {
		_, a, _, _ := o.server.DenyList()
		_, b, _, _ := second.DenyList()
		return max(a, b)
	}
	// Ended by the second's clock, and not by the first's.
	o.clock.Advance(own.leaf.NotAfter.Sub(o.clock.Now()) - time.Second)
	lists, last := 0, newest()
	for start := time.Now(); time.Since(start) < time.Second; time.Sleep(2 * time.Millisecond) {
		o.server.BansChanged() // as the database tells both of each new list
		second.BansChanged()
		if n := newest(); n != last {
			last = n
			lists++
		}
	}
	// The list expired too: each may sign one, and the first server adds what the
	// second's did not name.
	if lists > 4 {
		t.Errorf("%d new lists in a second, while one SVID ended", lists)
	}
	if o.denyList().Certificate(own.leaf) == "" {
		t.Error("the first server's clock says that it is alive, and its list does not name it")
	}
}

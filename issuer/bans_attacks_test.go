package issuer_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"

	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
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

package issuer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
)

// facts are what there is to know of a trust domain, from its own side.
type facts struct {
	reference, serial, instance, spiffeID, authority, ban string
	agentCursor, svidCursor                               string
	evidence, policy, denied                              []byte
}

func (h *house) facts(name string) facts {
	h.t.Helper()
	ctx, conn := h.t.Context(), h.socket(name)
	o := h.office(name)
	issued, err := o.attempt(o.connect()).run()
	must(h.t, err)
	f := facts{reference: issued.GetReference(), serial: serialOf(h.t, issued.GetSvids()[0].GetChain()[0]), spiffeID: issued.GetSvids()[0].GetSpiffeId()}
	admin, agents := assayv1.NewAdminClient(conn), assayv1.NewAgentsClient(conn)
	e, err := admin.GetLedgerEntry(ctx, &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: f.reference}})
	must(h.t, err)
	entry, err := ledger.ParseEntry(e.GetPayload())
	must(h.t, err)
	f.evidence = entry.EvidenceDigest
	st, err := admin.Status(ctx, &assayv1.StatusRequest{})
	must(h.t, err)
	f.policy = st.GetPolicyDigest()
	list, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{})
	must(h.t, err)
	agent, err := list.Recv()
	must(h.t, err)
	f.instance, f.agentCursor = agent.GetInstance(), agent.GetCursor()
	svids, err := agents.ListSVIDs(ctx, &assayv1.ListSVIDsRequest{})
	must(h.t, err)
	held, err := svids.Recv()
	must(h.t, err)
	f.svidCursor = held.GetCursor()
	digest := sha256.Sum256([]byte("a policy of " + name))
	f.denied = digest[:]
	_, err = agents.DenyPolicy(ctx, &assayv1.DenyPolicyRequest{Digest: f.denied, Reason: "a secret of " + name})
	must(h.t, err)
	ban, err := agents.Ban(ctx, &assayv1.BanRequest{Who: &assayv1.BanRequest_SpiffeId{SpiffeId: "spiffe://" + name + "/nobody"}, Reason: "a secret of " + name})
	must(h.t, err)
	f.ban = ban.GetBan().GetId()
	authorities, err := assayv1.NewAuthoritiesClient(conn).ListAuthorities(ctx, &assayv1.ListAuthoritiesRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509})
	must(h.t, err)
	f.authority = authorities.GetAuthorities()[0].GetId()
	return f
}

// hexOf is another string of the same form: digits that nobody has.
func hexOf(n int) string { return strings.Repeat("5e", n) }

// everything is what an administrator can read of a trust domain.
func (h *house) everything(name string) string {
	h.t.Helper()
	ctx, conn := h.t.Context(), h.socket(name)
	var b bytes.Buffer
	add := func(m any, err error) error {
		if err == nil {
			fmt.Fprintln(&b, m)
		}
		return err
	}
	admin, agents := assayv1.NewAdminClient(conn), assayv1.NewAgentsClient(conn)
	entries, err := admin.ListLedger(ctx, &assayv1.ListLedgerRequest{})
	must(h.t, err)
	for add(entries.Recv()) == nil {
	}
	records, err := admin.ListRecords(ctx, &assayv1.ListRecordsRequest{})
	must(h.t, err)
	for add(records.Recv()) == nil {
	}
	who, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{})
	must(h.t, err)
	for add(who.Recv()) == nil {
	}
	svids, err := agents.ListSVIDs(ctx, &assayv1.ListSVIDsRequest{})
	must(h.t, err)
	for add(svids.Recv()) == nil {
	}
	notes, err := admin.ListCheckpoints(ctx, &assayv1.ListCheckpointsRequest{})
	must(h.t, err)
	for add(notes.Recv()) == nil {
	}
	changes, err := admin.ListPolicyChanges(ctx, &assayv1.ListPolicyChangesRequest{})
	must(h.t, err)
	for add(changes.Recv()) == nil {
	}
	must(h.t, add(admin.Status(ctx, &assayv1.StatusRequest{})))
	must(h.t, add(admin.GetBundle(ctx, &assayv1.GetBundleRequest{})))
	must(h.t, add(agents.ListBans(ctx, &assayv1.ListBansRequest{})))
	denied, err := agents.ListDeniedPolicies(ctx, &assayv1.ListDeniedPoliciesRequest{})
	must(h.t, err)
	for _, p := range denied.GetPolicies() {
		must(h.t, add(hex.EncodeToString(p.GetDigest())+" "+p.GetReason(), nil))
	}
	must(h.t, add(assayv1.NewAuthoritiesClient(conn).ListAuthorities(ctx, &assayv1.ListAuthoritiesRequest{})))
	must(h.t, add(assayv1.NewFederationsClient(conn).ListFederations(ctx, &assayv1.ListFederationsRequest{})))
	return b.String()
}

// isolation is every attempt of one tenant's administrator on another's.
func isolation(t *testing.T, h *house) {
	t.Helper()
	mine, theirs := h.facts(first), h.facts(second)
	ctx, conn := t.Context(), h.socket(first)
	admin, agents := assayv1.NewAdminClient(conn), assayv1.NewAgentsClient(conn)
	authorities, federations := assayv1.NewAuthoritiesClient(conn), assayv1.NewFederationsClient(conn)

	// What one can read holds nothing of the other, by no list and by no probing.
	all := h.everything(first)
	for what, secret := range map[string]string{
		"trust domain": second, "reference": theirs.reference, "serial": theirs.serial, "authority": theirs.authority, "ban": theirs.ban,
		"policy": string(theirs.policy), "evidence": string(theirs.evidence), "denied policy": hex.EncodeToString(theirs.denied),
	} {
		if strings.Contains(all, secret) {
			t.Errorf("the %s of the other is in what one can read", what)
		}
	}
	for what, own := range map[string]string{"reference": mine.reference, "serial": mine.serial, "authority": mine.authority, "ban": mine.ban, "denied policy": hex.EncodeToString(mine.denied)} {
		if !strings.Contains(all, own) {
			t.Errorf("one's own %s is not: the test shows nothing", what)
		}
	}
	before := h.everything(second)

	raw := func(s string) []byte { b, err := hex.DecodeString(s); must(t, err); return b }
	drain := func(recv func() (any, error)) error {
		n := 0
		for {
			if _, err := recv(); errors.Is(err, io.EOF) {
				if n == 0 {
					return status.Error(codes.NotFound, "nothing")
				}
				return nil
			} else if err != nil {
				return err
			}
			n++
		}
	}
	// Each guess is made with the other's value, and with one that nobody has: it
	// must fail, and in the very same way.
	for name, g := range map[string]struct {
		real, none string
		try        func(value string) error
	}{
		"ledger entry": {theirs.reference, "as-aaaaaaaaaa", func(v string) error {
			_, err := admin.GetLedgerEntry(ctx, &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: v}})
			return err
		}},
		"evidence": {hex.EncodeToString(theirs.evidence), hexOf(32), func(v string) error {
			_, err := admin.GetEvidence(ctx, &assayv1.GetEvidenceRequest{Digest: raw(v)})
			return err
		}},
		"policy": {hex.EncodeToString(theirs.policy), hexOf(32), func(v string) error {
			_, err := admin.GetPolicy(ctx, &assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Digest{Digest: raw(v)}})
			return err
		}},
		"SVIDs of an identity": {theirs.spiffeID, "spiffe://" + second + "/nobody/at/all", func(v string) error {
			s, err := agents.ListSVIDs(ctx, &assayv1.ListSVIDsRequest{SpiffeId: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"agents of an identity": {theirs.spiffeID, "spiffe://" + second + "/nobody/at/all", func(v string) error {
			s, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{SpiffeId: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"ledger of an identity": {theirs.spiffeID, "spiffe://" + second + "/nobody/at/all", func(v string) error {
			s, err := admin.ListLedger(ctx, &assayv1.ListLedgerRequest{SpiffeId: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"ban": {theirs.ban, "ban-" + hexOf(8), func(v string) error {
			_, err := agents.Unban(ctx, &assayv1.UnbanRequest{Id: v, Reason: "try"})
			return err
		}},
		"denied policy": {hex.EncodeToString(theirs.denied), hexOf(32), func(v string) error {
			_, err := agents.LiftPolicy(ctx, &assayv1.LiftPolicyRequest{Digest: raw(v), Reason: "try"})
			return err
		}},
		"agents from a cursor on": {theirs.agentCursor, "bm9ib2R5", func(v string) error {
			s, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{Cursor: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"SVIDs from a cursor on": {theirs.svidCursor, "bm9ib2R5", func(v string) error {
			s, err := agents.ListSVIDs(ctx, &assayv1.ListSVIDsRequest{Cursor: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"activating an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.ActivateAuthority(ctx, &assayv1.ActivateAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: v})
			return err
		}},
		"tainting an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.TaintAuthority(ctx, &assayv1.TaintAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: v, Reason: "try", Force: true})
			return err
		}},
		"revoking an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.RevokeAuthority(ctx, &assayv1.RevokeAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: v, Reason: "try"})
			return err
		}},
		"request of an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.GetAuthorityCSR(ctx, &assayv1.GetAuthorityCSRRequest{Id: v})
			return err
		}},
		"federation": {second, "simulated.nobody.example", func(v string) error {
			_, err := federations.DeleteFederation(ctx, &assayv1.DeleteFederationRequest{TrustDomain: v})
			return err
		}},
		"policy for another trust domain": {policyOf(second, 99), policyOf("simulated.nobody.example", 99), func(v string) error {
			_, err := admin.PushPolicy(ctx, &assayv1.PushPolicyRequest{Document: []byte(v)})
			if err == nil {
				return nil
			}
			m := regexp.MustCompile(`simulated\.[a-z]+\.example`).ReplaceAllString(err.Error(), "TD") // one's own, and what was sent
			return status.Error(status.Code(err), m)
		}},
	} {
		got, none := g.try(g.real), g.try(g.none)
		if got == nil {
			t.Errorf("%s: the other's was found", name)
			continue
		}
		if none == nil {
			t.Errorf("%s: nobody's was found: the test shows nothing", name)
			continue
		}
		x, y := strings.ReplaceAll(got.Error(), g.real, "…"), strings.ReplaceAll(none.Error(), g.none, "…")
		if status.Code(got) != status.Code(none) || x != y {
			t.Errorf("%s: the answers tell whether it is the other's:\n%s\n%s", name, x, y)
		}
	}
	// A serial of another's can be revoked only on one's own list, as any number can.
	a, errA := agents.RevokeSVIDs(ctx, &assayv1.RevokeSVIDsRequest{Serials: []string{theirs.serial}, Reason: "try"})
	b, errB := agents.RevokeSVIDs(ctx, &assayv1.RevokeSVIDsRequest{Serials: []string{hexOf(16)}, Reason: "try"})
	if status.Code(errA) != status.Code(errB) || a.GetRevoked() != b.GetRevoked() {
		t.Errorf("revoking tells: %v %v, %v %v", a, errA, b, errB)
	}
	// A ban of the machine they share is each one's own.
	if _, err := agents.Ban(ctx, &assayv1.BanRequest{Who: &assayv1.BanRequest_Instance{Instance: theirs.instance}, Reason: "try"}); err != nil {
		t.Errorf("a ban in one's own trust domain: %v", err)
	}
	if _, err := authorities.PrepareAuthority(ctx, &assayv1.PrepareAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509}); err != nil {
		t.Errorf("an authority of one's own: %v", err)
	}

	// Nothing of it changed anything of the other's …
	o := h.office(second)
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("the other's agents: %v", err)
	}
	same := func(s string) string { // what one's own reading and the attestation just now add
		var kept []string
		for line := range strings.Lines(s) {
			if strings.Contains(line, "serial") || strings.Contains(line, "ban-") || strings.Contains(line, "a secret of") || strings.Contains(line, "authorities:") {
				kept = append(kept, regexp.MustCompile(`\s+`).ReplaceAllString(line, " "))
			}
		}
		return strings.Join(kept, "\n")
	}
	after := same(h.everything(second))
	for line := range strings.Lines(same(before)) {
		if (strings.Contains(line, "ban-") || strings.Contains(line, "a secret of")) && !strings.Contains(after, strings.TrimSpace(line)) {
			t.Errorf("changed in the other: %s", line)
		}
	}
	list, err := assayv1.NewAuthoritiesClient(h.socket(second)).ListAuthorities(ctx, &assayv1.ListAuthoritiesRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509})
	must(t, err)
	for _, x := range list.GetAuthorities() {
		if x.GetState() != assayv1.AuthorityState_AUTHORITY_STATE_ACTIVE {
			t.Errorf("an authority of the other: %v", x)
		}
	}
	if len(list.GetAuthorities()) != 1 {
		t.Errorf("the other has %d authorities", len(list.GetAuthorities()))
	}
	// … but what was done is in one's own.
	x := h.office(first)
	_, err = x.attempt(x.connect()).run()
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("who banned itself attests: %v", err)
	}
}

func TestATenantsAdministratorReadsAndChangesNothingOfAnothers(t *testing.T) {
	h := newHouse(t, []string{first, second})
	h.start(first, second)
	isolation(t, h)
	h.stop()
	// What was tried is on record with who tried it.
	h.verify(first)
	h.verify(second)
}

// Two trust domains in one database are as far apart as in two.
func TestTenantsThatShareADatabaseAreAsFarApart(t *testing.T) {
	cluster := postgrestest.Start(t)
	url := cluster.Database(t)
	h := newHouse(t, []string{first, second}, url, url)
	h.start(first, second)
	isolation(t, h)
	h.stop()
}

package agent

import (
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func TestTheStatusSaysHowTheAgentStandsWithEachTrustDomain(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	third := newFaultyServerIn(t, spiffeid.RequireTrustDomainFromString("simulated.third.example"))
	fourth := newFaultyServerIn(t, spiffeid.RequireTrustDomainFromString("simulated.fourth.example"))
	partner.refuse = func(*assayv1.Hello) *assayv1.Denied {
		return &assayv1.Denied{Kind: "denied", Check: "policy", Reference: "as-denied0001"}
	}
	third.departed(t, 3*time.Hour)
	ours.issue = func(m *assayv1.AttestResponse) { m.GetIssued().Svids[0].Hint = "internal" }
	for _, s := range []*faultyServer{ours, partner, third, fourth} {
		s.start()
	}
	fourth.stop()
	a := severally(t, nil, ours, partner, third, fourth)
	serves(t, a, oursID)
	conn, _ := callAgent(t, a)
	var got *agentv1.Status
	state := func(i int) agentv1.State { return got.GetTrustDomains()[i].GetState() }
	eventually(t, "every trust domain has been tried", func() bool {
		var err error
		got, err = agentv1.NewAgentClient(conn).GetStatus(withHeader(t.Context(), "true"), &agentv1.GetStatusRequest{})
		return err == nil && state(0) == agentv1.State_STATE_SERVING && state(1) == agentv1.State_STATE_NO_IDENTITY && state(2) == agentv1.State_STATE_CLOCK && state(3) == agentv1.State_STATE_NO_IDENTITY
	})
	td := got.GetTrustDomains()
	if got.GetTee() != "aws-nitro" || td[0].GetTrustDomain() != testDomain.Name() || td[0].GetServer() != ours.address || !td[0].GetLast().GetSucceeded() || td[0].GetLast().GetReference() == "" || td[0].GetDenied() ||
		len(td[0].GetIdentities()) != 1 || td[0].GetIdentities()[0].GetSpiffeId() != oursID || td[0].GetIdentities()[0].GetHint() != "internal" {
		t.Errorf("of the one that serves: %v", td[0])
	}
	if next := time.UnixMilli(td[0].GetNextUnixMs()); next.Before(time.Now().Add(10*time.Minute)) || next.After(time.Now().Add(time.Hour)) {
		t.Errorf("the next attestation is due at %s", next)
	}
	if l := td[1].GetLast(); !td[1].GetDenied() || l.GetReference() != "as-denied0001" || l.GetKind() != "denied" || l.GetCheck() != "policy" || l.GetHint() == "" || l.GetMessage() == "" || l.GetSucceeded() {
		t.Errorf("of the one that denies: %v", td[1])
	}
	if ahead := time.Duration(td[2].GetWallClockAheadMs()) * time.Millisecond; ahead > -2*time.Hour || len(td[2].GetIdentities()) != 1 {
		t.Errorf("of the one whose clock departs: %v", td[2])
	}
	if l := td[3].GetLast(); l.GetKind() != "unavailable" || td[3].GetDenied() || len(td[3].GetIdentities()) != 0 {
		t.Errorf("of the one that is away: %v", td[3])
	}
}

func TestTheStatusNamesToACallerWhatItMayHave(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, to call as another user")
	}
	a := selectiveTo(t, &assayv1.Selector{Type: "unix:uid", Value: "12345"})
	s := &agentAPI{agent: a, tee: "aws-nitro", workload: &workloadAPI{held: a.holdings, gate: newGatekeeper(a.cfg.Processes, a.log)}}
	got, err := s.GetStatus(t.Context(), &agentv1.GetStatusRequest{}) // a caller that nobody knows
	if err != nil || len(got.GetTrustDomains()) != 1 || len(got.GetTrustDomains()[0].GetIdentities()) != 0 {
		t.Errorf("a stranger sees %v, %v", got, err)
	}
	conn, _ := callAgent(t, a) // root
	got, err = agentv1.NewAgentClient(conn).GetStatus(withHeader(t.Context(), "true"), &agentv1.GetStatusRequest{})
	if err != nil || len(got.GetTrustDomains()[0].GetIdentities()) != 1 {
		t.Errorf("root sees %v, %v", got, err)
	}
}

func selectiveTo(t *testing.T, sel ...*assayv1.Selector) *Agent {
	t.Helper()
	s := newFaultyServer(t)
	s.issue = forProcesses(0, sel...)
	s.start()
	a, _ := runAgent(t, s.config(t))
	eventually(t, "the agent holds an SVID", func() bool { return a.members[0].state.renewable() != nil })
	return a
}

// Of several identities one has ended, and the agent is asked how it stands.
func TestTheStatusTellsOfIdentitiesThatEnded(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.ids = append(s.ids, oursID+"/lasting")
	s.certify = func(i int, c *x509.Certificate) {
		if i == 0 {
			c.NotAfter = time.Now().Add(6 * time.Second).Truncate(time.Second)
		}
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	serves(t, a, s.ids...)
	s.stop()
	serves(t, a, s.ids[1])
	conn, _ := callAgent(t, a)
	got, err := agentv1.NewAgentClient(conn).GetStatus(withHeader(t.Context(), "true"), &agentv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids := got.GetTrustDomains()[0].GetIdentities()
	if len(ids) != 2 || ids[0].GetSpiffeId() != s.ids[1] || ids[1].GetSpiffeId() != s.ids[0] || ids[1].GetNotAfterUnixMs() > time.Now().UnixMilli() {
		t.Errorf("identities %v", ids)
	}
}

// What was refused before policy decided is in no ledger.
func TestTheHintOfARefusalLeadsToWhereItIsOnRecord(t *testing.T) {
	t.Parallel()
	for kind, want := range map[attest.Kind]string{attest.Denied: "assay ledger show as-1", attest.Untrusted: "the server's log has it under the reference as-1", attest.Unavailable: "the server's log"} {
		var e *attest.Error
		if !errors.As(error(&Refusal{Kind: kind, Check: "x", Reference: "as-1"}), &e) || !strings.Contains(e.Hint, want) {
			t.Errorf("%s: %v, want %q", kind, e, want)
		}
	}
}

package agent_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	agent "github.com/assay-project/assay/enclave-agent"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

// What the real server takes back, and when the agent hears of it.

// logged has the agent's log, too.
func logged(cfg *agent.Config) *safeBuffer {
	b := &safeBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(b, nil))
	return b
}

// current is the serial number that the agent serves now, as the ledger has it.
func current(t *testing.T, cfg agent.Config, i int) string {
	t.Helper()
	x, err := x509Context(cfg)
	if err != nil || len(x.SVIDs) <= i {
		return ""
	}
	return fmt.Sprintf("%032x", x.SVIDs[i].Certificates[0].SerialNumber)
}

func (s *realServer) revoke(t *testing.T, serial string) {
	t.Helper()
	r, err := assayv1.NewAgentsClient(s.admin(t)).RevokeSVIDs(t.Context(), &assayv1.RevokeSVIDsRequest{Serials: []string{serial}, Reason: "an exercise"})
	if err != nil || r.GetRevoked() != 1 {
		t.Fatalf("revoked %d: %v", r.GetRevoked(), err)
	}
}

// renew has the agent renew, so that its watch is not the one of its start.
func (s *realServer) renew(t *testing.T, cfg agent.Config) {
	t.Helper()
	before := current(t, cfg, 0)
	s.reattest(t)
	waitFor(t, "a renewal", func() bool { n := current(t, cfg, 0); return n != "" && n != before })
}

// soon is how long an agent may take to hear of it and attest, on a busy machine.
const soon = 10 * time.Second

// The SVID that the watch showed at first is not the one that is revoked: there was a
// renewal in between.
func TestAnSVIDThatIsRevokedAfterARenewalIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	s := newRealServer(t, ordersID)
	cfg := s.enclave(orders())
	log := logged(&cfg)
	start(t, cfg)
	names(t, cfg, ordersID)
	for range 2 {
		s.renew(t, cfg)
	}
	revoked, began := current(t, cfg, 0), time.Now()
	s.revoke(t, revoked)
	waitFor(t, "another SVID", func() bool { n := current(t, cfg, 0); return n != "" && n != revoked })
	if took := time.Since(began); took > soon {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(log.String(), "REASON_OPERATOR") {
		t.Error("the agent was not told why")
	}
}

// Of two identities the watch shows the one that lasts longer.
func TestARevokedSVIDBesideTheOneThatIsShownIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, strings.Replace(policyText(1, ordersID, adminID), "x509_ttl: 1h", "x509_ttl: 30m", 1))
	cfg := s.enclave(orders())
	start(t, cfg)
	names(t, cfg, ordersID, adminID)
	s.renew(t, cfg)
	revoked, began := current(t, cfg, 0), time.Now()
	s.revoke(t, revoked)
	waitFor(t, "another SVID", func() bool { n := current(t, cfg, 0); return n != "" && n != revoked })
	if took := time.Since(began); took > soon {
		t.Errorf("it took %s", took)
	}
}

// A ban of the one that ends sooner is heard at once, and callers are told.
func TestABanOfTheShorterLivedOfTwoIdentitiesIsHeardAtOnce(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, strings.Replace(tokens(policyText(1, ordersID, adminID)), "x509_ttl: 1h", "x509_ttl: 30m", 1))
	cfg := s.enclave(orders())
	log := logged(&cfg)
	start(t, cfg)
	names(t, cfg, ordersID, adminID)
	s.renew(t, cfg)
	src := jwtSource(t, cfg)
	if _, err := assayv1.NewAgentsClient(s.admin(t)).Ban(t.Context(), &assayv1.BanRequest{
		Who: &assayv1.BanRequest_SpiffeId{SpiffeId: ordersID}, Reason: "an exercise",
	}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	waitFor(t, "the server's word", func() bool { return strings.Contains(log.String(), "REASON_BANNED") })
	waitFor(t, "a denial", func() bool {
		_, err := src.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "reports"})
		return isDenied(err) && strings.Contains(err.Error(), "reference")
	})
	if took := time.Since(began); took > soon {
		t.Errorf("it took %s", took)
	}
}

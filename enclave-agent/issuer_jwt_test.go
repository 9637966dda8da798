package agent_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/svid"
)

// tokens makes the policy grant each of the names tokens for reports; the first
// one for vault as well.
func tokens(policy string) string {
	policy = strings.ReplaceAll(policy, "x509_ttl: 1h", "x509_ttl: 1h, attributes: {team: core}, jwt: {ttl: 5m, audiences: [reports]}")
	return strings.Replace(policy, "audiences: [reports]", "audiences: [reports, vault]", 1)
}

// jwtSource is go-spiffe's source at the agent's socket.
func jwtSource(t testing.TB, cfg agent.Config) *workloadapi.JWTSource {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	src, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+cfg.Socket)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func TestGoSPIFFEFetchesAndValidatesTokensOfARealServer(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, tokens(policyText(1, ordersID, adminID)))
	cfg := s.enclave(orders())
	start(t, cfg)
	x := names(t, cfg, ordersID, adminID)
	ctx := context.Background()
	src := jwtSource(t, cfg)

	// All identities, and one by name.
	all, err := src.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: "reports"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range all {
		got = append(got, v.ID.String())
	}
	if !slices.Equal(got, []string{ordersID, adminID}) {
		t.Errorf("tokens of %v", got)
	}
	admin, err := src.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "reports", Subject: spiffeid.RequireFromString(adminID)})
	if err != nil || admin.ID.String() != adminID {
		t.Fatalf("got %v, %v", admin, err)
	}

	// Only those are granted one for vault that policy says.
	vault, err := src.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: "vault"})
	if err != nil || len(vault) != 1 || vault[0].ID.String() != ordersID {
		t.Errorf("tokens for vault: %v, %v", vault, err)
	}
	for _, p := range []jwtsvid.Params{
		{Audience: "vault", Subject: spiffeid.RequireFromString(adminID)}, {Audience: "elsewhere"},
		{Audience: "reports", ExtraAudiences: []string{"elsewhere"}}, {Audience: "reports", Subject: spiffeid.RequireFromString(ordersID + "/other")},
	} {
		if v, err := src.FetchJWTSVID(ctx, p); status.Code(err) != codes.PermissionDenied && !strings.Contains(errText(err), "PermissionDenied") {
			t.Errorf("%+v: %v, %v", p, v, err)
		}
	}

	// go-spiffe validates them, by the bundle it watches and through the agent.
	v, err := jwtsvid.ParseAndValidate(all[0].Marshal(), src, []string{"reports"})
	if err != nil || v.ID.String() != ordersID {
		t.Errorf("ParseAndValidate: %v", err)
	}
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+cfg.Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if v, err = client.ValidateJWTSVID(ctx, all[0].Marshal(), "reports"); err != nil || v.ID.String() != ordersID {
		t.Errorf("ValidateJWTSVID: %v", err)
	}
	if _, err := client.ValidateJWTSVID(ctx, all[0].Marshal(), "vault"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another audience: %v", err)
	}

	// And package svid sees what was measured.
	a, err := svid.VerifyJWT(all[0].Marshal(), src, "reports", time.Now(), svid.MemberOf(spiffeid.RequireFromString(ordersID).TrustDomain()), svid.Simulated(), svid.Tee(attest.AWSNitro), svid.PCR(0, orders().PCRs()[0]), svid.Attribute("team", "core"), svid.Owned())
	if err != nil {
		t.Fatal(err)
	}
	leaf := x.SVIDs[0].Certificates[0]
	if a.Serial() != (&svid.Attested{Certificate: leaf}).Serial() || a.Token.Expiry.After(leaf.NotAfter) {
		t.Errorf("the token is of %s until %s, the certificate %s until %s", a.Serial(), a.Token.Expiry, (&svid.Attested{Certificate: leaf}).Serial(), leaf.NotAfter)
	}
	item, err := s.ledger.Get(ctx, a.Token.ID)
	if err != nil || item.Entry.Outcome != ledger.Minted || item.Entry.Token.SPIFFEID != ordersID {
		t.Errorf("the ledger has %+v, %v", item.Entry, err)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTokensGoOnOverRenewalAndOutageAndEndWithThePolicy(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, tokens(policyText(1, ordersID)))
	cfg := s.enclave(orders())
	start(t, cfg)
	before := serialOf(names(t, cfg, ordersID))
	src := jwtSource(t, cfg)
	ctx := context.Background()
	fetch := func(audience string) (*svid.Attested, error) {
		t.Helper()
		v, err := src.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
		if err != nil {
			return nil, err
		}
		return svid.VerifyJWT(v.Marshal(), src, audience, time.Now(), svid.Simulated(), svid.ID(v.ID))
	}
	first, err := fetch("reports")
	if err != nil {
		t.Fatal(err)
	}

	// A renewal: the next token is of the new SVID.
	s.reattest(t)
	waitFor(t, "a renewal", func() bool { x, err := x509Context(cfg); return err == nil && serialOf(x) != before })
	second, err := fetch("vault")
	if err != nil || second.Serial() == first.Serial() {
		t.Errorf("after a renewal: %v", err)
	}

	if again, err := fetch("reports"); err != nil || again.Token.ID == first.Token.ID {
		t.Errorf("the token of before was kept: %v", err)
	} else {
		first = again
	}

	// An outage: what was fetched is still handed out, what was not is not.
	s.stop()
	again, err := fetch("reports")
	if err != nil || again.Token.ID != first.Token.ID {
		t.Errorf("during an outage: %v", err)
	}
	if _, err := src.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "reports", ExtraAudiences: []string{"vault"}}); err == nil {
		t.Error("a token from nowhere")
	}
	s.start()
	waitFor(t, "a token after the outage", func() bool {
		_, err := src.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "reports", ExtraAudiences: []string{"vault"}})
		return err == nil
	})

	// The policy takes them away, and the agent hears of it.
	s.replace(policyText(2, ordersID))
	waitFor(t, "an end of the tokens that were kept", func() bool {
		_, err = src.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "reports"})
		return err != nil
	})
	if status.Code(errors.Unwrap(err)) != codes.PermissionDenied && !strings.Contains(errText(err), "PermissionDenied") {
		t.Errorf("a token that policy does not grant: %v", err)
	}
}

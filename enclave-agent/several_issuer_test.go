package agent_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	agent "github.com/assay-project/assay/enclave-agent"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// One enclave in the trust domains of two real servers, and go-spiffe beside it.

const (
	partnerName   = "simulated.partner.example"
	partnerOrders = "spiffe://" + partnerName + "/orders"
)

var (
	ourDomain     = spiffeid.RequireTrustDomainFromString(realDomain)
	partnerDomain = spiffeid.RequireTrustDomainFromString(partnerName)
)

// hinted gives the identities of a policy hints, in their order.
func hinted(policy string, hints ...string) string {
	for _, h := range hints {
		policy = strings.Replace(policy, "x509_ttl: 1h,", "x509_ttl: 60m, hint: "+h+",", 1)
	}
	return policy
}

// twoServers trust the same hardware. The partner's policy calls its identity
// external, ours internal.
func twoServers(t *testing.T) (ours, partner *realServer) {
	t.Helper()
	hw := must(simnitro.NewAuthority(simnitro.AuthorityOptions{}))
	ours = newServerIn(t, realDomain, hw, hinted(tokens(policyText(1, ordersID, adminID)), "internal"))
	partner = newServerIn(t, partnerName, hw, hinted(tokens(policyIn(partnerName, 1, partnerOrders)), "external"))
	return ours, partner
}

// inBoth is an enclave's agent in both trust domains.
func inBoth(t *testing.T, ours, partner *realServer) agent.Config {
	t.Helper()
	cfg := ours.enclave(orders())
	p := partner.config("/unused", cfg.Attester)
	cfg.Further = []agent.Membership{{TrustDomain: p.TrustDomain, Server: p.Server, BootstrapRoots: p.BootstrapRoots}}
	return cfg
}

func addr(cfg agent.Config) workloadapi.ClientOption {
	return workloadapi.WithAddr("unix://" + cfg.Socket)
}

func TestGoSPIFFESeesTheSVIDsAndBundlesOfBothTrustDomains(t *testing.T) {
	t.Parallel()
	ours, partner := twoServers(t)
	cfg := inBoth(t, ours, partner)
	start(t, cfg)
	x := names(t, cfg, ordersID, adminID, partnerOrders)
	for _, v := range x.SVIDs {
		if _, _, err := x509svid.Verify(v.Certificates, x.Bundles); err != nil {
			t.Errorf("%s: %v", v.ID, err)
		}
		for _, other := range []spiffeid.TrustDomain{ourDomain, partnerDomain} {
			b, ok := x.Bundles.Get(other)
			if _, _, err := x509svid.Verify(v.Certificates, b); !ok || (err == nil) != (v.ID.MemberOf(other)) {
				t.Errorf("%s by the bundle of %s: %v", v.ID, other, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	// Its sources pick by the hint, and take the first without one.
	byHint := func(hint string) string {
		src, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(addr(cfg)), workloadapi.WithDefaultX509SVIDPicker(func(all []*x509svid.SVID) *x509svid.SVID {
			if i := slices.IndexFunc(all, func(v *x509svid.SVID) bool { return v.Hint == hint }); i >= 0 {
				return all[i]
			}
			return all[0]
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = src.Close() }()
		if _, err := agent.Handshake(src); err != nil {
			t.Errorf("a handshake as %s: %v", hint, err)
		}
		return must(src.GetX509SVID()).ID.String()
	}
	if a, b, none := byHint("internal"), byHint("external"), byHint("no such"); a != ordersID || b != partnerOrders || none != ordersID {
		t.Errorf("hints pick %s, %s and %s", a, b, none)
	}
	bundles, err := workloadapi.NewBundleSource(ctx, workloadapi.WithClientOptions(addr(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bundles.Close() }()
	for td, s := range map[spiffeid.TrustDomain]*realServer{ourDomain: ours, partnerDomain: partner} {
		b, err := bundles.GetBundleForTrustDomain(td)
		if err != nil || len(b.X509Authorities()) == 0 || len(b.JWTAuthorities()) == 0 {
			t.Errorf("the bundle of %s: %v", td, err)
			continue
		}
		if !b.HasX509Authority(s.ca.Bundle().X509Authorities()[0]) {
			t.Errorf("the bundle of %s is not that of its server", td)
		}
	}
}

func TestATokenIsMintedByTheServerOfItsTrustDomain(t *testing.T) {
	t.Parallel()
	ours, partner := twoServers(t)
	cfg := inBoth(t, ours, partner)
	start(t, cfg)
	names(t, cfg, ordersID, adminID, partnerOrders)
	src := jwtSource(t, cfg)
	ctx := t.Context()

	theirs, err := src.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "reports", Subject: spiffeid.RequireFromString(partnerOrders)})
	if err != nil {
		t.Fatal(err)
	}
	if n, m := ours.minted(t), partner.minted(t); n != 0 || m != 1 {
		t.Errorf("on record are %d tokens of ours, and %d of the partner's", n, m)
	}
	all, err := src.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: "reports"})
	var got, hints []string
	for _, v := range all {
		got, hints = append(got, v.ID.String()), append(hints, v.Hint)
		if _, err := jwtsvid.ParseAndValidate(v.Marshal(), src, []string{"reports"}); err != nil {
			t.Errorf("%s: %v", v.ID, err)
		}
	}
	if want := []string{ordersID, adminID, partnerOrders}; err != nil || !slices.Equal(got, want) || !slices.Equal(hints, []string{"internal", "", "external"}) {
		t.Errorf("%v %v, %v", got, hints, err)
	}
	client, err := workloadapi.New(ctx, addr(cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if v, err := client.ValidateJWTSVID(ctx, theirs.Marshal(), "reports"); err != nil || v.ID.String() != partnerOrders {
		t.Errorf("the agent on the partner's token: %v, %v", v, err)
	}
	// The vault is granted to the first of each policy.
	vault, err := src.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: "vault"})
	if err != nil || len(vault) != 2 || vault[0].ID.String() != ordersID || vault[1].ID.String() != partnerOrders {
		t.Errorf("tokens for the vault: %v, %v", vault, err)
	}
}

// minted counts the tokens on the server's record.
func (s *realServer) minted(t *testing.T) (n int) {
	t.Helper()
	for e, err := range s.ledger.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Entry.Token != nil {
			n++
		}
	}
	return n
}

func TestARealServerThatIsAwayAtBootJoinsWhenItIsBack(t *testing.T) {
	t.Parallel()
	ours, partner := twoServers(t)
	cfg := inBoth(t, ours, partner)
	ours.stop() // its address is known, and nobody listens there
	start(t, cfg)
	names(t, cfg, partnerOrders)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	src, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(addr(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	before := serialOf(must(x509Context(cfg)))
	ours.start()
	x := names(t, cfg, ordersID, adminID, partnerOrders)
	if got := x.SVIDs[2].Certificates[0].SerialNumber.String(); got != before {
		t.Error("the other's SVID was touched")
	}
	waitFor(t, "the source's first SVID of the first trust domain", func() bool { return must(src.GetX509SVID()).ID.String() == ordersID })

	// Later it is away again; the other renews, and everything is served.
	ours.stop()
	partner.reattest(t)
	waitFor(t, "a renewal of the other", func() bool {
		x, err := x509Context(cfg)
		return err == nil && len(x.SVIDs) == 3 && x.SVIDs[2].Certificates[0].SerialNumber.String() != before
	})
	ours.start()
}

// admin calls a service of the server's administration.
func (s *realServer) admin(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+s.cfg.AdminSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// The partner's operators ban the enclave: for them it is over, with a reference, and
// in our trust domain nothing happens.
func TestABanByOneRealServerEndsItsTrustDomainAlone(t *testing.T) {
	t.Parallel()
	ours, partner := twoServers(t)
	partner.replace(strings.ReplaceAll(hinted(tokens(policyIn(partnerName, 2, partnerOrders)), "external"), "x509_ttl: 60m", "x509_ttl: 1m"))
	cfg := inBoth(t, ours, partner)
	start(t, cfg)
	x := names(t, cfg, ordersID, adminID, partnerOrders)
	before := serialOf(x)
	if _, err := assayv1.NewAgentsClient(partner.admin(t)).Ban(t.Context(), &assayv1.BanRequest{
		Who: &assayv1.BanRequest_SpiffeId{SpiffeId: partnerOrders}, Reason: "an exercise",
	}); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var reference string
	waitFor(t, "a denial in the status", func() bool {
		s, err := agentv1.NewAgentClient(conn).GetStatus(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true"), &agentv1.GetStatusRequest{})
		if err != nil || !s.GetTrustDomains()[1].GetDenied() {
			return false
		}
		if s.GetTrustDomains()[0].GetDenied() || s.GetTrustDomains()[0].GetState() != agentv1.State_STATE_SERVING {
			t.Fatalf("ours: %v", s.GetTrustDomains()[0])
		}
		reference = s.GetTrustDomains()[1].GetLast().GetReference()
		return true
	})
	src := jwtSource(t, cfg)
	_, err = src.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "reports", Subject: spiffeid.RequireFromString(partnerOrders)})
	if !isDenied(err) || reference == "" || !strings.Contains(err.Error(), reference) {
		t.Errorf("who asks for the banned identity's token hears %v, want reference %s", err, reference)
	}
	if v, err := src.FetchJWTSVIDs(t.Context(), jwtsvid.Params{Audience: "reports"}); err != nil || len(v) != 2 {
		t.Errorf("tokens of ours: %v, %v", v, err)
	}
	if x, err := x509Context(cfg); err != nil || serialOf(x) != before {
		t.Errorf("ours: %v", err)
	}
}

func isDenied(err error) bool {
	return err != nil && (status.Code(err) == codes.PermissionDenied || strings.Contains(err.Error(), "PermissionDenied"))
}

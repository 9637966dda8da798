package agent

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func TestAServerPlacesNothingInAnotherTrustDomain(t *testing.T) {
	t.Parallel()
	t.Run("an SVID", func(t *testing.T) {
		t.Parallel()
		ours, partner, _, _ := two(t)
		partner.ids = []string{oursID + "/forged"}
		ours.start()
		partner.start()
		a := severally(t, nil, ours, partner)
		serves(t, a, oursID)
		eventually(t, "it was refused", func() bool { last, _ := a.members[1].past.get(); return last.GetCheck() == "issued_id" })
		stillServes(t, a, "after the forged answer", oursID)
	})
	t.Run("a bundle", func(t *testing.T) {
		t.Parallel()
		ours, partner, _, _ := two(t)
		partner.issue = func(m *assayv1.AttestResponse) { m.GetIssued().Bundle.TrustDomain = testDomain.Name() }
		ours.start()
		partner.start()
		a := severally(t, nil, ours, partner)
		r := serves(t, a, oursID)
		eventually(t, "it was refused", func() bool { last, _ := a.members[1].past.get(); return last.GetCheck() == "bundle_trust_domain" })
		if !bytes.Equal(r.GetSvids()[0].GetBundle(), ours.ca.cert.Raw) {
			t.Error("it is served")
		}
	})
	t.Run("a token", func(t *testing.T) {
		t.Parallel()
		ours, partner, m, n := two(t)
		n.claims = func(c map[string]any) { c["sub"] = oursID }
		n.answer = func(r *assayv1.MintJWTSVIDResponse) { r.SpiffeId = oursID }
		ours.start()
		partner.start()
		a := severally(t, nil, ours, partner)
		serves(t, a, oursID, partnerID)
		_, c := callAgent(t, a)
		if r, err := fetchToken(c, partnerID, "reports"); err == nil || !strings.Contains(err.Error(), "no JWT bundle") {
			t.Errorf("handed out: %v, %v", r, err)
		}
		r, err := fetchToken(c, "", "reports")
		if err != nil || len(r.GetSvids()) != 1 || r.GetSvids()[0].GetSpiffeId() != oursID || m.calls.Load() == 0 {
			t.Errorf("%v, %v", r, err)
		}
		forged := n.sign(map[string]any{"sub": oursID, "aud": []string{"reports"}, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix()})
		if _, err := c.ValidateJWTSVID(withHeader(t.Context(), "true"), &workload.ValidateJWTSVIDRequest{Audience: "reports", Svid: forged}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a token of ours, signed by the other's authority, is called good: %v", err)
		}
	})
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("a federated bundle, its own server away %v", away), func(t *testing.T) {
			t.Parallel()
			ours, partner, m, n := two(t)
			forged := foreignBundle(t, testDomain.Name())
			third := foreignBundle(t, "third.example.org")
			partner.issue = func(m *assayv1.AttestResponse) {
				m.GetIssued().Bundle.Federated = []*assayv1.FederatedBundle{forged, third}
			}
			partner.start()
			ours.start()
			want := map[string][]byte{
				testDomain.IDString(): ours.ca.cert.Raw, partnerDomain.IDString(): partner.ca.cert.Raw, "spiffe://third.example.org": third.GetX509Authorities()[0],
			}
			if away {
				ours.stop()
				delete(want, testDomain.IDString())
			}
			a := severally(t, nil, ours, partner)
			if away {
				serves(t, a, partnerID)
			} else {
				serves(t, a, oursID, partnerID)
			}
			conn, c := callAgent(t, a)
			ctx := withHeader(t.Context(), "true")
			s, err := c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			x, err := s.Recv()
			if d := cmp.Diff(want, x.GetBundles()); err != nil || d != "" {
				t.Errorf("bundles: %v %s", err, d)
			}
			j, err := c.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			jb, err := j.Recv()
			if err != nil || bytes.Equal(jb.GetBundles()[testDomain.IDString()], forged.GetJwtAuthorities()) || away == (jb.GetBundles()[testDomain.IDString()] != nil) || len(jb.GetBundles()) != len(want) {
				t.Errorf("JWT bundles: %v %d", err, len(jb.GetBundles()))
			}
			ids, err := agentv1.NewAgentClient(conn).GetIdentities(ctx, &agentv1.GetIdentitiesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range append(ids.GetFederated(), ids.GetBundle()) {
				if !bytes.Equal(b.GetX509Authorities()[0], want["spiffe://"+b.GetTrustDomain()]) || b.GetMember() != (b.GetTrustDomain() != "third.example.org") {
					t.Errorf("assay.agent.v1 has another bundle of %s, or calls it a member's: %v", b.GetTrustDomain(), b.GetMember())
				}
			}
			secrets := envoySecrets(t, a, "spiffe://"+testDomain.Name(), "ALL")
			if got := secrets["spiffe://"+testDomain.Name()]; away != (got == nil) {
				t.Errorf("Envoy gets a bundle: %v", got)
			}
			for name, s := range secrets {
				if bytes.Contains(must(marshal(s)), forged.GetX509Authorities()[0]) {
					t.Errorf("the forged bundle is in Envoy's %s", name)
				}
			}
			_, _ = m, n
		})
	}
}

func TestAServerCannotMakeTheMessageTooLongThatAnothersIdentitiesAreIn(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	blob := bytes.Repeat([]byte{1}, 900<<10)
	fat := func(m *assayv1.AttestResponse) { m.GetIssued().Bundle.DenyList = blob }
	partner.issue = fat
	ours.start()
	partner.start()
	others := []*faultyServer{partner}
	for i := range 3 {
		s := newFaultyServerIn(t, spiffeid.RequireTrustDomainFromString(fmt.Sprintf("simulated.other%d.example", i)))
		s.issue = fat
		s.start()
		others = append(others, s)
	}
	a := severally(t, nil, append([]*faultyServer{ours}, others...)...)
	serves(t, a, oursID)
	for _, m := range a.members[1:] {
		eventually(t, "it was refused", func() bool { last, _ := m.past.get(); return last.GetCheck() == "bundle_size" })
	}
	stillServes(t, a, "beside messages that are too long", oursID)

	// Alone in one trust domain there is room for it.
	alone := newFaultyServer(t)
	alone.issue = fat
	alone.start()
	served(t, severally(t, nil, alone))
}

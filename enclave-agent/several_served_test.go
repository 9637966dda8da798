package agent

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func TestEverySVIDComesWithTheBundleOfItsOwnTrustDomain(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	ours.start()
	partner.start()
	r := serves(t, severally(t, nil, ours, partner), oursID, partnerID)
	for i, s := range []*faultyServer{ours, partner} {
		if !bytes.Equal(r.GetSvids()[i].GetBundle(), s.ca.cert.Raw) {
			t.Errorf("%s comes with another bundle", r.GetSvids()[i].GetSpiffeId())
		}
	}
	if len(r.GetFederatedBundles()) != 0 {
		t.Errorf("bundles twice: %d", len(r.GetFederatedBundles()))
	}
}

func envoySecrets(t *testing.T, a *Agent, names ...string) map[string]*tlsv3.Secret {
	t.Helper()
	conn, _ := callAgent(t, a)
	r, err := secretv3.NewSecretDiscoveryServiceClient(conn).FetchSecrets(t.Context(), &discovery.DiscoveryRequest{ResourceNames: names})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*tlsv3.Secret{}
	for _, x := range r.GetResources() {
		s := &tlsv3.Secret{}
		if err := x.UnmarshalTo(s); err != nil {
			t.Fatal(err)
		}
		out[s.GetName()] = s
	}
	return out
}

func TestEnvoyGetsTheSecretsOfBothTrustDomains(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, oursID, partnerID)
	got := envoySecrets(t, a, "default", oursID, partnerID, "ROOTCA", testDomain.IDString(), partnerDomain.IDString(), "ALL")
	if len(got) != 7 {
		t.Fatalf("%d secrets", len(got))
	}
	chain := func(name string) string {
		return got[name].GetTlsCertificate().GetCertificateChain().String() + got[name].GetTlsCertificate().GetPrivateKey().String()
	}
	if chain("default") != chain(oursID) || chain(oursID) == chain(partnerID) {
		t.Error("default is not the first trust domain's")
	}
	ca := func(name string) string { return got[name].GetValidationContext().GetTrustedCa().String() }
	if ca("ROOTCA") != ca(testDomain.IDString()) || ca("ROOTCA") == ca(partnerDomain.IDString()) || ca(partnerDomain.IDString()) == "" {
		t.Error("ROOTCA is not the first trust domain's")
	}
	cfg := &tlsv3.SPIFFECertValidatorConfig{}
	if err := got["ALL"].GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(cfg); err != nil {
		t.Fatal(err)
	}
	var domains []string
	for _, td := range cfg.GetTrustDomains() {
		domains = append(domains, td.GetName())
	}
	if !slices.Equal(domains, []string{testDomain.Name(), partnerDomain.Name()}) {
		t.Errorf("ALL has %v", domains)
	}
}

func TestSelectorsApplyInEveryTrustDomain(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	nobody := &assayv1.Selector{Type: "unix:path", Value: "/usr/bin/nobody"}
	foreign := foreignBundle(t, "third.example.org")
	ours.ids = append(ours.ids, oursID+"/second")
	ours.issue = func(m *assayv1.AttestResponse) {
		for _, v := range m.GetIssued().GetSvids() {
			v.Selectors = []*assayv1.Selector{nobody}
		}
		m.GetIssued().Bundle.Federated = []*assayv1.FederatedBundle{foreign}
	}
	partner.ids = append(partner.ids, partnerID+"/mine", partnerID+"/nobodys")
	partner.issue = func(m *assayv1.AttestResponse) {
		for i, v := range m.GetIssued().GetSvids() {
			v.Selectors = [][]*assayv1.Selector{nil, {{Type: "unix:uid", Value: fmt.Sprint(os.Geteuid())}}, {nobody}}[i]
		}
	}
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	serves(t, a, partnerID, partnerID+"/mine")
	eventually(t, "ours is held", func() bool { return len(a.members[0].state.held()) == 2 })
	r := serves(t, a, partnerID, partnerID+"/mine")
	if d := cmp.Diff(map[string][]byte{testDomain.IDString(): ours.ca.cert.Raw}, r.GetFederatedBundles()); d != "" {
		t.Errorf("other bundles: %s", d)
	}
	conn, c := callAgent(t, a)
	if _, err := fetchToken(c, oursID, "reports"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token of an identity that is not the caller's: %v", err)
	}
	ids, err := agentv1.NewAgentClient(conn).GetIdentities(withHeader(t.Context(), "true"), &agentv1.GetIdentitiesRequest{})
	if err != nil || ids.GetBundle().GetTrustDomain() != partnerDomain.Name() || len(ids.GetIdentities()) != 2 {
		t.Errorf("assay.agent.v1: %v, %v", ids, err)
	}
}

func TestTheSameHintInTwoTrustDomainsIsTheFirsts(t *testing.T) {
	t.Parallel()
	ours, partner, _, _ := two(t)
	hint := func(list ...string) func(*assayv1.AttestResponse) {
		return func(m *assayv1.AttestResponse) {
			for i, v := range m.GetIssued().GetSvids() {
				v.Hint = list[i]
			}
		}
	}
	ours.issue, partner.issue = hint("internal"), hint("internal", "external")
	partner.ids = append(partner.ids, partnerID+"/second")
	ours.start()
	partner.start()
	a := severally(t, nil, ours, partner)
	r := serves(t, a, oursID, partnerID, partnerID+"/second")
	var got []string
	for _, v := range r.GetSvids() {
		got = append(got, v.GetHint())
	}
	if want := []string{"internal", "", "external"}; !slices.Equal(got, want) {
		t.Errorf("hints %q, want %q", got, want)
	}
	conn, c := callAgent(t, a)
	for id, want := range map[string]string{oursID: "internal", partnerID: ""} {
		if tokens, err := fetchToken(c, id, "reports"); err != nil || tokens.GetSvids()[0].GetHint() != want {
			t.Errorf("hints of tokens: %v, %v", tokens, err)
		}
	}
	ids, err := agentv1.NewAgentClient(conn).GetIdentities(withHeader(t.Context(), "true"), &agentv1.GetIdentitiesRequest{})
	if err != nil || ids.GetIdentities()[0].GetHint() != "internal" || ids.GetIdentities()[1].GetHint() != "" || ids.GetIdentities()[2].GetHint() != "external" {
		t.Errorf("hints of assay.agent.v1: %v, %v", ids.GetIdentities(), err)
	}
}

func TestAHintThatNoPolicyMaySayIsRefused(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"Internal", "two words", strings.Repeat("x", 65)} {
		s := newFaultyServer(t)
		s.issue = func(m *assayv1.AttestResponse) { m.GetIssued().Svids[0].Hint = v }
		s.start()
		_, err := attestWith(t, s, nil)
		wantCheck(t, err, attest.Untrusted, "issued_hint")
	}
}

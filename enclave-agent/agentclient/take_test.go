package agentclient

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	"github.com/assay-project/assay/svid/svidtest"
)

// bundleOf is what an agent sends of a trust domain.
func bundleOf(t *testing.T, a *svidtest.Authority) *agentv1.Bundle {
	t.Helper()
	tokens, err := a.JWTBundle(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &agentv1.Bundle{
		TrustDomain: a.TrustDomain.Name(), X509Authorities: [][]byte{a.Bundle().X509Authorities()[0].Raw},
		JwtAuthorities: tokens, VerifierKeys: a.Document(t),
	}
}

func TestAnotherTrustDomainTakesNothingOfOurOwn(t *testing.T) {
	ours, partner, liar := svidtest.New(t, "example.test"), svidtest.New(t, "partner.test"), svidtest.New(t, "example.test")
	orders, own := ours.Mint(t, "/orders"), bundleOf(t, ours)
	good := bundleOf(t, partner)
	tokens, certificates, name := bundleOf(t, partner), bundleOf(t, partner), bundleOf(t, partner)
	tokens.TrustDomain, tokens.JwtAuthorities = "tokens.test", []byte("{")
	certificates.TrustDomain, certificates.X509Authorities = "certificates.test", [][]byte{{1}}
	name.TrustDomain = "No Name " + strings.Repeat("x", 1000)
	var log bytes.Buffer
	s := &Source{log: slog.New(slog.NewTextHandler(&log, nil)), updated: make(chan struct{})}
	if err := s.take(&agentv1.Identities{
		Identities: []*agentv1.Identity{{SpiffeId: orders.ID.String(), Chain: [][]byte{orders.Certificates[0].Raw}, KeyResidency: agentv1.KeyResidency_KEY_RESIDENCY_SOFTWARE}},
		Bundle:     own,
		Federated:  []*agentv1.Bundle{bundleOf(t, liar), tokens, certificates, name, good},
	}); err != nil {
		t.Fatalf("what others send keeps ours out: %v", err)
	}
	if b, err := s.GetX509BundleForTrustDomain(ours.TrustDomain); err != nil || !b.Equal(ours.Bundle()) {
		t.Errorf("our X.509 bundle: %v %v", b, err)
	}
	if b, err := s.GetJWTBundleForTrustDomain(ours.TrustDomain); err != nil || !b.Equal(ours.JWTBundle(t)) {
		t.Errorf("our JWT bundle is another's: %v", err)
	}
	if !bytes.Equal(s.VerifierKeysFor(ours.TrustDomain), own.GetVerifierKeys()) {
		t.Error("our verifier keys are another's")
	}
	if b, err := s.GetJWTBundleForTrustDomain(partner.TrustDomain); err != nil || !b.Equal(partner.JWTBundle(t)) {
		t.Errorf("a partner whose bundle is good: %v", err)
	}
	for _, bad := range []string{"tokens.test", "certificates.test"} {
		if _, err := s.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(bad)); err == nil {
			t.Errorf("%s is half there", bad)
		}
		if !strings.Contains(log.String(), bad) {
			t.Errorf("nobody is told of %s", bad)
		}
	}
	if log.Len() > 3000 {
		t.Errorf("%d bytes of log", log.Len())
	}
}

func TestOurOwnBundleIsReadOrNothingIs(t *testing.T) {
	ours := svidtest.New(t, "example.test")
	orders := ours.Mint(t, "/orders")
	bad := bundleOf(t, ours)
	bad.JwtAuthorities = []byte("{")
	s := &Source{log: slog.New(slog.DiscardHandler), updated: make(chan struct{})}
	if err := s.take(&agentv1.Identities{
		Identities: []*agentv1.Identity{{SpiffeId: orders.ID.String(), Chain: [][]byte{orders.Certificates[0].Raw}, KeyResidency: agentv1.KeyResidency_KEY_RESIDENCY_SOFTWARE}},
		Bundle:     bad,
	}); err == nil {
		t.Error("it was taken")
	}
}

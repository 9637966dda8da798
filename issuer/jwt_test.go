package issuer_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/oidc"
	"github.com/assay-project/assay/issuer/oidc/oidctest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// tokenPolicy grants payments tokens for AWS and for reports.
func tokenPolicy(revision int) string {
	return strings.Replace(policyText(revision), "        x509_ttl: 1h\n", `        x509_ttl: 1h
        attributes: {team: core, tier: gold}
        jwt: {ttl: 5m, audiences: [sts.amazonaws.com, reports], aws_tags: [team]}
`, 1)
}

// minting is a server whose policy allows tokens, and an enclave that holds an
// SVID.
func minting(t testing.TB, options ...option) (*office, identity) {
	t.Helper()
	o := open(t, append([]option{func(c *config.Config) { c.JWT.Issuer = "https://oidc.example.org" }}, options...)...)
	o.replacePolicy(tokenPolicy(2))
	return o, o.boot(o.connect())
}

// mint asks for a token on a connection of its own, which shows the SVID.
func (o *office) mint(own []tls.Certificate, ttl int64, audience ...string) (*assayv1.MintJWTSVIDResponse, error) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return assayv1.NewAttestationClient(o.connect(own...)).MintJWTSVID(ctx, &assayv1.MintJWTSVIDRequest{Audience: audience, TtlSeconds: ttl})
}

func shows(i identity) []tls.Certificate { return []tls.Certificate{i.certificate()} }

// verify checks a token as a relying party does.
func (o *office) verify(r *assayv1.MintJWTSVIDResponse, audience string) *svid.Attested {
	o.t.Helper()
	a, err := svid.VerifyJWT(r.GetToken(), o.ca.Bundle().JWTBundle(), audience, o.clock.Now(), svid.Simulated(), svid.MinTier(svid.Contraindicated))
	must(o.t, err)
	return a
}

func TestATokenSaysWhatTheSVIDThatAskedForItSays(t *testing.T) {
	o, own := minting(t)
	r, err := o.mint(shows(own), 0, "sts.amazonaws.com")
	must(t, err)
	got := o.verify(r, "sts.amazonaws.com")
	want, err := svid.ResultFrom(own.leaf)
	must(t, err)
	result := want.Result
	result.IssuedAt, result.Expiry, result.KeyThumbprint = got.Result.IssuedAt, got.Result.Expiry, svid.Thumbprint{}
	if diff := cmp.Diff(result, got.Result); diff != "" {
		t.Errorf("the token differs from the certificate: %s", diff)
	}
	if got.ID.String() != paymentsID || r.GetSpiffeId() != paymentsID || got.Serial() != fmt.Sprintf("%032x", own.leaf.SerialNumber) || got.Token.Issuer != "https://oidc.example.org" {
		t.Errorf("got %+v, %+v", got, got.Token)
	}
	if life := got.Token.Expiry.Sub(got.Token.IssuedAt); life != 5*time.Minute || r.GetNotAfterUnixMs() != got.Token.Expiry.UnixMilli() {
		t.Errorf("it lives for %s, until %d", life, r.GetNotAfterUnixMs())
	}

	// It was on record before it was signed.
	on := o.mintedEntries()
	if len(on) != 1 || on[0].Token.ID != got.Token.ID || on[0].Token.Parent != got.Serial() || on[0].Token.SPIFFEID != paymentsID || !on[0].Token.NotAfter.Equal(got.Token.Expiry) ||
		!slices.Equal(on[0].Token.Audience, got.Token.Audience) || on[0].Policy.Revision != 2 || on[0].Instance == "" {
		t.Errorf("the ledger has %+v", on)
	}
}

// mintedEntries is what the ledger has of tokens.
func (o *office) mintedEntries() (on []ledger.Entry) {
	o.t.Helper()
	for item, err := range o.ledger.Entries(o.t.Context(), 0) {
		must(o.t, err)
		if item.Entry.Outcome == ledger.Minted {
			on = append(on, item.Entry)
		}
	}
	return on
}

// What AWS, GCP and Vault have written down, on what a server hands out.
func TestWhatTheServerHandsOutIsWhatCloudsAskFor(t *testing.T) {
	o, own := minting(t)
	r, err := o.mint(shows(own), 0, "sts.amazonaws.com")
	must(t, err)
	p, err := oidc.New(o.cfg.JWT.Issuer, o.ca.Bundle().JWTAuthorities, 5*time.Minute)
	must(t, err)
	discovery, err := p.Discovery(t.Context())
	must(t, err)
	jwks, err := p.Keys(t.Context())
	must(t, err)
	parsed, err := oidctest.Parse(oidctest.Output{Issuer: o.cfg.JWT.Issuer, Discovery: discovery.Body, JWKS: jwks.Body, Token: r.GetToken(), Audience: "sts.amazonaws.com"}, o.clock.Now())
	must(t, err)
	for _, c := range oidctest.Constraints() {
		if err := c.Check(parsed); err != nil {
			t.Errorf("%s: %s: %v (%s)", c.Party, c.Text, err, c.Source)
		}
	}
	tags, _ := parsed.Claims["https://aws.amazon.com/tags"].(map[string]any)
	if diff := cmp.Diff(map[string]any{"principal_tags": map[string]any{"team": []any{"core"}}}, tags); diff != "" {
		t.Errorf("session tags: %s", diff)
	}
}

func TestATokenNeedsALiveSVID(t *testing.T) {
	o, own := minting(t)
	wantCode := func(name string, own []tls.Certificate) {
		t.Helper()
		r, err := o.mint(own, 0, "reports")
		if status.Code(err) != codes.Unauthenticated || r.GetToken() != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCode("no certificate", nil)
	foreign := o.boot(o.connect())
	foreign.leaf = selfSignedLike(t, foreign)
	wantCode("a certificate of somebody else's CA", shows(foreign))
	wantCode("a serial number that is not on record", shows(o.unrecorded(own)))

	// By force, and at once.
	before := o.boot(o.connect())
	_, err := o.ca.Taint(t.Context(), store.X509, o.ca.Status().AuthorityID, "stolen", "test", true)
	must(t, err)
	wantCode("an SVID of a tainted authority", shows(before))

	o, own = minting(t)
	ctx := context.Background()
	_, err = assayv1.NewAgentsClient(o.adminConnection()).Ban(ctx, &assayv1.BanRequest{Who: &assayv1.BanRequest_SpiffeId{SpiffeId: paymentsID}, Reason: "test"})
	must(t, err)
	r, err := o.mint(shows(own), 0, "reports")
	if status.Code(err) != codes.Unauthenticated || r.GetToken() != "" {
		t.Errorf("banned: %v", err)
	}

	o, own = minting(t)
	o.clock.Advance(time.Hour + time.Second)
	r, err = o.mint(shows(own), 0, "reports")
	if err == nil || r.GetToken() != "" {
		t.Errorf("ended: %v", err)
	}
}

// adminConnection is one to the admin socket.
func (o *office) adminConnection() *grpc.ClientConn {
	o.t.Helper()
	conn, err := grpc.NewClient("unix://"+o.cfg.AdminSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(o.t, err)
	o.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// selfSignedLike is a certificate that says the same, by no authority.
func selfSignedLike(t testing.TB, like identity) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: like.leaf.SerialNumber, NotBefore: like.leaf.NotBefore, NotAfter: like.leaf.NotAfter, URIs: like.leaf.URIs, KeyUsage: like.leaf.KeyUsage},
		&x509.Certificate{SerialNumber: like.leaf.SerialNumber}, like.key.signer.Public(), like.key.signer)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func TestPolicyDecidesAboutTokens(t *testing.T) {
	o, own := minting(t)
	refused := func(name string, audience ...string) {
		t.Helper()
		_, err := o.mint(shows(own), 0, audience...)
		d := denied(t, err)
		if status.Code(err) != codes.PermissionDenied || d.GetKind() != "denied" || d.GetCheck() != "policy" {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
		if strings.Contains(err.Error(), "vault") || strings.Contains(err.Error(), "sts.amazonaws.com") {
			t.Errorf("%s: the refusal is an oracle: %v", name, err)
		}
	}
	_, err := o.mint(shows(own), 0, "reports")
	must(t, err)
	refused("another audience", "vault")
	refused("one of two audiences", "reports", "vault")
	refused("an audience in capitals", "REPORTS")

	o.replacePolicy(strings.Replace(tokenPolicy(3), "audiences: [sts.amazonaws.com, reports]", "audiences: [sts.amazonaws.com]", 1))
	refused("an audience that was withdrawn", "reports")
	o.replacePolicy(policyText(4))
	refused("no tokens any more", "reports")
	o.replacePolicy(strings.Replace(tokenPolicy(5), "spiffe://{td}/payments/api", "spiffe://{td}/payments/other", 1))
	refused("the identity is not granted any more", "reports")
	o.replacePolicy(strings.Replace(tokenPolicy(6), "mode: enforce", "mode: audit", 1))
	refused("nothing is granted any more", "reports")
	o.replacePolicy(tokenPolicy(7))
	if _, err := o.mint(shows(own), 0, "reports"); err != nil {
		t.Errorf("granted again: %v", err)
	}
}

func TestWhatIsAskedForMustBeWellFormed(t *testing.T) {
	o, own := minting(t)
	for name, c := range map[string]struct {
		ttl      int64
		audience []string
		check    string
	}{
		"no audience":            {0, nil, "token_audience"},
		"an empty audience":      {0, []string{""}, "token_audience"},
		"an audience too long":   {0, []string{strings.Repeat("a", 256)}, "token_audience"},
		"an audience of spaces":  {0, []string{"a b"}, "token_audience"},
		"an audience of bytes":   {0, []string{"é"}, "token_audience"},
		"too many audiences":     {0, []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"}, "token_audience"},
		"an audience twice":      {0, []string{"reports", "reports"}, "token_audience"},
		"a lifetime below zero":  {-1, []string{"reports"}, "token_ttl"},
		"a lifetime far below 0": {-1 << 62, []string{"reports"}, "token_ttl"},
	} {
		_, err := o.mint(shows(own), c.ttl, c.audience...)
		if err == nil {
			t.Errorf("%s is taken", name)
			continue
		}
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, c.check)
	}
}

func TestATokenLivesNoLongerThanAnythingThatItRestsOn(t *testing.T) {
	life := func(o *office, own identity, ttl int64) time.Duration {
		t.Helper()
		r, err := o.mint(shows(own), ttl, "reports")
		must(t, err)
		got := o.verify(r, "reports")
		return got.Token.Expiry.Sub(got.Token.IssuedAt)
	}
	o, own := minting(t)
	for ttl, want := range map[int64]time.Duration{0: 5 * time.Minute, 60: time.Minute, 1: time.Second, 600: 5 * time.Minute, 1 << 62: 5 * time.Minute} {
		if got := life(o, own, ttl); got != want {
			t.Errorf("asked for %d s: %s, want %s", ttl, got, want)
		}
	}
	// The X.509-SVID's end.
	o.clock.Advance(58 * time.Minute)
	if got := life(o, own, 0); got > 2*time.Minute || got < time.Minute {
		t.Errorf("two minutes before its end: %s", got)
	}
	r, err := o.mint(shows(own), 0, "reports")
	must(t, err)
	if end := time.UnixMilli(r.GetNotAfterUnixMs()); end.After(own.leaf.NotAfter) {
		t.Errorf("the token ends at %s, its SVID at %s", end, own.leaf.NotAfter)
	}
	// Next to nothing is left.
	o.clock.Advance(own.leaf.NotAfter.Sub(o.clock.Now()) - 900*time.Millisecond)
	_, err = o.mint(shows(own), 0, "reports")
	wantRefusal(t, err, codes.Aborted, attest.Stale, "token_ending")

	o, own = minting(t, func(c *config.Config) { c.JWT.MaxTTL = 90 * time.Second })
	if got := life(o, own, 0); got != 90*time.Second {
		t.Errorf("jwt.max_ttl of 90s: %s", got)
	}
}

// The policy in force may trust for a shorter time than the one of the attestation.
func TestATokenLivesNoLongerThanWhatThePolicyInForceTrusts(t *testing.T) {
	o, own := minting(t)
	expiry := func() time.Time {
		t.Helper()
		r, err := o.mint(shows(own), 0, "reports")
		must(t, err)
		return o.verify(r, "reports").Token.Expiry
	}
	p0 := hex.EncodeToString(payments().PCRs()[0])
	end := o.clock.Now().Add(40 * time.Second).UTC().Truncate(time.Second)
	o.replacePolicy(strings.NewReplacer(
		fmt.Sprintf("pcr0: {eq: %q}", p0), "pcr0: {in: images}",
		"workloads:\n", fmt.Sprintf("references:\n  images:\n    - {value: %q, not_after: %s}\nworkloads:\n", p0, end.Format(time.RFC3339)),
	).Replace(tokenPolicy(3)))
	if got := expiry(); got.After(end) || got.Before(end.Add(-time.Second)) {
		t.Errorf("the image is trusted until %s, the token lives until %s", end, got)
	}

	result, err := svid.ResultFrom(own.leaf)
	must(t, err)
	end = result.Result.EvidenceTime.Add(2 * time.Minute)
	o.replacePolicy(strings.Replace(tokenPolicy(4), "    issue:\n", "    max_evidence_age: 2m\n    issue:\n", 1))
	if got := expiry(); !got.Equal(end) {
		t.Errorf("evidence counts until %s, the token lives until %s", end, got)
	}
	o.clock.Advance(2*time.Minute + time.Second)
	_, err = o.mint(shows(own), 0, "reports")
	wantRefusal(t, err, codes.Aborted, attest.Stale, "token_ending")
}

func TestAWithdrawnAttributeIsNotClaimedAgain(t *testing.T) {
	o, own := minting(t)
	o.replacePolicy(strings.NewReplacer("team: core, tier: gold", "team: other, tier: gold, more: new", "aws_tags: [team]", "aws_tags: [team, tier, more]").Replace(tokenPolicy(3)))
	r, err := o.mint(shows(own), 0, "reports")
	must(t, err)
	got := o.verify(r, "reports")
	if diff := cmp.Diff(map[string]string{"tier": "gold"}, got.Result.Attributes); diff != "" {
		t.Errorf("attributes: %s", diff)
	}
	p, err := oidctest.Parse(oidctest.Output{Discovery: []byte("{}"), JWKS: []byte("{}"), Token: r.GetToken()}, o.clock.Now())
	must(t, err)
	if diff := cmp.Diff(map[string]any{"principal_tags": map[string]any{"tier": []any{"gold"}}}, p.Claims["https://aws.amazon.com/tags"]); diff != "" {
		t.Errorf("tags: %s", diff)
	}
	if got.Result.Policy != "test@2" {
		t.Errorf("the evidence was judged by test@2, the token says %s", got.Result.Policy)
	}
}

// An attestation brings new certificates, and no new room for tokens.
func TestTokensOfOneInstanceAreLimitedOverAllItsSVIDs(t *testing.T) {
	o, _ := minting(t, func(c *config.Config) { c.Limits.TokensPerInstance = 3 })
	n := 0
	for range 3 {
		own := o.agentOf(payments(), moduleA)
		for range 2 {
			if _, err := o.mint(shows(own), 0, "reports"); err == nil {
				n++
			}
		}
	}
	if n != 3 {
		t.Errorf("one instance got %d tokens, want 3", n)
	}
	if _, err := o.mint(shows(o.agentOf(payments(), moduleB)), 0, "reports"); err != nil {
		t.Errorf("another instance: %v", err)
	}
}

func TestTokensOfOneSVIDAreLimited(t *testing.T) {
	o, own := minting(t, func(c *config.Config) { c.Limits.TokensPerInstance = 3 })
	client := assayv1.NewAttestationClient(o.connect(shows(own)...))
	var err error
	n := 0
	for ; err == nil && n < 10; n++ {
		_, err = client.MintJWTSVID(context.Background(), &assayv1.MintJWTSVIDRequest{Audience: []string{"reports"}})
	}
	if n != 4 {
		t.Errorf("the refusal came at token %d", n)
	}
	wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "token_rate")
	if denied(t, err).GetRetryAfterMs() == 0 {
		t.Error("and does not say when to come back")
	}
}

func TestTwoTokensAreTwo(t *testing.T) {
	o, own := minting(t)
	client := assayv1.NewAttestationClient(o.connect(shows(own)...))
	seen := map[string]bool{}
	for range 20 {
		r, err := client.MintJWTSVID(context.Background(), &assayv1.MintJWTSVIDRequest{Audience: []string{"reports"}})
		must(t, err)
		seen[o.verify(r, "reports").Token.ID] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different ids of 20 tokens", len(seen))
	}
	if n := o.counter(`assay_jwt_svids_total{outcome="issued",trust_domain="` + trustDomain + `"}`); n != 20 {
		t.Errorf("the metric says %v", n)
	}
}

func TestATokenWithoutARecordIsNeverSigned(t *testing.T) {
	o, own := minting(t)
	_, err := o.mint(shows(own), 0, "reports")
	must(t, err)
	o.write("CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
	r, err := o.mint(shows(own), 0, "reports")
	if r.GetToken() != "" {
		t.Error("a token that is not on record")
	}
	wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "ledger")
	o.write("DROP TRIGGER full")
	if _, err := o.mint(shows(own), 0, "reports"); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

// What the ledger says of an SVID is read once, also by a server that did not issue
// it, or has started again since: the table that says it is away.
func TestASecondTokenReadsNoDatabase(t *testing.T) {
	o, own := minting(t)
	other := o.boot(o.connect())
	o.restart()
	if _, err := o.mint(shows(own), 0, "reports"); err != nil {
		t.Fatal(err)
	}
	o.write("ALTER TABLE identities RENAME TO identities_away")
	defer o.write("ALTER TABLE identities_away RENAME TO identities")
	for range 3 {
		if _, err := o.mint(shows(own), 0, "reports"); err != nil {
			t.Fatalf("an SVID that was shown before: %v", err)
		}
	}
	if _, err := o.mint(shows(other), 0, "reports"); err == nil {
		t.Error("the table is not away: this test shows nothing")
	}
}

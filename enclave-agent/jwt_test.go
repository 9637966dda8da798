package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	attested "github.com/assay-project/assay/svid"
)

// MintJWTSVID answers as the test says, to who shows an SVID.
func (s *faultyServer) MintJWTSVID(ctx context.Context, r *assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
	s.mu.Lock()
	mint := s.mint
	s.mu.Unlock()
	if mint == nil {
		return s.UnimplementedAttestationServer.MintJWTSVID(ctx, r)
	}
	p, _ := peer.FromContext(ctx)
	certs := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	if len(certs) != 1 || len(certs[0].URIs) != 1 {
		return nil, status.Error(codes.Unauthenticated, "no live SVID")
	}
	return mint(r)
}

// mints makes tokens, with what a test wants to be wrong.
type mints struct {
	key    *ecdsa.PrivateKey
	kid    string
	calls  atomic.Int64
	claims func(map[string]any)
	answer func(*assayv1.MintJWTSVIDResponse)
	err    atomic.Pointer[error]
	life   time.Duration
	td     spiffeid.TrustDomain
}

func newMints(t testing.TB, s *faultyServer) *mints {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &mints{key: key, life: 5 * time.Minute, td: s.td}
	if m.kid, err = attested.JWKThumbprint(key.Public()); err != nil {
		t.Fatal(err)
	}
	jwk, err := attested.JWK(key.Public(), "jwt-svid")
	if err != nil {
		t.Fatal(err)
	}
	if s.jwks, err = json.Marshal(map[string]any{"keys": []any{jwk}}); err != nil {
		t.Fatal(err)
	}
	s.mint = m.mint
	return m
}

func (m *mints) fail(err error) { m.err.Store(&err) }

func (m *mints) mint(r *assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
	m.calls.Add(1)
	if err := m.err.Load(); err != nil && *err != nil {
		return nil, *err
	}
	id := "spiffe://" + m.td.Name() + "/orders"
	end := time.Now().Add(m.life).Truncate(time.Second)
	claims := map[string]any{"sub": id, "aud": r.GetAudience(), "exp": end.Unix(), "iat": time.Now().Unix(), "jti": fmt.Sprint(m.calls.Load())}
	if m.claims != nil {
		m.claims(claims)
	}
	out := &assayv1.MintJWTSVIDResponse{Token: m.sign(claims), SpiffeId: id, NotAfterUnixMs: end.UnixMilli()}
	if m.answer != nil {
		m.answer(out)
	}
	return out, nil
}

func (m *mints) sign(claims map[string]any) string {
	b64 := base64.RawURLEncoding.EncodeToString
	payload, _ := json.Marshal(claims)
	input := b64([]byte(`{"alg":"ES256","kid":"`+m.kid+`"}`)) + "." + b64(payload)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, m.key, sum[:])
	if err != nil {
		panic(err)
	}
	return input + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// tokenAgent is an agent at a server that mints.
func tokenAgent(t *testing.T) (*mints, *Agent, workload.SpiffeWorkloadAPIClient) {
	t.Helper()
	s := newFaultyServer(t)
	m := newMints(t, s)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	return m, a, c
}

func fetchToken(c workload.SpiffeWorkloadAPIClient, id string, audience ...string) (*workload.JWTSVIDResponse, error) {
	ctx, cancel := context.WithTimeout(withHeader(context.Background(), "true"), 15*time.Second)
	defer cancel()
	return c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: audience, SpiffeId: id})
}

func TestATokenIsMintedOnceForAllWhoAskUntilHalfOfItsLife(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	var wg sync.WaitGroup
	texts := make([]string, 20)
	for i := range texts {
		wg.Go(func() {
			r, err := fetchToken(c, "", "reports")
			if err != nil {
				t.Error(err)
				return
			}
			texts[i] = r.GetSvids()[0].GetSvid()
		})
	}
	wg.Wait()
	for _, s := range texts {
		if s != texts[0] {
			t.Error("two tokens for one question")
		}
	}
	if n := m.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	if _, err := fetchToken(c, "", "reports", "vault"); err != nil || m.calls.Load() != 2 {
		t.Errorf("other audiences are another token: %v, %d", err, m.calls.Load())
	}
	// Half of its life is over.
	real := a.members[0].tokens.now
	a.members[0].tokens.now = func() time.Time { return real().Add(151 * time.Second) }
	r, err := fetchToken(c, "", "reports")
	if err != nil || r.GetSvids()[0].GetSvid() == texts[0] || m.calls.Load() != 3 {
		t.Errorf("%v after %d questions", err, m.calls.Load())
	}
}

func TestWhileTheServerIsAwayWhatIsLeftOfATokenServes(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	first, err := fetchToken(c, "", "reports")
	if err != nil {
		t.Fatal(err)
	}
	real := a.members[0].tokens.now
	a.members[0].tokens.now = func() time.Time { return real().Add(200 * time.Second) }
	m.fail(status.Error(codes.Unavailable, "the database is away"))
	again, err := fetchToken(c, "", "reports")
	if err != nil || again.GetSvids()[0].GetSvid() != first.GetSvids()[0].GetSvid() {
		t.Errorf("an outage: %v", err)
	}
	m.fail(status.Error(codes.PermissionDenied, "policy does not grant this"))
	if _, err := fetchToken(c, "", "reports"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a denial is none: %v", err)
	}
	m.fail(status.Error(codes.Unavailable, "the database is away"))
	a.members[0].tokens.now = func() time.Time { return real().Add(295 * time.Second) }
	if _, err := fetchToken(c, "", "reports"); status.Code(err) != codes.Unavailable {
		t.Errorf("next to nothing is left of it: %v", err)
	}
	m.fail(nil)
}

// What the server refuses is not made good by what it gave before.
func TestNothingIsLeftOfATokenOnceTheServerRefusesAnother(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]error{
		"the SVID is banned, or revoked": status.Error(codes.Unauthenticated, "the client certificate is not a live SVID of this trust domain"),
		"policy has withdrawn it":        status.Error(codes.PermissionDenied, "policy does not grant this"),
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			m, a, c := tokenAgent(t)
			if _, err := fetchToken(c, "", "reports"); err != nil {
				t.Fatal(err)
			}
			real := a.members[0].tokens.now
			a.members[0].tokens.now = func() time.Time { return real().Add(200 * time.Second) }
			m.fail(refusal)
			if r, err := fetchToken(c, "", "reports"); err == nil {
				t.Errorf("refused, and handed out: %v", r)
			}
			m.fail(status.Error(codes.Unavailable, "the server is away"))
			if r, err := fetchToken(c, "", "reports"); err == nil {
				t.Errorf("refused, then away, and handed out: %v", r)
			}
		})
	}
}

// A fault of the server is no outage: what it would have said is not known.
func TestAFaultOfTheServerIsNoOutage(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Fatal(err)
	}
	real := a.members[0].tokens.now
	a.members[0].tokens.now = func() time.Time { return real().Add(200 * time.Second) }
	for code, serves := range map[codes.Code]bool{
		codes.Unavailable: true, codes.DeadlineExceeded: true, codes.ResourceExhausted: true, codes.Internal: false, codes.Aborted: false, codes.Unknown: false,
	} {
		m.fail(status.Error(code, "no token"))
		if _, err := fetchToken(c, "", "reports"); (err == nil) != serves {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestATokenOfARevokedAuthorityIsNotHandedOut(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	m := newMints(t, s)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Fatal(err)
	}
	before, _, err := a.members[0].state.view()
	if err != nil {
		t.Fatal(err)
	}

	// The authority is revoked, and the server is away: nobody would take the token.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := attested.JWK(key.Public(), "jwt-svid")
	if err != nil {
		t.Fatal(err)
	}
	b := s.bundle()
	b.Sequence, b.Revision = before.bundle.sequence+1, before.bundle.revision+1
	if b.JwtAuthorities, err = json.Marshal(map[string]any{"keys": []any{jwk}}); err != nil {
		t.Fatal(err)
	}
	if err := (&watched{member: a.members[0]}).take(&assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: b}}); err != nil {
		t.Fatal(err)
	}
	m.fail(status.Error(codes.Unavailable, "away"))
	if r, err := fetchToken(c, "", "reports"); err == nil {
		t.Errorf("a token of a revoked authority is handed out: %v", r)
	}

	// It is back, with the other authority.
	m.fail(nil)
	m.key = key
	if m.kid, err = attested.JWKThumbprint(key.Public()); err != nil {
		t.Fatal(err)
	}
	r, err := fetchToken(c, "", "reports")
	if err != nil {
		t.Fatal(err)
	}
	now, _, err := a.members[0].state.view()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attested.VerifyJWTSVID(r.GetSvids()[0].GetSvid(), now.bundle.jwt.bundle, "reports", time.Now()); err != nil {
		t.Errorf("the agent hands out a token that its own bundle refuses: %v", err)
	}
}

// The server is authenticated; its mistakes are errors here all the same, and
// nothing of them reaches a workload.
func TestATokenThatIsNotWhatWasAskedForIsNotHandedOut(t *testing.T) {
	t.Parallel()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		check  string
		change func(m *mints)
	}{
		"no token":             {"minted_token", func(m *mints) { m.answer = func(r *assayv1.MintJWTSVIDResponse) { r.Token = "" } }},
		"another key":          {"minted_token", func(m *mints) { m.key = other }},
		"an unknown key":       {"minted_token", func(m *mints) { m.kid = "unknown" }},
		"expired":              {"minted_token", func(m *mints) { m.claims = func(c map[string]any) { c["exp"] = 1 } }},
		"another audience":     {"minted_token", func(m *mints) { m.claims = func(c map[string]any) { c["aud"] = "vault" } }},
		"one audience more":    {"minted_audience", func(m *mints) { m.claims = func(c map[string]any) { c["aud"] = []string{"reports", "vault"} } }},
		"another trust domain": {"minted_token", func(m *mints) { m.claims = func(c map[string]any) { c["sub"] = "spiffe://other.example/orders" } }},
		"another workload":     {"minted_id", func(m *mints) { m.claims = func(c map[string]any) { c["sub"] = c["sub"].(string) + "/x" } }},
		"another name of it":   {"minted_id", func(m *mints) { m.answer = func(r *assayv1.MintJWTSVIDResponse) { r.SpiffeId += "/x" } }},
		"another end":          {"minted_validity", func(m *mints) { m.answer = func(r *assayv1.MintJWTSVIDResponse) { r.NotAfterUnixMs++ } }},
		"longer than its SVID": {"minted_validity", func(m *mints) { m.life = 2 * time.Hour }},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			m, a, _ := tokenAgent(t)
			c.change(m)
			now, _, err := a.members[0].state.view()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.members[0].tokens.mint(context.Background(), now.svids[0], now.bundle, []string{"reports"}); attest.CheckOf(err) != c.check {
				t.Errorf("got %v, want %s", err, c.check)
			}
			_, client := callAgent(t, a)
			if r, err := fetchToken(client, "", "reports"); status.Code(err) != codes.Unavailable || len(r.GetSvids()) != 0 {
				t.Errorf("a workload gets %v, %v", r, err)
			}
		})
	}
}

func TestTheServersRefusalsReachTheWorkloadAsTheSpecificationSays(t *testing.T) {
	t.Parallel()
	m, _, c := tokenAgent(t)
	for server, want := range map[codes.Code]codes.Code{
		codes.PermissionDenied: codes.PermissionDenied, codes.InvalidArgument: codes.InvalidArgument, codes.Unimplemented: codes.Unimplemented,
		codes.Unauthenticated: codes.Unavailable, codes.Unavailable: codes.Unavailable, codes.Aborted: codes.Unavailable, codes.Internal: codes.Unavailable,
		codes.ResourceExhausted: codes.Unavailable, codes.Canceled: codes.Unavailable, codes.DeadlineExceeded: codes.Unavailable,
	} {
		m.fail(status.Error(server, "for the server's log"))
		audience := fmt.Sprint("reports-", int(server))
		if _, err := fetchToken(c, "", audience); status.Code(err) != want {
			t.Errorf("%s: got %v, want %s", server, err, want)
		}
		// But for policy's, which is remembered for some seconds, no refusal is kept.
		m.fail(nil)
		if _, err := fetchToken(c, "", audience); server != codes.PermissionDenied && err != nil {
			t.Errorf("after %s: %v", server, err)
		}
	}
}

func TestWhatAWorkloadAsksForMustBeWellFormed(t *testing.T) {
	t.Parallel()
	m, _, c := tokenAgent(t)
	for name, r := range map[string]*workload.JWTSVIDRequest{
		"no audience":          {},
		"an empty audience":    {Audience: []string{"reports", ""}},
		"a long audience":      {Audience: []string{strings.Repeat("a", 256)}},
		"an audience of words": {Audience: []string{"a b"}},
		"too many audiences":   {Audience: []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"}},
		"no SPIFFE ID":         {Audience: []string{"reports"}, SpiffeId: "orders"},
	} {
		if _, err := c.FetchJWTSVID(withHeader(context.Background(), "true"), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := m.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	if _, err := fetchToken(c, "spiffe://"+testDomain.Name()+"/another", "reports"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an identity that is not there: %v", err)
	}
	r, err := fetchToken(c, "spiffe://"+testDomain.Name()+"/orders", "reports", "reports")
	if err != nil || len(r.GetSvids()) != 1 {
		t.Errorf("the one that is there: %v, %v", r, err)
	}
}

func TestValidationIsThatOfPackageSVID(t *testing.T) {
	t.Parallel()
	m, _, c := tokenAgent(t)
	ctx := withHeader(context.Background(), "true")
	good := map[string]any{"sub": "spiffe://" + testDomain.Name() + "/other", "aud": []string{"x", "y"}, "exp": time.Now().Add(time.Minute).Unix(), "nested": map[string]any{"a": []int{1, 2}}}
	r, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "y", Svid: m.sign(good)})
	if err != nil {
		t.Fatal(err)
	}
	if r.GetSpiffeId() != good["sub"] || r.GetClaims().AsMap()["nested"].(map[string]any)["a"].([]any)[1] != 2.0 || len(r.GetClaims().AsMap()) != len(good) {
		t.Errorf("got %v", r)
	}
	for name, req := range map[string]*workload.ValidateJWTSVIDRequest{
		"no audience":      {Svid: m.sign(good)},
		"no token":         {Audience: "y"},
		"another audience": {Audience: "z", Svid: m.sign(good)},
		"no JWT":           {Audience: "y", Svid: "token"},
		"a changed one":    {Audience: "y", Svid: m.sign(good) + "A"},
		"a foreign one":    {Audience: "y", Svid: m.sign(map[string]any{"sub": "spiffe://other.example/a", "aud": "y", "exp": time.Now().Add(time.Minute).Unix()})},
		"expired":          {Audience: "y", Svid: m.sign(map[string]any{"sub": good["sub"], "aud": "y", "exp": time.Now().Add(-time.Second).Unix()})},
	} {
		_, err := c.ValidateJWTSVID(ctx, req)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		// The check that failed is named, and once.
		if _, why, ok := strings.Cut(status.Convert(err).Message(), "not a valid JWT-SVID: "); ok {
			if check, _, _ := strings.Cut(why, ":"); strings.Contains(check, " ") || strings.Count(why, check+":") != 1 {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A ban, or another policy: the server is asked again, whatever is kept.
func TestTokensAreForgottenWhenTheServerAsksForANewAttestation(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	first, err := fetchToken(c, "", "reports")
	if err != nil {
		t.Fatal(err)
	}
	if err := (&watched{member: a.members[0]}).take(&assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: assayv1.Reattest_REASON_BANNED}}}); err != nil {
		t.Fatal(err)
	}
	m.fail(status.Error(codes.Unauthenticated, "not a live SVID"))
	if r, err := fetchToken(c, "", "reports"); err == nil {
		t.Errorf("a token of before is handed out: %v", r)
	}
	m.fail(nil)
	if r, err := fetchToken(c, "", "reports"); err != nil || r.GetSvids()[0].GetSvid() == first.GetSvids()[0].GetSvid() {
		t.Errorf("got %v", err)
	}
}

func TestTheTokensKeptAreBounded(t *testing.T) {
	t.Parallel()
	at := time.Now()
	m := newMinter(func() time.Time { return at }, testLog(t), nil, nil, nil)
	add := func(i int, fresh time.Time) {
		m.keep(tokenKey{"id", fmt.Sprint(i)}, token{text: "t", notAfter: at.Add(time.Hour), fresh: fresh})
	}
	for i := range 3 * maxTokens {
		add(i, at.Add(time.Minute))
	}
	if len(m.tokens) != maxTokens {
		t.Errorf("%d tokens are kept", len(m.tokens))
	}
	at = at.Add(2 * time.Minute)
	add(-1, at.Add(time.Minute))
	if len(m.tokens) != 1 {
		t.Errorf("%d tokens are kept, all others are past half of their life", len(m.tokens))
	}
}

func TestEachSVIDHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Fatal(err)
	}
	link := func() *tokenLink {
		a.members[0].tokens.mu.Lock()
		defer a.members[0].tokens.mu.Unlock()
		for _, l := range a.members[0].tokens.links {
			return l
		}
		return nil
	}
	before := link()
	if _, err := fetchToken(c, "", "vault"); err != nil || link() != before {
		t.Errorf("the connection is not used again: %v", err)
	}
	serial := served(t, a)
	a.members[0].plan.advance(a.members[0].time.now())
	eventually(t, "a renewal", func() bool { return served(t, a) != serial })
	if _, err := fetchToken(c, "", "another"); err != nil {
		t.Fatal(err)
	}
	if after := link(); after == before || !before.retired || before.GetState().String() != "SHUTDOWN" {
		t.Errorf("the new SVID is shown on the old connection (%s)", before.GetState())
	}
	if m.calls.Load() != 3 {
		t.Errorf("%d tokens", m.calls.Load())
	}
	a.members[0].tokens.close()
	if l := link(); l != nil {
		t.Error("a connection is left after the stop")
	}
	if _, err := a.members[0].tokens.connect(before.svid); err == nil {
		t.Error("and one can be made")
	}
}

func TestAServersJWTAuthoritiesArePublicSigningKeys(t *testing.T) {
	t.Parallel()
	x := base64.RawURLEncoding.EncodeToString(big.NewInt(1).FillBytes(make([]byte, 32)))
	key := func(change func(map[string]any)) []byte {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		jwk, err := attested.JWK(k.Public(), "jwt-svid")
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{}
		for name, v := range jwk {
			m[name] = v
		}
		change(m)
		b, err := json.Marshal(map[string]any{"keys": []any{m}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, jwks := range map[string][]byte{
		"no JSON":       []byte("{"),
		"an array":      []byte("[]"),
		"too long":      []byte(`{"keys":[],"x":"` + strings.Repeat("x", maxJWKS) + `"}`),
		"too many":      []byte(`{"keys":[` + strings.TrimSuffix(strings.Repeat(`{"kty":"EC","kid":"a"},`, maxJWTAuthorities+1), ",") + `]}`),
		"without id":    key(func(m map[string]any) { delete(m, "kid") }),
		"private":       key(func(m map[string]any) { m["d"] = x }),
		"symmetric":     []byte(`{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}`),
		"for X.509":     key(func(m map[string]any) { m["use"] = "x509-svid" }),
		"for a WIT":     key(func(m map[string]any) { m["use"] = "wit-svid" }),
		"use a number":  key(func(m map[string]any) { m["use"] = 1 }),
		"off the curve": key(func(m map[string]any) { m["x"] = x }),
		"one id twice":  []byte(`{"keys":[{"kty":"EC","kid":"a"},{"kty":"EC","kid":"a"}]}`),
	} {
		if _, err := checkJWTAuthorities(jwks, testDomain); attest.CheckOf(err) != "bundle_jwt_authorities" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, err := checkJWTAuthorities(key(func(map[string]any) {}), testDomain); err != nil || len(a.bundle.JWTAuthorities()) != 1 {
		t.Errorf("a good one: %v", err)
	}
	if a, err := checkJWTAuthorities(nil, testDomain); err != nil || string(a.raw) != noAuthorities {
		t.Errorf("none: %v", err)
	}
}

var _ grpc.ClientConnInterface = (*tokenLink)(nil)

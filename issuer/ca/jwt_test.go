package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// holder is a live X.509-SVID, and what a token of it says.
type holder struct {
	*fixture
	leaf    *x509.Certificate
	serial  string
	id      spiffeid.ID
	claims  attest.Claims
	content TokenContent
}

func holding(t testing.TB, change ...func(*Config)) *holder {
	t.Helper()
	f := start(t, change...)
	rec := f.record(t, attestedtest.Request{})
	claims := rec.Claims()
	issued, err := f.ca.Issue(t.Context(), rec)
	must(t, err)
	leaf, err := x509.ParseCertificate(issued.SVIDs[0].Chain[0])
	must(t, err)
	result, err := svid.ResultOf(leaf, issued.SVIDs[0].ID, f.ca.VerifierKeys(), f.Now())
	must(t, err)
	return &holder{f, leaf, issued.SVIDs[0].Serial, issued.SVIDs[0].ID, claims, TokenContent{
		Result: *result, Issuer: "https://oidc.example.org", Attributes: result.Attributes, AWSTags: result.Attributes,
	}}
}

// token puts a token on record, changed.
func (h *holder) token(t testing.TB, change ...func(*ledger.Token)) *ledger.RecordedToken {
	t.Helper()
	tok := ledger.Token{
		SPIFFEID: h.id.String(), Audience: []string{"reports"}, Parent: h.serial, Instance: h.claims.Instance(),
		IssuedAt: h.Now(), NotAfter: h.Now().Add(5 * time.Minute), Policy: ledger.Policy{Name: "prod", Revision: 7, Digest: make([]byte, 32)},
	}
	for _, c := range change {
		c(&tok)
	}
	r, err := h.ledger.RecordToken(t.Context(), tok)
	must(t, err)
	return r
}

func TestATokenOfTheCAIsWhatIsOnRecord(t *testing.T) {
	h := holding(t)
	r := h.token(t, func(x *ledger.Token) { x.Audience = []string{"reports", "vault"} })
	token, err := h.ca.IssueJWT(t.Context(), r, h.content)
	must(t, err)
	on := r.Token()
	got, err := svid.VerifyJWT(token, h.ca.Bundle().JWTBundle(), "vault", h.Now(), svid.Simulated(), svid.ID(h.id), svid.Attribute("team", "core"))
	must(t, err)
	if got.Token.ID != on.ID || got.Serial() != h.serial || !got.Token.Expiry.Equal(on.NotAfter) || !slices.Equal(got.Token.Audience, on.Audience) || got.Token.Issuer != "https://oidc.example.org" {
		t.Errorf("got %+v of %+v", got.Token, on)
	}
	if diff := fmt.Sprint(got.Result.Measurements); diff != fmt.Sprint(h.content.Result.Measurements) || got.Result.PolicyDigest.String() != h.content.Result.PolicyDigest.String() {
		t.Errorf("got %+v", got.Result)
	}
	want, err := svid.JWKThumbprint(h.jwt().public)
	must(t, err)
	if got.Token.KeyID != want {
		t.Errorf("kid %s, want the thumbprint %s", got.Token.KeyID, want)
	}
	limit, err := h.ca.TokenLimit(t.Context())
	must(t, err)
	if !limit.Equal(h.jwt().row.NotAfter) {
		t.Errorf("limit %s", limit)
	}
}

func (f *fixture) jwt() *authority { return f.ca.now.Load().signing[store.JWT] }

func TestATokenIsNotSignedForWhatIsNotOnRecord(t *testing.T) {
	t.Run("token_record", func(t *testing.T) {
		h := holding(t)
		_, err := h.ca.IssueJWT(t.Context(), &ledger.RecordedToken{}, h.content)
		wantCheck(t, err, "token_record")
		_, err = h.ca.IssueJWT(t.Context(), nil, h.content)
		wantCheck(t, err, "token_record")
		r := h.token(t)
		_, err = h.ca.IssueJWT(t.Context(), r, h.content)
		must(t, err)
		_, err = h.ca.IssueJWT(t.Context(), r, h.content)
		wantCheck(t, err, "token_record")
	})
	t.Run("token_trust_domain", func(t *testing.T) {
		h := holding(t)
		r := h.token(t)
		h.ca.td = spiffeid.RequireTrustDomainFromString("simulated.other.example")
		_, err := h.ca.IssueJWT(t.Context(), r, h.content)
		wantCheck(t, err, "token_trust_domain")
	})
	t.Run("token_kind", func(t *testing.T) {
		h := holding(t)
		h.content.Result.Simulated = false
		_, err := h.ca.IssueJWT(t.Context(), h.token(t), h.content)
		wantCheck(t, err, "token_kind")
	})
	for name, change := range map[string]func(*ledger.Token){
		"reserved":         func(x *ledger.Token) { x.SPIFFEID = "spiffe://" + td + "/assay/server" },
		"no SPIFFE ID":     func(x *ledger.Token) { x.SPIFFEID = "spiffe://" + td + "/a//b" },
		"another workload": func(x *ledger.Token) { x.SPIFFEID = "spiffe://" + td + "/orders/admin" },
	} {
		t.Run("token_subject "+name, func(t *testing.T) {
			h := holding(t)
			_, err := h.ca.IssueJWT(t.Context(), h.token(t, change), h.content)
			wantCheck(t, err, "token_subject")
		})
	}
	for name, change := range map[string]func(*ledger.Token){
		"longer than any token": func(x *ledger.Token) { x.NotAfter = x.IssuedAt.Add(time.Hour + time.Second) },
		"longer than the authority": func(x *ledger.Token) {
			x.IssuedAt = x.IssuedAt.AddDate(0, 0, 30)
			x.NotAfter = x.IssuedAt.Add(time.Minute)
		},
		"before the authority": func(x *ledger.Token) {
			x.IssuedAt = x.IssuedAt.AddDate(-1, 0, 0)
			x.NotAfter = x.IssuedAt.Add(time.Minute)
		},
	} {
		t.Run("token_validity "+name, func(t *testing.T) {
			h := holding(t)
			_, err := h.ca.IssueJWT(t.Context(), h.token(t, change), h.content)
			wantCheck(t, err, "token_validity")
		})
	}
	t.Run("token_encode", func(t *testing.T) { // what a relying party would refuse
		h := holding(t)
		h.content.Result.Policy = ""
		_, err := h.ca.IssueJWT(t.Context(), h.token(t), h.content)
		wantCheck(t, err, "token_encode")
	})
}

// away is the signer of a key that is elsewhere.
type away struct {
	crypto.PublicKey
	err error
}

func (a away) Public() crypto.PublicKey { return a.PublicKey }
func (a away) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, a.err
}

func TestASignerThatIsAwayIsUnavailableAndOneThatErrsIsAFault(t *testing.T) {
	h := holding(t)
	key := h.jwt().public
	h.jwt().signer = away{key, &attest.Error{Kind: attest.Unavailable, Check: "signer", Err: errors.New("no connection")}}
	if _, err := h.ca.IssueJWT(t.Context(), h.token(t), h.content); attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "signer" {
		t.Errorf("got %v", err)
	}
	h.jwt().signer = away{key, errors.New("smoke")}
	if _, err := h.ca.IssueJWT(t.Context(), h.token(t), h.content); attest.KindOf(err) != attest.Internal {
		t.Errorf("got %v", err)
	}
}

func TestAnAuthorityThatHasRetiredSignsNoMoreTokens(t *testing.T) {
	h := holding(t)
	h.jwt().usage.close()
	if _, err := h.ca.IssueJWT(t.Context(), h.token(t), h.content); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("got %v", err)
	}
}

// BenchmarkIssueJWT is a token, from its record on, as a ratio to the P-256
// signature that it cannot avoid; and with its record.
func BenchmarkIssueJWT(b *testing.B) {
	h := holding(b)
	key := newKey(b)
	sum := sha256.Sum256([]byte("x"))
	const rounds = 500
	begun := time.Now()
	for range rounds {
		if _, err := ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			b.Fatal(err)
		}
	}
	bare := float64(time.Since(begun)) / rounds

	b.Run("sign", func(b *testing.B) {
		const batch = 256
		var spent time.Duration
		b.ReportAllocs()
		for left := b.N; left > 0; left -= batch {
			b.StopTimer()
			recs := make([]*ledger.RecordedToken, min(left, batch))
			for i := range recs {
				recs[i] = h.token(b)
			}
			b.StartTimer()
			at := time.Now()
			for _, r := range recs {
				if _, err := h.ca.IssueJWT(context.Background(), r, h.content); err != nil {
					b.Fatal(err)
				}
			}
			spent += time.Since(at)
		}
		b.ReportMetric(float64(spent)/float64(b.N)/bare, "x-ES256-sign")
	})
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("record-and-sign-%d", callers), func(b *testing.B) {
			b.SetParallelism(callers)
			b.ReportAllocs()
			begun := time.Now()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := h.ca.IssueJWT(context.Background(), h.token(b), h.content); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(time.Since(begun))/float64(b.N)/bare, "x-ES256-sign")
		})
	}
}

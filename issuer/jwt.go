package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/lru"
	"github.com/assay-project/assay/issuer/ca"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/svid"
)

// What a request may ask for.
const (
	maxTokenAudiences = 8
	maxTokenAudience  = 255 // bytes of one; AWS takes no more
)

// minTokenLife is the least that must be left of all that bounds a token: it is to be
// shown to somebody.
const minTokenLife = time.Second

// tokenOffice is what minting remembers and counts.
type tokenOffice struct {
	// results are the verified results of the certificates that asked last.
	results *lru.Cache[[sha256.Size]byte, verifiedResult]
	minted  *prometheus.CounterVec // outcome
}

// verifiedResult is a result, and the verifier-keys document under which it
// held: what a newer one no longer names is verified again.
type verifiedResult struct {
	result   *svid.Result
	sequence uint64
}

func newTokenOffice(m *Metrics) *tokenOffice {
	o := &tokenOffice{
		results: lru.New[[sha256.Size]byte, verifiedResult](maxHeld),
		minted:  m.CounterVec("assay_jwt_svids_total", "JWT-SVIDs that were asked for, by what became of it: issued, or the kind of the refusal.", "outcome"),
	}
	o.minted.WithLabelValues("issued").Add(0)
	return o
}

// MintJWTSVID mints one token for the holder of a live X.509-SVID, about that SVID
// (docs/spec/attested-jwt-svid.md, section Minting). It reads no database for an SVID
// that was shown lately.
func (s *Server) MintJWTSVID(ctx context.Context, r *assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
	// 1. A handshake is not a lease: what the certificate is worth now.
	p, err := s.livePeer(ctx)
	if err != nil {
		s.minting.minted.WithLabelValues(strings.ToLower(status.Code(err).String())).Inc()
		return nil, err
	}
	out, err := s.mint(ctx, p, r)
	if errors.Is(err, errNotLive) { // it was, when the token was asked for
		err = s.notLive(ctx, err)
		s.minting.minted.WithLabelValues(strings.ToLower(status.Code(err).String())).Inc()
		return nil, err
	}
	if err == nil {
		s.minting.minted.WithLabelValues("issued").Inc()
		s.log.DebugContext(ctx, "minted a token", "spiffe_id", out.GetSpiffeId(), "audience", strings.Join(r.GetAudience(), " "))
		return out, nil
	}
	if ctx.Err() != nil {
		s.minting.minted.WithLabelValues("aborted").Inc()
		return nil, status.Error(codes.Canceled, "the client left")
	}
	reference := ledger.NewReference()
	kind := attest.KindOf(err)
	s.minting.minted.WithLabelValues(kind.String()).Inc()
	attrs := []any{"reference", reference, "spiffe_id", p.ID.String(), "serial", p.serial, "kind", kind.String(), "check", attest.CheckOf(err), "error", clip(err.Error(), 512)}
	if kind == attest.Internal {
		s.log.ErrorContext(ctx, "no token", attrs...)
	} else if s.logLimit.Allow() {
		s.log.InfoContext(ctx, "no token", attrs...)
	} else {
		s.metrics.unlogged.Inc()
	}
	return nil, refusal(err, reference)
}

// mint is what follows once the peer is known. The checks:
//
//	token_rate      Unavailable: not too many tokens for one instance
//	token_audience  Malformed: 1 to 8 audiences, each of 1 to 255 printable characters, none twice
//	token_ttl       Malformed: a lifetime that is not negative
//	policy          Denied: the policy in force grants the SPIFFE ID, and tokens for all audiences
//	result_…        Internal: the attestation result in the certificate holds
//	token_ending    Stale: a second is left of certificate and authority, of the evidence's greatest age, and of what policy trusts
//	policy_changes  Unavailable: the policy does not change each time the token is put on record
//
// The error is errNotLive where the SVID was taken back meanwhile.
func (s *Server) mint(ctx context.Context, p *livePeerFacts, r *assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
	if err := s.allowToken(p.instance); err != nil {
		return nil, err
	}

	// 2. What it asks for.
	audiences, ttl, err := wanted(r)
	if err != nil {
		return nil, err
	}
	for range maxTokenTries {
		out, err := s.mintUnder(ctx, s.policy.Current(), p, audiences, ttl)
		if !errors.Is(err, errOvertaken) {
			return out, err
		}
	}
	return nil, &attest.Error{Kind: attest.Unavailable, Check: "policy_changes", Err: errOvertaken, Hint: "try again"}
}

// maxTokenTries is how many policies may come into force while one token is put on
// record.
const maxTokenTries = 3

// errOvertaken is a token on record that is not signed: another policy came into
// force while it was being written.
var errOvertaken = errors.New("another policy came into force meanwhile")

// mintUnder mints a token as one policy has it, which is in force still when it is
// signed; errOvertaken where it is not.
func (s *Server) mintUnder(ctx context.Context, decides *policy.Bundle, p *livePeerFacts, audiences []string, ttl time.Duration) (*assayv1.MintJWTSVIDResponse, error) {
	// 3. What the policy in force allows. The ledger keeps the claims.
	identity, ok := p.granted(decides, s.now())
	if !ok || identity.JWT == nil {
		return nil, deniedToken("the policy in force gives %s no tokens", p.ID)
	}
	for _, a := range audiences {
		if !slices.Contains(identity.JWT.Audiences, a) {
			return nil, deniedToken("the policy in force gives %s no tokens for %q", p.ID, a)
		}
	}

	// 4. What the certificate says of the attestation.
	result, err := s.resultOf(p)
	if err != nil {
		return nil, err
	}

	// 5. How long.
	now := s.now().UTC()
	at := now.Truncate(time.Second)
	limit, err := s.ca.TokenLimit(ctx)
	if err != nil {
		return nil, err
	}
	for _, end := range []time.Time{p.Cert.NotAfter, identity.ends(result.EvidenceTime)} {
		if end.Before(limit) {
			limit = end
		}
	}
	if limit.Sub(now) < minTokenLife {
		return nil, &attest.Error{Kind: attest.Stale, Check: "token_ending", Err: errors.New("the X.509-SVID, its evidence, or what policy trusts of it ends too soon"), Hint: "attest again, and ask with the new one"}
	}
	end := at.Add(min(s.tokenLife(identity.JWT), ttl))
	if limit.Before(end) {
		end = limit.UTC().Truncate(time.Second)
	}

	// 6. On record, durably, before the signature.
	digest := decides.Digest()
	recorded, err := s.ledger.RecordToken(ctx, ledger.Token{
		SPIFFEID: p.ID.String(), Audience: audiences, Parent: p.serial, Instance: p.instance, IssuedAt: at, NotAfter: end,
		Policy: ledger.Policy{Name: decides.Name(), Revision: decides.Revision(), Digest: digest[:]},
	})
	if err != nil {
		return nil, err
	}

	// 7. What was asked in the beginning, once more: writing takes as long as the
	// database does, and a ban or a policy that came meanwhile is in time.
	if err := s.stands(p.Cert, p.heldFacts, s.now()); err != nil {
		return nil, err
	}
	if s.policy.Current() != decides {
		return nil, errOvertaken
	}

	// 8. The signature.
	attributes := stillGiven(result.Attributes, identity.Attributes)
	token, err := s.ca.IssueJWT(ctx, recorded, ca.TokenContent{
		Result: *result, Issuer: s.cfg.JWT.Issuer, Attributes: attributes, AWSTags: only(attributes, identity.JWT.AWSTags),
	})
	if err != nil {
		return nil, err
	}
	return &assayv1.MintJWTSVIDResponse{Token: token, SpiffeId: p.ID.String(), NotAfterUnixMs: end.UnixMilli()}, nil
}

// wanted checks a request.
func wanted(r *assayv1.MintJWTSVIDRequest) (audiences []string, ttl time.Duration, err error) {
	bad := func(check, format string, args ...any) ([]string, time.Duration, error) {
		return nil, 0, &attest.Error{Kind: attest.Malformed, Check: check, Err: fmt.Errorf(format, args...)}
	}
	if n := len(r.GetAudience()); n == 0 || n > maxTokenAudiences {
		return bad("token_audience", "%d audiences, want 1 to %d", n, maxTokenAudiences)
	}
	for i, a := range r.GetAudience() {
		switch {
		case a == "" || len(a) > maxTokenAudience || strings.ContainsFunc(a, func(c rune) bool { return c <= ' ' || c > '~' }):
			return bad("token_audience", "audience %d: want 1 to %d printable ASCII characters without spaces", i, maxTokenAudience)
		case slices.Contains(r.GetAudience()[:i], a):
			return bad("token_audience", "audience %d is there twice", i)
		}
	}
	switch sec := r.GetTtlSeconds(); {
	case sec < 0:
		return bad("token_ttl", "a lifetime of %d seconds", sec)
	case sec == 0:
		ttl = policy.MaxJWTTTL
	default:
		ttl = time.Duration(min(sec, int64(policy.MaxJWTTTL/time.Second))) * time.Second
	}
	return slices.Clone(r.GetAudience()), ttl, nil
}

// tokenLife is how long a token of the identity lives at most.
func (s *Server) tokenLife(j *policy.JWT) time.Duration {
	return min(j.TTL, s.settings().JWT.MaxTTL)
}

// deniedToken is a denial; only operators see why.
func deniedToken(format string, args ...any) error {
	return &attest.Error{Kind: attest.Denied, Check: "policy", Err: fmt.Errorf(format, args...)}
}

// resultOf is the attestation result in the peer's certificate. That it does not
// hold is no mistake of the peer's: the certificate is one that we signed.
func (s *Server) resultOf(p *livePeerFacts) (*svid.Result, error) {
	keys := s.ca.VerifierKeys()
	sum := sha256.Sum256(p.Cert.Raw)
	if v, ok := s.minting.results.Get(sum); ok && v.sequence == keys.Sequence {
		return v.result, nil
	}
	result, err := svid.ResultOf(p.Cert, p.ID, keys, s.now())
	if err != nil {
		return nil, internal(attest.CheckOf(err), fmt.Errorf("the result in the certificate %s: %w", p.serial, err))
	}
	s.minting.results.Put(sum, verifiedResult{result, keys.Sequence})
	return result, nil
}

// stillGiven are the attributes on which the result and the policy in force
// agree: what was withdrawn is not claimed again.
func stillGiven(result, now map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range result {
		if w, ok := now[k]; ok && w == v {
			out[k] = v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// only picks members by name.
func only(m map[string]string, names []string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		if v, ok := m[n]; ok {
			out[n] = v
		}
	}
	return out
}

package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/svid"
)

// TokenContent is what a JWT-SVID says beside what is on record of it.
type TokenContent struct {
	// Result is that of the live X.509-SVID which asked: verified, and about the
	// SPIFFE ID on record.
	Result     svid.Result
	Issuer     string            // iss; empty leaves it out
	Attributes map[string]string // those of the result that the policy in force still gives
	AWSTags    map[string]string // AWS session tags
}

// TokenLimit is when the JWT authority that signs now ends: no token ends later.
// The error is of kind Unavailable while there is none. It reads no database.
func (c *CA) TokenLimit(ctx context.Context) (time.Time, error) {
	a, err := c.jwtAuthority(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return a.row.NotAfter, nil
}

// superseded is how often an authority may retire while it is asked to sign.
const superseded = 4

// IssueJWT signs the JWT-SVID that a record allows, and spends the record. Name,
// audiences, id and times come from the record, never from a request. A record whose
// signature failed stays a token that nobody has. Errors are of kind Internal, or
// Unavailable while there is no authority or its signer is away. The checks:
//
//	token_record        a durable record, for the first time
//	token_trust_domain  of this trust domain
//	token_kind          a result of the trust domain's kind, hardware or simulated
//	token_subject       a SPIFFE ID that a grant may yield, and the result is about it
//	token_validity      no longer than MaxTokenTTL, and within the authority's validity
func (c *CA) IssueJWT(ctx context.Context, r *ledger.RecordedToken, t TokenContent) (string, error) {
	if err := r.Spend(); err != nil {
		return "", internal("token_record", err)
	}
	if r.TrustDomain() != c.td.Name() {
		return "", internal("token_trust_domain", fmt.Errorf("the record is of %s, this is the authority of %s", r.TrustDomain(), c.td.Name()))
	}
	if t.Result.Simulated != c.cfg.Simulated {
		return "", internal("token_kind", errors.New("the result is of the other kind (hardware, simulated) than the trust domain"))
	}
	on := r.Token()
	id, err := spiffeid.FromString(on.SPIFFEID)
	if err == nil {
		_, err = checkID(id, c.td)
	}
	if err == nil && t.Result.Subject != on.SPIFFEID {
		err = fmt.Errorf("the result is about %s", t.Result.Subject)
	}
	if err != nil {
		return "", internal("token_subject", fmt.Errorf("a token for %.140q: %w", on.SPIFFEID, err))
	}
	if life := on.NotAfter.Sub(on.IssuedAt); life > c.cfg.MaxTokenTTL {
		return "", internal("token_validity", fmt.Errorf("a token of %s, at most %s are signed", life, c.cfg.MaxTokenTTL))
	}
	token := &svid.JWT{
		ID: id, Issuer: t.Issuer, Audience: on.Audience, TokenID: on.ID, IssuedAt: on.IssuedAt, Expiry: on.NotAfter,
		Serial: on.Parent, Result: t.Result, Attributes: t.Attributes, AWSTags: t.AWSTags,
	}
	for range superseded {
		out, err := c.signToken(ctx, token)
		if errors.Is(err, errSuperseded) {
			continue // another signs by now
		}
		return out, err
	}
	c.lookSoon() // as in Issue
	return "", &attest.Error{Kind: attest.Unavailable, Check: "authority_not_ready", Err: errSuperseded}
}

func (c *CA) signToken(ctx context.Context, t *svid.JWT) (string, error) {
	a, err := c.jwtAuthority(ctx)
	if err != nil {
		return "", err
	}
	if t.Expiry.After(a.row.NotAfter) || t.IssuedAt.Before(a.row.NotBefore) {
		return "", internal("token_validity", fmt.Errorf("the token is valid from %s to %s, the authority %s from %s to %s", t.IssuedAt.Format(time.RFC3339), t.Expiry.Format(time.RFC3339),
			a.row.ID, a.row.NotBefore.Format(time.RFC3339), a.row.NotAfter.Format(time.RFC3339)))
	}
	done, err := a.use(t.Expiry)
	if err != nil {
		return "", err
	}
	defer done()
	return t.Sign(a.signer)
}

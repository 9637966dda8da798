package issuer

import (
	"errors"

	"github.com/assay-project/assay/issuer/ca"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/policy"
)

// An agent renews between these parts of the lifetime, in hundredths. It draws
// the moment once for each SVID, so that agents that booted together part.
const (
	renewEarliest = 45
	renewLatest   = 55
)

// answer is step 10.
func (a *attestation) answer(g *policy.Grant, issued *ca.Issued) error {
	if len(issued.SVIDs) == 0 {
		return internal("issue", errors.New("a grant without an SVID"))
	}
	out := &assayv1.Issued{
		Svids:      make([]*assayv1.X509SVID, len(issued.SVIDs)),
		Checkpoint: a.ledger.LatestCheckpoint(),
		More:       uint32(max(g.More(), 0)),
		Reference:  a.reference,
	}
	granted := map[int]policy.Issue{}
	for _, is := range g.Issues() {
		granted[is.Key] = is
	}
	end := issued.SVIDs[0].NotAfter
	for i, svid := range issued.SVIDs {
		is, ok := granted[svid.Key]
		if !ok || is.Identity.SPIFFEID != svid.ID.String() {
			return internal("issue", errors.New("an SVID that was not granted")) // for whom it is would not be known
		}
		out.Svids[i] = &assayv1.X509SVID{
			Key:            uint32(svid.Key),
			SpiffeId:       svid.ID.String(),
			Chain:          svid.Chain,
			NotAfterUnixMs: svid.NotAfter.UnixMilli(),
			Selectors:      selectors(is.Identity.Selectors),
			KeysOnDisk:     is.Identity.KeysOnDisk,
			Hint:           is.Identity.Hint,
		}
		a.issued = append(a.issued, svid.ID.String())
		if svid.NotAfter.Before(end) {
			end = svid.NotAfter
		}
	}
	var err error
	if out.Bundle, err = a.trustBundle(); err != nil {
		return internal("bundle", err)
	}
	now := a.now()
	life := max(end.Sub(now), 0)
	out.RenewAfterUnixMs = now.Add(life * renewEarliest / 100).UnixMilli()
	out.RenewBeforeUnixMs = now.Add(life * renewLatest / 100).UnixMilli()
	return a.stream.Send(&assayv1.AttestResponse{Message: &assayv1.AttestResponse_Issued{Issued: out}})
}

// selectors are the processes that an agent may hand an SVID to.
func selectors(in []policy.Selector) []*assayv1.Selector {
	out := make([]*assayv1.Selector, len(in))
	for i, s := range in {
		out[i] = &assayv1.Selector{Type: s.Type, Value: s.Value}
	}
	return out
}

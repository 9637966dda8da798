package ledger

import (
	"context"
	"errors"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifiers"
)

// Denial is evidence that verified, and that policy refused.
type Denial struct {
	Verified *verifiers.Verified // what was refused; it may be spent
	Decision policy.Decision     // of the *policy.Denied
	Origin
}

// maxDenialQueue bounds the denials that wait for the writer: those beyond are
// dropped, and counted, so that denials never hold up an issuance.
const maxDenialQueue = 64

type denialRequest struct {
	denial   store.Denial
	evidence *store.Evidence
	done     chan error
}

// Deny keeps a denial for the operator to look at, and returns when it is
// durable: kept is true then. It is false, without an error, when a quota or a
// full queue left it out. Whatever it returns, the agent is denied; nothing of a
// denial is chained.
func (l *Ledger) Deny(ctx context.Context, d Denial) (kept bool, err error) {
	claims := d.Verified.Claims()
	if claims.Instance() == "" {
		return false, internal("ledger_denial", errors.New("a denial needs verified evidence: others are for Reject"))
	}
	def(&d.Reference, NewReference())
	if !isDrawn(d.Reference) {
		return false, internal("ledger_denial", errors.New("not a reference"))
	}
	e := l.describe(claims, d.Verified.Challenge(), d.Decision, d.Origin)
	digest := d.Verified.EvidenceDigest()
	e.Outcome, e.VerifiedAt, e.EvidenceDigest = Denied, d.Verified.At().UTC(), digest[:]

	q, instance := *l.quotas.Load(), string(e.Instance)
	if !l.perDenial.take(instance, e.Time, q.DenialsPerInstance, q.DenialsPerHour) {
		l.counters.denialsDropped.Add(1)
		return false, nil
	}
	ev := d.Verified.Evidence()
	e.EvidenceKept = l.perEvidence.take(instance, e.Time, q.EvidencePerInstance, 0) && l.room(&l.deniedBytes, ev)
	if !e.EvidenceKept {
		l.counters.evidenceDropped.Add(1)
	}
	payload, err := e.encode()
	if err != nil {
		return false, internal("ledger_denial", err)
	}
	if !l.denialPayload.take(int64(len(payload))) {
		l.counters.denialsDropped.Add(1)
		return false, nil
	}
	req := &denialRequest{done: make(chan error, 1), denial: store.Denial{
		At: e.Time, Reference: e.Reference, Instance: instance, EvidenceDigest: digest, Payload: payload,
	}}
	if e.EvidenceKept {
		req.evidence = keep(ev, e, true)
	}
	select {
	case <-l.stopping:
		return false, unavailable(errStopped)
	default:
	}
	select {
	case l.denials <- req:
	default:
		l.counters.denialsDropped.Add(1)
		return false, nil
	}
	select {
	case err = <-req.done:
	case <-ctx.Done():
		return false, unavailable(ctx.Err())
	case <-l.stopped:
		select {
		case err = <-req.done:
		default:
			err = errStopped
		}
	}
	if err != nil {
		return false, unavailable(err)
	}
	return true, nil
}

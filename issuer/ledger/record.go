package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// Origin is what the server knows of where an attestation came from. Both may
// be empty.
type Origin struct {
	Peer      string // network address; clipped, recorded, never trusted
	Reference string // of NewReference; drawn where it is empty
}

// Record spends the grant, draws the serials, and returns when the entry is
// durable. On an error nothing may be signed; the kinds are Internal (a grant
// that was spent, or is of another trust domain or kind), Malformed
// (duplicate_key: one of the keys is on record for another SVID) and Unavailable
// (the commit failed, the ledger is stopping, or ctx ended).
//
// When ctx ends after the writer has taken the entry, the entry may become
// durable all the same. It is then a recorded issuance without an SVID: the
// harmless direction.
func (l *Ledger) Record(ctx context.Context, g *policy.Grant, from Origin) (*Recorded, error) {
	if err := g.Spend(); err != nil {
		return nil, internal("ledger_grant", err)
	}
	r, err := l.prepare(g, from)
	if err != nil {
		return nil, err
	}
	payload, err := r.entry.encode()
	if err != nil {
		return nil, internal("ledger_entry", err)
	}
	req := &request{ctx: ctx, done: make(chan outcome, 1), entry: store.Entry{
		Outcome: Granted, Payload: payload, At: r.entry.Time, Reference: r.entry.Reference, Instance: string(r.entry.Instance),
		EvidenceDigest: g.EvidenceDigest(), Identities: lookups(r.entry.Identities),
	}}
	if r.entry.EvidenceKept {
		req.evidence = keep(g.Evidence(), r.entry, false)
	}
	done, err := l.submit(ctx, req)
	var refused *attest.Error
	switch {
	case errors.As(err, &refused):
		return nil, refused
	case err != nil:
		return nil, unavailable(err)
	}
	r.sequence, r.hash = done.sequence, done.hash
	return &Recorded{r}, nil
}

// prepare builds everything but the place in the chain.
func (l *Ledger) prepare(g *policy.Grant, from Origin) (*recorded, error) {
	claims, ch := g.Claims(), g.Challenge()
	switch {
	case ch.TrustDomain != l.trustDomain:
		return nil, internal("ledger_trust_domain", fmt.Errorf("the grant is of %q, this is the ledger of %q", ch.TrustDomain, l.trustDomain))
	case claims.Simulated != l.simulated:
		return nil, internal("ledger_kind", errors.New("the evidence is of the other kind (hardware, simulated) than the trust domain: it is one for life"))
	}
	def(&from.Reference, NewReference())
	if !isDrawn(from.Reference) {
		return nil, internal("ledger_entry", fmt.Errorf("%.40q is not a reference", from.Reference))
	}
	r := &recorded{trustDomain: l.trustDomain, chain: l.chain, publish: g.Publish()}
	r.entry = l.describe(claims, ch, g.Decision(), from)
	r.entry.Outcome, r.entry.VerifiedAt = Granted, g.VerifiedAt().UTC()
	digest := g.EvidenceDigest()
	r.entry.EvidenceDigest = digest[:]
	for _, is := range g.Issues() {
		if is.Key < 0 || is.Key >= len(ch.Keys) {
			return nil, internal("ledger_entry", fmt.Errorf("the grant names key %d of %d", is.Key, len(ch.Keys)))
		}
		serial := newSerial()
		spki := ch.Keys[is.Key].SPKI
		thumb := sha256.Sum256(spki)
		r.entry.Identities = append(r.entry.Identities, Identity{
			Key: is.Key, Serial: hex.EncodeToString(serial[:]), SPIFFEID: is.Identity.SPIFFEID,
			KeyThumbprint: thumb[:], NotAfter: is.NotAfter.UTC(),
		})
		r.issuances = append(r.issuances, Issuance{Key: is.Key, SPKI: spki, Serial: serial, Identity: is.Identity, NotAfter: is.NotAfter})
	}
	if len(r.issuances) == 0 {
		return nil, internal("ledger_entry", errors.New("the grant gives no key an identity"))
	}
	instance := string(r.entry.Instance)
	r.entry.EvidenceKept = l.perEvidence.take(instance, r.entry.Time, l.quotas.Load().EvidencePerInstance, 0) &&
		l.room(&l.evidence, g.Evidence())
	if !r.entry.EvidenceKept {
		l.counters.evidenceDropped.Add(1)
	}
	return r, nil
}

// describe fills in what issuances and denials share.
func (l *Ledger) describe(claims attest.Claims, ch attest.Challenge, d policy.Decision, from Origin) Entry {
	return Entry{
		Version: payloadVersion, TrustDomain: l.trustDomain, Chain: l.chain,
		Time: l.opt.Now().UTC().Round(0), Reference: from.Reference, Peer: clip(from.Peer, maxDetail),
		Platform: claims.Platform, Purpose: ch.Purpose, Instance: claims.Instance(), Simulated: claims.Simulated,
		Policy: Policy{Name: d.Bundle, Revision: d.Revision, Digest: d.Digest},
		Claims: claims, Decision: d,
		Identities: []Identity{},
	}
}

// newSerial draws 16 random bytes: positive, and of the same length in DER
// always (RFC 5280 section 4.1.2.2 allows 20).
func newSerial() (s [16]byte) {
	_, _ = rand.Read(s[:]) // crypto/rand.Read never fails (Go 1.24)
	s[0] = s[0]&0x7f | 0x40
	return s
}

// lookups are the rows by which an entry is found.
func lookups(ids []Identity) []store.Identity {
	out := make([]store.Identity, len(ids))
	for i, id := range ids {
		out[i] = store.Identity{Serial: id.Serial, SPIFFEID: id.SPIFFEID, KeyThumbprint: [32]byte(id.KeyThumbprint), NotAfter: id.NotAfter}
	}
	return out
}

// room takes what the evidence adds to what is stored out of a budget, if it is
// there. An event log is stored once, and counts when it is stored for the first
// time: a machine's is the same until its next boot.
func (l *Ledger) room(b *budget, ev attest.Evidence) bool {
	n := store.Evidence{Body: ev.Body, Endorsements: ev.Endorsements}.Size()
	if len(ev.EventLog) == 0 {
		return b.take(n)
	}
	log := sha256.Sum256(ev.EventLog)
	if l.eventLogs.has(log) {
		return b.take(n)
	}
	if !b.take(n + int64(len(ev.EventLog))) {
		return false
	}
	l.eventLogs.add(log)
	return true
}

func keep(ev attest.Evidence, e Entry, denied bool) *store.Evidence {
	return &store.Evidence{
		Digest: ev.Digest(), Platform: string(ev.Platform), Instance: string(e.Instance), Denied: denied,
		Body: ev.Body, Endorsements: ev.Endorsements, EventLog: ev.EventLog, At: e.VerifiedAt,
	}
}

// KeepCertificate hands over an SVID that was issued, to be stored with the
// next batch: best effort, it never blocks and never fails an issuance.
func (l *Ledger) KeepCertificate(serial [16]byte, der []byte) {
	select {
	case l.certificates <- store.Certificate{Serial: hex.EncodeToString(serial[:]), DER: der, At: l.opt.Now().UTC()}:
	default:
		l.counters.resultsDropped.Add(1)
	}
}

func internal(check string, err error) error {
	return &attest.Error{Kind: attest.Internal, Check: check, Err: err}
}

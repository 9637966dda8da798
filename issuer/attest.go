package issuer

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifiers"
)

// Attest is one attestation in one stream. See the package comment for its
// steps, and docs/spec/protocol.md for what a client sees.
func (s *Server) Attest(stream assayv1.Attestation_AttestServer) error {
	a := &attestation{Server: s, stream: stream, reference: ledger.NewReference(), span: s.tracing.attestation(s.td.Name())}
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	return a.end(a.run(stream.Context()))
}

// attestation is the state of one stream. It holds what the log and the
// metrics name; what is being decided flows through run.
type attestation struct {
	*Server
	stream    assayv1.Attestation_AttestServer
	reference string   // names this attestation in the log and the ledger
	address   net.Addr // where it comes from
	tee       attest.Platform
	purpose   attest.Purpose
	issued    []string // the SPIFFE IDs, at the end
	span      *span    // its trace, nil where it is not traced
}

func (a *attestation) run(ctx context.Context) error {
	// 1. Room for a stranger, until its evidence has verified.
	state, address, err := tlsState(ctx)
	if err != nil {
		return internal("transport", err)
	}
	a.address = address
	place, err := a.admit(ctx, address)
	if err != nil {
		return err
	}
	defer place.leave()

	// 2. What it asks for.
	hello, err := a.receiveHello()
	if err != nil {
		return err
	}
	a.tee, a.purpose = hello.platform, hello.purpose

	// 3. Our demand: a nonce that lives in this stream only.
	challenge, deadline, err := a.challenge(hello, state)
	if err != nil {
		return err
	}

	// 4. Its answer, in time.
	evidence, proof, err := a.receiveEvidence(hello, place, deadline)
	if err != nil {
		return err
	}
	if !place.keep() {
		return errDisplaced()
	}

	// 5. A turn, if there will be time for it. A renewal proves the key of the SVID
	// that it renews.
	turn, err := a.takeTurn(ctx)
	if err != nil {
		return err
	}
	served := false
	defer func() { turn.over(served) }()
	var renews *livePeerFacts // nil at boot
	if hello.purpose == attest.Renew {
		if renews, err = a.checkRenewal(ctx, proof, challenge); err != nil {
			return err
		}
	}

	// 6. Authentic, and bound to this connection, nonce, keys and purpose. A TPM
	// that is not known yet is asked a second question meanwhile.
	exchange, waited := a.exchange(place, turn, deadline)
	start := time.Now()
	verified, err := a.set.Verify(ctx, evidence, challenge, exchange, a.now())
	a.took("verify", time.Since(start)-waited())
	if err != nil {
		return err
	}
	place.leave() // no stranger any more
	a.vouched(address, verified.Claims().Instance())

	// 7. Who does not come too often, banned or not: who could ask without a limit
	// could tell. Who is not banned; what policy grants.
	if err := a.attested(verified); err != nil {
		return err
	}
	asked, ban, err := a.notBanned(verified.Claims())
	switch {
	case err != nil:
		return err
	case ban != nil:
		return a.banned(ctx, verified, ban)
	}
	done := a.step("authorize")
	decides := a.policy.Current()
	grant, err := decides.Authorize(verified, a.now())
	done()
	turn.verified()
	if err != nil {
		return a.denied(ctx, verified, err)
	}
	if ban := asked.hit(a.now(), verified.Claims(), grantedIDs(grant)...); ban != nil {
		return a.banned(ctx, verified, ban)
	}

	// 8. On record, durably, before any signature.
	undo, err := a.makeRoom(verified, grant)
	if err != nil {
		return err
	}
	done = a.step("record")
	recorded, err := a.ledger.Record(ctx, grant, ledger.Origin{Peer: address.String(), Reference: a.reference})
	done()
	if err != nil {
		undo()
		return err
	}
	if a.policy.Current() != decides {
		a.overtaken(grant)
	}
	if a.bans.current.Load().version != asked.version { // a ban came in between
		if _, ban, err := a.notBanned(verified.Claims(), grantedIDs(grant)...); err != nil {
			return err
		} else if ban != nil {
			return a.banned(ctx, verified, ban) // on record, and never signed
		}
	}
	if renews != nil { // it may have been revoked, or its authority tainted
		if err := a.stillStands(renews); err != nil {
			return err
		}
	}

	// 9. Certificates.
	done = a.step("issue")
	issued, err := a.ca.Issue(ctx, recorded)
	done()
	if err != nil {
		return err
	}

	// 10. The answer.
	served = true
	return a.answer(grant, issued)
}

// admit is step 1.
func (a *attestation) admit(ctx context.Context, address net.Addr) (*place, error) {
	p, displaced, limit := a.unverified.enter(addressOf(address), cancelOf(ctx))
	if limit != "" {
		a.metrics.limited.WithLabelValues("attestation", limit).Inc()
		return nil, overloaded("admission", "too many attestations without verified evidence are in flight")
	}
	if displaced != "" {
		a.metrics.limited.WithLabelValues("displaced", displaced).Inc()
	}
	return p, nil
}

func errDisplaced() error {
	return overloaded("admission", "others have come while the client was waited for")
}

// denied puts a policy denial on record. What the agent is told does not
// depend on whether there was room for it.
func (a *attestation) denied(ctx context.Context, v *verifiers.Verified, err error) error {
	var d *policy.Denied
	if !errors.As(err, &d) {
		return internal("authorize", err) // a Verified that was spent: our mistake
	}
	a.recordDenial(ctx, v, d.Decision)
	return err
}

// recordDenial puts a decision that denies on record, where there is room.
func (a *attestation) recordDenial(ctx context.Context, v *verifiers.Verified, d policy.Decision) {
	// Who hangs up at once is on record all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	kept, lerr := a.ledger.Deny(ctx, ledger.Denial{
		Verified: v, Decision: d,
		Origin: ledger.Origin{Peer: a.address.String(), Reference: a.reference},
	})
	switch {
	case lerr != nil:
		a.log.ErrorContext(ctx, "a denial could not be recorded", "reference", a.reference, "error", lerr)
	case !kept:
		a.log.DebugContext(ctx, "a denial was not recorded: the instance's quota is used up", "reference", a.reference)
	}
}

// end counts and logs what became of the attestation, and turns an error into
// the status that the client gets.
func (a *attestation) end(err error) error {
	ctx := a.stream.Context()
	tee, purpose := label(string(a.tee)), label(string(a.purpose))
	peer := ""
	if a.address != nil {
		peer = a.address.String()
	}
	if err == nil {
		a.issuedTotal.Add(1)
		a.metrics.attestations.WithLabelValues(tee, purpose, "issued").Inc()
		a.span.end(tee, purpose, "issued", "")
		a.metrics.svids.Add(float64(len(a.issued)))
		a.log.InfoContext(ctx, "issued", "reference", a.reference, "tee", tee, "purpose", purpose, "spiffe_ids", strings.Join(a.issued, " "), "peer", peer)
		return nil
	}
	if gone(ctx, err) {
		a.metrics.attestations.WithLabelValues(tee, purpose, "aborted").Inc()
		a.span.end(tee, purpose, "aborted", "")
		return status.Error(codes.Canceled, "the client left")
	}
	kind, check := attest.KindOf(err), attest.CheckOf(err)
	a.metrics.attestations.WithLabelValues(tee, purpose, kind.String()).Inc()
	a.metrics.refusals.WithLabelValues(kind.String(), check).Inc()
	a.span.end(tee, purpose, kind.String(), check)
	switch kind {
	case attest.Denied:
		a.deniedTotal.Add(1)
	case attest.Malformed, attest.Untrusted, attest.Stale:
		// Counted and sampled in memory: strangers cannot fill the ledger.
		a.ledger.Reject(ledger.Rejection{
			Kind: kind, Check: check, Detail: clip(forOperators(err), 256), Peer: peer,
			Reference: a.reference, Platform: a.tee, At: a.now(),
		})
	case attest.Unavailable, attest.Internal:
	}
	a.logRefusal(ctx, kind, check, tee, peer, err)
	return refusal(err, a.reference)
}

// logRefusal logs a sample of what strangers cause, and every fault of ours.
func (a *attestation) logRefusal(ctx context.Context, kind attest.Kind, check, tee, peer string, err error) {
	attrs := []any{"reference", a.reference, "kind", kind.String(), "check", check, "tee", tee, "peer", peer, "error", clip(forOperators(err), 512)}
	if kind == attest.Internal {
		a.log.ErrorContext(ctx, "attestation failed", attrs...)
		return
	}
	if !a.logLimit.Allow() {
		a.metrics.unlogged.Inc()
		return
	}
	a.log.InfoContext(ctx, "refused", attrs...)
	var p *verifiers.PanicError
	if errors.As(err, &p) {
		a.log.WarnContext(ctx, "evidence made a library panic", "reference", a.reference, "stack", string(p.Stack))
	}
}

// label keeps a metric's label from being empty: the stream ended before it
// was known.
func label(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// internal is a fault of ours in the named step.
func internal(step string, err error) error {
	return &attest.Error{Kind: attest.Internal, Check: step, Err: err}
}
